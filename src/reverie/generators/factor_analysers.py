"""Mixtures of factor analysers: many dimensions, few numbers. Nothing here is as large as d x d."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from reverie.generators.clustering import ROWS, Chunks, k_means
from reverie.generators.family import Family, Fitted
from reverie.generators.gaussian import LowRank
from reverie.generators.gmm import EMPTY, Iterations, Tolerance, absolute_floor, climb
from reverie.types import State

POWER_STEPS = 4  # products with the covariance from which the first loadings come


@dataclass(eq=False, repr=False)
class MixtureOfFactorAnalysers(Family):
    """sum_k w_k N(mean_k, W_k W_k' + diag(psi_k)), W_k (d, rank) (Ghahramani and Hinton 1996; Richardson and Weiss 2018).

    One component is factor analysis. Each iteration finds weights and means, then loadings and noise by one step of factor analysis
    (Rubin and Thayer 1982) about the new means, so the likelihood never falls. Begun at k-means++ and the leading directions of
    each cluster. Two mixtures do not merge: both are kept.
    """

    components: Annotated[int, Field(gt=0, description="factor analysers")] = 2
    rank: Annotated[int, Field(gt=0, description="factors of each")] = 8
    floor: Annotated[
        float, Field(gt=0, description="smallest noise variance, as a share of the mean variance of all rows")
    ] = 1e-4
    tolerance: Tolerance = 1e-3
    iterations: Iterations = 100

    def fit(self, z: Tensor, rng: torch.Generator) -> FittedFactorAnalysers:
        floor = absolute_floor(z, self.floor)
        start = self._start(z, k_means(z, self.components, rng)[1], floor, rng)
        chunks = Chunks(z, start.centre, squares=True, size=ROWS)
        best, _ = climb(start, partial(_step, chunks=chunks, floor=floor), self.tolerance, self.iterations)
        return FittedFactorAnalysers(
            len(z), best.weights.to(z), best.means.to(z), best.loadings.to(z), best.noise.to(z)
        )

    def restore(self, state: State) -> FittedFactorAnalysers:
        return FittedFactorAnalysers(
            state["count"], state["weights"], state["means"], state["loadings"], state["noise"]
        )

    def numbers(self, width: int) -> int:
        return self.components * (1 + width * (2 + min(self.rank, width)))

    def _start(self, z: Tensor, label: Tensor, floor: float, rng: torch.Generator) -> FactorMixture:
        """Of each cluster: the leading directions above the mean of the other variances, as in a low-rank Gaussian."""
        counts = torch.bincount(label).double()
        means, loadings, noise = [], [], []
        for k in range(len(counts)):
            x = z[label == k].double()
            mean = x.mean(dim=0)
            variance, directions = leading_directions(x - mean, min(self.rank, z.shape[1]), rng)
            each = (x - mean).square().mean(dim=0)
            rest = (each.sum() - variance.sum()).clamp(min=0) / max(len(each) - len(variance), 1)
            weights = directions * (variance - rest).clamp(min=floor).sqrt()
            means.append(mean)
            loadings.append(weights)
            noise.append((each - weights.square().sum(dim=1)).clamp(min=floor))
        return FactorMixture(counts / len(z), torch.stack(means), torch.stack(loadings), torch.stack(noise))


class FittedFactorAnalysers(Fitted):
    """weights (k,); means (k, d); loadings (k, d, rank); noise (k, d), variances. Immutable."""

    def __init__(self, count: int, weights: Tensor, means: Tensor, loadings: Tensor, noise: Tensor) -> None:
        self.count, self.weights, self.means, self.loadings, self.noise = count, weights, means, loadings, noise
        self._mixture: FactorMixture | None = None

    def mixture(self) -> FactorMixture:
        """In float64 with all that is computed once."""
        if self._mixture is None:
            numbers = (part.double() for part in (self.weights, self.means, self.loadings, self.noise))
            self._mixture = FactorMixture(*numbers)
        return self._mixture

    @property
    def width(self) -> int:
        return self.means.shape[1]

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        which = torch.multinomial(self.weights, max(n, 1), replacement=True, generator=rng)[:n]
        k, d, q = self.loadings.shape
        factors = torch.randn(n, q, generator=rng, device=self.means.device, dtype=self.means.dtype)
        noise = torch.randn(n, d, generator=rng, device=self.means.device, dtype=self.means.dtype)
        drawn = self.means[which] + noise * self.noise[which].sqrt()
        for component in range(k):
            mine = which == component
            drawn[mine] = drawn[mine] + factors[mine] @ self.loadings[component].T
        return drawn

    def log_prob(self, z: Tensor) -> Tensor:
        parts = [self.mixture().log_joint(rows.double()).logsumexp(dim=1) for rows in z.split(ROWS)]
        return torch.cat(parts).to(z)

    def tensors(self) -> dict[str, Tensor]:
        return {"weights": self.weights, "means": self.means, "loadings": self.loadings, "noise": self.noise}

    def settings(self) -> State:
        return {"count": self.count}


class FactorMixture:
    """The same in float64, with what the Woodbury identity needs of each component, about the centre."""

    def __init__(
        self, weights: Tensor, means: Tensor, loadings: Tensor, noise: Tensor, centre: Tensor | None = None
    ) -> None:
        self.weights, self.means, self.loadings, self.noise = weights, means, loadings, noise
        self.centre = weights @ means / weights.sum() if centre is None else centre
        self.moved = means - self.centre
        self.parts = [LowRank(w, psi) for w, psi in zip(loadings, noise, strict=True)]
        self.scaled = torch.cat([part.scaled for part in self.parts], dim=1)  # (d, k q)
        log_det = torch.stack([part.log_det for part in self.parts])
        self.constant = weights.log() - 0.5 * (log_det + means.shape[1] * math.log(2 * math.pi))

    def log_joint(self, z: Tensor) -> Tensor:
        """(n, d) -> (n, k) log w_k N(z; k)."""
        x = z - self.centre
        return self.joint(x, x.square())[0]

    def joint(self, x: Tensor, squares: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The same of rows about the centre and their squares, and each component's means of the factors (n, q)."""
        precision = 1 / self.noise
        square = squares @ precision.to(x).T - 2 * x @ (self.moved * precision).to(x).T
        square = square + (self.moved.square() * precision).sum(dim=1).to(x)
        # All components at once: thin products cost what wide ones do.
        offset = torch.cat([mean @ part.scaled for part, mean in zip(self.parts, self.moved, strict=True)])
        along = x @ self.scaled.to(x) - offset.to(x)
        factors, explained = [], []
        for part, mine in zip(self.parts, along.split(self.loadings.shape[2], dim=1), strict=True):
            factors.append(mine @ part.inverse.to(x))
            explained.append((mine * factors[-1]).sum(dim=1))
        return self.constant.to(x) - 0.5 * (square - torch.stack(explained, dim=1)).clamp(min=0), factors


def _step(mixture: FactorMixture, last: bool, chunks: Chunks, floor: float) -> tuple[float, FactorMixture, bool]:
    """One iteration, of which the last needs the likelihood alone; components that have lost their rows are dropped. ``chunks`` are
    about the mixture's centre."""
    k, d, q = mixture.loadings.shape
    shapes = ((), (k,), (k, d), (k, d), (k * q,), (d, k * q))
    total, counts, first, second, hidden, cross = (mixture.means.new_zeros(shape) for shape in shapes)
    for x, squares in chunks:
        joint, factors = mixture.joint(x, squares)
        log_likelihood = joint.logsumexp(dim=1)
        total += log_likelihood.sum(dtype=torch.float64)
        if last:
            continue
        weight = (joint - log_likelihood[:, None]).exp()
        counts += weight.sum(dim=0, dtype=torch.float64)
        first += weight.T @ x
        second += weight.T @ squares
        weighted = torch.cat([weight[:, j, None] * mine for j, mine in enumerate(factors)], dim=1)
        hidden += weighted.sum(dim=0, dtype=torch.float64)
        cross += x.T @ weighted
    if last:
        return float(total) / len(chunks.z), mixture, False
    hidden, cross = hidden.view(k, q), cross.view(d, k, q).transpose(0, 1)
    alive = counts >= EMPTY
    means, loadings, noise = [], [], []
    for j in alive.nonzero().flatten().tolist():
        # With c = z - new mean and y = beta c, the mean of the factors (beta = (I + W' psi^-1 W)^-1 W' psi^-1): S beta' is the mean of c y'.
        mean = first[j] / counts[j]
        tied = cross[j] / counts[j] - torch.outer(mean, hidden[j] / counts[j])
        variance = second[j] / counts[j] - mean.square()
        beta = mixture.parts[j].inverse @ mixture.parts[j].scaled.T
        factors_square = mixture.parts[j].inverse + beta @ tied
        weights = torch.linalg.solve(factors_square, tied.T).T
        means.append(mean + mixture.centre)
        loadings.append(weights)
        noise.append((variance - (weights * tied).sum(dim=1)).clamp(min=floor))
    shares = counts[alive] / counts[alive].sum()
    following = FactorMixture(shares, torch.stack(means), torch.stack(loadings), torch.stack(noise), mixture.centre)
    return float(total) / len(chunks.z), following, not bool(alive.all())


def leading_directions(centred: Tensor, q: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """The q largest variances (q,) of centred rows (n, d) and their directions (d, q), by subspace iteration: only d x q is formed."""
    n, d = centred.shape
    basis = torch.randn(d, q, generator=rng, device=centred.device, dtype=centred.dtype)
    for _ in range(POWER_STEPS):
        basis = torch.linalg.qr(centred.T @ (centred @ basis) / n + 1e-12 * basis).Q
    values, turn = torch.linalg.eigh((centred @ basis).T @ (centred @ basis) / n)
    return values.clamp(min=0).flip(0), basis @ turn.flip(1)
