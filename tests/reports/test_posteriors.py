"""Models of single tasks on the page, of classification and of regression: runs written by hand, real ones, and damaged files."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import reverie
from reverie.checks import StorageError
from reverie.learners import PosteriorReplay
from reverie.reports import figures, posterior_figures, posteriors, tables, write_report
from reverie.reports.figures import Picture
from reverie.reports.records import CurveLine, read_run
from reverie.reports.tables import Group, group_runs
from reverie.streams import GaussianModes
from tests.reports.test_page import ATTACK, Page, outside

Write = Callable[..., Path]
Arrays = dict[str, np.ndarray]

TASKS, SIDE = 3, 12
CRITERIA = ("entropy", "agreement")


def inference_arrays(shift: float = 0.0) -> Arrays:
    entropy = np.full((TASKS, TASKS), 0.8) - shift
    np.fill_diagonal(entropy, 0.1)
    confusion = np.array([[8, 2, 0], [0, 10, 0], [5, 0, 5]])
    inside, outside = np.zeros((2, TASKS, 20), dtype=np.int64)
    inside[:, 1], inside[:, 15], outside[:, 18] = 9, 1, 20
    found = {"entropy": entropy, "auroc": entropy, "histogram_in": inside, "histogram_out": outside}
    return {**found, **{f"confusion_by_{criterion}": confusion for criterion in CRITERIA}}


def plane_arrays() -> Arrays:
    """Two classes a task; the first on the left. Without the task the second half of the plane is answered wrongly."""
    axis = np.linspace(-1, 1, SIDE, dtype=np.float32)
    left = np.tile(axis < 0, (SIDE, 1))
    classes = np.stack([np.where(left, 2 * k, 2 * k + 1) for k in range(TASKS)])
    best = np.where(left, 0, 1)
    answer = best.copy()
    answer[SIDE // 2 :] = 5
    return {
        "first": axis,
        "second": axis,
        "classes": classes,
        "answer": answer,
        "bayes": best,
        "entropy": np.stack([np.where(left, 0.9, 0.1) for _ in range(TASKS)]).astype(np.float32),
        "samples": np.stack([classes, classes]),
        "x": np.array([[-0.5, 0], [0.5, 0]] * TASKS, dtype=np.float32),
        "y": np.arange(2 * TASKS),
        "task": np.repeat(np.arange(TASKS), 2),
    }


def fan_arrays(task: int, models: int) -> Arrays:
    """Task k is the constant k in [k, k + 1]; predictions are off by 0.5, with a deviation of 0.25 there and 1 elsewhere."""
    grid = np.linspace(0, TASKS, 31, dtype=np.float32)
    inside = np.stack([(grid >= k) & (grid <= k + 1) for k in range(TASKS)])
    truth = np.where(inside, np.arange(TASKS)[:, None], np.nan).astype(np.float32)
    tasks = np.repeat(np.arange(task + 1), 4)
    return {
        "grid": grid,
        "truth": truth,
        "train_x": tasks + np.float32(0.5),
        "train_y": tasks.astype(np.float32),
        "mean": np.tile(np.arange(models, dtype=np.float32)[:, None] + 0.5, (1, 31)),
        "deviation": np.where(inside[:models], 0.25, 1).astype(np.float32),
        "train_task": tasks,
    }


def criterion_values(first: float, step: float) -> dict[str, float]:
    names = [name for criterion in CRITERIA for name in (criterion, f"{criterion}_in_batches")]
    return {name: first + k * step for k, name in enumerate(names)}


def save(folder: Path, probe: str, arrays: Arrays, task: int = TASKS - 1) -> None:
    (folder / "arrays").mkdir(exist_ok=True)
    save_file(arrays, folder / "arrays" / f"task-{task + 1}-{probe}.safetensors")


@pytest.fixture
def write_posterior_run(write_run: Write) -> Write:
    """A classifier with a model for each of three tasks."""

    def write(name: str, seed: int = 0, saved: Arrays | None = None, **changes: Any) -> Path:
        numbers = {"mean_auroc": 0.75 + 0.1 * seed, "calibration_error_given": 0.02}
        numbers |= {f"calibration_error_inferred_by_{criterion}": 0.2 for criterion in CRITERIA}
        findings = [
            *({"task": task, "probe": "task-inference", "numbers": numbers} for task in range(TASKS)),
            {"task": TASKS - 1, "probe": "plane", "numbers": {}},
        ]
        summary = {
            "average_accuracy": 0.5,
            "forgetting": 0.1,
            "tgiven_during": 0.99,
            "tgiven_final": 0.9 + 0.02 * seed,
            "tinfer_final": criterion_values(0.5, 0.1),
            "task_inference_accuracy": criterion_values(0.55, 0.1),
        }
        given = {"accuracy": [[1.0, None, None], [0.8, 1.0, None], [0.5, 0.5, 0.5]], "summary": summary}
        classes = ["cat", "dog", "owl", "fox", "elk", "emu"]
        options: Any = {"classes": classes, "findings": findings, **given, **changes}
        folder = write_run(name, "posterior-replay", seed, **options)
        save(folder, "task-inference", inference_arrays(0.2 * seed))
        save(folder, "plane", plane_arrays() if saved is None else saved)
        return folder

    return write


@pytest.fixture
def write_regression_run(write_run: Write) -> Write:
    def write(name: str, learner: str = "posterior-replay", seed: int = 0, models: bool = True, **changes: Any) -> Path:
        last = [0.04, 0.02, 0.3 + 0.1 * seed]
        mse = [[0.01, None, None], [0.02, 0.01, None], last]
        summary = {
            **dict.fromkeys(("average_accuracy", "forgetting", "learning_accuracy", "tgiven_during", "tgiven_final")),
            "mse_during": 0.0125,
            "mse_final": 0.1,
            "nll_final": -1.5,
            "coverage_final": 0.9,
            "mse_inferred": {"agreement": 0.25} if models else None,
            "task_inference_accuracy": {"agreement": 0.8} if models else None,
        }
        findings = [{"task": task, "probe": "regression-fan", "numbers": {}} for task in range(TASKS)]
        tasks = [f"curve {k}" for k in range(TASKS)]
        options: Any = {"kind": "regression", "mse": mse, "summary": summary, "findings": findings, "tasks": tasks}
        folder = write_run(name, learner, seed, accuracy=[], **{**options, **changes})
        for task in range(TASKS):
            save(folder, "regression-fan", fan_arrays(task, task + 1 if models else 1), task)
        lines = [
            {
                "kind": "curve",
                "task": task,
                "phase": "train",
                "step": step,
                "mse": [50 / step] * (task + 1) + [None] * (2 - task),
            }
            for task in range(TASKS)
            for step in (50, 5000)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return folder

    return write


def only_group(*folders: Path) -> Group:
    (group,) = group_runs([read_run(folder) for folder in folders])
    return group


def check_pictures(pictures: list[Picture]) -> None:
    assert pictures
    for picture in pictures:
        root = ET.fromstring(picture.svg)
        assert root.get("aria-label") == picture.alt
        styles = " ".join(re.findall(r'style="([^"]*)"', picture.svg))
        assert not re.findall(r"(?<!, )#[0-9a-f]{6}", styles), "a colour that does not follow the theme"
        assert len(picture.svg) < 200_000


def section(text: str, name: str) -> str:
    return text[text.index(f'<section id="s1-{name}">') :].split("</section>")[0]


# ------------------------------------------------------------------------------------------ classification


def test_the_table_has_a_line_for_each_way_in_which_the_task_is_known(write_posterior_run: Write) -> None:
    table = posteriors.inference_table([only_group(write_posterior_run("a"), write_posterior_run("b", 1))])
    assert table is not None
    names = [column.name for column in table.columns]
    assert names == ["result", "result_in_batches", "found", "found_in_batches", "calibration", "auroc"]
    ((label, lines),) = table.rows
    assert label == "posterior-replay"
    assert dict(lines) == {
        "given, just after learning": ("99.0 ± 0.0 %", "", "", "", "", ""),
        "given": ("91.0 ± 1.0 %", "", "", "", "2.0 ± 0.0 %", ""),
        "inferred by entropy": (
            *("50.0 ± 0.0 %", "60.0 ± 0.0 %", "55.0 ± 0.0 %", "65.0 ± 0.0 %", "20.0 ± 0.0 %", "80.0 ± 5.0 %"),
        ),
        "inferred by agreement": (
            *("70.0 ± 0.0 %", "80.0 ± 0.0 %", "75.0 ± 0.0 %", "85.0 ± 0.0 %", "20.0 ± 0.0 %", ""),
        ),
    }


def test_columns_of_which_nothing_is_known_are_left_out(write_posterior_run: Write, write_run: Write) -> None:
    groups = group_runs([read_run(write_posterior_run("a", findings=[])), read_run(write_run("naive"))])
    table = posteriors.inference_table(groups)
    assert table is not None
    assert [column.name for column in table.columns] == ["result", "result_in_batches", "found", "found_in_batches"]
    assert [label for label, _ in table.rows] == ["posterior-replay"]
    assert posteriors.inference_table(groups[1:]) is None
    assert posteriors.inference_table([only_group(write_posterior_run("b", status="interrupted"))]) is None


def test_entropies_are_means_over_seeds_and_say_so(write_posterior_run: Write) -> None:
    found = posteriors.entropies(only_group(write_posterior_run("a"), write_posterior_run("b", 1)))
    assert found is not None
    assert (found.task, found.n, found.seed) == (2, 2, 0)
    assert found.entropy[0] == pytest.approx([0.1, 0.7, 0.7])
    picture = posterior_figures.entropy_map(found, "it")
    assert "mean of the diagonal 0.10. Rows of task 1: model 1 0.10, model 2 0.70, model 3 0.70." in picture.alt
    by_entropy, by_agreement = posterior_figures.confusion_maps(found, "it")
    assert "by entropy" in by_entropy.alt
    assert "by agreement" in by_agreement.alt
    assert by_entropy.alt.endswith("Rows whose task is found: task 1 80.0 %, task 2 100.0 %, task 3 50.0 %.")
    histograms = posterior_figures.entropy_histograms(found, "it")
    assert len(histograms) == TASKS
    assert "above one half are 10.0 % under its own model and 100.0 % under other models." in histograms[0].alt
    check_pictures([picture, by_entropy, by_agreement, *histograms])


def test_the_plane(write_posterior_run: Write) -> None:
    found = posteriors.plane(only_group(write_posterior_run("a")))
    assert found is not None
    answers = posterior_figures.plane_answers(found, "it")
    models = posterior_figures.plane_models(found, "it")
    assert "as the best answer on 50.0 % of the plane" in answers[0].alt
    assert answers[0].alt.endswith("Share of the plane by class: cat 25.0 %, dog 25.0 %, emu 50.0 %.")
    assert "an estimate" in answers[1].caption
    assert [title for title, _ in models] == [f"model of task {k + 1}" for k in range(TASKS)]
    entropy, *samples = models[1][1]
    assert "above one half on 50.0 % of the plane" in entropy.alt
    assert [sample.alt.split(":")[-1] for sample in samples] == [" owl 50.0 %, fox 50.0 %."] * 2
    check_pictures([*answers, *(picture for _, pictures in models for picture in pictures)])


def test_a_point_in_the_plane_has_no_samples(write_posterior_run: Write) -> None:
    arrays = {name: array for name, array in plane_arrays().items() if name != "samples"}
    found = posteriors.plane(only_group(write_posterior_run("a", saved=arrays)))
    assert found is not None
    assert [len(pictures) for _, pictures in posterior_figures.plane_models(found, "it")] == [1] * TASKS


def test_the_page_has_a_section(write_posterior_run: Write, write_run: Write, tmp_path: Path) -> None:
    folders = [write_posterior_run("a"), write_posterior_run("b", 1), write_run("naive")]
    text = write_report(folders, tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert '<a href="#s1-inference">Task inference</a>' in text
    mine = section(text, "inference")
    assert mine.count("<svg") == 3 + 3 + 2 + 3 * 3
    assert 'rowspan="4">posterior-replay</th>' in mine
    assert "naive" not in mine
    assert len(page.all("caption")) == len(page.all("table"))
    assert all("scope" in cell for cell in page.all("th"))
    assert outside(text) == []
    alone = write_report(folders[2:], tmp_path / "alone.html").read_text(encoding="utf-8")
    assert "Task inference" not in alone


def test_what_a_run_says_is_escaped(write_posterior_run: Write, tmp_path: Path) -> None:
    classes = [ATTACK, "]]>" + ATTACK, "$x$", "<b>", "&", '"']
    text = write_report([write_posterior_run("a", classes=classes)], tmp_path / "report.html").read_text("utf-8")
    page = Page(text)
    assert not page.all("script")
    assert not page.all("b")


def test_a_real_run(tmp_path: Path) -> None:
    run = reverie.run(GaussianModes(), PosteriorReplay(steps=5, test_samples=3), out=tmp_path / "run")
    text = write_report([tmp_path / "run"], tmp_path / "report.html").read_text(encoding="utf-8")
    mine = section(text, "inference")
    assert mine.count("<svg") == 1 + 3 + 3 + 2 + 3 * 4
    assert f"{100 * run.summary['tinfer_final']['agreement']:.1f} %" in mine
    Page(text)


# ------------------------------------------------------------------------------------------ regression


def test_regression_has_errors_for_accuracies(write_regression_run: Write) -> None:
    folders = [write_regression_run("a"), write_regression_run("b", seed=1)]
    groups = group_runs([read_run(folder) for folder in folders])
    (row,) = tables.summary_rows([read_run(folder) for folder in folders])
    texts = {column.heading: column.text(row) for column in tables.REGRESSION_COLUMNS}
    assert texts["Mean squared error"] == "0.137 ± 0.017"  # (0.36 + 0.46) / 6
    assert (texts["Just after learning"], texts["Negative log-likelihood"]) == ("0.0125", "-1.5")
    assert texts["Task given"] == "0.1"
    assert texts["Coverage"] == "90.0 ± 0.0 %"
    progress = figures.progress_after_tasks(groups)
    assert progress is not None
    assert "posterior-replay: 0.01 after task 1 and 0.137 ± 0.017 after task 3" in progress.alt
    steps = figures.progress_over_steps(groups)
    assert steps is not None
    assert "highest 1, last 0.01 at step 15,000" in steps.alt
    (heat,) = figures.heat_maps(groups)
    assert heat.alt.endswith("After task 3: task 1 0.04, task 2 0.02, task 3 0.35.")
    assert figures.forgetting_bars(groups) is None
    panels = figures.progress_by_task(groups)
    check_pictures([progress, steps, heat, *panels])
    for picture in (progress, steps, heat, *panels):
        assert "%" not in picture.alt
        assert "accuracy" not in picture.alt
    line = next(line for line in groups[0].first.lines if isinstance(line, CurveLine))
    assert line.row == [1.0, None, None]


def test_errors_are_coloured_on_one_scale_for_all_groups(write_regression_run: Write) -> None:
    large = [[1.0, None, None], [10.0, 1.0, None], [100.0, 10.0, 1.0]]
    groups = group_runs([read_run(write_regression_run("a")), read_run(write_regression_run("b", "naive", mse=large))])
    opacities = [[float(o) for o in re.findall(r"opacity: ([\d.]+)", map_.svg)] for map_ in figures.heat_maps(groups)]
    assert len(opacities[1]) == 5  # of six squares: the one of the largest error is opaque
    assert max(opacities[0]) == pytest.approx(np.log(30) / np.log(1e4), abs=0.01)
    assert min(opacities[0]) == 0.06


def test_fans_say_how_far_off_and_how_sure_predictions_are(write_regression_run: Write) -> None:
    found = posteriors.fans(only_group(write_regression_run("a"), write_regression_run("b", seed=1)))
    assert [(fan.task, fan.seed) for fan in found] == [(0, 0), (1, 0), (2, 0)]
    picture = posterior_figures.fan(found[-1], "it", "it")
    assert picture.alt.startswith("Predictions of it, seed 0, after task 3, with bands")
    assert "Task 3: off by 0.5, with a deviation of 0.25 inside its interval and 1 outside." in picture.alt
    assert len({*re.findall(r"var\(--series-\d+", picture.svg)}) == TASKS
    first = posterior_figures.fan(found[0], "it", "it")
    assert "Task 2" not in first.alt
    strip = posterior_figures.fan_strip(found, "it")
    assert len(strip) == TASKS
    check_pictures([picture, first, *strip])


def test_a_single_model_for_all_tasks_has_a_colour_of_its_own(write_regression_run: Write) -> None:
    found = posteriors.fans(only_group(write_regression_run("a", "vcl", models=False)))
    picture = posterior_figures.fan(found[-1], "it", "it")
    assert "Task 3: off by 1.5, with a deviation of 1 inside its interval" in picture.alt
    assert len({*re.findall(r"var\(--series-\d+", picture.svg)}) == TASKS + 1
    check_pictures([picture])


def test_a_page_of_regression(write_regression_run: Write, tmp_path: Path) -> None:
    folders = [write_regression_run("a"), write_regression_run("b", "vcl", models=False)]
    text = write_report(folders, tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", text)
    assert headings[:5] == ["Summary", "Mean squared error", "Error matrices", "Predictions", "Task inference"]
    assert "<h1>split-toy, class-incremental regression</h1>" in text
    assert "ccuracy" not in text.split("</style>")[1].split('<section id="s1-options">')[0]
    assert section(text, "fans").count("<svg") == 2 + 2 * TASKS
    mine = section(text, "inference")
    for said in ("given, just after learning", "inferred by agreement", "0.25", "80.0 %", "posterior-replay"):
        assert said in mine
    assert "vcl" not in mine
    runs = text[text.index('<section id="runs">') :].split("</section>")[0]
    assert ">Mean squared error</th>" in runs
    assert '<td class="n">0.12</td>' in runs
    assert outside(text) == []
    assert len(page.all("caption")) == len(page.all("table"))


def test_both_kinds_on_one_page_are_apart(write_regression_run: Write, write_run: Write, tmp_path: Path) -> None:
    folders = [write_run("naive"), write_regression_run("a", "naive")]
    text = write_report(folders, tmp_path / "report.html").read_text(encoding="utf-8")
    assert '<h2 class="setting">split-toy, class-incremental</h2>' in text
    assert '<h2 class="setting">split-toy, class-incremental regression</h2>' in text
    assert ">Average accuracy or mean squared error</th>" in text
    Page(text)


def test_regression_that_failed_at_once_still_makes_a_page(write_regression_run: Write, tmp_path: Path) -> None:
    summary = dict.fromkeys(("average_accuracy", "mse_final"))
    folder = write_regression_run("a", status="failed", mse=[], findings=[], memory={}, summary=summary)
    Page(write_report([folder], tmp_path / "report.html").read_text(encoding="utf-8"))


# ------------------------------------------------------------------------------------------ damage


DAMAGES: dict[str, tuple[str, dict[str, Any], str]] = {
    "entropy of one dimension": ("task-inference", {"entropy": np.zeros(3)}, "entropy must have 2 dimensions"),
    "histograms of other test sets": ("task-inference", {"histogram_in": np.zeros((2, 20))}, "do not fit"),
    "not finite": ("task-inference", {"entropy": np.full((3, 3), np.nan)}, "entropy must be finite"),
    "a map of another size": ("plane", {"bayes": np.zeros((3, 3), dtype=np.int64)}, "do not fit"),
    "a class too many": ("plane", {"bayes": np.full((SIDE, SIDE), 6)}, "a class that the run does not have"),
    "three inputs": ("plane", {"x": np.zeros((6, 3), dtype=np.float32)}, "do not fit"),
    "a fan without a grid": ("regression-fan", {"grid": np.zeros((3, 3))}, "grid must have 1 dimensions"),
    "a task too many": ("regression-fan", {"train_task": np.full(12, 3)}, "train_task has a task"),
    "a model too few": ("regression-fan", {"mean": np.zeros((2, 31)), "deviation": np.ones((2, 31))}, "mean must have"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_a_clear_error(
    write_posterior_run: Write, write_regression_run: Write, tmp_path: Path, damage: str
) -> None:
    probe, change, message = DAMAGES[damage]
    sound = {"task-inference": inference_arrays, "plane": plane_arrays, "regression-fan": lambda: fan_arrays(2, 3)}
    folder = write_regression_run("a") if probe == "regression-fan" else write_posterior_run("a")
    save(folder, probe, {**sound[probe](), **change})
    with pytest.raises(StorageError, match=f"(?s)not as expected: .*task-3-{probe}.*{message}"):
        write_report([folder], tmp_path / "report.html")
    (folder / "arrays" / f"task-3-{probe}.safetensors").write_bytes(b"\x80\x04]")
    with pytest.raises(StorageError, match="the saved arrays are not readable"):
        write_report([folder], tmp_path / "report.html")
