"""Mixtures of factor analysers: many dimensions, few numbers. Nothing here is as large as d x d."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from reverie.generators.clustering import ROWS, k_means
from reverie.generators.gaussian import LowRank
from reverie.generators.gmm import EMPTY, absolute_floor, climb
from reverie.options import Part
from reverie.types import FittedDensity, State

POWER_STEPS = 4  # products with the covariance from which the first loadings come


@dataclass(eq=False, repr=False)
class MixtureOfFactorAnalysers(Part):
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
    tolerance: Annotated[
        float, Field(ge=0, description="stops where the mean log-likelihood gains less than this, in nats a row")
    ] = 1e-3
    iterations: Annotated[int, Field(gt=0, description="most iterations")] = 100

    def fit(self, z: Tensor, rng: torch.Generator) -> FittedFactorAnalysers:
        floor = absolute_floor(z, self.floor)
        start = self._start(z, k_means(z, self.components, rng)[1], floor, rng)
        best, _ = climb(start, lambda mixture: _step(mixture, z, floor), self.tolerance, self.iterations)
        return FittedFactorAnalysers(
            len(z), best.weights.to(z), best.means.to(z), best.loadings.to(z), best.noise.to(z)
        )

    def restore(self, state: State) -> FittedFactorAnalysers:
        return FittedFactorAnalysers(
            state["count"], state["weights"], state["means"], state["loadings"], state["noise"]
        )

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


class FittedFactorAnalysers:
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

    def merge(self, other: FittedDensity) -> None:
        """The fit of the union cannot be told from two fits."""
        return

    def tensors(self) -> dict[str, Tensor]:
        return {"weights": self.weights, "means": self.means, "loadings": self.loadings, "noise": self.noise}

    def settings(self) -> State:
        return {"count": self.count}


class FactorMixture:
    """The same in float64, with what the Woodbury identity needs of each component."""

    def __init__(self, weights: Tensor, means: Tensor, loadings: Tensor, noise: Tensor) -> None:
        self.weights, self.means, self.loadings, self.noise = weights, means, loadings, noise
        self.parts = [LowRank(w, psi) for w, psi in zip(loadings, noise, strict=True)]

    def log_joint(self, z: Tensor) -> Tensor:
        """(n, d) -> (n, k) log w_k N(z; k)."""
        logs = [part.log_prob(z - mean) for part, mean in zip(self.parts, self.means, strict=True)]
        return self.weights.log() + torch.stack(logs, dim=1)


def _step(mixture: FactorMixture, z: Tensor, floor: float) -> tuple[float, FactorMixture, bool]:
    """One iteration; components that have lost their rows are dropped."""
    k, d, q = mixture.loadings.shape
    shapes = ((), (k,), (k, d), (k, d), (k, d, q))
    total, counts, first, square, cross = (mixture.means.new_zeros(shape) for shape in shapes)
    # beta z is the mean of the factors: beta = (I + W' psi^-1 W)^-1 W' psi^-1 (q, d)
    beta = [part.inverse @ part.scaled.T for part in mixture.parts]
    for rows in z.split(ROWS):
        x = rows.double()
        joint = mixture.log_joint(x)
        log_likelihood = joint.logsumexp(dim=1)
        total += log_likelihood.sum()
        weight = (joint - log_likelihood[:, None]).exp()
        counts += weight.sum(dim=0)
        for j in range(k):
            centred = x - mixture.means[j]
            weighted = weight[:, j, None] * centred
            first[j] += weighted.sum(dim=0)
            square[j] += (weighted * centred).sum(dim=0)
            cross[j] += weighted.T @ (centred @ beta[j].T)
    alive = counts >= EMPTY
    means, loadings, noise = [], [], []
    for j in alive.nonzero().flatten().tolist():
        shift = first[j] / counts[j]
        variance = square[j] / counts[j] - shift.square()
        covariance = cross[j] / counts[j] - torch.outer(shift, beta[j] @ shift)  # S beta' (d, q) about the new mean
        factors = mixture.parts[j].inverse + beta[j] @ covariance  # mean of x x'
        weights = torch.linalg.solve(factors, covariance.T).T
        means.append(mixture.means[j] + shift)
        loadings.append(weights)
        noise.append((variance - (weights * covariance).sum(dim=1)).clamp(min=floor))
    following = FactorMixture(
        counts[alive] / counts[alive].sum(), torch.stack(means), torch.stack(loadings), torch.stack(noise)
    )
    return float(total) / len(z), following, not bool(alive.all())


def leading_directions(centred: Tensor, q: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """The q largest variances (q,) of centred rows (n, d) and their directions (d, q), by subspace iteration: only d x q is formed."""
    n, d = centred.shape
    basis = torch.randn(d, q, generator=rng, device=centred.device, dtype=centred.dtype)
    for _ in range(POWER_STEPS):
        basis = torch.linalg.qr(centred.T @ (centred @ basis) / n + 1e-12 * basis).Q
    values, turn = torch.linalg.eigh((centred @ basis).T @ (centred @ basis) / n)
    return values.clamp(min=0).flip(0), basis @ turn.flip(1)
