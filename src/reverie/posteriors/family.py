"""What families of posteriors have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from reverie.device import Device
from reverie.nn.optimisers import Optimiser
from reverie.nn.parameters import Ensemble, ParameterSpec
from reverie.options import Part
from reverie.types import State


class Estimate(Protocol):
    """Of the divergence of a posterior from its prior, made anew at each step from samples of weights."""

    def term(self, theta: Tensor, weights: Tensor, rng: torch.Generator) -> Tensor:
        """A number with the gradient of the divergence; theta (parts, k), weights (n, numel) drawn from it, differentiable."""
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
    ) -> tuple[Tensor, Tensor | None]:
        """(n, B, outputs) from n samples of weights, and those samples (n, numel) where there are any."""
        weights = self.sample(theta, ensemble.spec, self.noise(n, ensemble.spec, rng))
        return ensemble(weights, x), weights

    def moments(self, theta: Tensor) -> Any:
        return None
