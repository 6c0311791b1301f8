"""What every learner with one solver shares. Alone it is plain fine-tuning; methods add what they rehearse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field

from reverie.checks import Problems
from reverie.device import Device
from reverie.options import Part
from reverie.probes.regression_fan import RegressionFan, shows_fan
from reverie.seeding import Randomness
from reverie.solvers import MLP
from reverie.solvers.outputs import ActiveClasses, softmax_groups
from reverie.types import (
    Batch,
    FrozenPrefix,
    Kind,
    Losses,
    Memory,
    Phase,
    Prediction,
    Probe,
    Rows,
    Solver,
    State,
    StreamSpec,
    Task,
)


class LearnerBase(Part):
    """What a learner answers that has nothing of its own to say: all tasks are met one by one, a phase's rows are the task's, it ends by its
    length and with nothing more to do, nothing is frozen and nothing probed."""

    @property
    def on_merged_stream(self) -> bool:
        return False

    def extend(self, spec: StreamSpec) -> None:
        self.spec = spec

    def rows(self, phase: Phase, task: Task | None) -> Rows:
        assert task is not None
        return task.train

    def finished(self, phase: Phase) -> bool:
        return False

    def end_phase(self, phase: Phase, task: Task | None) -> None:
        pass

    def end_task(self, task: Task) -> None:
        pass

    @property
    def frozen_prefix(self) -> FrozenPrefix | None:
        return None

    def probes(self) -> Sequence[Probe]:
        return ()


@dataclass(eq=False, repr=False)
class SolverLearner(LearnerBase):
    """One solver trained on one phase a task.

    A method changes it in three places: ``rows`` (what is drawn), ``step`` (one update) and ``begin_task`` / ``end_task`` (what is
    carried from task to task).
    """

    solver: Annotated[Solver | None, Field(description="the network that answers; None: the stream's")] = None
    steps: Annotated[
        int | None, Field(gt=0, description="updates a task; None: the stream's, unless epochs are given")
    ] = None
    epochs: Annotated[int | None, Field(gt=0, description="passes over a task's rows, instead of steps")] = None
    batch_size: Annotated[int | None, Field(gt=0, description="new rows a step; None: the stream's")] = None
    drop_last: Annotated[bool, Field(description="leave out the last batch of an epoch where it is not full")] = True
    active_classes: Annotated[
        ActiveClasses,
        Field(
            description="outputs in the training softmax, class-incremental: all, all-so-far, or current (a group a task)"
        ),
    ] = "all"

    kinds: ClassVar[Sequence[Kind]] = ("classification",)  # of streams that it can learn

    def recommended(self, values: Mapping[str, Any], option: str | None = None) -> Mapping[str, Any]:
        if option is None and self.epochs is not None:
            return {name: value for name, value in values.items() if name != "steps"}
        return values

    @property
    def trouble(self) -> str:
        """What a learner has found out about a loss that stopped being finite."""
        return ""

    def check(self, problems: Problems) -> None:
        problems.check(
            self.steps is None or self.epochs is None,
            f"steps = {self.steps} and epochs = {self.epochs}: give one of the two",
        )

    # ------------------------------------------------------------------ life cycle

    def build(self, spec: StreamSpec, rng: Randomness, device: Device) -> None:
        self.spec, self.rng, self.device = spec, rng, device
        self.network: Solver = self.solver if self.solver is not None else MLP()
        self.network.build(spec, rng, device)
        self.task = -1
        self.rows_before = 0
        self.rows_now = 0

    def begin_task(self, task: Task) -> None:
        self.network.begin_task()
        self.network.grow(self.spec.outputs)
        self.rows_before += self.rows_now
        self.rows_now = len(task.train)
        self._enter(task.index)

    def phases(self, task: Task | None) -> tuple[Phase, ...]:
        return (self.phase("train"),) if task is not None else ()

    def phase(self, name: str) -> Phase:
        steps = None if self.epochs is not None else self.steps or 1000
        return Phase(name, self.batch_size or 128, steps, self.epochs, self.drop_last, augmented=True)

    def step(self, phase: Phase, batch: Batch) -> Losses:
        return prefixed("solver", self.network.step(replace(batch, groups=self.groups)))

    # ------------------------------------------------------------------ answers

    def predict(self, x: torch.Tensor, task: int | None = None) -> Prediction:
        """Scores over the outputs taught so far, or over those of the given task's head; the others are -inf."""
        with torch.no_grad():
            scores = self.network.scores(x)
        return masked(scores, self.spec, self.task, task)

    # ------------------------------------------------------------------ state and cost

    def state(self) -> State:
        return {
            "task": self.task,
            "rows_before": self.rows_before,
            "rows_now": self.rows_now,
            "solver": self.network.state(),
        }

    def load(self, state: State) -> None:
        self.rows_before, self.rows_now = state["rows_before"], state["rows_now"]
        self.network.load(state["solver"])
        self._enter(state["task"])

    def memory(self) -> Memory:
        return Memory({"solver": self.network.num_bytes()}, {"solver training": self.network.working_bytes()})

    def flops(self, phase: Phase, task: Task | None) -> float:
        return self.network.flops(phase.batch_size)

    def probes(self) -> Sequence[Probe]:
        return (RegressionFan(),) if shows_fan(self.spec) else ()

    def _enter(self, task: int) -> None:
        """What follows from the task's index alone; also made again on resume."""
        self.task = task
        groups = softmax_groups(self.spec, task, self.active_classes)
        self.groups = None if groups is None else groups.to(self.device.torch_device)


def masked(scores: torch.Tensor, spec: StreamSpec, taught: int, task: int | None) -> Prediction:
    """Scores (B, outputs) with -inf at the outputs that are not asked for: those outside the head of ``task``, or, where it is
    not given, those that no task up to ``taught`` (-1: none yet) has."""
    allowed: Sequence[int] = range(spec.outputs) if taught < 0 else spec.classes_until(taught)
    if task is not None:
        allowed = spec.heads[task]
    hidden = torch.ones(scores.shape[1], dtype=torch.bool)
    hidden[list(allowed)] = False
    return Prediction(scores.masked_fill(hidden.to(scores.device), float("-inf")))


def prefixed(part: str, losses: Losses) -> Losses:
    return {f"{part}.{name}": value for name, value in losses.items()}
