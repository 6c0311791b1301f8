"""Radial posteriors: the direction of a Gaussian with a length that is half-normal, whatever the number of weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from reverie.nn.parameters import ParameterSpec
from reverie.posteriors.family import PosteriorFamily
from reverie.posteriors.gaussian import OFFSET, Offset, log_softplus


@dataclass(eq=False, repr=False)
class Radial(PosteriorFamily):
    """weights = mean + deviation * r * noise / |noise|, r ~ N(0, 1), for each tensor by itself (Farquhar, Osborne and Gal 2020, arXiv 1907.00865)."""

    offset: Offset = OFFSET

    names: ClassVar[tuple[str, ...]] = ("mean", "rho")
    variances: ClassVar[tuple[float, ...]] = (0.003, 0.083)

    def sample(self, theta: Tensor, spec: ParameterSpec, noise: Tensor) -> Tensor:
        mean, rho = theta
        return mean + softplus(rho + self.offset) * noise

    def noise(self, n: int, spec: ParameterSpec, rng: torch.Generator) -> Tensor:
        """(n, numel): of each tensor a direction times a length."""
        drawn = torch.randn(n, spec.numel, generator=rng, device=rng.device)
        lengths = torch.randn(n, len(spec.tensors), generator=rng, device=rng.device)
        for k, places in enumerate(spec.tensors):
            part = drawn[:, places]
            drawn[:, places] = part * (lengths[:, k, None] / part.norm(dim=1, keepdim=True))
        return drawn

    def prior_kl(self, theta: Tensor, spec: ParameterSpec, variance: float, weights: Tensor | None) -> Tensor:
        """KL(q || N(0, variance)) but for a constant: - sum log deviation - E log prior, the mean over the weights (S, numel) that were drawn."""
        assert weights is not None
        return weights.square().sum(dim=1).mean() / (2 * variance) - log_softplus(theta[1] + self.offset).sum()
