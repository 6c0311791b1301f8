"""Nearest class mean (Mensink et al. 2013, "Distance-based image classification: generalizing to new classes at near-zero cost")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor
from torch.nn import functional

from reverie.learners.statistics import StatisticsLearner
from reverie.solvers.moments import Moments


@dataclass(eq=False, repr=False)
class NearestClassMean(StatisticsLearner):
    """Answers the class whose mean is nearest; keeps one vector and a count for each class."""

    distance: Annotated[
        Literal["euclidean", "cosine"], Field(description="euclidean, or cosine as in SimpleCIL (Zhou et al. 2023)")
    ] = "euclidean"

    def start(self, width: int, outputs: int) -> None:
        self.moments = Moments(width, outputs, "none", self.device.torch_device)

    def add(self, x: Tensor, y: Tensor) -> None:
        self.moments.add(x, y)

    def solve(self) -> Any:
        means = self.moments.means.float()
        return functional.normalize(means, dim=1) if self.distance == "cosine" else means

    def answer(self, solution: Any, x: Tensor) -> Tensor:
        if self.distance == "cosine":
            return functional.normalize(x, dim=1) @ solution.T
        # -|x - m|^2 but for |x|^2, which all classes share.
        return 2 * x @ solution.T - solution.square().sum(dim=1)

    def counts(self) -> Tensor:
        return self.moments.counts

    def parts(self) -> dict[str, Any]:
        return {"class means": self.moments}

    def flops(self, phase: Any, task: Any) -> float:
        return 2.0 * phase.batch_size * self.width
