"""Learning behind a frozen backbone: a network is trained, cut and frozen below the cut; above it any method learns on the latents.

Source: latent replay (Pellegrini et al. 2020, arXiv 1912.01100) and generative latent replay (Armstrong, Thakur and Clifton), which are
replay and generative replay on such latents. Here the part below the cut is in evaluation mode from the moment it is frozen, and
each row passes through it once.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from reverie.checks import NotReadyError, OptionsError, Problems, ReverieError, StorageError, TrainingError
from reverie.device import Device
from reverie.generators import Densities
from reverie.learners.base import masked, prefixed
from reverie.learners.fecam import FeCAM
from reverie.learners.generative_replay import GenerativeReplay
from reverie.learners.naive import Naive
from reverie.learners.replay import Replay
from reverie.learners.statistics import StatisticsLearner, union
from reverie.nn.cutting import split
from reverie.nn.networks import Head, Network, forward_flops, multiplications
from reverie.options import Part
from reverie.seeding import Randomness
from reverie.solvers import MLP, Module
from reverie.solvers.outputs import ActiveClasses, softmax_groups
from reverie.solvers.pretrained import Pretrained, read_pretrained
from reverie.storage import fingerprint
from reverie.streams.latents import LatentRows, encoded
from reverie.types import (
    Batch,
    Finding,
    FrozenPrefix,
    Learner,
    Losses,
    Memory,
    Phase,
    Prediction,
    Probe,
    Recommended,
    Rows,
    Solver,
    State,
    Stores,
    Stream,
    StreamSpec,
    Task,
)

BACKBONE = "backbone"
TEST_BYTES = 1 << 24  # latents of a test set that need more are kept on disk
NORMALISED_ROWS = 4096  # of the first task, by which latents are standardised
SHARED = ("steps", "batch_size", "learning_rate")  # of a stream's recommendations, what also suits a method on latents
PROBED = 8  # made-up rows by which a frozen part is known to be the same function
# Of their largest latent, how far another process may be off: other threads and other devices round otherwise, bf16 most of all.
ROUNDING = {"float32": 1e-2, "bf16": 1e-1}
CONSTANT = (
    "so stored latents would be stale; take out what draws, counts or writes in evaluation mode (functional dropout needs training = "
    "self.training), or cut below it"
)


@dataclass(eq=False, repr=False)
class FrozenBackbone(Part):
    """Any learner on the latents of a frozen network.

    The first task trains the whole network; then all below ``cut`` is frozen, and ``method`` learns on from what lies above. With
    ``frozen`` = "from-start" it was trained elsewhere: ``weights`` of ``reverie pretrain``, or a ``module`` of the user's.
    """

    method: Annotated[
        Learner, Field(description="what learns on the latents; its solver left at None: what lies above the cut")
    ] = field(default_factory=Naive)
    backbone: Annotated[Solver | None, Field(description="the network that is cut; None: the stream's")] = None
    cut: Annotated[
        str | None,
        Field(
            description="module whose output is the latent (reverie cuts lists them); None: the backbone's usual one"
        ),
    ] = None
    frozen: Annotated[
        Literal["after-first-task", "from-start"],
        Field(description="trained on the first task and frozen then, or frozen from the start"),
    ] = "after-first-task"
    normalise: Annotated[
        Literal["standardise", "none"] | None,
        Field(
            description="standardise latents by the first task's means and deviations, as part of what is frozen; None: where a "
            "network learns on them, and not where statistics are added up"
        ),
    ] = None
    weights: Annotated[
        str | None, Field(description="safetensors file of reverie pretrain that the backbone starts from")
    ] = None
    steps: Annotated[
        int | None, Field(gt=0, description="updates of the backbone; None: the stream's, unless epochs are given")
    ] = None
    epochs: Annotated[
        int | None, Field(gt=0, description="passes of the backbone over the first task, instead of steps")
    ] = None
    batch_size: Annotated[int | None, Field(gt=0, description="rows a step of the backbone; None: the stream's")] = None
    memory_limit: Annotated[
        int, Field(ge=0, description="latents of a task that need more bytes than this are kept on disk")
    ] = 1 << 30

    def check(self, problems: Problems) -> None:
        problems.check(
            self.steps is None or self.epochs is None,
            f"steps = {self.steps} and epochs = {self.epochs}: give one of the two",
        )
        if isinstance(self.method, FrozenBackbone):
            problems.add("method: is behind a frozen backbone itself; give the method alone")
        elif getattr(self.method, "on_merged_stream", False):
            problems.add(
                "method = 'joint': trains on the merged stream; behind a frozen backbone the upper bound is 'cumulative'"
            )
        if self.frozen == "from-start" and self.weights is None and not isinstance(self.backbone, Module | None):
            problems.add(
                "frozen = 'from-start': the backbone has not learnt anything; give weights = (a file of reverie pretrain), or a "
                "backbone of your own with its weights in place"
            )

    def recommended(self, values: Mapping[str, Any], option: str | None = None) -> Mapping[str, Any]:
        if option == "method":
            return {name: value for name, value in values.items() if name in SHARED}
        if option is None and self.epochs is not None:
            return {name: value for name, value in values.items() if name != "steps"}
        return values

    @property
    def on_merged_stream(self) -> bool:
        return False

    @property
    def generator(self) -> Any:
        """The method's, where it has one: for the record."""
        return getattr(self.method, "generator", None)

    # ------------------------------------------------------------------ life cycle

    def build(self, spec: StreamSpec, rng: Randomness, device: Device) -> None:
        self.spec, self.rng, self.device = spec, rng, device
        self.whole: Any = self._made()
        self.flops_a_row = float(self.whole.flops(1))
        self.place = self.cut if self.cut is not None else getattr(self.whole, "usual_cut", "encoder")
        self.pretrained: Pretrained | None = None
        if self.weights is not None:
            pretrained = read_pretrained(Path(self.weights))
            pretrained.load_into(self.whole, self._halves()[0])
            self.pretrained = replace(pretrained, weights={})  # the network has them now
        elif self.frozen == "from-start" and not isinstance(self.backbone, Module):
            raise OptionsError(
                "frozen = 'from-start': the stream's backbone has not learnt anything; give weights = (a file of reverie pretrain)"
            )
        below = self._halves()[0]
        twin = Network(copy.deepcopy(below), None, device)  # what a pass leaves behind is left there
        latents = _constant(twin, self._probe(), "the part below the cut is not", OptionsError)
        self.latent_spec = self._behind(spec, tuple(latents.shape[1:]))
        self.below: Network | None = None
        self.fingerprint = ""
        self.task = -1
        self.inner: Any = self._inner()
        self.inner.build(self.latent_spec, rng, device)
        self._current: tuple[int, Task] | None = None
        self.costs = multiplications(below, spec.input_shape)
        self.standardised = self.normalise == "standardise" or (
            self.normalise is None and hasattr(self.inner, "network")
        )
        if self.continues and self.standardised and not _first_linear(self.inner.network.module):
            if self.normalise is not None:
                raise OptionsError(
                    f"normalise = 'standardise': what lies above cut = {self.place!r} does not begin with a linear layer, which would take the scale "
                    "up; cut elsewhere, or leave the option out"
                )
            self.standardised = False
        self._check_signs(latents)
        if self.frozen == "from-start":
            self._freeze(None)

    def extend(self, spec: StreamSpec) -> None:
        self.inner.extend(self._behind(spec, self.latent_spec.input_shape))
        self.spec, self.latent_spec = spec, self._behind(spec, self.latent_spec.input_shape)

    def begin_task(self, task: Task) -> None:
        self.task = task.index
        self._current = None
        if self.below is None:
            self.whole.begin_task()
            self.whole.grow(self.spec.outputs)
        elif task.index == 0 and self.standardised:
            self._settle(task)
        else:
            self._look_again(TrainingError)
        self.inner.begin_task(self._latent(task))

    def phases(self, task: Task | None) -> tuple[Phase, ...]:
        inner: tuple[Phase, ...] = self.inner.phases(None if task is None else self._latent(task))
        first = task is not None and task.index == 0 and self.frozen == "after-first-task"
        inner = tuple(replace(phase, augmented=False) for phase in inner)  # each row passes through the backbone once
        return (self.phase(BACKBONE), *inner) if first else inner

    def phase(self, name: str) -> Phase:
        steps = None if self.epochs is not None else self.steps or 1000
        return Phase(name, self.batch_size or 128, steps, self.epochs, augmented=True)

    def rows(self, phase: Phase, task: Task | None) -> Rows:
        if phase.name == BACKBONE:
            assert task is not None
            return task.train
        rows: Rows = self.inner.rows(phase, None if task is None else self._latent(task))
        return rows

    def step(self, phase: Phase, batch: Batch) -> Losses:
        if phase.name != BACKBONE:
            losses: Losses = self.inner.step(phase, batch)
            return losses
        active: ActiveClasses = getattr(self.inner, "active_classes", "current")
        groups = softmax_groups(self.spec, self.task, active)
        groups = None if groups is None else groups.to(self.device.torch_device)
        return prefixed(BACKBONE, self.whole.step(replace(batch, groups=groups)))

    def finished(self, phase: Phase) -> bool:
        return False if phase.name == BACKBONE else bool(self.inner.finished(phase))

    def end_phase(self, phase: Phase, task: Task | None) -> None:
        if phase.name == BACKBONE:
            self._freeze(task)
        else:
            self.inner.end_phase(phase, None if task is None else self._latent(task))

    def end_task(self, task: Task) -> None:
        self.inner.end_task(self._latent(task))
        assert self.below is not None
        changed = _differing(self.marks, _marks(self.below))
        latents = encoded(self.below, self._probe())
        if not changed and not _same_bits(latents, self.probed_now):
            changed = f"the same inputs give latents that differ by {_apart(latents, self.probed_now):.3g}"
        if changed:
            raise TrainingError(f"the frozen part changed while task {task.name!r} was learnt: {changed}, {CONSTANT}")

    def merge(self, other: FrozenBackbone) -> None:
        """Adds what another learner has seen behind the same frozen network, see ``StatisticsLearner.merge``: for methods that add up statistics.

        Raises OptionsError, NotReadyError; nothing is changed then.
        """
        for learner in (self, other):
            if not isinstance(learner, FrozenBackbone) or not isinstance(learner.inner, StatisticsLearner):
                method = getattr(learner, "method", learner)
                raise OptionsError(
                    f"method = {type(method).__name__}: what it has learnt cannot be merged; put nearest-class-mean, streaming-lda, ranpac or "
                    "fecam behind both backbones"
                )
            if learner.below is None:
                raise NotReadyError(
                    "the backbone is not frozen yet; merge after the first task, or freeze it from the start"
                )
        if self.fingerprint != other.fingerprint or not self._near(other.probed):
            raise OptionsError(
                f"the parts below cut = {self.place!r} and {other.place!r} are not the same network; use frozen = 'from-start' with the same "
                "weights and normalise = 'none' for both"
            )
        self.inner.merge(other.inner)
        self.spec, self.latent_spec = union(self.spec, other.spec)[0], self.inner.spec
        self.task = self.inner.task
        self._current = None

    # ------------------------------------------------------------------ answers

    def predict(self, x: Tensor, task: int | None = None) -> Prediction:
        if self.below is not None:
            prediction: Prediction = self.inner.predict(encoded(self.below, x), task)
            return prediction
        with torch.no_grad():
            scores = self.whole.scores(x)
        return masked(scores, self.spec, self.task, task)

    @property
    def frozen_prefix(self) -> FrozenPrefix | None:
        """What of ``predict`` will not change any more."""
        return None if self.below is None else _Prefix(self)

    def probes(self) -> Sequence[Probe]:
        return (*(_OnLatents(probe) for probe in self.inner.probes()), *((_PretrainedOn(),) if self.pretrained else ()))

    # ------------------------------------------------------------------ state and cost

    def state(self) -> State:
        return {
            "task": self.task,
            "fingerprint": self.fingerprint,
            "probed": None if self.below is None else self.probed,
            "whole": self.whole.state() if self.below is None else None,
            "below": None if self.below is None else self.below.state(),
            "inner": self.inner.state(),
        }

    def load(self, state: State) -> None:
        self.task, self.fingerprint = state["task"], state["fingerprint"]
        self.below = None
        self._current = None
        if self.whole is None:
            self.whole = self._made()
        if state["below"] is None:
            self.whole.load(state["whole"])
            self.inner.load(state["inner"])
            return
        self.below = Network(self._lower(), None, self.device)
        self.below.load(state["below"])
        self.whole, self.marks = None, _marks(self.below)
        probed = state.get("probed")  # runs from before it was saved have none
        self.probed = encoded(self.below, self._probe()) if probed is None else probed.to(self.device.torch_device)
        self._look_again(StorageError)
        self.inner.load(state["inner"])

    def memory(self) -> Memory:
        inner = self.inner.memory()
        stores: Stores = "latents" if inner.stores == "raw" else inner.stores
        if self.below is None:
            return Memory(
                {BACKBONE: self.whole.num_bytes(), **inner.persistent},
                {"backbone training": self.whole.working_bytes(), **inner.working},
                stores,
            )
        cache = self._current[1].train if self._current is not None else None
        latents = cache.num_bytes() if isinstance(cache, LatentRows) else 0
        return Memory(
            {BACKBONE: self.below.num_bytes(), **inner.persistent},
            {"latents of the task": latents, **inner.working},
            stores,
        )

    def flops(self, phase: Phase, task: Task | None) -> float:
        """Of a step; the one pass of a task's rows through the backbone is spread over the steps of its phases."""
        if phase.name == BACKBONE:
            return self.flops_a_row * phase.batch_size
        latent = None if task is None else self._latent(task)
        total = float(self.inner.flops(phase, latent))
        if task is not None and latent is not None:
            steps = sum(each.length(len(task.train)) for each in self.inner.phases(latent))
            total += forward_flops(self.costs, len(task.train)) / max(steps, 1)
        return total

    # ------------------------------------------------------------------ the cut

    def _made(self) -> Any:
        """The whole network, as it is before anything is learnt."""
        whole: Any = MLP() if self.backbone is None else cast(Any, self.backbone).clone()
        whole.build(self.spec, self.rng, self.device)
        return whole

    def _halves(self) -> tuple[nn.Module, nn.Module]:
        """(below, above without the head), sharing the backbone's weights."""
        name = self.place
        if name == "head" or name.startswith("head."):
            raise OptionsError(
                f"cut = {name!r}: this is the output, nothing lies above it; reverie cuts lists the places"
            )
        if name == "encoder":
            return self.whole.module.encoder, nn.Identity()
        return split(self.whole.module.encoder, name, inside="encoder")

    def _behind(self, spec: StreamSpec, shape: tuple[int, ...]) -> StreamSpec:
        """The stream as the method sees it."""
        return replace(spec, input_shape=shape, value_range=(-math.inf, math.inf), recommended=Recommended())

    def _inner(self) -> Any:
        method = cast(Any, self.method).clone()
        if getattr(method, "solver", ...) is None:  # the network above the cut, with an optimiser of its own
            optimiser = self.whole.optimiser
            method.set_params(solver=Module(lambda shape: copy.deepcopy(self._above()), optimiser=optimiser.clone()))
            self.continues = True
        else:
            self.continues = False
        return method

    def _above(self) -> nn.Module:
        """What the method goes on from; once it does, that is its own."""
        upper: nn.Module = self._halves()[1] if self.whole is not None else self.inner.network.module.encoder[0]
        return upper

    def _lower(self) -> nn.Module:
        """A copy of what lies below the cut, with the scale of the latents after it."""
        below = copy.deepcopy(self._halves()[0])
        return nn.Sequential(below, Standardise(self.latent_spec.input_shape)) if self.standardised else below

    def _freeze(self, task: Task | None) -> None:
        """Everything below the cut becomes a copy that nothing trains, and the method goes on from what lies above; the whole network is let go,
        with the moments of its optimiser.

        task: the first one, to whose latents the scale is fitted; None: it has not come yet.
        """
        above = self._halves()[1]
        self.below = Network(self._lower(), None, self.device)
        if self.continues:
            network = self.inner.network
            network.grow(self.whole.module.head.outputs)
            network.module.encoder[0].load_state_dict(above.state_dict())
            network.module.head.load_state_dict(self.whole.module.head.state_dict())
        self.whole = None
        self._settle(task)

    def _settle(self, task: Task | None) -> None:
        """Fits the scale to the latents of the first task, and notes what the frozen part is from then on."""
        assert self.below is not None
        if self.standardised and task is not None:
            scale: Any = cast(Any, self.below.module)[1]
            places = torch.linspace(0, len(task.train) - 1, min(len(task.train), NORMALISED_ROWS)).long()
            parts = [task.train.take(part).x.to(self.device.torch_device) for part in places.split(512)]
            scale.fit(torch.cat([encoded(self.below, x) for x in parts]))
            if self.continues:
                scale.undo_in(_first_linear(self.inner.network.module))
        self.probed = self.probed_now = _constant(self.below, self._probe(), "the frozen part is not", TrainingError)
        self.fingerprint, self.marks = fingerprint(self.below.module.state_dict()), _marks(self.below)
        self._current = None

    def _probe(self) -> Tensor:
        """The same made-up inputs in every process, for every learner: (PROBED, *input_shape) in [0, 1]."""
        rng = Randomness(0).at("probe of a frozen part")
        return torch.rand(PROBED, *self.spec.input_shape, generator=rng).to(self.device.torch_device)

    def _look_again(self, error: type[ReverieError]) -> None:
        """What the frozen part gives for the probe now, by which ``end_task`` finds it changed, to the bit: from here to there nothing rounds
        otherwise. Raises ``error`` where it is no longer what was frozen, rounding aside."""
        assert self.below is not None
        self.probed_now = encoded(self.below, self._probe())
        if not self._near(self.probed_now):
            raise error(
                f"the frozen part is not what it was when it was frozen: the same inputs give latents that differ by "
                f"{_apart(self.probed_now, self.probed):.3g}, with the same parameters and buffers; make a persistent buffer of whatever else "
                "decides them, and give the same network"
            )

    def _near(self, latents: Tensor) -> bool:
        """Whether these are what the frozen part gives for the probe, rounding aside."""
        return _apart(latents.to(self.probed), self.probed) <= ROUNDING[self.device.precision] * float(
            self.probed.abs().max()
        )

    def _check_signs(self, latents: Tensor) -> None:
        """Raises OptionsError where the method asks for latents >= 0 and gets others; latents: what an untrained network gives."""
        asks = _nonnegative(self.inner)
        trouble = ""
        if self.standardised:
            trouble = "standardised ones lie around 0; use normalise = 'none'"
        elif bool((latents < 0).any()):
            trouble = f"those at cut = {self.place!r} go below 0; cut after a ReLU (reverie cuts lists the places)"
        if asks and trouble:
            raise OptionsError(
                f"method: {', '.join(asks)}: needs latents >= 0, and {trouble}, or {', '.join(asks.values())}"
            )

    def _latent(self, task: Task) -> Task:
        """The task with latents for inputs, each computed once while the task lasts."""
        if self.below is None or self._current is None or self._current[0] != task.index:
            validation = None if task.validation is None else self.seen(task.validation)
            latent = Task(task.index, task.name, task.classes, self.seen(task.train), validation)
            if self.below is None:
                return latent
            self._current = (task.index, latent)
        return self._current[1]

    def seen(self, rows: Rows, limit: int | None = None) -> LatentRows:
        """The rows as the method sees them; on disk from ``limit`` bytes on."""
        shape, limit = self.latent_spec.input_shape, self.memory_limit if limit is None else limit
        name = f"{self.fingerprint} {self.place} {self.device.precision}" if self.fingerprint else ""
        return LatentRows(rows, self._encode, shape, limit, name=name)

    def _encode(self, x: Tensor) -> Tensor:
        assert self.below is not None, "latents were asked for before the backbone was frozen"
        return encoded(self.below, x)


