"""Answers of learners that have a model a task: probabilities of all models become one prediction."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from reverie.metrics.task_inference import CRITERIA
from reverie.types import Prediction

CriterionName = Literal["entropy", "confidence", "agreement"]

NETWORKS_AT_ONCE = 1 << 17  # rows times weight samples that are answered at a time
EVALUATION = "weights of the evaluation"  # all tasks, and all runs, answer with the same noise


def preferred(
    models: Sequence[Tensor],
    heads: Sequence[Sequence[int]],
    outputs: int,
    criterion: str,
    more: Mapping[str, Tensor] | None = None,
) -> Prediction:
    """Of each row the answer of the model that ``criterion`` prefers, with those of all models (``by_task``) and how much each criterion
    prefers each (``task_scores``).

    models: for each task (V, B, C) probabilities over the outputs in ``heads`` at its place, float64, V samples of weights. Scores are
    logarithms of mean probabilities, (B, outputs). One sample cannot disagree: there is no agreement then, and the entropy stands in for it.
    more: (B, T) of criteria that do not go by these probabilities.
    """
    by_task = torch.stack([log_mean(p, head, outputs) for p, head in zip(models, heads, strict=True)], dim=1)
    found = {
        name: torch.cat([score(p[None]) for p in models], dim=1)
        for name, score in CRITERIA.items()
        if name != "agreement" or len(models[0]) > 1
    } | dict(more or {})
    chosen = found.get(criterion, found["entropy"]).argmax(dim=1)
    scores = by_task[torch.arange(len(by_task), device=by_task.device), chosen]
    # Classes of other tasks are known, and out of the question.
    taught = torch.zeros(outputs, dtype=torch.bool, device=scores.device)
    taught[list(dict.fromkeys(c for head in heads for c in head))] = True
    scores = torch.where(taught & scores.isneginf(), torch.finfo(torch.float32).min, scores)
    return Prediction(scores, by_task=by_task, task_scores=found)


def log_mean(probabilities: Tensor, head: Sequence[int], outputs: int) -> Tensor:
    """(V, B, C) over some outputs -> (B, outputs) logarithms of the mean over samples, float32, -inf at the others."""
    mean = probabilities.mean(dim=0)
    found = mean.new_full((len(mean), outputs), -math.inf)
    found[:, list(head)] = mean.log()
    return found.float()


def in_parts(predict: Callable[[Tensor], Prediction], x: Tensor, rows: int) -> Prediction:
    """What ``predict`` says of x (B, ...), at most so many rows at a time."""
    parts = [predict(some) for some in x.split(max(1, rows))]
    return parts[0] if len(parts) == 1 else Prediction(**_joined([vars(part) for part in parts]))


def _joined(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Dictionaries one below the other; their values are tensors (B, ...), dictionaries of such, or None."""
    found: dict[str, Any] = {}
    for name, first in parts[0].items():
        values = [part[name] for part in parts]
        if isinstance(first, Tensor):
            found[name] = torch.cat(values)
        else:
            found[name] = None if first is None else _joined(values)
    return found
