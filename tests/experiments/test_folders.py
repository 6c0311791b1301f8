"""Run folders at the moments when something went wrong: half written, half lost, of another run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import reverie
from reverie.checks import ReverieError, StorageError
from reverie.reports import read_run
from reverie.storage import read_tree, write_tree

STREAM = {"name": "blobs", "tasks": 2, "rows_per_class": 12}
LEARNER = {"name": "naive", "steps": 6}


def run(folder: Path, **options: Any) -> reverie.Run:
    return reverie.run(STREAM, LEARNER, out=folder, threads=1, **options)


def test_a_run_that_died_while_its_folder_was_first_written_can_be_used_later(tmp_path: Path) -> None:
    run(tmp_path / "whole")
    folder = tmp_path / "half"
    folder.mkdir()
    shutil.copy(tmp_path / "whole" / "config.yaml", folder)
    run(folder)
    assert reverie.load(folder).result["status"] == "complete"
    assert read_run(folder).complete


def test_overwriting_a_folder_without_its_config_trains_anew(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(folder, seed=0)
    (folder / "config.yaml").unlink()
    again = run(folder, seed=1, overwrite=True)
    assert again.accuracy == run(tmp_path / "other", seed=1).accuracy
    assert len((folder / "metrics.jsonl").read_bytes()) == len((tmp_path / "other" / "metrics.jsonl").read_bytes())


def test_a_finished_run_without_its_checkpoint_is_no_trained_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(folder)
    for name in ("checkpoint", "checkpoint.previous"):
        shutil.rmtree(folder / name)
    with pytest.raises(StorageError, match="finished run whose checkpoint is gone; --overwrite trains it again"):
        run(folder)


DAMAGED = ("seed: [1\n", "- a\n", "schema: 2\n", "\x00", "stream: 3\n")


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_config_is_kept_until_it_may_be_overwritten(text: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(folder)
    (folder / "config.yaml").write_text(text)
    with pytest.raises(ReverieError, match="--overwrite to replace") as caught:
        run(folder, seed=1)
    assert caught.value.exit_code == 2
    assert (folder / "config.yaml").read_text() == text
    with pytest.raises(ReverieError):
        reverie.resume(folder)
    assert run(folder, seed=1, overwrite=True).accuracy == run(tmp_path / "other", seed=1).accuracy
    assert reverie.resume(folder).result["status"] == "complete"


def edit(folder: Path, old: str, new: str) -> None:
    text = (folder / "config.yaml").read_text()
    assert text.count(old) == 1
    (folder / "config.yaml").write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("steps: 6", "steps: 9", r"learner\.steps: 6 -> 9"),
        (
            "reset_each_task: false",
            "reset_each_task: true",
            r"learner\.solver\.optimiser\.reset_each_task: False -> True",
        ),
        ("name: naive", "name: cumulative", r"learner\.name: naive -> cumulative"),
        ("seed: 0", "seed: 1", "seed: 0 -> 1"),
    ],
)
def test_a_config_that_was_changed_beside_its_state_is_told(old: str, new: str, told: str, tmp_path: Path) -> None:
    for folder, door in ((tmp_path / "a", reverie.resume), (tmp_path / "b", reverie.load)):
        run(folder)
        edit(folder, old, new)
        before = (folder / "result.json").read_bytes()
        with pytest.raises(StorageError, match=rf"config\.yaml was changed since .*\({told}\); change it back"):
            door(folder)
        assert (folder / "result.json").read_bytes() == before
        edit(folder, new, old)
        assert door(folder).result["status"] == "complete"


def test_a_state_of_another_learner_is_told(tmp_path: Path) -> None:
    """Whatever its origin: here a state that does not say what made it."""
    for name, size in (("a", 5), ("b", 7)):
        solver = {"name": "mlp", "hidden": [size]}
        reverie.run(STREAM, {**LEARNER, "solver": solver}, out=tmp_path / name, threads=1)
    state = read_tree(tmp_path / "a" / "checkpoint")
    del state["made_by"]
    write_tree(tmp_path / "b" / "checkpoint", state)
    for door in (reverie.resume, reverie.load):
        with pytest.raises(
            StorageError, match=r"the state saved in .*b is not that of the learner in its config\.yaml"
        ):
            door(tmp_path / "b")


def test_a_state_that_was_whole_but_not_yet_in_place_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(folder)
    (folder / "checkpoint").rename(folder / "checkpoint.next")
    shutil.rmtree(folder / "checkpoint.previous")
    with pytest.warns(UserWarning, match="used instead"):
        reverie.load(folder)
