"""Streaming linear discriminant analysis (Hayes and Kanan 2020, "Deep SLDA", arXiv 1909.01520)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from reverie.generators.gaussian import shrunk
from reverie.learners.statistics import StatisticsLearner, precision_times
from reverie.solvers.moments import Moments


@dataclass(eq=False, repr=False)
class StreamingLDA(StatisticsLearner):
    """Score of class c: m_c' L x - m_c' L m_c / 2, L = [(1 - e) S + e I]^-1, with class means m_c and the pooled within-class covariance S.

    The means and S are those of all rows so far, whatever their order; the paper's update centres a row on a mean of the rows before it
    and weighs it by the count of all classes, which differs from this by terms that vanish with the rows.
    """

    ridge: Annotated[float, Field(ge=0, le=1, description="e: share of the identity in the covariance")] = 1e-4
    shrinkage: Annotated[
        float, Field(ge=0, le=1, description="share of the covariance replaced by its mean variance, before the ridge")
    ] = 0.0

    def start(self, width: int, outputs: int) -> None:
        self.moments = Moments(width, outputs, "pooled", self.device.torch_device)

    def add(self, x: Tensor, y: Tensor) -> None:
        self.moments.add(x, y)

    def solve(self) -> Any:
        covariance = shrunk(self.moments.covariance(), self.shrinkage)
        weight = precision_times(covariance, self.ridge, self.moments.means)
        bias = -0.5 * (weight * self.moments.means).sum(dim=1)
        return weight.float(), bias.float()

    def answer(self, solution: Any, x: Tensor) -> Tensor:
        weight, bias = solution
        return x @ weight.T + bias

    def counts(self) -> Tensor:
        return self.moments.counts

    def parts(self) -> dict[str, Any]:
        return {"class statistics": self.moments}
