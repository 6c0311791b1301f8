"""A Gaussian for each weight, all independent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import softplus

from reverie.checks import OptionsError
from reverie.nn.matmul import linear
from reverie.nn.networks import Head
from reverie.nn.parameters import Ensemble, ParameterSpec, Statistics
from reverie.posteriors.divergences import gaussian_kl
from reverie.posteriors.family import PosteriorFamily

TINY = 1e-16
NO_CHAIN = "local = True: local reparametrisation is for chains of linear layers; use an MLP, or local = False"
OFFSET = -2.5  # of rho: what is generated near 0 is a deviation of softplus(-2.5) = 0.079
Offset = Annotated[float, Field(description="added to rho before the softplus: the deviation where 0 is generated")]


def log_softplus(x: Tensor) -> Tensor:
    """log(log(1 + e^x)), which for very negative x is x and never the log of 0."""
    return torch.where(x < -15, x, softplus(x.clamp(min=-15)).log())


@dataclass(eq=False, repr=False)
class MeanField(PosteriorFamily):
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

    def sample(self, theta: Tensor, spec: ParameterSpec, noise: Tensor) -> Tensor:
        mean, std = self.deviations(theta)
        return mean + std * noise  # the gradient of addcmul would copy the noise first

    def noise(self, n: int, spec: ParameterSpec, rng: torch.Generator) -> Tensor:
        return torch.randn(n, spec.numel, generator=rng, device=rng.device)

    def training_scores(
        self, theta: Tensor, ensemble: Ensemble, x: Tensor, n: int, rng: torch.Generator
    ) -> tuple[Tensor, Tensor | None, Statistics]:
        if not self.local:
            return super().training_scores(theta, ensemble, x, n, rng)
        if ensemble.chain is None:
            raise OptionsError(NO_CHAIN)
        both = torch.stack([theta[0], softplus(theta[1] + self.offset).square()])
        # Contiguous: the fast product takes a bias of a larger vector for one that lies by itself.
        mean, variance = (
            {name: value.contiguous() for name, value in ensemble.spec.unflatten(part).items()} for part in both
        )
        h = x.flatten(1)
        for prefix, layer in ensemble.chain:
            if not isinstance(layer, nn.Linear | Head):
                h = layer(h)
                continue
            weight, bias = f"{prefix}weight", f"{prefix}bias"
            centre = linear(h, mean[weight], mean.get(bias))
            spread = linear(h.square(), variance[weight], variance.get(bias))
            noise = torch.randn(n, len(x), centre.shape[-1], generator=rng, device=rng.device)
            # The root has no gradient at 0, which an input of zeros without a bias would reach.
            h = torch.addcmul(centre, (spread + TINY).sqrt(), noise)
        return h, None, {}

    def prior_kl(self, theta: Tensor, spec: ParameterSpec, variance: float, weights: Tensor | None) -> Tensor:
        """KL(q || N(0, variance)) in closed form."""
        mean, log_std = self.moments(theta)
        zero = mean.new_zeros(())
        return gaussian_kl(mean, log_std, zero, zero + 0.5 * math.log(variance))

    def deviations(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """(..., 2, numel) -> means and deviations, (..., numel) each."""
        mean, rho = theta.unbind(-2)  # whose gradient is one copy: that of two indices is two of zeros, added up
        return mean, softplus(rho + self.offset)

    def moments(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """(..., 2, numel) -> means and the logarithms of the deviations, (..., numel) each."""
        mean, rho = theta.unbind(-2)
        return mean, log_softplus(rho + self.offset)