class Standardise(nn.Module):
    """(z - mean) / scale, number by number; fitted once. Deviations are floored at a tenth of their mean, so that a number that the
    first task leaves constant is not blown up later."""

    mean: Tensor
    scale: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("scale", torch.ones(shape))

    def forward(self, z: Tensor) -> Tensor:
        return (z - self.mean) / self.scale

    def fit(self, z: Tensor) -> None:
        deviation = z.std(dim=0, correction=0)
        floor = 0.1 * deviation.mean()
        self.mean.copy_(z.mean(dim=0))
        self.scale.copy_((deviation + floor) if bool(floor > 0) else torch.ones_like(deviation))

    def undo_in(self, layer: Any) -> None:
        """Changes a linear layer so that it gives for standardised latents what it gave for the others."""
        with torch.no_grad():
            layer.bias += layer.weight @ self.mean.flatten()
            layer.weight *= self.scale.flatten()


def _nonnegative(method: Any) -> dict[str, str]:
    """Options of a method that need inputs >= 0, and what to give instead."""
    found = {}
    if isinstance(method, FeCAM) and method.tukey is not None:
        found[f"tukey = {method.tukey}"] = "tukey = None"
    generator = getattr(method, "generator", None)
    if isinstance(generator, Densities):
        if generator.transforms[:1] in (("tukey",), ("log1p",)):
            found[f"generator.transforms = {generator.transforms}"] = "other transforms"
        if generator.support in ("nonnegative", "hurdle"):
            found[f"generator.support = {generator.support!r}"] = "support = 'real'"
    return found


