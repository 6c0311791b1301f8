"""A codebook: the centres of k-means, each with the spread of its own rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from reverie.generators.clustering import k_means
from reverie.generators.family import Family
from reverie.generators.gmm import FittedMixture, Floor, absolute_floor, hard_mixture
from reverie.types import State


@dataclass(eq=False, repr=False)
class KMeansCodebook(Family):
    """Centres of k-means (Lloyd 1982) with the share and the diagonal variance of the rows of each: vector quantisation with noise.

    A baseline: a diagonal mixture whose rows belong to one component each, without expectation maximisation. Mean and variance on each
    axis are those of the rows. Two codebooks do not merge: both are kept.
    """

    components: Annotated[int, Field(gt=0, description="centres; never more than there are distinct rows")] = 16
    steps: Annotated[int, Field(gt=0, description="most steps of Lloyd's algorithm")] = 50
    floor: Floor = 1e-4

    def fit(self, z: Tensor, rng: torch.Generator) -> FittedMixture:
        label = k_means(z, self.components, rng, self.steps)[1]
        found = hard_mixture(z, label, "diagonal", absolute_floor(z, self.floor))
        return FittedMixture(len(z), found.weights.to(z), found.means.to(z), found.covariance.to(z), "diagonal")

    def restore(self, state: State) -> FittedMixture:
        return FittedMixture(state["count"], state["weights"], state["means"], state["spread"], state["form"])

    def numbers(self, width: int) -> int:
        return self.components * (1 + 2 * width)
