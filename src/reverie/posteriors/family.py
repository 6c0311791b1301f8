"""What families of posteriors have in common."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from reverie.nn.parameters import Ensemble, ParameterSpec
from reverie.options import Part


class PosteriorFamily(Part):
    """Base of the families: what holds for most of them."""

    @property
    def deterministic(self) -> bool:
        return False

    def noise(self, n: int, spec: ParameterSpec, rng: torch.Generator) -> Tensor:
        raise NotImplementedError

    def sample(self, theta: Tensor, spec: ParameterSpec, noise: Tensor) -> Tensor:
        raise NotImplementedError

    def training_scores(
        self, theta: Tensor, ensemble: Ensemble, x: Tensor, n: int, rng: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """(n, B, outputs) from n samples of weights, and those samples (n, numel) where there are any."""
        weights = self.sample(theta, ensemble.spec, self.noise(n, ensemble.spec, rng))
        return ensemble(weights, x), weights

    def moments(self, theta: Tensor) -> Any:
        return None
