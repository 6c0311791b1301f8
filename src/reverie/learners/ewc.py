"""Elastic weight consolidation (Kirkpatrick et al. 2017, arXiv 1612.00796): weights that past tasks depend on are held."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from reverie.checks import Problems
from reverie.learners.regularised import Regularised
from reverie.penalties import FisherPenalty
from reverie.penalties.ewc import Fisher, FisherRows, FisherStrength, Gamma, Mode, check_gamma
from reverie.types import Penalty, Phase, Task


@dataclass(eq=False, repr=False)
class EWC(Regularised):
    """Solver + quadratic penalty weighted by the Fisher information of past tasks. Loss: loss(new rows) + penalty."""

    strength: FisherStrength = 10_000.0
    mode: Mode = "separate"
    gamma: Gamma = 1.0
    fisher: Fisher = "exact"
    fisher_rows: FisherRows = None

    def check(self, problems: Problems) -> None:
        super().check(problems)
        check_gamma(problems, self.mode, self.gamma)

    def make_penalty(self) -> Penalty:
        return FisherPenalty(self.strength, self.mode, self.gamma, self.fisher, self.fisher_rows)

    def flops(self, phase: Phase, task: Task | None) -> float:
        """Of a step, and of the pass that measures the Fisher information, spread over the steps of the task."""
        rows = min(self.rows_now, self.fisher_rows or self.rows_now)
        forward = self.network.flops(rows, train=False)
        backward = self.network.flops(rows) - forward
        measuring = forward + backward * (self._labels() if self.fisher == "exact" else 1)
        return super().flops(phase, task) + measuring / max(phase.length(self.rows_now), 1)

    def _labels(self) -> int:
        """Outputs of the widest softmax."""
        return self.spec.outputs if self.groups is None else int(torch.bincount(self.groups[self.groups >= 0]).max())
