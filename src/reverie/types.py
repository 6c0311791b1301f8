"""The words of Reverie as protocols and small frozen values. Nothing here computes; everything else imports it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

from reverie.device import Device
from reverie.seeding import Randomness

Scenario = Literal["task", "domain", "class"]
Kind = Literal["classification", "regression"]
Level = Literal["input", "latent"]
Stores = Literal["none", "latents", "raw"]
Augment = Literal["none", "flip-crop"]
Label: TypeAlias = str | int
Losses: TypeAlias = dict[str, Tensor]
UNKNOWN = -1  # the class index of a row whose class is not known
State: TypeAlias = dict[str, Any]


# ---------------------------------------------------------------------------------------------- data


@dataclass(frozen=True)
class Batch:
    """Rows that one update sees together. The loss is sum_i weight_i * loss_i.

    x: (B, ...) float32. y: (B,) int64 class index (UNKNOWN where it is not known), (B, outputs) float32 soft scores (one distribution per softmax
    group, scaled by the group's share) or, in regression, targets; None where nothing labels the rows. task: (B,) int64. weight: (B,) float32,
    summing to 1. groups: (outputs,) int64, the softmax group that each output belongs to, -1 for an output that takes
    no part; None: one softmax over all outputs. temperature: (B,) softmax temperature a row, or None for 1 everywhere.
    asked: (B,) int64, the class that a conditional generator was asked for, or None.
    """

    x: Tensor
    y: Tensor | None
    task: Tensor
    weight: Tensor
    groups: Tensor | None = None
    temperature: Tensor | None = None
    asked: Tensor | None = None
    level: Level = "input"

    def __len__(self) -> int:
        return len(self.x)

    def to(self, device: torch.device) -> Batch:
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)


class Rows(Protocol):
    """Training data of a task, a cache of features, a pooled replay set: anything that rows are drawn from."""

    def __len__(self) -> int: ...

    @property
    def labels(self) -> Tensor:
        """(N,) int64 on the CPU, known without reading the inputs; all 0 in regression, where there are no classes."""
        ...

    def take(self, indices: Tensor) -> Batch:
        """The rows at ``indices`` (B,) int64, each with weight 1 / B."""
        ...

    def chunks(self, size: int) -> Iterator[Batch]:
        """All rows in order, at most ``size`` at a time."""
        ...

    def to(self, device: torch.device) -> Rows:
        """The same rows, resident on ``device`` where they fit there as tensors."""
        ...


@dataclass(frozen=True)
class Recommended:
    """What a stream recommends for the options that a user left at None, by option name.

    ``solver``, ``backbone`` (a network to be cut and frozen), ``generator`` and ``hypernetwork`` are options of a part (``{"name": "mlp",
    ...}``), made into parts by the tables.
    """

    solver: Mapping[str, Any] = field(default_factory=dict)
    generator: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    backbone: Mapping[str, Any] = field(default_factory=dict)
    hypernetwork: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StreamSpec:
    """What a learner may know before training: shapes, labels, scenario; no data.

    ``classes`` holds the user's own labels; everywhere else a class is its index in this append-only list.
    ``task_classes`` lists, for each task, the indices that occur in it; in the domain-incremental scenario all
    tasks share the same classes. ``heads`` groups the outputs that are told apart when the task is given; it equals
    ``task_classes`` but for a merged stream, which has one task and keeps the heads of the tasks in it.
    ``value_range``: smallest and largest input value where that is known.

    kind: in a stream of regression ``classes`` are the names of the targets, every task has all of them, and a target is taken to be drawn
    from N(f(x), noise_std^2). augment: how the images of a batch change in phases that are ``augmented``; the rows themselves never do.
    """

    name: str
    scenario: Scenario
    input_shape: tuple[int, ...]
    classes: tuple[Label, ...]
    task_classes: tuple[tuple[int, ...], ...]
    task_names: tuple[str, ...]
    heads: tuple[tuple[int, ...], ...]
    value_range: tuple[float, float] | None = None
    recommended: Recommended = field(default_factory=Recommended)
    kind: Kind = "classification"
    noise_std: float | None = None
    augment: Augment = "none"

    @property
    def outputs(self) -> int:
        return len(self.classes)

    @property
    def tasks(self) -> int:
        return len(self.task_classes)

    def classes_until(self, task: int) -> tuple[int, ...]:
        """Classes of tasks 0..task, in order of first appearance."""
        return tuple(dict.fromkeys(c for classes in self.task_classes[: task + 1] for c in classes))


@dataclass(frozen=True)
class Task:
    """One part of a stream, as a learner sees it: no test rows."""

    index: int
    name: str
    classes: tuple[int, ...]
    train: Rows
    validation: Rows | None = None


@dataclass(frozen=True)
class TestSet:
    """Rows for evaluation alone: one column of the accuracy matrix. ``since``: the task that teaches them; ``head``:
    the task number that a task-incremental prediction is given."""

    __test__ = False  # not a test case, whatever its name

    name: str
    classes: tuple[int, ...]
    rows: Rows
    since: int
    head: int


class Stream(Protocol):
    """An ordered set of tasks and what may be known about them beforehand."""

    @property
    def spec(self) -> StreamSpec: ...

    @property
    def checksums(self) -> Mapping[str, str]:
        """Name and checksum of every data set inside."""
        ...

    @property
    def tests(self) -> Sequence[TestSet]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Task: ...

    def __iter__(self) -> Iterator[Task]: ...


@dataclass(frozen=True)
class Phase:
    """A stretch of training with one purpose; its length is in steps or in epochs, one of the two.

    augmented: whether a network is trained on the stream's own images, so that each batch is changed as the stream says (``StreamSpec.augment``);
    false where rows are latents, are added up, or show a generator what is to be generated.
    """

    name: str
    batch_size: int
    steps: int | None = None
    epochs: int | None = None
    drop_last: bool = True
    augmented: bool = False

    def length(self, rows: int) -> int:
        """Steps of this phase over that many rows."""
        if self.steps is not None:
            return self.steps
        return (self.epochs or 0) * self.steps_per_epoch(rows)

    def steps_per_epoch(self, rows: int) -> int:
        whole, rest = divmod(rows, self.batch_size)
        # A task smaller than one batch is one batch: its rows must not vanish.
        return max(whole, 1) if self.drop_last else whole + bool(rest)


@dataclass(frozen=True)
class Prediction:
    """scores: (B, outputs) logits, softmaxed over the outputs that are asked for; in regression the predicted targets. Further fields where
    a method has them: std (B, outputs), how uncertain a prediction of regression is, beside the noise; by_task, std_by_task (B, T, outputs);
    task_scores {criterion: (B, T)}."""

    scores: Tensor
    std: Tensor | None = None
    by_task: Tensor | None = None
    std_by_task: Tensor | None = None
    task_scores: Mapping[str, Tensor] | None = None


@dataclass(frozen=True)
class Memory:
    """Bytes by part. Persistent: what has to be kept between tasks. Working: what training needs on top of it."""

    persistent: Mapping[str, int]
    working: Mapping[str, int]
    stores: Stores = "none"

    @property
    def persistent_bytes(self) -> int:
        return sum(self.persistent.values())

    @property
    def working_bytes(self) -> int:
        return sum(self.working.values())


# --------------------------------------------------------------------------------------------- parts


@runtime_checkable
class Solver(Protocol):
    """The network that answers."""

    def build(self, spec: StreamSpec, rng: Randomness, device: Device) -> None: ...

    @property
    def module(self) -> nn.Module:
        """The network itself, once built: penalties read its weights and, after a step, their gradients."""
        ...

    def grow(self, outputs: int) -> None:
        """Adds outputs up to that many; an output's initial weights depend on its class index alone."""
        ...

    def scores(self, x: Tensor) -> Tensor:
        """(B, ...) -> (B, outputs) float32."""
        ...

    def training_scores(self, x: Tensor) -> Tensor:
        """As ``scores``, in training mode and differentiable."""
        ...

    def encode(self, x: Tensor) -> Tensor:
        """(B, ...) -> (B, width) features before the head."""
        ...

    def loss(self, batch: Batch, scores: Tensor | None = None) -> Losses:
        """Differentiable, weighted; ``scores`` are reused where the caller has them already."""
        ...

    def step(self, batch: Batch, scores: Tensor | None = None, penalty: Tensor | None = None) -> Losses: ...

    def begin_task(self) -> None:
        """Resets the optimiser if the optimiser's options say so."""
        ...

    def frozen(self) -> Solver:
        """A weights-only copy in eval mode without gradients."""
        ...

    def num_bytes(self) -> int: ...

    def working_bytes(self) -> int: ...

    def flops(self, rows: int, train: bool = True) -> float: ...

    def state(self) -> State: ...

    def load(self, state: State) -> None: ...


@runtime_checkable
class Generator(Protocol):
    """A model that samples.

    trains_by: "step" (gradients, batch by batch) or "fit" (all rows of a task at its end; one trained by steps is shown them too, after its
    last step). own_phase: it is trained in a phase before the solver's, of ``phase_steps`` steps. conditional: ``sample`` must be told
    the classes.
    """

    level: Level

    @property
    def trains_by(self) -> Literal["step", "fit"]: ...

    @property
    def own_phase(self) -> bool: ...

    @property
    def stores_real_samples(self) -> bool: ...

    @property
    def conditional(self) -> bool: ...

    def build(self, spec: StreamSpec, rng: Randomness, device: Device) -> None: ...

    def extend(self, spec: StreamSpec) -> None:
        """Further tasks, and perhaps classes, have joined the stream. Raises OptionsError where it cannot take on more classes."""
        ...

    def step(self, batch: Batch) -> Losses: ...

    def fit(self, rows: Rows) -> None: ...

    def sample(self, n: int, rng: torch.Generator, classes: Tensor | None = None) -> Batch:
        """n samples, of the given classes (n,) where the generator is conditional; y is the intended class or None."""
        ...

    def begin_task(self) -> None: ...

    def frozen(self) -> Generator: ...

    def num_bytes(self) -> int: ...

    def working_bytes(self) -> int: ...

    def flops(self, rows: int, train: bool = True) -> float: ...

    def state(self) -> State: ...

    def load(self, state: State) -> None: ...


# --------------------------------------------------------------------------------------- densities


class FittedDensity(Protocol):
    """A distribution over vectors (d,), a value: nothing changes it. ``count``: rows that it was fitted to."""

    count: int

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        """(n, d)."""
        ...

    def log_prob(self, z: Tensor) -> Tensor:
        """(n, d) -> (n,) nats. Raises NotImplementedError for a model without a density."""
        ...

    def merge(self, other: FittedDensity) -> FittedDensity | None:
        """The fit of the union of both sets of rows, where the family has it exactly; else None, and both are kept."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """All that is stored, by name; with ``settings`` enough to make it again."""
        ...

    def settings(self) -> State:
        """Plain numbers and words beside the tensors."""
        ...


@runtime_checkable
class Density(Protocol):
    """A family of distributions over vectors, as options; ``fit`` chooses one of them. ``reverie.generators.family.Family`` has
    what holds for most of them, and says what these mean."""

    @property
    def pooled(self) -> bool: ...

    @property
    def merges(self) -> bool: ...

    @property
    def stores_real_samples(self) -> bool: ...

    @property
    def has_density(self) -> bool: ...

    def numbers(self, width: int) -> int | None: ...

    def rows_needed(self, width: int) -> int: ...

    def check_width(self, width: int) -> None: ...

    def fit(self, z: Tensor, rng: torch.Generator) -> FittedDensity:
        """z: (n, d), n >= 1, finite."""
        ...

    def restore(self, state: State) -> FittedDensity:
        """From ``tensors`` and ``settings`` in one dictionary."""
        ...


# -------------------------------------------------------------------------------------- posteriors


@runtime_checkable
class Posterior(Protocol):
    """A family of distributions over the weights of a network, as options. One of them is theta (parts, numel): ``names`` says what its
    parts are, ``variances`` how much they vary at the start where weights are small numbers."""

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def variances(self) -> tuple[float, ...]: ...

    @property
    def deterministic(self) -> bool:
        """Whether all samples are the same."""
        ...

    def theta_spec(self, spec: Any) -> Any:
        """The ``ParameterSpec`` of each part of theta, for a network with this one."""
        ...

    def initial(self, spec: Any, seed: int) -> Tensor | None:
        """Where the first part of theta starts; None: at the network's own initial parameters."""
        ...

    def theta_mask(self, spec: Any, classes: Sequence[int]) -> Tensor:
        """Of each part of theta the numbers on which these outputs depend, bool."""
        ...

    def estimate(self, spec: Any, variance: float, optimiser: Any, device: Device, seed: int) -> Any:
        """What estimates the divergence from the prior where ``prior_kl`` has no answer; else None."""
        ...

    def noise(self, n: int, spec: Any, rng: torch.Generator) -> Tensor:
        """(n, k), all that is random in n samples, whatever theta."""
        ...

    def sample(self, theta: Tensor, spec: Any, noise: Tensor) -> Tensor:
        """(n, numel) weights, differentiable in theta."""
        ...

    def training_scores(
        self, theta: Tensor, ensemble: Any, x: Tensor, n: int, rng: torch.Generator
    ) -> tuple[Tensor, Tensor | None, Any]:
        """(n, B, outputs) of the ``Ensemble`` for n draws, the weights (n, numel) that were drawn, if any were, and the ``Statistics`` of the
        batch."""
        ...

    def prior_kl(self, theta: Tensor, spec: Any, variance: float, weights: Tensor | None) -> Tensor:
        """KL(q || N(0, variance)) in nats, perhaps but for a constant; ``weights``: samples (n, numel) to estimate it from where it has no
        closed form."""
        ...

    def moments(self, theta: Tensor) -> tuple[Tensor, Tensor] | None:
        """Means and logarithms of the deviations where all weights are independent Gaussians; else None."""
        ...


# --------------------------------------------------------------------------------------- penalties


class Penalty(Protocol):
    """A term of the loss that holds the weights of a solver where past tasks want them."""

    def build(self, spec: StreamSpec, rng: Randomness, device: Device) -> None: ...

    def begin(self, solver: Solver) -> None:
        """Training starts or goes on from here: at the start of each task, once the solver has grown, and after ``load``."""
        ...

    def loss(self, solver: Solver) -> Tensor | None:
        """Differentiable, to be added to the task's loss; None where nothing is to be kept yet."""
        ...

    def after_step(self, solver: Solver) -> None:
        """An update was made, with ``loss`` in it; its gradients can still be read."""
        ...

    def end_task(self, solver: Solver, rows: Rows, task: int, groups: Tensor | None) -> None:
        """What the task has taught is to be kept. ``groups``: the softmax groups that it was trained with, as in ``Batch``."""
        ...

    def num_bytes(self) -> int:
        """Of what has to be kept between tasks."""
        ...

    def working_bytes(self) -> int: ...

    def state(self) -> State: ...

    def load(self, state: State) -> None: ...


# ------------------------------------------------------------------------------------------ learners


class FrozenPrefix(Protocol):
    """predict(z, task) of the latents of rows is what the learner's ``predict(x, task)`` gives of the rows."""

    def latents(self, rows: Rows) -> Rows:
        """The rows with latents for inputs, each computed once while the result lives."""
        ...

    def predict(self, z: Tensor, task: int | None = None) -> Prediction: ...


@runtime_checkable
class Learner(Protocol):
    """A method. The engine knows nothing else of it, and it never sees a test set."""

    def build(self, spec: StreamSpec, rng: Randomness, device: Device) -> None:
        """Makes networks and optimisers; once, before the first task."""
        ...

    def extend(self, spec: StreamSpec) -> None:
        """Further tasks, and perhaps classes, have joined the stream; what was known of it before is unchanged."""
        ...

    def begin_task(self, task: Task) -> None: ...

    def phases(self, task: Task | None) -> tuple[Phase, ...]:
        """From options and sizes alone; ``task`` None asks for the phases after the last task."""
        ...

    def rows(self, phase: Phase, task: Task | None) -> Rows:
        """What the phase draws from. Changes nothing; made again on resume."""
        ...

    def step(self, phase: Phase, batch: Batch) -> Losses:
        """One update; named losses, detached, left on the device."""
        ...

    def finished(self, phase: Phase) -> bool:
        """Early stopping, asked at the end of each epoch."""
        ...

    def end_phase(self, phase: Phase, task: Task | None) -> None:
        """Freezing, closed-form fits, Fisher information; repeated whole if the process dies inside."""
        ...

    def end_task(self, task: Task) -> None: ...

    def predict(self, x: Tensor, task: int | None = None) -> Prediction:
        """Changes nothing."""
        ...

    @property
    def frozen_prefix(self) -> FrozenPrefix | None:
        """The part of ``predict`` that will not change any more, where there is one; the engine runs it once a test row."""
        ...

    def state(self) -> State: ...

    def load(self, state: State) -> None: ...

    def memory(self) -> Memory: ...

    def flops(self, phase: Phase, task: Task | None) -> float:
        """Floating-point operations of one step, from layer shapes; matrix products and convolutions only."""
        ...

    def probes(self) -> Sequence[Probe]: ...


@dataclass(frozen=True)
class Finding:
    """What a probe saw: numbers for the table, arrays and images (N, C, H, W in [0, 1]) for the report, warnings; facts: what is told in
    words, plain values for JSON."""

    numbers: Mapping[str, float | list[float] | None] = field(default_factory=dict)
    arrays: Mapping[str, Tensor] = field(default_factory=dict)
    images: Mapping[str, Tensor] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


class Probe(Protocol):
    """A measurement beyond accuracy, made after each task; it changes neither learner nor stream."""

    name: str

    def __call__(self, learner: Any, stream: Stream, task: Task, rng: Randomness) -> Finding: ...
