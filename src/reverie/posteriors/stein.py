"""Spectral Stein gradient estimator (Shi, Sun and Zhu 2018, arXiv 1806.02925): grad log q(w) of a distribution that can only be sampled."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Bandwidth = float | Literal["median"]

FLOOR = 1e-3  # of the largest eigenvalue: what is divided by less is mostly error, found on 2-D normal samples with keep = 1
INDISTINCT = 1e-12  # of the largest norm: distances below are rounding


def stein_score(
    points: Tensor, samples: Tensor, bandwidth: Bandwidth = "median", keep: float = 0.99, floor: float = FLOOR
) -> Tensor:
    """grad log q at points (n, d), where q is known by samples (m, d) alone: (n, d), computed in float64, without gradients.

    With k(a, b) = exp(-|a - b|^2 / (2 l^2)) and eigenpairs K u_j = lambda_j u_j of the Gram matrix of the samples x^1 .. x^m,

        psi_j(x) = sqrt(m) / lambda_j sum_i u_ij k(x, x^i)
        beta_j = - 1 / m sum_i grad psi_j(x^i)
        grad log q(x) ~ sum_j beta_j psi_j(x)

    over the largest eigenvalues: those that together make up less than ``keep`` of the sum of all, the first in any case, and none
    below ``floor`` times the largest, by which it would be divided. What is left out is taken for a slope of 0: where samples differ far less
    in one direction than in others, their score in it is only found with ``keep`` near 1.

    bandwidth: l, or "median", of the distances between different samples.
    """
    with torch.no_grad():
        x, at = samples.double(), points.double()
        largest = x.norm(dim=1).max()
        centre = x.mean(dim=0)  # distances are taken by squares, which a common offset would cost digits
        x, at = x - centre, at - centre
        squares = squared_distances(x, x).fill_diagonal_(0)
        width = median_width(squares, largest) if bandwidth == "median" else largest.new_tensor(bandwidth)
        gram = (-0.5 * squares / width.square()).exp()
        values, vectors = (part.flip(-1) for part in torch.linalg.eigh(gram))
        kept = (values.cumsum(dim=0) / values.sum() < keep) & (values > floor * values[0])
        kept[0] = True
        inverse = torch.where(kept, 1 / values, 0)
        # sum_i grad k(x^i, x^n) u_nj = X^T (r u_j - K u_j) / l^2 with the row sums r = K 1: no (m, m, d) numbers are needed.
        slopes = (gram.sum(dim=1)[:, None] * vectors - vectors * values) * inverse
        near = (-0.5 * squared_distances(at, x) / width.square()).exp()
        scores = (near @ (vectors * inverse)) @ (slopes.T @ x) / -width.square()
        return scores.to(points)


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """(n, d), (m, d) -> (n, m), by one product."""
    norms = a.square().sum(dim=1)[:, None] + b.square().sum(dim=1)
    return torch.addmm(norms, a, b.T, alpha=-2).clamp_(min=0)


def median_width(squares: Tensor, largest: Tensor) -> Tensor:
    """Of the distances between two different ones of m samples; 1 where they are all the same, as far as numbers of length ``largest`` tell.

    squares: (m, m).
    """
    if len(squares) < 2:
        return squares.new_ones(())
    first, second = torch.triu_indices(len(squares), len(squares), 1, device=squares.device)
    width = squares[first, second].median().sqrt()
    return torch.where(width > INDISTINCT * largest, width, 1.0)


def score_surrogate(weights: Tensor, scores: Tensor) -> Tensor:
    """A number with the gradient of E_q[log q(w)] towards what made the samples ``weights`` (n, d): 1/n sum_i <w_i, scores_i>.

    The score's own mean under q is 0, so that only the path through w counts; ``scores`` are constants.
    """
    return (weights * scores.detach()).sum(dim=1).mean()
