"""Run folders at the moments when something went wrong: half written, half lost, of another run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import reverie
from reverie.checks import StorageError
from reverie.reports import read_run

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


def test_a_state_that_was_whole_but_not_yet_in_place_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(folder)
    (folder / "checkpoint").rename(folder / "checkpoint.next")
    shutil.rmtree(folder / "checkpoint.previous")
    with pytest.warns(UserWarning, match="used instead"):
        reverie.load(folder)
