"""A Gaussian for each weight, all independent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import softplus

from reverie.nn.parameters import ParameterSpec
from reverie.options import Part
from reverie.posteriors.divergences import gaussian_kl

OFFSET = -2.5  # of rho: what is generated near 0 is a deviation of softplus(-2.5) = 0.079
Offset = Annotated[float, Field(description="added to rho before the softplus: the deviation where 0 is generated")]


def log_softplus(x: Tensor) -> Tensor:
    """log(log(1 + e^x)), which for very negative x is x and never the log of 0."""
    return torch.where(x < -15, x, softplus(x.clamp(min=-15)).log())


@dataclass(eq=False, repr=False)
class MeanField(Part):
    """N(mean, diag(softplus(rho + offset)^2)), drawn as mean + deviation * noise (Blundell et al. 2015, arXiv 1505.05424).

    local: in training, chains of linear layers draw their sums instead of their weights, one draw a row (Kingma, Salimans and Welling
    2015, arXiv 1506.02557): the same distribution of each sum, gradients of less variance. Answers are always given by drawn weights.
    """

    local: Annotated[bool, Field(description="local reparametrisation in training, for networks of linear layers")] = (
        False
    )
    offset: Offset = OFFSET

    names: ClassVar[tuple[str, ...]] = ("mean", "rho")
    variances: ClassVar[tuple[float, ...]] = (0.003, 0.083)

    @property
    def deterministic(self) -> bool:
        return False

    def sample(self, theta: Tensor, spec: ParameterSpec, noise: Tensor) -> Tensor:
        return torch.addcmul(theta[0], softplus(theta[1] + self.offset), noise)

    def noise(self, n: int, spec: ParameterSpec, rng: torch.Generator) -> Tensor:
        return torch.randn(n, spec.numel, generator=rng, device=rng.device)

    def prior_kl(self, theta: Tensor, spec: ParameterSpec, variance: float, weights: Tensor) -> Tensor:
        """KL(q || N(0, variance)) in closed form."""
        mean, log_std = self.moments(theta)
        zero = mean.new_zeros(())
        return gaussian_kl(mean, log_std, zero, zero + 0.5 * math.log(variance))

    def moments(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """(..., 2, numel) -> means and the logarithms of the deviations, (..., numel) each."""
        return theta[..., 0, :], log_softplus(theta[..., 1, :] + self.offset)
