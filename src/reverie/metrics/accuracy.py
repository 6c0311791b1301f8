"""Metrics of continual learning as pure functions of the accuracy matrix.

R: (T, J) array of fractions, R[i, j] = accuracy on test set j after task i (both from 0), NaN where not evaluated. Most measures need the square
matrix of a stream learnt task by task. Each returns None where it is undefined, as with a single task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Matrix = np.ndarray


def as_matrix(rows: Sequence[Sequence[float | None]]) -> Matrix:
    """Nested lists with None, as saved in ``result.json``, to an array with NaN."""
    return np.array([[np.nan if value is None else value for value in row] for row in rows], dtype=np.float64)


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _square(R: Matrix) -> bool:
    return R.ndim == 2 and R.shape[0] == R.shape[1] and R.shape[0] > 1


def average_accuracy(R: Matrix) -> float | None:
    """ACC = (1/J) sum_j R[T-1, j]: mean over test sets after the last task (Lopez-Paz and Ranzato 2017, arXiv 1706.08840).

    >>> average_accuracy(np.array([[0.9, np.nan], [0.5, 0.7]]))
    0.6
    """
    return _finite(R[-1].mean()) if R.size else None


def average_incremental_accuracy(R: Matrix) -> float | None:
    """AIA = (1/T) sum_i A_i with A_i = mean_{j <= i} R[i, j], the first task included (Rebuffi et al. 2017, arXiv 1611.07725)."""
    if R.size == 0 or R.shape[0] != R.shape[1]:
        return None
    return _finite(np.mean([R[i, : i + 1].mean() for i in range(len(R))]))


def learning_accuracy(R: Matrix) -> float | None:
    """LA = (1/T) sum_i R[i, i]: accuracy on each task just after learning it (Riemer et al. 2019, arXiv 1810.11910)."""
    if R.size == 0 or R.shape[0] != R.shape[1]:
        return None
    return _finite(np.diagonal(R).mean())


def forgetting(R: Matrix) -> float | None:
    """F = (1/(T-1)) sum_{j < T-1} (max_{j <= l < T-1} R[l, j] - R[T-1, j]) (Chaudhry et al. 2018, arXiv 1801.10112).

    Signed: negative where the last row is the best.

    >>> forgetting(np.array([[0.9, np.nan], [0.5, 0.7]]))
    0.4
    """
    if not _square(R):
        return None
    last = len(R) - 1
    return _finite(np.mean([R[j:last, j].max() - R[last, j] for j in range(last)]))


def backward_transfer(R: Matrix) -> float | None:
    """BWT = (1/(T-1)) sum_{j < T-1} (R[T-1, j] - R[j, j]) (Lopez-Paz and Ranzato 2017)."""
    if not _square(R):
        return None
    last = len(R) - 1
    return _finite(np.mean([R[last, j] - R[j, j] for j in range(last)]))


def forward_transfer(R: Matrix, initial: Sequence[float | None] | None, scenario: str) -> float | None:
    """FWT = (1/(T-1)) sum_{j > 0} (R[j-1, j] - b_j), b_j the accuracy before any training (Lopez-Paz and Ranzato 2017).

    None unless every task is evaluated after every task, and in the class-incremental scenario, where classes not taught
    yet are never predicted.
    """
    if not _square(R) or initial is None or scenario == "class":
        return None
    b = as_matrix([initial])[0]
    return _finite(np.mean([R[j - 1, j] - b[j] for j in range(1, len(R))]))


def relative_forgetting(R: Matrix) -> float | None:
    """(1/(T-1)) sum_{j < T-1} (M_j - R[T-1, j]) / M_j with M_j = max_{j <= l < T-1} R[l, j]: forgetting as a share of what was known."""
    if not _square(R):
        return None
    last = len(R) - 1
    best = np.array([R[j:last, j].max() for j in range(last)])
    return _finite(np.mean((best - R[last, :last]) / best)) if (best > 0).all() else None


def average_of_seen(R: Matrix) -> float | None:
    """A = sum_{i >= j} R[i, j] / (T (T+1) / 2) (Diaz-Rodriguez et al. 2018, arXiv 1810.13166)."""
    if R.size == 0 or R.shape[0] != R.shape[1]:
        return None
    return _finite(R[np.tril_indices(len(R))].mean())


def mean_backward_transfer(R: Matrix) -> float | None:
    """BWT' = sum_{i > j} (R[i, j] - R[j, j]) / (T (T-1) / 2): over all rows, not the last alone (Diaz-Rodriguez et al. 2018)."""
    if not _square(R):
        return None
    i, j = np.tril_indices(len(R), -1)
    return _finite(np.mean(R[i, j] - R[j, j]))


