"""Accuracy of a learner on test sets. It changes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch

from reverie.device import Device
from reverie.types import Learner, Scenario, TestSet

CHUNK = 2048
Evaluate = Literal["seen", "all"]


@dataclass(frozen=True)
class Accuracies:
    """One row of each accuracy matrix; None where a test set was not looked at. ``accuracy`` is the one the scenario prescribes."""

    task_agnostic: tuple[float | None, ...]
    task_given: tuple[float | None, ...] | None
    accuracy: tuple[float | None, ...]


def evaluate(
    learner: Learner, tests: Iterable[TestSet], scenario: Scenario, task: int, device: Device, which: Evaluate
) -> Accuracies:
    """After ``task``: on the test sets taught so far, or on all."""
    agnostic: list[float | None] = []
    given: list[float | None] = []
    for test in tests:
        if which == "seen" and test.since > task:
            agnostic.append(None)
            given.append(None)
            continue
        agnostic.append(_accuracy(learner, test, None, device))
        if scenario != "domain":
            given.append(_accuracy(learner, test, test.head, device))
    task_given = tuple(given) if scenario != "domain" else None
    prescribed = task_given if scenario == "task" and task_given is not None else tuple(agnostic)
    return Accuracies(tuple(agnostic), task_given, prescribed)


def _accuracy(learner: Learner, test: TestSet, head: int | None, device: Device) -> float:
    correct = torch.zeros((), dtype=torch.int64, device=device.torch_device)
    with torch.no_grad():
        for chunk in test.rows.chunks(CHUNK):
            chunk = chunk.to(device.torch_device)
            assert chunk.y is not None
            scores = learner.predict(chunk.x, head).scores
            correct += torch.eq(scores.argmax(dim=1), chunk.y).sum()
    return int(correct) / len(test.rows)
