"""Reading run folders: whole ones, unfinished ones, and every way in which they can be damaged."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reverie.checks import StorageError
from reverie.reports.records import find_runs, read_run, read_runs

Write = Callable[..., Path]


def test_a_complete_run(write_replay_run: Write) -> None:
    record = read_run(write_replay_run("run"))
    assert record.complete
    assert not record.merged
    assert record.result.accuracy == [[1.0, None], [0.8, 1.0]]
    assert [type(line).__name__ for line in record.lines] == ["LossLine", "CurveLine"] * 4
    assert [(sample.task, sample.name, sample.images) for sample in record.samples] == [
        (0, "generated samples", 6),
        (1, "generated samples", 6),
    ]
    assert record.samples[0].data_uri().startswith("data:image/png;base64,iVBOR")


@pytest.mark.parametrize("status", ["interrupted", "failed"])
def test_runs_that_did_not_end_are_read(write_run: Write, status: str) -> None:
    folder = write_run("run", status=status, accuracy=[], memory={}, error="the loss stopped being finite")
    (folder / "metrics.jsonl").unlink()
    record = read_run(folder)
    assert record.result.status == status
    assert record.lines == ()


def test_a_last_line_cut_by_a_crash_is_left_out(write_run: Write) -> None:
    folder = write_run("run")
    with open(folder / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"kind": "losses", "task": 1, "pha')
    assert len(read_run(folder).lines) == 8


def test_folders_of_runs_hold_each_run_once(write_run: Write, tmp_path: Path) -> None:
    for name in ("grid/b", "grid/a", "grid/deeper/c"):
        write_run(name)
    started = tmp_path / "grid" / "started"
    started.mkdir()
    (started / "config.yaml").write_text("schema: 1\n")
    runs, waiting = find_runs([tmp_path / "grid", tmp_path / "grid" / "a"])
    assert [folder.name for folder in runs] == ["a", "b", "c"]
    assert waiting == [started]
    assert len(read_runs([tmp_path / "grid"])) == 3
    with pytest.raises(StorageError, match="its run has no result yet"):
        find_runs([started])


def test_a_path_without_runs(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="run folder not found"):
        find_runs([tmp_path / "nothing"])
    with pytest.raises(StorageError, match="holds no run"):
        find_runs([tmp_path])


def _edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "result.json"
        result = json.loads(path.read_text())
        change(result)
        path.write_text(json.dumps(result))

    return damage


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "newer schema": (_edit(lambda result: result.update(schema=99)), "has schema 99.*update Reverie"),
    "no status": (_edit(lambda result: result.pop("status")), "the result is not as expected.*status: Field required"),
    "text for a number": (_edit(lambda result: result["cost"].update(steps="many")), "cost.steps"),
    "ragged matrix": (_edit(lambda result: result["accuracy"].append([1.0])), "has not 2 columns"),
    "not a number": (_edit(lambda result: result["accuracy"][0].__setitem__(0, float("nan"))), "accuracy.0.0"),
    "cut result": (lambda folder: (folder / "result.json").write_text('{"schema": 1'), "the result is not readable"),
    "no environment": (
        lambda folder: (folder / "environment.json").unlink(),
        "description of the environment not found",
    ),
    "no losses": (lambda folder: (folder / "metrics.jsonl").unlink(), "the losses are missing"),
    "a bad line": (lambda folder: (folder / "metrics.jsonl").write_text("{\n{}\n"), "line 1 is not readable"),
    "a line of a list": (
        lambda folder: (folder / "metrics.jsonl").write_text("[]\n{}\n"),
        "line 1 is not a JSON object",
    ),
    "a line without losses": (
        lambda folder: (folder / "metrics.jsonl").write_text('{"kind": "losses"}\n{}\n'),
        "line 1 is not as expected",
    ),
    "bytes": (lambda folder: (folder / "metrics.jsonl").write_bytes(b"\xff\xfe"), "the losses are not readable"),
    "a bad image": (
        lambda folder: (folder / "samples" / "task-1-generated-samples.png").write_bytes(b"<svg/>"),
        "the saved samples are not readable",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_a_clear_error(write_replay_run: Write, damage: str) -> None:
    change, message = DAMAGES[damage]
    folder = write_replay_run("run")
    change(folder)
    with pytest.raises(StorageError, match=f"(?s){message}") as caught:
        read_run(folder)
    assert re.search(re.escape(str(folder)), str(caught.value))
