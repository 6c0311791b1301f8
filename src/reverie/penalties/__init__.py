"""Penalties: terms of the loss that hold the weights of a network where past tasks want them."""

from reverie.penalties.ewc import FisherPenalty
from reverie.penalties.laplace import LaplacePenalty
from reverie.penalties.si import PathIntegralPenalty

__all__ = ["FisherPenalty", "LaplacePenalty", "PathIntegralPenalty"]
