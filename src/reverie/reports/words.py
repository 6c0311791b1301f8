"""How numbers are printed: one way, in tables, figures, alt texts and on the command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

MISSING = "–"
SCENARIOS = {"class": "class-incremental", "domain": "domain-incremental", "task": "task-incremental"}
STORES = {"none": "no data", "latents": "latent codes", "raw": "real rows"}


@dataclass(frozen=True)
class Estimate:
    """A mean over n seeds and its standard error: unbiased standard deviation / sqrt(n), None for n = 1."""

    mean: float | None
    error: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Estimate:
        """None among the values leaves no mean: a part of the seeds would not be the mean over seeds.

        >>> Estimate.of([1.0, 2.0])
        Estimate(mean=1.5, error=0.5, n=2)
        >>> Estimate.of([0.5])
        Estimate(mean=0.5, error=None, n=1)
        """
        known = [value for value in values if value is not None]
        if not known or len(known) < len(values):
            return cls(None, None, len(values))
        error = float(np.std(known, ddof=1) / np.sqrt(len(known))) if len(known) > 1 else None
        return cls(float(np.mean(known)), None if error is None else round(error, 12), len(known))


def percent(fraction: float | None) -> str:
    """
    >>> percent(0.8704)
    '87.0 %'
    """
    return MISSING if fraction is None else f"{_tenth(100 * fraction)} %"


def percent_estimate(estimate: Estimate) -> str:
    """
    >>> percent_estimate(Estimate(0.8704, 0.005, 3))
    '87.0 ± 0.5 %'
    """
    if estimate.mean is None or estimate.error is None:
        return percent(estimate.mean)
    return f"{_tenth(100 * estimate.mean)} ± {_tenth(100 * estimate.error)} %"


def number(value: float | None) -> str:
    """
    >>> number(0.009134), number(12345.6)
    ('0.00913', '12,346')
    """
    if value is None:
        return MISSING
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def number_estimate(estimate: Estimate) -> str:
    """Three digits of the mean, two of the error.

    >>> number_estimate(Estimate(0.009134, 0.00123, 3))
    '0.00913 ± 0.0012'
    """
    if estimate.mean is None or not estimate.error:
        return number(estimate.mean)
    return f"{number(estimate.mean)} ± {estimate.error:.2g}"


@dataclass(frozen=True)
class Quantity:
    """What the matrix of a run holds. mean: the name of its mean over tasks; matrices: that of the matrices; reading: what a column shows, and
    how forgetting looks."""

    name: str
    mean: str
    matrices: str
    reading: str
    text: Callable[[Estimate], str]


ACCURACY = Quantity(
    "accuracy",
    "average accuracy",
    "Accuracy matrices",
    "accuracy on a task, in percent. A method that forgets fades downwards.",
    percent_estimate,
)
SQUARED_ERROR = Quantity(
    "mean squared error",
    "mean squared error",
    "Error matrices",
    "mean squared error on a task, in squared units of the target: the stronger the colour the larger, on one scale for all. In a method that "
    "forgets it grows stronger downwards.",
    number_estimate,
)


def size(count: float | None) -> str:
    """
    >>> size(723624), size(512)
    ('707 KiB', '512 B')
    """
    if count is None:
        return MISSING
    unit = "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if abs(count) < 1024:
            break
        count, unit = count / 1024, larger
    return f"{count:.0f} {unit}" if unit == "B" or abs(count) >= 100 else f"{count:.1f} {unit}"


def whole(count: float | None) -> str:
    """
    >>> whole(10000)
    '10,000'
    """
    return MISSING if count is None else f"{count:,.0f}"


def operations(count: float | None) -> str:
    """
    >>> operations(2.05e13), operations(5.8e10)
    ('20.5 TFLOP', '58 GFLOP')
    """
    if count is None:
        return MISSING
    return f"{count / 1e12:.3g} TFLOP" if count >= 1e12 else f"{count / 1e9:.3g} GFLOP"


def duration(seconds: float | None) -> str:
    """
    >>> duration(15.42), duration(257), duration(7320)
    ('15.4 s', '4 min 17 s', '2 h 02 min')
    """
    if seconds is None:
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def with_error(estimate: Estimate, text: Callable[[float | None], str]) -> str:
    """Mean and standard error, each in its own unit; the error only where it does not round to nothing.

    >>> with_error(Estimate(15.0, 1.5, 2), duration), with_error(Estimate(15.0, 0.01, 2), duration)
    ('15.0 s ± 1.5 s', '15.0 s')
    """
    if estimate.error is None or text(estimate.error) == text(0):
        return text(estimate.mean)
    return f"{text(estimate.mean)} ± {text(estimate.error)}"


def seeds_text(n: int) -> str:
    """
    >>> seeds_text(1), seeds_text(5)
    ('one seed', 'mean of 5 seeds')
    """
    return "one seed" if n == 1 else f"mean of {n} seeds"


def plural(n: int, word: str) -> str:
    """
    >>> plural(1, "run"), plural(3, "run")
    ('1 run', '3 runs')
    """
    return f"{n:,} {word}" if n == 1 else f"{n:,} {word}s"


def listed(words: Sequence[str]) -> str:
    """
    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def _tenth(value: float) -> str:
    return f"{round(value, 1) + 0.0:.1f}"  # + 0.0: never "-0.0"
