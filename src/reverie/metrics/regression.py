"""Metrics of predicted numbers: functions of mean and deviation, a value a row, and their summary over a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reverie.metrics.accuracy import as_matrix, average_accuracy, learning_accuracy

QUANTILE = 1.959963984540054  # of a normal distribution: 95 % lie within so many deviations


def expected_squared_error(y: Tensor, mean: Tensor, std: Tensor | None) -> Tensor:
    """(B, outputs) -> (B,): E (f - y)^2 of a prediction f of this mean and deviation, a mean over the outputs: (mean - y)^2 + std^2 (Henning et
    al. 2021, arXiv 2103.01133).

    >>> expected_squared_error(torch.tensor([[1.0]]), torch.tensor([[3.0]]), torch.tensor([[0.5]]))
    tensor([4.2500])
    """
    error = (y - mean).square()
    return (error if std is None else error + std.square()).mean(dim=1)


def negative_log_likelihood(y: Tensor, mean: Tensor, std: Tensor | None, noise_std: float) -> Tensor:
    """(B,) nats: -log N(y; mean, std^2 + noise_std^2), a sum over the outputs."""
    variance = _variance(mean, std, noise_std)
    return (0.5 * ((y - mean).square() / variance + (2 * math.pi * variance).log())).sum(dim=1)


def covered(y: Tensor, mean: Tensor, std: Tensor | None, noise_std: float) -> Tensor:
    """(B,) share of the outputs that lie in the central interval of 95 % of N(mean, std^2 + noise_std^2)."""
    return ((y - mean).abs() <= QUANTILE * _variance(mean, std, noise_std).sqrt()).to(mean.dtype).mean(dim=1)


def _variance(mean: Tensor, std: Tensor | None, noise_std: float) -> Tensor:
    variance = torch.full_like(mean, noise_std**2)
    return variance if std is None else variance + std.square()


def regression_summary(matrices: Mapping[str, Sequence[Sequence[float | None]]]) -> dict[str, Any]:
    """By the names of ``result.json``, from the matrices of one run of regression.

    mse_during: mean squared error on each task right after it was learnt, the task given where a learner has a model a task; mse_final: the same
    after the last task; mse_inferred: after the last task, the task inferred, for each criterion; nll_final, coverage_final: of the prediction
    without the task. None where undefined.
    """
    given = "task_given" if any(any(v is not None for v in row) for row in matrices.get("task_given", ())) else ""
    error = _matrix(matrices, given or "task_agnostic")
    inferred = {
        name.removeprefix("inferred_by_"): average_accuracy(_matrix(matrices, name))
        for name in matrices
        if name.startswith("inferred_by_")
    }
    return {
        "mse_during": learning_accuracy(error),
        "mse_final": average_accuracy(error),
        "mse_inferred": inferred or None,
        "nll_final": average_accuracy(_matrix(matrices, "nll")),
        "coverage_final": average_accuracy(_matrix(matrices, "coverage")),
    }


def _matrix(matrices: Mapping[str, Sequence[Sequence[float | None]]], name: str) -> np.ndarray:
    return as_matrix(matrices[name]) if matrices.get(name) else np.empty((0, 0))
