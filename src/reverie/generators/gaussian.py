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
from reverie.generators.family import Family, Fitted, triangle
from reverie.nn.matmul import linear
from reverie.types import FittedDensity, State

Covariance = Literal["isotropic", "diagonal", "full", "low-rank", "shared"]
Shrinkage = Annotated[
    Literal["none", "ledoit-wolf", "oas"] | Annotated[float, Field(ge=0, le=1)],
    Field(
        description="share of the covariance replaced by its mean variance: a number, none, or estimated by ledoit-wolf or oas"
    ),
]

RANK = 32

# Relative to the mean variance: keeps a covariance of features that are constant, or fewer rows than dimensions, invertible.
JITTER = 1e-6


@dataclass(eq=False, repr=False)
class Gaussian(Family):
    """N(mean, covariance), fitted by its moments.

    covariance: "isotropic", the mean variance on every axis, the prototype with noise of PASS (Zhu et al. 2021); "diagonal"; "full"; "low-rank",
    the leading directions plus a diagonal that keeps every variance; "shared", one full covariance pooled within all classes, as in
    linear discriminant analysis. Shrinkage: (1 - a) S + a (tr S / d) I with a by Ledoit and Wolf 2004 or by OAS (Chen et al. 2010).
    Two Gaussians of the same class merge into the Gaussian of the union of their rows. With a full covariance S is kept as it is, and what
    a follows from, so that the union is shrunk as its rows ask; a shared one pools what has been shrunk class by class, which stays so. Low
    rank is not closed under merging: both are kept.
    """

    covariance: Annotated[Covariance, Field(description="what is kept of the covariance")] = "full"
    shrinkage: Shrinkage = "ledoit-wolf"
    rank: Annotated[int, Field(gt=0, description="leading directions (low-rank)")] = RANK

    def check(self, problems: Problems) -> None:
        if self.covariance in ("isotropic", "diagonal") and self.shrinkage not in ("ledoit-wolf", "none"):
            problems.add(
                f"shrinkage = {self.shrinkage!r}: shapes a full covariance, covariance = {self.covariance!r} has none; leave it out"
            )
        problems.check(
            self.covariance == "low-rank" or self.rank == RANK,
            f"rank = {self.rank}: has no effect with covariance = {self.covariance!r}; set covariance = 'low-rank' or leave it out",
        )

    @property
    def pooled(self) -> bool:
        """Whether the fits of all classes share one covariance, see ``pool``."""
        return self.covariance == "shared"

    @property
    def merges(self) -> bool:
        return self.covariance != "low-rank"

    def numbers(self, width: int) -> int:
        moments = width + 1 if self.shrinkage == "ledoit-wolf" else 0
        spread = {"isotropic": 1, "diagonal": width, "low-rank": width * (min(self.rank, width) + 1), "shared": 0}
        return width + spread.get(self.covariance, triangle(width) + moments)

    def rows_needed(self, width: int) -> int:
        """Fewer rows than that have a singular covariance, which shrinkage or a smaller one mends."""
        return width + 1 if self.shrinkage == "none" and self.covariance in ("full", "shared") else 1

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
        moments = radial_moments(centred, scatter) if self.shrinkage == "ledoit-wolf" else None
        alpha = shrinkage_weight(scatter, n, self.shrinkage, moments)
        if self.covariance == "full":
            moments = None if moments is None else moments.to(z)
            return FittedGaussian(n, mean, packed(scatter), "full", None, self.shrinkage, alpha, moments)
        return FittedGaussian(n, mean, packed(shrunk(scatter, alpha)), "full", self._rank(len(mean)))

    def restore(self, state: State) -> FittedGaussian:
        # A state of before shrinkage was kept apart has a covariance that is shrunk already.
        shrinkage = (state.get("shrinkage", "none"), state.get("alpha", 0.0), state.get("moments"))
        return FittedGaussian(state["count"], state["mean"], state["spread"], state["form"], state["rank"], *shrinkage)

    def pool(self, fits: Sequence[FittedDensity]) -> list[FittedDensity]:
        """The same means with the covariance pooled within all of them, weighted by their rows."""
        members = [fit for fit in fits if isinstance(fit, FittedGaussian)]
        total = sum(fit.count for fit in members)
        spread = torch.stack([fit.spread * (fit.count / total) for fit in members]).sum(dim=0)
        return [FittedGaussian(fit.count, fit.mean, spread, "full") for fit in members]

    def _rank(self, width: int) -> int | None:
        return min(self.rank, width) if self.covariance == "low-rank" else None


