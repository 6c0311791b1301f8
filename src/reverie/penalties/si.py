"""Synaptic intelligence (Zenke, Poole and Ganguli 2017, arXiv 1703.04200): weights that brought the loss down are held."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from reverie.device import Device
from reverie.options import Part
from reverie.penalties.quadratic import Quadratic, bytes_of, grown, on, weights_of
from reverie.seeding import Randomness
from reverie.types import Rows, Solver, State, StreamSpec

PathStrength = Annotated[float, Field(ge=0, description="c: weight of the penalty beside the mean loss; 0: no penalty")]
Damping = Annotated[float, Field(gt=0, description="xi: added to the squared path, so that importances stay bounded")]
PathGradient = Annotated[
    Literal["task", "total"],
    Field(description="gradient in the path integral: of the task's loss, or with the penalty's"),
]
Clip = Annotated[bool, Field(description="whether importances that have become negative are set to 0")]


@dataclass(eq=False, repr=False)
class PathIntegralPenalty(Part):
    """c * sum_i Omega_i (theta_i - theta*_i)^2, theta* the weights after the last task (Zenke et al., equations 4 and 5).

    Omega_i = sum over past tasks of omega_i / (Delta_i^2 + xi). omega_i: the path integral, the sum over steps of -g_i times the change of
    theta_i; Delta_i: the change over the whole task. For plain gradient descent the omega_i add up to the loss decrease, to first order.
    """

    strength: PathStrength = 100.0
    damping: Damping = 0.1
    gradient: PathGradient = "task"
    clip: Clip = True

    def build(self, spec: StreamSpec, rng: Randomness, device: Device) -> None:
        self.device = device.torch_device
        self.kept = Quadratic()
        self.path: dict[str, Tensor] = {}
        self.previous: dict[str, Tensor] = {}

    def begin(self, solver: Solver) -> None:
        weights = weights_of(solver)
        self.kept.grow(weights)
        for name, weight in weights.items():
            self.path[name] = grown(self.path.get(name), torch.zeros_like(weight))
            self.previous[name] = weight.detach().clone()

    def loss(self, solver: Solver) -> Tensor | None:
        return self.strength * self.kept.value(weights_of(solver)) if self._holds() else None

    def after_step(self, solver: Solver) -> None:
        with torch.no_grad():
            for name, weight in weights_of(solver).items():
                before = self.previous[name]
                if weight.grad is not None:
                    gradient = weight.grad
                    if self.gradient == "task" and self._holds():  # the update's gradient was that of both terms
                        pull = self.kept.importance[name] * (before - self.kept.anchor[name])
                        gradient = gradient - 2 * self.strength * pull
                    self.path[name] -= gradient * (weight - before)
                before.copy_(weight)

    def end_task(self, solver: Solver, rows: Rows, task: int, groups: Tensor | None) -> None:
        weights = weights_of(solver)
        importance = {}
        for name, weight in weights.items():
            change = weight.detach() - self.kept.anchor[name]
            total = self.kept.importance[name] + self.path[name] / (change.square() + self.damping)
            importance[name] = total.clamp(min=0) if self.clip else total
        self.kept.replace(importance, weights)
        self.path = {name: torch.zeros_like(value) for name, value in self.path.items()}

    def _holds(self) -> bool:
        return self.kept.active and self.strength > 0

    def num_bytes(self) -> int:
        return self.kept.num_bytes()

    def working_bytes(self) -> int:
        return bytes_of(self.path) + bytes_of(self.previous)

    def state(self) -> State:
        return {"kept": self.kept.state(), "path": dict(self.path)}

    def load(self, state: State) -> None:
        self.kept.load(state["kept"], self.device)
        self.path = on(state["path"], self.device)
