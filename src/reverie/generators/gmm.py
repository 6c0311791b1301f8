"""Mixtures of Gaussians, fitted by expectation maximisation of our own: in log space, a few thousand rows at a time.

Rows stay in their own precision; parameters, and sums over more rows than a chunk, are float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import one_hot

from reverie.checks import Problems
from reverie.generators.clustering import ROWS, Chunks, k_means, middle_of
from reverie.generators.family import Family, Fitted, triangle
from reverie.generators.gaussian import JITTER, cholesky, packed, unpacked
from reverie.nn.matmul import linear
from reverie.types import State

Form = Literal["spherical", "diagonal", "tied", "full"]
Parameters = TypeVar("Parameters")

Floor = Annotated[
    float, Field(gt=0, description="added to every variance, as a share of the mean variance of all rows")
]
Tolerance = Annotated[
    float, Field(ge=0, description="stops where the mean log-likelihood gains less than this, in nats a row")
]
Iterations = Annotated[int, Field(gt=0, description="most iterations")]

EMPTY = 1e-3  # rows: a component with fewer is empty
RESEEDS = 5  # times that empty components are put elsewhere before they are dropped
COMPONENTS, MOST = 4, 8
HELD_OUT = 0.2  # share of the rows by which the number of components is judged


@dataclass(eq=False, repr=False)
class GaussianMixture(Family):
    """sum_k w_k N(mean_k, covariance_k) by expectation maximisation (Dempster, Laird and Rubin 1977), begun at k-means++.

    choose: "fixed", ``components`` of them; "bic", the number up to ``most`` with the smallest -2 l + p ln n (Schwarz 1978); "held-out",
    the number under which a fifth of the rows, not fitted to, is likeliest. Never more than there are rows. Two mixtures do
    not merge: both are kept.
    """

    covariance: Annotated[
        Form, Field(description="of each component: spherical; diagonal; full; or tied, one full covariance for all")
    ] = "diagonal"
    components: Annotated[int, Field(gt=0, description="components (choose: fixed)")] = COMPONENTS
    choose: Annotated[
        Literal["fixed", "bic", "held-out"], Field(description="how the number of components is found")
    ] = "fixed"
    most: Annotated[int, Field(gt=0, description="most components that are tried (choose: bic, held-out)")] = MOST
    floor: Floor = 1e-4
    tolerance: Tolerance = 1e-3
    iterations: Iterations = 100

    def check(self, problems: Problems) -> None:
        idle, usual = ("most", MOST) if self.choose == "fixed" else ("components", COMPONENTS)
        value = getattr(self, idle)
        problems.check(
            value == usual,
            f"{idle} = {value}: has no effect with choose = {self.choose!r}; give {'components' if idle == 'most' else 'most'} instead",
        )

    def fit(self, z: Tensor, rng: torch.Generator) -> FittedMixture:
        floor = absolute_floor(z, self.floor)
        return self._best(z, rng, floor).cast(len(z), z)

    def restore(self, state: State) -> FittedMixture:
        return FittedMixture(state["count"], state["weights"], state["means"], state["spread"], state["form"])

    def numbers(self, width: int) -> int | None:
        if self.choose != "fixed":
            return None
        k, half = self.components, triangle(width)
        spread = {"spherical": k, "diagonal": k * width, "tied": half, "full": k * half}
        return k * (1 + width) + spread[self.covariance]

    def _best(self, z: Tensor, rng: torch.Generator, floor: float) -> Mixture:
        if self.choose == "fixed" or len(z) < 2:
            return self._climb(z, self.components, rng, floor)
        candidates = range(1, min(self.most, len(z)) + 1)
        if self.choose == "bic":
            fits = [self._climb(z, k, rng, floor) for k in candidates]
            return min(fits, key=lambda fit: bic(fit, z))
        order = torch.randperm(len(z), generator=rng, device=z.device)
        held = max(round(HELD_OUT * len(z)), 1)
        judged, rest = z[order[:held]], z[order[held:]]
        values = [mean_log_likelihood(self._climb(rest, k, rng, floor), judged) for k in candidates]
        return self._climb(z, values.index(max(values)) + 1, rng, floor)

    def _climb(self, z: Tensor, k: int, rng: torch.Generator, floor: float) -> Mixture:
        chunks = _chunks(z, self.covariance)
        start = hard_mixture(z, k_means(z, k, rng)[1], self.covariance, floor, chunks)
        return expectation_maximisation(z, start, floor, self.tolerance, self.iterations, chunks)[0]


class FittedMixture(Fitted):
    """weights (k,); means (k, d); spread: variances (k,) or (k, d), or packed covariances (d (d + 1) / 2,) or (k, d (d + 1) / 2).
    Immutable."""

    def __init__(self, count: int, weights: Tensor, means: Tensor, spread: Tensor, form: Form) -> None:
        self.count, self.weights, self.means, self.spread, self.form = count, weights, means, spread, form
        self._mixture: Mixture | None = None
        self._root: Tensor | None = None

    def mixture(self) -> Mixture:
        """In float64 with all that a likelihood needs, computed once."""
        if self._mixture is None:
            self._mixture = Mixture(self.form, self.weights.double(), self.means.double(), self._covariance())
        return self._mixture

    def root(self) -> Tensor:
        """Cholesky factors of tied (d, d) or full (k, d, d) covariances, found in float64 and kept in the means' type."""
        if self._root is None:
            self._root = roots(self._covariance()).to(self.means)
        return self._root

    def _covariance(self) -> Tensor:
        """In float64: (k,), (k, d), (d, d) or (k, d, d)."""
        spread = self.spread.double()
        if self.form == "full":
            return torch.stack([unpacked(one, self.width) for one in spread])
        return unpacked(spread, self.width) if self.form == "tied" else spread

    @property
    def width(self) -> int:
        return self.means.shape[1]

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        which = torch.multinomial(self.weights, max(n, 1), replacement=True, generator=rng)[:n]
        noise = torch.randn(n, self.width, generator=rng, device=self.means.device, dtype=self.means.dtype)
        if self.form == "spherical":
            noise = noise * self.spread[which, None].sqrt()
        elif self.form == "diagonal":
            noise = noise * self.spread[which].sqrt()
        elif self.form == "tied":
            noise = linear(noise, self.root())
        else:
            for k, root in enumerate(self.root()):
                noise[which == k] = linear(noise[which == k], root)
        return noise.add_(self.means[which])

    def log_prob(self, z: Tensor) -> Tensor:
        parts = [self.mixture().log_joint(rows.double()).logsumexp(dim=1) for rows in z.split(ROWS)]
        return torch.cat(parts).to(z)

    def tensors(self) -> dict[str, Tensor]:
        return {"weights": self.weights, "means": self.means, "spread": self.spread}

    def settings(self) -> State:
        return {"count": self.count, "form": self.form}


