"""Hypernetworks: networks whose output is the parameters of another one, told by an embedding which."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal, Protocol, cast, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from reverie.checks import OptionsError
from reverie.nn.matmul import linear
from reverie.nn.parameters import ParameterSpec
from reverie.options import Part, Table
from reverie.seeding import generator

Activation = Literal["relu", "sigmoid", "tanh"]
Start = Literal["main", "gaussian"]
StartOption = Annotated[
    Start, Field(description="how a posterior begins: as the network itself, or as a mean-field Gaussian one")
]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh}

Widths = Annotated[
    tuple[Annotated[int, Field(gt=0)], ...],
    Field(description="widths of the hidden layers; none: linear in the embedding"),
]
ActivationOption = Annotated[Activation, Field(description="after each hidden layer")]
TaskDim = Annotated[int, Field(gt=0, description="size of the embedding of a task")]
TaskStd = Annotated[float, Field(gt=0, description="deviation that embeddings of tasks are drawn with")]

LEAST = 1e-5  # variance of embeddings where a formula would make it smaller


class Hypernet(nn.Module):
    """What all have in common: embeddings of tasks, one parameter each, drawn for that task alone.

    ``forward(tasks)`` is (K, parts, numel): for each of K tasks what describes a posterior over the numel parameters of the main network.
    """

    def __init__(self, dim: int, std: float, seed: int) -> None:
        super().__init__()
        self.dim, self.std, self.seed = dim, std, seed

    # Made last by each kind, so that what joins with a task comes last, where an optimiser that lives on expects it.
    own: nn.ModuleList

    @property
    def tasks(self) -> int:
        return len(self.own)

    def add_task(self) -> None:
        embedding = self.normal(self.std, self.dim, "task embedding", self.tasks)
        self.own.append(nn.ParameterDict({"embedding": nn.Parameter(embedding)}))

    def embedding(self, tasks: Sequence[int]) -> Tensor:
        """(K, dim)."""
        return torch.stack([self.of(task)["embedding"] for task in tasks])

    def of(self, task: int) -> nn.ParameterDict:
        """The parameters that belong to a task alone."""
        return cast(nn.ParameterDict, self.own[task])

    def normal(self, std: float, n: int, *where: object) -> Tensor:
        """(n,) numbers for a place."""
        return std * torch.randn(n, generator=generator(self.seed, "hypernetwork", *where))

    @abstractmethod
    def grow(self, spec: ParameterSpec, base: Tensor) -> None:
        """For a main network whose head has become longer; base: its initial parameters."""

    @abstractmethod
    def multiplications(self, tasks: int) -> int:
        """Multiply-accumulates of ``forward`` for so many tasks."""


class FullModule(Hypernet):
    """One network from an embedding to all parameters."""

    def __init__(self, options: Full, spec: ParameterSpec, variances: Sequence[float], base: Tensor, seed: int) -> None:
        super().__init__(options.task_dim, options.task_std, seed)
        self.options, self.variances = options, tuple(variances)
        sizes = [options.task_dim, *options.hidden]
        self.hidden = hidden_layers(sizes, seed)
        self.inputs = sizes[-1]
        self.numel = 0
        self.weight = nn.Parameter(torch.empty(len(variances), 0, self.inputs))
        self.bias = nn.Parameter(torch.empty(len(variances), 0))
        self.grow(spec, base)
        self.own = nn.ModuleList()

    def grow(self, spec: ParameterSpec, base: Tensor) -> None:
        fresh = [block for block in spec.blocks() if block[2] >= self.numel]
        weights, biases = [], []
        for part, variance in enumerate(self.variances):
            rows = [self._block(part, variance, base, start, stop) for _, _, start, stop in fresh]
            weights.append(torch.cat([self.weight.detach()[part], *(weight.to(self.weight) for weight, _ in rows)]))
            biases.append(torch.cat([self.bias.detach()[part], *(bias.to(self.bias) for _, bias in rows)]))
        self.weight, self.bias = nn.Parameter(torch.stack(weights)), nn.Parameter(torch.stack(biases))
        self.numel = spec.numel

    def _block(self, part: int, variance: float, base: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Initial rows of the last layer for one tensor of the main network: weights (n, inputs) and biases (n,)."""
        n = stop - start
        rng = generator(self.seed, "hypernetwork output", part, start)
        if self.options.init == "xavier":
            bound = math.sqrt(6 / (self.inputs + n))
            return torch.empty(n, self.inputs).uniform_(-bound, bound, generator=rng), torch.zeros(n)
        if part == 0 and self.options.init == "main":
            return torch.zeros(n, self.inputs), base[start:stop].clone()
        bias = math.sqrt(variance) * torch.randn(n, generator=rng)
        return torch.zeros(n, self.inputs), bias

    def forward(self, tasks: Sequence[int]) -> Tensor:
        h = self.embedding(tasks)
        h = run_hidden(self.hidden, self.options.activation, h)
        return linear(h, self.weight.flatten(0, 1), self.bias.flatten()).unflatten(1, (len(self.variances), -1))

    def multiplications(self, tasks: int) -> int:
        hidden = sum(cast(nn.Linear, layer).weight.numel() for layer in self.hidden)
        return tasks * (hidden + self.weight.numel())


