"""The measures on matrices worked out by hand, and what must hold for any matrix."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reverie import metrics
from reverie.metrics import (
    as_matrix,
    average_accuracy,
    average_incremental_accuracy,
    backward_transfer,
    forgetting,
    forward_transfer,
    learning_accuracy,
    summary,
    task_summary,
)

N = None
FULL = [[0.9, 0.2, 0.1], [0.6, 0.8, 0.3], [0.7, 0.5, 0.6]]
LOWER = [[0.9, N, N], [0.6, 0.8, N], [0.7, 0.5, 0.6]]
INITIAL = [0.1, 0.1, 0.2]

squares = st.integers(2, 5).flatmap(
    lambda n: st.lists(st.lists(st.floats(0, 1), min_size=n, max_size=n), min_size=n, max_size=n)
)


def test_a_matrix_by_hand() -> None:
    assert summary(as_matrix(FULL), INITIAL, "domain") == {
        "average_accuracy": pytest.approx((0.7 + 0.5 + 0.6) / 3),
        "forgetting": pytest.approx(((0.9 - 0.7) + (0.8 - 0.5)) / 2),
        "backward_transfer": pytest.approx(((0.7 - 0.9) + (0.5 - 0.8)) / 2),
        "forward_transfer": pytest.approx(((0.2 - 0.1) + (0.3 - 0.2)) / 2),
        "learning_accuracy": pytest.approx((0.9 + 0.8 + 0.6) / 3),
        "average_incremental_accuracy": pytest.approx((0.9 + (0.6 + 0.8) / 2 + (0.7 + 0.5 + 0.6) / 3) / 3),
    }


def test_only_tasks_seen_are_evaluated_as_a_rule() -> None:
    """Everything but forward transfer needs the lower triangle alone."""
    lower, full = (summary(as_matrix(rows), INITIAL, "domain") for rows in (LOWER, FULL))
    assert lower.pop("forward_transfer") is None
    assert full.pop("forward_transfer") is not None
    assert lower == full


def test_forgetting_looks_at_the_best_after_the_task_was_taught_and_before_the_last() -> None:
    R = as_matrix([[0.5, 0.99, N], [0.9, 0.7, N], [0.6, 0.8, 0.4]])
    assert forgetting(R) == pytest.approx(((0.9 - 0.6) + (0.7 - 0.8)) / 2)  # 0.99 came before its task: no memory of it
    assert backward_transfer(R) == pytest.approx(((0.6 - 0.5) + (0.8 - 0.7)) / 2)


def test_forgetting_is_negative_where_the_last_row_is_the_best() -> None:
    assert forgetting(as_matrix([[0.5, N], [0.8, 0.9]])) == pytest.approx(-0.3)


def test_one_task_has_no_transfer() -> None:
    assert summary(as_matrix([[0.8]]), [0.1], "domain") == {
        "average_accuracy": 0.8,
        "forgetting": None,
        "backward_transfer": None,
        "forward_transfer": None,
        "learning_accuracy": 0.8,
        "average_incremental_accuracy": 0.8,
    }


def test_joint_training_has_one_row_of_many_columns() -> None:
    found = summary(as_matrix([[0.9, 0.7]]), [0.5, 0.5], "domain")
    assert found.pop("average_accuracy") == pytest.approx(0.8)
    assert set(found.values()) == {None}


def test_a_run_that_ended_early_has_fewer_rows_than_columns() -> None:
    found = summary(as_matrix([[0.9, N, N], [0.6, 0.8, N]]), None, "class")
    assert set(found.values()) == {None}


def test_nothing_at_all() -> None:
    assert set(summary(as_matrix([]), None, "class").values()) == {None}


@pytest.mark.parametrize("initial", [None, [0.1, None, 0.2]])
def test_forward_transfer_needs_the_accuracy_before_training(initial: list[float | None] | None) -> None:
    assert forward_transfer(as_matrix(FULL), initial, "task") is None


def test_forward_transfer_is_undefined_where_untaught_classes_are_never_predicted() -> None:
    assert forward_transfer(as_matrix(FULL), INITIAL, "class") is None
    assert forward_transfer(as_matrix(FULL), INITIAL, "task") is not None


def test_the_accuracy_before_the_first_task_is_not_needed() -> None:
    assert forward_transfer(as_matrix(FULL), [None, 0.1, 0.2], "task") == pytest.approx(0.1)


@pytest.mark.parametrize(("row", "column"), [(2, 0), (2, 1), (0, 0)])
def test_a_hole_makes_undefined_what_looks_at_it_and_nothing_else(row: int, column: int) -> None:
    rows = [list(values) for values in LOWER]
    rows[row][column] = None
    found = summary(as_matrix(rows), None, "class")
    assert found["forgetting"] is None
    assert found["backward_transfer"] is None
    assert (found["average_accuracy"] is None) is (row == 2)
    assert (found["learning_accuracy"] is None) is (row == column)


@settings(max_examples=60, deadline=None)
@given(squares)
def test_identities_and_bounds(rows: list[list[float]]) -> None:
    R = as_matrix(rows)
    acc, aia, la, f, bwt = (
        function(R)
        for function in (
            average_accuracy,
            average_incremental_accuracy,
            learning_accuracy,
            forgetting,
            backward_transfer,
        )
    )
    assert None not in (acc, aia, la, f, bwt)
    assert all(0 <= value <= 1 + 1e-12 for value in (acc, aia, la))  # type: ignore[operator]
    assert -1 <= f <= 1  # type: ignore[operator]
    assert -1 <= bwt <= 1  # type: ignore[operator]
    assert f >= -bwt - 1e-12  # type: ignore[operator]
    # The last task is never forgotten: ACC = LA + (T - 1) / T * BWT.
    T = len(R)
    assert acc == pytest.approx(la + (T - 1) / T * bwt)  # type: ignore[operator]
    if T == 2:
        assert f == pytest.approx(-bwt)  # type: ignore[operator]


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 6), st.floats(0, 1))
def test_a_constant_matrix_forgets_nothing(n: int, value: float) -> None:
    found = summary(np.full((n, n), value), [value] * n, "domain")
    for name in ("forgetting", "backward_transfer", "forward_transfer"):
        assert found[name] == pytest.approx(0, abs=1e-12)
    for name in ("average_accuracy", "learning_accuracy", "average_incremental_accuracy"):
        assert found[name] == pytest.approx(value)


@settings(max_examples=20, deadline=None)
@given(squares, st.floats(0, 0.5))
def test_what_is_lost_in_the_end_is_forgotten(rows: list[list[float]], loss: float) -> None:
    """Lowering old tasks in the last row by d raises forgetting by d and lowers backward transfer by d."""
    R = as_matrix(rows)
    worse = R.copy()
    worse[-1, :-1] -= loss
    assert forgetting(worse) == pytest.approx(forgetting(R) + loss)  # type: ignore[operator]
    assert backward_transfer(worse) == pytest.approx(backward_transfer(R) - loss)  # type: ignore[operator]


def test_values_are_plain_numbers_for_json() -> None:
    found = summary(as_matrix(LOWER), INITIAL, "domain")
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert all(type(value) in (float, type(None)) for value in found.values())


def test_nested_lists_become_a_matrix() -> None:
    R = as_matrix([[0.5, None], [0.25, 1]])
    assert R.dtype == np.float64
    assert np.isnan(R[0, 1])
    assert R[1].tolist() == [0.25, 1.0]


HAND = np.array([[0.9, 0.2, 0.1], [0.6, 0.8, 0.3], [0.5, 0.4, 0.7]])


def test_further_measures_by_hand() -> None:
    assert metrics.relative_forgetting(HAND) == pytest.approx((0.4 / 0.9 + 0.4 / 0.8) / 2)
    assert metrics.average_of_seen(HAND) == pytest.approx((0.9 + 0.6 + 0.8 + 0.5 + 0.4 + 0.7) / 6)
    transfer = (-0.3 - 0.4 - 0.4) / 3
    assert metrics.mean_backward_transfer(HAND) == pytest.approx(transfer)
    assert metrics.remembering(HAND) == pytest.approx(1 + transfer)
    assert metrics.positive_backward_transfer(HAND) == 0
    assert metrics.positive_backward_transfer(np.array([[0.5, 0.0], [0.75, 0.5]])) == pytest.approx(0.25)
    assert metrics.mean_forward_transfer(HAND, "domain") == pytest.approx(0.2)
    assert metrics.mean_forward_transfer(HAND, "class") is None
    assert metrics.intransigence(HAND, [0.95, 0.9, 0.9]) == pytest.approx([0.05, 0.1, 0.2])
    assert metrics.omega_all(HAND, [1.0, 1.0, 0.8]) == pytest.approx((0.9 + 0.7 + (1.6 / 3) / 0.8) / 3)
    curve = [[0.9, None], [0.4, 0.6], [0.8, 0.7]]
    assert metrics.average_anytime_accuracy(curve) == pytest.approx((0.9 + 0.5 + 0.75) / 3)
    assert metrics.minimum_accuracy(curve, [0, 2]) == pytest.approx((0.4 + 0.7) / 2)


def test_further_measures_where_they_are_undefined() -> None:
    joint = np.array([[0.9, 0.8]])
    for measure in (
        metrics.relative_forgetting,
        metrics.average_of_seen,
        metrics.mean_backward_transfer,
        metrics.remembering,
    ):
        assert measure(joint) is None
    assert metrics.positive_backward_transfer(joint) is None
    assert metrics.mean_forward_transfer(np.array([[0.9, np.nan], [0.8, 0.7]]), "domain") is None
    assert metrics.intransigence(joint, [1.0]) == [None]
    assert metrics.omega_all(HAND, [1.0]) is None
    assert metrics.relative_forgetting(np.zeros((2, 2))) is None
    assert metrics.average_anytime_accuracy([]) is None
    assert metrics.minimum_accuracy([[None]], [0]) is None


# ------------------------------------------------------------------------------------------ what is known of the task

KNOWN: dict[str, list[list[float | None]]] = {
    "task_agnostic": [[0.5, N, N], [0.4, 0.6, N], [0.1, 0.2, 0.3]],
    "task_given": [[1.0, N, N], [0.9, 0.8, N], [0.6, 0.7, 0.9]],
    "inferred_by_entropy": [[1.0, N, N], [0.8, 0.7, N], [0.3, 0.4, 0.8]],
    "inferred_by_entropy_in_batches": [[1.0, N, N], [0.9, 0.8, N], [0.6, 0.6, 0.9]],
    "task_found_by_entropy": [[1.0, N, N], [0.9, 0.7, N], [0.4, 0.5, 0.9]],
    "task_found_by_agreement": [[1.0, N, N], [0.9, 0.7, N], [0.2, 0.2, 0.2]],
}


def test_what_is_known_of_the_task_by_hand() -> None:
    found = task_summary(KNOWN)
    assert found == {
        "tgiven_during": pytest.approx((1.0 + 0.8 + 0.9) / 3),
        "tgiven_final": pytest.approx((0.6 + 0.7 + 0.9) / 3),
        "tinfer_final": {"entropy": pytest.approx(0.5), "entropy_in_batches": pytest.approx(0.7)},
        "task_inference_accuracy": {"entropy": pytest.approx(0.6), "agreement": pytest.approx(0.2)},
    }
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_learner_without_a_model_a_task_infers_none() -> None:
    found = task_summary({"task_agnostic": KNOWN["task_agnostic"], "task_given": KNOWN["task_given"]})
    assert found["tgiven_final"] == pytest.approx((0.6 + 0.7 + 0.9) / 3)
    assert found["tinfer_final"] is None
    assert found["task_inference_accuracy"] is None


@pytest.mark.parametrize("matrices", [{}, {"task_agnostic": [[0.5]]}, {"task_given": [], "inferred_by_entropy": []}])
def test_without_matrices_nothing_is_known_of_the_task(matrices: dict[str, list[list[float | None]]]) -> None:
    assert set(task_summary(matrices)) == {
        "tgiven_during",
        "tgiven_final",
        "tinfer_final",
        "task_inference_accuracy",
    }
    assert set(task_summary(matrices).values()) == {None}


def test_a_test_set_without_a_model_of_its_own_yet_leaves_the_final_values_undefined() -> None:
    """As in a run that ended early, or where some test set was not asked."""
    early = {name: rows[:2] for name, rows in KNOWN.items()}
    found = task_summary(early)
    assert found["tgiven_during"] is None
    assert found["tgiven_final"] is None
    assert found["tinfer_final"] == {"entropy": None, "entropy_in_batches": None}
    assert found["task_inference_accuracy"] == {"entropy": None, "agreement": None}


def test_one_task_is_known_during_and_in_the_end_alike() -> None:
    found = task_summary({"task_given": [[0.8]], "inferred_by_entropy": [[0.8]], "task_found_by_entropy": [[1.0]]})
    assert found == {
        "tgiven_during": 0.8,
        "tgiven_final": 0.8,
        "tinfer_final": {"entropy": 0.8},
        "task_inference_accuracy": {"entropy": 1.0},
    }
