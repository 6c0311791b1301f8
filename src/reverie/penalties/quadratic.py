"""A quadratic bowl over all weights of a network: what EWC and SI have in common."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from reverie.types import Solver, State

Weights = Mapping[str, Tensor]


def weights_of(solver: Solver) -> dict[str, nn.Parameter]:
    """The weights that are trained, by name."""
    return {name: weight for name, weight in solver.module.named_parameters() if weight.requires_grad}


class Quadratic:
    """sum_i importance_i (theta_i - anchor_i)^2 + constant, i over all weights. ``active``: whether anything was put into it."""

    def __init__(self) -> None:
        self.importance: dict[str, Tensor] = {}
        self.anchor: dict[str, Tensor] = {}
        self.constant = torch.zeros(())
        self.active = False

    def grow(self, weights: Weights) -> None:
        """Takes in weights that are new, whole or as rows of a head that has grown: anchored where they are, of no importance."""
        for name, weight in weights.items():
            self.importance[name] = grown(self.importance.get(name), torch.zeros_like(weight))
            self.anchor[name] = grown(self.anchor.get(name), weight.detach())

    def value(self, weights: Weights) -> Tensor:
        """Differentiable."""
        terms = [
            (self.importance[name] * (weight - self.anchor[name]).square()).sum() for name, weight in weights.items()
        ]
        return torch.stack(terms).sum() + self.constant

    def add(self, importance: Weights, at: Weights) -> None:
        """Adds sum_i importance_i (theta_i - at_i)^2. Two such bowls are exactly one:

        P (theta - m)^2 + F (theta - a)^2 = (P + F) (theta - m')^2 + P F / (P + F) (m - a)^2,  m' = m + F / (P + F) (a - m).
        """
        for name, new in importance.items():
            old, anchor, here = self.importance[name], self.anchor[name], at[name].detach()
            both = old + new
            share = torch.where(both > 0, new / both, 1.0)  # both 0: the weight is free, wherever its anchor
            self.constant = self.constant + (old * share * (here - anchor).square()).sum()
            self.importance[name], self.anchor[name] = both, anchor.lerp(here, share)
        self.active = True

    def replace(self, importance: Weights, at: Weights) -> None:
        """One bowl around ``at`` in place of what there was."""
        self.importance = dict(importance)
        self.anchor = {name: weight.detach().clone() for name, weight in at.items()}
        self.active = True

    def num_bytes(self) -> int:
        return bytes_of(self.importance) + bytes_of(self.anchor) + self.constant.element_size()

    def state(self) -> State:
        tensors = {"importance": dict(self.importance), "anchor": dict(self.anchor), "constant": self.constant}
        return {**tensors, "active": self.active}

    def load(self, state: State, device: torch.device) -> None:
        self.importance, self.anchor = on(state["importance"], device), on(state["anchor"], device)
        self.constant, self.active = state["constant"].to(device), state["active"]


def grown(old: Tensor | None, fresh: Tensor) -> Tensor:
    """``old`` with the rows of ``fresh`` that it lacks."""
    if old is None:
        return fresh.clone()
    return old if old.shape == fresh.shape else torch.cat([old, fresh[len(old) :]])


def on(tensors: Weights, device: torch.device) -> dict[str, Tensor]:
    """Copies on the device, so that writing to them changes nothing else."""
    return {name: tensor.to(device, copy=True) for name, tensor in tensors.items()}


def bytes_of(tensors: Weights) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
