"""Sample quality against closed forms, brute force and clouds made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from reverie.checks import DataError
from reverie.metrics import (
    class_frequency_kl,
    density_coverage,
    frechet_distance,
    gaussian_frechet,
    kernel_distance,
    nearest_neighbour_ratio,
    overlap,
    precision_recall,
    samples,
)


def cloud(n: int, d: int, seed: int = 0, shift: float = 0.0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift


def line(*places: float) -> Tensor:
    return torch.tensor(places)[:, None]


@pytest.fixture(params=[1 << 22, 7], ids=["one block", "many blocks"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "BLOCK", request.param)


# ------------------------------------------------------------------------------------------ moments


def test_frechet_distance_of_shifted_and_scaled_rows() -> None:
    x = cloud(50, 4)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-10)
    shift = torch.tensor([1.0, 2.0, 0.0, -2.0])
    assert frechet_distance(x, x + shift) == pytest.approx(9, rel=1e-5)
    mean = x.mean(dim=0)
    variances = float(x.var(dim=0).sum())
    assert frechet_distance(x, mean + 3 * (x - mean)) == pytest.approx(4 * variances, rel=1e-5)  # (3 - 1)^2 tr S


def test_frechet_distance_of_diagonal_gaussians() -> None:
    a, b = torch.tensor([1.0, 4.0, 0.0]), torch.tensor([9.0, 4.0, 1.0])
    apart = gaussian_frechet(torch.zeros(3), torch.diag(a), torch.ones(3), torch.diag(b))
    assert apart == pytest.approx(3 + 4 + 0 + 1)  # |m - m'|^2 + sum (sqrt a - sqrt b)^2


def test_frechet_distance_of_gaussians_that_do_not_commute() -> None:
    """Against the formula with a general matrix square root, as in the code of Heusel et al."""
    a, b, means = cloud(9, 6, 1).double(), cloud(9, 6, 2).double(), cloud(2, 6, 3).double()
    (mean, other), s, t = means, a.T @ a, b.T @ b
    root = sqrtm((s @ t).numpy()).real
    expected = float((mean - other).square().sum() + s.trace() + t.trace()) - 2 * float(np.trace(root))
    assert gaussian_frechet(mean, s, other, t) == pytest.approx(expected, rel=1e-8)
    assert gaussian_frechet(other, t, mean, s) == pytest.approx(expected, rel=1e-8)


def test_frechet_distance_where_rows_are_fewer_than_dimensions() -> None:
    """Covariances of rank 1: N(0, u u') and N(0, v v') are (|u|^2 + |v|^2 - 2 |u.v|) apart."""
    u, v = torch.tensor([2.0, 0, 0, 0]), torch.tensor([1.0, 1.0, 0, 0])
    x, y = (torch.stack([w, -w]) / math.sqrt(2) for w in (u, v))
    assert frechet_distance(x, y) == pytest.approx(4 + 2 - 2 * 2, rel=1e-6)


@pytest.mark.usefixtures("blocks")
def test_kernel_distance_against_loops() -> None:
    x, y = cloud(7, 3, 1), cloud(5, 3, 2, shift=0.5)

    def k(a: Tensor, b: Tensor) -> float:
        return (float(a.double() @ b.double()) / 3 + 1) ** 3

    within = [np.mean([k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j]) for z in (x, y)]
    between = np.mean([k(a, b) for a in x for b in y])
    assert kernel_distance(x, y) == pytest.approx(sum(within) - 2 * between, rel=1e-9)


def test_kernel_distance_is_unbiased() -> None:
    """Over many small pairs of one distribution its mean is 0; of two that differ it is not."""
    same = [kernel_distance(cloud(10, 2, 2 * s), cloud(10, 2, 2 * s + 1)) for s in range(300)]
    error = np.std(same) / math.sqrt(len(same))
    assert abs(np.mean(same)) < 4 * error
    assert min(same) < 0
    assert np.mean([kernel_distance(cloud(10, 2, 2 * s), cloud(10, 2, 2 * s + 1, 2.0)) for s in range(300)]) > 4


# ------------------------------------------------------------------------------------------ neighbourhoods


def in_loops(real: Tensor, generated: Tensor, k: int, k_dense: int) -> tuple[float, float, float, float]:
    """The four measures as their papers write them."""

    def radius(rows: Tensor, i: int, k: int) -> float:
        return sorted(float((rows[i] - rows[j]).double().norm()) for j in range(len(rows)) if j != i)[k - 1]

    def inside(point: Tensor, rows: Tensor, k: int) -> list[bool]:
        return [float((point - rows[i]).double().norm()) <= radius(rows, i, k) for i in range(len(rows))]

    precision = np.mean([any(inside(g, real, k)) for g in generated])
    recall = np.mean([any(inside(r, generated, k)) for r in real])
    balls = np.array([inside(g, real, k_dense) for g in generated])
    return float(precision), float(recall), float(balls.sum() / (k_dense * len(generated))), float(balls.any(0).mean())


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("shift", [0.0, 0.7, 1.5])
def test_overlap_against_loops(shift: float) -> None:
    real, generated = cloud(17, 3, 1), cloud(12, 3, 2, shift)
    expected = in_loops(real, generated, 3, 5)
    found = overlap(real, generated)
    assert (found.precision, found.recall, found.density, found.coverage) == pytest.approx(expected)
    assert precision_recall(real, generated) == pytest.approx(expected[:2])
    assert density_coverage(real, generated) == pytest.approx(expected[2:])
    assert precision_recall(real, generated, k=1) == pytest.approx(in_loops(real, generated, 1, 1)[:2])
    assert density_coverage(real, generated, k=2) == pytest.approx(in_loops(real, generated, 3, 2)[2:])


def test_clouds_by_hand() -> None:
    """On a line, k = 1: real balls [-1, 1], [0, 2], [9, 11], [10, 12]; generated balls of radius 0.5 and, far away, 2."""
    real, generated = line(0, 1, 10, 11), line(0.5, 1.0, 30, 32)
    found = overlap(real, generated, k=1, k_dense=1)
    assert found.precision == 0.5  # 30 and 32 are nowhere
    assert found.recall == 0.5  # 0 (in the ball of 0.5) and 1
    assert found.density == (2 + 2 + 0 + 0) / 4
    assert found.coverage == 0.5


def test_copies_are_perfect_and_far_rows_are_nothing() -> None:
    x = cloud(40, 5)
    same = overlap(x, x)
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    assert same.density >= 1
    far = overlap(x, x + 100)
    assert (far.precision, far.recall, far.density, far.coverage) == (0, 0, 0, 0)


def test_a_collapsed_generator_is_precise_and_covers_nothing() -> None:
    x = cloud(200, 2)
    found = overlap(x, x[:1] + 1e-3 * cloud(200, 2, 5))
    assert found.precision == 1
    assert found.recall < 0.05
    assert found.coverage < 0.1


def test_equal_rows_are_at_distance_zero_far_from_the_origin() -> None:
    """Half of the rows are one and the same, as latents of dead units are; rounding must not push a copy out of a ball of radius 0."""
    x = torch.cat([cloud(1, 64, 1, 1000).expand(10, 64), cloud(10, 64, 2, 1000)])
    found = overlap(x, x[:10])
    assert found.precision == 1
    assert density_coverage(x[:10], x[:10]) == (pytest.approx(10 / 5), 1)


def test_nearest_neighbour_ratio() -> None:
    train, held_out = line(0, 10, 20), line(2, 12, 22)
    assert nearest_neighbour_ratio(line(1, 11, 21), train, held_out) == 0.5
    assert nearest_neighbour_ratio(train[:2], train, held_out) == 0  # copies
    assert nearest_neighbour_ratio(line(4, 16), train, held_out) == 2
    assert nearest_neighbour_ratio(line(1), train, train) is None
    far = cloud(30, 16, 1, 1e4)
    assert nearest_neighbour_ratio(far[:9], far, far + 1) == 0


# ------------------------------------------------------------------------------------------ classes and checks


def test_class_frequencies() -> None:
    asked = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    assert class_frequency_kl(asked.flip(0), asked) == 0
    expected = 0.75 * math.log(0.75 / 0.25) + 0.25 * math.log(0.25 / 0.25)
    assert class_frequency_kl(torch.tensor([0, 0, 0, 1]), asked) == pytest.approx(expected)
    assert class_frequency_kl(torch.tensor([4]), asked) == math.inf
    with pytest.raises(DataError, match="0 produced and 8 asked"):
        class_frequency_kl(asked[:0], asked)


@pytest.mark.parametrize("measure", [frechet_distance, kernel_distance, overlap, precision_recall, density_coverage])
def test_rows_that_cannot_be_compared(measure: object) -> None:
    assert callable(measure)
    with pytest.raises(DataError, match="same d"):
        measure(cloud(9, 2), cloud(9, 3))
    with pytest.raises(DataError, match="same d"):
        measure(cloud(9, 2).reshape(9, 1, 2), cloud(9, 2))
    with pytest.raises(DataError, match="at least"):
        measure(cloud(1, 2), cloud(9, 2))


def test_too_few_rows_for_their_neighbours() -> None:
    with pytest.raises(DataError, match="5 real rows: the 5th"):
        overlap(cloud(5, 2), cloud(9, 2))
    with pytest.raises(DataError, match="3 generated rows: both need at least 4"):
        overlap(cloud(9, 2), cloud(3, 2))


def test_inputs_are_left_alone_whatever_their_dtype() -> None:
    x, y = cloud(20, 3), cloud(20, 3, 1)
    before = x.clone(), y.clone()
    assert overlap(x, y) == overlap(x.double(), y.double())
    frechet_distance(x, y), kernel_distance(x, y), nearest_neighbour_ratio(x, y, x + 1)
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])
