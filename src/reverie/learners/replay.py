"""Experience replay: a buffer of real rows rehearsed beside the new ones (Robins 1995; Rolnick et al. 2019, arXiv 1811.11682)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

from pydantic import Field

from reverie.device import Device
from reverie.learners.base import SolverLearner, prefixed
from reverie.probes.buffer_classes import BufferClasses
from reverie.replay import Buffer, importance, mix, replay_rows
from reverie.replay.mixing import Importance, ReplaySize, check_replay_rows
from reverie.seeding import Randomness
from reverie.types import Batch, Losses, Memory, Phase, Probe, State, StreamSpec, Task


@dataclass(eq=False, repr=False)
class Replay(SolverLearner):
    """Solver + buffer. Loss: r * loss(new rows) + (1 - r) * loss(stored rows)."""

    buffer: Annotated[Buffer, Field(description="what is kept of past tasks")] = field(default_factory=Buffer)
    importance: Importance = "by-task"
    replay_size: ReplaySize = None

    def build(self, spec: StreamSpec, rng: Randomness, device: Device) -> None:
        check_replay_rows(self.replay_size, self.phase("train").batch_size, spec.tasks)
        super().build(spec, rng, device)
        self.buffer.build(spec, rng)

    def extend(self, spec: StreamSpec) -> None:
        super().extend(spec)
        self.buffer.extend(spec)

    def step(self, phase: Phase, batch: Batch) -> Losses:
        r = importance(self.importance, self.task, self.rows_now, self.rows_before)
        if r < 1:
            past = self.buffer.sample(replay_rows(self.replay_size, phase.batch_size, self.task))
            batch = mix(batch, past, r, self.spec.outputs)
        return prefixed("solver", self.network.step(replace(batch, groups=self.groups)))

    def end_task(self, task: Task) -> None:
        self.buffer.add_task(task.train, task.index, self.network)

    def state(self) -> State:
        return {**super().state(), "buffer": self.buffer.state()}

    def load(self, state: State) -> None:
        super().load(state)
        self.buffer.load(state["buffer"])

    def memory(self) -> Memory:
        base = super().memory()
        return Memory({**base.persistent, "buffer": self.buffer.num_bytes()}, base.working, stores="raw")

    def flops(self, phase: Phase, task: Task | None) -> float:
        rehearses = self.task > 0 and self.importance != 1.0
        past = replay_rows(self.replay_size, phase.batch_size, self.task) if rehearses else 0
        return self.network.flops(phase.batch_size + past)

    def probes(self) -> Sequence[Probe]:
        return (BufferClasses(self.buffer),)
