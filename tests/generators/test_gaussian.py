"""Gaussians: moments, shrinkage against scikit-learn and the papers, low rank, merging, pooling, packing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf_shrinkage, oas
from torch import Tensor
from torch.distributions import MultivariateNormal

from reverie.checks import NotReadyError, OptionsError
from reverie.generators import Gaussian
from reverie.generators.gaussian import (
    LowRank,
    cholesky,
    packed,
    radial_moments,
    shrinkage_weight,
    shrunk,
    unpacked,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(n: int = 50, d: int = 6, seed: int = 0) -> Tensor:
    mix = torch.randn(d, d, generator=seeded(7), dtype=torch.float64)
    return torch.randn(n, d, generator=seeded(seed), dtype=torch.float64) @ mix + torch.arange(d)


def scatter(z: Tensor) -> Tensor:
    return torch.from_numpy(np.cov(z.numpy().T, bias=True)).reshape(z.shape[1], -1)


# ---------------------------------------------------------------------------------- moments


@pytest.mark.parametrize("covariance", ["isotropic", "diagonal", "full", "shared"])
def test_moments_are_those_of_the_rows(covariance: str) -> None:
    z = rows()
    fitted = Gaussian(covariance=covariance, shrinkage="none").fit(z, seeded())
    expected = scatter(z)
    if covariance == "diagonal":
        expected = torch.diag(expected.diagonal())
    elif covariance == "isotropic":
        expected = torch.eye(6).double() * expected.diagonal().mean()
    torch.testing.assert_close(fitted.mean, z.mean(0))
    torch.testing.assert_close(fitted.covariance(), expected)


@pytest.mark.parametrize("covariance", ["isotropic", "diagonal", "full", "low-rank", "shared"])
def test_log_prob_is_that_of_torch_distributions(covariance: str) -> None:
    z = rows()
    fitted = Gaussian(covariance=covariance, rank=2 if covariance == "low-rank" else 32).fit(z, seeded())
    expected = MultivariateNormal(fitted.mean, fitted.covariance()).log_prob(z)
    # A full covariance gets 1e-6 of its mean variance on the diagonal.
    torch.testing.assert_close(fitted.log_prob(z), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("covariance", ["isotropic", "diagonal", "full", "low-rank", "shared"])
def test_samples_have_the_covariance(covariance: str) -> None:
    fitted = Gaussian(covariance=covariance, rank=2 if covariance == "low-rank" else 32).fit(rows(), seeded())
    drawn = fitted.sample(20_000, seeded(1))
    scale = float(fitted.covariance().diagonal().max())
    assert float((scatter(drawn) - fitted.covariance()).abs().max()) < 0.05 * scale
    assert float((drawn.mean(0) - fitted.mean).abs().max()) < 4 * math.sqrt(scale / 20_000)


def test_one_row_is_its_own_mean() -> None:
    z = torch.tensor([[1.0, -2.0, 3.0]])
    for covariance in ("isotropic", "diagonal", "full", "low-rank", "shared"):
        drawn = Gaussian(covariance=covariance).fit(z, seeded()).sample(5, seeded())
        torch.testing.assert_close(drawn, z.expand(5, 3), atol=0.01, rtol=0)


# ---------------------------------------------------------------------------------- shrinkage


@pytest.mark.parametrize(("n", "d"), [(5, 20), (50, 6), (400, 3), (30, 30)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ledoit_wolf_equals_scikit_learn(n: int, d: int, dtype: torch.dtype) -> None:
    z = rows(n, d).to(dtype)
    centred = z - z.mean(0)
    covariance = centred.T @ centred / n
    ours = shrinkage_weight(covariance, n, "ledoit-wolf", radial_moments(centred, covariance))
    assert ours == pytest.approx(
        ledoit_wolf_shrinkage(z.double().numpy()), rel=1e-9 if dtype == torch.float64 else 1e-4
    )


@pytest.mark.parametrize(("n", "d"), [(5, 20), (50, 6), (400, 3), (30, 30)])
def test_oas_is_equation_23_and_scikit_learn_s_leaves_out_a_term(n: int, d: int) -> None:
    z = rows(n, d)
    s = scatter(z)
    square, trace = float((s @ s).trace()), float(s.trace())
    ours = shrinkage_weight(s, n, "oas")
    expected = ((1 - 2 / d) * square + trace**2) / ((n + 1 - 2 / d) * (square - trace**2 / d))
    assert ours == pytest.approx(min(expected, 1.0))
    theirs = oas(z.numpy())[1]
    assert theirs == pytest.approx(min((square + trace**2) / ((n + 1) * (square - trace**2 / d)), 1.0))
    assert abs(ours - theirs) <= 2 / d * max(ours, theirs)


def test_shrinkage_keeps_the_trace_and_pulls_to_the_mean_variance() -> None:
    s = scatter(rows())
    half = shrunk(s, 0.5)
    torch.testing.assert_close(half.trace(), s.trace())
    torch.testing.assert_close(half, 0.5 * s + 0.5 * s.trace() / 6 * torch.eye(6).double())
    torch.testing.assert_close(shrunk(s, 1.0), s.trace() / 6 * torch.eye(6).double())
    assert shrinkage_weight(s, 50, 0.25) == 0.25
    assert shrinkage_weight(s, 50, "none") == 0.0


@pytest.mark.parametrize("rule", ["ledoit-wolf", "oas"])
def test_rows_without_spread_are_shrunk_wholly(rule: str) -> None:
    for covariance, centred in ((torch.zeros(3, 3), torch.zeros(5, 3)), (torch.eye(1), torch.ones(5, 1))):
        assert shrinkage_weight(covariance, 5, rule, radial_moments(centred, covariance)) == 1.0


def test_fewer_rows_than_dimensions_still_have_a_density() -> None:
    z = rows(5, 20).float()
    for shrinkage in ("none", "ledoit-wolf", "oas", 0.1):
        fitted = Gaussian(shrinkage=shrinkage).fit(z, seeded())
        assert bool(torch.isfinite(fitted.log_prob(z)).all())
        assert bool(torch.isfinite(fitted.sample(10, seeded())).all())


# ---------------------------------------------------------------------------------- low rank


@pytest.mark.parametrize("rank", [1, 3, 6, 40])
def test_factors_keep_every_variance(rank: int) -> None:
    z = rows()
    full = Gaussian(shrinkage="none").fit(z, seeded()).covariance()
    low = Gaussian(covariance="low-rank", rank=rank, shrinkage="none").fit(z, seeded())
    assert low.spread.shape == (6, min(rank, 6) + 1)
    torch.testing.assert_close(low.covariance().diagonal(), full.diagonal(), rtol=1e-5, atol=1e-5)
    if rank >= 6:
        torch.testing.assert_close(low.covariance(), full, rtol=1e-4, atol=1e-4)


def test_factors_are_the_leading_directions() -> None:
    """Of a covariance that is low rank plus a multiple of I, all of it is kept (Tipping and Bishop 1999)."""
    w = torch.randn(8, 2, generator=seeded()).double()
    root = torch.linalg.cholesky(w @ w.T + 0.3 * torch.eye(8))
    z = torch.linalg.qr(torch.randn(40, 9, generator=seeded(1)).double()).Q
    z = torch.linalg.qr(z - z.mean(0)).Q[:, :8] * math.sqrt(40) @ root.T  # covariance exactly root root'
    low = Gaussian(covariance="low-rank", rank=2, shrinkage="none").fit(z, seeded())
    torch.testing.assert_close(low.covariance(), root @ root.T, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rows_of_it", [200, 20])  # fewer rows than dimensions: most variances are zero
def test_few_of_many_directions_are_those_of_the_whole_decomposition(rows_of_it: int) -> None:
    z = rows(rows_of_it, d=60).double() * torch.linspace(3, 0.1, 60).double()
    fitted = Gaussian(covariance="low-rank", rank=4, shrinkage="none").fit(z, seeded())
    covariance = Gaussian(shrinkage="none").fit(z, seeded()).covariance()
    values, vectors = torch.linalg.eigh(covariance)
    weights = vectors[:, -4:] * (values[-4:] - values[:-4].mean()).sqrt()
    factors = fitted.spread[:, :-1]
    torch.testing.assert_close(factors @ factors.T, weights @ weights.T)
    again = Gaussian(covariance="low-rank", rank=4, shrinkage="none").fit(z, seeded())
    assert torch.equal(again.spread, fitted.spread)


def test_constant_rows_have_no_directions() -> None:
    fitted = Gaussian(covariance="low-rank", rank=2).fit(torch.ones(30, 50), seeded())
    assert bool(torch.isfinite(fitted.spread).all())
    assert fitted.spread[:, :-1].abs().max() < 1e-2


def test_woodbury_is_the_inverse() -> None:
    w, psi = torch.randn(7, 3, generator=seeded()).double(), torch.rand(7, generator=seeded()).double() + 1e-3
    x = torch.randn(9, 7, generator=seeded(1)).double()
    dense = MultivariateNormal(torch.zeros(7).double(), w @ w.T + torch.diag(psi))
    torch.testing.assert_close(LowRank(w, psi).log_prob(x), dense.log_prob(x))


# ---------------------------------------------------------------------------------- merging and pooling


def merged_and_whole(part: Gaussian, *sizes: int) -> tuple[Any, Any]:
    """Fits to parts that lie apart, merged one by one, and the fit to all their rows."""
    parts = [rows(n, seed=n) * (1 + n / 20) + n for n in sizes]
    merged: Any = part.fit(parts[0], seeded())
    for z in parts[1:]:
        merged = merged.merge(part.fit(z, seeded()))
    return merged, part.fit(torch.cat(parts), seeded())


@pytest.mark.parametrize("covariance", ["isotropic", "diagonal", "full", "shared"])
def test_merge_of_many_parts_is_the_fit_of_the_whole(covariance: str) -> None:
    merged, whole = merged_and_whole(Gaussian(covariance=covariance, shrinkage="none"), 1, 5, 30, 8)
    assert merged.count == whole.count == 44
    torch.testing.assert_close(merged.mean, whole.mean)
    torch.testing.assert_close(merged.spread, whole.spread)


@pytest.mark.parametrize("shrinkage", ["none", "ledoit-wolf", "oas", 0.3])
def test_what_is_merged_is_shrunk_as_its_union_asks(shrinkage: str | float) -> None:
    merged, whole = merged_and_whole(Gaussian(shrinkage=shrinkage), 1, 5, 30, 8)
    assert merged.alpha == pytest.approx(whole.alpha, rel=1e-10)
    torch.testing.assert_close(merged.covariance(), whole.covariance(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(merged.spread, whole.spread, rtol=1e-10, atol=1e-10)
    if shrinkage == "ledoit-wolf":
        torch.testing.assert_close(merged.moments, whole.moments, rtol=1e-10, atol=1e-10)
        assert 0 < merged.alpha < 1
    z = rows(20, seed=3)
    torch.testing.assert_close(merged.log_prob(z), whole.log_prob(z))
    assert torch.equal(Gaussian().restore({**merged.tensors(), **merged.settings()}).root(), merged.root())


def test_what_different_rules_have_shrunk_stays_so() -> None:
    """So is what was saved before shrinkage was kept apart."""
    first, second = Gaussian(shrinkage=0.5).fit(rows(30), seeded()), Gaussian().fit(rows(20, seed=1), seeded())
    old = {"mean": first.mean, "spread": packed(first.covariance()), "count": 30, "form": "full", "rank": None}
    apart = first.mean - second.mean
    expected = 0.6 * first.covariance() + 0.4 * second.covariance() + 0.24 * torch.outer(apart, apart)
    for begun in (first, Gaussian().restore(old)):
        torch.testing.assert_close(begun.merge(second).covariance(), expected)  # type: ignore[union-attr]


def test_low_rank_and_other_families_do_not_merge() -> None:
    low = Gaussian(covariance="low-rank", rank=2).fit(rows(), seeded())
    assert low.merge(low) is None
    full = Gaussian().fit(rows(), seeded())
    assert full.merge(object()) is None  # type: ignore[arg-type]


def test_pooled_covariance_is_the_within_class_one() -> None:
    part = Gaussian(covariance="shared", shrinkage="none")
    groups = [rows(n, seed=n) * (1 + n / 10) + n for n in (10, 25, 5)]
    pooled = part.pool([part.fit(z, seeded()) for z in groups])
    centred = torch.cat([z - z.mean(0) for z in groups])
    expected = centred.T @ centred / 40
    for fit, z in zip(pooled, groups, strict=True):
        torch.testing.assert_close(fit.covariance(), expected)
        torch.testing.assert_close(fit.mean, z.mean(0))
        assert fit.count == len(z)
        assert fit.spread is pooled[0].spread
    again = part.pool(pooled)
    torch.testing.assert_close(again[0].covariance(), expected)


# ---------------------------------------------------------------------------------- matrices


def test_packing_there_and_back() -> None:
    s = scatter(rows())
    assert packed(s).shape == (21,)
    assert torch.equal(unpacked(packed(s), 6), s.tril() + s.tril(-1).T)


def test_cholesky_of_a_matrix_that_has_none() -> None:
    w = torch.randn(5, 2, generator=seeded())
    torch.testing.assert_close((root := cholesky(w @ w.T)) @ root.T, w @ w.T, atol=1e-4, rtol=1e-4)
    indefinite = torch.diag(torch.tensor([1.0, 1.0, -0.001]))
    assert bool(torch.isfinite(cholesky(indefinite)).all())
    with pytest.raises(NotReadyError, match="not finite"):
        cholesky(torch.full((2, 2), math.nan))


def test_options_that_contradict_one_another() -> None:
    with pytest.raises(
        OptionsError, match=r"shrinkage = 'oas': shapes a full covariance, covariance = 'diagonal' has none"
    ):
        Gaussian(covariance="diagonal", shrinkage="oas")
    with pytest.raises(
        OptionsError, match=r"rank = 5: has no effect with covariance = 'diagonal'; set covariance = 'low-rank'"
    ):
        Gaussian(covariance="diagonal", rank=5)
    with pytest.raises(OptionsError, match=r"shrinkage = 1\.5"):
        Gaussian(shrinkage=1.5)
