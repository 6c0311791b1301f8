"""The probe of replay on made-up scholars whose replay is known, so every number can be said beforehand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from reverie.device import CPU
from reverie.learners import GenerativeReplay
from reverie.probes.replay_quality import PICTURES, ReplayQuality
from reverie.seeding import Randomness
from reverie.streams import ArrayStream
from reverie.types import Batch
from tests.tiny import differing, recommending, snapshot, tiny_stream, train


def scripted(
    stream: ArrayStream, task: int, label: Any, live: Any, active: str = "all", conditional: bool = False
) -> Any:
    """A learner whose scholar replays rows of past test sets in turn; ``label(batch)`` gives y, ``live(scores)`` the live solver's scores.

    The frozen solver knows the truth.
    """
    past = [test.rows.take(torch.arange(len(test.rows))) for test in stream.tests if test.since < task]
    x, y = torch.cat([batch.x for batch in past]), torch.cat([batch.y for batch in past])

    def truth(rows: Tensor) -> Tensor:
        nearest = torch.cdist(rows.flatten(1), x.flatten(1)).argmin(dim=1)
        return torch.nn.functional.one_hot(y[nearest], stream.spec.outputs).float()

    def draw(n: int, rng: torch.Generator) -> Batch:
        index = torch.arange(n) % len(x)
        return Batch(x[index], label(y[index]), torch.zeros(n, dtype=torch.int64), torch.full((n,), 1 / n))

    def sample(n: int, rng: torch.Generator, classes: Tensor | None = None) -> Batch:
        assert (classes is not None) == conditional
        shade = torch.zeros(n) if classes is None else classes / 10
        pixels = shade.reshape(n, *[1] * len(stream.spec.input_shape)).expand(n, *stream.spec.input_shape)
        return Batch(pixels * 2 - 0.1, classes, torch.zeros(n, dtype=torch.int64), torch.full((n,), 1 / n))

    return SimpleNamespace(
        scholar=SimpleNamespace(draw=draw, solver=SimpleNamespace(scores=truth)),
        network=SimpleNamespace(scores=lambda rows: live(truth(rows))),
        model=SimpleNamespace(conditional=conditional, sample=sample),
        active_classes=active,
        device=CPU,
    )


def look(stream: ArrayStream, task: int, *arguments: Any, threshold: float = 0.8, **options: Any) -> Any:
    learner = scripted(stream, task, *arguments, **options)
    return ReplayQuality(threshold)(learner, stream, stream[task], Randomness(0))


def same(value: Tensor) -> Tensor:
    return value


@pytest.mark.parametrize("scenario", ["class", "domain"])
def test_true_replay_has_full_marks_and_an_even_histogram(scenario: Any) -> None:
    stream = tiny_stream(scenario, rows=40)
    finding = look(stream, 2, same, same)
    assert finding.numbers["solver_agreement"] == 1.0
    if scenario == "class":  # in the domain-incremental one, clouds of the same output may lie side by side
        assert finding.numbers["label_agreement"] == 1.0
        assert finding.numbers["histogram"] == [0.25, 0.25, 0.25, 0.25, 0.0, 0.0]
    else:
        assert finding.numbers["histogram"] == [0.5, 0.5]
    assert finding.warnings == ()
    assert torch.allclose(finding.arrays["histogram"], torch.tensor(finding.numbers["histogram"]))


def test_wrong_labels_show_in_label_agreement_and_histogram_alone() -> None:
    stream = tiny_stream("class", rows=40)
    finding = look(stream, 2, lambda y: torch.where(y == 3, 0, y), same)
    assert finding.numbers["label_agreement"] == 0.75
    assert finding.numbers["histogram"] == [0.5, 0.25, 0.25, 0.0, 0.0, 0.0]
    assert finding.numbers["solver_agreement"] == 1.0


def test_a_solver_that_forgot_a_class_is_warned_of_below_the_threshold() -> None:
    stream = tiny_stream("class", rows=40)

    def forgot(scores: Tensor) -> Tensor:
        return torch.where(scores.argmax(dim=1, keepdim=True) == 3, torch.eye(6)[0], scores)

    finding = look(stream, 2, same, forgot, threshold=0.8)
    assert finding.numbers["solver_agreement"] == 0.75
    (warning,) = finding.warnings
    assert "task 'clouds 3': the solver agrees with the one before on 75% of replay, below 80%" in warning
    assert look(stream, 2, same, forgot, threshold=0.75).warnings == ()


def test_answers_for_new_classes_are_not_asked_for() -> None:
    """The live solver may prefer the new classes; what counts is how it tells the old ones apart."""
    stream = tiny_stream("class", rows=40)
    finding = look(stream, 2, same, lambda scores: scores + 9 * (torch.arange(6) >= 4))
    assert finding.numbers["solver_agreement"] == 1.0


@pytest.mark.parametrize(("scenario", "active"), [("task", "all"), ("class", "current")])
def test_labels_for_several_heads(scenario: Any, active: Any) -> None:
    """Each row carries a label for both old heads; the right one is that of the head it came from."""
    stream = tiny_stream(scenario, rows=40)

    def both_heads(y: Tensor) -> Tensor:
        first, second = torch.where(y < 2, y, 1), torch.where(y >= 2, y, 3)
        return 0.5 * (torch.eye(6)[first] + torch.eye(6)[second])

    def other_in_the_second(scores: Tensor) -> Tensor:
        return scores[:, [0, 1, 3, 2, 4, 5]]

    finding = look(stream, 2, both_heads, same, active=active)
    assert finding.numbers["label_agreement"] == 1.0
    # Half of the rows say 0 or 1 evenly in the first head, the others 1; likewise 2 and 3 in the second.
    assert finding.numbers["histogram"] == [0.125, 0.375, 0.125, 0.375, 0.0, 0.0]
    assert finding.numbers["solver_agreement"] == 1.0
    # Answers are compared head by head: half of the rows change their answer in the second head.
    finding = look(stream, 2, both_heads, other_in_the_second, active=active)
    assert finding.numbers["solver_agreement"] == 0.75


def test_pictures_of_what_the_next_task_will_rehearse() -> None:
    rng = np.random.default_rng(0)
    arrays = [(rng.random((12, 1, 3, 3), dtype=np.float32), np.repeat([2 * t, 2 * t + 1], 6)) for t in range(2)]
    stream = ArrayStream.from_arrays(arrays)
    learner = scripted(stream, 1, same, same, conditional=True)
    images = ReplayQuality(0.5)(learner, stream, stream[1], Randomness(0)).images["generated samples"]
    assert images.shape == (PICTURES, 1, 3, 3)
    shades = [0.0, 0.1, 0.3, 0.5]  # classes 0 to 3 in order, ten of each, clamped to [0, 1]
    assert torch.allclose(images[:, 0, 0, 0], torch.tensor(shades).repeat_interleave(10), atol=1e-6)
    learner.scholar = None
    finding = ReplayQuality(0.5)(learner, stream, stream[0], Randomness(0))
    assert (finding.numbers, list(finding.images)) == ({}, ["generated samples"])


def test_rows_that_are_no_images_have_no_pictures() -> None:
    assert look(tiny_stream(rows=40), 2, same, same).images == {}


@pytest.mark.parametrize("scenario", ["class", "task", "domain"])
def test_on_a_real_learner_numbers_are_shares_and_nothing_moves(scenario: Any) -> None:
    run = train(GenerativeReplay(), recommending(tiny_stream(scenario), steps=20))
    assert [finding["task"] for finding in run.result["findings"]] == [0, 1, 2]
    for finding in run.result["findings"][1:]:
        numbers = finding["numbers"]
        assert 0 <= numbers["solver_agreement"] <= 1
        assert 0 <= numbers["label_agreement"] <= 1
        old = set(run.loop.stream.spec.classes_until(finding["task"] - 1))
        assert sum(numbers["histogram"]) == pytest.approx(1, abs=1e-3)
        assert all(share == 0 for c, share in enumerate(numbers["histogram"]) if c not in old)
    before = snapshot(run.learner)
    (probe,) = run.learner.probes()
    with torch.no_grad():
        first, again = (probe(run.learner, run.loop.stream, run.loop.stream[2], Randomness(4)) for _ in range(2))
    assert first.numbers == again.numbers
    assert differing(before, run.learner.state()) == []


def test_a_drift_warning_reaches_record_and_result() -> None:
    stream = recommending(tiny_stream(), steps=30, learning_rate=0.05)
    run = train(GenerativeReplay(drift_warning=1.0), stream)
    low = [f["task"] for f in run.result["findings"][1:] if f["numbers"]["solver_agreement"] < 1]
    assert low
    assert len(run.result["warnings"]) == len(low)
    assert [line["task"] for line in run.lines if line["kind"] == "warning"] == low
    assert train(GenerativeReplay(drift_warning=0.0), stream).result["warnings"] == []
