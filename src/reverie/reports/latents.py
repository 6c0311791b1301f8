"""What the probe latent-quality found: generated latents against held-out real ones, by class and by task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from reverie.checks import StorageError
from reverie.reports import words
from reverie.reports.records import FindingLine, RunRecord
from reverie.reports.tables import Group
from reverie.reports.words import Estimate, percent_estimate

PROBE = "latent-quality"
Table = tuple[tuple[str, tuple[str, ...]], ...]  # what a row is of, and its cells


def _number(estimate: Estimate) -> str:
    """Three digits of the mean, and as many places of the error.

    >>> _number(Estimate(0.87477, 0.0001, 2)), _number(Estimate(43.749, None, 1)), _number(Estimate(12345.6, 10.0, 2))
    ('0.875 ± 0.000', '43.7', '12,346 ± 10')
    """
    if estimate.mean is None:
        return words.MISSING
    places = sum(abs(estimate.mean) < limit for limit in (1, 10, 100))
    numbers = [estimate.mean] if estimate.error is None else [estimate.mean, estimate.error]
    return " ± ".join(f"{value:,.{places}f}" for value in numbers)


@dataclass(frozen=True)
class Measure:
    """A column of both tables. name: as the probe records it, by class in a list and as ``mean_`` over classes."""

    name: str
    heading: str
    meaning: str
    text: Callable[[Estimate], str] = percent_estimate


MEASURES: tuple[Measure, ...] = (
    Measure(
        "frechet",
        "Fréchet distance",
        "of the Gaussians with the moments of real and generated rows; 0 is best",
        _number,
    ),
    Measure("precision", "Precision", "share of generated rows that lie among real ones"),
    Measure("recall", "Recall", "share of real rows that lie among generated ones"),
    Measure("density", "Density", "real neighbourhoods around a generated row, about 1 where both are alike", _number),
    Measure("coverage", "Coverage", "share of real rows with a generated one in their neighbourhood"),
    Measure(
        "train_on_generated",
        "Learnt from generated",
        "accuracy on real rows of a classifier that saw generated rows alone",
    ),
    Measure(
        "train_on_real", "Learnt from real", "the reverse: share of generated rows that are what they were meant to be"
    ),
)


@dataclass(frozen=True)
class Quality:
    """The tables of a group: a row a class after task ``task`` (from 0), and a row a task of means over classes. rows: how many real
    rows of a class were looked at, from fewest to most. Where classes are met in several tasks, also after task ``task``, a row for each
    of the tasks that rows are of, of means over its classes, and a row a class of each."""

    task: int
    rows: str
    by_class: Table
    by_task: Table
    by_origin: Table = ()
    by_cell: Table = ()


@dataclass(frozen=True)
class Projection:
    """Rows in two dimensions, (n, 2), and the name of each one's class, (n,)."""

    task: int
    real: np.ndarray
    real_classes: np.ndarray
    generated: np.ndarray
    generated_classes: np.ndarray

    def of(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Real and generated rows of a class."""
        return self.real[self.real_classes == name], self.generated[self.generated_classes == name]


def quality(group: Group) -> Quality | None:
    """Means over seeds; None where no run has been measured. A class that one of the seeds could not measure has no mean."""
    findings = [_findings(record) for record in group.shown]
    tasks = sorted(set().union(*findings))
    if not tasks:
        return None
    rows = []
    for task in tasks:
        estimates = [
            Estimate.of([found[task].number(f"mean_{measure.name}") for found in findings if task in found])
            for measure in MEASURES
        ]
        rows.append((str(task + 1), _cells(estimates)))
    last = [
        _by_class(record, found[tasks[-1]])
        for record, found in zip(group.shown, findings, strict=True)
        if tasks[-1] in found
    ]
    names = list(dict.fromkeys(name for classes in last for name in classes))
    by_class = tuple(
        (name, _cells([Estimate.of([classes.get(name, {}).get(m.name) for classes in last]) for m in MEASURES]))
        for name in names
    )
    cells = [
        _by_cell(record, found[tasks[-1]])
        for record, found in zip(group.shown, findings, strict=True)
        if tasks[-1] in found
    ]
    places = sorted(
        set().union(*cells), key=lambda cell: (cell[0], names.index(cell[1]) if cell[1] in names else len(names))
    )
    by_cell = tuple(
        (
            f"{task + 1}, {name}",
            _cells([Estimate.of([each.get((task, name), {}).get(m.name) for each in cells]) for m in MEASURES]),
        )
        for task, name in places
    )
    by_origin = tuple(
        (str(task + 1), _cells([Estimate.of([_mean_of(each, task, m.name) for each in cells]) for m in MEASURES]))
        for task in sorted({task for task, _ in places})
    )
    counts = [count for found in findings if tasks[-1] in found for count in found[tasks[-1]].numbers_of("real_rows")]
    return Quality(tasks[-1], _range(counts), by_class, tuple(rows), by_origin, by_cell)


def projection(record: RunRecord) -> Projection | None:
    """That of the last task which has one. Raises StorageError."""
    for task in sorted(_findings(record), reverse=True):
        arrays = record.arrays(task, PROBE)
        if "real" not in arrays:
            continue
        path = record.array_path(task, PROBE)
        empty: dict[str, Any] = {"generated": np.empty((0, 2)), "generated_classes": np.empty(0, dtype=int)}
        arrays = {**empty, **arrays}
        for kind in ("real", "generated"):
            points, classes = arrays[kind], arrays.get(f"{kind}_classes")
            sound = points.ndim == 2 and points.shape[1] == 2 and np.isfinite(points).all()
            if not sound or classes is None or classes.shape != points.shape[:1] or classes.dtype.kind != "i":
                raise StorageError(
                    f"the saved projection is not as expected: {path} ({kind} must be (n, 2), finite, each with a class)"
                )
        names = {
            c: _name(record, c) for c in np.concatenate([arrays["real_classes"], arrays["generated_classes"]]).tolist()
        }
        real_classes, generated_classes = (
            np.array([names[c] for c in arrays[f"{kind}_classes"].tolist()], dtype=object)
            for kind in ("real", "generated")
        )
        return Projection(task, arrays["real"], real_classes, arrays["generated"], generated_classes)
    return None


def _findings(record: RunRecord) -> dict[int, FindingLine]:
    return {found.task: found for found in record.result.findings if found.probe == PROBE}


def _by_class(record: RunRecord, found: FindingLine) -> dict[str, dict[str, float]]:
    """The measures of each class, by the user's label."""
    classes: dict[str, dict[str, float]] = {_name(record, int(c)): {} for c in found.numbers_of("classes")}
    for measure in MEASURES:
        for name, value in zip(classes, found.numbers_of(measure.name), strict=False):
            classes[name][measure.name] = value
    return classes


def _by_cell(record: RunRecord, found: FindingLine) -> dict[tuple[int, str], dict[str, float]]:
    """The measures of each class in each task that its rows are of."""
    classes = [_name(record, int(c)) for c in found.numbers_of("origin_classes")]
    cells = list(zip(map(int, found.numbers_of("origin_tasks")), classes, strict=False))
    measures: dict[tuple[int, str], dict[str, float]] = {cell: {} for cell in cells}
    for measure in MEASURES:
        for cell, value in zip(cells, found.numbers_of(f"origin_{measure.name}"), strict=False):
            measures[cell][measure.name] = value
    return measures


def _mean_of(cells: Mapping[tuple[int, str], Mapping[str, float]], task: int, measure: str) -> float | None:
    """Over the classes of a task; None where none was measured."""
    values = [found[measure] for (origin, _), found in cells.items() if origin == task and measure in found]
    return float(np.mean(values)) if values else None


def _range(counts: list[float]) -> str:
    """
    >>> _range([36.0, 34.0]), _range([1000.0, 1000.0]), _range([])
    ('34 to 36', '1,000', 'no')
    """
    ends = sorted({min(counts), max(counts)}) if counts else []
    return " to ".join(words.whole(end) for end in ends) or "no"


def _name(record: RunRecord, c: int) -> str:
    known = record.result.classes
    return str(known[c]) if 0 <= c < len(known) else f"class {c}"


def _cells(estimates: list[Estimate]) -> tuple[str, ...]:
    return tuple(measure.text(estimate) for measure, estimate in zip(MEASURES, estimates, strict=True))
