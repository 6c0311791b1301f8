"""Tables of results: what is run, what is known already, and what the file keeps."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from reverie.experiments import tables
from reverie.experiments.grid import Cell
from reverie.experiments.tables import Entry, PublishedTable, reproduce, rows_markdown, table_markdown, task_markdown

DIGITS = {"stream": {"name": "split", "dataset": "digits", "tasks": 5}}


def table(**steps: int) -> PublishedTable:
    """An entry for each keyword, of naive training with so many steps."""
    entries = {
        name: Entry(name, "demo", {**DIGITS, "learner": {"name": "naive", "steps": count}}, ("class",))
        for name, count in steps.items()
    }
    return PublishedTable("a table", "nobody", "a note", (1, 2), entries)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The titles of the cells that were run; each has its seed for an accuracy in percent."""
    titles: list[str] = []

    def run_grid(cells: Sequence[Cell], **options: Any) -> Iterator[tuple[Cell, dict[str, Any]]]:
        for cell in cells:
            titles.append(cell.title)
            yield (
                cell,
                {
                    "summary": {"average_accuracy": cell.config.seed / 100, "learning_accuracy": 0.75},
                    "accuracy": [[0.5]],
                    "cost": {"steps": 5, "seconds": 1.0, "train_seconds": 1.0},
                    "memory": {"persistent_bytes": 7, "stores": "none"},
                },
            )

    monkeypatch.setattr(tables, "run_grid", run_grid)
    return titles


def test_a_table_is_filled_over_several_sittings(tmp_path: Path, ran: list[str]) -> None:
    file = tmp_path / "results.json"
    reproduce(table(a=3, b=4), tmp_path / "runs", file, only=["a"])
    assert ran == ["a class seed 1", "a class seed 2"]
    results = reproduce(table(a=3, b=4), tmp_path / "runs", file)
    assert ran[2:] == ["b class seed 1", "b class seed 2"]
    assert results == tables.read_results(file)
    lines = rows_markdown(table(a=3, b=4), results, ["a", "b"])
    assert lines[2].startswith("| a | class | 1.50 ± 0.50 | 2/2 |")
    reproduce(table(a=3, b=4), tmp_path / "runs", file, again=True, only=["b"])
    assert ran[4:] == ["b class seed 1", "b class seed 2"]


def test_changed_options_are_run_again(tmp_path: Path, ran: list[str]) -> None:
    file = tmp_path / "results.json"
    reproduce(table(a=3), tmp_path / "runs", file)
    results = reproduce(table(a=4), tmp_path / "runs", file)
    assert len(ran) == 4
    assert len(results) == 2
    assert len(json.loads(file.read_text())["options"]) == 1  # those of no result are gone


def test_an_option_that_is_new_makes_no_result_a_stranger(tmp_path: Path, ran: list[str]) -> None:
    """A file written before ``batch_size`` existed; it has its default now."""
    file = tmp_path / "results.json"
    reproduce(table(a=3), tmp_path / "runs", file)
    content = json.loads(file.read_text())
    ((digest, values),) = content["options"].items()
    del values["learner"]["batch_size"]
    content["options"] = {"before": values}
    for result in content["results"]:
        assert result["digest"] == digest
        result["digest"] = "before"
    file.write_text(json.dumps(content))
    reproduce(table(a=3), tmp_path / "runs", file)
    assert len(ran) == 2
    values["learner"]["steps"] = 8
    file.write_text(json.dumps(content))
    reproduce(table(a=3), tmp_path / "runs", file)
    assert len(ran) == 4


def test_an_option_that_is_gone_is_run_again(tmp_path: Path, ran: list[str]) -> None:
    file = tmp_path / "results.json"
    reproduce(table(a=3), tmp_path / "runs", file)
    content = json.loads(file.read_text())
    ((_, values),) = content["options"].items()
    values["learner"]["of old"] = 1
    content["options"] = {"before": values}
    for result in content["results"]:
        result["digest"] = "before"
    file.write_text(json.dumps(content))
    reproduce(table(a=3), tmp_path / "runs", file)
    assert len(ran) == 4


def test_what_another_table_has_run_is_taken_from_there(tmp_path: Path, ran: list[str]) -> None:
    reproduce(table(a=3), tmp_path / "runs", tmp_path / "one.json")
    results = reproduce(table(other=3, b=4), tmp_path / "runs", tmp_path / "two.json")
    assert ran[2:] == ["b class seed 1", "b class seed 2"]
    assert [(r["entry"], r["seed"]) for r in results] == [("b", 1), ("b", 2), ("other", 1), ("other", 2)]
    assert tables.read_results(tmp_path / "two.json") == results


# ------------------------------------------------------------------------------- tables of methods that infer the task