def remembering(R: Matrix) -> float | None:
    """REM = 1 - |min(BWT', 0)| (Diaz-Rodriguez et al. 2018)."""
    transfer = mean_backward_transfer(R)
    return None if transfer is None else 1 - abs(min(transfer, 0.0))


def positive_backward_transfer(R: Matrix) -> float | None:
    """BWT+ = max(BWT', 0) (Diaz-Rodriguez et al. 2018)."""
    transfer = mean_backward_transfer(R)
    return None if transfer is None else max(transfer, 0.0)


def mean_forward_transfer(R: Matrix, scenario: str) -> float | None:
    """FWT' = sum_{i < j} R[i, j] / (T (T-1) / 2) (Diaz-Rodriguez et al. 2018); None in the class-incremental scenario, where
    classes not taught yet are never predicted, and where later tasks were not evaluated."""
    if not _square(R) or scenario == "class":
        return None
    return _finite(R[np.triu_indices(len(R), 1)].mean())


def intransigence(R: Matrix, reference: Sequence[float]) -> list[float | None]:
    """I_i = a*_i - R[i, i]: what could not be learnt any more (Chaudhry et al. 2018).

    reference: (T,) a*_i, accuracy on task i of a model trained jointly on tasks 0..i.
    """
    if R.size == 0 or R.shape[0] != R.shape[1] or len(reference) != len(R):
        return [None] * len(R)
    return [_finite(best - mine) for best, mine in zip(reference, np.diagonal(R), strict=True)]


def omega_all(R: Matrix, offline: Sequence[float]) -> float | None:
    """Omega_all = (1/T) sum_t alpha_t / alpha_offline,t, alpha_t = mean_{j <= t} R[t, j] (Kemker et al. 2018, arXiv 1708.02072).

    offline: (T,) the same accuracy of a model trained on all rows of tasks 0..t at once.
    """
    if R.size == 0 or R.shape[0] != R.shape[1] or len(offline) != len(R) or min(offline) <= 0:
        return None
    return _finite(np.mean([R[t, : t + 1].mean() / offline[t] for t in range(len(R))]))


def average_anytime_accuracy(curve: Sequence[Sequence[float | None]]) -> float | None:
    """AAA = (1/P) sum_p mean accuracy on the test sets seen at point p of the curve (Caccia et al. 2022, arXiv 2104.05025).

    curve: accuracies a test set at each point, as ``evaluate_every`` records them; None where not seen yet.
    """
    points = [np.mean([a for a in point if a is not None]) for point in curve if any(a is not None for a in point)]
    return _finite(np.mean(points)) if points else None


def minimum_accuracy(curve: Sequence[Sequence[float | None]], since: Sequence[int]) -> float | None:
    """min-ACC: mean over earlier test sets of their lowest accuracy after they were learnt (De Lange et al. 2023, arXiv 2205.13452).

    since: (J,) the first point of the curve at which test set j counts as learnt.
    """
    lowest = [
        min(point[j] for point in curve[first:] if point[j] is not None)  # type: ignore[type-var]
        for j, first in enumerate(since)
        if any(point[j] is not None for point in curve[first:])
    ]
    return _finite(np.mean(lowest)) if lowest else None  # type: ignore[arg-type]


def summary(R: Matrix, initial: Sequence[float | None] | None, scenario: str) -> dict[str, float | None]:
    """All of the above, by the names of ``result.json``."""
    return {
        "average_accuracy": average_accuracy(R),
        "forgetting": forgetting(R),
        "backward_transfer": backward_transfer(R),
        "forward_transfer": forward_transfer(R, initial, scenario),
        "learning_accuracy": learning_accuracy(R),
        "average_incremental_accuracy": average_incremental_accuracy(R),
    }


def task_summary(matrices: Mapping[str, Sequence[Sequence[float | None]]]) -> dict[str, Any]:
    """What is known of the task, by the names of ``result.json``, from the matrices of one run.

    tgiven_during: mean accuracy on each task right after it was learnt, the task given; tgiven_final: the same after the last task. tinfer_final,
    task_inference_accuracy: for each criterion, accuracy where the task is inferred, and share of rows whose task is found, after the
    last task (Henning et al. 2021, arXiv 2103.01133, section 4). None where undefined, or where the learner has no model a task.
    """
    given = as_matrix(matrices["task_given"]) if matrices.get("task_given") else np.empty((0, 0))

    def last(prefix: str) -> dict[str, float | None] | None:
        found = {
            name.removeprefix(prefix): average_accuracy(as_matrix(rows))
            for name, rows in matrices.items()
            if name.startswith(prefix) and rows
        }
        return found or None

    return {
        "tgiven_during": learning_accuracy(given),
        "tgiven_final": average_accuracy(given),
        "tinfer_final": last("inferred_by_"),
        "task_inference_accuracy": last("task_found_by_"),
    }
