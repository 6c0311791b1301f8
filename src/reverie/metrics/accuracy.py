"""Metrics of continual learning as pure functions of the accuracy matrix.

R: (T, J) array of fractions, R[i, j] = accuracy on test set j after task i (both from 0), NaN where not evaluated. Most measures need the square
matrix of a stream learnt task by task. Each returns None where it is undefined, as with a single task.
"""

from __future__ import annotations

from collections.abc import Sequence
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
