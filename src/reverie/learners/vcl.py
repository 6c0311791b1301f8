"""Variational continual learning: one posterior for all tasks; the posterior after a task is the prior of the next."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from reverie.checks import OptionsError, Problems
from reverie.device import Device
from reverie.learners.posteriors import PosteriorLearner
from reverie.nn.hypernetworks import HypernetworkOptions, Single, StartOption
from reverie.posteriors import Implicit, MeanField
from reverie.posteriors.divergences import gaussian_kl
from reverie.posteriors.family import SampledPrior
from reverie.seeding import Randomness
from reverie.types import StreamSpec


@dataclass(eq=False, repr=False)
class VCL(PosteriorLearner):
    """On task t: N * E_q[cross-entropy] + kl_weight * KL(q || q_{t-1}), q_0 = N(0, prior_variance) (Nguyen, Li, Bui and Turner 2018,
    arXiv 1710.10628, without coresets).

    With an implicit posterior q_{t-1} is known by samples of its generator alone, as it was when task t began: the discriminator tells
    samples of q from these, or the score of q_{t-1} is estimated from them too (prior-focused learning in Henning, Cervera et al. 2021,
    arXiv 2103.01133).

    fresh_heads: heads that no task has trained yet have N(0, prior_variance) for a prior again; without it theirs is what the
    tasks before made of them, as in the code of Henning et al. 2021 for classification.
    prior_sign: in that code the estimated score of q_{t-1} enters with the wrong sign, which drives q away from it; their numbers for this
    case belong to "published".
    """

    start: StartOption = "main"
    fresh_heads: Annotated[bool, Field(description="whether heads that were never trained keep their first prior")] = (
        True
    )
    prior_sign: Annotated[
        Literal["right", "published"],
        Field(description="of the estimated score of the posterior before (an implicit posterior, estimator: stein)"),
    ] = "right"

    def check(self, problems: Problems) -> None:
        super().check(problems)
        problems.check(
            isinstance(self.posterior, MeanField | Implicit),
            f"posterior = {type(self.posterior).__name__}: a posterior that becomes a prior must have a density, or an estimator that does "
            "without; use posterior = 'gaussian' or 'implicit'",
        )
        problems.check(
            self.prior_sign == "right"
            or (isinstance(self.posterior, Implicit) and self.posterior.estimator == "stein"),
            "prior_sign = 'published': concerns an implicit posterior with estimator = 'stein'; leave it out, or use such a posterior",
        )

    def meta(self) -> HypernetworkOptions:
        return Single(self.start)

    def build(self, spec: StreamSpec, rng: Randomness, device: Device) -> None:
        super().build(spec, rng, device)
        heads = [c for task in range(spec.tasks) for c in self.outputs_of(task)]
        if self.coreset is not None and len(set(heads)) < len(heads):
            raise OptionsError(
                "coreset: one posterior whose outputs are shared by tasks cannot know and not know the same row; use "
                "active_classes = 'current' with classes of their own, or leave it out"
            )

    def _enter(self, task: int) -> None:
        super()._enter(task)
        layout = self.model.layout
        trained = dict.fromkeys(c for before in range(task) for c in self.outputs_of(before))
        self._trained = layout.mask(trained if self.fresh_heads else range(layout.outputs)).to(self.device.torch_device)

    def keep(self) -> None:
        """(2, numel): means and logarithms of deviations of the prior of this task; of an implicit posterior theta as the task before left
        it, and nothing in the first task."""
        layout, device = self.model.layout, self.device.torch_device
        theta = self.model.hypernet([self.task])[0].detach()
        if isinstance(self.posterior, Implicit):
            self.model.kept = theta.clone() if self.task > 0 else None
            return
        first = torch.zeros(2, layout.numel, device=device)
        first[1] = 0.5 * math.log(self.prior_variance)
        if self.task > 0:
            before = torch.stack(cast(tuple[Tensor, Tensor], self.posterior.moments(theta)))
            first = torch.where(self._trained, before, first)
        self.model.kept = first

    def closed_form(self, theta: Tensor, weights: Tensor | None) -> Tensor:
        mean, log_std = cast(tuple[Tensor, Tensor], self.posterior.moments(theta))
        prior = cast(Tensor, self.model.kept)
        return gaussian_kl(mean, log_std, prior[0], prior[1])

    def sampled_prior(self) -> SampledPrior | None:
        """The posterior before, or None in the first task."""
        before = self.model.kept
        if before is None:
            return None
        return SampledPrior(
            cast(Implicit, self.posterior),
            self.model.layout,
            cast(Tensor, before),
            self._trained,
            self.prior_variance,
            self.prior_sign == "published",
        )
