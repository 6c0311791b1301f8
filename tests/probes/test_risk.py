"""Risk on the past and on its replay, and how far the two lie apart."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from reverie.generators.lgaa import AdversarialAutoencoder
from reverie.learners import LGAA
from reverie.probes.risk import class_entropy, proxy_distance
from tests.tiny import tiny_images, train

NUMBERS = ("target_risk", "target_mse", "source_risk", "source_mse", "discrepancy", "proxy_distance", "class_entropy")


def rows(n: int, shift: float = 0.0, seed: int = 0) -> Tensor:
    return torch.randn(n, 1, 4, 4, generator=torch.Generator().manual_seed(seed)) + shift


def test_a_linear_classifier_tells_what_lies_apart_and_nothing_of_what_does_not() -> None:
    near, far = proxy_distance(rows(400), rows(400, seed=1), 0), proxy_distance(rows(400), rows(400, 5.0, seed=1), 0)
    assert near is not None
    assert far is not None
    assert near < 0.3
    assert far > 1.95
    between = proxy_distance(rows(400), rows(400, 0.3, seed=1), 0)
    assert between is not None
    assert near < between < far
    assert proxy_distance(rows(400), rows(7, seed=1), 0) is None
    assert proxy_distance(torch.zeros(20, 1, 4, 4), torch.zeros(20, 1, 4, 4), 0) == 0


def test_the_entropy_of_classes_is_a_share_of_the_largest() -> None:
    assert class_entropy(torch.tensor([3, 3, 7, 7, 1, 1])) == pytest.approx(1)
    uneven = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(2)
    assert class_entropy(torch.tensor([0, 0, 0, 1, -1])) == pytest.approx(uneven)
    assert class_entropy(torch.tensor([4, 4])) == 1


def test_after_each_task_there_is_a_number_for_each_domain(tmp_path: Path) -> None:
    stream = tiny_images(tasks=3)
    learner: Any = LGAA(autoencoder=AdversarialAutoencoder(size="tiny"), steps=6, batch_size=8)
    run = train(learner, stream, folder=tmp_path)
    findings = [found["numbers"] for found in run.loop.record.findings if found["probe"] == "risk"]
    assert [set(numbers) for numbers in findings] == [set(NUMBERS)] * 3
    for task, numbers in enumerate(findings):
        assert all(len(values) == task + 1 for values in numbers.values())
        assert all(value is not None for value in numbers["target_risk"])
        assert numbers["source_risk"][task] is None
    last = [row[-1] for row in run.result["accuracy"]]
    assert findings[-1]["target_risk"][-1] == pytest.approx(1 - last[-1])
    for value in findings[-1]["discrepancy"][:2]:
        assert value is None or 0 <= value <= 1
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["risk"]["target"] == [numbers["target_risk"] for numbers in findings]
    assert result["risk"]["source"] == [numbers["source_risk"] for numbers in findings]
    assert result["discrepancy"] == [numbers["discrepancy"] for numbers in findings]


def test_without_replay_only_the_past_itself_is_looked_at() -> None:
    learner: Any = LGAA(autoencoder=AdversarialAutoencoder(size="tiny"), steps=3, batch_size=8, replay=False)
    run = train(learner, tiny_images(tasks=2))
    numbers = [found["numbers"] for found in run.loop.record.findings if found["probe"] == "risk"][-1]
    assert numbers["source_risk"] == numbers["discrepancy"] == [None, None]
    assert None not in numbers["target_mse"]
