"""What every learner shares that trains no network: it adds up statistics of its inputs and answers from them in closed form.

One pass over each task's rows, in any order; nothing is forgotten, because sums do not forget.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from reverie.device import Device
from reverie.learners.base import masked
from reverie.options import Part
from reverie.seeding import Randomness
from reverie.types import Batch, FrozenPrefix, Losses, Memory, Phase, Prediction, Probe, Rows, State, StreamSpec, Task


@dataclass(eq=False, repr=False)
class StatisticsLearner(Part):
    """A method says how its statistics start (``start``), what a batch adds (``add``) and the scores they give (``answer``)."""

    rows_a_step: Annotated[
        int, Field(gt=0, description="rows added up at a time; the result does not depend on it")
    ] = 2048

    on_merged_stream = False

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
        """The statistics by name: each has ``state``, ``load``, ``num_bytes`` and ``grow``."""

    # ------------------------------------------------------------------ life cycle

    def build(self, spec: StreamSpec, rng: Randomness, device: Device) -> None:
        self.spec, self.rng, self.device = spec, rng, device
        self.width = math.prod(spec.input_shape)
        self.task = -1
        self._solution: Any = None
        self.start(self.width, spec.outputs)

    def extend(self, spec: StreamSpec) -> None:
        self.spec = spec
        for part in self.parts().values():
            part.grow(spec.outputs)

    def begin_task(self, task: Task) -> None:
        self.task = task.index

    def phases(self, task: Task | None) -> tuple[Phase, ...]:
        return (Phase("statistics", self.rows_a_step, epochs=1, drop_last=False),) if task is not None else ()

    def rows(self, phase: Phase, task: Task | None) -> Rows:
        assert task is not None
        return task.train

    def step(self, phase: Phase, batch: Batch) -> Losses:
        """Adds a batch; there is no loss."""
        assert batch.y is not None
        self.add(batch.x.flatten(1), batch.y)
        self._solution = None
        return {}

    def finished(self, phase: Phase) -> bool:
        return False

    def end_phase(self, phase: Phase, task: Task | None) -> None:
        pass

    def end_task(self, task: Task) -> None:
        pass

    # ------------------------------------------------------------------ answers

    def predict(self, x: Tensor, task: int | None = None) -> Prediction:
        if self._solution is None:
            self._solution = self.solve()
        scores = self.answer(self._solution, x.flatten(1)).float()
        # A class without a row yet (this task has begun, or an earlier one had none of it) is never preferred to one that has some.
        scores = scores.masked_fill(self.counts() == 0, torch.finfo(torch.float32).min)
        return masked(scores, self.spec, self.task, task)

    @property
    def frozen_prefix(self) -> FrozenPrefix | None:
        return None

    def probes(self) -> Sequence[Probe]:
        return ()

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


def precision_times(covariance: Tensor, ridge: float, vectors: Tensor) -> Tensor:
    """[(1 - ridge) S + ridge I]^-1 v for each of vectors (k, d) (Hayes and Kanan 2020), in float64; a tiny multiple of I more, for
    where S is all but singular."""
    shifted = (1 - ridge) * covariance.double()
    scale = float(shifted.diagonal().mean()) or 1.0
    shifted.diagonal().add_(ridge + torch.finfo(torch.float32).eps * scale)
    return torch.cholesky_solve(vectors.double().T, torch.linalg.cholesky(shifted)).T
