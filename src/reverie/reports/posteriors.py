"""What is known of learners with a model a task: how well they infer it, and what probes found of their models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reverie.checks import StorageError
from reverie.reports import tables
from reverie.reports.records import RunRecord
from reverie.reports.tables import Group
from reverie.reports.words import Estimate, number_estimate, percent_estimate

INFERENCE, PLANE, FAN = "task-inference", "plane", "regression-fan"
BATCHES = "_in_batches"


@dataclass(frozen=True)
class Column:
    """Of the table of task inference. name: that of its values in a line."""

    name: str
    heading: str
    meaning: str
    text: Callable[[Estimate], str] = percent_estimate


@dataclass(frozen=True)
class InferenceTable:
    """rows: a group and its lines, which say whence the task is known, with a cell a column; empty where a column says nothing of that."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, tuple[tuple[str, tuple[str, ...]], ...]], ...]


@dataclass(frozen=True)
class Entropies:
    """Of a group after task ``task`` (from 0). entropy: (N, T) of test sets under models, and confusions: (T, T) shares of each task's rows by
    inferred task, means over n seeds. histogram_in, histogram_out: (N, bins) rows by entropy of their own and of the other models, of ``seed``.
    """

    task: int
    n: int
    entropy: np.ndarray
    confusions: Mapping[str, np.ndarray]
    seed: int
    histogram_in: np.ndarray
    histogram_out: np.ndarray


@dataclass(frozen=True)
class Plane:
    """What T models say on a grid of inputs, as the probe saved it; the last axes are (second, first). samples is empty where there is none."""

    task: int
    seed: int
    classes: tuple[str, ...]
    first: np.ndarray
    second: np.ndarray
    entropy: np.ndarray
    answers: np.ndarray  # (T, G, G)
    samples: np.ndarray  # (V, T, G, G)
    answer: np.ndarray  # (G, G), the model inferred
    bayes: np.ndarray
    x: np.ndarray  # (M, 2) test rows, with classes y and tasks
    y: np.ndarray
    tasks: np.ndarray


@dataclass(frozen=True)
class Fan:
    """Predictions (models, G) of regression along ``grid`` (G,), with deviations; the rows learnt so far (M,); and truth (tasks, G), NaN outside
    a task's interval."""

    task: int
    seed: int
    grid: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray
    train_x: np.ndarray
    train_y: np.ndarray
    train_task: np.ndarray
    truth: np.ndarray

    @property
    def tasks(self) -> list[int]:
        """Learnt so far (from 0)."""
        found: list[int] = np.unique(self.train_task).tolist()
        return found


# ------------------------------------------------------------------------------------------ the table


ACCURACY = (
    Column("result", "Accuracy", "mean over tasks, after the last one unless it says otherwise"),
    Column(
        "result_in_batches", "Accuracy in batches", "the same where 100 rows of a task are known to belong together"
    ),
)
ERROR = (
    Column(
        "result", "Mean squared error", "mean over tasks, after the last one unless it says otherwise", number_estimate
    ),
    Column(
        "result_in_batches",
        "Error in batches",
        "the same where 100 rows of a task are known to belong together",
        number_estimate,
    ),
)
OTHERS = (
    Column("found", "Task found", "share of test rows whose task is inferred"),
    Column("found_in_batches", "Task found in batches", "the same for 100 rows of a task at once"),
    Column(
        "calibration",
        "Calibration error",
        "by how much confidence and accuracy differ, in bins of confidence (ECE); 0 is best",
    ),
    Column(
        "auroc",
        "AUROC",
        "how well entropies of a task's own model are told from those of other models on the same rows; 50 % by chance",
    ),
)


