"""What generators of vectors share that are told the class: a vector for each class, a fixed scale of the rows, state and copies."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Annotated, TypeVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from reverie.checks import Problems
from reverie.device import Device
from reverie.generators.decoding import Positive, as_batch, check_trained, class_code
from reverie.nn.networks import Network
from reverie.nn.optimisers import Optimiser
from reverie.options import Part
from reverie.seeding import Randomness, generator
from reverie.types import Batch, Level, Losses, Rows, State, StreamSpec

Hidden = Annotated[
    tuple[Positive, ...] | None, Field(description="widths of the hidden layers of each network; None: the stream's")
]
ClassDim = Annotated[int, Field(gt=0, description="size of the learnt vector that stands for a class")]

PIECE = 4096  # rows that pass through the networks at a time

Made = TypeVar("Made", bound="ClassConditional")


class ClassVectors(nn.Module):
    """y -> (B, width): a learnt vector for each class; of soft scores (B, classes) their mean.

    The vector of class c starts as N(0, I) drawn for c alone, so that a table grown class by class equals one made whole.
    """

    def __init__(self, width: int, classes: int, seed: int) -> None:
        super().__init__()
        self.width, self.seed = width, seed
        self.weight = nn.Parameter(torch.empty(0, width))
        self.grow(classes)

    def grow(self, classes: int) -> None:
        fresh = [self._initial(c).to(self.weight) for c in range(len(self.weight), classes)]
        if fresh:
            rows = torch.cat([self.weight.detach(), torch.stack(fresh)])
            self.weight = nn.Parameter(rows, requires_grad=self.weight.requires_grad)

    def restart(self, classes: int) -> None:
        """As new, for that many classes; for state that was saved when there were fewer."""
        self.weight = nn.Parameter(self.weight.detach()[:0], requires_grad=self.weight.requires_grad)
        self.grow(classes)

    def _initial(self, index: int) -> Tensor:
        return torch.randn(self.width, generator=generator(self.seed, "class vector", index))

    def forward(self, y: Tensor | None) -> Tensor:
        if y is not None and y.dtype == torch.int64:
            # Not a product with one-hot rows: the bits of its gradient would depend on the number of classes.
            return functional.embedding(y, self.weight)
        return class_code(y, len(self.weight)) @ self.weight


class Scale(nn.Module):
    """u = (x - mean) / scale, number by number, fitted once: to the first rows that are seen.

    It never moves again, or what the networks have learnt would shift under them; the networks learn what later rows need.
    Deviations are floored at a tenth of their mean, so that a number that is constant at first is not blown up later.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    def fit(self, x: Tensor) -> None:
        """To rows (B, width)."""
        deviation = x.std(dim=0, correction=0)
        floor = 0.1 * deviation.mean()
        self.mean.copy_(x.mean(dim=0))
        self.scale.copy_(torch.where(floor > 0, deviation + floor, torch.ones_like(deviation)))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.scale

    def inverse(self, u: Tensor) -> Tensor:
        return u * self.scale + self.mean


class ScaledNetwork(nn.Module):
    """The network ``net`` with the class vectors that it is told and the scale of its rows."""

    def __init__(self, net: nn.Module, classes: ClassVectors, scale: Scale) -> None:
        super().__init__()
        self.net, self.classes, self.scale = net, classes, scale


class ClassConditional(Part):
    """A generator of rows of any shape, taken as vectors, that is trained by gradient and told the class.

    A new one says what its network is, its loss, and how standardised rows are drawn.
    """

    hidden: tuple[int, ...] | None
    class_dim: int
    optimiser: Optimiser

    trains_by = "step"
    own_phase = False
    stores_real_samples = False
    conditional = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.level: Level = "input"

    def check(self, problems: Problems) -> None:
        if self.hidden is not None and len(self.hidden) == 0:
            problems.add("hidden = (): needs at least one layer")

    @abstractmethod
    def make_network(self, width: int) -> nn.Module:
        """For standardised rows (B, width) and class vectors (B, class_dim)."""

    @abstractmethod
    def loss(self, batch: Batch) -> Losses:
        """Differentiable, weighted; the sum of the terms is what ``step`` descends."""

    @abstractmethod
    def draw(self, noise: Tensor, told: Tensor) -> Tensor:
        """Standard normal noise (B, width) -> standardised rows (B, width) of the classes told (B, class_dim)."""

    @abstractmethod
    def flops(self, rows: int, train: bool = True) -> float:
        """Of a training step, or of sampling (``train`` False)."""

    # ------------------------------------------------------------------ life cycle

    def build(self, spec: StreamSpec, rng: Randomness, device: Device) -> None:
        self.spec, self.rng, self.device = spec, rng, device
        self.width = math.prod(spec.input_shape)
        with rng.global_torch("generator weights"):
            net = self.make_network(self.width)
        module = ScaledNetwork(net, ClassVectors(self.class_dim, spec.outputs, rng.seed), Scale(self.width))
        self.network = Network(module, self.optimiser, device)
        self.trained = False

    @property
    def module(self) -> ScaledNetwork:
        return cast(ScaledNetwork, self.network.module)

    def extend(self, spec: StreamSpec) -> None:
        if spec.outputs > len(self.module.classes.weight):
            self.network.change(lambda module: cast(ScaledNetwork, module).classes.grow(spec.outputs))
        self.spec = spec

    def step(self, batch: Batch) -> Losses:
        if not self.trained:
            self.module.scale.fit(batch.x.flatten(1))
        losses = self.loss(batch)
        self.network.update(torch.stack([*losses.values()]).sum())
        self.trained = True
        return {name: value.detach() for name, value in losses.items()}

    def fit(self, rows: Rows) -> None:
        """Nothing to do: it is trained step by step."""

    def begin_task(self) -> None:
        self.network.begin_task()

    def sample(self, n: int, rng: torch.Generator, classes: Tensor | None = None) -> Batch:
        check_trained(self)
        noise = torch.randn(n, self.width, generator=rng, device=self.device.torch_device)
        self.network.ready(train=False)
        with torch.no_grad():
            told = self.module.classes(classes)
            parts = [self.draw(*piece) for piece in zip(noise.split(PIECE), told.split(PIECE), strict=True)]
            x = self.module.scale.inverse(torch.cat(parts))
        return as_batch(x.reshape(n, *self.spec.input_shape), classes)

    def frozen(self: Made) -> Made:
        twin = self.clone()
        for name in ("spec", "rng", "device", "width", "trained"):
            setattr(twin, name, getattr(self, name))
        twin.network = self.network.frozen()
        return twin

    # ------------------------------------------------------------------ state and cost

    def num_bytes(self) -> int:
        return self.network.num_bytes()

    def working_bytes(self) -> int:
        return self.network.working_bytes()

    def state(self) -> State:
        return {"network": self.network.state(), "trained": self.trained}

    def load(self, state: State) -> None:
        classes = len(state["network"]["weights"]["classes.weight"])
        if classes != len(self.module.classes.weight):
            self.network.change(lambda module: cast(ScaledNetwork, module).classes.restart(classes))
        self.network.load(state["network"])
        self.trained = state["trained"]
