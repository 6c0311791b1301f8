"""FeCAM (Goswami et al. 2023, "Exploiting the heterogeneity of class distributions in exemplar-free continual learning", arXiv 2309.14062)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from reverie.checks import DataError, OptionsError, Problems
from reverie.device import Device
from reverie.generators.gaussian import cholesky
from reverie.learners.statistics import StatisticsLearner
from reverie.nn.matmul import linear
from reverie.seeding import Randomness
from reverie.solvers.moments import Moments
from reverie.types import Memory, Phase, StreamSpec, Task

AT_ONCE = 8  # classes whose covariances are factored together

Weight = Annotated[float, Field(ge=0)]


@dataclass(eq=False, repr=False)
class FeCAM(StatisticsLearner):
    """Answers the class with the least Mahalanobis distance (z - m)' C^-1 (z - m), each class with a covariance of its own.

    Rows x >= 0 are raised to the power ``tukey``. Of these, means and covariances S are kept. S is shrunk once,
    S + g1 V1 I + g2 V2 (1 - I) with its mean diagonal entry V1 and mean other entry V2, and scaled to correlations C; z and
    m are row and class mean scaled to unit length. S is that of all rows of the class, however often the class comes back.

    Needs 8 d^2 bytes a class for the sums, and 4 d^2 more while answering: 12 MB a class at d = 1024. Cut where the latent is narrow.
    """

    tukey: Annotated[
        float | None,
        Field(gt=0, le=1, description="power that rows are raised to, for inputs >= 0; None: left as they are"),
    ] = 0.5
    shrinkage: Annotated[
        tuple[Weight, Weight],
        Field(
            description="g1 and g2; the authors use (1, 1) on convolutional networks, (1, 0) and (10, 10) on transformers"
        ),
    ] = (1.0, 1.0)
    correlation: Annotated[bool, Field(description="scale each shrunk covariance to unit variances")] = True

    def check(self, problems: Problems) -> None:
        if self.shrinkage[1] > self.shrinkage[0]:
            problems.add(
                f"shrinkage = {self.shrinkage}: g2 is larger than g1, and a covariance shrunk so need not have an inverse; raise g1"
            )

    def build(self, spec: StreamSpec, rng: Randomness, device: Device) -> None:
        lowest = (spec.value_range or (0.0, 0.0))[0]
        if self.tukey is not None and -math.inf < lowest < 0:
            raise OptionsError(
                f"tukey = {self.tukey}: the inputs of this stream go down to {lowest:.3g}, and have no such power; use tukey = None"
            )
        super().build(spec, rng, device)

    def start(self, width: int, outputs: int) -> None:
        self.moments = Moments(width, outputs, "each", self.device.torch_device)

    def add(self, x: Tensor, y: Tensor) -> None:
        self.moments.add(self._powered(x), y)

    def counts(self) -> Tensor:
        return self.moments.counts

    def solve(self) -> Any:
        """(classes seen, their means scaled to unit length, inverses of the lower Cholesky factors of C)."""
        seen = self.moments.counts.nonzero().flatten()
        means = functional.normalize(self.moments.means, dim=1).float()
        roots = [inverse_roots(self._shrunk(part)).float() for part in seen.split(AT_ONCE)]
        return seen.tolist(), means, torch.cat(roots) if roots else None

    def answer(self, solution: Any, x: Tensor) -> Tensor:
        seen, means, roots = solution
        z = functional.normalize(self._powered(x), dim=1)
        scores = z.new_zeros(len(z), len(means))
        for place, c in enumerate(seen):  # one class at a time: never more than a batch of rows beside the factors
            scores[:, c] = -linear(z - means[c], roots[place]).square().sum(dim=1)
        return scores

    def parts(self) -> dict[str, Any]:
        return {"class statistics": self.moments}

    def memory(self) -> Memory:
        factors = 4 * int((self.moments.counts > 0).sum()) * self.width**2
        return Memory(super().memory().persistent, {"factors of covariances": factors})

    def flops(self, phase: Phase, task: Task | None) -> float:
        return 2.0 * phase.batch_size * self.width**2

    def _powered(self, x: Tensor) -> Tensor:
        if self.tukey is None:
            return x
        if bool((x < 0).any()):
            raise DataError(
                f"tukey = {self.tukey}: the inputs hold values below 0, the lowest {float(x.min()):.3g}, and have no such power; use "
                "tukey = None, or cut after an activation that is never negative"
            )
        return x.pow(self.tukey)

    def _shrunk(self, classes: Tensor) -> Tensor:
        """(k, d, d) float64: of these classes, shrunk and scaled."""
        counts = (self.moments.counts[classes] - 1).clamp(min=1)
        covariance = self.moments.scatter[classes] / counts[:, None, None]
        d = self.width
        diagonal = covariance.diagonal(dim1=1, dim2=2)
        own = diagonal.mean(dim=1)
        # Of one triangle, like the factors: only that is saved, and the other may differ from it in the last bit.
        others = 2 * covariance.tril(-1).sum(dim=(1, 2)) / max(d * (d - 1), 1)
        g1, g2 = self.shrinkage
        covariance += (g2 * others)[:, None, None]
        covariance.diagonal(dim1=1, dim2=2).add_((g1 * own - g2 * others)[:, None])
        if self.correlation:
            deviation = covariance.diagonal(dim1=1, dim2=2).sqrt()
            deviation = torch.where(deviation > 0, deviation, 1.0)
            covariance /= deviation[:, :, None] * deviation[:, None, :]
            covariance.diagonal(dim1=1, dim2=2).fill_(1.0)  # also where nothing varies: a class of one row
        return covariance


def inverse_roots(covariances: Tensor) -> Tensor:
    """(k, d, d) inverses R of the lower Cholesky factors: C^-1 = R'R. A little is added to the diagonal where C is singular."""
    factors, info = torch.linalg.cholesky_ex(covariances)
    for k in info.nonzero().flatten().tolist():
        factors[k] = cholesky(covariances[k])
    identity = torch.eye(factors.shape[1], dtype=factors.dtype, device=factors.device)
    return torch.linalg.solve_triangular(factors, identity.expand_as(factors), upper=False)