def _constant(below: Network, x: Tensor, subject: str, error: type[ReverieError]) -> Tensor:
    """Latents of x. Raises ``error`` where a second pass gives others, or a pass leaves a trace in parameters or buffers."""
    before, latents = _marks(below), encoded(below, x)
    again = encoded(below, x)
    changed = _differing(before, _marks(below))
    if not changed and not _same_bits(latents, again):
        changed = f"a second pass of the same inputs gives latents that differ by {_apart(latents, again):.3g}"
    if changed:
        raise error(f"{subject} constant: {changed}, {CONSTANT}")
    return latents


def _marks(below: Network) -> dict[str, str]:
    """A hash of each parameter and buffer, by its name in the backbone; buffers that are not saved too."""
    module: Any = below.module
    scaled = isinstance(module, nn.Sequential) and isinstance(module[-1], Standardise)
    parts = {"encoder": module[0], "scale": module[1]} if scaled else {"encoder": module}
    return {
        f"{part}.{name}": fingerprint({name: tensor})
        for part, inside in parts.items()
        for name, tensor in (*inside.state_dict().items(), *inside.named_buffers())
    }


def _differing(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """Says which parameters and buffers changed; nothing where none did."""
    names = [repr(name) for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more} changed" if names else ""


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.view(torch.int32), b.view(torch.int32))  # NaN is like NaN here


