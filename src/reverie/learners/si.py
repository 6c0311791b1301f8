"""Synaptic intelligence (Zenke, Poole and Ganguli 2017, arXiv 1703.04200): weights that brought past losses down are held."""

from __future__ import annotations

from dataclasses import dataclass

from reverie.learners.regularised import Regularised
from reverie.penalties import PathIntegralPenalty
from reverie.penalties.si import Clip, Damping, PathGradient, PathStrength
from reverie.types import Penalty


@dataclass(eq=False, repr=False)
class SI(Regularised):
    """Solver + quadratic penalty weighted by what each weight did for the loss of past tasks. Loss: loss(new rows) + penalty."""

    strength: PathStrength = 100.0
    damping: Damping = 0.1
    gradient: PathGradient = "task"
    clip: Clip = True

    kinds = ("classification", "regression")

    def make_penalty(self) -> Penalty:
        return PathIntegralPenalty(self.strength, self.damping, self.gradient, self.clip)
