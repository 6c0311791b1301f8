"""Risk on the past and on its replay, how far the two lie apart, and what replay lost."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from reverie.generators.lgaa import AdversarialAutoencoder
from reverie.generators.lgaa_replay import Recognised
from reverie.learners import LGAA
from reverie.metrics import clustering_accuracy
from reverie.probes import risk
from reverie.probes.risk import NUMBERS, Risk, class_entropy, component_distance, discrepancy, proxy_distance
from reverie.seeding import Randomness
from tests.tiny import Trained, tiny_images, train

SMALL = {"batch_size": 8, "autoencoder": AdversarialAutoencoder(size="tiny")}


def rows(n: int, shift: float = 0.0, seed: int = 0) -> Tensor:
    return torch.randn(n, 1, 4, 4, generator=torch.Generator().manual_seed(seed)) + shift


def findings(run: Trained) -> list[dict[str, Any]]:
    return [found["numbers"] for found in run.loop.record.findings if found["probe"] == "risk"]


def looked_at_again(run: Trained) -> dict[str, Any]:
    """What the probe finds after the last task."""
    stream = run.loop.stream
    with torch.no_grad():
        return dict(Risk()(run.learner, stream, stream[len(stream) - 1], Randomness(0)).numbers)


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


def test_the_frechet_distance_of_shifted_rows_is_the_square_of_the_shift() -> None:
    real = rows(300)
    assert component_distance(real, real) == pytest.approx(0, abs=1e-6)
    assert component_distance(real, real + 0.5) == pytest.approx(16 * 0.25, rel=1e-4)  # all 16 numbers are components
    assert component_distance(real, real[:7]) is None


def test_the_entropy_of_classes_is_a_share_of_the_largest() -> None:
    assert class_entropy(torch.tensor([2, 2, 2])) == pytest.approx(1)
    uneven = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(3)
    assert class_entropy(torch.tensor([3, 1, 0])) == pytest.approx(uneven)
    assert class_entropy(torch.tensor([0, 5, 0])) == class_entropy(torch.tensor([0, 0, 0])) == 0
    assert class_entropy(torch.tensor([4])) == 1


def test_discrepancy_is_the_difference_of_two_shares_of_disagreement() -> None:
    """And not the mean of differences row by row, which never falls below it."""
    real, replay = torch.tensor([True, False] * 4), torch.tensor([False, True] * 4)
    assert discrepancy(real, replay) == 0
    assert discrepancy(torch.ones(4) > 0, torch.zeros(3) > 0) == 1
    assert discrepancy(torch.tensor([True, False, False]), torch.tensor([True])) == pytest.approx(2 / 3)


def test_discrepancy_is_between_the_present_model_and_that_before_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """On real rows they agree but for a quarter, on replay everywhere."""
    run = train(LGAA(steps=1, **SMALL), tiny_images("domain", tasks=2))
    model, snapshot = run.learner.model, run.learner.snapshot
    real = run.loop.stream.tests[0].rows.take(torch.arange(12)).x

    def answer(asked: AdversarialAutoencoder, x: Tensor, among: Any) -> Tensor:
        found = torch.zeros(len(x), dtype=torch.int64)
        if asked is model and len(x) == 12 and torch.equal(x, real):
            found[:3] = 1
        return found

    monkeypatch.setattr(risk, "_classes", answer)
    assert snapshot is not model
    assert looked_at_again(run)["discrepancy"] == [0.25, None]


def test_after_each_task_there_is_a_number_for_each_domain(tmp_path: Path) -> None:
    stream = tiny_images(tasks=3)
    run = train(LGAA(steps=6, **SMALL), stream, folder=tmp_path)
    found = findings(run)
    assert [set(numbers) for numbers in found] == [set(NUMBERS)] * 3
    for task, numbers in enumerate(found):
        assert all(len(values) == task + 1 for values in numbers.values())
        assert all(value is not None for value in numbers["target_risk"])
        for name in ("source_risk", "frechet_distance", "class_counts", "label_noise"):
            assert numbers[name][task] is None
    last = [row[-1] for row in run.result["accuracy"]]
    assert found[-1]["target_risk"][-1] == pytest.approx(1 - last[-1])
    for value in found[-1]["discrepancy"][:2]:
        assert value is None or 0 <= value <= 1
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["risk"]["target"] == [numbers["target_risk"] for numbers in found]
    assert result["risk"]["source"] == [numbers["source_risk"] for numbers in found]
    assert result["risk"]["accumulated"] == [sum(numbers["target_risk"]) for numbers in found]
    assert result["discrepancy"] == [numbers["discrepancy"] for numbers in found]
    errors = [numbers["target_mse"] for numbers in found]
    grown = [errors[2][0] - min(errors[0][0], errors[1][0]), errors[2][1] - errors[1][1]]
    assert result["risk"]["reconstruction_forgetting"] == pytest.approx(sum(grown) / 2)


def test_what_replay_lost_shows_in_what_was_drawn_first() -> None:
    """And not in the set that was learnt, where what was lost was drawn until it came."""
    run = train(LGAA(steps=2, **SMALL), tiny_images("domain", tasks=3, classes_per_task=3))
    learner = run.learner
    classes, domains = learner.asked(learner.snapshot, 72)
    lost = torch.where((domains == 0) & (classes == 2), 1, classes)  # of domain 0 all of class 2 look like class 1
    strayed = (domains == 1) & (torch.arange(72) < 8)  # and some of domain 1 like domain 0
    learner.first_drawn = Recognised(lost, torch.where(strayed, 0, domains), torch.ones(72))
    numbers = looked_at_again(run)
    strays = torch.bincount(classes[strayed], minlength=3)
    assert numbers["class_counts"][0] == (torch.tensor([12, 24, 0]) + strays).tolist()
    assert numbers["class_counts"][1] == (12 - strays).tolist()
    assert numbers["class_entropy"][0] < 0.9 < numbers["class_entropy"][1]
    assert numbers["label_noise"] == pytest.approx([1 / 3, 4 / 36, None])


def test_in_scenario_task_the_class_is_sought_among_the_given_tasks() -> None:
    run = train(LGAA(steps=4, **SMALL), tiny_images("task", tasks=2))
    with torch.no_grad():  # sure of classes of the second task, whatever is seen
        run.learner.model.networks["classes"].head.bias.add_(torch.tensor([0.0, 0.0, 90.0, 90.0]))
    test = run.loop.stream.tests[0].rows
    batch = test.take(torch.arange(len(test)))
    right = run.learner.model.class_logits(batch.x)[:, :2].argmax(dim=1) == batch.y
    assert looked_at_again(run)["target_risk"][0] == pytest.approx(1 - right.double().mean().item())
    assert right.any()


def test_without_labels_categories_are_matched_to_classes() -> None:
    own = AdversarialAutoencoder(shape_inference=True, code_kl_weight=1.0)
    run = train(LGAA(autoencoder=own, steps=4, batch_size=8, labels_per_class=0), tiny_images("domain", tasks=2))
    numbers = findings(run)[-1]
    assert numbers["target_risk"] == [None, None]
    for test, found in zip(run.loop.stream.tests, numbers["clustering_accuracy"], strict=True):
        batch = test.rows.take(torch.arange(len(test.rows)))
        assert batch.y is not None
        categories = run.learner.model.class_logits(batch.x).argmax(dim=1)
        assert found == pytest.approx(clustering_accuracy(batch.y, categories))
    assert run.result["risk"]["accumulated"] == [None, None]
    assert "clustering_accuracy" not in findings(train(LGAA(steps=1, **SMALL), tiny_images(tasks=1)))[0]


def test_without_replay_only_the_past_itself_is_looked_at() -> None:
    run = train(LGAA(steps=3, replay=False, **SMALL), tiny_images(tasks=2))
    numbers = findings(run)[-1]
    assert numbers["source_risk"] == numbers["discrepancy"] == numbers["class_counts"] == [None, None]
    assert None not in numbers["target_mse"]
