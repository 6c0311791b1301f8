"""Figures: they draw for every kind of record, say in words what they show, and take their colours from the page."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from reverie.reports import figures
from reverie.reports.figures import BUFFER, REPLAY, Picture
from reverie.reports.records import read_run
from reverie.reports.tables import Group, group_runs
from tests.reports.conftest import matrix

Write = Callable[..., Path]


@pytest.fixture
def groups(write_run: Write, write_replay_run: Write) -> list[Group]:
    folders = [write_replay_run(f"gr-{seed}", seed) for seed in (0, 1)]
    folders += [write_run("joint", "joint", accuracy=[[0.9, 0.7]]), write_run("naive")]
    return group_runs([read_run(folder) for folder in folders])


def all_figures(groups: list[Group]) -> list[Picture]:
    one = [
        figures.progress_after_tasks(groups),
        figures.progress_over_steps(groups),
        figures.forgetting_bars(groups),
        figures.memory_bars(groups),
        figures.cost_bars(groups),
    ]
    several = [
        figures.heat_maps(groups),
        figures.progress_by_task(groups),
        figures.losses(groups),
        *(figures.histograms(group, REPLAY) for group in groups),
    ]
    return [picture for picture in one if picture] + [picture for pictures in several for picture in pictures]


def test_every_figure_is_an_svg_that_the_page_colours(groups: list[Group]) -> None:
    pictures = all_figures(groups)
    assert len(pictures) == 5 + 3 + 2 + 1 + 1
    for picture in pictures:
        root = ET.fromstring(picture.svg)
        assert root.tag.endswith("svg")
        assert root.get("aria-label") == picture.alt
        styles = " ".join(re.findall(r'style="([^"]*)"', picture.svg))
        assert not re.findall(r"(?<!, )#[0-9a-f]{6}", styles), "a colour that does not follow the theme"
        assert "<style" not in picture.svg
        assert "$" not in picture.svg


def test_alt_texts_hold_the_numbers(groups: list[Group]) -> None:
    curve = figures.progress_after_tasks(groups)
    assert curve is not None
    assert "generative-replay: 100.0 ± 0.0 % after task 1 and 92.5 ± 2.5 % after task 2" in curve.alt
    assert "joint: 80.0 % having learnt all tasks at once" in curve.alt
    heat = figures.heat_maps(groups)[0]
    assert heat.alt.endswith("After task 2: task 1 85.0 %, task 2 100.0 %.")
    (histogram,) = figures.histograms(groups[0], REPLAY)
    assert "cat 60.0 %, dog 40.0 %, owl 0.0 %, fox 0.0 %" in histogram.alt
    bars = figures.forgetting_bars(groups)
    assert bars is not None
    assert "naive: 80.0 %" in bars.alt
    assert "joint" not in bars.alt


def test_a_buffer_is_drawn_in_rows_and_apart_from_replay(write_run: Write) -> None:
    def findings(seed: int) -> list[dict[str, object]]:
        rows = {"task": 1, "probe": "buffer-classes", "numbers": {"histogram": [10 + 2 * seed, 10, 0, 0]}}
        return [rows, {"task": 1, "probe": "replay-quality", "numbers": {"histogram": [0.6, 0.4, 0.0, 0.0]}}]

    folders = [write_run(f"replay-{seed}", "replay", seed, findings=findings(seed)) for seed in (0, 1)]
    (group,) = group_runs([read_run(folder) for folder in folders])
    (buffer,), (replay,) = (figures.histograms(group, kind) for kind in (BUFFER, REPLAY))
    assert buffer.alt == "Bars: rows of each class in the buffer of replay after task 2: cat 11, dog 10, owl 0, fox 0."
    assert "cat 60.0 %, dog 40.0 %" in replay.alt
    assert "%" not in buffer.svg
    assert "%" in replay.svg


def test_the_same_records_draw_the_same_bytes(groups: list[Group]) -> None:
    assert [picture.svg for picture in all_figures(groups)] == [picture.svg for picture in all_figures(groups)]


def test_runs_without_results_draw_nothing(write_run: Write) -> None:
    groups = group_runs([read_run(write_run("a", status="failed", accuracy=[], memory={}))])
    assert figures.progress_after_tasks(groups) is None
    assert figures.heat_maps(groups) == []
    assert figures.forgetting_bars(groups) is None
    assert figures.memory_bars(groups) is None


def test_long_streams_show_some_of_their_tasks(write_run: Write) -> None:
    groups = group_runs([read_run(write_run("a", accuracy=matrix([0.5] * 50)))])
    panels = figures.progress_by_task(groups)
    assert len(panels) == figures.MOST_PANELS
    assert (panels[0].caption, panels[-1].caption) == ("task 1", "task 50")
    (heat,) = figures.heat_maps(groups)
    assert len(heat.svg) < 500_000


def test_names_are_plain_text(write_run: Write) -> None:
    names = ["$x_1$ <b>&", "任务 \U0001f98a"]
    groups = group_runs([read_run(write_run("a", "<i>$y$", tasks=names))])
    for picture in all_figures(groups):
        root = ET.fromstring(picture.svg)
        assert not [element for element in root.iter() if element.tag in ("b", "i")]
    assert "任务" in figures.progress_by_task(groups)[1].svg


def test_more_groups_than_colours_differ_in_dash(write_run: Write) -> None:
    count = len(figures.SERIES) + 1
    groups = group_runs([read_run(write_run(str(k), learner_options={"steps": k + 1})) for k in range(count)])
    assert figures.swatch(0, groups[0]) != figures.swatch(count - 1, groups[-1])
    assert figures.progress_after_tasks(groups) is not None
