"""Experience replay: a buffer of real rows rehearsed beside the new ones (Robins 1995; Rolnick et al. 2019, arXiv 1811.11682)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

import torch
from pydantic import Field
from torch.nn import functional

from reverie.checks import OptionsError, Problems
from reverie.device import Device
from reverie.learners.base import SolverLearner, prefixed
from reverie.probes.buffer_classes import BufferClasses
from reverie.replay import Buffer, importance, mix, replay_rows
from reverie.replay.labels import past_groups, seen_outputs, targets
from reverie.replay.mixing import Importance, ReplaySize, check_replay_rows
from reverie.seeding import Randomness
from reverie.streams.augmentation import augmented
from reverie.types import Batch, Losses, Memory, Phase, Probe, Solver, State, StreamSpec, Task


@dataclass(eq=False, repr=False)
class Replay(SolverLearner):
    """Solver + buffer. Loss: r * loss(new rows) + (1 - r) * loss(stored rows).

    With ``distill`` the loss of a stored row has a second term, distill * temperature^2 * the divergence of the solver's answer from that of
    the solver frozen before the task, both softened (Hinton, Vinyals and Dean 2015, arXiv 1503.02531; but for a constant), and without
    ``stored_labels`` only that.
    """

    buffer: Annotated[Buffer, Field(description="what is kept of past tasks")] = field(default_factory=Buffer)
    importance: Importance = "by-task"
    replay_size: ReplaySize = None
    distill: Annotated[
        float | None,
        Field(gt=0, description="weight of the frozen solver's answers on stored rows; None: labels alone"),
    ] = None
    temperature: Annotated[float, Field(gt=0, description="softmax temperature of the distillation")] = 2.0
    stored_labels: Annotated[bool, Field(description="learn the labels of stored rows too (distill)")] = True

    kinds = ("classification", "regression")

    def check(self, problems: Problems) -> None:
        super().check(problems)
        problems.check(
            self.distill is not None or (self.temperature == 2.0 and self.stored_labels),
            f"temperature = {self.temperature}, stored_labels = {self.stored_labels}: concern the distillation, which distill = None leaves out; "
            "give distill a weight or leave them out",
        )
        problems.check(
            self.distill is None or self.importance != 1.0,
            f"distill = {self.distill} and importance = 1.0: stored rows have no weight, so nothing is distilled; choose one of the two",
        )

    def build(self, spec: StreamSpec, rng: Randomness, device: Device) -> None:
        check_replay_rows(self.replay_size, self.phase("train").batch_size, spec.tasks)
        if self.distill is not None and spec.kind == "regression":
            raise OptionsError(f"distill = {self.distill}: softens probabilities, and this is regression; leave it out")
        super().build(spec, rng, device)
        self.buffer.build(spec, rng)
        self.past: Solver | None = None

    def extend(self, spec: StreamSpec) -> None:
        super().extend(spec)
        self.buffer.extend(spec)

    def begin_task(self, task: Task) -> None:
        # The copy is made before anything of the new task can touch the solver.
        self.past = self.network.frozen() if self.distill is not None and task.index > 0 else None
        super().begin_task(task)

    def step(self, phase: Phase, batch: Batch) -> Losses:
        r = importance(self.importance, self.task, self.rows_now, self.rows_before)
        if r == 1:
            return super().step(phase, batch)
        past = self.buffer.sample(replay_rows(self.replay_size, phase.batch_size, self.task))
        past = augmented(past, self.spec, phase, self.rng, "augmentation of replay")
        labelled = past if self.stored_labels else replace(past, weight=torch.zeros_like(past.weight))
        both = replace(mix(batch, labelled, r, self.spec.outputs), groups=self.groups)
        if self.past is None:
            return prefixed("solver", self.network.step(both))
        scores = self.network.training_scores(both.x)
        softened = self.network.loss(self._answered(past), scores[len(batch) :])["cross-entropy"]
        penalty = (1 - r) * (self.distill or 0.0) * self.temperature**2 * softened
        losses = self.network.step(both, scores, penalty)
        losses["distillation"] = losses.pop("penalty")
        return prefixed("solver", losses)

    def _answered(self, past: Batch) -> Batch:
        """Stored rows with the answers of the frozen solver for targets."""
        assert self.past is not None
        with torch.no_grad():
            answers = self.past.scores(past.x)
            answers = functional.pad(answers, (0, self.spec.outputs - answers.shape[1]), value=float("-inf"))
            y = targets(answers, self.past_groups, self.seen, "soft", self.temperature)
        return replace(past, y=y, groups=self.groups, temperature=torch.full_like(past.weight, self.temperature))

    def end_task(self, task: Task) -> None:
        self.buffer.add_task(task.train, task.index, self.network)

    def state(self) -> State:
        past = {} if self.past is None else {"past": self.past.state()}
        return {**super().state(), "buffer": self.buffer.state(), **past}

    def load(self, state: State) -> None:
        super().load(state)
        self.buffer.load(state["buffer"])
        self.past = None
        if "past" in state:
            self.past = self.network.frozen()
            self.past.load(state["past"])

    def memory(self) -> Memory:
        base = super().memory()
        frozen = {} if self.past is None else {"frozen solver": self.past.num_bytes()}
        persistent = {**base.persistent, "buffer": self.buffer.num_bytes()}
        return Memory(persistent, {**base.working, **frozen}, stores="raw")

    def flops(self, phase: Phase, task: Task | None) -> float:
        rehearses = self.task > 0 and self.importance != 1.0
        past = replay_rows(self.replay_size, phase.batch_size, self.task) if rehearses else 0
        teacher = self.network.flops(past, train=False) if self.past is not None else 0.0
        return self.network.flops(phase.batch_size + past) + teacher

    def probes(self) -> Sequence[Probe]:
        shown = super().probes()
        return shown if self.spec.kind == "regression" else (*shown, BufferClasses(self.buffer))

    def _enter(self, task: int) -> None:
        super()._enter(task)
        if self.distill is not None:
            self.past_groups = past_groups(self.spec, task, self.active_classes)
            self.seen = seen_outputs(self.spec, task).to(self.device.torch_device)
