"""Tables of results: what is run, what is known already, and what the file keeps."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reverie.experiments import tables
from reverie.experiments.conditions import VALUES, Condition
from reverie.experiments.grid import Cell
from reverie.experiments.judging import judge_run
from reverie.experiments.tables import (
    DOMAINS,
    ERRORS,
    TASKS,
    Entry,
    Layout,
    PublishedTable,
    ablation_markdown,
    conditions_markdown,
    rank_correlation,
    reproduce,
    risk_gaps,
    rows_markdown,
    runs_of,
    table_markdown,
)

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
    assert results == tables.read_results(table(a=3, b=4), file)
    lines = rows_markdown(table(a=3, b=4), results)
    assert [line.split(" | ")[:3] for line in lines[2:]] == [
        ["| a", "1.50 ± 0.50", "2/2"],
        ["| b", "1.50 ± 0.50", "2/2"],
    ]
    assert rows_markdown(table(a=3, b=4), results, ["b"])[2:] == lines[3:]
    reproduce(table(a=3, b=4), tmp_path / "runs", file, again=True, only=["b"])
    assert ran[4:] == ["b class seed 1", "b class seed 2"]


def test_an_entry_may_take_the_first_of_the_seeds_alone(tmp_path: Path, ran: list[str]) -> None:
    both = table(a=3, b=4)
    few = replace(both, entries={**both.entries, "b": replace(both.entries["b"], seeds=1)})
    reproduce(both, tmp_path / "runs", tmp_path / "all.json")
    results = reproduce(few, tmp_path / "runs", tmp_path / "few.json", again=True)
    assert ran[4:] == ["a class seed 1", "b class seed 1", "a class seed 2"]
    assert [(r["entry"], r["seed"]) for r in results] == [("a", 1), ("a", 2), ("b", 1)]
    seeds = ["2/2", "1/1"]
    # A seed that the entry has no more is not told.
    for known in (results, tables.read_results(few, tmp_path / "all.json")):
        assert [line.split(" | ")[2] for line in rows_markdown(few, known)[2:]] == seeds


def test_changed_options_are_run_again(tmp_path: Path, ran: list[str]) -> None:
    file = tmp_path / "results.json"
    reproduce(table(a=3), tmp_path / "runs", file)
    assert tables.read_results(table(a=4), file) == [], "no figure of other options is told"
    results = reproduce(table(a=4), tmp_path / "runs", file, seeds=[1])
    assert [r["seed"] for r in results] == [1]
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
    assert tables.read_results(table(other=3, b=4), tmp_path / "two.json") == results


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


def table_of(layout: Layout, *conditions: Condition, **entries: Entry) -> PublishedTable:
    return PublishedTable("a table", "nobody", "a note", (1, 2), entries, conditions, layout)


def inferring(*conditions: Condition, published: Mapping[str, tuple[float, float | None]] = {}) -> PublishedTable:
    return table_of(TASKS, *conditions, a=Entry("Method A", "demo", {}, ("class",), published))


def rows_of(lines: Sequence[str]) -> list[dict[str, str]]:
    """Each row of a Markdown table, by the titles of its columns."""
    titles, rule, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    assert set(rule) == {"---"}
    assert {len(titles)} == {len(row) for row in (rule, *rows)}
    return [dict(zip(titles, row, strict=True)) for row in rows]


def test_a_row_tells_how_often_the_task_is_inferred() -> None:
    told = {
        "method": "Method A",
        "TGiven, during": "96.50 ± 0.50",
        "TGiven, final": "94.50 ± 0.50",
        "TInfer, entropy": "61.50 ± 0.50",
        "TInfer, agreement": "71.50 ± 0.50",
        "TInfer, in batches": "91.50 ± 0.50",
        "one head": "-",
        "task found, entropy": "62.50 ± 0.50",
        "seeds": "2/2",
        "steps": "12,500",
        "kept, bytes": "716,096 (none)",
        "seconds a run": "15",
    }
    results = [tasks_told(1), tasks_told(2)]
    assert rows_of(rows_markdown(inferring(), results)) == [told]
    strangers = [tasks_told(3), {**tasks_told(1), "entry": "b"}]  # a seed and an entry that the table does not have
    assert rows_of(rows_markdown(inferring(), [*results, *strangers])) == [told]
    text = table_markdown("tasks", inferring(), results)
    assert "\n".join(rows_markdown(inferring(), results)) in text
    assert "TGiven, TInfer: average accuracy" in text
    assert "images/" not in text
    assert "![a table](images/tasks.png)\n\nWhich class" in table_markdown("tasks", inferring(), [], pictured=True)


def test_one_seed_has_no_standard_error_and_none_has_no_numbers() -> None:
    (one,) = rows_of(rows_markdown(inferring(), [tasks_told(2)]))
    assert (one["TGiven, final"], one["seeds"], one["seconds a run"]) == ("95.00", "1/2", "20")
    (none,) = rows_of(rows_markdown(inferring(), []))
    assert (none.pop("method"), none.pop("seeds"), none.pop("TGiven, during")) == ("Method A", "0/2", "not run yet")
    assert set(none.values()) == {"-"}


def test_a_single_softmax_stands_beside_methods_that_infer_the_task() -> None:
    results = [{name: value for name, value in tasks_told(seed).items() if name != "tasks"} for seed in (1, 2)]
    results = [{**r, "average_accuracy": accuracy} for r, accuracy in zip(results, (0.5, 0.6), strict=True)]
    (row,) = rows_of(rows_markdown(inferring(published={"one head": (66.97, None)}), results))
    assert (row["one head"], row["published"], row["seeds"]) == ("55.00 ± 5.00", "one head 66.97", "2/2")
    assert (row["TInfer, entropy"], row["TGiven, final"]) == ("-", "-")


def test_published_numbers_stand_in_the_order_of_the_columns() -> None:
    (row,) = rows_of(rows_markdown(inferring(published={"entropy": (71.5, 0.3), "given": (100.0, None)}), []))
    assert row["published"] == "given 100, entropy 71.5"


def test_scenarios_stand_where_there_are_several() -> None:
    published = {"class": (19.9, 0.1), "task": (84.0, None)}
    many = table_of(
        Layout(("accuracy",)),
        Condition("a", "accuracy", 50, scenario="task"),
        a=Entry("A", "demo", published=published),
    )
    accuracies = {"class": 0.2, "domain": 0.4, "task": 0.6}
    results = [
        {**tasks_told(seed), "scenario": scenario, "average_accuracy": accuracy}
        for seed in (1, 2)
        for scenario, accuracy in accuracies.items()
    ]
    rows = rows_of(rows_markdown(many, results))
    assert [(row["scenario"], row["accuracy, %"], row["published"]) for row in rows] == [
        ("class", "20.00 ± 0.00", "19.90 ± 0.10"),
        ("domain", "40.00 ± 0.00", "-"),
        ("task", "60.00 ± 0.00", "84.00"),
    ]
    (condition,) = rows_of(conditions_markdown(many, results)[1:])
    assert (condition["to show"], condition["found"]) == ("task: A (accuracy, %)", "60.00 ± 0.00")


def test_conditions_are_told_under_the_table() -> None:
    entries = {"a": Entry("A", "demo", {}, ("class",)), "b": Entry("B", "demo", {}, ("class",), seeds=1)}
    table = table_of(
        TASKS,
        Condition("a", "given", 94),
        Condition("a", "given", 99, reason="it is too hard"),
        Condition("a", "given", 99),
        Condition("a", "given", 94, reason="not told where it is reached"),
        Condition("a", "agreement", 0, minus="b", other="entropy"),
        Condition("a", "given", 1, over="b"),
        Condition("b", "seconds", high=60),
        **entries,
    )
    results = [tasks_told(1), tasks_told(2), {**tasks_told(1), "entry": "b"}]
    told = [tuple(row.values()) for row in rows_of(conditions_markdown(table, results)[1:])]
    assert told == [
        ("A (TGiven, final)", "at least 94", "94.50 ± 0.50", "2/2", "yes"),
        ("A (TGiven, final)", "at least 99", "94.50 ± 0.50", "2/2", "no: it is too hard"),
        ("A (TGiven, final)", "at least 99", "94.50 ± 0.50", "2/2", "no"),
        ("A (TGiven, final)", "at least 94", "94.50 ± 0.50", "2/2", "yes"),
        # paired over the only seed that both take
        ("A (TInfer, agreement), minus B (TInfer, entropy)", "at least 0", "10.00", "1/1", "yes"),
        ("A, over B (TGiven, final)", "at least 1", "1.00", "1/1", "yes"),
        ("B (seconds a run)", "at most 60", "10", "1/1", "yes"),
    ]
    assert "\n".join(conditions_markdown(table, results)) in table_markdown("name", table, results)
    assert {row["reached"] for row in rows_of(conditions_markdown(table, [])[1:])} == {"not yet"}
    assert conditions_markdown(table_of(TASKS, **entries), results) == []


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
    assert tables.read_results(table(a=3, b=4), tmp_path / "results.json") == results


def domain_result(entry: str, seed: int, learnt: float | None, last: list[float], error: list[float]) -> dict[str, Any]:
    told = {"learnt": learnt, "error": error, "found": [1.0, 0.99]}
    cost = {"steps": 10, "seconds": 2.0, "persistent_bytes": 5, "stores": "none"}
    cost |= {"processor": "a processor", "threads": 1, "torch": "2"}
    mean = sum(last) / len(last)
    place = {"entry": entry, "scenario": "domain", "seed": seed}
    return {**place, "accuracy": last, "average_accuracy": mean, "domains": told, **cost}


def test_a_table_of_domains_says_what_is_left_of_the_first() -> None:
    table = table_of(
        DOMAINS,
        Condition("a", "first", -3, minus="a", other="learnt"),
        Condition("a", "error", high=1.15, over="a", other="error learnt"),
        **{key: Entry(title, "demo", {}, ("domain",)) for key, title in (("a", "kept"), ("b", "never run"))},
        c=Entry("at once", "demo", {}, ("domain",)),
    )
    results = [
        domain_result("a", 1, 0.97, [0.95, 0.85], [0.010, 0.011]),
        domain_result("a", 2, 0.99, [0.97, 0.87], [0.010, 0.012]),
        domain_result("c", 1, None, [0.98, 0.90], [0.009]),
    ]
    kept, never, at_once = (list(row.values()) for row in rows_of(rows_markdown(table, results)))
    assert kept[:9] == [
        *("kept", "98.00 ± 1.00", "96.00 ± 1.00", "86.00 ± 1.00", "91.00 ± 1.00", "99.00 ± 0.00"),
        *("0.0100 ± 0.0000", "0.0115 ± 0.0005", "2/2"),
    ]
    assert never[1:9] == ["not run yet"] + ["-"] * 6 + ["0/2"]
    assert at_once[:8] == ["at once", "-", "98.00", "90.00", "94.00", "99.00", "-", "0.0090"]
    drop, error = rows_of(conditions_markdown(table, results)[1:])
    assert (drop["found"], drop["reached"]) == ("-2.00 ± 0.00", "yes")
    assert (error["found"], error["reached"]) == ("1.1500 ± 0.0500", "yes")


def test_a_table_of_regression_has_errors() -> None:
    titles = {"a": "sure", "b": "a point"}
    table = table_of(ERRORS, **{key: Entry(title, "demo", {}, ("domain",)) for key, title in titles.items()})

    def result(entry: str, seed: int, final: float, found: float | None) -> dict[str, Any]:
        inferred = None if found is None else {"agreement": found}
        errors = {"mse_during": final / 2, "mse_final": final, "mse_inferred": inferred, "coverage_final": 0.9}
        cost = {"steps": 10, "seconds": 2.0, "persistent_bytes": 5, "stores": "none", "average_accuracy": None}
        told = {**errors, "task_inference_accuracy": inferred}
        return {"entry": entry, "scenario": "domain", "seed": seed, "errors": told, **cost}

    results = [result("a", seed, final, 0.96) for seed, final in ((1, 0.01), (2, 0.02))]
    results += [result("b", 1, 0.1, None)]
    sure, point = (list(row.values()) for row in rows_of(rows_markdown(table, results)))
    assert sure[:4] == ["sure", "0.0075 ± 0.0025", "0.0150 ± 0.0050", "0.9600 ± 0.0000"]
    assert sure[4:7] == ["96.0 ± 0.0", "90.0 ± 0.0", "2/2"]
    assert point[:7] == ["a point", "0.0500", "0.1000", "-", "-", "90.0", "1/2"]


def test_the_gap_of_an_ablation_is_to_the_reference_on_the_same_stream_and_seed() -> None:
    entries = {
        f"{stream}-{variant}": Entry(variant, "demo", {}, ("class",), stream=stream, variant=variant)
        for stream in ("one", "two")
        for variant in ("real", "drawn")
    }
    table = replace(table_of(Layout(picture="ablation"), **entries), reference={"drawn": "real"})
    accuracies = {("one-real", 1): 0.9, ("one-drawn", 1): 0.7, ("one-drawn", 2): 0.6, ("two-real", 2): 0.8}
    results = [
        {"entry": entry, "scenario": "class", "seed": seed, "average_accuracy": accuracy}
        for (entry, seed), accuracy in accuracies.items()
    ]
    runs = runs_of(table, results)
    assert {key: list(by_seed) for (key, _), by_seed in runs.items()} == {
        "one-real": [1],
        "one-drawn": [1, 2],
        "two-real": [2],
        "two-drawn": [],
    }
    assert runs["one-drawn", "class"][1]["gap"] == pytest.approx(0.2)
    assert "gap" not in runs["one-drawn", "class"][2]
    assert "gap" not in runs["one-real", "class"][1]


def test_the_gap_of_an_ablation_is_printed_with_its_error_over_seeds() -> None:
    entries = {
        f"one-{variant}": Entry(variant, "demo", {}, ("class",), stream="one", variant=variant)
        for variant in ("real", "drawn")
    }
    table = replace(table_of(Layout(picture="ablation"), **entries), reference={"drawn": "real"})
    accuracies = {"one-real": (0.9, 0.8), "one-drawn": (0.86, 0.78)}
    results = [
        {
            "entry": entry,
            "scenario": "class",
            "seed": seed,
            "average_accuracy": accuracy,
            "learning_accuracy": 0.95,
            "persistent_bytes": 1,
            "seconds": 1.0,
        }
        for entry, of_seeds in accuracies.items()
        for seed, accuracy in enumerate(of_seeds, 1)
    ]
    cells = {row["method"]: row["one"] for row in rows_of(ablation_markdown(table, results)[2:6])}
    assert cells == {"real": "85.00 ± 5.00", "drawn": "82.00 ± 4.00 (+3.00 ± 1.00)"}


# ------------------------------------------------------------------------------- discrepancy and risk


def risky(entry: str, seed: int, shift: float) -> dict[str, Any]:
    """Two domains: nothing is rehearsed in the first task, and the present one never is."""
    target, source = [[0.1], [0.3 + shift, 0.1]], [[None], [0.1, None]]
    found = {"risk": {"target": target, "source": source}, "discrepancy": [[None], [0.05 + shift, None]]}
    return {**domain_result(entry, seed, 0.9, [0.8, 0.7], [0.01, 0.02]), **found}


def test_each_rehearsed_task_is_a_point() -> None:
    entries = {key: Entry(key, "demo", {}, ("domain",)) for key in ("a", "b")}
    table = table_of(DOMAINS, **entries)
    results = [risky("a", 1, 0.0), risky("a", 2, 0.1), domain_result("b", 1, 0.9, [0.8], [0.01])]
    gaps = risk_gaps(table, results)
    assert list(gaps) == ["a"]
    assert gaps["a"] == [pytest.approx((0.05, 0.2)), pytest.approx((0.15, 0.3))]
    text = table_markdown("name", table, results, pictured=True)
    assert "Spearman's rank correlation: 1.00 (2 points)." in text
    assert "Spearman" not in table_markdown("name", table, results[2:], pictured=True)


def test_the_rank_correlation_sees_orders_alone() -> None:
    assert rank_correlation([(1, 1), (2, 10), (3, 1000)]) == pytest.approx(1.0)
    assert rank_correlation([(1, 3), (2, 2), (3, 1)]) == pytest.approx(-1.0)
    assert rank_correlation([(1, 1), (2, 3), (3, 2)]) == pytest.approx(0.5)
    for undefined in ([], [(1, 1)], [(1, 1), (1, 2)], [(1, 1), (2, 1)]):
        assert rank_correlation(undefined) is None


def test_what_a_run_says_of_risk_and_categories_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = {key: risky("a", 1, 0.0)[key] for key in ("risk", "discrepancy")}

    def run_grid(cells: Sequence[Cell], **options: Any) -> Iterator[tuple[Cell, dict[str, Any]]]:
        for cell in cells:
            cost = {"steps": 5, "seconds": 1.0, "train_seconds": 1.0}
            result = {
                "summary": {"average_accuracy": 0.5, "learning_accuracy": 0.75},
                "accuracy": [[0.5]],
                "cost": cost,
            }
            numbers: list[dict[str, Any]] = [{}, {"clustering_accuracy": [0.9]}, {"clustering_accuracy": [0.8, 0.6]}]
            findings = [{"task": 0, "probe": "a probe", "numbers": each} for each in numbers]
            memory = {"persistent_bytes": 7, "stores": "none"}
            yield cell, {**result, "memory": memory, "findings": findings, **told}

    monkeypatch.setattr(tables, "run_grid", run_grid)
    (result,) = reproduce(table(a=3), tmp_path / "runs", tmp_path / "results.json", seeds=[1])
    assert {key: result[key] for key in told} == told
    assert result["domains"]["clusters"] == [0.8, 0.6]


def autoencoders(*names: str) -> PublishedTable:
    override = {"stream": {"name": "digits-inverted"}, "learner": {"name": "lgaa", "steps": 2, "epochs": None}}
    return table_of(DOMAINS, **{name: Entry(name, "lgaa-tiny", override, ("domain",)) for name in names})


def test_what_was_generated_is_judged_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def quick(run: Any, stream: Any, judge: Any) -> Any:
        asked.append(judge)
        return judge_run(run, stream, judge=judge, steps=3, n=20)

    monkeypatch.setattr(tables, "judge_run", quick)
    monkeypatch.setattr(tables, "STEPS", 3)
    judged = replace(autoencoders("lgaa", "twin"), judged=("lgaa",))
    results = reproduce(judged, tmp_path / "runs", tmp_path / "results.json", threads=1)
    assert [("judged" in result) for result in results] == [True, True, False, False]
    assert set(results[0]["judged"]) == {"judge", "generated", "next", "replay"}
    for name in ("class asked", "domain asked", "class drawn", "domain drawn", "judge"):
        number = VALUES[name].read(results[0])
        assert number is not None
        assert 0 <= number <= 100
    assert asked[0] is None
    assert asked[1] is not None, "the second seed of the same stream is seen by the same judge"
    again = reproduce(judged, tmp_path / "runs", tmp_path / "elsewhere" / "results.json", threads=1)
    assert len(asked) == 2
    assert [result.get("judged") for result in again] == [result.get("judged") for result in results]
    both = replace(judged, judged=("lgaa", "twin"))
    known = reproduce(both, tmp_path / "runs", tmp_path / "elsewhere" / "results.json", threads=1)
    assert len(asked) == 2, "the twin has the same options, and what was seen of one is seen of the other"
    assert all("judged" in result for result in known)
    monkeypatch.setattr(tables, "STEPS", 4)
    reproduce(judged, tmp_path / "runs", tmp_path / "third" / "results.json", threads=1, seeds=[1])
    assert len(asked) == 3, "a judge of other steps is another judge"


def test_a_known_run_that_is_to_be_judged_is_not_trained_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def quick(run: Any, stream: Any, judge: Any) -> Any:
        return judge_run(run, stream, judge=judge, steps=3, n=20)

    monkeypatch.setattr(tables, "judge_run", quick)
    monkeypatch.setattr(tables, "STEPS", 3)
    where, plain = (tmp_path / "runs", tmp_path / "results.json"), autoencoders("lgaa")
    (before,) = reproduce(plain, *where, threads=1, seeds=[1])
    assert "judged" not in before
    (after,) = reproduce(replace(plain, judged=("lgaa",)), *where, threads=1, seeds=[1])
    assert set(after["judged"]) == {"judge", "generated", "next", "replay"}
    assert after == {**before, "judged": after["judged"]}, "the seconds of its training included"
