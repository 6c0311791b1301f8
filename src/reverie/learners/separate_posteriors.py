"""A posterior of its own for each task: nothing is shared and nothing forgotten, at the price of a model a task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from reverie.checks import Problems
from reverie.learners.posteriors import PosteriorLearner
from reverie.nn.hypernetworks import HypernetworkOptions, Separate, SeparateHypernetworks, Single, StartOption


@dataclass(eq=False, repr=False)
class SeparatePosteriors(PosteriorLearner):
    """On task t: N * E_q[cross-entropy] + kl_weight * KL(q_t || N(0, prior_variance)), q_t learnt from the start and kept.

    What posterior meta-replay is to reach (Henning, Cervera et al. 2021, arXiv 2103.01133): its memory grows by a whole model with each task,
    or by a whole hypernetwork, which tells what the hypernetwork does to a posterior from what sharing it does.
    """

    start: StartOption = "main"
    hypernetwork: Annotated[
        HypernetworkOptions | None,
        Field(description="makes a task's posterior, each task has one of its own; None: there is none"),
    ] = None

    def recommended(self, values: Mapping[str, Any], option: str | None = None) -> Mapping[str, Any]:
        mine = super().recommended(values, option)
        return {name: value for name, value in mine.items() if name != "hypernetwork"}  # None is an answer here

    def check(self, problems: Problems) -> None:
        super().check(problems)
        problems.check(
            not isinstance(self.hypernetwork, Separate | Single),
            f"hypernetwork = {type(self.hypernetwork).__name__.lower()!r}: makes nothing; use 'chunked', 'structured' or 'full', or leave it out",
        )
        problems.check(
            self.hypernetwork is None or self.start == "main",
            f"start = {self.start!r}: a posterior begins as its hypernetwork's init says; set hypernetwork.init, and leave start out",
        )

    def meta(self) -> HypernetworkOptions:
        return Separate(self.start) if self.hypernetwork is None else SeparateHypernetworks(self.hypernetwork)
