"""What a terminal shows of results: accuracies or errors, a few runs side by side, many below each other."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from reverie.cli.display import Live, number, result_table


def result(learner: str, kind: str = "regression", seed: int = 0, **changes: Any) -> dict[str, Any]:
    """Of two tasks, as ``result.json`` has it."""
    shared = {
        "status": "complete",
        "stream": "curves",
        "scenario": "domain",
        "learner": learner,
        "seed": seed,
        "tasks": ["first", "second"],
        "kind": kind,
        "memory": {"persistent_bytes": 2048, "stores": "raw"},
        "cost": {"seconds": 3.4},
    }
    if kind == "regression":
        summary = {"mse_final": 0.25, "mse_inferred": None, "coverage_final": 0.95}
        return {**shared, "accuracy": [], "mse": [[0.5, None], [1.5, 0.00123]], "summary": summary, **changes}
    summary = {"average_accuracy": 0.75, "forgetting": 0.125}
    return {**shared, "accuracy": [[1.0, None], [0.5, 1.0]], "summary": summary, **changes}


def shown(*results: dict[str, Any], width: int = 80) -> list[list[str]]:
    """The cells of each line of the table, title and rules left out."""
    file = io.StringIO()
    Console(file=file, width=width).print(result_table(results))
    lines = file.getvalue().splitlines()
    return [
        [cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")] for line in lines if line[0] in "│┃"
    ]


def title(*results: dict[str, Any]) -> str:
    return str(result_table(results).title)


def test_errors_side_by_side() -> None:
    inferred = {"mse_final": 0.125, "mse_inferred": {"agreement": 0.7512}, "coverage_final": 0.5}
    runs = result("naive"), result("vcl", summary=inferred, mse=[[0.5, None], [2.0, 4.0]])
    assert title(*runs) == "curves, domain-incremental; mean squared error after the last task"
    assert shown(*runs) == [
        ["", "naive", "vcl"],
        ["task 1: first", "1.5", "2"],
        ["task 2: second", "0.00123", "4"],
        ["average", "0.751", "3"],
        ["task given", "0.25", "0.125"],
        ["task inferred", "-", "0.751"],
        ["covered", "95.0 %", "50.0 %"],
        ["kept", "2.0 kB", "2.0 kB"],
        ["stores", "raw data", "raw data"],
        ["seconds", "3", "3"],
    ]


def test_many_runs_of_regression_have_a_row_each_with_their_names_in_a_narrow_window() -> None:
    runs = [result(name, seed=seed) for name in ("posterior-replay", "naive", "replay") for seed in (1, 2)]
    head, below, *rows = shown(*runs)
    assert [" ".join(pair).strip() for pair in zip(head, below, strict=True)] == [
        "learner",
        "average",
        "task given",
        "task inferred",
        "covered",
        "kept",
        "stores",
        "seconds",
    ]
    cells = ["0.751", "0.25", "-", "95.0 %", "2.0 kB", "raw data", "3"]
    assert [row[1:] for row in rows if row[1]] == [cells] * 6
    names = "".join(row[0] for row in rows).replace(" ", "")  # as the lines of a cell are put together
    assert names == "posterior-replay,seed1posterior-replay,seed2naive,seed1naive,seed2replay,seed1replay,seed2"


def test_a_run_of_regression_that_ended_early_has_no_numbers() -> None:
    empty = dict.fromkeys(("mse_final", "mse_inferred", "coverage_final"))
    rows = shown(result("naive", mse=[], summary=empty, status="failed"))
    assert rows[0] == ["", "naive (failed)"]
    assert [row[1] for row in rows[1:6]] == ["-"] * 5


@pytest.mark.parametrize("kind", ["classification", None])
def test_accuracies_are_shown_as_before(kind: str | None) -> None:
    """Also of results that were written before there was a kind."""
    run = result("naive", "classification")
    if kind is None:
        del run["kind"]
    assert title(run) == "curves, domain-incremental; accuracy in % after the last task"
    assert [row[0] for row in shown(run)][1:5] == ["task 1: first", "task 2: second", "average", "forgetting"]
    assert [row[1] for row in shown(run)][1:5] == ["50.0", "100.0", "75.0", "12.5"]


@pytest.mark.parametrize(
    ("measure", "text"),
    [("mse", "mean squared error 0.375"), ("accuracy", "average accuracy 37.5 %")],
)
def test_a_line_after_each_task_says_what_is_measured(measure: str, text: str) -> None:
    file = io.StringIO()
    live = Live(Console(file=file, width=120), "naive", None)
    live.evaluated(1, measure, (0.25, 0.5, None))
    assert file.getvalue() == f"naive: after task 2: {text} over 2 test sets\n"


def test_a_warning_is_a_line_as_it_comes() -> None:
    file = io.StringIO()
    Live(Console(file=file, width=120), "vcl", None).warned("too large [by far]")
    assert file.getvalue() == "warning: vcl: too large [by far]\n"


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (0.0, "0"), (1234.5, "1.23e+03"), (0.09999, "0.1")])
def test_numbers_have_three_digits(value: float | None, text: str) -> None:
    assert number(value) == text
