"""Scores from samples: those of known Gaussians, those of an independent slow version, and what must hold whatever the samples."""

from __future__ import annotations

import math
from itertools import combinations
from statistics import median_low

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from reverie.posteriors.stein import Bandwidth, score_surrogate, stein_score
from reverie.seeding import generator


def normal(n: int, width: int, *key: object) -> Tensor:
    return torch.randn(n, width, generator=generator("stein", n, *key), dtype=torch.float64)


def relative_error(found: Tensor, true: Tensor) -> float:
    return float((found - true).norm() / true.norm())


def cosine(found: Tensor, true: Tensor) -> float:
    return float(cosine_similarity(found.flatten(), true.flatten(), dim=0))


# ---------------------------------------------------------------------------------- known distributions


@pytest.mark.parametrize(("count", "draws"), [(200, 12), (1000, 1)])
def test_the_score_of_a_standard_normal_is_minus_its_argument(count: int, draws: int) -> None:
    """Of 200 samples single draws lie between 0.21 and 0.52 (40 draws), so that their mean is what can be bounded."""
    samples = [normal(count, 2, draw) for draw in range(draws)]
    scores = [stein_score(x, x) for x in samples]
    assert sum(map(relative_error, scores, [-x for x in samples])) / draws < 0.4
    assert sum(map(cosine, scores, [-x for x in samples])) / draws > 0.93


def test_the_score_of_a_correlated_gaussian_far_from_the_origin_is_found() -> None:
    covariance = torch.tensor([[1.0, 0.8], [0.8, 1.5]], dtype=torch.float64)
    offset = torch.tensor([100.0, -50.0], dtype=torch.float64)
    for draw in range(4):
        centred = normal(400, 2, draw) @ torch.linalg.cholesky(covariance).T
        true = -centred @ torch.linalg.inv(covariance)
        found = stein_score(centred + offset, centred + offset)
        assert relative_error(found, true) < 0.4
        assert cosine(found, true) > 0.93


def test_points_need_not_be_among_the_samples() -> None:
    samples = normal(400, 2, "samples")
    points = 0.8 * normal(50, 2, "points")
    assert relative_error(stein_score(points, samples), -points) < 0.4


def test_the_slope_in_a_thin_direction_is_lost_with_the_small_eigenvalues() -> None:
    """What the docstring says of ``keep``: deviations of 1 and 0.1."""
    samples = normal(200, 2, 0) * torch.tensor([1.0, 0.1])
    true = -samples[:, 1] / 0.01
    few, all_of_them = (stein_score(samples, samples, keep=keep)[:, 1] for keep in (0.8, 1.0))
    assert float(few.norm() / true.norm()) < 0.3
    assert cosine(all_of_them, true) > 0.7


# ---------------------------------------------------------------------------------- an independent version


def kernel(a: Tensor, b: Tensor, width: float) -> Tensor:
    return (-(a - b).square().sum() / (2 * width**2)).exp()


def slow_score(points: Tensor, samples: Tensor, bandwidth: Bandwidth, keep: float) -> Tensor:
    """The equations of the paper sum by sum, the gradients of the kernel by autograd."""
    m = len(samples)
    distances = [float((samples[i] - samples[j]).norm()) for i, j in combinations(range(m), 2)]
    width = median_low(distances) if isinstance(bandwidth, str) else bandwidth
    gram = torch.tensor([[float(kernel(a, b, width)) for b in samples] for a in samples], dtype=torch.float64)
    values, vectors = torch.linalg.eigh(gram)
    order = list(reversed(range(m)))
    used: list[int] = []
    for index in order:
        if used and sum(float(values[i]) for i in [*used, index]) / float(values.sum()) >= keep:
            break
        used.append(index)

    def psi(j: int, x: Tensor) -> Tensor:
        terms = [vectors[i, j] * kernel(x, samples[i], width) for i in range(m)]
        return math.sqrt(m) / values[j] * torch.stack(terms).sum()

    betas = {}
    for j in used:
        total = torch.zeros_like(samples[0])
        for sample in samples:
            at = sample.clone().requires_grad_()
            total += torch.autograd.grad(psi(j, at), at)[0]
        betas[j] = -total / m
    return torch.stack([torch.stack([betas[j] * psi(j, x) for j in used]).sum(dim=0) for x in points])


@pytest.mark.parametrize(
    ("bandwidth", "keep"), [("median", 0.9), ("median", 0.99), (1.3, 0.95), (0.4, 0.2), (3.0, 0.01)]
)
def test_it_equals_a_slow_version_written_sum_by_sum(bandwidth: Bandwidth, keep: float) -> None:
    samples, points = normal(12, 3, "samples") + 2, normal(5, 3, "points") + 2
    found = stein_score(points, samples, bandwidth, keep, floor=0)
    assert torch.allclose(found, slow_score(points, samples, bandwidth, keep), rtol=1e-7, atol=1e-9)


# ---------------------------------------------------------------------------------- what always holds


def test_it_moves_and_scales_with_the_samples() -> None:
    samples, points = normal(40, 3, "samples"), normal(7, 3, "points")
    score = stein_score(points, samples)
    assert torch.allclose(stein_score(points + 5, samples + 5), score, rtol=1e-6)
    assert torch.allclose(stein_score(points * 10, samples * 10), score / 10, rtol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 6])
def test_samples_that_are_all_the_same_have_a_finite_score(count: int) -> None:
    same = torch.full((count, 3), math.pi)
    assert torch.isfinite(stein_score(same, same)).all()
    assert torch.isfinite(stein_score(same + 1, same)).all()
    assert torch.equal(stein_score(0 * same, 0 * same), 0 * same)


def test_all_eigenvalues_can_be_kept_as_the_floor_guards_the_division() -> None:
    samples = normal(200, 2, 0)
    assert relative_error(stein_score(samples, samples, keep=1.0), -samples) < 0.7
    doubled = torch.cat([samples[:20], samples[:20]])  # half of the eigenvalues are 0
    assert torch.isfinite(stein_score(doubled, doubled, keep=1.0)).all()


def test_it_is_a_constant_of_the_type_of_the_points() -> None:
    samples = normal(20, 3, 0).float().requires_grad_()
    score = stein_score(samples, samples)
    assert score.dtype == torch.float32
    assert not score.requires_grad


# ---------------------------------------------------------------------------------- the surrogate


def test_the_surrogate_has_the_gradient_of_the_negative_entropy() -> None:
    """Of w = scale * noise, two numbers: - entropy = - 2 log scale + constant, whose slope is -2 / scale."""
    noise = normal(1000, 2, "noise")
    scale = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    for scores, tolerance in ((-noise / 0.5, 0.06), (stein_score(0.5 * noise, 0.5 * noise), 0.15)):
        (slope,) = torch.autograd.grad(score_surrogate(scale * noise, scores), scale)
        assert float(slope) == pytest.approx(-4, rel=tolerance)
