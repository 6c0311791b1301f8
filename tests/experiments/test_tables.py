"""Tables of results: what is run, what is known already, and what the file keeps."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from reverie.experiments import tables
from reverie.experiments.grid import Cell
from reverie.experiments.tables import Entry, PublishedTable, reproduce, rows_markdown

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