class Mixture:
    """A mixture in float64: weights (k,), means (k, d), covariance (k,), (k, d), (d, d) or (k, d, d). Squares are taken about the
    centre, by default the mixture's mean, so that a common offset costs no digits."""

    def __init__(
        self, form: Form, weights: Tensor, means: Tensor, covariance: Tensor, centre: Tensor | None = None
    ) -> None:
        self.form, self.weights, self.means, self.covariance = form, weights, means, covariance
        self.centre = weights @ means / weights.sum() if centre is None else centre

    @cached_property
    def root(self) -> Tensor:
        """Cholesky factors (d, d) or (k, d, d)."""
        return roots(self.covariance)

    @cached_property
    def inverse(self) -> Tensor:
        """Of the root: what whitens."""
        identity = torch.eye(self.means.shape[1], dtype=self.means.dtype, device=self.means.device)
        return torch.linalg.solve_triangular(self.root, identity.expand_as(self.root), upper=False)

    @cached_property
    def precision(self) -> Tensor:
        """Inverse of a tied covariance (d, d)."""
        return torch.cholesky_inverse(self.root)

    @cached_property
    def discriminant(self) -> tuple[Tensor, Tensor]:
        """Of a tied covariance: what a row's log-likelihoods are linear in but for a number for each row, (k, d) and (k,)."""
        means = self.means - self.centre
        slope = means @ self.precision
        return slope, self.constant - 0.5 * (slope * means).sum(dim=1)

    @cached_property
    def constant(self) -> Tensor:
        """(k,) the part of ``log_joint`` that no row changes."""
        width = self.means.shape[1]
        if self.form == "spherical":
            log_det = self.covariance.log() * width
        elif self.form == "diagonal":
            log_det = self.covariance.log().sum(dim=1)
        else:
            log_det = 2 * self.root.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
        return self.weights.log() - 0.5 * (width * math.log(2 * math.pi) + log_det)

    def cast(self, count: int, like: Tensor) -> FittedMixture:
        """In the type of other numbers, and packed; count: the rows that it was fitted to."""
        spread = self.covariance.to(like)
        if self.form == "tied":
            spread = packed(spread)
        elif self.form == "full":
            spread = torch.stack([packed(one) for one in spread])
        return FittedMixture(count, self.weights.to(like), self.means.to(like), spread, self.form)

    def log_joint(self, z: Tensor) -> Tensor:
        """(n, d) -> (n, k) log w_k N(z; k)."""
        x = z - self.centre
        return self.joint(x, x.square() if self.form in ("spherical", "diagonal") else x)

    def joint(self, x: Tensor, squares: Tensor) -> Tensor:
        """The same of rows about the centre; squares: theirs, used where covariances have no more than a diagonal."""
        means = self.means - self.centre
        if self.form == "full":
            pairs = zip(means.to(x), self.inverse.to(x), strict=True)
            square = torch.stack([((x - mean) @ inverse.T).square().sum(dim=1) for mean, inverse in pairs], dim=1)
            return self.constant.to(x) - 0.5 * square
        if self.form == "tied":
            x, means = x @ self.inverse.to(x).T, means @ self.inverse.T
            square = x.square().sum(dim=1, keepdim=True) - 2 * x @ means.to(x).T + means.square().sum(dim=1).to(x)
        else:
            precision = (1 / self.covariance).reshape(len(means), -1).expand_as(means)
            offset = (means.square() * precision).sum(dim=1)
            square = squares @ precision.to(x).T - 2 * x @ (means * precision).to(x).T + offset.to(x)
        return self.constant.to(x) - 0.5 * square.clamp(min=0)

    def evidence(self, x: Tensor, squares: Tensor) -> Tensor:
        """The same up to a number for each row, where that saves work: what a tied covariance makes of the row alone."""
        if self.form != "tied":
            return self.joint(x, squares)
        slope, offset = self.discriminant
        return linear(x, slope.to(x), offset.to(x))

    def left_out(self, chunks: Chunks) -> Tensor | float:
        """The sum over all rows of what ``evidence`` leaves out."""
        return 0.5 * (self.precision * chunks.moment).sum() if self.form == "tied" else 0.0

    def parameters(self) -> int:
        """Free ones: p in the BIC."""
        k, d = self.means.shape
        half = triangle(d)
        return k * d + k - 1 + {"spherical": k, "diagonal": k * d, "tied": half, "full": k * half}[self.form]


