"""Gaussian densities of latents: isotropic, diagonal, full, low rank plus diagonal, or one covariance shared by all classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from scipy.sparse.linalg import eigsh
from torch import Tensor

from reverie.checks import NotReadyError, Problems
from reverie.generators.family import Family, triangle
from reverie.nn.matmul import linear
from reverie.types import FittedDensity, State

Covariance = Literal["isotropic", "diagonal", "full", "low-rank", "shared"]
Shrinkage = Annotated[
    Literal["none", "ledoit-wolf", "oas"] | Annotated[float, Field(ge=0, le=1)],
    Field(
        description="share of the covariance replaced by its mean variance: a number, none, or estimated by ledoit-wolf or oas"
    ),
]

# Relative to the mean variance: keeps a covariance of features that are constant, or fewer rows than dimensions, invertible.
JITTER = 1e-6


@dataclass(eq=False, repr=False)
class Gaussian(Family):
    """N(mean, covariance), fitted by its moments.

    covariance: "isotropic", the mean variance on every axis, the prototype with noise of PASS (Zhu et al. 2021); "diagonal"; "full"; "low-rank",
    the leading directions plus a diagonal that keeps every variance; "shared", one full covariance pooled within all classes, as in
    linear discriminant analysis. Shrinkage: (1 - a) S + a (tr S / d) I with a by Ledoit and Wolf 2004 or by OAS (Chen et al. 2010).
    Two Gaussians of the same class merge into the Gaussian of the union of their rows: exactly without shrinkage; with it, what was
    shrunk before stays so. Low rank is not closed under merging: both are kept.
    """

    covariance: Annotated[Covariance, Field(description="what is kept of the covariance")] = "full"
    shrinkage: Shrinkage = "ledoit-wolf"
    rank: Annotated[int, Field(gt=0, description="leading directions (low-rank)")] = 32

    def check(self, problems: Problems) -> None:
        if self.covariance in ("isotropic", "diagonal") and self.shrinkage not in ("ledoit-wolf", "none"):
            problems.add(
                f"shrinkage = {self.shrinkage!r}: shapes a full covariance, covariance = {self.covariance!r} has none; leave it out"
            )

    @property
    def pooled(self) -> bool:
        """Whether the fits of all classes share one covariance, see ``pool``."""
        return self.covariance == "shared"

    @property
    def merges(self) -> bool:
        return self.covariance != "low-rank"

    def numbers(self, width: int) -> int:
        spread = {"isotropic": 1, "diagonal": width, "low-rank": width * (min(self.rank, width) + 1), "shared": 0}
        return width + spread.get(self.covariance, triangle(width))

    def fit(self, z: Tensor, rng: torch.Generator) -> FittedGaussian:
        mean = z.mean(dim=0)
        centred = z - mean
        n = len(z)
        if self.covariance in ("isotropic", "diagonal"):
            variance = centred.square().mean(dim=0)
            if self.covariance == "isotropic":
                variance = variance.mean().reshape(1)
            return FittedGaussian(n, mean, variance, "diagonal")
        scatter = centred.T @ centred / n
        alpha = shrinkage_weight(scatter, centred, self.shrinkage)
        return FittedGaussian(n, mean, packed(shrunk(scatter, alpha)), "full", self._rank(len(mean)))

    def restore(self, state: State) -> FittedGaussian:
        return FittedGaussian(state["count"], state["mean"], state["spread"], state["form"], state["rank"])

    def pool(self, fits: Sequence[FittedDensity]) -> list[FittedDensity]:
        """The same means with the covariance pooled within all of them, weighted by their rows."""
        members = [fit for fit in fits if isinstance(fit, FittedGaussian)]
        total = sum(fit.count for fit in members)
        spread = torch.stack([fit.spread * (fit.count / total) for fit in members]).sum(dim=0)
        return [FittedGaussian(fit.count, fit.mean, spread, "full") for fit in members]

    def _rank(self, width: int) -> int | None:
        return min(self.rank, width) if self.covariance == "low-rank" else None


class FittedGaussian:
    """mean (d,); spread: variances (d,) or (1,), a packed covariance (d (d + 1) / 2,), or, with a rank, factors and diagonal in
    one (d, rank + 1). Immutable."""

    def __init__(
        self,
        count: int,
        mean: Tensor,
        spread: Tensor,
        form: Literal["diagonal", "full", "factors"],
        rank: int | None = None,
    ) -> None:
        if form == "full" and rank is not None:
            spread, form = _factors(unpacked(spread, len(mean)), rank), "factors"
        self.count, self.mean, self.spread, self.form, self.rank = count, mean, spread, form, rank
        self._root: Tensor | None = None
        self._whitening: Tensor | None = None

    @property
    def width(self) -> int:
        return len(self.mean)

    def covariance(self) -> Tensor:
        """(d, d)."""
        if self.form == "diagonal":
            return torch.diag(self.spread.expand(self.width))
        if self.form == "factors":
            return self.spread[:, :-1] @ self.spread[:, :-1].T + torch.diag(self.spread[:, -1])
        return unpacked(self.spread, self.width)

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        def noise(width: int) -> Tensor:
            return torch.randn(n, width, generator=rng, device=self.mean.device, dtype=self.mean.dtype)

        if self.form == "factors":
            inner = noise(self.spread.shape[1] - 1)
            return self.mean + inner @ self.spread[:, :-1].T + noise(self.width) * self.spread[:, -1].sqrt()
        if self.form == "diagonal":
            return self.mean + noise(self.width) * self.spread.sqrt()
        return self.mean + linear(noise(self.width), self.root())

    def log_prob(self, z: Tensor) -> Tensor:
        centred = z - self.mean
        constant = self.width * math.log(2 * math.pi)
        if self.form == "diagonal":
            variance = _floored(self.spread.expand(self.width))
            return -0.5 * ((centred.square() / variance).sum(dim=1) + variance.log().sum() + constant)
        if self.form == "factors":
            spread = self.spread.double()
            return LowRank(spread[:, :-1], spread[:, -1]).log_prob(centred.double()).to(z)
        whitened = linear(centred, self.whitening())
        return -0.5 * (whitened.square().sum(dim=1) + constant) - self.root().diagonal().log().sum()

    def root(self) -> Tensor:
        """Cholesky factor of the covariance (d, d), computed once."""
        if self._root is None:
            self._root = cholesky(self.covariance())
        return self._root

    def whitening(self) -> Tensor:
        """The inverse of ``root`` (d, d), computed once in float64: a product is more than twice as fast as solving by the factor."""
        if self._whitening is None:
            root = self.root().double()
            eye = torch.eye(self.width, dtype=root.dtype, device=root.device)
            self._whitening = torch.linalg.solve_triangular(root, eye, upper=False).to(self.mean.dtype)
        return self._whitening

    def merge(self, other: FittedDensity) -> FittedGaussian | None:
        """Of the union of both sets of rows: n = n1 + n2, and the moments of the mixture of the two. Low rank is not
        closed under it, so both are kept."""
        if not isinstance(other, FittedGaussian) or self.form == "factors":
            return None
        if self.width != other.width or self.form != other.form or self.spread.shape != other.spread.shape:
            raise NotReadyError(
                f"a Gaussian of width {self.width} ({self.form}) cannot be merged with one of width {other.width} ({other.form})"
            )
        n = self.count + other.count
        a, b = self.count / n, other.count / n
        mean = a * self.mean + b * other.mean
        apart = self.mean - other.mean
        if self.form == "diagonal":
            between = apart.square()
            between = between.mean().reshape(1) if len(self.spread) == 1 else between
            return FittedGaussian(n, mean, a * self.spread + b * other.spread + a * b * between, self.form)
        covariance = a * self.covariance() + b * other.covariance() + a * b * torch.outer(apart, apart)
        return FittedGaussian(n, mean, packed(covariance), "full")

    def tensors(self) -> dict[str, Tensor]:
        return {"mean": self.mean, "spread": self.spread}

    def settings(self) -> State:
        return {"count": self.count, "form": self.form, "rank": self.rank}


# ---------------------------------------------------------------------------------- covariances


def shrunk(covariance: Tensor, alpha: float) -> Tensor:
    """(1 - alpha) S + alpha (tr S / d) I."""
    mean_variance = covariance.diagonal().mean()
    result = (1 - alpha) * covariance
    result.diagonal().add_(alpha * mean_variance)
    return result


def shrinkage_weight(covariance: Tensor, centred: Tensor, rule: str | float) -> float:
    """Weight of the spherical target for rows already centred (n, d) with covariance S = centred' centred / n.

    "ledoit-wolf": Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices", lemma 3.2 to 3.4;
    "oas": Chen, Wiesel, Eldar and Hero 2010, equation 23 as printed (scikit-learn's leaves out its terms in 2 / d).
    """
    if rule == "none":
        return 0.0
    if not isinstance(rule, str):
        return float(rule)
    n, d = centred.shape
    mean_variance = float(covariance.diagonal().mean(dtype=torch.float64))
    norm = float(covariance.square().sum(dtype=torch.float64))
    if rule == "oas":
        trace = mean_variance * d
        top = (1 - 2 / d) * norm + trace**2
        bottom = (n + 1 - 2 / d) * (norm - trace**2 / d)
        return 1.0 if bottom <= 0 else min(max(top / bottom, 0.0), 1.0)
    distance = norm / d - mean_variance**2
    # Mean squared distance of the single rows' outer products to S, over n: |x x' - S|^2 summed is sum |x|^4 - n |S|^2.
    fourth = float(centred.square().sum(dim=1).double().square().sum())
    error = (fourth / n - norm) / (n * d)
    return 1.0 if distance <= 0 else min(max(error, 0.0) / distance, 1.0)


class LowRank:
    """Of a covariance W W' + diag(psi), W (d, q): inverse and determinant by the Woodbury identity, never d x d. In float64."""

    def __init__(self, weights: Tensor, psi: Tensor) -> None:
        self.psi = psi
        self.scaled = weights / psi[:, None]  # psi^-1 W (d, q)
        inner = weights.T @ self.scaled
        inner.diagonal().add_(1)
        root = torch.linalg.cholesky(inner)
        self.inverse = torch.cholesky_inverse(root)  # (I + W' psi^-1 W)^-1 (q, q)
        self.log_det = psi.log().sum() + 2 * root.diagonal().log().sum()

    def log_prob(self, centred: Tensor) -> Tensor:
        """(n, d) -> (n,) nats under a mean of zero."""
        along = centred @ self.scaled
        square = centred.square() @ (1 / self.psi) - ((along @ self.inverse) * along).sum(dim=1)
        return -0.5 * (square.clamp(min=0) + self.log_det + len(self.psi) * math.log(2 * math.pi))


def cholesky(covariance: Tensor) -> Tensor:
    """Lower factor; computed in float64, with little added to the diagonal: 1e-6 of the mean variance, more only where it must be."""
    matrix = covariance.double()
    scale = float(matrix.diagonal().mean()) or 1.0
    for jitter in (JITTER, 1e-4, 1e-2, 1.0):
        shifted = matrix.clone()
        shifted.diagonal().add_(jitter * scale)
        factor, info = torch.linalg.cholesky_ex(shifted)
        if int(info) == 0:
            return factor.to(covariance.dtype)
    raise NotReadyError("the covariance is not finite, so nothing can be sampled; are the latents finite?")


def packed(symmetric: Tensor) -> Tensor:
    """The lower triangle, row by row: half the numbers."""
    rows, columns = torch.tril_indices(*symmetric.shape, device=symmetric.device)
    return symmetric[rows, columns]


def unpacked(triangle: Tensor, width: int) -> Tensor:
    result = triangle.new_zeros(width, width)
    rows, columns = torch.tril_indices(width, width, device=triangle.device)
    result[rows, columns] = triangle
    result[columns, rows] = triangle
    return result


def _factors(covariance: Tensor, rank: int) -> Tensor:
    """(d, rank + 1): W and psi of W W' + diag(psi), the ``rank`` leading directions above the mean of the other
    variances (Tipping and Bishop 1999), and the diagonal that keeps each variance."""
    width = len(covariance)
    values, vectors = _leading(covariance.double(), rank)
    total = covariance.diagonal().sum(dtype=torch.float64)
    rest = (total - values.sum()) / (width - rank) if rank < width else total.new_zeros(())
    weights = vectors * (values - rest).clamp(min=0).sqrt()
    diagonal = covariance.diagonal().double() - weights.square().sum(dim=1)
    diagonal = diagonal.clamp(min=JITTER * float(total.abs() / width or 1.0))
    return torch.cat([weights, diagonal[:, None]], dim=1).to(covariance.dtype)


def _leading(covariance: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues (rank,) and their eigenvectors (d, rank); by Lanczos iteration where they are few of many: at a width of
    4,608 the whole decomposition takes minutes, 32 directions seconds."""
    if 8 * rank >= len(covariance) or not bool(covariance.any()):
        values, vectors = torch.linalg.eigh(covariance)
        return values[-rank:], vectors[:, -rank:]
    start = np.ones(len(covariance))  # any vector serves, a fixed one makes it repeatable
    values, vectors = eigsh(covariance.cpu().numpy(), rank, which="LA", v0=start)
    return torch.from_numpy(values).to(covariance), torch.from_numpy(vectors).to(covariance)


def _floored(variance: Tensor) -> Tensor:
    return variance.clamp(min=JITTER * float(variance.mean()) or JITTER)
