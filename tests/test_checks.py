"""Errors are collected, raised together, and say what to try."""

from __future__ import annotations

import pytest

from reverie import checks
from reverie.checks import OptionsError, Problems, ReverieError, nearest


def test_no_problem_raises_nothing() -> None:
    problems = Problems()
    problems.check(True, "never said")
    problems.raise_as(OptionsError, "headline")
    assert problems.found == []


def test_all_problems_come_in_one_message() -> None:
    problems = Problems()
    problems.add("first")
    problems.check(False, "second")
    with pytest.raises(OptionsError, match=r"^these are wrong:\n  - first\n  - second$"):
        problems.raise_as(OptionsError, "these are wrong")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("vea", "did you mean 'vae'?"),
        ("oracel", "did you mean 'oracle'?"),
        ("zzz", "valid: oracle, vae"),
        (None, "valid: oracle, vae"),
    ],
)
def test_nearest_name_or_all_of_them(name: object, hint: str) -> None:
    assert nearest(name, ["vae", "oracle"]) == hint


def test_nearest_of_nothing() -> None:
    assert nearest("x", []) == "valid: none"


def test_every_error_is_the_user_s_and_has_an_exit_code() -> None:
    errors = [value for value in vars(checks).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert len(errors) == 6
    assert all(issubclass(error, ReverieError) and error.exit_code in (1, 2) for error in errors)
    # Bad values are also what Python calls them, so that ``except ValueError`` works.
    assert issubclass(checks.OptionsError, ValueError)
    assert issubclass(checks.DataError, ValueError)
