"""``reverie dream``: every feature on one small run, and what it says where it cannot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import reverie
from reverie.cli import BAD_USAGE, DONE, main
from reverie.cli.dream_features import FEATURES
from reverie.learners import LGAA
from reverie.probes.dreams import Dreams
from reverie.reports.grids import GAP, MARGIN
from tests.cli.test_main import Answer, Command, command
from tests.test_dreams import stream
from tests.tiny import Halt

__all__ = ["command"]  # the fixture

PITCH = 56 + GAP  # pixels from tile to tile
SMALL = ["--learner", "lgaa", "--learner.steps", "4", "--learner.batch_size", "8", "--threads", "1", "--json"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dream") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LGAA, "probes", lambda self: (Dreams(),))
        words = ["run", "--stream", "digits-inverted", "--scenario", "domain", *SMALL, "--out", str(folder)]
        assert main(words) == DONE
    return folder


def size(file: Path) -> tuple[int, int]:
    with Image.open(file, formats=["PNG"]) as picture:
        picture.load()
        return picture.size


def pictured(answer: Answer) -> Path:
    assert answer.code == DONE, answer.err
    return Path(answer.out.splitlines()[-1].removeprefix("picture: "))


# Columns and rows of tiles, at least; blocks stand side by side.
TILES = {
    "generate": (16, 10),
    "reconstruct": (10, 5),
    "replay": (8, 8),
    "interpolate": (11, 8),
    "traverse": (14, 10),
    "translate": (8, 6),
    "cluster": (16, 10),
    "embed": (16, 11),
    "novelty": (20, 7),
    "judge": (11, 26),
}
BRIEF = {"judge": ["--steps", "20", "--batch-size", "16", "--n", "20"]}


@pytest.mark.parametrize("feature", FEATURES)
def test_every_feature_draws_a_picture(feature: str, run: Path, command: Command) -> None:
    file = pictured(command("dream", run, feature, *BRIEF.get(feature, [])))
    assert file == run / "samples" / f"dream-{feature}.png"
    width, height = size(file)
    columns, rows = TILES[feature]
    assert columns * PITCH <= width
    assert rows * PITCH <= height <= (rows + 6) * PITCH
    with Image.open(file) as picture:
        caption = picture.info["Description"]
    assert "lgaa on digits+digits-inverted (domain-incremental), 2 of 2 tasks learnt, seed 0" in caption
    assert "networks 'tiny', 4 steps a task; drawn with seed 0." in caption


def test_as_a_process(run: Path, tmp_path: Path) -> None:
    words = [
        "dream",
        str(run),
        "generate",
        "--n",
        "2",
        "--classes",
        "3",
        "8",
        "--out",
        str(tmp_path / "new" / "some.png"),
    ]
    done = subprocess.run([sys.executable, "-m", "reverie", *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == DONE, done.stderr
    assert done.stdout == f"picture: {tmp_path / 'new' / 'some.png'}\n"
    assert size(tmp_path / "new" / "some.png")[1] < 5 * PITCH


def test_the_same_seed_draws_the_same_picture(run: Path, tmp_path: Path, command: Command) -> None:
    files = []
    for name, seed in (("a", 4), ("b", 4), ("c", 5)):
        files.append(tmp_path / f"{name}.png")
        pictured(command("dream", run, "generate", "--seed", seed, "--temperature", "0.8", "--out", files[-1]))
    first, second, third = (np.asarray(Image.open(file).convert("L")) for file in files)
    assert np.array_equal(first, second)
    assert not np.array_equal(first[: 8 * PITCH], third[: 8 * PITCH])


def test_reconstructions_after_their_own_task_come_from_the_run(run: Path, tmp_path: Path, command: Command) -> None:
    answer = command("dream", run, "reconstruct", "--json", "--out", tmp_path / "x.png")
    numbers = json.loads(answer.out)
    assert set(numbers["digits"]) == {"mse", "mse_after_its_own_task"}
    assert set(numbers["digits-inverted"]) == {"mse"}, "its own task was the last"
    more = json.loads(command("dream", run, "reconstruct", "--n", 12, "--json", "--out", tmp_path / "y.png").out)
    assert set(more["digits"]) == {"mse"}, "the run kept fewer images"


def test_domains_by_name_or_number(run: Path, tmp_path: Path, command: Command) -> None:
    pictures = []
    for name in ("1", "digits-inverted"):
        file = pictured(command("dream", run, "generate", "--domain", name, "--out", tmp_path / f"{name}.png"))
        pictures.append(np.asarray(Image.open(file)))
    assert np.array_equal(*pictures)
    assert pictures[0].shape[1] < 9 * PITCH + 4 * MARGIN


def test_numbers_for_machines(run: Path, tmp_path: Path, command: Command) -> None:
    out = ["--json", "--out", tmp_path / "x.png"]
    clusters = json.loads(command("dream", run, "cluster", *out).out)
    assert 0 <= clusters["accuracy"] <= 1
    assert clusters["images"] == 710
    assert json.loads(command("dream", run, "embed", "--method", "t-sne", "--n", 20, *out).out)["hsic"] >= 0
    signs = json.loads(command("dream", run, "novelty", "--n", 9, *out).out)
    assert set(signs) == {"digits", "digits-inverted", "picture"}
    assert set(signs["digits"]) == {"error", "entropy", "critic"}


def test_a_judge_leaves_what_it_saw_in_the_run_folder(run: Path, tmp_path: Path, command: Command) -> None:
    words = ["dream", run, "judge", *BRIEF["judge"], "--out", tmp_path / "x.png"]
    answer = command(*words, "--json")
    numbers = json.loads(answer.out)
    saved = json.loads((run / "judge.json").read_text())
    assert saved == {"schema": 1, **{name: value for name, value in numbers.items() if name != "picture"}}
    assert {"judge", "pairs", "generated", "next", "replay"} <= set(saved)
    assert saved["judge"]["steps"] == 20
    assert [set(shares) for shares in saved["judge"]["accuracy"]] == [{"class", "domain", "both"}] * 2
    assert saved["generated"]["images"] == 40
    assert np.array(saved["generated"]["counts"]).sum() == 40
    said = command(*words).out
    assert f"generated: {100 * saved['generated']['as_asked']['class']:.1f} % of the class asked for" in said
    (run / "judge.json").unlink()


def test_a_run_that_was_stopped_dreams_of_what_it_learnt(tmp_path: Path, command: Command) -> None:
    real = LGAA.step

    def dies(self: Any, phase: Any, batch: Any) -> Any:
        if self.task == 1 and self.rng.position.step == 2:
            raise Halt
        return real(self, phase, batch)

    options = {"name": "lgaa", "steps": 4, "batch_size": 8}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LGAA, "step", dies)
        with pytest.raises(Halt):
            reverie.run("digits-inverted", options, scenario="domain", out=tmp_path / "run", checkpoint_steps=1)
    numbers = json.loads(command("dream", tmp_path / "run", "reconstruct", "--json").out)
    assert set(numbers) == {"digits", "digits-inverted", "picture"}
    for feature in ("generate", "replay"):
        pictured(command("dream", tmp_path / "run", feature))
    judged = json.loads(command("dream", tmp_path / "run", "judge", *BRIEF["judge"], "--json").out)
    assert judged["replay"]["images"] == 20  # the set that the second task was being learnt with


def test_images_of_ones_own(run: Path, tmp_path: Path, command: Command) -> None:
    file = tmp_path / "mine.npy"
    np.save(file, np.random.default_rng(0).random((6, 8, 8), dtype=np.float32))
    for feature, entry in FEATURES.items():
        if "images" in entry.options:
            answer = command("dream", run, feature, "--images", file, "--json", "--out", tmp_path / f"{feature}.png")
            assert answer.code == DONE, answer.err
    signs = json.loads(command("dream", run, "novelty", "--images", file, "--json", "--out", tmp_path / "x.png").out)
    assert set(signs) == {"digits", "digits-inverted", "mine.npy", "picture"}
    assert json.loads(command("dream", run, "cluster", "--images", file, "--json").out)["nmi"] is None


def test_without_a_feature_they_are_listed(run: Path, command: Command) -> None:
    lines = command("dream", run).out.splitlines()
    assert [line.split(":")[0] for line in lines] == list(FEATURES)


# ------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generat"], "'generat': no such feature; did you mean 'generate'?"),
        (
            ["generate", "--steps", "4"],
            "--steps: generate does not take it; it takes --n, --classes, --domain, --temperature",
        ),
        (["generate", "--classes", "3", "12"], "--classes 12: is no class of this run"),
        (
            ["generate", "--domain", "2"],
            "--domain 2: was never learnt; this run has learnt 0 (digits) and 1 (digits-inverted)",
        ),
        (["translate", "--domain", "fashion"], "--domain fashion: was never learnt"),
        (["interpolate", "--path", "round"], "--path round: expected linear or spherical"),
        (["embed", "--method", "umap"], "--method umap: expected pca or t-sne"),
        (["embed", "--n", "1"], "2 images: a projection needs at least 4"),
        (["cluster", "--images", "x.npy", "--domain", "0"], "images of a file are of no domain"),
        (["cluster", "--images", "nowhere.npy"], "file not found: nowhere.npy"),
        (["generate", "--out", "picture.jpg"], "pictures are PNG files"),
    ],
)
def test_mistakes_are_named(words: list[str], message: str, run: Path, command: Command) -> None:
    answer = command("dream", run, *words)
    assert answer.code == BAD_USAGE
    assert message in answer.err


def test_images_that_do_not_fit(run: Path, tmp_path: Path, command: Command) -> None:
    np.save(tmp_path / "large.npy", np.zeros((3, 1, 9, 9), dtype=np.uint8))
    np.save(tmp_path / "one.npy", np.zeros((1, 1, 8, 8), dtype=np.uint8))
    np.save(tmp_path / "bright.npy", np.full((2, 1, 8, 8), 16.0, dtype=np.float32))
    for name, feature, message in (
        ("large", "interpolate", "inputs of shape (3, 1, 9, 9): expected (N, 1, 8, 8)"),
        ("one", "interpolate", "1 image: an interpolation needs two"),
        ("bright", "reconstruct", "numbers from 16 to 16: expected 0 to 1"),
    ):
        answer = command("dream", run, feature, "--images", tmp_path / f"{name}.npy", "--out", tmp_path / "x.png")
        assert answer.code == BAD_USAGE
        assert message in answer.err


def test_a_run_of_another_learner(tmp_path: Path, command: Command) -> None:
    reverie.run("blobs", {"name": "naive", "steps": 1}, out=tmp_path / "run")
    answer = command("dream", tmp_path / "run", "generate")
    assert answer.code == BAD_USAGE
    assert "learner = 'naive' has no adversarial autoencoder" in answer.err
    assert "reverie run --learner lgaa" in answer.err


def test_a_folder_without_run_or_result(tmp_path: Path, run: Path, command: Command) -> None:
    assert "config not found" in command("dream", tmp_path, "generate").err
    (tmp_path / "config.yaml").write_text((run / "config.yaml").read_text())
    answer = command("dream", tmp_path, "generate")
    assert answer.code == BAD_USAGE
    assert f"this run has no result yet; reverie resume {tmp_path} continues it" in answer.err


@pytest.fixture(scope="module")
def from_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("python") / "run"
    reverie.run(stream("class"), LGAA(steps=2, batch_size=8), out=folder)
    return folder


def test_a_stream_from_python_needs_images(from_python: Path, tmp_path: Path, command: Command) -> None:
    answer = command("dream", from_python, "translate")
    assert answer.code == BAD_USAGE
    assert "its stream was given from Python" in answer.err
    assert "--images FILE.npy" in answer.err
    file = tmp_path / "mine.npy"
    np.save(file, torch.rand(8, 1, 8, 8).numpy())
    assert "its stream was given from Python" in command("dream", from_python, "judge").err
    for feature in ("translate", "traverse", "novelty"):
        assert command("dream", from_python, feature, "--images", file).code == DONE
    for feature in ("generate", "replay"):
        assert command("dream", from_python, feature).code == DONE


def test_classes_are_shown_in_the_domain_that_taught_them(from_python: Path, command: Command) -> None:
    both = size(pictured(command("dream", from_python, "generate")))
    one = size(pictured(command("dream", from_python, "generate", "--classes", "4")))
    assert both[0] > 16 * PITCH
    assert one[0] < 9 * PITCH + 4 * MARGIN
