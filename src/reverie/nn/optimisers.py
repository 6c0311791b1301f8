"""Optimisers as options. A part keeps its own optimiser; these say which one and how it lives through tasks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor, nn

from reverie.options import Part, Table

Decay = Annotated[float, Field(ge=0, lt=1)]
Clip = Annotated[
    float | None, Field(gt=0, description="largest norm of the gradient of all its weights; None: no limit")
]
ClipValue = Annotated[
    float | None, Field(gt=0, description="largest magnitude of each number of the gradient; None: no limit")
]


@runtime_checkable
class Optimiser(Protocol):
    """Options of an optimiser. ``state_per_parameter``: how many numbers it keeps for each weight."""

    reset_each_task: bool
    state_per_parameter: int

    def make(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer: ...


@dataclass(eq=False, repr=False)
class Adam(Part):
    """Adam (Kingma and Ba, 2015), fused; moments live through all tasks unless ``reset_each_task``."""

    learning_rate: Annotated[float | None, Field(gt=0, description="step size; None: the stream's, or 0.001")] = None
    betas: Annotated[tuple[Decay, Decay], Field(description="decay of the two moments, each in [0, 1)")] = (0.9, 0.999)
    weight_decay: Annotated[float, Field(ge=0, description="L2 penalty added to the gradient")] = 0.0
    reset_each_task: Annotated[bool, Field(description="forget the moments at the start of each task")] = False
    clip: Clip = None
    clip_value: ClipValue = None

    state_per_parameter = 2

    def make(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        made = torch.optim.Adam(
            parameters, self.learning_rate or 1e-3, betas=self.betas, weight_decay=self.weight_decay, fused=True
        )
        return clipping(made, self.clip, self.clip_value)


@dataclass(eq=False, repr=False)
class SGD(Part):
    """Stochastic gradient descent with momentum."""

    learning_rate: Annotated[float, Field(gt=0, description="step size")] = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1, description="decay of the velocity")] = 0.0
    weight_decay: Annotated[float, Field(ge=0, description="L2 penalty added to the gradient")] = 0.0
    reset_each_task: Annotated[bool, Field(description="forget the velocity at the start of each task")] = False
    clip: Clip = None
    clip_value: ClipValue = None

    state_per_parameter = 1

    def make(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        made = torch.optim.SGD(
            parameters, self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay, fused=True
        )
        return clipping(made, self.clip, self.clip_value)


@dataclass(eq=False, repr=False)
class RMSprop(Part):
    """The gradient divided by the root of its mean square (Tieleman and Hinton 2012)."""

    learning_rate: Annotated[float, Field(gt=0, description="step size")] = 1e-3
    decay: Annotated[Decay, Field(description="of the mean square")] = 0.9
    epsilon: Annotated[float, Field(gt=0, description="added to the root")] = 1e-8
    reset_each_task: Annotated[bool, Field(description="forget the mean square at the start of each task")] = False
    clip: Clip = None
    clip_value: ClipValue = None

    state_per_parameter = 1

    def make(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        made = torch.optim.RMSprop(parameters, self.learning_rate, self.decay, self.epsilon)
        return clipping(made, self.clip, self.clip_value)


OPTIMISERS = Table("optimiser", Optimiser, {"adam": Adam, "sgd": SGD, "rmsprop": RMSprop})


def clipping(optimiser: torch.optim.Optimizer, norm: float | None, value: float | None) -> torch.optim.Optimizer:
    """The same, which before each update cuts each number of the gradient to [-value, value] and then shortens a gradient that is longer than
    ``norm``; None: it does not."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]

    def limit(optimiser: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if value is not None:
            nn.utils.clip_grad_value_(parameters, value)
        if norm is not None:
            nn.utils.clip_grad_norm_(parameters, norm)

    if norm is not None or value is not None:
        optimiser.register_step_pre_hook(limit)
    return optimiser


def optimiser_state(optimiser: torch.optim.Optimizer) -> dict[str, dict[str, Any]]:
    """The moments, keyed by the position of their parameter; settings are options and need no saving."""
    return {str(index): dict(values) for index, values in optimiser.state_dict()["state"].items()}


def load_optimiser(optimiser: torch.optim.Optimizer, state: dict[str, dict[str, Any]]) -> None:
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    padded = {int(index): _padded(values, parameters[int(index)]) for index, values in state.items()}
    optimiser.load_state_dict({"state": padded, "param_groups": optimiser.state_dict()["param_groups"]})


def _padded(values: dict[str, Any], parameter: Tensor) -> dict[str, Any]:
    """Moments of a parameter that has grown since: zeros where it is new."""

    def pad(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value.dim() == 0:
            return value.clone()  # or two optimisers would write to the same moments
        # In the parameter's own memory layout, which a file does not keep: fused updates go through both as they lie in memory.
        grown = torch.zeros_like(parameter)
        grown[tuple(slice(length) for length in value.shape)] = value
        return grown

    return {name: pad(value) for name, value in values.items()}
