"""Generated latents on the page: tables and projections of runs written by hand, and every way in which their files can be damaged."""

from __future__ import annotations

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
from reverie.generators import Densities
from reverie.learners import GenerativeReplay
from reverie.reports import figures, latents, write_report
from reverie.reports.records import read_run
from reverie.reports.tables import group_runs
from reverie.streams import Blobs
from tests.reports.test_page import ATTACK, Page, outside

Write = Callable[..., Path]

NAMES = ("frechet", "precision", "recall", "density", "coverage", "train_on_generated", "train_on_real")


def numbers(classes: list[int], first: float, rows: int = 30) -> dict[str, Any]:
    """Every measure of the k-th class is first + k / 10."""
    by_class = [first + k / 10 for k in range(len(classes))]
    found: dict[str, Any] = {"classes": [float(c) for c in classes], "real_rows": [float(rows)] * len(classes)}
    for name in NAMES:
        found |= {name: by_class, f"mean_{name}": sum(by_class) / len(by_class) if by_class else None}
    return found


def arrays(classes: tuple[int, ...] = (0, 1, 2, 3), each: int = 9, shift: float = 0.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    y = np.repeat(np.array(classes, dtype=np.int64), each)
    x = (rng.normal(size=(len(y), 2)) + 8 * y[:, None]).astype(np.float32)
    return {"real": x, "real_classes": y, "generated": x + np.float32(shift), "generated_classes": y}


@pytest.fixture
def write_latent_run(write_run: Write) -> Write:
    def write(name: str, seed: int = 0, saved: dict[str, np.ndarray] | None = None, **changes: Any) -> Path:
        findings = [
            {"task": 0, "probe": "latent-quality", "numbers": numbers([0, 1], 0.5 + 0.1 * seed)},
            {"task": 1, "probe": "latent-quality", "numbers": numbers([0, 1, 2, 3], 0.4 + 0.1 * seed, 30 + seed)},
        ]
        folder = write_run(name, "generative-latent-replay", seed, **{"findings": findings, **changes})
        (folder / "arrays").mkdir()
        save_file(arrays() if saved is None else saved, folder / "arrays" / "task-2-latent-quality.safetensors")
        return folder

    return write


def test_tables_are_means_over_seeds_by_the_users_labels(write_latent_run: Write) -> None:
    folders = [write_latent_run("a"), write_latent_run("b", 1, classes=["dog", "cat", "owl", "fox"])]
    (group,) = group_runs([read_run(folder) for folder in folders])
    found = latents.quality(group)
    assert found is not None
    assert (found.task, found.rows) == (1, "30 to 31")
    by_class = dict(found.by_class)
    assert list(by_class) == ["cat", "dog", "owl", "fox"]
    # cat: 0.4 and, being second there, 0.6; owl: 0.6 and 0.7
    assert by_class["cat"][:2] == ("0.500 ± 0.100", "50.0 ± 10.0 %")
    assert by_class["owl"][:2] == ("0.650 ± 0.050", "65.0 ± 5.0 %")
    by_task = dict(found.by_task)
    assert by_task["1"][0] == "0.600 ± 0.050"
    assert by_task["2"][1] == "60.0 ± 5.0 %"
    assert len(by_task["2"]) == len(latents.MEASURES) == len(NAMES)


def test_where_classes_are_met_again_there_is_a_table_by_the_task_of_the_rows(
    write_latent_run: Write, tmp_path: Path
) -> None:
    cells = {"origin_tasks": [0.0, 0.0, 1.0], "origin_classes": [0.0, 1.0, 1.0], "origin_rows": [9.0] * 3}
    folders = []
    for seed in (0, 1):
        values = {f"origin_{name}": [0.1 + 0.2 * seed, 0.3 + 0.2 * seed, 0.8] for name in NAMES[:5]}
        finding = {"task": 1, "probe": "latent-quality", "numbers": {**numbers([0, 1], 0.4), **cells, **values}}
        folders.append(write_latent_run("ab"[seed], seed, findings=[finding]))
    (group,) = group_runs([read_run(folder) for folder in folders])
    found = latents.quality(group)
    assert found is not None
    assert [(name, row[1]) for name, row in found.by_origin] == [("1", "30.0 ± 10.0 %"), ("2", "80.0 ± 0.0 %")]
    assert [(name, row[1]) for name, row in found.by_cell] == [
        ("1, cat", "20.0 ± 10.0 %"),
        ("1, dog", "40.0 ± 10.0 %"),
        ("2, dog", "80.0 ± 0.0 %"),
    ]
    assert found.by_cell[0][1][5:] == ("–", "–")
    text = write_report(folders, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "By the task that rows are of, after task 2, mean over classes." in text
    assert "3 classes of tasks" in text


def test_a_class_that_was_not_measured_is_a_gap(write_latent_run: Write) -> None:
    finding = {"task": 1, "probe": "latent-quality", "numbers": numbers([0, 3], 0.4)}
    folders = [write_latent_run("a"), write_latent_run("b", 1, findings=[finding])]
    (group,) = group_runs([read_run(folder) for folder in folders])
    found = latents.quality(group)
    assert found is not None
    by_class = dict(found.by_class)
    assert by_class["owl"] == ("–",) * len(NAMES)
    assert by_class["cat"][1] == "40.0 ± 0.0 %"
    nothing = {"task": 1, "probe": "latent-quality", "numbers": numbers([], 0.4)}
    (group,) = group_runs([read_run(write_latent_run("c", findings=[nothing]))])
    empty = latents.quality(group)
    assert empty is not None
    assert (empty.by_class, empty.rows) == ((), "no")
    assert empty.by_task == (("2", ("–",) * len(NAMES)),)


def test_runs_without_the_probe_have_no_section(write_replay_run: Write, tmp_path: Path) -> None:
    folder = write_replay_run("a")
    (group,) = group_runs([read_run(folder)])
    assert latents.quality(group) is None
    assert latents.projection(group.first) is None
    assert "Generated latents" not in write_report([folder], tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_projection_says_how_far_classes_are_apart(write_latent_run: Write) -> None:
    saved = arrays(shift=3.0)
    lost = saved["generated_classes"] != 3
    saved |= {"generated": saved["generated"][lost], "generated_classes": saved["generated_classes"][lost]}
    view = latents.projection(read_run(write_latent_run("a", saved=saved)))
    assert view is not None
    real, generated = figures.projections(view, "a learner, seed 0")
    cloud = view.of("cat")[0]
    apart = 3 * 2**0.5 / np.sqrt(cloud.var(axis=0).sum())
    assert f"cat {apart:.1f}, dog" in generated.alt
    assert generated.alt.endswith("fox not generated.")
    assert real.alt.endswith("Classes: cat, dog, owl and fox.")
    for picture in (real, generated):
        assert "a learner, seed 0, after task 2" in picture.alt
        root = ET.fromstring(picture.svg)
        assert root.get("aria-label") == picture.alt
        styles = " ".join(re.findall(r'style="([^"]*)"', picture.svg))
        assert not re.findall(r"(?<!, )#[0-9a-f]{6}", styles), "a colour that does not follow the theme"
        assert len({*re.findall(r"var\(--series-\d+", picture.svg)}) == (4 if picture is real else 3)
    assert [p.svg for p in figures.projections(view, "a learner, seed 0")] == [real.svg, generated.svg]


def test_many_classes_are_thinned_out(write_latent_run: Write) -> None:
    saved = arrays(tuple(range(100)), each=200)
    names = [f"class {k}" for k in range(100)]
    view = latents.projection(read_run(write_latent_run("a", saved=saved, classes=names)))
    assert view is not None
    for picture in figures.projections(view, "it"):
        assert "(20 of 100 classes, evenly spread)" in picture.alt
        assert len(picture.svg) < 400_000


def test_the_last_projection_is_shown_and_none_is_no_mistake(write_latent_run: Write) -> None:
    folder = write_latent_run("a")
    path = folder / "arrays" / "task-2-latent-quality.safetensors"
    path.rename(folder / "arrays" / "task-1-latent-quality.safetensors")
    view = latents.projection(read_run(folder))
    assert view is not None
    assert view.task == 0
    only_real = {name: array for name, array in arrays().items() if name.startswith("real")}
    view = latents.projection(read_run(write_latent_run("b", saved=only_real)))
    assert view is not None
    assert "cat not generated" in figures.projections(view, "it")[1].alt
    assert latents.projection(read_run(write_latent_run("c", saved={"other": np.zeros(2)}))) is None


DAMAGES: dict[str, tuple[dict[str, Any], str]] = {
    "three columns": ({"real": np.zeros((36, 3), dtype=np.float32)}, "not as expected.*real must be"),
    "not finite": ({"generated": np.full((36, 2), np.nan, dtype=np.float32)}, "generated must be"),
    "too few classes": ({"real_classes": np.zeros(3, dtype=np.int64)}, "real must be"),
    "classes that are no numbers": ({"real_classes": np.zeros(36, dtype=np.float32)}, "real must be"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_a_clear_error(write_latent_run: Write, tmp_path: Path, damage: str) -> None:
    change, message = DAMAGES[damage]
    folder = write_latent_run("a", saved={**arrays(), **change})
    with pytest.raises(StorageError, match=f"task-2-latent-quality.safetensors|{message}"):
        write_report([folder], tmp_path / "report.html")
    (folder / "arrays" / "task-2-latent-quality.safetensors").write_bytes(b"\x80\x04]")
    with pytest.raises(StorageError, match="not readable"):
        latents.projection(read_run(folder))


def test_the_page(write_latent_run: Write, write_run: Write, tmp_path: Path) -> None:
    folders = [write_latent_run("a"), write_latent_run("b", 1), write_run("naive")]
    text = write_report(folders, tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert '<a href="#s1-latents">' in text
    section = text[text.index('<section id="s1-latents">') :].split("</section>")[0]
    assert section.count("<svg") == 2
    for said in (
        "By class, after task 2; 30 to 31 real rows a class",
        "60.0 ± 5.0 %",
        "Fréchet distance",
        "generative-latent-replay",
    ):
        assert said in section
    assert "naive" not in section
    assert len(page.all("caption")) == len(page.all("table"))
    assert outside(text) == []


def test_what_a_run_says_is_escaped(write_latent_run: Write, tmp_path: Path) -> None:
    folder = write_latent_run("a", classes=[ATTACK, "]]>" + ATTACK, "$x$", "<b>"])
    text = write_report([folder], tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not page.all("script")
    assert not page.all("b")


def test_a_real_run(tmp_path: Path) -> None:
    learner = GenerativeReplay(generator=Densities(), labels="condition", quality=True, steps=5)
    run = reverie.run(Blobs(tasks=2), learner, out=tmp_path / "run")
    text = write_report([tmp_path / "run"], tmp_path / "report.html").read_text(encoding="utf-8")
    last = [finding for finding in run.result["findings"] if finding["probe"] == "latent-quality"][-1]["numbers"]
    assert f"{100 * last['mean_coverage']:.1f} %" in text
    section = text[text.index('<section id="s1-latents">') :].split("</section>")[0]
    assert section.count("<svg") == 2
    Page(text)
