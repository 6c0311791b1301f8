"""Learning without forgetting (Li and Hoiem 2016, arXiv 1606.09282): the old solver's answers on the new inputs are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from pydantic import Field
from torch.nn import functional

from reverie.device import Device
from reverie.learners.base import SolverLearner, prefixed
from reverie.probes.solver_agreement import SolverAgreement
from reverie.replay import importance, mix
from reverie.replay.labels import past_groups, seen_outputs, targets
from reverie.replay.mixing import Importance
from reverie.seeding import Randomness
from reverie.types import Batch, Losses, Memory, Phase, Probe, Solver, State, StreamSpec, Task


@dataclass(eq=False, repr=False)
class LearningWithoutForgetting(SolverLearner):
    """Solver + the current inputs labelled by the frozen solver, softly.

    The published sum of both losses is, up to a scale that Adam does not see, r * new + (1 - r) * distillation: r = 1/2 where the two
    are added (class-incremental, the default there) and r = 1/t where distillation counts t - 1 times (task- and domain-incremental).
    """

    importance: Annotated[
        Importance | None, Field(description="weight r of the labels; None: 0.5 class-incremental, else by-task")
    ] = None
    temperature: Annotated[float, Field(gt=0, description="softmax temperature of the distillation")] = 2.0
    temperature_squared: Annotated[bool, Field(description="multiply the distillation loss by temperature squared")] = (
        False
    )

    def build(self, spec: StreamSpec, rng: Randomness, device: Device) -> None:
        super().build(spec, rng, device)
        self.past: Solver | None = None

    def begin_task(self, task: Task) -> None:
        self.past = self.network.frozen() if task.index > 0 else None
        super().begin_task(task)

    def step(self, phase: Phase, batch: Batch) -> Losses:
        rule = self.importance or (0.5 if self.spec.scenario == "class" else "by-task")
        r = importance(rule, self.task, self.rows_now, self.rows_before)
        if self.past is None or r == 1:
            return super().step(phase, batch)
        with torch.no_grad():
            answers = self.past.scores(batch.x)
            answers = functional.pad(answers, (0, self.spec.outputs - answers.shape[1]), value=float("-inf"))
            y = targets(answers, self.past_groups, self.seen, "soft", self.temperature)
        weight = batch.weight * (self.temperature**2 if self.temperature_squared else 1.0)
        old = replace(batch, y=y, weight=weight, temperature=torch.full_like(batch.weight, self.temperature))
        both = replace(mix(batch, old, r, self.spec.outputs), groups=self.groups)
        scores = self.network.training_scores(batch.x)  # the two halves are the same rows: one pass serves both
        return prefixed("solver", self.network.step(both, torch.cat([scores, scores])))

    def state(self) -> State:
        return {**super().state(), "past": None if self.past is None else self.past.state()}

    def load(self, state: State) -> None:
        super().load(state)
        self.past = None
        if state["past"] is not None:
            self.past = self.network.frozen()
            self.past.load(state["past"])

    def memory(self) -> Memory:
        base = super().memory()
        past = self.past.num_bytes() if self.past is not None else 0
        return Memory(base.persistent, {**base.working, "frozen solver": past})

    def flops(self, phase: Phase, task: Task | None) -> float:
        teacher = self.network.flops(phase.batch_size, train=False) if self.task > 0 else 0.0
        return self.network.flops(phase.batch_size) + teacher

    def probes(self) -> Sequence[Probe]:
        return (SolverAgreement(),)

    def _enter(self, task: int) -> None:
        super()._enter(task)
        self.past_groups = past_groups(self.spec, task, self.active_classes)
        self.seen = seen_outputs(self.spec, task).to(self.device.torch_device)
