"""Errors that tell the user what to do, and the argument checks that raise them.

Every message says the name, the value, the rule and what to try. Problems are collected first and raised
together, so that one attempt shows everything that is wrong.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class ReverieError(Exception):
    """Base of every error that Reverie raises on purpose; its text is meant for the user.

    exit_code: of the command; 2 before work has started, 1 once it has.
    """

    exit_code = 2


class OptionsError(ReverieError, ValueError):
    """One or more options are unknown, out of range or contradict one another."""


class DataError(ReverieError, ValueError):
    """Data do not keep the rules: wrong shape, dtype, labels, not finite, missing or corrupt file."""


class StorageError(ReverieError):
    """A saved file is missing, damaged, of a newer schema, or cannot be written."""


class NotReadyError(ReverieError, RuntimeError):
    """A part was used before it could answer: an untrained generator, an empty buffer, a missing task."""


class TrainingError(ReverieError, RuntimeError):
    """Training cannot go on: a loss stopped being finite."""


class Problems:
    """Collects what is wrong and raises it all at once.

    >>> problems = Problems()
    >>> problems.add("steps = 0: must be at least 1")
    >>> problems.raise_as(OptionsError, "these options cannot be used")
    Traceback (most recent call last):
    ...
    reverie.checks.OptionsError: these options cannot be used: steps = 0: must be at least 1
    """

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, problem: str) -> None:
        self.found.append(problem)

    def check(self, rule_holds: bool, problem: str) -> None:
        """Adds ``problem`` unless the rule holds."""
        if not rule_holds:
            self.found.append(problem)

    def raise_as(self, error: type[ReverieError], headline: str) -> None:
        """Raises ``error`` with every problem found; does nothing if there is none."""
        if len(self.found) == 1:
            raise error(f"{headline}: {self.found[0]}")
        if self.found:
            raise error("\n".join([f"{headline}:", *(f"  - {problem}" for problem in self.found)]))


def nearest(name: object, valid: Iterable[str]) -> str:
    """A hint that names the valid name closest to ``name``, or else all of them.

    >>> nearest("generativ-replay", ["naive", "generative-replay"])
    "did you mean 'generative-replay'?"
    """
    choices: Sequence[str] = sorted(valid)
    close = difflib.get_close_matches(str(name), choices, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"valid: {', '.join(choices) or 'none'}"