class FittedGaussian(Fitted):
    """mean (d,); spread: variances (d,) or (1,), a packed covariance (d (d + 1) / 2,), or, with a rank, factors and diagonal in
    one (d, rank + 1). alpha: share of a full covariance that the mean variance takes, by the rule shrinkage; moments (d + 1,): what Ledoit
    and Wolf's rule needs of the rows, see ``radial_moments``. Immutable."""

    def __init__(
        self,
        count: int,
        mean: Tensor,
        spread: Tensor,
        form: Literal["diagonal", "full", "factors"],
        rank: int | None = None,
        shrinkage: str | float = "none",
        alpha: float = 0.0,
        moments: Tensor | None = None,
    ) -> None:
        if form == "full" and rank is not None:
            spread, form = _factors(unpacked(spread, len(mean)), rank), "factors"
        self.count, self.mean, self.spread, self.form, self.rank = count, mean, spread, form, rank
        self.shrinkage, self.alpha, self.moments = shrinkage, alpha, moments
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
        return shrunk(unpacked(self.spread, self.width), self.alpha)

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

    def union(self, other: Fitted) -> FittedGaussian | None:
        """n = n1 + n2, and the moments of the mixture of the two. Low rank is not closed under it, so both are kept."""
        if not isinstance(other, FittedGaussian) or self.form == "factors" or self.spread.shape != other.spread.shape:
            return None
        n = self.count + other.count
        a, b = self.count / n, other.count / n
        mean = a * self.mean + b * other.mean
        apart = self.mean - other.mean
        if self.form == "diagonal":
            between = apart.square()
            between = between.mean().reshape(1) if len(self.spread) == 1 else between
            return FittedGaussian(n, mean, a * self.spread + b * other.spread + a * b * between, self.form)
        if self.shrinkage != other.shrinkage:  # what was shrunk by different rules stays so
            covariance = a * self.covariance() + b * other.covariance() + a * b * torch.outer(apart, apart)
            return FittedGaussian(n, mean, packed(covariance), "full")
        within = [unpacked(fit.spread, self.width) for fit in (self, other)]
        covariance = a * within[0] + b * within[1] + a * b * torch.outer(apart, apart)
        moments = None
        if self.moments is not None and other.moments is not None:
            parts = ((a, self.moments, within[0], b * apart), (b, other.moments, within[1], -a * apart))
            moments = joined_moments(parts, covariance).to(mean)
        alpha = shrinkage_weight(covariance, n, self.shrinkage, moments)
        return FittedGaussian(n, mean, packed(covariance), "full", None, self.shrinkage, alpha, moments)

    def tensors(self) -> dict[str, Tensor]:
        moments = {} if self.moments is None else {"moments": self.moments}
        return {"mean": self.mean, "spread": self.spread, **moments}

    def settings(self) -> State:
        shrinkage = {"shrinkage": self.shrinkage, "alpha": self.alpha}
        return {"count": self.count, "form": self.form, "rank": self.rank, **shrinkage}


# ---------------------------------------------------------------------------------- covariances


def shrunk(covariance: Tensor, alpha: float) -> Tensor:
    """(1 - alpha) S + alpha (tr S / d) I."""
    mean_variance = covariance.diagonal().mean()
    result = (1 - alpha) * covariance
    result.diagonal().add_(alpha * mean_variance)
    return result


def shrinkage_weight(covariance: Tensor, n: int, rule: str | float, moments: Tensor | None = None) -> float:
    """Weight of the spherical target for n rows of covariance S = centred' centred / n (d, d).

    "ledoit-wolf": Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices", lemma 3.2 to 3.4,
    from S and the rows' ``radial_moments``; "oas": Chen, Wiesel, Eldar and Hero 2010, equation 23 as printed (scikit-learn's leaves out its
    terms in 2 / d).
    """
    if rule == "none":
        return 0.0
    if not isinstance(rule, str):
        return float(rule)
    d = len(covariance)
    mean_variance = float(covariance.diagonal().mean(dtype=torch.float64))
    norm = float(covariance.square().sum(dtype=torch.float64))
    trace = mean_variance * d
    if rule == "oas":
        top = (1 - 2 / d) * norm + trace**2
        bottom = (n + 1 - 2 / d) * (norm - trace**2 / d)
        return 1.0 if bottom <= 0 else min(max(top / bottom, 0.0), 1.0)
    assert moments is not None
    distance = norm / d - mean_variance**2
    # Mean squared distance of the single rows' outer products to S, over n: |x x' - S|^2 summed is sum |x|^4 - n |S|^2.
    error = (float(moments[-1]) * trace**2 - norm) / (n * d)
    return 1.0 if distance <= 0 else min(max(error, 0.0) / distance, 1.0)


def radial_moments(centred: Tensor, covariance: Tensor) -> Tensor:
    """(n, d) -> (d + 1,) in float64: the means of |x|^2 x and of |x|^4, by t^1.5 and t^2, t the trace of the covariance. The last alone
    decides the shrinkage; with the others it can be told for a union of rows."""
    squares = centred.square().sum(dim=1).double()
    trace = covariance.diagonal().sum(dtype=torch.float64)
    if not float(trace):
        return squares.new_zeros(centred.shape[1] + 1)
    shares = squares / trace
    third = (centred.T @ shares.to(centred)).double() / (len(centred) * trace.sqrt())
    return torch.cat([third, shares.square().mean().reshape(1)])


def joined_moments(parts: Sequence[tuple[float, Tensor, Tensor, Tensor]], covariance: Tensor) -> Tensor:
    """``radial_moments`` of a union of rows of this covariance (d, d). parts: of each its share of the rows, its moments, its covariance, and
    how far its mean is from that of the union (d,): |x + a|^2 (x + a) and |x + a|^4 multiplied out, of which what is odd in x
    alone is 0 in the mean."""
    third, fourth = covariance.new_zeros(len(covariance)).double(), covariance.new_zeros(()).double()
    for share, moments, within, apart in parts:
        own, a, spread = moments.double(), apart.double(), within.double()
        trace, far, turned = spread.diagonal().sum(), a.square().sum(), spread @ a
        skew = own[:-1] * trace**1.5
        third += share * (skew + trace * a + 2 * turned + far * a)
        fourth += share * (own[-1] * trace**2 + 4 * skew @ a + 4 * a @ turned + 2 * trace * far + far**2)
    trace = covariance.diagonal().sum(dtype=torch.float64)
    return (
        torch.cat([third / trace**1.5, (fourth / trace**2).reshape(1)])
        if float(trace)
        else third.new_zeros(len(third) + 1)
    )


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
