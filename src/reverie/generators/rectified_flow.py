"""Rectified flow, or flow matching along straight lines: noise is carried to data by a learnt velocity.

Sources: Liu, Gong and Liu 2023, arXiv 2209.03003; Lipman, Chen, Ben-Hamu, Nickel and Le 2023, arXiv 2210.02747. Guidance without a
classifier: Ho and Salimans 2022, arXiv 2207.12598.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from reverie.checks import Problems
from reverie.generators.class_conditional import ClassConditional, ClassDim, Hidden
from reverie.nn.networks import forward_flops, mlp, training_flops
from reverie.nn.optimisers import Adam, Optimiser
from reverie.types import Batch, Losses

FREQUENCIES = 8


class Velocity(nn.Module):
    """x (B, width), t (B,), class vector (B, class_dim) -> (B, width)."""

    def __init__(self, width: int, class_dim: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = mlp([width + 2 * FREQUENCIES + class_dim, *hidden, width])

    def forward(self, x: Tensor, t: Tensor, told: Tensor) -> Tensor:
        velocity: Tensor = self.layers(torch.cat([x, time_features(t), told], dim=1))
        return velocity


@dataclass(eq=False, repr=False)
class RectifiedFlow(ClassConditional):
    """Rectified flow with a fully connected velocity, conditional on the class. It has no density.

    Loss: mean over the inputs of (v(x_t, t, y) - (x - noise))^2 with x_t = (1 - t) noise + t x, t uniform in [0, 1], on rows standardised
    by the first ones. Sampling follows dx/dt = v from noise at t = 0 to t = 1. With guidance weight w the velocity is
    (1 + w) v(y) - w v(no class); no class is a class vector of zeros, learnt from the rows whose class was dropped.
    """

    hidden: Hidden = None
    sampling_steps: Annotated[int, Field(gt=0, description="steps from noise to a sample")] = 5
    integrator: Annotated[
        Literal["euler", "midpoint", "heun"],
        Field(description="how a step is made: euler looks at the velocity once, midpoint and heun twice"),
    ] = "midpoint"
    drop_class: Annotated[
        float, Field(ge=0, lt=1, description="probability that a training row is not told its class (for guidance)")
    ] = 0.0
    guidance: Annotated[
        float, Field(ge=0, description="guidance weight w: how far samples are pushed towards their class; 0: not")
    ] = 0.0
    class_dim: ClassDim = 16
    optimiser: Annotated[Optimiser, Field(description="how its weights are updated")] = field(default_factory=Adam)

    def check(self, problems: Problems) -> None:
        super().check(problems)
        problems.check(
            self.guidance == 0 or self.drop_class > 0,
            f"guidance = {self.guidance}: needs a velocity without class, which drop_class = 0 never trains; set drop_class = 0.1",
        )

    def make_network(self, width: int) -> nn.Module:
        return Velocity(width, self.class_dim, self.hidden or (400, 400))

    def loss(self, batch: Batch) -> Losses:
        rng, device = self.rng("generator noise"), batch.x.device
        x = self.module.scale(batch.x.flatten(1))
        noise = torch.randn(x.shape, generator=rng, device=device)
        t = torch.rand(len(x), generator=rng, device=device)
        told = self.module.classes(batch.y)
        if self.drop_class:
            told = told * (torch.rand(len(x), 1, generator=rng, device=device) >= self.drop_class)
        self.network.ready(train=True)
        velocity = self._velocity(torch.lerp(noise, x, t[:, None]), t, told)
        return {"velocity": (batch.weight * (velocity - (x - noise)).square().mean(dim=1)).sum()}

    def draw(self, noise: Tensor, told: Tensor) -> Tensor:
        x, h = noise, 1 / self.sampling_steps
        for step in range(self.sampling_steps):
            t = step * h
            slope = self._guided(x, t, told)
            if self.integrator == "midpoint":
                slope = self._guided(x + 0.5 * h * slope, t + 0.5 * h, told)
            elif self.integrator == "heun":
                slope = 0.5 * (slope + self._guided(x + h * slope, t + h, told))
            x = x + h * slope
        return x

    def _guided(self, x: Tensor, t: float, told: Tensor) -> Tensor:
        times = torch.full((len(x),), t, device=x.device)
        velocity = self._velocity(x, times, told)
        if self.guidance:
            velocity = velocity + self.guidance * (velocity - self._velocity(x, times, torch.zeros_like(told)))
        return velocity

    def _velocity(self, x: Tensor, t: Tensor, told: Tensor) -> Tensor:
        with self.device.autocast():
            velocity: Tensor = self.module.net(x, t, told).float()
        return velocity

    def flops(self, rows: int, train: bool = True) -> float:
        counts = [p.numel() for p in self.module.net.parameters() if p.dim() == 2]
        if train:
            return training_flops(counts, rows, input_gradient=True)  # the class vectors learn through it
        looks = self.sampling_steps * (1 if self.integrator == "euler" else 2) * (2 if self.guidance else 1)
        return looks * forward_flops(counts, rows)


def time_features(t: Tensor) -> Tensor:
    """(B,) in [0, 1] -> (B, 2 * FREQUENCIES): sine and cosine of pi k t, k = 1, 2, ...

    >>> time_features(torch.zeros(1))[0].tolist() == [0.0] * FREQUENCIES + [1.0] * FREQUENCIES
    True
    """
    angles = math.pi * t[:, None] * torch.arange(1, FREQUENCIES + 1, device=t.device)
    return torch.cat([angles.sin(), angles.cos()], dim=1)
