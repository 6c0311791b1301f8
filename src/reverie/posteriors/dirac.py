"""A posterior that is one point: plain weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from reverie.nn.parameters import ParameterSpec
from reverie.posteriors.family import PosteriorFamily


@dataclass(eq=False, repr=False)
class Dirac(PosteriorFamily):
    """All mass on one weight vector, as in continual learning with hypernetworks (von Oswald et al. 2020, arXiv 1906.00695)."""

    names: ClassVar[tuple[str, ...]] = ("weights",)
    variances: ClassVar[tuple[float, ...]] = (0.003,)

    @property
    def deterministic(self) -> bool:
        return True

    def sample(self, theta: Tensor, spec: ParameterSpec, noise: Tensor) -> Tensor:
        return theta.expand(len(noise), -1)

    def noise(self, n: int, spec: ParameterSpec, rng: torch.Generator) -> Tensor:
        return torch.empty(n, 0, device=rng.device)

    def prior_kl(self, theta: Tensor, spec: ParameterSpec, variance: float, weights: Tensor | None) -> Tensor:
        """-log N(weights; 0, variance), without its constant: an L2 penalty."""
        return theta[0].square().sum() / (2 * variance)
