"""Quality of generated samples as pure functions of rows (n, d): how near they are to real ones, how many of these they cover, and
whether they are copies.

Everything is computed in float64 and in blocks, so that memory is bounded whatever the number of rows. All measures depend on how many
rows they are given, the Frechet distance most: compare them at equal n alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from reverie.checks import DataError

BLOCK = 1 << 22  # distances or kernel values that are held at once
SAME = 1e-12  # squared distance, relative to the rows' own squared lengths about the centre, below which rows are equal


# ------------------------------------------------------------------------------------------ moments


def frechet_distance(real: Tensor, generated: Tensor) -> float:
    """Frechet distance of the Gaussians with the mean and unbiased covariance of each set (Heusel et al. 2017, arXiv 1706.08500).

    In units of squared distance. Biased upwards where rows are few against dimensions.
    """
    real, generated = _pair(real, generated, least=2)
    return gaussian_frechet(real.mean(dim=0), _covariance(real), generated.mean(dim=0), _covariance(generated))


def gaussian_frechet(mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor) -> float:
    """|m - m'|^2 + tr(S + S' - 2 (S^1/2 S' S^1/2)^1/2), of Gaussians with means (d,) and covariances (d, d) (Dowson and Landau 1982).

    S^1/2 by eigendecomposition; the trace of the second root is the sum of the roots of its eigenvalues. Rounding below zero is cut off.

    >>> gaussian_frechet(torch.zeros(1), torch.eye(1), torch.full((1,), 3.0), 4 * torch.eye(1))
    10.0
    """
    mean, covariance, other_mean, other_covariance = (
        tensor.double() for tensor in (mean, covariance, other_mean, other_covariance)
    )
    values, vectors = torch.linalg.eigh(covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    product = root @ other_covariance @ root
    shared = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum()
    apart = (mean - other_mean).square().sum()
    return max(float(apart + covariance.trace() + other_covariance.trace() - 2 * shared), 0.0)


def kernel_distance(real: Tensor, generated: Tensor) -> float:
    """KID: unbiased squared maximum mean discrepancy with k(x, y) = (x.y / d + 1)^3 (Binkowski et al. 2018, arXiv 1801.01401).

    mean_{i != j} k(r_i, r_j) + mean_{i != j} k(g_i, g_j) - 2 mean_{i, j} k(r_i, g_j). Unbiased, so slightly negative where the two are
    alike. It depends on the rows' origin and scale.
    """
    _check(real, generated, least=2)
    real, generated = real.double(), generated.double()
    return _kernel_mean(real) + _kernel_mean(generated) - 2 * _kernel_mean(real, generated)


def _kernel_mean(a: Tensor, b: Tensor | None = None) -> float:
    """Mean kernel of all pairs, of two sets or of the different rows of one."""
    other = a if b is None else b
    total = 0.0
    for block in _blocks(len(a), len(other)):
        values = (a[block] @ other.T / a.shape[1] + 1) ** 3
        total += float(values.sum())
        if b is None:
            total -= float(values[:, block].diagonal().sum())
    return total / (len(a) * (len(a) - 1) if b is None else len(a) * len(other))


# ------------------------------------------------------------------------------------------ neighbourhoods


@dataclass(frozen=True)
class Overlap:
    """Four shares of overlap; all but density, which may exceed 1, lie in [0, 1]."""

    precision: float
    recall: float
    density: float
    coverage: float


def overlap(real: Tensor, generated: Tensor, k: int = 3, k_dense: int = 5) -> Overlap:
    """``precision_recall`` with k and ``density_coverage`` with k_dense, from one pass over all distances."""
    real, generated = _pair(real, generated, least=k + 1)
    if len(real) <= k_dense:
        raise DataError(f"{len(real)} real rows: the {k_dense}th nearest neighbour needs at least {k_dense + 1}")
    of_real = _nearest(real, max(k, k_dense))
    ball, dense = of_real[:, k - 1], of_real[:, k_dense - 1]
    ball_of_generated = _nearest(generated, k)[:, k - 1]
    precise = inside = 0
    recalled = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    covered = recalled.clone()
    for block in _blocks(len(generated), len(real)):
        distances = _squared(generated[block], real)
        precise += int((distances <= ball).any(dim=1).sum())
        recalled |= (distances <= ball_of_generated[block, None]).any(dim=0)
        near = distances <= dense
        inside += int(near.sum())
        covered |= near.any(dim=0)
    return Overlap(
        precise / len(generated),
        float(recalled.double().mean()),
        inside / (k_dense * len(generated)),
        float(covered.double().mean()),
    )


def precision_recall(real: Tensor, generated: Tensor, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al. 2019, arXiv 1904.06991).

    Precision: share of generated rows inside a ball around a real row that reaches to its k-th nearest other real row. Recall: the
    same with the two sets exchanged. Balls are closed.
    """
    found = overlap(real, generated, k, k)
    return found.precision, found.recall


def density_coverage(real: Tensor, generated: Tensor, k: int = 5) -> tuple[float, float]:
    """Density and coverage (Naeem et al. 2020, arXiv 2002.09797), with closed balls around real rows to their k-th nearest other real row.

    Density: (1 / (k m)) sum_j (balls that hold g_j), of m generated rows, about 1 where both sets are alike. Coverage: share of real
    rows whose ball holds a generated row.
    """
    _check(real, generated, least=1)
    if len(real) <= k:
        raise DataError(f"{len(real)} real rows: the {k}th nearest neighbour needs at least {k + 1}")
    centre = real.double().mean(dim=0)
    real, generated = real.double() - centre, generated.double() - centre
    ball = _nearest(real, k)[:, k - 1]
    inside, covered = 0, torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for block in _blocks(len(generated), len(real)):
        near = _squared(generated[block], real) <= ball
        inside += int(near.sum())
        covered |= near.any(dim=0)
    return inside / (k * len(generated)), float(covered.double().mean())


def nearest_neighbour_ratio(generated: Tensor, train: Tensor, held_out: Tensor) -> float | None:
    """Median distance from a generated row to the nearest training row, over the same of held-out real rows.

    About 1 where the generator is as far from its training rows as new real rows are; towards 0 where it copies them. The two
    distributions of distances are those of Meehan et al. 2020 (arXiv 2004.05675). None where half of the held-out rows are training rows.
    """
    _check(train, generated, least=1)
    _check(train, held_out, least=1)
    own, others = (np.median(_to_nearest(rows, train).cpu().numpy()) for rows in (generated, held_out))
    return float(own / others) if others > 0 else None


def _nearest(x: Tensor, k: int) -> Tensor:
    """(n, k) squared distances of each row to its k nearest other rows, in ascending order."""
    found = []
    for block in _blocks(len(x), len(x)):
        distances = _squared(x[block], x)
        distances[:, block].fill_diagonal_(float("inf"))
        found.append(distances.topk(k, dim=1, largest=False).values)
    return torch.cat(found)


def _to_nearest(x: Tensor, others: Tensor) -> Tensor:
    """(n,) distances; the nearest row is found by products, its distance by subtraction, so that a copy is at 0 exactly."""
    centre = others.double().mean(dim=0)
    a, b = x.double() - centre, others.double() - centre
    place = torch.cat([_squared(a[block], b).argmin(dim=1) for block in _blocks(len(a), len(b))])
    return (x.double() - others.double()[place]).square().sum(dim=1).sqrt()


def _squared(a: Tensor, b: Tensor) -> Tensor:
    """(n, m) squared distances as |a|^2 + |b|^2 - 2 a.b; what rounding cannot tell from zero is zero."""
    scale = a.square().sum(dim=1)[:, None] + b.square().sum(dim=1)
    distances = torch.addmm(scale, a, b.T, alpha=-2)
    return distances.masked_fill_(distances <= SAME * scale, 0)


# ------------------------------------------------------------------------------------------ classes


def class_frequency_kl(produced: Tensor, asked: Tensor) -> float:
    """KL(q | p) = sum_c q_c log(q_c / p_c), nats: q the class shares among produced labels (m,), p among those asked for (n,).

    0 where both have the same shares; infinite where a class is produced that nobody asked for.

    >>> class_frequency_kl(torch.tensor([0, 0]), torch.tensor([0, 1]))  # log 2
    0.6931471805599453
    """
    if not len(produced) or not len(asked):
        raise DataError(f"{len(produced)} produced and {len(asked)} asked labels: both need at least one")
    classes = int(torch.cat([produced, asked]).max()) + 1
    q, p = (torch.bincount(labels, minlength=classes).double() / len(labels) for labels in (produced, asked))
    there = q > 0
    return max(float((q[there] * (q[there] / p[there]).log()).sum()), 0.0)


# ------------------------------------------------------------------------------------------ helpers


def _covariance(x: Tensor) -> Tensor:
    """Unbiased, of rows (n, d)."""
    centred = x - x.mean(dim=0)
    return centred.T @ centred / (len(x) - 1)


def _pair(real: Tensor, generated: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """Both in float64 about the centre of the real rows: distances are the same, and lose fewer digits."""
    _check(real, generated, least)
    centre = real.double().mean(dim=0)
    return real.double() - centre, generated.double() - centre


def _check(real: Tensor, generated: Tensor, least: int) -> None:
    if real.dim() != 2 or generated.dim() != 2 or real.shape[1] != generated.shape[1]:
        raise DataError(
            f"rows of shapes {tuple(real.shape)} and {tuple(generated.shape)}: both must be (n, d) with the same d; flatten them"
        )
    if min(len(real), len(generated)) < least:
        raise DataError(f"{len(real)} real and {len(generated)} generated rows: both need at least {least}")


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices of the rows of a matrix that hold at most ``BLOCK`` of its numbers each."""
    size = max(BLOCK // max(columns, 1), 1)
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))
