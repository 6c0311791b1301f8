"""What the buffer holds, class by class, and the warning for a class that it lost."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from reverie.learners import Cumulative, Replay
from reverie.probes.buffer_classes import BufferClasses
from reverie.replay import Buffer
from reverie.seeding import Randomness
from reverie.streams import ArrayStream
from reverie.types import Finding
from tests.tiny import differing, snapshot, tiny_stream, train


def look(labels: list[int], task: int, stream: ArrayStream | None = None) -> Finding:
    stream = stream or tiny_stream()
    probe = BufferClasses(SimpleNamespace(labels=torch.tensor(labels, dtype=torch.int64)))
    return probe(None, stream, stream[task], Randomness(0))


def test_rows_are_counted_class_by_class() -> None:
    finding = look([3, 0, 1, 0, 2, 0], 1)
    assert finding.numbers["histogram"] == [3, 1, 1, 1, 0, 0]
    assert finding.arrays["histogram"].tolist() == [3, 1, 1, 1, 0, 0]
    assert finding.warnings == ()


def test_classes_taught_so_far_without_a_row_are_warned_of() -> None:
    (warning,) = look([0, 2, 2], 1).warnings
    assert warning == (
        "task 'clouds 2': the buffer holds no row of classes [1, 3], so they are not rehearsed; "
        "try a larger budget, or strategy = 'class-balanced'"
    )
    assert look([0, 1], 0).warnings == ()  # classes 2 to 5 are not taught yet
    assert look([], 0, tiny_stream("domain")).numbers["histogram"] == [0, 0]


@pytest.mark.parametrize("scenario", ["class", "task", "domain"])
@pytest.mark.parametrize(
    ("learner", "rows"), [(Replay(buffer=Buffer(budget=3)), 3), (Cumulative(), 24)], ids=["replay", "cumulative"]
)
def test_on_a_real_learner_every_task_is_counted_and_nothing_moves(learner: Any, rows: int, scenario: Any) -> None:
    run = train(learner, tiny_stream(scenario))
    for task, finding in enumerate(run.result["findings"]):
        assert (finding["task"], finding["probe"]) == (task, "buffer-classes")
        past = len(run.loop.stream.spec.classes_until(task))
        # In the domain-incremental scenario the two classes are those of every task so far.
        each = rows * (task + 1) if scenario == "domain" else rows
        assert finding["numbers"]["histogram"] == [each] * past + [0] * (run.loop.stream.spec.outputs - past)
    assert len(run.result["findings"]) == 3
    assert run.result["warnings"] == []
    before = snapshot(run.learner)
    (probe,) = run.learner.probes()
    probe(run.learner, run.loop.stream, run.loop.stream[2], Randomness(4))
    assert differing(before, run.learner.state()) == []


def test_a_reservoir_that_lost_a_class_says_so_in_the_result() -> None:
    run = train(Replay(buffer=Buffer(budget=6, unit="items", strategy="reservoir")), tiny_stream(rows=60))
    lost = [k for k, rows in enumerate(run.result["findings"][-1]["numbers"]["histogram"]) if rows == 0]
    assert lost
    assert f"no row of classes {lost}" in run.result["warnings"][-1]
