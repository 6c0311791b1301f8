"""Accuracies of a learner whose answers are known, with and without a frozen prefix."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from reverie.device import CPU
from reverie.engine import Evaluator
from reverie.streams.rows import TensorRows
from reverie.types import Prediction
from tests.tiny import tiny_stream


class Scripted:
    """Answers class 0 without a task and the head's first class with one; its prefix doubles the input."""

    def __init__(self, spec: Any, frozen: bool) -> None:
        self.spec, self.frozen, self.encoded = spec, frozen, 0

    @property
    def frozen_prefix(self) -> Any:
        return self._Prefix(self) if self.frozen else None

    def predict(self, x: Tensor, task: int | None = None) -> Prediction:
        scores = torch.zeros(len(x), self.spec.outputs)
        scores[:, 0 if task is None else self.spec.heads[task][0]] = 1
        return Prediction(scores)

    class _Prefix:
        def __init__(self, learner: Scripted) -> None:
            self.learner = learner

        def latents(self, rows: Any) -> Any:
            self.learner.encoded += len(rows)
            return TensorRows(2 * rows.take(torch.arange(len(rows))).x, rows.labels)

        def predict(self, z: Tensor, task: int | None = None) -> Prediction:
            return self.learner.predict(z / 2, task)


def test_task_agnostic_and_task_given_accuracies() -> None:
    stream = tiny_stream("task")
    for frozen in (False, True):
        row = Evaluator(stream.tests, "task", CPU, "seen")(Scripted(stream.spec, frozen), 1)  # type: ignore[arg-type]
        assert row.task_agnostic == (0.5, 0.0, None)
        assert row.task_given == (0.5, 0.5, None)
        assert row.accuracy == row.task_given


def test_the_prefix_sees_each_test_row_once() -> None:
    stream = tiny_stream("class")
    rows = [len(test.rows) for test in stream.tests]
    learner: Any = Scripted(stream.spec, True)
    evaluate = Evaluator(stream.tests, "class", CPU, "seen")
    first = [evaluate(learner, task) for task in (0, 1, 2, 2)]
    assert learner.encoded == sum(rows)
    plain: Any = Scripted(stream.spec, False)
    assert [evaluate(plain, task) for task in (0, 1, 2, 2)] == first
