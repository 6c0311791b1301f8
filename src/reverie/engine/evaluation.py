"""How well a learner answers on test sets. It changes nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from reverie.device import Device
from reverie.metrics.regression import covered, expected_squared_error, negative_log_likelihood
from reverie.metrics.task_inference import in_batches
from reverie.types import FrozenPrefix, Learner, Prediction, Rows, Scenario, TestSet

TOGETHER = 100  # rows of one task whose task is inferred together, in the matrices "in batches"
CHUNK = 20 * TOGETHER
Evaluate = Literal["seen", "all"]


@dataclass(frozen=True)
class Evaluation:
    """One row of each matrix, a number a test set; None where it was not looked at. Accuracies; mean squared errors in regression.

    prescribed: the one that the scenario prescribes. more: rows of further matrices; of learners with a model a task, by criterion, where the task
    is inferred, and the share of rows whose task is found; in regression also "nll" and "coverage" (of intervals of 95 %).
    """

    task_agnostic: tuple[float | None, ...]
    task_given: tuple[float | None, ...] | None
    prescribed: tuple[float | None, ...]
    more: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)


class Evaluator:
    """Evaluates one learner again and again. What a frozen prefix of its network makes of the test rows is computed once and kept.

    noise_std: of the targets in regression; None: classification.
    """

    def __init__(
        self,
        tests: Iterable[TestSet],
        scenario: Scenario,
        device: Device,
        which: Evaluate,
        noise_std: float | None = None,
    ) -> None:
        self.tests = tuple(tests)
        self.scenario, self.device, self.which, self.noise_std = scenario, device, which, noise_std
        self.latents: dict[int, Rows] = {}

    def __call__(self, learner: Learner, task: int) -> Evaluation:
        """After ``task``: on the test sets taught so far, or on all."""
        prefix = learner.frozen_prefix
        columns: list[Mapping[str, float]] = [
            self._means(learner, prefix, number) if self.which == "all" or test.since <= task else {}
            for number, test in enumerate(self.tests)
        ]
        rows = {name: tuple(column.get(name) for column in columns) for column in columns for name in column}
        nothing = (None,) * len(self.tests)
        agnostic, given = rows.pop("task_agnostic", nothing), rows.pop("task_given", None)
        if given is None and self.scenario != "domain":
            given = nothing
        prescribed = given if self.scenario == "task" and given is not None else agnostic
        return Evaluation(agnostic, given, prescribed, rows)

    def _means(self, learner: Learner, prefix: FrozenPrefix | None, number: int) -> dict[str, float]:
        """Of one test set, by matrix."""
        predict = learner.predict if prefix is None else prefix.predict
        values = self._correct if self.noise_std is None else self._errors
        # What a learner can do beside answering, of which it has matrices too.
        measure: Callable[[Tensor], Mapping[str, Tensor]] = getattr(learner, "measure", lambda x: {})
        total: defaultdict[str, Tensor | int] = defaultdict(int)
        with torch.no_grad():
            for chunk in self._rows(prefix, number).chunks(CHUNK):
                chunk = chunk.to(self.device.torch_device)
                assert chunk.y is not None
                found = values(predict, chunk.x, chunk.y, self.tests[number])
                for name, each in {**found, **measure(chunk.x)}.items():
                    total[name] = total[name] + (each.double().sum() if each.is_floating_point() else each.sum())
        return {name: float(value) / len(self.tests[number].rows) for name, value in total.items()}

    def _correct(
        self, predict: Callable[[Tensor, int | None], Prediction], x: Tensor, y: Tensor, test: TestSet
    ) -> dict[str, Tensor]:
        """(B,) bool by matrix."""
        agnostic = predict(x, None)
        found = {"task_agnostic": agnostic.scores.argmax(dim=1) == y}
        models = agnostic.by_task
        if models is not None and test.head < models.shape[1]:
            scores = models[:, test.head]
            if self.scenario != "domain":
                scores = scores.masked_fill(
                    ~torch.isin(torch.arange(scores.shape[1]), torch.tensor(test.classes)).to(scores.device), -torch.inf
                )
            found["task_given"] = scores.argmax(dim=1) == y
        elif self.scenario != "domain":
            found["task_given"] = predict(x, test.head).scores.argmax(dim=1) == y
        return {**found, **self._inferred(agnostic, test, lambda models: models.scores.argmax(dim=1) == y)}

    def _errors(
        self, predict: Callable[[Tensor, int | None], Prediction], x: Tensor, y: Tensor, test: TestSet
    ) -> dict[str, Tensor]:
        """(B,) squared errors and what goes with them, by matrix."""

        def error(answer: Prediction) -> Tensor:
            return expected_squared_error(y, answer.scores, answer.std)

        assert self.noise_std is not None
        agnostic = predict(x, None)
        found = {"task_agnostic": error(agnostic)}
        if agnostic.by_task is not None and test.head < agnostic.by_task.shape[1]:
            found["task_given"] = error(_of(agnostic, torch.full((len(x),), test.head, device=x.device)))
        found["nll"] = negative_log_likelihood(y, agnostic.scores, agnostic.std, self.noise_std)
        found["coverage"] = covered(y, agnostic.scores, agnostic.std, self.noise_std)
        return {**found, **self._inferred(agnostic, test, error)}

    def _inferred(
        self, agnostic: Prediction, test: TestSet, value: Callable[[Prediction], Tensor]
    ) -> dict[str, Tensor]:
        """(B,) what ``value`` makes of the answers of the models that each criterion prefers, and whether they are those of the right task."""
        found: dict[str, Tensor] = {}
        if agnostic.by_task is None or agnostic.task_scores is None:
            return found
        for criterion, scores in agnostic.task_scores.items():
            for how, mine in ((criterion, scores), (f"{criterion}_in_batches", in_batches(scores, TOGETHER))):
                task = mine.argmax(dim=1)
                found[f"inferred_by_{how}"] = value(_of(agnostic, task))
                found[f"task_found_by_{how}"] = task == test.head
        return found

    def _rows(self, prefix: FrozenPrefix | None, number: int) -> Rows:
        if prefix is None:
            return self.tests[number].rows
        if number not in self.latents:
            self.latents[number] = prefix.latents(self.tests[number].rows)
        return self.latents[number]


def _of(answer: Prediction, task: Tensor) -> Prediction:
    """What the models of these tasks (B,) answer, a task for each row."""
    rows = torch.arange(len(task), device=task.device)
    assert answer.by_task is not None
    std = None if answer.std_by_task is None else answer.std_by_task[rows, task]
    return Prediction(answer.by_task[rows, task], std)
