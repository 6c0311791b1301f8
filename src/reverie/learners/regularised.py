"""What every learner with a penalty on its solver's weights shares."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace

from reverie.device import Device
from reverie.learners.base import SolverLearner, prefixed
from reverie.seeding import Randomness
from reverie.types import Batch, Losses, Memory, Penalty, Phase, State, StreamSpec, Task


@dataclass(eq=False, repr=False)
class Regularised(SolverLearner):
    """Solver + penalty. Loss: loss(new rows) + penalty. A method says only which penalty, from its own options."""

    @abstractmethod
    def make_penalty(self) -> Penalty: ...

    def build(self, spec: StreamSpec, rng: Randomness, device: Device) -> None:
        super().build(spec, rng, device)
        self.penalty = self.make_penalty()
        self.penalty.build(spec, rng, device)

    def begin_task(self, task: Task) -> None:
        super().begin_task(task)
        self.penalty.begin(self.network)

    def step(self, phase: Phase, batch: Batch) -> Losses:
        losses = self.network.step(replace(batch, groups=self.groups), penalty=self.penalty.loss(self.network))
        self.penalty.after_step(self.network)
        return prefixed("solver", losses)

    def end_task(self, task: Task) -> None:
        self.penalty.end_task(self.network, task.train, task.index, self.groups)

    def state(self) -> State:
        return {**super().state(), "penalty": self.penalty.state()}

    def load(self, state: State) -> None:
        super().load(state)
        self.penalty.load(state["penalty"])
        if self.task >= 0:
            self.penalty.begin(self.network)

    def memory(self) -> Memory:
        base = super().memory()
        kept, working = self.penalty.num_bytes(), self.penalty.working_bytes()
        return Memory(
            {**base.persistent, "importances and anchors": kept}, {**base.working, "penalty training": working}
        )
