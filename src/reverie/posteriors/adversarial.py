"""Density ratios by a discriminator: the divergence of adversarial variational Bayes (Mescheder, Nowozin and Geiger 2017, arXiv 1701.04722)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from reverie.device import CPU, Device
from reverie.nn.hypernetworks import ACTIVATIONS, Activation, hidden_layers
from reverie.nn.matmul import linear
from reverie.nn.networks import Network
from reverie.nn.optimisers import Adam, Optimiser
from reverie.seeding import derived_seed
from reverie.types import State

LEAST_STD = 1e-6  # of a contrast: samples that agree in a coordinate would make it infinitely likely


@dataclass(frozen=True)
class Contrast:
    """N(mean, diag(std^2)) over weight vectors (d,): what a discriminator tells samples of q from."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, samples: Tensor) -> Contrast:
        """The one with the mean and deviations of samples (n, d), a constant: as near q as it gets, so that little is left to be learnt."""
        samples = samples.detach()
        return cls(samples.mean(dim=0), samples.std(dim=0, correction=0).clamp(min=LEAST_STD))

    @classmethod
    def prior(cls, variance: float, like: Tensor) -> Contrast:
        """N(0, variance) over weights like these (..., d)."""
        zero = like.new_zeros(like.shape[-1])
        return cls(zero, zero + math.sqrt(variance))

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        noise = torch.randn(n, len(self.mean), generator=rng, device=self.mean.device, dtype=self.mean.dtype)
        return torch.addcmul(self.mean, self.std, noise)

    def log_prob(self, weights: Tensor) -> Tensor:
        """(n, d) -> (n,) nats."""
        each = -0.5 * ((weights - self.mean) / self.std).square() - self.std.log()
        return each.sum(dim=1) - 0.5 * math.log(2 * math.pi) * weights.shape[1]


class AdversarialRatio:
    """D(w) ~ log q(w) - log r(w), a network that learns to tell samples of q from samples of a reference r: at the optimum of

        - E_q[log sigmoid(D(w))] - E_r[log sigmoid(-D(w))]

    D is just this. Each weight vector is one row of the network's input. With ``batch_stats`` the mean of the rows it came with is joined
    to it, and D is the ratio for both together: the larger the batch the more its mean alone gives away, so that without a contrast with
    q's own mean D is far larger than the ratio for one vector.
    """

    def __init__(
        self,
        width: int,
        hidden: Sequence[int] = (10, 10),
        activation: Activation = "relu",
        batch_stats: bool = False,
        optimiser: Optimiser | None = None,
        device: Device = CPU,
        seed: int = 0,
    ) -> None:
        """width: weights in a vector; optimiser: None for Adam; seed: of the initial weights."""
        self.activation: Activation = activation
        self.batch_stats = batch_stats
        sizes = [width * (2 if batch_stats else 1), *hidden, 1]
        layers = hidden_layers(sizes, derived_seed(seed, "discriminator"))
        self.network = Network(layers, optimiser or Adam(), device)

    def update(self, samples: Tensor, reference: Tensor) -> Tensor:
        """One step of its optimiser on samples of q (n, d) and of r (m, d), which count the same whatever n and m; the loss."""
        mine, other = self._logits(samples.detach()), self._logits(reference.detach())
        loss = softplus(-mine).mean() + softplus(other).mean()
        self.network.update(loss)
        return loss.detach()

    def ratio(self, samples: Tensor) -> Tensor:
        """(n, d) -> (n,) D, differentiable in the samples; the discriminator itself receives no gradient."""
        return self._logits(samples, constant=True)

    def kl(self, samples: Tensor, variance: float, contrast: Contrast | None = None) -> Tensor:
        """KL(q || N(0, variance)) in nats from samples (n, d) of q, differentiable in them.

        With a contrast r (adaptive contrast) E_q[D(w) + log r(w) - log p(w)]; without one the reference was the prior p itself: E_q[D(w)].
        """
        found = self.ratio(samples)
        if contrast is not None:
            prior = Contrast.prior(variance, samples)
            found = found + contrast.log_prob(samples) - prior.log_prob(samples)
        return found.mean()

    def num_bytes(self) -> int:
        """Needed while its task is learnt, and not afterwards."""
        return self.network.num_bytes() + self.network.working_bytes()

    def state(self) -> State:
        return self.network.state()

    def load(self, state: State) -> None:
        self.network.load(state)

    def _logits(self, weights: Tensor, constant: bool = False) -> Tensor:
        h = weights
        if self.batch_stats:
            h = torch.cat([weights, weights.mean(dim=0).expand_as(weights)], dim=1)
        parameters = [p.detach() if constant else p for p in self.network.module.parameters()]
        pairs = list(zip(parameters[::2], parameters[1::2], strict=True))
        for weight, bias in pairs[:-1]:
            h = ACTIVATIONS[self.activation](linear(h, weight, bias))
        return linear(h, *pairs[-1])[:, 0]
