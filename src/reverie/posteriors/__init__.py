"""Posteriors over the weights of a network, as families: each turns the numbers that describe one into weights drawn from it."""

from __future__ import annotations

from reverie.options import Table
from reverie.posteriors.dirac import Dirac
from reverie.posteriors.gaussian import MeanField
from reverie.posteriors.implicit import Implicit
from reverie.posteriors.radial import Radial
from reverie.types import Posterior

POSTERIORS = Table(
    "posterior", Posterior, {"dirac": Dirac, "gaussian": MeanField, "radial": Radial, "implicit": Implicit}
)

__all__ = ["POSTERIORS", "Dirac", "Implicit", "MeanField", "Radial"]
