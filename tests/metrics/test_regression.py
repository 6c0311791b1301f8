"""Measures of predicted numbers, worked out by hand, and against what they are the closed form of."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from reverie.metrics import covered, expected_squared_error, negative_log_likelihood, regression_summary

DRAWS = torch.Generator().manual_seed(0)
Y = torch.tensor([[1.0, -2.0], [0.0, 0.5], [3.0, 3.0]])
MEAN = torch.tensor([[1.5, -2.0], [2.0, 0.5], [3.0, -1.0]])
STD = torch.tensor([[0.5, 1.0], [0.1, 0.0], [2.0, 0.3]])


def test_squared_errors_by_hand() -> None:
    assert expected_squared_error(Y, MEAN, None).tolist() == pytest.approx([0.25 / 2, 4 / 2, 16 / 2])
    assert expected_squared_error(Y, MEAN, STD).tolist() == pytest.approx(
        [(0.25 + 0.25 + 1) / 2, (4 + 0.01) / 2, (4 + 16 + 0.09) / 2]
    )


def test_the_expected_squared_error_is_the_mean_over_sampled_functions() -> None:
    """With the deviation of the samples themselves, exactly."""
    functions = 3 * torch.randn(7, 5, 2, generator=DRAWS, dtype=torch.float64)
    y = torch.randn(5, 2, generator=DRAWS, dtype=torch.float64)
    each = (functions - y).square().mean(dim=(0, 2))
    found = expected_squared_error(y, functions.mean(dim=0), functions.std(dim=0, correction=0))
    torch.testing.assert_close(found, each)


@pytest.mark.parametrize("std", [None, STD])
@pytest.mark.parametrize("noise_std", [0.05, 3.0])
def test_the_likelihood_is_that_of_the_prediction_with_the_noise(std: Tensor | None, noise_std: float) -> None:
    deviation = ((0 if std is None else std.square()) + torch.full_like(MEAN, noise_std**2)).sqrt()
    torch.testing.assert_close(
        negative_log_likelihood(Y, MEAN, std, noise_std), -Normal(MEAN, deviation).log_prob(Y).sum(dim=1)
    )


def test_the_likelihood_by_hand() -> None:
    """A deviation of 3 and a noise of 4 are 5 together."""
    y, mean, std = torch.tensor([[2.0]]), torch.tensor([[12.0]]), torch.tensor([[3.0]])
    assert float(negative_log_likelihood(y, mean, std, 4.0)) == pytest.approx(2 + 0.5 * math.log(2 * math.pi * 25))


def test_intervals_by_hand() -> None:
    """0.98 is just over 1.9599 halves, 0.97 just under; of two outputs one may lie inside."""
    y = torch.tensor([[0.97, -0.97], [0.98, -0.97], [0.98, -0.98]])
    assert covered(y, torch.zeros(3, 2), None, 0.5).tolist() == [1.0, 0.5, 0.0]
    assert covered(y, torch.zeros(3, 2), torch.full((3, 2), 0.3), 0.4).tolist() == [1.0, 0.5, 0.0]
    assert covered(y, torch.zeros(3, 2), torch.full((3, 2), 0.3), 0.5).tolist() == [1.0, 1.0, 1.0]


def test_intervals_cover_95_percent_of_what_the_model_draws() -> None:
    mean, std = torch.randn(20000, 2, generator=DRAWS), torch.rand(20000, 2, generator=DRAWS)
    y = mean + std * torch.randn(20000, 2, generator=DRAWS) + 0.7 * torch.randn(20000, 2, generator=DRAWS)
    assert float(covered(y, mean, std, 0.7).mean()) == pytest.approx(0.95, abs=0.005)
    assert float(covered(y, mean, None, 0.7).mean()) < 0.9  # without its own doubt it covers less


N = None
AGNOSTIC = [[1.0, N, N], [4.0, 2.0, N], [6.0, 5.0, 3.0]]
GIVEN = [[0.5, N, N], [1.5, 2.5, N], [1.0, 3.0, 2.0]]
SCORES = {"nll": [[9.0, N, N], [9.0, 9.0, N], [1.0, 2.0, 6.0]], "coverage": [[N] * 3, [N] * 3, [0.9, 1.0, 0.5]]}
INFERRED = {"inferred_by_agreement": [[1.0, N, N], [1.0, 1.0, N], [7.0, 1.0, 1.0]]}


def test_the_summary_of_one_model_for_all_tasks() -> None:
    assert regression_summary({"task_agnostic": AGNOSTIC, **SCORES}) == pytest.approx(
        {
            "mse_during": (1 + 2 + 3) / 3,
            "mse_final": 14 / 3,
            "mse_inferred": None,
            "nll_final": 3.0,
            "coverage_final": 0.8,
        }
    )


def test_the_summary_of_a_model_a_task_is_that_with_the_task_given() -> None:
    found = regression_summary({"task_agnostic": AGNOSTIC, "task_given": GIVEN, **INFERRED, **SCORES})
    assert found["mse_inferred"] == {"agreement": 3.0}
    assert found["mse_during"] == pytest.approx((0.5 + 2.5 + 2) / 3)
    assert found["mse_final"] == 2.0


@pytest.mark.parametrize("given", [[], [[N, N, N]] * 3])
def test_a_matrix_without_values_is_none(given: list[list[float | None]]) -> None:
    found = regression_summary({"task_agnostic": AGNOSTIC, "task_given": given, **SCORES})
    assert found["mse_final"] == pytest.approx(14 / 3)


def test_the_summary_of_a_run_that_has_not_finished_a_task() -> None:
    assert set(regression_summary({"task_agnostic": []}).values()) == {None}


def test_the_summary_of_joint_training_has_no_row_a_task() -> None:
    found = regression_summary({"task_agnostic": [[1.0, 2.0, 3.0]]})
    assert (found["mse_during"], found["mse_final"]) == (None, 2.0)
