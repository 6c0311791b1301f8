"""Numbers over tasks and over steps: a point a seed, then mean and standard error over seeds.

A result is an accuracy, or, of regression, a mean squared error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reverie.reports.records import CurveLine, LossLine, Row, RunRecord
from reverie.reports.words import Estimate

Points = dict[int, float]


@dataclass(frozen=True)
class Curve:
    """Estimates at increasing x, those that all seeds have."""

    x: tuple[int, ...]
    y: tuple[Estimate, ...]

    @classmethod
    def over_seeds(cls, seeds: Sequence[Mapping[int, float]]) -> Curve:
        """
        >>> Curve.over_seeds([{1: 0.5, 2: 0.6}, {1: 0.7}])
        Curve(x=(1,), y=(Estimate(mean=0.6, error=0.1, n=2),))
        """
        common = sorted(set.intersection(*(set(points) for points in seeds))) if seeds else []
        return cls(tuple(common), tuple(Estimate.of([points[x] for points in seeds]) for x in common))

    @property
    def means(self) -> np.ndarray:
        return np.array([estimate.mean for estimate in self.y], dtype=float)

    @property
    def errors(self) -> np.ndarray:
        """Zero where there is one seed."""
        return np.array([estimate.error or 0.0 for estimate in self.y], dtype=float)


def seen_average(record: RunRecord) -> Points:
    """Mean result on the tasks learnt so far, after task 1, 2, ...; of a merged run, its one value after every task."""
    rows = record.result.matrix
    if record.merged:
        return dict.fromkeys(range(1, len(record.result.tasks) + 1), _mean(rows[0])) if _any(rows[0]) else {}
    return {i + 1: _mean(row[: i + 1]) for i, row in enumerate(rows) if _any(row[: i + 1])}


def task_result(record: RunRecord, task: int) -> Points:
    """Result on one task (from 0) after it was learnt, and after each later one."""
    rows = record.result.matrix
    if record.merged:
        value = rows[0][task]
        return {} if value is None else dict.fromkeys(range(1, len(record.result.tasks) + 1), value)
    return {i + 1: value for i, row in enumerate(rows) if i >= task and (value := row[task]) is not None}


def result_over_steps(record: RunRecord) -> Points:
    """Mean result on the tasks so far, between the tasks' ends, by steps of the whole run; empty unless the run looked."""

    def value(line: LossLine | CurveLine) -> float | None:
        if not isinstance(line, CurveLine):
            return None
        row = line.row if record.merged else line.row[: line.task + 1]
        return _mean(row) if _any(row) else None

    return _over_steps(record, value)


def loss_over_steps(record: RunRecord, name: str) -> Points:
    """A loss by steps of the whole run."""
    return _over_steps(record, lambda line: line.losses.get(name) if isinstance(line, LossLine) else None)


def loss_names(record: RunRecord) -> list[str]:
    return list(dict.fromkeys(name for line in record.lines if isinstance(line, LossLine) for name in line.losses))


def task_starts(record: RunRecord) -> tuple[int, ...]:
    """The step of the whole run at which each task but the first began."""
    starts: dict[int, int] = {}
    for (task, _), step in _phase_starts(record).items():
        starts.setdefault(task, step)
    return tuple(starts.values())[1:]


def _over_steps(record: RunRecord, value: Callable[[LossLine | CurveLine], float | None]) -> Points:
    starts = _phase_starts(record)
    found = ((starts[line.task, line.phase] + line.step, value(line)) for line in record.lines)
    return {step: number for step, number in found if number is not None}


def _phase_starts(record: RunRecord) -> dict[tuple[int, str], int]:
    """Steps before each phase: lines count the steps of their own phase, and its last losses are read at its end."""
    lengths: dict[tuple[int, str], int] = {}
    for line in record.lines:
        key = (line.task, line.phase)
        lengths[key] = max(lengths.get(key, 0), line.step)
    starts, total = {}, 0
    for key, length in lengths.items():
        starts[key] = total
        total += length
    return starts


def _any(row: Row) -> bool:
    return any(value is not None for value in row)


def _mean(row: Row) -> float:
    return float(np.mean([value for value in row if value is not None]))