# ---------------------------------------------------------------------------------- expectation maximisation


def expectation_maximisation(
    z: Tensor,
    start: Mixture,
    floor: float,
    tolerance: float,
    iterations: int,
    chunks: Chunks | None = None,
    reseeds: int = RESEEDS,
) -> tuple[Mixture, list[float]]:
    """The best mixture met, and the mean log-likelihood before each iteration and after the last.

    ``floor`` is added to every variance at each maximisation, as scikit-learn's ``reg_covar`` is. chunks: of z, where they were
    made before. reseeds: times that empty components are put elsewhere before they are dropped.
    """
    chunks = chunks or _chunks(z, start.form)

    def step(mixture: Mixture, last: bool) -> tuple[float, Mixture, bool]:
        nonlocal reseeds
        sums = _Sums(mixture.form, chunks, len(mixture.weights))
        total = chunks.middle.new_zeros(())
        for x, squares in chunks:
            weight, log_likelihood = _responsibilities(mixture.evidence(x, squares))
            total += log_likelihood.sum(dtype=torch.float64)
            if not last:
                sums.add(x, squares, weight)
        value = float(total - mixture.left_out(chunks)) / len(z)
        if last:
            return value, mixture, False
        empty = sums.counts < EMPTY
        moved = bool(empty.any())
        if not moved:
            return value, sums.maximised(floor), False
        found = sums.maximised(floor, ~empty)
        if reseeds > 0:
            reseeds -= 1
            found = _reseeded(found, z[_worst(mixture, chunks, int(empty.sum()))].double())
        return value, found, True

    if not torch.equal(start.centre, chunks.middle):
        start = Mixture(start.form, start.weights, start.means, start.covariance, chunks.middle)
    return climb(start, step, tolerance, iterations)


