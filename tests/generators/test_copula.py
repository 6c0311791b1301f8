"""The Gaussian copula: marginals, correlation, masses at zero, and where it has a density."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from reverie.checks import OptionsError
from reverie.generators import GaussianCopula


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def skewed(n: int = 600) -> Tensor:
    """Two tied axes: an exponential's and a uniform's distribution."""
    x = torch.randn(n, 2, generator=seeded())
    u = torch.special.ndtr(torch.stack([x[:, 0], 0.8 * x[:, 0] + 0.6 * x[:, 1]], dim=1))
    return torch.stack([-torch.log1p(-u[:, 0]), u[:, 1]], dim=1)


def ranks(z: Tensor) -> Tensor:
    return z.argsort(dim=0).argsort(dim=0).double()


def test_quantiles_are_numpy_s() -> None:
    z = skewed(50)
    for grid in (2, 5, 65):
        fitted = GaussianCopula(grid=grid).fit(z, seeded())
        expected = np.quantile(z.numpy(), np.linspace(0, 1, grid), axis=0).T
        np.testing.assert_allclose(fitted.quantiles, expected, rtol=1e-5, atol=1e-6)


def test_samples_have_the_marginals_and_the_rank_correlation() -> None:
    z = skewed()
    drawn = GaussianCopula(shrinkage=0.0).fit(z, seeded()).sample(20_000, seeded(1))
    levels = torch.linspace(0.05, 0.95, 19)
    torch.testing.assert_close(drawn.quantile(levels, dim=0), z.quantile(levels, dim=0), atol=0.06, rtol=0)
    spearman = torch.corrcoef(ranks(drawn).T)[0, 1], torch.corrcoef(ranks(z).T)[0, 1]
    assert float(spearman[0]) == pytest.approx(float(spearman[1]), abs=0.02)


def test_samples_stay_in_the_range_of_the_rows() -> None:
    z = skewed()
    drawn = GaussianCopula().fit(z, seeded()).sample(5000, seeded())
    assert bool((drawn >= z.min(0).values).all())
    assert bool((drawn <= z.max(0).values).all())


def test_a_mass_at_zero_is_kept() -> None:
    mix = torch.tensor([[1.0, 0.9, 0.0], [0.0, 0.4, 0.0], [0.0, 0.0, 1.0]])
    z = (torch.randn(900, 3, generator=seeded()) @ mix + torch.tensor([0.5, -0.5, 3.0])).relu()
    fitted = GaussianCopula().fit(z, seeded())
    drawn = fitted.sample(20_000, seeded())
    # To within a step of the grid.
    torch.testing.assert_close((drawn == 0).float().mean(0), (z == 0).float().mean(0), atol=1.5 / 64, rtol=0)
    both = ((drawn[:, :2] == 0).all(1).float().mean(), (z[:, :2] == 0).all(1).float().mean())
    assert float(both[0]) == pytest.approx(float(both[1]), abs=0.08)
    with pytest.raises(NotImplementedError, match="no density; it can be sampled only"):
        fitted.log_prob(z)


def test_uniform_marginals_have_the_copula_s_own_density() -> None:
    """With two quantiles an axis is uniform, so the density is that of the Gaussian copula over the area."""
    z = skewed(200)
    fitted = GaussianCopula(grid=2).fit(z, seeded())
    low, high = z.min(0).values, z.max(0).values
    rho = float(fitted.correlation[1])
    inside = low + (high - low) * torch.rand(50, 2, generator=seeded())
    x = torch.special.ndtri(((inside - low) / (high - low)).double())
    square = (rho**2 * x.square().sum(1) - 2 * rho * x.prod(1)) / (2 * (1 - rho**2))
    expected = -square - 0.5 * math.log(1 - rho**2) - (high - low).double().log().sum()
    torch.testing.assert_close(fitted.log_prob(inside).double(), expected, rtol=1e-3, atol=1e-3)


def test_nothing_is_outside_the_range() -> None:
    z = skewed()
    fitted = GaussianCopula(grid=9).fit(z, seeded())
    outside = torch.stack([z.max(0).values + 0.1, z.min(0).values - 0.1])
    assert fitted.log_prob(outside).tolist() == [-math.inf, -math.inf]
    assert bool(torch.isfinite(fitted.log_prob(z)).all())


def test_shrinkage_loosens_the_ties() -> None:
    z = skewed()
    tied, loose, free = (GaussianCopula(shrinkage=a).fit(z, seeded()).correlation for a in (0.0, 0.25, 1.0))
    torch.testing.assert_close(loose[1], 0.75 * tied[1])
    assert free.tolist() == [1.0, 0.0, 1.0]
    assert float(tied[1]) == pytest.approx(0.8, abs=0.05)


def test_fewer_rows_than_dimensions() -> None:
    z = torch.randn(4, 12, generator=seeded())
    drawn = GaussianCopula(shrinkage=0.0).fit(z, seeded()).sample(100, seeded())
    assert bool(torch.isfinite(drawn).all())


def test_numbers_kept() -> None:
    fitted = GaussianCopula(grid=5).fit(skewed(), seeded())
    assert sum(tensor.numel() for tensor in fitted.tensors().values()) == 5 * 2 + 3
    assert fitted.merge(fitted) is None


def test_options_that_cannot_be_used() -> None:
    with pytest.raises(OptionsError, match="grid = 1"):
        GaussianCopula(grid=1)
