"""Accuracy of a learner on test sets. It changes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch

from reverie.device import Device
from reverie.types import FrozenPrefix, Learner, Rows, Scenario, TestSet

CHUNK = 2048
Evaluate = Literal["seen", "all"]


@dataclass(frozen=True)
class Accuracies:
    """One row of each accuracy matrix; None where a test set was not looked at. ``accuracy`` is the one the scenario prescribes."""

    task_agnostic: tuple[float | None, ...]
    task_given: tuple[float | None, ...] | None
    accuracy: tuple[float | None, ...]


class Evaluator:
    """Evaluates one learner again and again. What a frozen prefix of its network makes of the test rows is computed once and kept."""

    def __init__(self, tests: Iterable[TestSet], scenario: Scenario, device: Device, which: Evaluate) -> None:
        self.tests = tuple(tests)
        self.scenario, self.device, self.which = scenario, device, which
        self.latents: dict[int, Rows] = {}

    def __call__(self, learner: Learner, task: int) -> Accuracies:
        """After ``task``: on the test sets taught so far, or on all."""
        prefix = learner.frozen_prefix
        agnostic: list[float | None] = []
        given: list[float | None] = []
        for number, test in enumerate(self.tests):
            if self.which == "seen" and test.since > task:
                agnostic.append(None)
                given.append(None)
                continue
            heads = (None,) if self.scenario == "domain" else (None, test.head)
            found = self._accuracies(learner, prefix, number, heads)
            agnostic.append(found[0])
            given += found[1:]
        task_given = tuple(given) if self.scenario != "domain" else None
        prescribed = task_given if self.scenario == "task" and task_given is not None else tuple(agnostic)
        return Accuracies(tuple(agnostic), task_given, prescribed)

    def _accuracies(
        self, learner: Learner, prefix: FrozenPrefix | None, number: int, heads: tuple[int | None, ...]
    ) -> list[float | None]:
        """For each way of asking: without the task, or with the head given."""
        correct = torch.zeros(len(heads), dtype=torch.int64, device=self.device.torch_device)
        predict = learner.predict if prefix is None else prefix.predict
        with torch.no_grad():
            for chunk in self._rows(prefix, number).chunks(CHUNK):
                chunk = chunk.to(self.device.torch_device)
                assert chunk.y is not None
                for place, head in enumerate(heads):
                    correct[place] += torch.eq(predict(chunk.x, head).scores.argmax(dim=1), chunk.y).sum()
        return [count / len(self.tests[number].rows) for count in correct.tolist()]

    def _rows(self, prefix: FrozenPrefix | None, number: int) -> Rows:
        if prefix is None:
            return self.tests[number].rows
        if number not in self.latents:
            self.latents[number] = prefix.latents(self.tests[number].rows)
        return self.latents[number]
