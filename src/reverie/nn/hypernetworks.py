"""Hypernetworks: networks whose output is the parameters of another one, told by an embedding which."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Annotated, Literal, Protocol, cast, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from reverie.checks import OptionsError
from reverie.nn.matmul import linear
from reverie.nn.parameters import Kind, ParameterSpec
from reverie.options import Part, Table
from reverie.seeding import derived_seed, generator

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
Ratio = Annotated[
    float | None,
    Field(gt=0, description="trained numbers for each number made, above which the user is told; None: never"),
]

LEAST = 1e-5  # variance of embeddings where a formula would make it smaller
DRAWS = 1000  # of a task's embedding, from which the size of hidden units at the start is measured


class Hypernet(nn.Module):
    """What all have in common: embeddings of tasks, one parameter each, drawn for that task alone.

    ``forward(tasks)`` is (K, parts, numel): for each of K tasks what describes a posterior over the numel parameters of the main network.
    """

    def __init__(self, dim: int, std: float, seed: int, limit: float | None = None) -> None:
        """limit: of ``compression``, above which there is a warning."""
        super().__init__()
        self.dim, self.std, self.seed, self.limit = dim, std, seed, limit

    # Made last by each kind, so that what joins with a task comes last, where an optimiser that lives on expects it.
    own: nn.ModuleList

    @property
    def tasks(self) -> int:
        return len(self.own)

    def add_task(self) -> None:
        embedding = self.normal(self.std, self.dim, "task embedding", self.tasks)
        self.own.append(nn.ParameterDict({"embedding": nn.Parameter(embedding)}))

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

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Numbers that are made for one task."""

    @property
    def trained(self) -> int:
        """Numbers that are trained, the embeddings of all tasks so far among them."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def compression(self) -> float:
        """Trained numbers for each number made (von Oswald et al. 2020, section 4): at most 1 where the hypernetwork is no larger than one network
        that it makes weights for."""
        return self.trained / self.outputs

    def compression_warning(self) -> str | None:
        """For the user, where the hypernetwork is larger than its options allow."""
        if self.limit is None or self.compression <= self.limit:
            return None
        return (
            f"hypernetwork: {self.trained:,} numbers make {self.outputs:,}, {self.compression:.3g} for one, more than compression = "
            f"{self.limit:g}; use 'chunked' or 'structured' with chunk_size = None, which finds one that fits if any does, narrower hidden layers, "
            "smaller embeddings, or compression = None"
        )


class EmbeddingHypernet(Hypernet):
    """One whose tasks differ by embeddings alone, so that it can be asked for what lies between tasks."""

    def forward(self, tasks: Sequence[int]) -> Tensor:
        return self.made(self._belonging(tasks))

    def mixed(self, shares: Tensor) -> Tensor:
        """(parts, numel) made from the sum of what belongs to each of T tasks times its share (T,): of their embeddings, and of those of chunks
        where each task has its own."""
        each = self._belonging(range(len(shares)))
        return self.made({name: torch.tensordot(shares, values, 1)[None] for name, values in each.items()})[0]

    def _belonging(self, tasks: Sequence[int]) -> dict[str, Tensor]:
        """(K, ...) the parameters that belong to a task alone, by name."""
        return {name: torch.stack([self.of(task)[name] for task in tasks]) for name in self.of(0)}

    @abstractmethod
    def made(self, own: Mapping[str, Tensor]) -> Tensor:
        """(K, parts, numel) of K tasks to which ``own`` belongs: embedding (K, dim); chunks (K, parts, count, dim), where they have their own."""


class FullModule(EmbeddingHypernet):
    """One network from an embedding to all parameters."""

    def __init__(self, options: Full, spec: ParameterSpec, variances: Sequence[float], base: Tensor, seed: int) -> None:
        super().__init__(options.task_dim, options.task_std, seed, options.compression)
        self.options, self.variances = options, tuple(variances)
        sizes = [options.task_dim, *options.hidden]
        hyperfan = options.init == "hyperfan"
        self.hidden = hidden_layers(sizes, seed, hyperfan, relu=hyperfan and options.activation == "relu")
        self.inputs = sizes[-1]
        self.square = self._mean_square() if hyperfan else 1.0
        self.numel = 0
        self.weight = nn.Parameter(torch.empty(len(variances), 0, self.inputs))
        self.bias = nn.Parameter(torch.empty(len(variances), 0))
        self.grow(spec, base)
        self.own = nn.ModuleList()

    def grow(self, spec: ParameterSpec, base: Tensor) -> None:
        fresh = [block for block in spec.blocks() if block[2] >= self.numel]
        weights, biases = [], []
        for part, variance in enumerate(self.variances):
            rows = [self._block(part, variance, base, *block) for block in fresh]
            weights.append(torch.cat([self.weight.detach()[part], *(weight.to(self.weight) for weight, _ in rows)]))
            biases.append(torch.cat([self.bias.detach()[part], *(bias.to(self.bias) for _, bias in rows)]))
        self.weight, self.bias = nn.Parameter(torch.stack(weights)), nn.Parameter(torch.stack(biases))
        self.numel = spec.numel

    def _mean_square(self) -> float:
        """Of the last hidden units, over embeddings as they are drawn: measured, so that it holds for any activation and width."""
        drawn = self.normal(self.std, DRAWS * self.dim, "measured embeddings").view(DRAWS, self.dim)
        with torch.no_grad():
            return run_hidden(self.hidden, self.options.activation, drawn).square().mean().item()

    def _block(
        self, part: int, variance: float, base: Tensor, kind: Kind, fan_in: int, start: int, stop: int
    ) -> tuple[Tensor, Tensor]:
        """Initial rows of the last layer for one tensor of the main network: weights (n, inputs) and biases (n,)."""
        n = stop - start
        rng = generator(self.seed, "hypernetwork output", part, start)
        if self.options.init == "xavier":
            bound = math.sqrt(6 / (self.inputs + n))
            return torch.empty(n, self.inputs).uniform_(-bound, bound, generator=rng), torch.zeros(n)
        if part == 0 and self.options.init == "main":
            return torch.zeros(n, self.inputs), base[start:stop].clone()
        if part == 0 and self.options.init == "hyperfan":
            bound = math.sqrt(3 * hyperfan_variance(kind, fan_in) / (self.inputs * self.square))
            weight = torch.empty(n, self.inputs).uniform_(-bound, bound, generator=rng)
            return weight, torch.full((n,), float(kind == "scale"))
        bias = math.sqrt(variance) * torch.randn(n, generator=rng)
        return torch.zeros(n, self.inputs), bias

    def made(self, own: Mapping[str, Tensor]) -> Tensor:
        h = run_hidden(self.hidden, self.options.activation, own["embedding"])
        return linear(h, self.weight.flatten(0, 1), self.bias.flatten()).unflatten(1, (len(self.variances), -1))

    def multiplications(self, tasks: int) -> int:
        hidden = sum(cast(nn.Linear, layer).weight.numel() for layer in self.hidden)
        return tasks * (hidden + self.weight.numel())

    @property
    def outputs(self) -> int:
        return len(self.variances) * self.numel


class PiecewiseModule(EmbeddingHypernet):
    """What is made piece by piece, each from the embeddings of the task and of its own; each part of theta has pieces of its own."""

    common: nn.Parameter | None
    scales: Tensor | None

    def __init__(self, options: Piecewise, spec: ParameterSpec, variances: Sequence[float], seed: int) -> None:
        super().__init__(options.task_dim, options.task_std, seed, options.compression)
        self.options, self.variances, self.spec = options, tuple(variances), spec
        self.common = None
        self.shrink = self._shrink() if options.init == "hyperfan" else 1.0
        places = [torch.arange(start, stop) for kind, _, start, stop in spec.blocks() if kind == "scale"]
        # What scales begin at is added, and not a bias: the place of a scale in a piece is that of a weight in another.
        scales = torch.cat(places) if places and options.init == "hyperfan" else None
        self.register_buffer("scales", scales, persistent=False)

    def _begin(self) -> None:
        """Embeddings, when all else is there."""
        if not self.options.chunks_per_task:
            self.common = nn.Parameter(self._chunks(0, self.count))
        self.own = nn.ModuleList()

    @property
    @abstractmethod
    def count(self) -> int:
        """Pieces of one part."""

    @abstractmethod
    def span(self, piece: int) -> tuple[int, int]:
        """The parameters that a piece makes; the last may end behind the vector, where a head can grow to."""

    @abstractmethod
    def assembled(self, e: Tensor, c: Tensor) -> Tensor:
        """(K, parts, numel) from embeddings of tasks (K, dim) and of pieces (K or 1, parts, count, dim)."""

    @abstractmethod
    def layout(self, spec: ParameterSpec) -> None:
        """Takes the layout of a main network whose head has become longer; pieces that are there stay the first."""

    def layers_to(self, size: int, *where: object) -> nn.ModuleList:
        """A network from both embeddings to so many numbers."""
        options = self.options
        sizes = [options.task_dim + options.chunk_dim, *options.hidden, size]
        hyperfan = options.init == "hyperfan"
        relu = hyperfan and options.activation == "relu"
        layers = hidden_layers(sizes, self.seed, options.init != "xavier", relu, where)
        if hyperfan:
            with torch.no_grad():
                cast(nn.Linear, layers[-1]).weight.mul_(math.sqrt(self.shrink))
        return layers

    # ------------------------------------------------------------------ where the embeddings of pieces start

    def _chunks(self, first: int, last: int, *key: object) -> Tensor:
        """(parts, last - first, dim) initial embeddings."""
        found = torch.empty(len(self.variances), last - first, self.options.chunk_dim)
        for part in range(len(self.variances)):
            for chunk, std in zip(range(first, last), self._deviations(part, first, last), strict=True):
                found[part, chunk - first] = self.normal(std, self.options.chunk_dim, "chunk", part, chunk, *key)
        return found

    def _deviations(self, part: int, first: int, last: int) -> list[float]:
        """That embeddings are drawn with, one for each piece."""
        if self.options.init == "xavier":
            return [self.options.chunk_std] * (last - first)
        if part or self.options.init == "gaussian":
            return [math.sqrt(self._variance(self.variances[part]))] * (last - first)
        each = self._targets(max((self.span(piece)[1] for piece in range(first, last)), default=0))
        means = [float(each[slice(*self.span(piece))].mean()) for piece in range(first, last)]
        return [math.sqrt(self._variance(mean)) for mean in means]

    def _variance(self, target: float) -> float:
        """Of chunk embeddings, that outputs vary by ``target`` where a layer keeps the variance of its inputs' mean square."""
        e, c = self.options.task_dim, self.options.chunk_dim
        return max(LEAST, ((e + c) * target / self.shrink - e * self.std**2) / c)

    def _shrink(self) -> float:
        """Of the variance of the last layer's weights, that of the quietest weights no more than half comes from the embedding of the task, however
        loud that is; 1 where it is as published."""
        blocks = self.spec.blocks()
        weights = [hyperfan_variance(kind, fan_in) for kind, fan_in, _, _ in blocks if kind == "weight"]
        e, c = self.options.task_dim, self.options.chunk_dim
        return min(1.0, min([*weights, *self.variances[1:]], default=1.0) * (e + c) / (2 * e * self.std**2))

    def _targets(self, numel: int) -> Tensor:
        """(>= numel,) variance that each number of the first part is to start with. What a piece has too much counts as if the network had grown
        to fill it, as it may."""
        spec = self.spec
        if spec.head is not None:
            spec = spec.with_outputs(max(spec.outputs, -(-(numel - spec.body) // (spec.width + 1))))
        parts = [torch.full((stop - start,), hyperfan_variance(kind, n)) for kind, n, start, stop in spec.blocks()]
        each = torch.cat(parts)
        return torch.cat([each, each[-1:].expand(max(0, numel - len(each)))])

    # ------------------------------------------------------------------ life

    def add_task(self) -> None:
        super().add_task()
        if self.options.chunks_per_task:
            task = self.tasks - 1
            self.of(task)["chunks"] = nn.Parameter(self._chunks(0, self.count, task))

    def grow(self, spec: ParameterSpec, base: Tensor) -> None:
        before = self.count
        self.spec = spec
        self.layout(spec)

        def longer(chunks: Tensor, *key: object) -> nn.Parameter:
            return nn.Parameter(torch.cat([chunks.detach(), self._chunks(before, self.count, *key).to(chunks)], dim=1))

        if self.common is not None:
            self.common = longer(self.common)
        else:
            for task in range(self.tasks):
                self.of(task)["chunks"] = longer(self.of(task)["chunks"], task)

    def made(self, own: Mapping[str, Tensor]) -> Tensor:
        made = self.assembled(own["embedding"], own["chunks"] if self.common is None else self.common[None])
        if self.scales is not None:
            made[:, 0].index_add_(1, self.scales, made.new_ones(len(made), len(self.scales)))
        return made

    def pieces(self, layers: nn.ModuleList, e: Tensor, c: Tensor) -> Tensor:
        """(K, parts, n, size), one network for all; e (K, dim), c (K or 1, parts, n, dim)."""
        # The first layer is linear in [e, c]: what the task adds is computed once a task, not once a chunk.
        first, *rest = (cast(nn.Linear, layer) for layer in layers)
        weight = first.weight
        split = self.options.task_dim
        h = functional.linear(e, weight[:, :split], first.bias)[:, None, None] + linear(c, weight[:, split:])
        for layer in rest:
            h = linear(ACTIVATIONS[self.options.activation](h), layer.weight, layer.bias)
        return h

    def piece_multiplications(self, layers: nn.ModuleList, tasks: int, count: int) -> int:
        """Of ``pieces`` for so many tasks, and so many pieces of each part."""
        first, *rest = (cast(nn.Linear, layer).weight for layer in layers)
        chunks = len(self.variances) * count
        kinds = tasks if self.common is None else 1  # of chunk embeddings
        entering = tasks * self.options.task_dim + kinds * chunks * self.options.chunk_dim
        return len(first) * entering + tasks * chunks * sum(weight.numel() for weight in rest)

    @property
    def outputs(self) -> int:
        return len(self.variances) * self.spec.numel


class ChunkedModule(PiecewiseModule):
    """One network from the embeddings of a task and of a chunk to the parameters in that chunk; all chunks are one batch.

    Each part of theta has chunks of its own, in the order of its parameters; what the last one has too much is cut.
    """

    def __init__(self, options: Chunked, size: int, spec: ParameterSpec, variances: Sequence[float], seed: int) -> None:
        super().__init__(options, spec, variances, seed)
        self.size = size
        self.layers = self.layers_to(size)
        self._begin()

    @property
    def count(self) -> int:
        return -(-self.spec.numel // self.size)

    def span(self, piece: int) -> tuple[int, int]:
        return piece * self.size, (piece + 1) * self.size

    def layout(self, spec: ParameterSpec) -> None:
        pass  # the order of the vector, whatever it holds

    def assembled(self, e: Tensor, c: Tensor) -> Tensor:
        return leading(self.pieces(self.layers, e, c).flatten(2), self.spec.numel)

    def multiplications(self, tasks: int) -> int:
        return self.piece_multiplications(self.layers, tasks, self.count)


@dataclass(frozen=True)
class Units:
    """Layers of one shape, or stretches of the head. starts: where each begins; numel: of each; size: of each of the ``cuts`` equal pieces that it
    is made in."""

    starts: tuple[int, ...]
    numel: int
    size: int

    @property
    def cuts(self) -> int:
        return -(-self.numel // self.size)

    @property
    def count(self) -> int:
        """Pieces."""
        return len(self.starts) * self.cuts

    def span(self, piece: int) -> tuple[int, int]:
        unit, cut = divmod(piece, self.cuts)
        start = self.starts[unit] + cut * self.size
        return start, min(start + self.size, self.starts[unit] + self.numel)


def structure(spec: ParameterSpec, numel: int, rows: int, most: int) -> list[Units]:
    """The layers among the first ``numel`` parameters by their shapes, in the order in which each shape comes first, and then the head, ``rows``
    outputs at a time; none made in pieces of more than ``most``."""

    def units(starts: Sequence[int], size: int) -> Units:
        return Units(tuple(starts), size, -(-size // -(-size // most)))

    layers = [layer for layer in spec.layers() if layer[2] <= numel]
    places = {shapes: [start for other, start, _ in layers if other == shapes] for shapes, _, _ in layers}
    sizes = {shapes: stop - start for shapes, start, stop in layers}
    found = [units(starts, sizes[shapes]) for shapes, starts in places.items()]
    if spec.head is not None:
        size = rows * (spec.width + 1)
        found.append(units(range(spec.body, numel, size), size))
    return found


class StructuredModule(PiecewiseModule):
    """A network for each shape of layer, from the embeddings of a task and of a layer to the parameters of that layer.

    The outputs of the head are made ``rows`` at a time, so that a head that grows asks for further pieces and moves none.
    """

    def __init__(
        self,
        options: Structured,
        rows: int,
        size: int,
        spec: ParameterSpec,
        variances: Sequence[float],
        seed: int,
    ) -> None:
        super().__init__(options, spec, variances, seed)
        self.rows, self.size = rows, size
        self.layout(spec)
        self.networks = nn.ModuleList(
            self.layers_to(units.size, "structure", index) for index, units in enumerate(self.units)
        )
        self._begin()

    def layout(self, spec: ParameterSpec) -> None:
        self.units = structure(spec, spec.numel, self.rows, self.size)
        # Where the pieces of each kind begin and end among all; what joins belongs to the last, and so comes last.
        self.ends = [*accumulate((units.count for units in self.units), initial=0)]
        starts = [start for units in self.units for start in units.starts]
        self.order = sorted(range(len(starts)), key=lambda unit: starts[unit])

    @property
    def count(self) -> int:
        return self.ends[-1]

    def span(self, piece: int) -> tuple[int, int]:
        kind = next(kind for kind, end in enumerate(self.ends[1:]) if piece < end)
        return self.units[kind].span(piece - self.ends[kind])

    def assembled(self, e: Tensor, c: Tensor) -> Tensor:
        found: list[Tensor] = []
        each = c.split([units.count for units in self.units], dim=2)
        for units, layers, embeddings in zip(self.units, self.networks, each, strict=True):
            made = self.pieces(cast(nn.ModuleList, layers), e, embeddings)
            found += leading(made.unflatten(2, (-1, units.cuts)).flatten(3), units.numel).unbind(2)
        return leading(torch.cat([found[unit] for unit in self.order], dim=2), self.spec.numel)

    def multiplications(self, tasks: int) -> int:
        return sum(
            self.piece_multiplications(cast(nn.ModuleList, layers), tasks, units.count)
            for units, layers in zip(self.units, self.networks, strict=True)
        )


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

    @property
    def outputs(self) -> int:
        return len(self.variances) * self.spec.numel


class SeparateModule(Hypernet):
    """A hypernetwork for each task, of which none but the task's own is ever changed."""

    def __init__(
        self, make: Callable[[ParameterSpec, Tensor, int], Hypernet], spec: ParameterSpec, base: Tensor
    ) -> None:
        """make: from the layout, the main network's initial parameters and the task."""
        super().__init__(1, 1.0, 0)
        self.make, self.spec, self.base = make, spec, base
        self.own = nn.ModuleList()

    def add_task(self) -> None:
        made = self.make(self.spec, self.base, self.tasks)
        made.add_task()
        self.own.append(made)

    def hypernet(self, task: int) -> Hypernet:
        return cast(Hypernet, self.own[task])

    def grow(self, spec: ParameterSpec, base: Tensor) -> None:
        self.spec, self.base = spec, base
        for task in range(self.tasks):
            self.hypernet(task).grow(spec, base)

    def forward(self, tasks: Sequence[int]) -> Tensor:
        return torch.cat([self.own[task]([0]) for task in tasks])

    def multiplications(self, tasks: int) -> int:
        return tasks * self.hypernet(0).multiplications(1)

    @property
    def outputs(self) -> int:
        return self.hypernet(0).outputs

    def compression_warning(self) -> str | None:
        return self.hypernet(0).compression_warning()


def hidden_layers(
    sizes: Sequence[int], seed: int, fan_in_only: bool = False, relu: bool = False, where: Sequence[object] = ()
) -> nn.ModuleList:
    """Linear layers with Xavier-uniform weights (Glorot and Bengio 2010), or such that the variance of the inputs is kept (``relu``: behind ReLU too,
    He et al. 2015), and biases of 0. where: tells networks of one seed apart."""
    layers = nn.ModuleList()
    for index, (inputs, outputs) in enumerate(pairwise(sizes)):
        layer = nn.utils.skip_init(nn.Linear, inputs, outputs)  # which would draw from torch's own generator
        gain = 2 if relu and index else 1
        bound = math.sqrt(3 * gain / inputs) if fan_in_only else math.sqrt(6 / (inputs + outputs))
        with torch.no_grad():
            layer.weight.uniform_(-bound, bound, generator=generator(seed, "hypernetwork layer", *where, index))
            layer.bias.zero_()
        layers.append(layer)
    return layers


def hyperfan_variance(kind: Kind, fan_in: int) -> float:
    """Of a parameter of the main network at the start: 2 / fan_in of weights, 1 / (3 fan_in) of biases; norms do not vary, their scales are 1 and
    their shifts 0 (hyperfan-in of Chang, Flokas and Lipson 2020, "Principled weight initialization for hypernetworks")."""
    return {"weight": 2 / fan_in, "bias": 1 / (3 * fan_in)}.get(kind, 0.0)


def leading(values: Tensor, n: int) -> Tensor:
    """The first n of the last dimension. A split, whose gradient is one concatenation: that of a slice fills as many zeros first. An unsafe
    one, so that what it gives may be changed in place."""
    return torch.unsafe_split_with_sizes(values, [n, values.shape[-1] - n], dim=-1)[0]


def run_hidden(layers: nn.ModuleList, activation: Activation, h: Tensor) -> Tensor:
    for layer in layers:
        h = ACTIVATIONS[activation](layer(h))
    return h


@dataclass(eq=False, repr=False)
class Full(Part):
    """Hidden layers, then one linear layer to all parameters of the main network (Ha, Dai and Le 2017, arXiv 1609.09106).

    init: "xavier", each tensor of the main network a layer of its own; "gaussian", weights of 0 and biases as a mean-field Gaussian network
    starts; "main", weights of 0 and, for the means, the main network's own initial parameters as biases; "hyperfan", for the means, weights such
    that what is made varies as ``hyperfan_variance`` says, all else as "gaussian".

    It is as many times larger than what it makes as its last layer has inputs.
    """

    hidden: Widths = ()
    activation: ActivationOption = "relu"
    task_dim: TaskDim = 8
    task_std: TaskStd = 1.0
    init: Annotated[
        Literal["main", "xavier", "gaussian", "hyperfan"], Field(description="how its last layer starts")
    ] = "main"
    compression: Ratio = 1.0

    def make(
        self, spec: ParameterSpec, variances: Sequence[float], base: Tensor, seed: int, first: int | None = None
    ) -> Hypernet:
        return FullModule(self, spec, variances, base, seed)


@dataclass(eq=False, repr=False)
class Piecewise(Part):
    """The options of what makes the main network piece by piece."""

    chunk_size: Annotated[
        int | None,
        Field(
            gt=0,
            description="parameters of the main network in a chunk; None: the largest with which the hypernetwork obeys compression (None: 1)",
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
    init: Annotated[Literal["xavier", "gaussian", "hyperfan"], Field(description="how it starts")] = "xavier"
    compression: Ratio = 1.0

    def network_numel(self, size: int) -> int:
        """Of a network that makes chunks of this size."""
        return sum((a + 1) * b for a, b in pairwise([self.task_dim + self.chunk_dim, *self.hidden, size]))

    def given_size(self, spec: ParameterSpec) -> int | None:
        """``chunk_size``, where it is one of this network."""
        if self.chunk_size is not None and self.chunk_size > spec.numel:
            raise OptionsError(
                f"chunk_size = {self.chunk_size:,}: larger than the {spec.numel:,} parameters to generate; use a smaller one, None, or "
                "hypernetwork = 'full'"
            )
        return self.chunk_size

    def most(self, made: int) -> int:
        """Parameters that a hypernetwork may have which makes so many numbers."""
        return int((self.compression or 1.0) * made)


def fitting(sizes: Sequence[int], parameters: Callable[[int], int], most: int) -> int:
    """The first size with no more parameters than ``most``; where there is none, the one with the fewest."""
    return next((size for size in sizes if parameters(size) <= most), None) or min(sizes, key=parameters)


def equal_cuts(numel: int) -> list[int]:
    """Sizes of chunks as small as one, two, three ... of them need to be."""
    return [-(-numel // chunks) for chunks in range(1, min(numel, 1000) + 1)]


@dataclass(eq=False, repr=False)
class Chunked(Piecewise):
    """All parameters in one vector, cut into chunks of one size, each made by the same network from an embedding of its own (von Oswald et al. 2020,
    arXiv 1906.00695): far fewer parameters than it makes.

    init: "xavier"; "gaussian", where the embeddings of chunks vary such that the outputs do as a mean-field Gaussian network starts; or
    "hyperfan", where they vary such that the means of a chunk do as ``hyperfan_variance`` has it, averaged over the chunk (for ReLU, tanh, or no
    hidden layers), and 1 is added to the scales of norms, for good.

    compression: the published rule is 1. A chunk_size of None obeys it where it can be obeyed.
    """

    def fitting_size(self, numel: int, parts: int) -> int:
        """The largest chunk with which the hypernetwork of one task obeys ``compression``; where there is none, the one with the fewest
        parameters."""

        def parameters(size: int) -> int:
            return self.task_dim + parts * -(-numel // size) * self.chunk_dim + self.network_numel(size)

        return fitting(equal_cuts(numel), parameters, self.most(parts * numel))

    def make(
        self, spec: ParameterSpec, variances: Sequence[float], base: Tensor, seed: int, first: int | None = None
    ) -> Hypernet:
        size = self.given_size(spec) or self.fitting_size(first or spec.numel, len(variances))
        return ChunkedModule(self, size, spec, variances, seed)


@dataclass(eq=False, repr=False)
class Structured(Piecewise):
    """A network for each shape of layer, which makes all layers of that shape, weights, biases and norms, each from an embedding of its own: what
    belongs together is made together (as in the ResNets of Henning et al. 2021, arXiv 2103.01133).

    Layers of more than chunk_size parameters are cut into equal chunks. The head is one more layer: the outputs of the first task, and as many
    at a time of those that join, fewer where chunk_size says so. init and compression are as with ``Chunked``.
    """

    def make(
        self, spec: ParameterSpec, variances: Sequence[float], base: Tensor, seed: int, first: int | None = None
    ) -> Hypernet:
        sizes = self._sizes(spec, len(variances), first or spec.numel)
        return StructuredModule(self, *sizes, spec, variances, seed)

    def _sizes(self, spec: ParameterSpec, parts: int, first: int) -> tuple[int, int]:
        """Outputs of the head that are made at a time, and the most parameters; of a network of ``first`` parameters in all."""
        row = spec.width + 1
        outputs = max(1, (first - spec.body) // row)

        def rows(size: int) -> int:
            return max(1, min(outputs, size // row))

        def parameters(size: int) -> int:
            units = structure(spec, first, rows(size), size)
            networks = sum(self.network_numel(each.size) for each in units)
            return self.task_dim + networks + parts * sum(each.count for each in units) * self.chunk_dim

        largest = max(units.numel for units in structure(spec, first, outputs, first))
        size = self.given_size(spec) or fitting(equal_cuts(largest), parameters, self.most(parts * first))
        return rows(size), size


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


@dataclass(frozen=True)
class SeparateHypernetworks:
    """A hypernetwork with these options for each task, begun anew: what a learner asks for that shares nothing between tasks."""

    options: HypernetworkOptions

    def make(
        self, spec: ParameterSpec, variances: Sequence[float], base: Tensor, seed: int, first: int | None = None
    ) -> Hypernet:
        def own(spec: ParameterSpec, base: Tensor, task: int) -> Hypernet:
            return self.options.make(spec, variances, base, derived_seed(seed, "hypernetwork of a task", task), first)

        return SeparateModule(own, spec, base)


HYPERNETWORKS = Table(
    "hypernetwork",
    HypernetworkOptions,
    {"chunked": Chunked, "structured": Structured, "full": Full, "separate": Separate, "single": Single},
)
