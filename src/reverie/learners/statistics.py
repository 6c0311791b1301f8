"""What every learner shares that trains no network: it adds up statistics of its inputs and answers from them in closed form.

One pass over each task's rows, in any order; nothing is forgotten, because sums do not forget.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from reverie.checks import OptionsError, Problems
from reverie.device import Device
from reverie.learners.base import LearnerBase, masked
from reverie.seeding import Randomness
from reverie.types import Batch, Losses, Memory, Phase, Prediction, State, StreamSpec, Task


class ClosedForm(LearnerBase):
    """A learner that trains no network: no phases, no losses, until a method says otherwise."""

    def build(self, spec: StreamSpec, rng: Randomness, device: Device) -> None:
        self.spec, self.rng, self.device = spec, rng, device
        self.task = -1

    def begin_task(self, task: Task) -> None:
        self.task = task.index

    def phases(self, task: Task | None) -> tuple[Phase, ...]:
        return ()

    def step(self, phase: Phase, batch: Batch) -> Losses:
        return {}

    def flops(self, phase: Phase, task: Task | None) -> float:
        return 0.0


@dataclass(eq=False, repr=False)
class StatisticsLearner(ClosedForm):
    """A method says how its statistics start (``start``), what a batch adds (``add``) and the scores they give (``answer``)."""

    rows_a_step: Annotated[
        int, Field(gt=0, description="rows added up at a time; the result does not depend on it")
    ] = 2048

    @abstractmethod
    def start(self, width: int, outputs: int) -> None:
        """Empty statistics of inputs (B, width)."""

    @abstractmethod
    def add(self, x: Tensor, y: Tensor) -> None:
        """x (B, width) float32, y (B,) int64."""

    @abstractmethod
    def solve(self) -> Any:
        """What answers are computed from; made once after the statistics change."""

    @abstractmethod
    def answer(self, solution: Any, x: Tensor) -> Tensor:
        """(B, width) -> (B, outputs) scores, higher for likelier classes; those of classes never seen do not matter."""

    @abstractmethod
    def counts(self) -> Tensor:
        """(outputs,) rows of each class so far."""

    @abstractmethod
    def parts(self) -> dict[str, Any]:
        """The statistics by name: each has ``state``, ``load``, ``num_bytes``, ``grow``, ``placed`` and ``merge``."""

    # ------------------------------------------------------------------ life cycle

    def build(self, spec: StreamSpec, rng: Randomness, device: Device) -> None:
        super().build(spec, rng, device)
        self.width = math.prod(spec.input_shape)
        self._solution: Any = None
        self.start(self.width, spec.outputs)

    def extend(self, spec: StreamSpec) -> None:
        super().extend(spec)
        self._solution = None
        for part in self.parts().values():
            part.grow(spec.outputs)

    def phases(self, task: Task | None) -> tuple[Phase, ...]:
        return (Phase("statistics", self.rows_a_step, epochs=1, drop_last=False),) if task is not None else ()

    def step(self, phase: Phase, batch: Batch) -> Losses:
        """Adds a batch; there is no loss."""
        assert batch.y is not None
        self.add(batch.x.flatten(1), batch.y)
        self._solution = None
        return {}

    # ------------------------------------------------------------------ shards

    def merge(self, other: StatisticsLearner) -> None:
        """Adds what another learner has seen, so that this one answers as if it had seen the rows of both.

        Both have the same options (and, where something is drawn, the same seed) and inputs of one shape. Classes are told by the user's
        labels, in the task-incremental scenario by task and label; those that only the other knows join behind, and so do its tasks of other names
        or classes. Raises OptionsError with everything that stands against it; nothing is changed then.
        """
        problems = Problems()
        self.check_merge(other, problems)
        problems.raise_as(OptionsError, "these statistics cannot be merged")
        spec, places, tasks = union(self.spec, other.spec)
        self.extend(spec)
        for name, part in self.parts().items():
            part.merge(other.parts()[name].placed(places.to(self.device.torch_device), spec.outputs))
        self.task = max(self.task, *tasks[: other.task + 1], -1)

    def check_merge(self, other: StatisticsLearner, problems: Problems) -> None:
        """Adds what stands against merging ``other``."""
        if type(other) is not type(self):
            problems.add(f"{type(self).__name__} and {type(other).__name__} are two methods; fit both with one")
            return
        for name, mine in self.get_params(deep=False).items():
            theirs = getattr(other, name)
            if name != "rows_a_step" and mine != theirs:
                problems.add(f"{name} = {mine!r} and {theirs!r}: fit both with the same options")
        mine, theirs = self.spec, other.spec
        if mine.input_shape != theirs.input_shape:
            problems.add(f"inputs of shape {mine.input_shape} and {theirs.input_shape}: fit both on latents of one cut")
        if self.device.torch_device.type != other.device.torch_device.type:
            problems.add(f"device = {str(self.device)!r} and {str(other.device)!r}: load both on one")
        if mine.scenario != theirs.scenario:
            problems.add(f"scenario = {mine.scenario!r} and {theirs.scenario!r}: fit both in one scenario")
        elif mine.scenario == "domain" and set(mine.classes) != set(theirs.classes):
            problems.add(
                f"classes {list(mine.classes)} and {list(theirs.classes)}: the domains of a domain-incremental learner share all classes; fit "
                "both class-incrementally"
            )
        alike = [c for c in theirs.classes if c not in mine.classes and str(c) in map(str, mine.classes)]
        if alike:
            problems.add(f"labels {alike}: are written like known ones but are of another type; give both one type")

    # ------------------------------------------------------------------ answers

    def predict(self, x: Tensor, task: int | None = None) -> Prediction:
        if self._solution is None:
            self._solution = self.solve()
        scores = self.answer(self._solution, x.flatten(1)).float()
        # A class without a row yet (this task has begun, or an earlier one had none of it) is never preferred to one that has some.
        scores = scores.masked_fill(self.counts() == 0, torch.finfo(torch.float32).min)
        return masked(scores, self.spec, self.task, task)

    # ------------------------------------------------------------------ state and cost

    def state(self) -> State:
        return {"task": self.task, **{name: part.state() for name, part in self.parts().items()}}

    def load(self, state: State) -> None:
        self.task, self._solution = state["task"], None
        for name, part in self.parts().items():
            part.load(state[name])

    def memory(self) -> Memory:
        return Memory({name: part.num_bytes() for name, part in self.parts().items()}, {})

    def flops(self, phase: Phase, task: Task | None) -> float:
        """Of one second-moment product a step."""
        return 2.0 * phase.batch_size * self.width**2


def union(mine: StreamSpec, theirs: StreamSpec) -> tuple[StreamSpec, Tensor, list[int]]:
    """``mine`` with the classes and tasks of ``theirs`` that it lacks; (classes,) int64 places of their classes in it, and those of their tasks."""
    known, asked = _keys(mine), _keys(theirs)
    fresh = [place for place, key in enumerate(asked) if key not in known]
    keys = [*known, *(asked[place] for place in fresh)]
    places = [keys.index(key) for key in asked]
    found = replace(mine, classes=(*mine.classes, *(theirs.classes[place] for place in fresh)))
    tasks = []
    for name, classes, head in zip(theirs.task_names, theirs.task_classes, theirs.heads, strict=True):
        here = tuple(places[c] for c in classes)
        same = [
            task
            for task, about in enumerate(zip(found.task_names, found.task_classes, strict=True))
            if (about[0], set(about[1])) == (name, set(here))
        ]
        if not same:
            same = [found.tasks]
            found = replace(
                found,
                task_names=(*found.task_names, name),
                task_classes=(*found.task_classes, here),
                heads=(*found.heads, tuple(places[c] for c in head)),
            )
        tasks.append(same[0])
    return found, torch.tensor(places), tasks


def _keys(spec: StreamSpec) -> list[tuple[object, ...]]:
    """What tells each output from the others: the user's label, and where the task is given also the task's name."""
    keys: list[tuple[object, ...]] = [(label,) for label in spec.classes]
    if spec.scenario == "task":
        for name, head in zip(spec.task_names, spec.heads, strict=True):
            for c in head:
                keys[c] = (name, spec.classes[c])
    return keys


def precision_times(covariance: Tensor, ridge: float, vectors: Tensor) -> Tensor:
    """[(1 - ridge) S + ridge I]^-1 v for each of vectors (k, d) (Hayes and Kanan 2020), in float64; a tiny multiple of I more, for
    where S is all but singular."""
    shifted = (1 - ridge) * covariance.double()
    scale = float(shifted.diagonal().mean()) or 1.0
    shifted.diagonal().add_(ridge + torch.finfo(torch.float32).eps * scale)
    return torch.cholesky_solve(vectors.double().T, torch.linalg.cholesky(shifted)).T
