"""A Gaussian copula: each axis keeps its own distribution, a correlation matrix ties them together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from reverie.generators.family import Family, Fitted, triangle
from reverie.generators.gaussian import cholesky, packed, unpacked
from reverie.nn.matmul import linear
from reverie.types import State


@dataclass(eq=False, repr=False)
class GaussianCopula(Family):
    """Quantiles of each axis and the correlation matrix of the rows' normal scores (Sklar 1959; Liu, Lafferty and Wasserman 2009).

    Marginals are piecewise linear between the quantiles, so samples never leave the range of the rows, and a latent that is 0 in a
    third of the rows (after a ReLU) is exactly 0 in a third of the samples, to one step of the grid. There is a density only
    where no axis has such a mass. Two fits do not merge: both are kept.
    """

    grid: Annotated[
        int, Field(ge=2, description="quantiles kept of each axis, smallest and largest value included")
    ] = 65
    shrinkage: Annotated[
        float, Field(ge=0, le=1, description="share of the correlation matrix replaced by the identity")
    ] = 0.02

    def fit(self, z: Tensor, rng: torch.Generator) -> FittedCopula:
        n = len(z)
        ordered = z.T.contiguous().sort(dim=1).values  # (d, n)
        place = torch.linspace(0, n - 1, self.grid, dtype=torch.float64, device=z.device)
        below = place.long().clamp(max=max(n - 2, 0))
        above = (below + 1).clamp(max=n - 1)
        quantiles = torch.lerp(ordered[:, below].double(), ordered[:, above].double(), place - below)
        scores = _normal_scores(ordered, z)
        correlation = scores.T @ scores / n
        deviation = correlation.diagonal().sqrt()
        deviation = torch.where(deviation > 0, deviation, torch.ones_like(deviation))
        correlation = (1 - self.shrinkage) * correlation / torch.outer(deviation, deviation)
        correlation.fill_diagonal_(1.0)
        return FittedCopula(n, quantiles.to(z), packed(correlation).to(z))

    def restore(self, state: State) -> FittedCopula:
        return FittedCopula(state["count"], state["quantiles"], state["correlation"])

    def numbers(self, width: int) -> int:
        return width * self.grid + triangle(width)


class FittedCopula(Fitted):
    """quantiles (d, grid), ascending; correlation, packed (d (d + 1) / 2,). Immutable."""

    def __init__(self, count: int, quantiles: Tensor, correlation: Tensor) -> None:
        self.count, self.quantiles, self.correlation = count, quantiles, correlation
        self._root: Tensor | None = None

    def root(self) -> Tensor:
        """Cholesky factor of the correlation matrix (d, d), found in float64 and kept in the quantiles' type; its rows have length 1."""
        if self._root is None:
            root = cholesky(unpacked(self.correlation.double(), len(self.quantiles)))
            self._root = (root / root.norm(dim=1, keepdim=True)).to(self.quantiles)
        return self._root

    @property
    def width(self) -> int:
        return len(self.quantiles)

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        d, grid = self.quantiles.shape
        noise = torch.randn(n, d, generator=rng, device=self.quantiles.device, dtype=self.quantiles.dtype)
        level = torch.special.ndtr(linear(noise, self.root())) * (grid - 1)
        below = level.long().clamp(max=grid - 2)
        axis = torch.arange(d, device=level.device)
        low, high = self.quantiles[axis, below], self.quantiles[axis, below + 1]
        # Not lerp: a + t (b - a) is exactly a where both are equal.
        return low + (level - below) * (high - low)

    def log_prob(self, z: Tensor) -> Tensor:
        """-inf outside the range of the quantiles. Raises NotImplementedError where a value has a mass of its own."""
        quantiles = self.quantiles.double()
        steps = quantiles.diff(dim=1)
        if not bool((steps > 0).all()):
            raise NotImplementedError(
                "some axis takes one value in a share of all rows, so this copula has no density; it can be sampled only"
            )
        d, grid = quantiles.shape
        x = z.double()
        cell = torch.searchsorted(quantiles, x.T.contiguous(), right=True).T - 1
        inside = ((x >= quantiles[:, 0]) & (x <= quantiles[:, -1])).all(dim=1)
        cell = cell.clamp(0, grid - 2)
        axis = torch.arange(d, device=z.device)
        step = steps[axis, cell]
        level = (cell + (x - quantiles[axis, cell]) / step) / (grid - 1)
        tiny = torch.finfo(torch.float64).eps
        score = torch.special.ndtri(level.clamp(tiny, 1 - tiny))
        root = self.root().double()
        white = torch.linalg.solve_triangular(root, score.T, upper=False)
        tied = 0.5 * (score.square().sum(dim=1) - white.square().sum(dim=0)) - root.diagonal().log().sum()
        marginal = -(step.log().sum(dim=1) + d * math.log(grid - 1))
        return torch.where(inside, marginal + tied, -math.inf).to(z)

    def tensors(self) -> dict[str, Tensor]:
        return {"quantiles": self.quantiles, "correlation": self.correlation}

    def settings(self) -> State:
        return {"count": self.count}


def _normal_scores(ordered: Tensor, z: Tensor) -> Tensor:
    """(n, d): the normal quantile of each value's mid-rank; equal values share one."""
    values = z.T.contiguous()
    first = torch.searchsorted(ordered, values, right=False)
    last = torch.searchsorted(ordered, values, right=True)
    scores = torch.special.ndtri((first + last).double() / (2 * len(z))).T
    return scores - scores.mean(dim=0)