def tasks_told(seed: int, **told: Any) -> dict[str, Any]:
    """A result of entry "a", whose numbers move by one point with the seed."""
    criteria = {"entropy": 0.6 + seed / 100, "agreement": 0.7 + seed / 100, "entropy_in_batches": 0.9 + seed / 100}
    tasks = {
        "tgiven_during": 0.95 + seed / 100,
        "tgiven_final": 0.93 + seed / 100,
        "tinfer_final": criteria,
        "task_inference_accuracy": {"entropy": 0.61 + seed / 100},
    }
    return {
        "entry": "a",
        "scenario": "class",
        "seed": seed,
        "tasks": {**tasks, **told},
        "steps": 12500,
        "persistent_bytes": 716096,
        "stores": "none",
        "seconds": 10.0 * seed,
        "processor": "a processor",
        "threads": 1,
        "torch": "2",
    }


def inferring(
    expected: Mapping[str, tuple[float, float]] = {}, published: Mapping[str, tuple[float, float | None]] = {}
) -> PublishedTable:
    entry = Entry("Method A", "demo", {}, ("class",), published, expected)
    return PublishedTable("a table", "nobody", "a note", (1, 2), {"a": entry}, infers_tasks=True)


def cells_of(table: PublishedTable, results: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The only row of the table, by the titles of its columns."""
    lines = task_markdown(table, results)
    titles, rule, row = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:])
    assert set(rule) == {"---"}
    assert len(titles) == len(rule) == len(row)
    return dict(zip(titles, row, strict=True))


def test_a_row_tells_how_often_the_task_is_inferred() -> None:
    told = {
        "method": "Method A",
        "TGiven, during": "96.50 ± 0.50",
        "TGiven, final": "94.50 ± 0.50",
        "TInfer, entropy": "61.50 ± 0.50",
        "TInfer, agreement": "71.50 ± 0.50",
        "TInfer, in batches": "91.50 ± 0.50",
        "task found, entropy": "62.50 ± 0.50",
        "seeds": "2/2",
        "published": "-",
        "expected": "-",
        "reached": "-",
        "steps": "12,500",
        "kept, bytes": "716,096 (none)",
        "seconds a run": "15",
    }
    results = [tasks_told(1), tasks_told(2)]
    assert cells_of(inferring(), results) == told
    strangers = [tasks_told(3), {**tasks_told(1), "entry": "b"}]  # a seed and an entry that the table does not have
    assert cells_of(inferring(), [*results, *strangers]) == told
    text = table_markdown("tasks", inferring(), results)
    assert "\n".join(task_markdown(inferring(), results)) in text


def test_one_seed_has_no_standard_error_and_none_has_no_numbers() -> None:
    one = cells_of(inferring(), [tasks_told(2)])
    assert (one["TGiven, final"], one["seeds"], one["seconds a run"]) == ("95.00", "1/2", "20")
    for results in ([], [{name: value for name, value in tasks_told(1).items() if name != "tasks"}]):
        none = cells_of(inferring(expected={"given": (50, 100)}), results)
        assert (none.pop("method"), none.pop("seeds"), none.pop("expected")) == ("Method A", "0/2", "given 50")
        assert set(none.values()) == {"-"}


def test_a_single_softmax_stands_beside_methods_that_infer_the_task() -> None:
    results = [{name: value for name, value in tasks_told(seed).items() if name != "tasks"} for seed in (1, 2)]
    results = [{**r, "average_accuracy": accuracy} for r, accuracy in zip(results, (0.5, 0.6), strict=True)]
    row = cells_of(inferring({"one head": (50, 100)}, {"one head": (66.97, None)}), results)
    assert row["TInfer, entropy"] == "55.00 ± 5.00 (one head)"
    assert (row["published"], row["expected"], row["reached"]) == ("one head 66.97", "one head 50", "yes")
    assert (row["TGiven, final"], row["task found, entropy"], row["seeds"]) == ("-", "-", "2/2")


def test_a_criterion_that_a_method_does_not_have_is_left_out() -> None:
    """Points do not disagree; nothing is expected of that, nor held against them."""
    points = {"tinfer_final": {"entropy": 0.6, "entropy_in_batches": None}}
    row = cells_of(inferring({"agreement": (90, 100), "given": (93, 100)}), [tasks_told(1, **points)])
    assert (row["TInfer, agreement"], row["TInfer, in batches"], row["TInfer, entropy"]) == ("-", "-", "60.00")
    assert (row["expected"], row["reached"]) == ("given 93, agreement 90", "yes")


@pytest.mark.parametrize(
    ("expected", "reached"),
    [
        ({"given": (94.4, 100)}, "yes"),
        ({"given": (94.6, 100)}, "no"),
        ({"given": (90, 100), "entropy": (61, 100), "agreement": (71, 100), "batches": (91, 100)}, "yes"),
        ({"given": (90, 100), "entropy": (62, 100)}, "no"),
        ({"batches": (92, 100)}, "no"),
        ({}, "-"),
    ],
)
def test_all_that_is_expected_must_be_reached(expected: dict[str, tuple[float, float]], reached: str) -> None:
    row = cells_of(inferring(expected), [tasks_told(1), tasks_told(2)])
    assert row["reached"] == reached


def test_published_numbers_stand_in_the_order_of_the_columns() -> None:
    row = cells_of(inferring(published={"entropy": (71.5, 0.3), "given": (100.0, None)}), [])
    assert row["published"] == "given 100, entropy 71.5"


def test_what_a_run_says_of_tasks_is_kept_where_it_says_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tasks_told(1)["tasks"]

    def run_grid(cells: Sequence[Cell], **options: Any) -> Iterator[tuple[Cell, dict[str, Any]]]:
        for cell in cells:
            summary: dict[str, Any] = {"average_accuracy": 0.5, "learning_accuracy": 0.75, **told}
            if "b class" in cell.title:  # a learner with one model for all tasks
                summary |= {"tinfer_final": None, "task_inference_accuracy": None}
            cost = {"steps": 5, "seconds": 1.0, "train_seconds": 1.0}
            memory = {"persistent_bytes": 7, "stores": "none"}
            yield cell, {"summary": summary, "accuracy": [[0.5]], "cost": cost, "memory": memory}

    monkeypatch.setattr(tables, "run_grid", run_grid)
    results = reproduce(table(a=3, b=4), tmp_path / "runs", tmp_path / "results.json", seeds=[1])
    assert [(r["entry"], r.get("tasks")) for r in results] == [("a", told), ("b", None)]
    assert tables.read_results(tmp_path / "results.json") == results


def test_a_table_of_domains_says_what_is_left_of_the_first() -> None:
    bounds = {"first": (90.0, 100.0), "drop": (-100.0, 3.0), "domain": (98.0, 100.0), "error": (0.0, 1.15)}
    entries = {
        "a": Entry("kept", "demo", expected=bounds),
        "b": Entry("never run", "demo"),
        "c": Entry("at once", "demo"),
    }
    table = PublishedTable("title", "source", "note", (1, 2), entries, domains=True)

    def result(entry: str, seed: int, learnt: float | None, last: list[float], error: list[float]) -> dict[str, Any]:
        told = {"learnt": learnt, "error": error, "found": [1.0, 0.99]}
        cost = {"steps": 10, "seconds": 2.0, "persistent_bytes": 5, "stores": "none"}
        mean = sum(last) / len(last)
        return {"entry": entry, "seed": seed, "accuracy": last, "average_accuracy": mean, "domains": told, **cost}

    results = [
        result("a", 1, 0.97, [0.95, 0.85], [0.010, 0.011]),
        result("a", 2, 0.99, [0.97, 0.87], [0.010, 0.012]),
        result("c", 1, None, [0.98, 0.90], [0.009]),
    ]
    lines = tables.domain_markdown(table, results)
    kept, never, at_once = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines[-3:])
    assert kept[:8] == [
        *("kept", "98.00 ± 1.00", "96.00 ± 1.00", "86.00 ± 1.00", "91.00 ± 1.00", "99.00 ± 0.00"),
        *("0.0100 ± 0.0000", "0.0115 ± 0.0005"),
    ]
    assert kept[8:11] == ["2/2", "first at least 90, drop at most 3, domain at least 98, error at most 1.15", "yes"]
    assert never[1:9] == ["-"] * 7 + ["0/2"]
    assert at_once[:8] == ["at once", "-", "98.00", "90.00", "94.00", "99.00", "-", "0.0090"]


def test_a_table_of_regression_has_errors_and_their_median() -> None:
    bounds = {"final": (0.0, 0.03), "found": (95.0, 100.0)}
    entries = {
        "a": Entry("sure", "demo", expected=bounds),
        "b": Entry("a point", "demo", expected={"median": (0.0, 0.05)}),
    }
    table = PublishedTable("title", "source", "note", (1, 2, 3), entries, predicts_numbers=True)

    def result(entry: str, seed: int, final: float, found: float | None) -> dict[str, Any]:
        inferred = None if found is None else {"agreement": found}
        errors = {"mse_during": final / 2, "mse_final": final, "mse_inferred": inferred, "coverage_final": 0.9}
        cost = {"steps": 10, "seconds": 2.0, "persistent_bytes": 5, "stores": "none"}
        return {"entry": entry, "seed": seed, "errors": {**errors, "task_inference_accuracy": inferred}, **cost}

    results = [result("a", seed, final, 0.96) for seed, final in ((1, 0.01), (2, 0.02), (3, 0.06))]
    results += [result("b", seed, 0.1, None) for seed in (1, 2)]
    sure, point = (
        [cell.strip() for cell in line.split("|")[1:-1]] for line in tables.error_markdown(table, results)[-2:]
    )
    assert sure[:4] == ["sure", "0.0150 ± 0.0076", "0.0300 ± 0.0153", "0.0200"]
    assert sure[5:10] == ["96.0 ± 0.0", "90.0 ± 0.0", "3/3", "final at most 0.03, found at least 95", "yes"]
    assert point[3:6] == ["0.1000", "-", "-"]
    assert point[7:10] == ["2/3", "median at most 0.05", "no"]
