"""Variational continual learning: one posterior for all tasks; the posterior after a task is the prior of the next."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, cast

import torch
from pydantic import Field
from torch import Tensor

from reverie.checks import Problems
from reverie.learners.posteriors import PosteriorLearner
from reverie.nn.hypernetworks import HypernetworkOptions, Single, StartOption
from reverie.posteriors import MeanField
from reverie.posteriors.divergences import gaussian_kl


@dataclass(eq=False, repr=False)
class VCL(PosteriorLearner):
    """On task t: N * E_q[cross-entropy] + kl_weight * KL(q || q_{t-1}), q_0 = N(0, prior_variance) (Nguyen, Li, Bui and Turner 2018,
    arXiv 1710.10628, without coresets).

    fresh_heads: heads that no task has trained yet have N(0, prior_variance) for a prior again; without it theirs is what the
    tasks before made of them, as in the code of Henning et al. 2021 for classification.
    """

    start: StartOption = "main"
    fresh_heads: Annotated[bool, Field(description="whether heads that were never trained keep their first prior")] = (
        True
    )

    def check(self, problems: Problems) -> None:
        super().check(problems)
        problems.check(
            isinstance(self.posterior, MeanField),
            f"posterior = {type(self.posterior).__name__}: a posterior that becomes a prior must have a density; use posterior = 'gaussian'",
        )

    def meta(self) -> HypernetworkOptions:
        return Single(self.start)

    def keep(self) -> None:
        """(2, numel): means and logarithms of deviations of the prior of this task."""
        layout, device = self.model.layout, self.device.torch_device
        first = torch.zeros(2, layout.numel, device=device)
        first[1] = 0.5 * math.log(self.prior_variance)
        if self.task > 0:
            theta = self.model.hypernet([self.task])[0].detach()
            before = torch.stack(cast(tuple[Tensor, Tensor], self.posterior.moments(theta)))
            trained = dict.fromkeys(c for task in range(self.task) for c in self.outputs_of(task))
            taught = layout.mask(trained if self.fresh_heads else range(layout.outputs)).to(device)
            first = torch.where(taught, before, first)
        self.model.kept = first

    def prior_term(self, theta: Tensor, weights: Tensor | None) -> Tensor:
        mean, log_std = cast(tuple[Tensor, Tensor], self.posterior.moments(theta))
        prior = cast(Tensor, self.model.kept)
        return gaussian_kl(mean, log_std, prior[0], prior[1])
