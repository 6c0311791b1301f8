"""Accuracy of a learner on test sets. It changes nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from reverie.device import Device
from reverie.metrics.task_inference import in_batches
from reverie.types import FrozenPrefix, Learner, Prediction, Rows, Scenario, TestSet

TOGETHER = 100  # rows of one task whose task is inferred together, in the matrices "in batches"
CHUNK = 20 * TOGETHER
Evaluate = Literal["seen", "all"]


@dataclass(frozen=True)
class Accuracies:
    """One row of each accuracy matrix; None where a test set was not looked at. ``accuracy`` is the one the scenario prescribes.

    inferred: rows of further matrices, of learners with a model a task: by criterion the accuracy where the task is inferred, and the share
    of rows whose task is found.
    """

    task_agnostic: tuple[float | None, ...]
    task_given: tuple[float | None, ...] | None
    accuracy: tuple[float | None, ...]
    inferred: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)


class Evaluator:
    """Evaluates one learner again and again. What a frozen prefix of its network makes of the test rows is computed once and kept."""

    def __init__(self, tests: Iterable[TestSet], scenario: Scenario, device: Device, which: Evaluate) -> None:
        self.tests = tuple(tests)
        self.scenario, self.device, self.which = scenario, device, which
        self.latents: dict[int, Rows] = {}

    def __call__(self, learner: Learner, task: int) -> Accuracies:
        """After ``task``: on the test sets taught so far, or on all."""
        prefix = learner.frozen_prefix
        columns: list[Mapping[str, float]] = [
            self._accuracies(learner, prefix, number) if self.which == "all" or test.since <= task else {}
            for number, test in enumerate(self.tests)
        ]
        rows = {name: tuple(column.get(name) for column in columns) for column in columns for name in column}
        nothing = (None,) * len(self.tests)
        agnostic, given = rows.pop("task_agnostic", nothing), rows.pop("task_given", None)
        if given is None and self.scenario != "domain":
            given = nothing
        prescribed = given if self.scenario == "task" and given is not None else agnostic
        return Accuracies(agnostic, given, prescribed, rows)

    def _accuracies(self, learner: Learner, prefix: FrozenPrefix | None, number: int) -> dict[str, float]:
        """Of one test set, by matrix."""
        predict = learner.predict if prefix is None else prefix.predict
        right: defaultdict[str, Tensor | int] = defaultdict(int)
        with torch.no_grad():
            for chunk in self._rows(prefix, number).chunks(CHUNK):
                chunk = chunk.to(self.device.torch_device)
                assert chunk.y is not None
                for name, correct in self._correct(predict, chunk.x, chunk.y, self.tests[number]).items():
                    right[name] = right[name] + correct.sum()
        return {name: int(count) / len(self.tests[number].rows) for name, count in right.items()}

    def _correct(
        self, predict: Callable[[Tensor, int | None], Prediction], x: Tensor, y: Tensor, test: TestSet
    ) -> dict[str, Tensor]:
        """(B,) bool by matrix."""
        agnostic = predict(x, None)
        found = {"task_agnostic": agnostic.scores.argmax(dim=1) == y}
        models = agnostic.by_task
        if models is not None and test.since < models.shape[1]:
            scores = models[:, test.since]
            if self.scenario != "domain":
                scores = scores.masked_fill(
                    ~torch.isin(torch.arange(scores.shape[1]), torch.tensor(test.classes)).to(scores.device), -torch.inf
                )
            found["task_given"] = scores.argmax(dim=1) == y
        elif self.scenario != "domain":
            found["task_given"] = predict(x, test.head).scores.argmax(dim=1) == y
        if models is None or agnostic.task_scores is None:
            return found
        answers = models.argmax(dim=2) == y[:, None]
        for criterion, scores in agnostic.task_scores.items():
            for how, mine in ((criterion, scores), (f"{criterion}_in_batches", in_batches(scores, TOGETHER))):
                task = mine.argmax(dim=1)
                found[f"inferred_by_{how}"] = answers.gather(1, task[:, None])[:, 0]
                found[f"task_found_by_{how}"] = task == test.since
        return found

    def _rows(self, prefix: FrozenPrefix | None, number: int) -> Rows:
        if prefix is None:
            return self.tests[number].rows
        if number not in self.latents:
            self.latents[number] = prefix.latents(self.tests[number].rows)
        return self.latents[number]