def _responsibilities(evidence: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax (n, k) and logsumexp (n,) of evidence (n, k), which is overwritten: one exponential for both."""
    top = evidence.amax(dim=1, keepdim=True)
    weight = evidence.sub_(top).exp_()
    total = weight.sum(dim=1, keepdim=True)
    return weight.div_(total), (top + total.log()).squeeze(1)


def _worst(mixture: Mixture, chunks: Chunks, m: int) -> Tensor:
    """The m rows that the mixture explains least."""
    values = torch.cat([mixture.joint(x, squares).logsumexp(dim=1) for x, squares in chunks])
    return values.topk(m, largest=False).indices


def climb(
    start: Parameters,
    step: Callable[[Parameters, bool], tuple[float, Parameters, bool]],
    tolerance: float,
    iterations: int,
) -> tuple[Parameters, list[float]]:
    """Repeats ``step`` (the value of the parameters; the next ones; whether those are no longer bound to be better) until the
    value gains less than ``tolerance``; the last step is told that none follows, so that it need not find the next ones. The best
    parameters met, and all values."""
    best, current, free = start, start, True
    values: list[float] = []
    for iteration in range(iterations + 1):
        value, following, moved = step(current, iteration == iterations)
        if not values or value > max(values):
            best = current
        values.append(value)
        if (not free and value - values[-2] < tolerance) or iteration == iterations:
            break
        current, free = following, moved
    return best, values


class _Sums:
    """What a maximisation needs of rows and responsibilities (n, k), added up over chunks about the mean of all rows."""

    def __init__(self, form: Form, chunks: Chunks, k: int) -> None:
        width = chunks.z.shape[1]
        self.form, self.chunks = form, chunks
        shapes = ((k,), (k, width), (k, width, width) if form == "full" else (k, width))
        self.counts, self.first, self.second = (chunks.middle.new_zeros(shape) for shape in shapes)

    def add(self, x: Tensor, squares: Tensor, weight: Tensor) -> None:
        self.counts += weight.sum(dim=0, dtype=torch.float64)
        self.first += linear(weight.T, x.T)
        if self.form == "full":
            for k in range(len(self.counts)):
                self.second[k] += linear((weight[:, k, None] * x).T, x.T)
        elif self.form != "tied":  # whose second moment is that of all rows, whatever the responsibilities
            self.second += linear(weight.T, squares.T)

    def maximised(self, floor: float, mask: Tensor | None = None) -> Mixture:
        """The mixture that makes these responsibilities likeliest, of the components in ``mask``."""
        counts, first, second = self.counts, self.first, self.second
        if mask is not None:
            counts, first, second = counts[mask], first[mask], second[mask]
        means = first / counts[:, None]
        if self.form in ("spherical", "diagonal"):
            covariance = (second / counts[:, None] - means.square()).clamp(min=0) + floor
            covariance = covariance.mean(dim=1) if self.form == "spherical" else covariance
        else:
            if self.form == "tied":
                covariance = (self.chunks.moment - (means * counts[:, None]).T @ means) / counts.sum()
            else:
                covariance = second / counts[:, None, None] - means[:, :, None] * means[:, None, :]
            covariance.diagonal(dim1=-2, dim2=-1).add_(floor)
        middle = self.chunks.middle
        return Mixture(self.form, counts / counts.sum(), means + middle, covariance, middle)


def _reseeded(mixture: Mixture, rows: Tensor) -> Mixture:
    """With one more component on each of the rows, as wide as the others on average and as heavy as the lightest."""
    weights = torch.cat([mixture.weights, mixture.weights.min().expand(len(rows))])
    covariance = mixture.covariance
    if mixture.form != "tied":
        mean = torch.tensordot(mixture.weights, covariance, dims=1)
        covariance = torch.cat([covariance, mean.expand(len(rows), *covariance.shape[1:])])
    means = torch.cat([mixture.means, rows])
    return Mixture(mixture.form, weights / weights.sum(), means, covariance, mixture.centre)


def hard_mixture(z: Tensor, label: Tensor, form: Form, floor: float, chunks: Chunks | None = None) -> Mixture:
    """Each row belongs to the one component that its label names; every component has rows."""
    k = int(label.max()) + 1
    chunks = chunks or _chunks(z, form)
    sums = _Sums(form, chunks, k)
    for (x, squares), mine in zip(chunks, label.split(chunks.size), strict=True):
        sums.add(x, squares, one_hot(mine, k).to(x))
    return sums.maximised(floor)


def _chunks(z: Tensor, form: Form) -> Chunks:
    return Chunks(z, middle_of(z), squares=form in ("spherical", "diagonal"), size=ROWS)


def mean_log_likelihood(mixture: Mixture, z: Tensor) -> float:
    totals = [mixture.log_joint(rows.double()).logsumexp(dim=1).sum() for rows in z.split(ROWS)]
    return float(sum(totals)) / len(z)


def bic(mixture: Mixture, z: Tensor) -> float:
    """-2 l + p ln n (Schwarz 1978); smaller is better."""
    return -2 * mean_log_likelihood(mixture, z) * len(z) + mixture.parameters() * math.log(len(z))


def absolute_floor(z: Tensor, share: float) -> float:
    """``share`` of the mean variance of the rows; a small number where they are all the same."""
    variance = float(torch.linalg.vector_norm(z - z.mean(dim=0), dim=1).double().square().sum()) / z.numel()
    return share * variance or JITTER


def roots(covariance: Tensor) -> Tensor:
    """Cholesky factors of (d, d) or (k, d, d); after rounding to float32 a covariance may need a little more on its diagonal."""
    factor, info = torch.linalg.cholesky_ex(covariance)
    if not bool(info.any()):
        return factor
    return cholesky(covariance) if covariance.dim() == 2 else torch.stack([roots(one) for one in covariance])
