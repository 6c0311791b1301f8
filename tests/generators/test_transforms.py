"""Transforms: inverse, Jacobian, support and hurdle."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from reverie.checks import DataError
from reverie.generators import Gaussian
from reverie.generators.transforms import FittedTransforms, fit_transforms, restore_transforms

CHAINS = [
    (),
    ("standardise",),
    ("whiten",),
    ("tukey",),
    ("log1p",),
    ("tukey", "standardise"),
    ("log1p", "whiten"),
    ("tukey", "log1p", "standardise", "whiten"),
]
every_chain = pytest.mark.parametrize("steps", CHAINS, ids=lambda steps: " ".join(steps) or "none")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def positive(n: int = 60, d: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    z = torch.randn(n, d, generator=seeded(), dtype=dtype)
    return (z + 0.5 * z[:, :1]).exp() + 0.1


def after_relu(n: int = 800, d: int = 4) -> Tensor:
    mix = torch.randn(d, d, generator=seeded(3))
    return (torch.randn(n, d, generator=seeded()) @ mix + torch.tensor([1.0, 0.0, -0.5, 2.0])).relu()


@every_chain
def test_inverse_undoes_forward(steps: tuple[str, ...]) -> None:
    z = positive()
    fitted = fit_transforms(steps, "real", z)
    torch.testing.assert_close(fitted.inverse(fitted.forward(z)), z)
    other = positive()[:5] * 1.7
    torch.testing.assert_close(fitted.inverse(fitted.forward(other)), other)


@every_chain
def test_log_prob_has_the_jacobian(steps: tuple[str, ...]) -> None:
    z = positive()
    fitted = fit_transforms(steps, "real", z)
    density = Gaussian().fit(fitted.forward(z), seeded())
    for row in z[:4]:
        jacobian = torch.autograd.functional.jacobian(lambda x: fitted.forward(x[None])[0], row)
        expected = density.log_prob(fitted.forward(row[None]))[0] + torch.linalg.slogdet(jacobian).logabsdet
        torch.testing.assert_close(fitted.log_prob(density, row[None])[0], expected)


def test_standardised_and_whitened_rows() -> None:
    z = positive()
    standard = fit_transforms(("standardise",), "real", z).forward(z)
    torch.testing.assert_close(standard.mean(0), torch.zeros(3).double())
    torch.testing.assert_close(standard.var(0, correction=0), torch.ones(3).double())
    white = fit_transforms(("whiten",), "real", z).forward(z)
    torch.testing.assert_close(torch.cov(white.T, correction=0), torch.eye(3).double())


@every_chain
def test_restored_from_its_tensors(steps: tuple[str, ...]) -> None:
    z = after_relu()
    fitted = fit_transforms(steps, "hurdle", z)
    density = Gaussian().fit(fitted.forward(z), seeded())
    fitted = fitted.with_thresholds(density, seeded())
    assert all(tensor.is_contiguous() for tensor in fitted.tensors().values())  # as they are once saved and loaded
    again = restore_transforms(steps, fitted.support, fitted.tensors())
    u = density.sample(20, seeded())
    assert torch.equal(again.inverse(u), fitted.inverse(u))


# ---------------------------------------------------------------------------------- support


def test_support_follows_the_rows() -> None:
    assert fit_transforms((), "auto", torch.tensor([[0.0], [1.0]])).support == "nonnegative"
    assert fit_transforms((), "auto", torch.tensor([[-0.1], [1.0]])).support == "real"
    u = torch.tensor([[-1.0, 2.0]])
    assert fit_transforms((), "nonnegative", u.abs()).inverse(u).tolist() == [[0.0, 2.0]]
    assert fit_transforms((), "real", u).inverse(u).tolist() == [[-1.0, 2.0]]
    # A root has no inverse below 0, whatever the support.
    assert fit_transforms(("tukey",), "real", u.abs()).inverse(u).tolist() == [[0.0, 4.0]]


@pytest.mark.parametrize("support", ["nonnegative", "hurdle"])
def test_negative_rows_are_refused_where_the_support_has_none(support: str) -> None:
    with pytest.raises(DataError, match=f"support = '{support}': the latents go down to -1; use support = 'real'"):
        fit_transforms((), support, torch.tensor([[-1.0]]))


@pytest.mark.parametrize("steps", [("tukey",), ("log1p",), ("standardise", "tukey")])
def test_roots_and_logarithms_need_rows_above_zero(steps: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match=f"transforms: '{steps[-1]}' needs latents >= 0"):
        fit_transforms(steps, "real", torch.tensor([[-1.0], [3.0]]))


@every_chain
def test_a_hurdle_keeps_the_share_of_zeros(steps: tuple[str, ...]) -> None:
    z = torch.cat([after_relu(), torch.zeros(800, 1), positive(800, 1, torch.float32)], dim=1)
    fitted = fit_transforms(steps, "hurdle", z)
    density = Gaussian().fit(fitted.forward(z), seeded())
    drawn = fitted.with_thresholds(density, seeded(1)).inverse(density.sample(4000, seeded(2)))
    share, expected = (drawn == 0).float().mean(0), (z == 0).float().mean(0)
    torch.testing.assert_close(share, expected, atol=0.05, rtol=0)
    assert share[4] == 1
    assert share[5] == 0
    assert bool((drawn >= 0).all())


def test_a_hurdle_without_zeros_makes_none() -> None:
    z = positive()
    fitted = fit_transforms((), "hurdle", z)
    density = Gaussian().fit(z, seeded())
    drawn = fitted.with_thresholds(density, seeded()).inverse(density.sample(2000, seeded()))
    assert bool((drawn > 0).all())


# ---------------------------------------------------------------------------------- merging, odd rows


def test_merge_weighs_the_zeros_by_rows() -> None:
    z, other = after_relu(100), after_relu(300).flip(1)
    merged = fit_transforms((), "hurdle", z).merge(fit_transforms((), "hurdle", other), 100, 300)
    whole = fit_transforms((), "hurdle", torch.cat([z, other]))
    torch.testing.assert_close(merged.numbers["zeros"], whole.numbers["zeros"])


def test_merged_support_is_real_where_one_is() -> None:
    above, below = (fit_transforms((), "auto", torch.tensor([[x]])) for x in (1.0, -1.0))
    assert above.merge(above, 1, 1).support == "nonnegative"
    assert above.merge(below, 1, 1).support == below.merge(above, 1, 1).support == "real"


@every_chain
@pytest.mark.parametrize("case", ["one row", "all zero", "constant feature", "fewer rows than dimensions"])
def test_degenerate_rows_stay_finite(steps: tuple[str, ...], case: str) -> None:
    constant = torch.cat([after_relu(30), torch.full((30, 1), 2.0)], dim=1)
    z = {
        "one row": after_relu(1),
        "all zero": torch.zeros(10, 4),
        "constant feature": constant,
        "fewer rows than dimensions": after_relu(3).repeat(1, 3),
    }[case]
    fitted = fit_transforms(steps, "auto", z)
    u = fitted.forward(z)
    assert bool(torch.isfinite(u).all())
    torch.testing.assert_close(fitted.inverse(u), z, atol=1e-3, rtol=1e-3)


def test_order_of_rows_survives_below_zero() -> None:
    """The hurdle's thresholds need a monotone way back, also where a root has none."""
    for step in ("tukey", "log1p"):
        fitted = FittedTransforms((step,), "hurdle", {})
        back = fitted._back(torch.linspace(-2, 2, 9)[:, None], None).flatten().tolist()
        assert all(low < high for low, high in pairwise(back))


