"""Mixtures of factor analysers: the density, the climb, factor analysis as one component, several components, size."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from sklearn.decomposition import FactorAnalysis
from torch import Tensor
from torch.distributions import MultivariateNormal

from reverie.checks import OptionsError
from reverie.generators import MixtureOfFactorAnalysers, factor_analysers
from reverie.generators.clustering import Chunks, k_means
from reverie.generators.factor_analysers import FactorMixture, _step, leading_directions
from reverie.generators.gmm import climb


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cloud(n: int = 150, d: int = 7, q: int = 2, seed: int = 0) -> Tensor:
    """Of one factor analyser, float64."""
    rng = seeded(seed)
    w = torch.randn(d, q, generator=rng, dtype=torch.float64)
    psi = 0.1 + torch.rand(d, generator=rng, dtype=torch.float64)
    x = torch.randn(n, q, generator=rng, dtype=torch.float64) @ w.T
    return x + torch.randn(n, d, generator=rng, dtype=torch.float64) * psi.sqrt()


def two_clouds() -> Tensor:
    return torch.cat([cloud(seed=1), cloud(seed=2) + 6.0])


def test_log_prob_is_that_of_the_full_covariances() -> None:
    z = two_clouds()
    fitted = MixtureOfFactorAnalysers(components=2, rank=2).fit(z, seeded())
    logs = [
        MultivariateNormal(mean, w @ w.T + torch.diag(psi)).log_prob(z) + weight.log()
        for weight, mean, w, psi in zip(fitted.weights, fitted.means, fitted.loadings, fitted.noise, strict=True)
    ]
    torch.testing.assert_close(fitted.log_prob(z), torch.logsumexp(torch.stack(logs), dim=0))


def test_one_component_is_factor_analysis() -> None:
    z = cloud()
    fitted = MixtureOfFactorAnalysers(components=1, rank=2, floor=1e-9, tolerance=1e-8, iterations=400).fit(z, seeded())
    theirs = FactorAnalysis(2, tol=1e-12, max_iter=5000, svd_method="lapack").fit(z.numpy())
    assert float(fitted.log_prob(z).mean()) == pytest.approx(theirs.score(z.numpy()), abs=1e-4)
    covariance = fitted.loadings[0] @ fitted.loadings[0].T + torch.diag(fitted.noise[0])
    torch.testing.assert_close(covariance, torch.from_numpy(theirs.get_covariance()), atol=0.01, rtol=0.01)
    torch.testing.assert_close(fitted.means[0], z.mean(0))


@pytest.mark.parametrize("components", [1, 2, 4])
def test_log_likelihood_never_falls(components: int) -> None:
    z = two_clouds()
    part = MixtureOfFactorAnalysers(rank=2)
    start = part._start(z, k_means(z, components, seeded())[1], 1e-6, seeded())
    chunks = Chunks(z, start.centre, squares=True)
    _, trace = climb(start, partial(_step, chunks=chunks, floor=1e-6), 0.0, 40)
    assert len(trace) > 5
    assert all(after >= before - 1e-9 for before, after in pairwise(trace))


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    part = MixtureOfFactorAnalysers(components=2, rank=2)
    whole = part.fit(two_clouds(), seeded())
    monkeypatch.setattr(factor_analysers, "ROWS", 11)
    for name, tensor in part.fit(two_clouds(), seeded()).tensors().items():
        torch.testing.assert_close(tensor, whole.tensors()[name])


def test_samples_have_the_moments_of_each_component() -> None:
    z = two_clouds()
    fitted = MixtureOfFactorAnalysers(components=2, rank=2, tolerance=1e-6).fit(z, seeded())
    drawn = fitted.sample(20_000, seeded(3))
    torch.testing.assert_close(drawn.mean(0), z.mean(0), atol=0.15, rtol=0)
    scale = float(z.var(0).max())
    assert float((torch.cov(drawn.T) - torch.cov(z.T)).abs().max()) < 0.05 * scale
    assert float(fitted.log_prob(drawn).mean()) == pytest.approx(float(fitted.log_prob(z).mean()), abs=0.2)


def test_two_components_explain_two_clouds_better_than_one() -> None:
    z = two_clouds()
    one, two = (MixtureOfFactorAnalysers(components=k, rank=2).fit(z, seeded()) for k in (1, 2))
    assert float((two.log_prob(z) - one.log_prob(z)).mean()) > 0.3
    torch.testing.assert_close(two.weights, torch.tensor([0.5, 0.5]).double(), atol=0.01, rtol=0)


def test_a_component_that_loses_its_rows_is_dropped() -> None:
    z = two_clouds()
    part = MixtureOfFactorAnalysers(rank=2)
    start = part._start(z, k_means(z, 3, seeded())[1], 1e-6, seeded())
    start.means[1] = 1e6
    start = FactorMixture(start.weights, start.means, start.loadings, start.noise)
    chunks = Chunks(z, start.centre, squares=True)
    best, _ = climb(start, partial(_step, chunks=chunks, floor=1e-6), 1e-3, 20)
    assert len(best.weights) == 2
    assert float(best.weights.sum()) == pytest.approx(1.0)
    assert bool(torch.isfinite(best.means).all())


def test_leading_directions_are_those_of_the_covariance() -> None:
    z = cloud()
    centred = z - z.mean(0)
    values, directions = leading_directions(centred, 2, seeded())
    exact, vectors = torch.linalg.eigh(centred.T @ centred / len(z))
    torch.testing.assert_close(values, exact[-2:].flip(0), rtol=1e-3, atol=0)
    overlap = (directions.T @ vectors[:, -2:].flip(1)).abs()
    torch.testing.assert_close(overlap.diagonal(), torch.ones(2).double(), atol=1e-2, rtol=0)


@pytest.mark.parametrize("width", [300, 3])
def test_numbers_kept_are_linear_in_the_width(width: int) -> None:
    z = torch.randn(40, width, generator=seeded())
    fitted = MixtureOfFactorAnalysers(components=2, rank=4).fit(z, seeded())
    q = min(4, width)
    assert sum(tensor.numel() for tensor in fitted.tensors().values()) == 2 * (1 + width * (q + 2))
    assert bool(torch.isfinite(fitted.log_prob(z)).all())
    assert fitted.merge(fitted) is None


def test_noise_does_not_fall_below_the_floor() -> None:
    z = cloud(20, 6)
    fitted = MixtureOfFactorAnalysers(components=3, rank=5, floor=0.01).fit(z, seeded())
    assert float(fitted.noise.min()) >= 0.01 * float(z.var(0, correction=0).mean()) * (1 - 1e-9)
    assert math.isfinite(float(fitted.log_prob(z).sum()))


def test_options_that_cannot_be_used() -> None:
    with pytest.raises(OptionsError, match="rank = 0"):
        MixtureOfFactorAnalysers(rank=0)
