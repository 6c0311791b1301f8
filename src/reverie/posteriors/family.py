"""What families of posteriors have in common."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from reverie.device import Device
from reverie.nn.optimisers import Optimiser
from reverie.nn.parameters import Ensemble, ParameterSpec, Statistics
from reverie.options import Part
from reverie.types import Losses, State


class Divergence(NamedTuple):
    """Of a posterior from its prior: a number with its gradient, in nats where it has a value too.

    unclipped: a further share of it, whose gradient no limit holds for. losses: of what estimates it, detached.
    """

    value: Tensor
    unclipped: Tensor | None = None
    losses: Losses | None = None


class Estimate(Protocol):
    """Of the divergence of a posterior from its prior, made anew at each step from samples of weights."""

    def term(
        self, theta: Tensor, weights: Tensor, rng: torch.Generator, prior: SampledPrior | None = None
    ) -> Divergence:
        """theta (parts, k), weights (n, numel) drawn from it, differentiable. prior: None for N(0, variance)."""
        ...

    def state(self) -> State: ...

    def load(self, state: State) -> None: ...

    def working_bytes(self) -> int: ...


class PosteriorFamily(Part):
    """Base of the families: what holds for most of them."""

    @property
    def deterministic(self) -> bool:
        return False

    @abstractmethod
    def noise(self, n: int, spec: ParameterSpec, rng: torch.Generator) -> Tensor:
        """(n, k), all that is random in n samples, whatever theta."""

    @abstractmethod
    def sample(self, theta: Tensor, spec: ParameterSpec, noise: Tensor) -> Tensor:
        """(n, numel) weights, differentiable in theta."""

    def theta_spec(self, spec: ParameterSpec) -> ParameterSpec:
        """The layout of each part of theta, for a network of this layout."""
        return spec

    def initial(self, spec: ParameterSpec, seed: int) -> Tensor | None:
        """(theta_spec(spec).numel,) where the first part of theta starts; None: at the network's own initial parameters."""
        return None

    def theta_mask(self, spec: ParameterSpec, classes: Sequence[int]) -> Tensor:
        """(theta_spec(spec).numel,) bool: the numbers on which these outputs of the network depend."""
        return spec.mask(classes)

    def estimate(
        self, spec: ParameterSpec, variance: float, optimiser: Optimiser, device: Device, seed: int
    ) -> Estimate | None:
        """What estimates the divergence from N(0, variance) where ``prior_kl`` has none; made anew for each task."""
        return None

    def training_scores(
        self, theta: Tensor, ensemble: Ensemble, x: Tensor, n: int, rng: torch.Generator
    ) -> tuple[Tensor, Tensor | None, Statistics]:
        """(n, B, outputs) from n samples of weights, those samples (n, numel) where there are any, and the statistics of the batch."""
        weights = self.sample(theta, ensemble.spec, self.noise(n, ensemble.spec, rng))
        scores, seen = ensemble.train(weights, x)
        return scores, weights, seen

    def moments(self, theta: Tensor) -> Any:
        return None


@dataclass(frozen=True)
class SampledPrior:
    """A posterior, theta (parts, k), that has become the prior and can only be sampled.

    trained: (numel,) bool; the other weights have N(0, variance) for a prior, independently. repels: its score is taken with the wrong
    sign, as in the published code of Henning et al. 2021.
    """

    family: PosteriorFamily
    spec: ParameterSpec
    theta: Tensor
    trained: Tensor
    variance: float
    repels: bool = False

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        """(n, numel)."""
        drawn = self.family.sample(self.theta, self.spec, self.family.noise(n, self.spec, rng))
        fresh = torch.randn(drawn.shape, generator=rng, device=drawn.device)
        return torch.where(self.trained, drawn, math.sqrt(self.variance) * fresh)