def test_what_a_root_cannot_give_is_cut_before_the_way_back() -> None:
    """Also where the root was not the first step: its rows began at the mean."""
    z = torch.tensor([[1.0], [3.0]])
    fitted = FittedTransforms(("standardise", "tukey"), "real", {"0.mean": z.mean(0), "0.scale": torch.ones(1)})
    assert fitted.inverse(torch.tensor([[-1.0], [0.5]])).flatten().tolist() == [2.0, 2.25]
    assert fitted.log_prob(Gaussian().fit(z, seeded()), torch.tensor([[1.9], [2.1]])).isinf().tolist() == [True, False]


# ---------------------------------------------------------------------------------- lengths


@pytest.mark.parametrize("steps", [("normalise",), ("tukey", "normalise", "standardise")])
def test_lengths_are_taken_away_and_come_back_as_a_lognormal(steps: tuple[Any, ...]) -> None:
    z = positive(400)
    fitted = fit_transforms(steps, "real", z)
    inner = z.sqrt() if "tukey" in steps else z
    units = inner / inner.norm(dim=1, keepdim=True)
    if len(steps) == 1:
        torch.testing.assert_close(fitted.forward(z), units)
    density = Gaussian().fit(fitted.forward(z), seeded())
    drawn = fitted.inverse(density.sample(20_000, seeded(1)), seeded(2))
    drawn = drawn.clamp(min=0).sqrt() if "tukey" in steps else drawn
    if len(steps) == 1:
        logs, expected = drawn.norm(dim=1).log(), inner.norm(dim=1).log()
        torch.testing.assert_close(logs.mean(), expected.mean(), atol=0.03, rtol=0)
        torch.testing.assert_close(logs.std(), expected.std(), atol=0.03, rtol=0)
    torch.testing.assert_close((drawn / drawn.norm(dim=1, keepdim=True)).mean(0), units.mean(0), atol=0.03, rtol=0)
    again = fitted.inverse(density.sample(20_000, seeded(1)), seeded(2))
    assert torch.equal(again, fitted.inverse(density.sample(20_000, seeded(1)), seeded(2)))
    with pytest.raises(NotImplementedError, match="lie on a sphere"):
        fitted.log_prob(density, z)


def test_rows_without_a_length_stay_where_they_are() -> None:
    z = torch.cat([torch.zeros(3, 4), torch.ones(5, 4)])
    fitted = fit_transforms(("normalise",), "real", z)
    assert torch.equal(fitted.forward(z)[:3], z[:3])
    assert [fitted.numbers[f"0.{name}"].item() for name in ("mean", "scale")] == pytest.approx([math.log(2), 0])
    nothing = fit_transforms(("normalise",), "real", z[:3])
    assert float(nothing.inverse(torch.ones(2, 4), seeded()).norm()) < 1e-9