def _apart(a: Tensor, b: Tensor) -> float:
    """The largest difference; infinite for other shapes."""
    return float((a - b).abs().max()) if a.shape == b.shape else math.inf


def _first_linear(module: nn.Module) -> Any:
    """The linear layer that a network on latents begins with, flattening aside; None where it begins with another."""
    for part in module.modules():
        if list(part.children()) or isinstance(part, nn.Flatten | nn.Identity):
            continue
        return part if isinstance(part, nn.Linear | Head) and part.bias is not None else None
    return None


class _Prefix:
    def __init__(self, learner: FrozenBackbone) -> None:
        self._learner = learner

    def latents(self, rows: Rows) -> Rows:
        return self._learner.seen(rows, TEST_BYTES)

    def predict(self, z: Tensor, task: int | None = None) -> Prediction:
        prediction: Prediction = self._learner.inner.predict(z, task)
        return prediction


class _OnLatents:
    """A probe of the method, shown latents where it expects inputs."""

    def __init__(self, probe: Probe) -> None:
        self.probe, self.name = probe, probe.name

    def __call__(self, learner: Any, stream: Stream, task: Task, rng: Randomness) -> Finding:
        return self.probe(learner.inner, cast(Stream, _LatentStream(learner, stream)), learner._latent(task), rng)


