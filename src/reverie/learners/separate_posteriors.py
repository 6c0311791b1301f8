"""A posterior of its own for each task: nothing is shared and nothing forgotten, at the price of a model a task."""

from __future__ import annotations

from dataclasses import dataclass

from reverie.learners.posteriors import PosteriorLearner
from reverie.nn.hypernetworks import HypernetworkOptions, Separate, StartOption


@dataclass(eq=False, repr=False)
class SeparatePosteriors(PosteriorLearner):
    """On task t: N * E_q[cross-entropy] + kl_weight * KL(q_t || N(0, prior_variance)), q_t learnt from the start and kept.

    What posterior meta-replay is to reach (Henning, Cervera et al. 2021, arXiv 2103.01133): its memory grows by a whole model with each task.
    """

    start: StartOption = "main"

    def meta(self) -> HypernetworkOptions:
        return Separate(self.start)
