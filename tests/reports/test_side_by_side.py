"""Pictures beside tables: what every method says, side by side, and what discrepancy costs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reverie.checks import StorageError
from reverie.experiments.tables import DOMAINS, ERRORS, TASKS, Entry, Layout, PublishedTable
from reverie.reports.discrepancy import draw_discrepancy
from reverie.reports.side_by_side import draw_side_by_side
from tests.reports.test_posteriors import TASKS as COUNT
from tests.reports.test_posteriors import fan_arrays, plane_arrays, save

Write = Callable[..., Path]
PLACE = "runs/domain/{}/seed-1"


def table(layout: Layout) -> PublishedTable:
    entries = {name: Entry(f"method {name}", "demo", {}, ("domain",)) for name in "abcdef"}
    return PublishedTable("a table", "nobody", "a note", (1, 2), entries, layout=layout)


def regression(write_run: Write, name: str, **changes: Any) -> Path:
    findings = [{"task": task, "probe": "regression-fan", "numbers": {}} for task in range(COUNT)]
    mse = [[0.01, None, None], [0.02, 0.01, None], [0.1, 0.1, 0.1]]
    told = {"kind": "regression", "mse": mse, "findings": findings, "tasks": ["one", "two", "three"]}
    folder = write_run(PLACE.format(name), seed=1, accuracy=[], **{**told, **changes})
    for task in range(COUNT):
        save(folder, "regression-fan", fan_arrays(task, task + 1), task)
    return folder


def width(path: Path) -> int:
    with Image.open(path) as image:
        assert np.asarray(image.convert("L")).std() > 5  # something is drawn
        return image.size[0]


def test_fans_of_all_methods_that_were_run(write_run: Write, tmp_path: Path) -> None:
    picture = tmp_path / "images" / "curves.png"
    draw_side_by_side(table(ERRORS), tmp_path / "runs", picture)
    assert not picture.exists()  # of nothing
    regression(write_run, "a")
    draw_side_by_side(table(ERRORS), tmp_path / "runs", picture)
    one = width(picture)
    regression(write_run, "b")
    regression(write_run, "c", status="interrupted")
    draw_side_by_side(table(ERRORS), tmp_path / "runs", picture)
    assert width(picture) == 2 * one


def test_answers_in_the_plane_and_last_the_best(write_run: Write, tmp_path: Path) -> None:
    findings = [{"task": COUNT - 1, "probe": "plane", "numbers": {}}]
    accuracy = [[1.0, None, None], [0.8, 1.0, None], [0.5, 0.5, 0.5]]
    classes = ["cat", "dog", "owl", "fox", "elk", "emu"]
    for name in ("a", "b"):
        folder = write_run(PLACE.format(name), seed=1, accuracy=accuracy, findings=findings, classes=classes)
        save(folder, "plane", plane_arrays())
    picture = tmp_path / "modes.png"
    draw_side_by_side(table(TASKS), tmp_path / "runs", picture)
    assert width(picture) == pytest.approx(3 * 2.6 * 110, abs=1)


def test_places_without_a_method_are_empty(write_run: Write, tmp_path: Path) -> None:
    for name in "abcdef":
        regression(write_run, name)
    picture = tmp_path / "curves.png"
    draw_side_by_side(table(ERRORS), tmp_path / "runs", picture)
    with Image.open(picture) as image:
        shown = np.asarray(image.convert("L"))
    below = shown[shown.shape[0] // 2 :]
    assert below[:, : shown.shape[1] // 5].min() < 128
    assert below[:, -shown.shape[1] // 2 :].min() == 255


def test_damage_is_a_clear_error(write_run: Write, tmp_path: Path) -> None:
    folder = regression(write_run, "a")
    (folder / "arrays" / f"task-{COUNT}-regression-fan.safetensors").write_bytes(b"no")
    with pytest.raises(StorageError, match="the saved arrays are not readable"):
        draw_side_by_side(table(ERRORS), tmp_path / "runs", tmp_path / "curves.png")


def test_discrepancy_against_risk(tmp_path: Path) -> None:
    risk = {"target": [[0.1], [0.3, 0.1]], "source": [[None], [0.1, None]]}
    told = {"risk": risk, "discrepancy": [[None], [0.05, None]]}
    results: list[dict[str, Any]] = [{"entry": "a", "scenario": "domain", "seed": 1, "accuracy": [0.7, 0.9]}]
    picture = tmp_path / "images" / "lgaa.png"
    draw_discrepancy(table(DOMAINS), results, picture)
    assert not picture.exists()
    draw_discrepancy(table(DOMAINS), [{**results[0], **told}], picture)
    assert width(picture) == pytest.approx(5.2 * 110, abs=1)
