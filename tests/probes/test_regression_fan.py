"""The fan of a curve: where it is drawn, what a learner says there, and the truth inside each task's own range alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from reverie.learners import Joint, Naive, PosteriorReplay
from reverie.posteriors import Dirac
from reverie.probes.regression_fan import POINTS, RegressionFan, shows_fan
from reverie.seeding import Randomness
from reverie.streams import ArrayStream, Regression1D
from reverie.types import Prediction
from tests.tiny import differing, snapshot, tiny_curves, tiny_stream, train

GRID = (-4 - 0.05 * 8, 4 + 0.05 * 8)
STREAM = Regression1D(rows=5, test_rows=11).build("domain", 0)


class Says:
    """x, of deviation 0.5; with ``tasks``, of each of so many models x times its number, of deviations 1, 2 ..."""

    def __init__(self, tasks: int = 0, deviations: bool = True) -> None:
        self.tasks, self.deviations = tasks, deviations

    def predict(self, x: Tensor, task: int | None = None) -> Prediction:
        assert task is None
        std = torch.full_like(x, 0.5) if self.deviations else None
        if not self.tasks:
            return Prediction(x, std)
        number = torch.arange(1.0, self.tasks + 1)[None, :, None]
        by_task = x[:, None] * number
        return Prediction(x, std, by_task, number.expand_as(by_task) if self.deviations else None)


def look(learner: Any, task: int = 0, stream: ArrayStream = STREAM) -> dict[str, Tensor]:
    finding = RegressionFan()(learner, stream, stream[task], Randomness(0))
    assert finding.numbers == {}
    return dict(finding.arrays)


def test_the_grid_spans_all_tasks_and_a_little_more() -> None:
    grid = look(Says())["grid"]
    assert (len(grid), float(grid[0]), float(grid[-1])) == (POINTS, *map(pytest.approx, GRID))
    torch.testing.assert_close(
        grid.diff(), torch.full((POINTS - 1,), (GRID[1] - GRID[0]) / (POINTS - 1)), rtol=1e-3, atol=0
    )


def test_the_truth_is_each_task_s_curve_inside_its_range_alone() -> None:
    arrays = look(Says())
    grid, truth = arrays["grid"], arrays["truth"]
    assert truth.shape == (3, POINTS)
    curves = ((-4, -2, lambda x: (x + 3) ** 3), (-1, 1, lambda x: 2 * x**2 - 1), (2, 4, lambda x: -((x - 3) ** 3)))
    for row, (low, high, curve) in zip(truth, curves, strict=True):
        inside = (grid >= low) & (grid <= high)
        assert torch.equal(torch.isfinite(row), inside)
        torch.testing.assert_close(row[inside], curve(grid[inside]), rtol=0, atol=0.03)  # straight between test rows


@pytest.mark.parametrize("task", [0, 2])
def test_training_rows_are_those_so_far(task: int) -> None:
    arrays = look(Says(), task)
    batches = [STREAM[t].train.take(torch.arange(5)) for t in range(task + 1)]
    assert torch.equal(arrays["train_x"], torch.cat([batch.x[:, 0] for batch in batches]))
    assert torch.equal(arrays["train_y"], torch.cat([batch.y[:, 0] for batch in batches if batch.y is not None]))
    assert arrays["train_task"].tolist() == [t for t in range(task + 1) for _ in range(5)]


@pytest.mark.parametrize("deviations", [True, False])
def test_one_model_for_all_tasks_is_one_row(deviations: bool) -> None:
    arrays = look(Says(deviations=deviations))
    assert torch.equal(arrays["mean"], arrays["grid"][None])
    assert torch.equal(arrays["deviation"], torch.full((1, POINTS), 0.5 if deviations else 0.0))


@pytest.mark.parametrize("deviations", [True, False])
def test_a_model_a_task_is_a_row_each(deviations: bool) -> None:
    arrays = look(Says(2, deviations), task=1)
    assert torch.equal(arrays["mean"], arrays["grid"] * torch.tensor([[1.0], [2.0]]))
    expected = torch.tensor([[1.0], [2.0]]) if deviations else torch.zeros(2, 1)
    assert torch.equal(arrays["deviation"], expected.expand(2, POINTS))


def test_test_rows_in_any_order_are_one_curve() -> None:
    test = STREAM.tests[1]
    batch = test.rows.take(torch.randperm(11, generator=torch.Generator().manual_seed(0)))
    assert batch.y is not None
    stream = ArrayStream.from_arrays([(batch.x, batch.y, batch.x, batch.y)], "domain", noise_std=0.1)
    truth = look(Says(), stream=stream)["truth"]
    sorted_once = ArrayStream.from_arrays(
        [(batch.x, batch.y, batch.x.sort(dim=0).values, batch.y[batch.x[:, 0].argsort()])], "domain", noise_std=0.1
    )
    torch.testing.assert_close(truth, look(Says(), stream=sorted_once)["truth"], equal_nan=True)
    assert int(torch.isfinite(truth).sum()) > 100


@pytest.mark.parametrize(
    ("part", "models"),
    [
        (Naive(), (1, 1, 1)),
        (Joint(), (1,)),
        (PosteriorReplay(), (1, 2, 3)),
        (PosteriorReplay(posterior=Dirac()), (1, 2, 3)),
    ],
    ids=["naive", "joint", "posterior-replay", "point"],
)
def test_on_a_real_learner(part: Any, models: tuple[int, ...]) -> None:
    run = train(part, tiny_curves())
    learner, stream = run.learner, run.loop.stream
    assert [finding["probe"] for finding in run.result["findings"]].count("regression-fan") == len(models)
    before = snapshot(learner)
    arrays = look(learner, len(models) - 1, stream)
    assert differing(before, learner.state()) == []
    assert arrays["mean"].shape == arrays["deviation"].shape == (models[-1], POINTS)
    answer = learner.predict(arrays["grid"][:, None])
    expected = answer.scores.T if answer.by_task is None else answer.by_task[..., 0].T
    assert torch.equal(arrays["mean"], expected)
    assert bool((arrays["deviation"] > 0).all()) == (answer.std is not None)
    assert len(arrays["train_x"]) == 36
    assert all(array.is_contiguous() or array.T.is_contiguous() for array in arrays.values())


def test_only_one_number_to_one_number_is_a_curve() -> None:
    spec = tiny_curves().spec
    assert shows_fan(spec)
    assert not shows_fan(tiny_curves(targets=2).spec)
    assert not shows_fan(replace(spec, input_shape=(2,)))
    assert not shows_fan(replace(spec, input_shape=(1, 1)))
    assert not shows_fan(replace(tiny_stream("domain", classes_per_task=1).spec, input_shape=(1,)))
