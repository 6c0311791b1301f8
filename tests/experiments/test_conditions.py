"""Numbers of runs by name, and conditions on them: hand-made results."""

from __future__ import annotations

import math
from typing import Any

import pytest

from reverie.experiments.conditions import VALUES, Condition, Result, judge, standard_error

SEEDS = (1, 2, 3)


def runs(*accuracies: float | None, **more: Any) -> dict[int, Result]:
    """A result a seed, with these accuracies in percent."""
    return {
        seed: {"average_accuracy": None if value is None else value / 100, **more}
        for seed, value in enumerate(accuracies, start=1)
    }


def reached(condition: Condition, *ours: float | None, theirs: tuple[float | None, ...] = ()) -> str:
    return judge(condition, runs(*ours), runs(*theirs), SEEDS).reached


# ------------------------------------------------------------------------------- values


def test_values_are_read_where_a_run_has_them() -> None:
    tasks = {
        "tgiven_during": 0.9,
        "tgiven_final": 0.8,
        "tinfer_final": {"entropy": 0.7, "entropy_in_batches": 0.95, "agreement": None},
        "task_inference_accuracy": {"entropy": 0.6},
    }
    one = {"average_accuracy": 0.5, "seconds": 7.0, "tasks": tasks}
    read = {name: value.read(one) for name, value in VALUES.items()}
    expected = {"accuracy": 50, "average": 50, "seconds": 7, "during": 90, "given": 80, "entropy": 70, "batches": 95}
    assert {k: v for k, v in read.items() if v is not None} == pytest.approx({**expected, "found": 60})
    assert VALUES["one head"].read({"average_accuracy": 0.5}) == 50


def test_values_of_regression() -> None:
    errors = {
        "mse_during": 0.01,
        "mse_final": 0.02,
        "mse_inferred": {"agreement": 0.03},
        "coverage_final": 0.9,
        "task_inference_accuracy": None,
    }
    one = {"average_accuracy": None, "seconds": 7.0, "errors": errors}
    read = {name: value.read(one) for name, value in VALUES.items()}
    expected = {"seconds": 7, "mse during": 0.01, "mse final": 0.02, "mse inferred": 0.03, "covered": 90}
    assert {k: v for k, v in read.items() if v is not None} == pytest.approx(expected)


def test_values_of_domains() -> None:
    domains = {"clusters": [0.7, 0.6], "learnt": 0.99, "error": [0.010, 0.012], "found": [1.0, 0.97]}
    one: dict[str, Any] = {"average_accuracy": 0.9, "accuracy": [0.96, 0.9, 0.84], "domains": domains}
    read = {name: value.read(one) for name, value in VALUES.items()}
    assert read["learnt"] == pytest.approx(99)
    assert (read["first"], read["earlier"], read["last"]) == pytest.approx((96, 93, 84))
    assert (read["first clusters"], read["last clusters"]) == pytest.approx((70, 60))
    assert (read["domain"], read["error learnt"], read["error"]) == pytest.approx((97, 0.010, 0.012))
    at_once = {**one, "domains": {"learnt": None, "error": [0.009]}}
    assert (
        VALUES["learnt"].read(at_once) is VALUES["error learnt"].read(at_once) is VALUES["domain"].read(at_once) is None
    )
    assert VALUES["error"].read(at_once) == 0.009


# ------------------------------------------------------------------------------- bounds


@pytest.mark.parametrize(
    ("low", "high", "ours", "answer"),
    [
        (50, math.inf, (49, 50, 51), "yes"),
        (50.1, math.inf, (49, 50, 51), "no"),
        (-math.inf, 50, (49, 50, 51), "yes"),
        (-math.inf, 49.9, (49, 50, 51), "no"),
        (49, 51, (49, 50, 51), "yes"),
        (0, 100, (49, 50), "not yet"),
        (0, 100, (), "not yet"),
        (0, 100, (49, None, 51), "not yet"),
    ],
)
def test_the_mean_lies_in_bounds_once_all_seeds_are_there(
    low: float, high: float, ours: tuple[float | None, ...], answer: str
) -> None:
    assert reached(Condition("a", "accuracy", low, high), *ours) == answer


