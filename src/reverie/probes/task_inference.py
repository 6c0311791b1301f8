"""Whether a model knows which inputs are its own: what the models of all tasks say of the test rows of each."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from reverie.metrics.task_inference import auroc, expected_calibration_error, task_confusion
from reverie.seeding import Randomness
from reverie.types import Finding, Prediction, Stream, StreamSpec, Task, TestSet

ROWS = 500  # of a test set, at most
BINS = 20  # of a histogram of entropies, over [0, 1]


class TaskInference:
    """For classifiers with a model a task, whose predictions hold ``by_task`` and ``task_scores`` (Henning et al. 2021, arXiv 2103.01133,
    section 4); of others it finds nothing. Entropies are those of mean predictions, as shares of the largest possible.

    Of the N test sets taught so far, at most 500 evenly spaced rows each, and the T models:
    entropy: (N, T) means. auroc: (N, T), how well the entropies of model j (out of distribution) are told from those of the set's own model (in
    distribution), both on the rows of set i; NaN at its own. histogram_in, histogram_out: (N, 20) rows by entropy of the own model, and of
    all other models. confusion_by_CRITERION: (T, T) rows of each task that were taken for each.

    numbers: ``auroc``, a number a test set, its own model against all others, and ``mean_auroc`` (None of a single model); ``entropy_in``,
    ``entropy_out``, means over test sets; ``calibration_error_given``, ``calibration_error_inferred_by_CRITERION``: expected calibration
    error of the answers of the own model, and of the model that the criterion prefers, over all rows.
    """

    name = "task-inference"

    def __call__(self, learner: Any, stream: Stream, task: Task, rng: Randomness) -> Finding:
        seen = [test for test in stream.tests if test.since <= task.index]
        looked = [(test, *_answers(learner, test, rng.device)) for test in seen]
        if not looked or looked[0][1].task_scores is None:
            return Finding()
        own = [test.since for test in seen]
        entropies = [
            -cast(dict[str, Tensor], said.task_scores)["entropy"].cpu() for _, said, _ in looked
        ]  # (B, T) each
        models = entropies[0].shape[1]
        inside = [rows[:, j] for rows, j in zip(entropies, own, strict=True)]
        outside = [rows[:, torch.arange(models) != j] for rows, j in zip(entropies, own, strict=True)]
        pairs = torch.full((len(seen), models), torch.nan, dtype=torch.float64)
        for i, rows in enumerate(entropies):
            for j in set(range(models)) - {own[i]}:
                pairs[i, j] = cast(float, auroc(inside[i], rows[:, j]))
        told = [value for i, o in zip(inside, outside, strict=True) if (value := auroc(i, o.flatten())) is not None]
        confusions, calibration = _of_criteria(looked, stream.spec, models)
        return Finding(
            numbers={
                "auroc": told,
                "mean_auroc": sum(told) / len(told) if told else None,
                "entropy_in": float(torch.stack([rows.mean() for rows in inside]).mean()),
                "entropy_out": float(torch.stack([rows.mean() for rows in outside]).mean()) if models > 1 else None,
                **calibration,
            },
            arrays={
                "entropy": torch.stack([rows.mean(dim=0) for rows in entropies]),
                "auroc": pairs,
                "histogram_in": torch.stack([_histogram(rows) for rows in inside]),
                "histogram_out": torch.stack([_histogram(rows) for rows in outside]),
                **confusions,
            },
        )


def _answers(learner: Any, test: TestSet, device: torch.device) -> tuple[Prediction, Tensor]:
    """Of a test set, on some of its rows; and their classes."""
    index = torch.linspace(0, len(test.rows) - 1, min(ROWS, len(test.rows))).long()
    batch = test.rows.to(device).take(index)
    assert batch.y is not None
    with torch.no_grad():
        return learner.predict(batch.x), batch.y


def _of_criteria(
    looked: list[tuple[TestSet, Prediction, Tensor]], spec: StreamSpec, models: int
) -> tuple[dict[str, Tensor], dict[str, float | None]]:
    """Confusions of tasks, and calibration errors with the task given and inferred."""
    said = [prediction for _, prediction, _ in looked]
    y = torch.cat([classes for _, _, classes in looked])
    truth = torch.cat([torch.full_like(classes, test.since) for test, _, classes in looked])
    logs = torch.cat([cast(Tensor, prediction.by_task) for prediction in said])  # (B, T, outputs)

    def calibration(chosen: Tensor, allowed: Tensor | None = None) -> float | None:
        answers = logs[torch.arange(len(logs), device=logs.device), chosen]
        if allowed is not None:
            answers = answers.masked_fill(~allowed, -torch.inf)
        return expected_calibration_error(torch.softmax(answers.double(), dim=1), y)

    # Whoever is given the task knows its classes.
    allowed = None
    if spec.scenario != "domain":
        allowed = torch.zeros(len(y), logs.shape[2], dtype=torch.bool, device=logs.device)
        start = 0
        for test, _, classes in looked:
            allowed[start : start + len(classes), list(test.classes)] = True
            start += len(classes)
    confusions, errors = {}, {"calibration_error_given": calibration(truth, allowed)}
    for criterion in cast(dict[str, Tensor], said[0].task_scores):
        scores = torch.cat([cast(dict[str, Tensor], prediction.task_scores)[criterion] for prediction in said])
        inferred = scores.argmax(dim=1)
        confusions[f"confusion_by_{criterion}"] = task_confusion(inferred, truth, models).cpu()
        errors[f"calibration_error_inferred_by_{criterion}"] = calibration(inferred)
    return confusions, errors


def _histogram(entropies: Tensor) -> Tensor:
    """(20,) counts of numbers in [0, 1], which rounding may have left a little."""
    place = (entropies.flatten() * BINS).long().clamp(0, BINS - 1)
    return torch.bincount(place, minlength=BINS)