def inference_table(groups: Sequence[Group]) -> InferenceTable | None:
    """Of the groups with complete runs that infer tasks, without columns that nothing is known of; None where there is no such group."""
    lines = {group.label: _lines(group) for group in groups if _criteria(group.complete)}
    if not lines:
        return None
    known = {
        name
        for of_group in lines.values()
        for _, values in of_group
        for name, value in values.items()
        if value.mean is not None
    }
    every = (*(ERROR if groups[0].regression else ACCURACY), *OTHERS)
    columns = tuple(column for column in every if column.name in known)

    def cells(values: Mapping[str, Estimate]) -> tuple[str, ...]:
        return tuple(column.text(values[column.name]) if column.name in values else "" for column in columns)

    rows = tuple(
        (label, tuple((name, cells(values)) for name, values in of_group)) for label, of_group in lines.items()
    )
    return InferenceTable(columns, rows)


def _lines(group: Group) -> list[tuple[str, dict[str, Estimate]]]:
    """Whence the task is known, and what follows, by column."""
    during, final, inferred = (
        ("mse_during", "mse_final", "mse_inferred")
        if group.regression
        else ("tgiven_during", "tgiven_final", "tinfer_final")
    )

    def over_seeds(value: Callable[[RunRecord], float | None]) -> Estimate:
        return Estimate.of([value(record) for record in group.complete])

    def probed(name: str) -> Estimate:
        return tables.finding_estimate(group, group.tasks - 1, INFERENCE, name) or Estimate(None, None, 0)

    def by(summary: str, name: str) -> Estimate:
        return over_seeds(lambda record: record.result.by_criterion(summary).get(name))

    lines = [
        ("given, just after learning", {"result": over_seeds(lambda record: record.result.number(during))}),
        (
            "given",
            {
                "result": over_seeds(lambda record: record.result.number(final)),
                "calibration": probed("calibration_error_given"),
            },
        ),
    ]
    for criterion in _criteria(group.complete):
        values = {
            "result": by(inferred, criterion),
            "result_in_batches": by(inferred, f"{criterion}{BATCHES}"),
            "found": by("task_inference_accuracy", criterion),
            "found_in_batches": by("task_inference_accuracy", f"{criterion}{BATCHES}"),
            "calibration": probed(f"calibration_error_inferred_by_{criterion}"),
        }
        if criterion == "entropy":
            values["auroc"] = probed("mean_auroc")
        lines.append((f"inferred by {criterion}", values))
    return lines


def _criteria(records: Sequence[RunRecord]) -> list[str]:
    """In the order in which they are saved."""
    names = [
        name
        for record in records
        for summary in ("task_inference_accuracy", "mse_inferred")
        for name in record.result.by_criterion(summary)
    ]
    return list(dict.fromkeys(name for name in names if not name.endswith(BATCHES)))


# ------------------------------------------------------------------------------------------ arrays


def entropies(group: Group) -> Entropies | None:
    """After the last task that all seeds have been looked at after. Raises StorageError."""
    tasks = [_tasks(record, INFERENCE) for record in group.shown]
    common = set.intersection(*map(set, tasks))
    saved = [(record, record.arrays(max(common), INFERENCE)) for record in group.shown] if common else []
    if not saved or not all(arrays for _, arrays in saved):
        return None
    task = max(common)
    checked = [_checked(record, task, INFERENCE, arrays, INFERENCE_SHAPES) for record, arrays in saved]
    shapes = {arrays["entropy"].shape for arrays in checked}
    if len(shapes) > 1:
        return None
    confusions = {
        criterion: np.mean([_shares(arrays[f"confusion_by_{criterion}"]) for arrays in checked], axis=0)
        for criterion in _criteria(group.shown)
        if all(f"confusion_by_{criterion}" in arrays for arrays in checked)
    }
    return Entropies(
        task,
        len(checked),
        np.mean([arrays["entropy"] for arrays in checked], axis=0),
        confusions,
        saved[0][0].result.seed,
        checked[0]["histogram_in"],
        checked[0]["histogram_out"],
    )


