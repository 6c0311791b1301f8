"""``reverie reproduce``: what it refuses, and the page that it writes from results that are there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reverie.cli import BAD_USAGE, DONE
from reverie.experiments.published import GROUPS, TABLES
from reverie.experiments.tables import cells
from tests.cli.test_main import Command, command

__all__ = ["command"]  # the fixture


def test_all_tables_and_groups_are_listed(command: Command) -> None:
    lines = command("reproduce").out.splitlines()
    assert [line.split(":")[0] for line in lines] == [*TABLES, *GROUPS]
    assert "lgaa: lgaa-two and lgaa-arms and lgaa-four" in lines


def test_all_mistakes_are_told_before_anything_is_run(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = command("reproduce", "pmr-toys", "--only", "pf-ave", "--seeds", "11", "--scenarios", "clas")
    assert answer.code == BAD_USAGE
    assert "--only pf-ave: no such method in pmr-toys; did you mean 'pf-avb'?" in answer.err
    assert "--seeds 11: not a seed of pmr-toys; it has 1, 2, 3" in answer.err
    assert "--scenarios clas: no such scenario; did you mean 'class'?" in answer.err
    assert list(tmp_path.iterdir()) == []


def test_a_method_of_one_table_may_be_asked_of_its_group(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pf-avb is one of pmr-modes alone, seed 3 one of pmr-split-mnist alone."""
    monkeypatch.chdir(tmp_path)
    assert command("reproduce", "pmr-toys", "--only", "pf-avb", "--write-only").code == DONE
    assert command("reproduce", "pmr-mnist", "--seeds", "3", "--write-only").code == DONE


def test_the_page_is_written_from_results(command: Command, tmp_path: Path) -> None:
    risk = {"target": [[0.1], [0.3, 0.1]], "source": [[None], [0.1, None]]}
    discrepancy = [[None], [0.05, None]]
    told = {"learnt": 0.99, "error": [0.010, 0.011], "found": [1.0, 0.99]}
    result = {
        "entry": "lgaa",
        "scenario": "domain",
        "digest": "some",
        "average_accuracy": 0.915,
        "accuracy": [0.96, 0.87],
        "domains": told,
        "risk": risk,
        "discrepancy": discrepancy,
        "steps": 10,
        "seconds": 2.0,
        "persistent_bytes": 5,
        "stores": "none",
        "processor": "a processor",
        "threads": 1,
        "torch": "2",
    }
    (tmp_path / "results").mkdir()
    results = [{**result, "seed": seed} for seed in (1, 2, 3)]
    options = cells(TABLES["lgaa-two"], tmp_path, None, only=["lgaa"])[0].config.to_dict()
    other = {**options, "learner": {**options["learner"], "steps": 1}}
    results += [{**result, "entry": "fine-tuning", "digest": "other", "seed": 1}]  # and of other options, not told
    content = {"schema": 1, "results": results, "options": {"some": options, "other": other}}
    (tmp_path / "results" / "lgaa-two.json").write_text(json.dumps(content))
    page = tmp_path / "page.md"
    answer = command("reproduce", "lgaa-two", "--write-only", "--page", page, "--out", tmp_path / "runs")
    assert answer.code == DONE
    text = page.read_text()
    assert "| lgaa (first, end) | at least 95 | 96.00 ± 0.00 | 3/3 | yes |" in text
    assert "| lgaa, minus fine-tuning (first, end) | at least 40 | - | 0/3 | not yet |" in text
    assert "](images/lgaa-two.png)" in text
    assert (tmp_path / "images" / "lgaa-two.png").stat().st_size > 0
    once = page.read_bytes()
    command("reproduce", "lgaa-two", "--write-only", "--page", page, "--out", tmp_path / "runs")
    assert page.read_bytes() == once
