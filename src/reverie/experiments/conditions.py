"""What a table is to show: numbers of runs by name, and conditions on them that are decided from the results."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Result = Mapping[str, Any]  # of one run, as the results file keeps it


# ------------------------------------------------------------------------------- numbers of a run


@dataclass(frozen=True)
class Value:
    """A number of a run. title: of its column; read: None where the run does not have it; digits: after the point."""

    title: str
    read: Callable[[Result], float | None]
    digits: int = 2


def _at(
    *path: str, of: Callable[[Any], float | None] = lambda found: found, scale: float = 100.0
) -> Callable[[Result], float | None]:
    """What ``of`` makes of what lies there in a result; as a rule a share, in %."""

    def read(result: Result) -> float | None:
        found: Any = result
        for name in path:
            found = (found or {}).get(name)
        number = None if found is None else of(found)
        return None if number is None else scale * number

    return read


def _ended(row: Sequence[float]) -> float | None:
    """Of the tasks before the last one."""
    return statistics.fmean(row[:-1]) if len(row) > 1 else None


_ERRORS = ("domains", "error")  # of reconstructing the first data set, after each task

VALUES: Mapping[str, Value] = {
    "accuracy": Value("accuracy, %", _at("average_accuracy")),
    "gap": Value("generator gap", _at("gap")),
    "seconds": Value("seconds a run", _at("seconds", scale=1.0), 0),
    # with a model a task
    "during": Value("TGiven, during", _at("tasks", "tgiven_during")),
    "given": Value("TGiven, final", _at("tasks", "tgiven_final")),
    "entropy": Value("TInfer, entropy", _at("tasks", "tinfer_final", "entropy")),
    "agreement": Value("TInfer, agreement", _at("tasks", "tinfer_final", "agreement")),
    "batches": Value("TInfer, in batches", _at("tasks", "tinfer_final", "entropy_in_batches")),
    "one head": Value("one head", lambda result: None if "tasks" in result else VALUES["accuracy"].read(result)),
    "found": Value("task found, entropy", _at("tasks", "task_inference_accuracy", "entropy")),
    # of regression
    "mse during": Value("MSE, during", _at("errors", "mse_during", scale=1.0), 4),
    "mse final": Value("MSE, final", _at("errors", "mse_final", scale=1.0), 4),
    "mse inferred": Value("MSE, inferred", _at("errors", "mse_inferred", "agreement", scale=1.0), 4),
    "found by agreement": Value("task found, %", _at("errors", "task_inference_accuracy", "agreement"), 1),
    "covered": Value("covered, %", _at("errors", "coverage_final"), 1),
    # of data sets met one after another; learnt all at once, nothing is known of the time before the end
    "learnt": Value("first, learnt", _at("domains", "learnt")),
    "first": Value("first, end", _at("accuracy", of=lambda row: row[0])),
    "earlier": Value("all but the last, end", _at("accuracy", of=_ended)),
    "last": Value("last, end", _at("accuracy", of=lambda row: row[-1])),
    "average": Value("average, end", _at("average_accuracy")),
    "domain": Value("domain", _at("domains", "found", of=min)),
    "first clusters": Value("first, categories matched", _at("domains", "clusters", of=lambda row: row[0])),
    "last clusters": Value("last, categories matched", _at("domains", "clusters", of=lambda row: row[-1])),
    "error learnt": Value(
        "error, learnt", _at(*_ERRORS, of=lambda row: row[0] if len(row) > 1 else None, scale=1.0), 4
    ),
    "class asked": Value("class as asked", _at("judged", "replay", "class")),
    "domain asked": Value("domain as asked", _at("judged", "replay", "domain")),
    "class drawn": Value("generated, class as asked", _at("judged", "generated", "class")),
    "domain drawn": Value("generated, domain as asked", _at("judged", "generated", "domain")),
    "judge": Value("judge, first", _at("judged", "judge", of=lambda row: row[0]["class"])),
    "error": Value("error, end", _at(*_ERRORS, of=lambda row: row[-1], scale=1.0), 4),
}


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    return sum(values) / len(values), standard_error(values)


def standard_error(values: Sequence[float]) -> float | None:
    """Unbiased standard deviation over the square root of n; None for a single value."""
    if len(values) < 2:
        return None
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))


# ------------------------------------------------------------------------------- conditions on them


@dataclass(frozen=True)
class Condition:
    """Bounds on a value of an entry: the mean over the seeds, or the median, is to lie in them, ends included.

    minus, over: an entry; what counts is then, seed by seed, the value less that one's, or divided by that one's, which is positive. other: the
    value that is taken of it, where it is not the same. errors: so many standard errors the mean is to keep from the bounds, or, below 0, may miss
    them by. scenario: where the entry has several. stretch: more than has to be reached. reason: why it is not reached, where that is known.
    """

    entry: str
    value: str
    low: float = -math.inf
    high: float = math.inf
    minus: str = ""
    over: str = ""
    other: str = ""
    median: bool = False
    errors: float = 0.0
    scenario: str = ""
    stretch: bool = False
    reason: str = ""

    @property
    def beside(self) -> str:
        """The entry that this one is compared with; empty where there is none."""
        return self.minus or self.over

    @property
    def bounds(self) -> str:
        """In words."""
        if self.low > -math.inf and self.high < math.inf:
            text = f"{self.low:g} to {self.high:g}"
        elif self.errors > 0:
            text = f"above {self.low:g}" if self.low > -math.inf else f"below {self.high:g}"
        else:
            text = f"at least {self.low:g}" if self.low > -math.inf else f"at most {self.high:g}"
        count = "the standard error" if abs(self.errors) == 1 else f"{abs(self.errors):g} standard errors"
        text += f" by more than {count}" if self.errors > 0 else f", within {count}" if self.errors else ""
        return f"{'stretch: ' if self.stretch else ''}{'median ' if self.median else ''}{text}"


@dataclass(frozen=True)
class Verdict:
    """What was found, over how many of the seeds, and whether that is enough; not before all seeds are there."""

    found: str
    seeds: str
    reached: Literal["yes", "no", "not yet"]


def judge(
    condition: Condition, ours: Mapping[int, Result], theirs: Mapping[int, Result], seeds: Sequence[int]
) -> Verdict:
    """ours, theirs: results by seed, of the entry and of that beside it, which is not looked at where there is none. seeds: those that count."""
    numbers = [n for seed in seeds if (n := _number(condition, ours.get(seed), theirs.get(seed))) is not None]
    count = f"{len(numbers)}/{len(seeds)}"
    if not numbers:
        return Verdict("-", count, "not yet")
    digits = VALUES[condition.value].digits
    mean, error = mean_and_error(numbers)
    found = pm((mean, error), digits)
    if condition.median:
        mean = statistics.median(numbers)
        found = f"{mean:.{digits}f} (seed by seed: {', '.join(f'{number:.{digits}f}' for number in numbers)})"
    if len(numbers) < len(seeds) or (condition.errors and error is None):
        return Verdict(found, count, "not yet")
    room = condition.errors * (error or 0.0)
    reached = condition.low + room <= mean <= condition.high - room
    if condition.errors > 0:  # equal on every seed is not above
        reached = condition.low + room < mean < condition.high - room
    return Verdict(found, count, "yes" if reached else "no")


def _number(condition: Condition, ours: Result | None, theirs: Result | None) -> float | None:
    """Of one seed."""
    number = None if ours is None else VALUES[condition.value].read(ours)
    if not condition.beside or number is None:
        return number
    other = None if theirs is None else VALUES[condition.other or condition.value].read(theirs)
    if other is None or (condition.over and other <= 0):
        return None
    return number - other if condition.minus else number / other


def pm(value: tuple[float, float | None] | None, digits: int = 2, sign: str = "") -> str:
    """Mean ± standard error; sign: "+" shows that of a positive mean too."""
    if value is None:
        return "-"
    mean, error = value
    shown = f"{mean:{sign}z.{digits}f}"
    return shown if error is None else f"{shown} ± {error:.{digits}f}"