def plane(group: Group) -> Plane | None:
    """Of the first seed that has it, after its last task. Raises StorageError."""
    for record, task, arrays in _saved(group, PLANE, PLANE_SHAPES):
        classes = tuple(str(name) for name in record.result.classes)
        used = np.concatenate([arrays[name].ravel() for name in ("classes", "samples", "answer", "bayes", "y")])
        if used.min(initial=0) < 0 or used.max(initial=0) >= len(classes):
            raise _unexpected(record, task, PLANE, "a class that the run does not have")
        return Plane(
            task,
            record.result.seed,
            classes,
            **{name: arrays[name] for name in ("first", "second", "entropy", "samples", "answer", "bayes", "x", "y")},
            answers=arrays["classes"],
            tasks=arrays["task"],
        )
    return None


def fans(group: Group) -> list[Fan]:
    """Of the first seed that has some, after each task. Raises StorageError."""
    found: list[Fan] = []
    for record, task, arrays in _saved(group, FAN, FAN_SHAPES):
        learnt = np.unique(arrays["train_task"])
        if len(learnt) and (learnt[0] < 0 or learnt[-1] >= len(arrays["truth"])):
            raise _unexpected(record, task, FAN, "train_task has a task that truth has no row of")
        if len(arrays["mean"]) not in (1, *(learnt[-1:] + 1)):
            raise _unexpected(record, task, FAN, "mean must have one row, or one a task")
        if found and found[0].seed != record.result.seed:
            break
        found.insert(0, Fan(task, record.result.seed, **arrays))
    return found


# dimensions of each array by name; equal letters are equal lengths
INFERENCE_SHAPES = {"entropy": "nt", "histogram_in": "nb", "histogram_out": "nb"}
PLANE_SHAPES = {
    "first": "u",
    "second": "v",
    "entropy": "tvu",
    "classes": "tvu",
    "samples": "stvu",
    "answer": "vu",
    "bayes": "vu",
    "x": "m2",
    "y": "m",
    "task": "m",
}
FAN_SHAPES = {
    "grid": "g",
    "mean": "tg",
    "deviation": "tg",
    "truth": "kg",
    "train_x": "m",
    "train_y": "m",
    "train_task": "m",
}
MAY_BE_UNDEFINED = ("truth",)


def _tasks(record: RunRecord, probe: str) -> list[int]:
    return [found.task for found in record.result.findings if found.probe == probe]


def _saved(
    group: Group, probe: str, shapes: Mapping[str, str]
) -> Iterator[tuple[RunRecord, int, dict[str, np.ndarray]]]:
    """What a probe saved, by seed, from the last task to the first."""
    for record in group.shown:
        for task in sorted(_tasks(record, probe), reverse=True):
            if arrays := record.arrays(task, probe):
                yield record, task, _checked(record, task, probe, arrays, shapes)


def _checked(
    record: RunRecord, task: int, probe: str, arrays: Mapping[str, np.ndarray], shapes: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """The arrays as they should be."""
    lengths = {"2": 2}
    found = dict(arrays)
    if "samples" in shapes and "samples" not in found and "classes" in found:
        found["samples"] = np.empty((0, *found["classes"].shape), dtype=np.int64)
    for name, letters in shapes.items():
        array = found.get(name)
        if array is None or array.ndim != len(letters):
            raise _unexpected(record, task, probe, f"{name} must have {len(letters)} dimensions")
        for letter, length in zip(letters, array.shape, strict=True):
            if lengths.setdefault(letter, length) != length:
                raise _unexpected(
                    record, task, probe, f"{name} has the shape {array.shape}, which the others do not fit"
                )
        if name not in MAY_BE_UNDEFINED and not np.isfinite(array).all():
            raise _unexpected(record, task, probe, f"{name} must be finite")
    return {name: array for name, array in found.items() if name in shapes or name.startswith("confusion_by_")}


def _unexpected(record: RunRecord, task: int, probe: str, what: str) -> StorageError:
    return StorageError(f"the saved arrays are not as expected: {record.array_path(task, probe)} ({what})")


def _shares(counts: np.ndarray) -> np.ndarray:
    """Of each row; of an empty one zeros."""
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
