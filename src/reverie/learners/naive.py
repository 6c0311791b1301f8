"""Fine-tuning, and its two upper bounds: everything at once, and everything so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reverie.device import Device
from reverie.learners.answers import preferred
from reverie.learners.base import SolverLearner
from reverie.probes.buffer_classes import BufferClasses
from reverie.replay import Buffer
from reverie.seeding import Randomness
from reverie.streams.rows import JoinedRows, TensorRows, stored_bytes
from reverie.types import Memory, Phase, Prediction, Probe, Rows, State, StreamSpec, Task


@dataclass(eq=False, repr=False)
class Naive(SolverLearner):
    """Trains on each task in turn and does nothing against forgetting: the lower bound."""

    kinds = ("classification", "regression")


@dataclass(eq=False, repr=False)
class Joint(SolverLearner):
    """Trains once on all tasks together, with the steps of all of them: the upper bound. It is ``naive`` on the merged stream.

    Class-incremental with active_classes = "current" every task has a head of its own, as in multitask learning, and the head whose answer has
    the least entropy is believed.
    """

    on_merged_stream = True
    kinds = ("classification", "regression")

    def memory(self) -> Memory:
        """All rows have to be at hand; they are counted as they were given, a byte a pixel where that is how they came."""
        base = super().memory()
        return Memory({**base.persistent, "rows of all tasks": self.bytes_of_rows}, base.working, stores="raw")

    def predict(self, x: Tensor, task: int | None = None) -> Prediction:
        heads = self.spec.heads
        if self.spec.scenario != "class" or self.active_classes != "current" or task is not None or self.task < 0:
            return super().predict(x, task)
        with torch.no_grad():
            scores = self.network.scores(x).double()
        models = [torch.softmax(scores[:, list(head)], dim=1)[None] for head in heads]
        return preferred(models, heads, self.spec.outputs, "entropy")

    def begin_task(self, task: Task) -> None:
        super().begin_task(task)
        self.bytes_of_rows = len(task.train) * stored_bytes(task.train)

    def state(self) -> State:
        return {**super().state(), "bytes_of_rows": self.bytes_of_rows}

    def load(self, state: State) -> None:
        super().load(state)
        self.bytes_of_rows = state["bytes_of_rows"]


@dataclass(eq=False, repr=False)
class Cumulative(SolverLearner):
    """Keeps all rows and trains on every row so far, task after task, without starting over."""

    kinds = ("classification", "regression")

    def build(self, spec: StreamSpec, rng: Randomness, device: Device) -> None:
        super().build(spec, rng, device)
        self.kept = Buffer(budget=None, strategy="class-balanced")
        self.kept.build(spec, rng)

    def extend(self, spec: StreamSpec) -> None:
        super().extend(spec)
        self.kept.extend(spec)

    def rows(self, phase: Phase, task: Task | None) -> Rows:
        assert task is not None
        if len(self.kept.x) == 0:
            return task.train
        kept = self.kept
        targets = kept.y if self.spec.kind == "regression" else None
        past = TensorRows(kept.x, kept.labels, kept.task, targets=targets).to(self.device.torch_device)
        return JoinedRows([past, task.train.to(self.device.torch_device)])

    def end_task(self, task: Task) -> None:
        self.kept.add_task(task.train, task.index, self.network)

    def state(self) -> State:
        return {**super().state(), "kept": self.kept.state()}

    def load(self, state: State) -> None:
        super().load(state)
        self.kept.load(state["kept"])

    def memory(self) -> Memory:
        base = super().memory()
        return Memory({**base.persistent, "kept rows": self.kept.num_bytes()}, base.working, stores="raw")

    def probes(self) -> Sequence[Probe]:
        shown = super().probes()
        return shown if self.spec.kind == "regression" else (*shown, BufferClasses(self.kept))