def test_the_median_leaves_one_bad_seed_out_and_shows_it() -> None:
    assert reached(Condition("a", "accuracy", 90), 95, 96, 20) == "no"
    verdict = judge(Condition("a", "accuracy", 90, median=True), runs(95, 96, 20), {}, SEEDS)
    assert (verdict.found, verdict.reached) == ("95.00 (seed by seed: 95.00, 96.00, 20.00)", "yes")


def test_a_difference_is_taken_seed_by_seed() -> None:
    """Over the seeds each spreads by 10 points, their difference not at all."""
    condition = Condition("a", "accuracy", 2, minus="b")
    verdict = judge(condition, runs(52, 62, 72), runs(50, 60, 70), SEEDS)
    assert (verdict.found, verdict.seeds, verdict.reached) == ("2.00 ± 0.00", "3/3", "yes")
    assert reached(condition, 52, 62, 72, theirs=(50, 60, 70.1)) == "no"
    assert reached(condition, 52, 62, 72, theirs=(50, 60)) == "not yet"


def test_a_difference_may_be_of_two_values_of_one_run() -> None:
    results = runs(95, 95, 95, tasks={"tgiven_final": 0.9})
    verdict = judge(Condition("a", "accuracy", 5, minus="a", other="given"), results, results, SEEDS)
    assert (verdict.found, verdict.reached) == ("5.00 ± 0.00", "yes")


def test_a_ratio_is_of_positive_numbers() -> None:
    condition = Condition("a", "accuracy", 0.85, over="b")
    verdict = judge(condition, runs(80, 40, 60), runs(100, 50, 60), SEEDS)
    assert (verdict.found, verdict.reached) == ("0.87 ± 0.07", "yes")
    assert reached(condition, 80, 40, 60, theirs=(100, 0, 60)) == "not yet"


@pytest.mark.parametrize(
    ("errors", "ours", "answer"),
    [
        (1, (1, 2, 3), "yes"),  # mean 2, standard error 0.58
        (4, (1, 2, 3), "no"),
        (1, (-1, 0, 2), "no"),  # mean 0.33, standard error 0.88
        (0, (-1, 0, 2), "yes"),
        (0, (-2, 0, 1), "no"),
        (-1, (-2, 0, 1), "yes"),  # mean -0.33
        (-1, (-3, -2, -1), "no"),
        (1, (0, 0, 0), "no"),  # equal is not above
        (-1, (0, 0, 0), "yes"),
    ],
)
def test_standard_errors_widen_or_narrow_the_bounds(errors: float, ours: tuple[float, ...], answer: str) -> None:
    condition = Condition("a", "accuracy", 0, minus="b", errors=errors)
    assert reached(condition, *(50 + value for value in ours), theirs=(50, 50, 50)) == answer


def test_one_seed_has_no_standard_error_to_go_by() -> None:
    assert judge(Condition("a", "accuracy", 0, errors=1), runs(50), {}, (1,)).reached == "not yet"
    assert judge(Condition("a", "accuracy", 0), runs(50), {}, (1,)).reached == "yes"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"low": 95}, "at least 95"),
        ({"high": 0.03}, "at most 0.03"),
        ({"low": 19, "high": 21}, "19 to 21"),
        ({"low": 95, "median": True}, "median at least 95"),
        ({"low": 98.5, "stretch": True}, "stretch: at least 98.5"),
        ({"low": 0, "errors": 1}, "above 0 by more than the standard error"),
        ({"high": 0, "errors": 2}, "below 0 by more than 2 standard errors"),
        ({"low": 0, "errors": -1}, "at least 0, within the standard error"),
    ],
)
def test_bounds_in_words(options: dict[str, Any], text: str) -> None:
    assert Condition("a", "accuracy", **options).bounds == text


def test_the_standard_error_is_unbiased() -> None:
    assert standard_error([1.0, 2.0, 3.0]) == pytest.approx(1 / math.sqrt(3))
    assert standard_error([1.0]) is None
