"""The probe of task inference on predictions made up by hand, and on a real learner."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from reverie.learners import PosteriorReplay, SeparatePosteriors
from reverie.metrics.task_inference import CRITERIA
from reverie.posteriors import Dirac
from reverie.probes import task_inference
from reverie.probes.task_inference import TaskInference
from reverie.seeding import Randomness
from reverie.streams import ArrayStream
from reverie.types import Finding, Prediction, Scenario
from tests.tiny import differing, snapshot, tiny_stream, train


def made_up(stream: ArrayStream, sure: list[list[float]]) -> Any:
    """Models whose probability of the first class of their task is sure[i][j] on every row of test set i."""
    places = {tuple(x.tolist()): i for i, test in enumerate(stream.tests) for x in test.rows.take(all_of(test)).x}
    heads = stream.spec.heads

    def predict(x: Tensor, task: int | None = None) -> Prediction:
        p = torch.tensor([sure[places[tuple(row.tolist())]] for row in x]).double()  # (B, T)
        logs = torch.full((len(x), p.shape[1], stream.spec.outputs), -math.inf).double()
        for j in range(p.shape[1]):
            logs[:, j, heads[j][0]], logs[:, j, heads[j][1]] = p[:, j].log(), (1 - p[:, j]).log()
        probabilities = torch.stack([p, 1 - p], dim=2).transpose(0, 1)[:, None]
        scores = {"entropy": CRITERIA["entropy"](probabilities)}
        chosen = scores["entropy"].argmax(dim=1)
        return Prediction(logs[torch.arange(len(x)), chosen], by_task=logs, task_scores=scores)

    return SimpleNamespace(predict=predict)


def all_of(test: Any) -> Tensor:
    return torch.arange(len(test.rows))


def look(learner: Any, stream: ArrayStream, task: int) -> Finding:
    return TaskInference()(learner, stream, stream[task], Randomness(0))


def bits_of(p: float) -> float:
    return -p * math.log2(p) - (1 - p) * math.log2(1 - p)


def test_every_number_of_made_up_models() -> None:
    stream = tiny_stream(rows=20)
    n = len(stream.tests[0].rows)
    sure = [[0.99, 0.6, 0.8], [0.95, 0.9, 0.55], [0.7, 0.7, 0.7]]
    found = look(made_up(stream, sure), stream, 2)
    entropies = torch.tensor([[bits_of(p) for p in row] for row in sure], dtype=torch.float64)
    torch.testing.assert_close(found.arrays["entropy"], entropies, rtol=1e-6, atol=1e-6)
    nan = math.nan
    expected = torch.tensor([[nan, 1, 1], [0, nan, 1], [0.5, 0.5, nan]], dtype=torch.float64)
    torch.testing.assert_close(found.arrays["auroc"], expected, equal_nan=True)
    assert found.numbers["auroc"] == [1.0, 0.5, 0.5]
    assert found.numbers["mean_auroc"] == pytest.approx(2 / 3)
    assert found.numbers["entropy_in"] == pytest.approx(float(entropies.diagonal().mean()), rel=1e-6)
    assert found.numbers["entropy_out"] == pytest.approx(float((entropies.sum() - entropies.trace()) / 6), rel=1e-6)
    # Test set 1 is taken for task 0, whose model is surer of it; of equal models the first is taken.
    assert found.arrays["confusion_by_entropy"].tolist() == [[n, 0, 0], [n, 0, 0], [n, 0, 0]]
    # With its own task half of the rows of a set are answered rightly; with task 0, none of the other sets.
    assert found.numbers["calibration_error_given"] == pytest.approx((0.49 + 0.4 + 0.2) / 3, abs=1e-6)
    # 0.99 and 0.95 share the last of 15 bins.
    inferred = (abs(0.5 + 0 - 0.99 - 0.95) + 0.7) / 3
    assert found.numbers["calibration_error_inferred_by_entropy"] == pytest.approx(inferred, abs=1e-6)
    inside, outside = found.arrays["histogram_in"], found.arrays["histogram_out"]
    assert inside.shape == outside.shape == (3, 20)
    assert inside.sum(dim=1).tolist() == [n] * 3
    assert outside.sum(dim=1).tolist() == [2 * n] * 3
    assert inside[0].argmax() == int(20 * bits_of(0.99))


def test_one_model_has_nothing_out_of_distribution() -> None:
    stream = tiny_stream()
    found = look(made_up(stream, [[0.9]]), stream, 0)
    assert found.numbers["auroc"] == []
    assert found.numbers["mean_auroc"] is None
    assert found.numbers["entropy_out"] is None
    assert found.arrays["histogram_out"].tolist() == [[0] * 20]
    assert found.arrays["auroc"].isnan().all()


def test_learners_without_models_of_tasks_find_nothing() -> None:
    stream = tiny_stream()
    found = look(train("naive", stream).learner, stream, 2)
    assert (found.numbers, found.arrays) == ({}, {})


def test_no_more_than_so_many_rows_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_inference, "ROWS", 5)
    stream = tiny_stream(rows=40)
    found = look(made_up(stream, [[0.9, 0.8, 0.7]] * 3), stream, 2)
    assert found.arrays["histogram_in"].sum(dim=1).tolist() == [5, 5, 5]
    assert int(found.arrays["confusion_by_entropy"].sum()) == 15


@pytest.mark.parametrize("scenario", ["class", "task", "domain"])
@pytest.mark.parametrize("point", [False, True])
def test_a_real_learner_is_told_as_the_evaluation_tells_it(scenario: Scenario, point: bool) -> None:
    stream = tiny_stream(scenario, rows=30)
    part = PosteriorReplay(**({"posterior": Dirac()} if point else {"test_samples": 3}))
    done = train(part, stream)
    before = snapshot(done.learner)
    found = look(done.learner, stream, 2)
    assert differing(before, done.learner.state()) == []
    criteria = ["entropy", "confidence"] + ([] if point else ["agreement"])
    assert [name for name in found.arrays if name.startswith("confusion")] == [f"confusion_by_{c}" for c in criteria]
    for criterion in criteria:
        confusion = found.arrays[f"confusion_by_{criterion}"].double()
        shares = (confusion.diagonal() / confusion.sum(dim=1)).tolist()
        assert shares == pytest.approx(done.result["matrices"][f"task_found_by_{criterion}"][-1])
        error = found.numbers[f"calibration_error_inferred_by_{criterion}"]
        assert isinstance(error, float)
        assert 0 <= error <= 1
    assert found.arrays["entropy"].shape == (3, 3)
    assert ((found.arrays["entropy"] >= 0) & (found.arrays["entropy"] <= 1 + 1e-9)).all()


def test_models_of_their_own_are_surest_of_what_they_learnt() -> None:
    """Each task alone, until it is learnt: a sanity check of which way round everything is."""
    stream = tiny_stream(rows=40, steps=150)
    found = look(train(SeparatePosteriors(posterior=Dirac()), stream).learner, stream, 2)
    entropies = found.arrays["entropy"]
    assert (entropies.diagonal() <= entropies.mean(dim=1)).all()
    auroc = found.numbers["mean_auroc"]
    assert isinstance(auroc, float)
    assert auroc > 0.6