class _LatentStream:
    """The stream as a probe of the method sees it: its tests are latents, computed as they are read."""

    def __init__(self, learner: FrozenBackbone, stream: Stream) -> None:
        self.spec = learner.latent_spec
        self.tests = [replace(test, rows=learner.seen(test.rows, TEST_BYTES)) for test in stream.tests]


class _PretrainedOn:
    """Says what the backbone was trained on, and warns where its classes are, or may be, those of the stream."""

    name = "pretrained-backbone"

    def __call__(self, learner: Any, stream: Stream, task: Task, rng: Randomness) -> Finding:
        if task.index > 0:
            return Finding()
        message = learner.pretrained.overlap(stream.spec, stream.checksums)
        about = {name: learner.pretrained.about.get(name) for name in ("stream", "classes")}
        return Finding(warnings=(message,) if message else (), facts={"pretrained_on": about})


@dataclass(eq=False, repr=False)
class LatentReplay(FrozenBackbone):
    """Replay of stored latents behind a frozen backbone (Pellegrini et al. 2020, arXiv 1912.01100, with the layers below the cut frozen)."""

    method: Annotated[
        Learner,
        Field(description="how latents are kept and rehearsed; its solver left at None: what lies above the cut"),
    ] = field(default_factory=Replay)


@dataclass(eq=False, repr=False)
class GenerativeLatentReplay(FrozenBackbone):
    """Replay of generated latents behind a frozen backbone: nothing raw is kept, and no latent either.

    Source: Armstrong, Thakur and Clifton, "Generative Latent Replay for Continual Learning", with features taken after training and
    in evaluation mode, a density for each class of each task, drawn anew at every step.
    """

    method: Annotated[
        Learner,
        Field(
            description="generator of latents and how it is rehearsed; its solver left at None: what lies above the cut"
        ),
    ] = field(default_factory=lambda: GenerativeReplay(generator=Densities(), labels="condition"))