class ChunkedModule(Hypernet):
    """One network from the embeddings of a task and of a chunk to the parameters in that chunk; all chunks are one batch.

    Each part of theta has chunks of its own, in the order of its parameters; what the last one has too much is cut.
    """

    def __init__(self, options: Chunked, size: int, spec: ParameterSpec, variances: Sequence[float], seed: int) -> None:
        super().__init__(options.task_dim, options.task_std, seed)
        self.options, self.size, self.variances = options, size, tuple(variances)
        if self.size > spec.numel:
            raise OptionsError(
                f"chunk_size = {self.size:,}: larger than the {spec.numel:,} parameters to generate; use a smaller one, or "
                "hypernetwork = 'full'"
            )
        self.common: nn.Parameter | None = None
        self.spec = spec
        sizes = [options.task_dim + options.chunk_dim, *options.hidden, self.size]
        self.layers = hidden_layers(sizes, seed, fan_in_only=options.init == "gaussian")
        if not options.chunks_per_task:
            self.common = nn.Parameter(self._chunks(0, self.count))
        self.own = nn.ModuleList()

    @property
    def count(self) -> int:
        """Chunks of one part."""
        return -(-self.spec.numel // self.size)

    def _chunks(self, first: int, last: int, *key: object) -> Tensor:
        """(parts, last - first, dim) initial embeddings."""
        found = torch.empty(len(self.variances), last - first, self.options.chunk_dim)
        for part, variance in enumerate(self.variances):
            for chunk in range(first, last):
                std = self.options.chunk_std
                if self.options.init == "gaussian":
                    std = math.sqrt(self._variance(variance))
                found[part, chunk - first] = self.normal(std, self.options.chunk_dim, "chunk", part, chunk, *key)
        return found

    def _variance(self, target: float) -> float:
        """Of chunk embeddings, that outputs vary by ``target`` where a layer keeps the variance of its inputs' mean square."""
        e, c = self.options.task_dim, self.options.chunk_dim
        return max(LEAST, ((e + c) * target - e * self.std**2) / c)

    def add_task(self) -> None:
        super().add_task()
        if self.options.chunks_per_task:
            task = self.tasks - 1
            self.of(task)["chunks"] = nn.Parameter(self._chunks(0, self.count, task))

    def grow(self, spec: ParameterSpec, base: Tensor) -> None:
        before, self.spec = self.count, spec

        def longer(chunks: Tensor, *key: object) -> nn.Parameter:
            return nn.Parameter(torch.cat([chunks.detach(), self._chunks(before, self.count, *key).to(chunks)], dim=1))

        if self.common is not None:
            self.common = longer(self.common)
        else:
            for task in range(self.tasks):
                self.of(task)["chunks"] = longer(self.of(task)["chunks"], task)

    def forward(self, tasks: Sequence[int]) -> Tensor:
        e = self.embedding(tasks)
        c = self.common[None] if self.common is not None else torch.stack([self.of(task)["chunks"] for task in tasks])
        # The first layer is linear in [e, c]: what the task adds is computed once a task, not once a chunk.
        first, *rest = (cast(nn.Linear, layer) for layer in self.layers)
        weight = first.weight
        split = self.options.task_dim
        h = functional.linear(e, weight[:, :split], first.bias)[:, None, None] + linear(c, weight[:, split:])
        for layer in rest:
            h = linear(ACTIVATIONS[self.options.activation](h), layer.weight, layer.bias)
        return h.flatten(2)[..., : self.spec.numel]

    def multiplications(self, tasks: int) -> int:
        first, *rest = (cast(nn.Linear, layer).weight for layer in self.layers)
        chunks = len(self.variances) * self.count
        kinds = tasks if self.common is None else 1  # of chunk embeddings
        entering = tasks * self.options.task_dim + kinds * chunks * self.options.chunk_dim
        return len(first) * entering + tasks * chunks * sum(weight.numel() for weight in rest)


class TableModule(Hypernet):
    """No hypernetwork: what would be made is kept as it is, for each task, or once for all."""

    def __init__(
        self, start: Start, spec: ParameterSpec, variances: Sequence[float], base: Tensor, seed: int, each: bool
    ) -> None:
        super().__init__(1, 1.0, seed)
        self.start, self.variances, self.spec, self.base, self.each = start, tuple(variances), spec, base, each
        self.one = None if each else nn.Parameter(self._initial(0, spec.numel, 0))
        self.own = nn.ModuleList()

    def _initial(self, first: int, last: int, task: int) -> Tensor:
        """(parts, last - first): blocks from the first on, each drawn for its own place."""
        found = torch.empty(len(self.variances), last - first)
        for _, _, begin, end in self.spec.blocks():
            if begin < first:
                continue
            for part, variance in enumerate(self.variances):
                rng = generator(self.seed, "theta", task, part, begin)
                bound = math.sqrt(3 * variance)
                found[part, begin - first : end - first] = torch.empty(end - begin).uniform_(
                    -bound, bound, generator=rng
                )
        if self.start == "main":
            found[0] = self.base[first:last]
        return found

    def add_task(self) -> None:
        own = {"theta": nn.Parameter(self._initial(0, self.spec.numel, self.tasks))} if self.each else {}
        self.own.append(nn.ParameterDict(own))

    def grow(self, spec: ParameterSpec, base: Tensor) -> None:
        before, self.spec, self.base = self.spec.numel, spec, base

        def longer(theta: Tensor, task: int) -> nn.Parameter:
            return nn.Parameter(torch.cat([theta.detach(), self._initial(before, spec.numel, task).to(theta)], dim=1))

        if self.one is not None:
            self.one = longer(self.one, 0)
        else:
            for task in range(self.tasks):
                self.of(task)["theta"] = longer(self.of(task)["theta"], task)

    def forward(self, tasks: Sequence[int]) -> Tensor:
        if self.one is not None:
            return self.one.expand(len(tasks), -1, -1)
        return torch.stack([self.of(task)["theta"] for task in tasks])

    def multiplications(self, tasks: int) -> int:
        return 0


def hidden_layers(sizes: Sequence[int], seed: int, fan_in_only: bool = False) -> nn.ModuleList:
    """Linear layers with Xavier-uniform weights (Glorot and Bengio 2010), or such that the variance of the inputs is kept, and biases of 0."""
    layers = nn.ModuleList()
    for index, (inputs, outputs) in enumerate(pairwise(sizes)):
        layer = nn.utils.skip_init(nn.Linear, inputs, outputs)  # which would draw from torch's own generator
        bound = math.sqrt(3 / inputs) if fan_in_only else math.sqrt(6 / (inputs + outputs))
        with torch.no_grad():
            layer.weight.uniform_(-bound, bound, generator=generator(seed, "hypernetwork layer", index))
            layer.bias.zero_()
        layers.append(layer)
    return layers


def run_hidden(layers: nn.ModuleList, activation: Activation, h: Tensor) -> Tensor:
    for layer in layers:
        h = ACTIVATIONS[activation](layer(h))
    return h


@dataclass(eq=False, repr=False)
class Full(Part):
    """Hidden layers, then one linear layer to all parameters of the main network (Ha, Dai and Le 2017, arXiv 1609.09106).

    init: "xavier", each tensor of the main network a layer of its own; "gaussian", weights of 0 and biases as a mean-field Gaussian network
    starts; "main", weights of 0 and, for the means, the main network's own initial parameters as biases.
    """

    hidden: Widths = ()
    activation: ActivationOption = "relu"
    task_dim: TaskDim = 8
    task_std: TaskStd = 1.0
    init: Annotated[Literal["main", "xavier", "gaussian"], Field(description="how its last layer starts")] = "main"

    def make(
        self, spec: ParameterSpec, variances: Sequence[float], base: Tensor, seed: int, first: int | None = None
    ) -> Hypernet:
        return FullModule(self, spec, variances, base, seed)


@dataclass(eq=False, repr=False)
class Chunked(Part):
    """All parameters in one vector, cut into chunks of one size, each made by the same network from an embedding of its own (von Oswald et al. 2020,
    arXiv 1906.00695): far fewer parameters than it makes.

    init: "xavier", or "gaussian", where the embeddings of chunks vary such that the outputs do as a mean-field Gaussian network starts.
    """

    chunk_size: Annotated[
        int | None,
        Field(
            gt=0,
            description="parameters of the main network in a chunk; None: the largest with which the hypernetwork is no larger than what it makes",
        ),
    ] = None
    hidden: Widths = ()
    activation: ActivationOption = "relu"
    task_dim: TaskDim = 32
    task_std: TaskStd = 1.0
    chunk_dim: Annotated[int, Field(gt=0, description="size of the embedding of a chunk")] = 32
    chunk_std: Annotated[
        float, Field(gt=0, description="deviation that embeddings of chunks are drawn with (init: xavier)")
    ] = 1.0
    chunks_per_task: Annotated[bool, Field(description="whether each task has chunk embeddings of its own")] = False
    init: Annotated[Literal["xavier", "gaussian"], Field(description="how it starts")] = "xavier"

    def fitting_size(self, numel: int, parts: int) -> int:
        """The largest chunk with which the hypernetwork of one task has at most as many parameters as it makes; where there is none, the one
        with the fewest."""

        def parameters(size: int) -> int:
            sizes = [self.task_dim + self.chunk_dim, *self.hidden, size]
            chunks = parts * -(-numel // size) * self.chunk_dim
            return self.task_dim + chunks + sum((a + 1) * b for a, b in pairwise(sizes))

        sizes = [-(-numel // chunks) for chunks in range(1, min(numel, 1000) + 1)]
        fitting = [size for size in sizes if parameters(size) <= parts * numel]
        return fitting[0] if fitting else min(sizes, key=parameters)

    def make(
        self, spec: ParameterSpec, variances: Sequence[float], base: Tensor, seed: int, first: int | None = None
    ) -> Hypernet:
        size = self.chunk_size or self.fitting_size(first or spec.numel, len(variances))
        return ChunkedModule(self, size, spec, variances, seed)


@dataclass(eq=False, repr=False)
class Separate(Part):
    """No hypernetwork: each task has numbers of its own."""

    start: StartOption = "main"

    def make(
        self, spec: ParameterSpec, variances: Sequence[float], base: Tensor, seed: int, first: int | None = None
    ) -> Hypernet:
        return TableModule(self.start, spec, variances, base, seed, each=True)


@dataclass(eq=False, repr=False)
class Single(Part):
    """No hypernetwork: all tasks share the same numbers."""

    start: StartOption = "main"

    def make(
        self, spec: ParameterSpec, variances: Sequence[float], base: Tensor, seed: int, first: int | None = None
    ) -> Hypernet:
        return TableModule(self.start, spec, variances, base, seed, each=False)


@runtime_checkable
class HypernetworkOptions(Protocol):
    """Options of a hypernetwork. spec: what it makes; variances: how much each part of theta varies at the start; base: (numel,) initial
    parameters of the main network; first: how many of them there are for the first task's classes alone, by which what is sized by itself
    is sized, so that a network that has grown equals one made whole."""

    def make(
        self, spec: ParameterSpec, variances: Sequence[float], base: Tensor, seed: int, first: int | None = None
    ) -> Hypernet: ...


HYPERNETWORKS = Table(
    "hypernetwork", HypernetworkOptions, {"chunked": Chunked, "full": Full, "separate": Separate, "single": Single}
)
