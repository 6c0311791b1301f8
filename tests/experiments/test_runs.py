"""Run folders: what is written, continued, refused; and what a saved run answers."""

from __future__ import annotations

import fcntl
import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import reverie
from reverie.checks import DataError, NotReadyError, OptionsError, StorageError
from reverie.engine import Interrupted
from reverie.experiments.config import RunConfig, read_yaml
from reverie.experiments.grid import grid, run_grid
from reverie.experiments.runs import Run, spec_from_dict, spec_to_dict
from reverie.generators import GENERATORS
from reverie.learners import GenerativeReplay, Naive
from reverie.solvers import MLP, Module
from reverie.streams import ArrayStream, Blobs
from tests.tiny import Halt, differing, recommending, tiny_stream

BLOBS = {"name": "blobs", "tasks": 2, "dimensions": 6, "rows_per_class": 24}
GENERATIVE = {"name": "generative-replay", "solver": {"name": "mlp", "hidden": [12]}, "steps": 6, "batch_size": 8}
ANIMALS = ("cat", "dog", "eel", "fox")


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(f.relative_to(folder)): f.read_bytes()
        for f in sorted(folder.rglob("*"))
        if f.is_file() and f.name != ".lock"
    }


def run_blobs(out: Path | None, seed: int = 0, **changes: Any) -> Run:
    return reverie.run(BLOBS, {**GENERATIVE, **changes}, seed=seed, out=out, threads=1)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Run:
    torch.set_num_threads(1)
    return run_blobs(tmp_path_factory.mktemp("saved") / "run")


@pytest.fixture(scope="module")
def animals(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Learnt from images of bytes with labels of text, with a generator that can be asked for a class."""
    rng = np.random.default_rng(0)

    def images(labels: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
        y = np.repeat(labels, 20)
        x = rng.integers(0, 60, (len(y), 1, 4, 4))
        for row, label in zip(x, y, strict=True):
            row[0, ANIMALS.index(label)] += 180
        return x.astype(np.uint8), y

    stream = recommending(
        ArrayStream.from_arrays([images(("cat", "dog")), images(("eel", "fox"))]), steps=120, learning_rate=0.01
    )
    learner = GenerativeReplay(generator=GENERATORS["vae"](conditional=True))
    return reverie.run(stream, learner, out=tmp_path_factory.mktemp("animals") / "run")


# ---------------------------------------------------------------------------------------------- the folder


def test_what_a_run_leaves(saved: Run) -> None:
    folder = saved.folder
    assert folder is not None
    names = {entry.name for entry in folder.iterdir()}
    assert {"config.yaml", "environment.json", "metrics.jsonl", "result.json", "stream.json", "checkpoint"} <= names
    result = json.loads((folder / "result.json").read_text())
    assert result == json.loads(json.dumps(dict(saved.result)))
    for key in (
        *("schema", "status", "stream", "scenario", "learner", "generator", "seed", "tasks", "accuracy", "matrices"),
        *("summary", "memory", "cost", "options"),
    ):
        assert key in result
    assert (result["schema"], result["status"], result["scenario"]) == (1, "complete", "class")
    assert set(result["summary"]) == {
        *("average_accuracy", "forgetting", "backward_transfer", "forward_transfer", "learning_accuracy"),
        *("average_incremental_accuracy", "tgiven_during", "tgiven_final", "tinfer_final", "task_inference_accuracy"),
    }
    assert {"persistent", "working", "stores_raw_data", "stores"} <= set(result["memory"])
    assert set(result["cost"]) == {
        *("seconds", "train_seconds", "steps", "rows_per_second", "flops_estimate", "peak_memory_bytes"),
    }
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["machine"]["threads"] == 1
    assert environment["versions"]["torch"] == torch.__version__


def test_the_config_of_a_run_runs_again_as_it_is(saved: Run, tmp_path: Path) -> None:
    assert saved.folder is not None
    config = RunConfig.read(saved.folder / "config.yaml")
    assert config.learner["generator"]["latent_dim"] == 4  # the stream's, resolved
    again = reverie.experiments.runs.run_config(config, tmp_path / "again")
    assert again.accuracy == saved.accuracy
    assert read_yaml(tmp_path / "again" / "config.yaml") == read_yaml(saved.folder / "config.yaml")


def test_a_finished_run_is_returned_and_not_trained_again(saved: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert saved.folder is not None
    before = files(saved.folder)
    monkeypatch.setattr(GenerativeReplay, "step", lambda *arguments: pytest.fail("it trained again"))
    for again in (run_blobs(saved.folder), reverie.resume(saved.folder)):
        assert again.result == json.loads(json.dumps(dict(saved.result)))
        assert differing(again.learner.state(), saved.learner.state()) == []
    assert files(saved.folder) == before


@pytest.mark.parametrize("change", [{"seed": 1}, {"steps": 7}, {"distill": True}])
def test_other_options_are_refused_and_nothing_changes(saved: Run, change: dict[str, Any]) -> None:
    assert saved.folder is not None
    before = files(saved.folder)
    (name, value), *_ = change.items()
    with pytest.raises(OptionsError, match=f"{name}: .* -> {value}.*--overwrite to replace it") as caught:
        run_blobs(saved.folder, **change)
    assert caught.value.exit_code == 2
    assert files(saved.folder) == before


def test_overwrite_replaces_the_run_and_spares_other_files(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_blobs(out)
    (out / "notes.txt").write_text("mine")
    other = reverie.run(BLOBS, "naive", seed=1, out=out, threads=1, overwrite=True)
    assert (out / "notes.txt").read_text() == "mine"
    assert not (out / "samples").exists()
    assert not (out / "arrays").exists()
    assert json.loads((out / "result.json").read_text())["learner"] == "naive"
    assert {json.loads(line)["kind"] for line in (out / "metrics.jsonl").read_text().splitlines()} == {
        "losses",
        "evaluation",
    }
    assert reverie.load(out).accuracy == other.accuracy


def test_a_folder_with_other_things_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    before = files(tmp_path)
    with pytest.raises(OptionsError, match="is not empty and holds no run"):
        run_blobs(tmp_path)
    assert files(tmp_path) == before


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot write to the run folder .*choose another with --out") as caught:
        run_blobs(tmp_path / "file" / "run")
    assert caught.value.exit_code == 2


def test_two_processes_in_one_folder(tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    held = os.open(out / ".lock", os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StorageError, match="another process is working in"):
            run_blobs(out)
        assert files(out) == {}
    finally:
        os.close(held)
    assert run_blobs(out).result["status"] == "complete"


@pytest.mark.parametrize("name", ["config.yaml", "result.json", "stream.json"])
def test_files_of_a_newer_version_are_refused_and_kept(name: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_blobs(out)
    path = out / name
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 2').replace("schema: 1", "schema: 2"))
    before = files(out)
    doors = [lambda: reverie.load(out)]
    if name != "stream.json":  # only prediction reads it
        doors += [lambda: run_blobs(out), lambda: reverie.resume(out)]
    if name == "config.yaml":  # other options never get as far as the result
        doors += [lambda: run_blobs(out, seed=3)]
    for door in doors:
        with pytest.raises(StorageError, match=r"schema 2, this version of Reverie reads up to 1.*update Reverie"):
            door()
    assert files(out) == before


def test_resume_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="config not found"):
        reverie.resume(tmp_path / "nothing")
    with pytest.raises(StorageError, match="config not found"):
        reverie.load(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(
    ("stream", "learner", "options", "message"),
    [
        ("blobz", "naive", {}, "did you mean 'blobs'"),
        ("blobs", "naiv", {}, "did you mean 'naive'"),
        ("blobs", "naive", {"scenario": "tasks"}, "scenario = 'tasks'"),
        ("blobs", "naive", {"device": "gpu"}, "device = 'gpu': not a device name"),
        ("blobs", "naive", {"seed": -3}, "seed = -3"),
        ("blobs", "naive", {"checkpoint": 3}, "checkpoint: no such option"),
        (
            "blobs",
            {"name": "replay", "buffer": {"name": "buffer", "budget": 3, "unit": "items"}},
            {},
            "fewer than the 6 classes",
        ),
    ],
)
def test_bad_options_are_found_before_anything_is_written(
    stream: Any, learner: Any, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(OptionsError, match=message) as caught:
        reverie.run(stream, learner, out=tmp_path / "run", **options)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "run").exists()


def test_a_learner_that_needs_labels_is_refused_where_some_are_missing(tmp_path: Path) -> None:
    x, y = torch.rand(40, 1, 8, 8), torch.arange(40) % 2
    some = torch.where(torch.arange(40) % 4 < 3, y, -1)
    stream = ArrayStream.from_arrays([(x, y, x, y), (x, some, x, y)], "domain", unlabelled=-1)
    for learner in ("naive", {"name": "lgaa", "steps": 1}):
        name = learner if isinstance(learner, str) else learner["name"]
        with pytest.raises(DataError, match=rf"learner = '{name}' needs a label .*: task 'task 2': 10 of 40 rows have"):
            reverie.run(stream, learner, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    run = reverie.run(stream, {"name": "lgaa", "steps": 1, "labels_per_class": 4, "batch_size": 8}, threads=1)
    assert run.result["status"] == "complete"


def test_a_stream_made_in_python_is_continued_from_python_alone(animals: Run) -> None:
    assert animals.folder is not None
    with pytest.raises(OptionsError, match=r"its stream was made in Python.*call reverie\.run"):
        reverie.resume(animals.folder)


# ---------------------------------------------------------------------------------------------- answers


def test_a_loaded_run_answers_as_the_one_in_memory(saved: Run) -> None:
    assert saved.folder is not None
    loaded = reverie.load(saved.folder)
    x = Blobs(tasks=2, dimensions=6).build("class", 0).tests[1].rows.take(torch.arange(9)).x
    assert torch.equal(loaded.scores(x), saved.scores(x))
    assert loaded.predict(x).tolist() == saved.predict(x).tolist()
    assert differing(loaded.learner.state(), saved.learner.state()) == []
    assert np.array_equal(loaded.sample(5, seed=2), saved.sample(5, seed=2))
    assert not np.array_equal(loaded.sample(5, seed=2), loaded.sample(5, seed=3))
    assert loaded.sample(5).shape == (5, 6)
    assert (loaded.accuracy, loaded.summary) == (saved.accuracy, saved.summary)


def test_answers_are_the_users_own_labels(animals: Run) -> None:
    assert animals.folder is not None
    loaded = reverie.load(animals.folder)
    x = np.zeros((4, 1, 4, 4), np.uint8)
    for k in range(4):
        x[k, 0, k] = 220
    for run in (animals, loaded):
        assert run.predict(x).tolist() == list(ANIMALS)
        # Bytes and the same numbers as floats in [0, 1] are the same input.
        assert torch.equal(run.scores(x), run.scores((x / np.float32(255)).astype(np.float32)))
        assert torch.equal(run.scores(x), run.scores(torch.from_numpy(x)))
    assert torch.equal(animals.scores(x), loaded.scores(x))


def test_samples_of_a_label(animals: Run) -> None:
    assert animals.folder is not None
    loaded = reverie.load(animals.folder)
    for label in ANIMALS:
        drawn = loaded.sample(30, label=label)
        assert drawn.shape == (30, 1, 4, 4)
        assert np.array_equal(drawn, animals.sample(30, label=label))
    with pytest.raises(DataError, match=r"label = 'cow': not one of \['cat', 'dog', 'eel', 'fox'\]"):
        loaded.sample(3, label="cow")
    with pytest.raises(DataError, match="label = None: this run's generator needs a label to draw"):
        loaded.sample(3)


def test_a_learner_without_generator_has_nothing_to_sample() -> None:
    run = reverie.run(BLOBS, {"name": "naive", "steps": 2}, threads=1)
    with pytest.raises(NotReadyError, match="naive keeps no generator"):
        run.sample(3)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((3, 5), np.float32), r"inputs of shape \(3, 5\): expected \(N, 6\)"),
        (np.zeros(6, np.float32), r"inputs of shape \(6,\)"),
        (np.zeros((3, 1, 6), np.float32), r"inputs of shape \(3, 1, 6\)"),
        (np.zeros((3, 6), np.int64), "dtype torch.int64: expected uint8"),
        (np.full((3, 6), np.nan, np.float32), "NaN or infinite"),
        (np.full((3, 6), np.inf), "NaN or infinite"),
        (np.array([["a"] * 6]), "no array of numbers"),
        ([[1.0, 2.0], [3.0]], "no array of numbers"),
    ],
)
def test_inputs_that_cannot_be_answered(saved: Run, x: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        saved.predict(x)


@pytest.mark.parametrize("task", [-1, 2])
def test_a_task_there_is_not(saved: Run, task: int) -> None:
    with pytest.raises(DataError, match=f"task = {task}: this run has tasks 0 to 1"):
        saved.predict(np.zeros((1, 6), np.float32), task)


def test_a_task_narrows_the_answer(saved: Run) -> None:
    x = np.random.default_rng(0).random((40, 6), dtype=np.float32)
    assert set(saved.predict(x, 0)) <= {0, 1}
    assert set(saved.predict(x, 1)) <= {2, 3}


def test_no_rows_no_answers(saved: Run) -> None:
    assert saved.predict(np.zeros((0, 6), np.float32)).shape == (0,)


def test_a_run_stopped_on_the_way_answers_for_what_it_learnt(tmp_path: Path) -> None:
    from tests.tiny import Halt

    real, count = GenerativeReplay.end_task, []

    def dies(self: Any, task: Any) -> None:
        count.append(task)
        if len(count) == 2:
            raise Halt
        real(self, task)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GenerativeReplay, "end_task", dies)
        with pytest.raises(Halt):
            run_blobs(tmp_path / "run")
    loaded = reverie.load(tmp_path / "run")
    assert loaded.result["status"] == "interrupted"
    assert len(loaded.accuracy) == 1
    assert loaded.predict(np.zeros((2, 6), np.float32)).shape == (2,)


def test_a_solver_of_the_users_own(tmp_path: Path) -> None:
    run = reverie.run(BLOBS, Naive(solver=MLP(hidden=(5, 5)), steps=3), out=tmp_path / "run", threads=1)
    assert reverie.load(tmp_path / "run").learner.state()["solver"]["weights"]["head.weight"].shape == (4, 5)
    assert run.result["options"]["learner"]["solver"]["hidden"] == [5, 5]


def two_layers(shape: tuple[int, ...]) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(*shape, 5), torch.nn.ReLU())


def test_a_network_of_the_users_own_is_continued_and_opened_from_python_alone(tmp_path: Path) -> None:
    def again() -> Run:
        return reverie.run(BLOBS, Naive(solver=Module(two_layers), steps=3), out=tmp_path / "run", threads=1)

    first = again()
    assert again().result == json.loads(json.dumps(dict(first.result)))
    message = r"factory = '<two_layers, given from Python>': no file can hold it; .*reverie\.run with out = its folder"
    for door in (reverie.resume, reverie.load):
        with pytest.raises(OptionsError, match=message):
            door(tmp_path / "run")
    solver = Module(two_layers)
    loaded = reverie.load(tmp_path / "run", solver=solver)
    x = np.random.default_rng(0).random((9, 6), dtype=np.float32)
    assert torch.equal(loaded.scores(x), first.scores(x))
    reverie.load(tmp_path / "run", solver=solver)  # the solver given is a description, like a learner's
    assert torch.equal(loaded.scores(x), first.scores(x))
    assert not hasattr(solver, "network")


def rows(*labels: str) -> tuple[np.ndarray, np.ndarray]:
    return np.random.default_rng(0).random((24, 6), dtype=np.float32), np.repeat(labels, 24 // len(labels))


@pytest.mark.parametrize("given", ["stream", "network", "one more task"])
def test_ctrl_c_names_the_way_that_works_where_files_do_not_suffice(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"

    def call() -> Run:
        if given == "network":
            return reverie.run(BLOBS, Naive(solver=Module(two_layers), steps=6), out=out, threads=1)
        stream, learner = ArrayStream.from_arrays([rows("cat", "dog")]), Naive(solver=MLP(hidden=(5,)), steps=6)
        if given == "stream":
            return reverie.run(stream, learner, out=out, threads=1)
        return reverie.run(stream, learner, threads=1).learn(*rows("eel", "fox"), out=out)

    count = []

    def step(self: Any, phase: Any, batch: Any, real: Any = Naive.step) -> Any:
        if self.task == (1 if given == "one more task" else 0):
            count.append(phase)
        if len(count) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, phase, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Naive, "step", step)
        with pytest.raises(Interrupted, match=f"saved, the same call from Python with out = {out} continues"):
            call()
    assert json.loads((out / "result.json").read_text())["cost"]["steps"] == 4
    result = call().result
    assert (result["status"], result["cost"]["steps"]) == ("complete", 12 if given == "network" else 6)


# ---------------------------------------------------------------------------------------------- grids


def test_a_grid_gives_every_cell_and_skips_what_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configs = [
        RunConfig.from_dict({"stream": BLOBS, "learner": {"name": name, "steps": 3}}) for name in ("naive", "replay")
    ]
    cells = grid(configs, [0, 1], tmp_path)
    results = {cell.title: result for cell, result in run_grid(cells)}
    assert list(results) == ["naive-seed0", "naive-seed1", "replay-seed0", "replay-seed1"]
    assert all(result["status"] == "complete" for result in results.values())
    assert results["naive-seed0"]["accuracy"] != results["naive-seed1"]["accuracy"]
    monkeypatch.setattr(Naive, "step", lambda *arguments: pytest.fail("it trained again"))
    monkeypatch.setattr(reverie.learners.Replay, "step", lambda *arguments: pytest.fail("it trained again"))
    assert {cell.title: result["accuracy"] for cell, result in run_grid(cells)} == {
        title: result["accuracy"] for title, result in results.items()
    }


def test_what_would_stop_a_later_cell_is_told_before_the_first_one_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = {"name": "buffer", "budget": 3, "unit": "items"}
    learners = [{"name": "naive", "steps": 3}, {"name": "replay", "buffer": buffer}, {"name": "cumulative", "steps": 3}]
    configs = [RunConfig.from_dict({"stream": BLOBS, "learner": learner}) for learner in learners]
    cells = grid(configs, [0, 1], tmp_path)
    reverie.run(BLOBS, {"name": "cumulative", "steps": 4}, seed=1, out=tmp_path / "cumulative-seed1")
    (tmp_path / "naive-seed1").mkdir()
    (tmp_path / "naive-seed1" / "thesis.tex").write_text("years of work")
    before = files(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Naive, "step", lambda *arguments: pytest.fail("it trained"))
        with pytest.raises(
            OptionsError, match=r"^nothing was trained, for some of these runs cannot be made:"
        ) as caught:
            next(run_grid(cells))
    told = str(caught.value).splitlines()[1:]
    assert len(told) == 3
    assert f"naive-seed1: {tmp_path / 'naive-seed1'} is not empty and holds no run" in told[0]
    assert "replay-seed0, replay-seed1: budget = 3 items: holds 3 rows, fewer than the 4 classes" in told[1]
    assert "cumulative-seed1: " in told[2]
    assert "learner.steps: 4 -> 3" in told[2]
    assert caught.value.exit_code == 2
    assert files(tmp_path) == before
    with pytest.raises(OptionsError, match="cannot be made: replay-seed0, replay-seed1: budget = 3 items"):
        next(run_grid(cells, overwrite=True))


def test_loading_says_when_the_newest_state_is_damaged(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    stream = {"name": "blobs", "tasks": 2, "rows_per_class": 12}
    reverie.run(stream, {"name": "naive", "steps": 4}, out=folder, threads=1)
    tensors = folder / "checkpoint" / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-9])
    with pytest.warns(UserWarning, match="damaged.*the state saved before it is used instead"):
        reverie.load(folder)
    heard: list[str] = []
    reverie.load(folder, warn=heard.append)
    assert len(heard) == 1


# ---------------------------------------------------------------------------------------------- regression


def lines_of(targets: int) -> ArrayStream:
    x = np.linspace(0, 1, 30, dtype=np.float32)[:, None]
    parts = [(x + task, (x + task) * np.arange(1, targets + 1)) for task in range(2)]
    stream = ArrayStream.from_arrays(parts, scenario="domain", noise_std=0.1)
    return recommending(stream, "gaussian", steps=150, learning_rate=0.01)


@pytest.mark.parametrize("targets", [1, 2])
def test_a_run_of_regression_on_arrays_of_one_s_own(targets: int, tmp_path: Path) -> None:
    run = reverie.run(lines_of(targets), "replay", out=tmp_path / "a", threads=1)
    assert run.accuracy == []
    assert run.mse == run.result["mse"]
    assert run.mse[1][0] is not None
    assert run.mse[1][0] < 0.05
    x = np.array([[0.2], [1.7]], dtype=np.float32)
    assert run.predict(x) == pytest.approx(x * np.arange(1, targets + 1), abs=0.3)
    assert run.predict(x, task=1).tolist() == run.predict(x).tolist()
    loaded = reverie.load(tmp_path / "a")
    assert loaded.spec == replace(run.spec, recommended=loaded.spec.recommended)
    assert (loaded.spec.kind, loaded.spec.noise_std) == ("regression", 0.1)
    assert loaded.predict(x).tolist() == run.predict(x).tolist()
    assert loaded.mse == run.mse
    longer = loaded.learn(x + 2, x * np.ones(targets), out=tmp_path / "b")
    assert [len(row) for row in longer.mse] == [1]
    assert reverie.load(tmp_path / "b").predict(x).tolist() == longer.predict(x).tolist()


def test_other_targets_are_other_data(tmp_path: Path) -> None:
    reverie.run(lines_of(1), {"name": "naive", "steps": 2}, out=tmp_path, threads=1)
    x = np.linspace(0, 1, 30, dtype=np.float32)[:, None]
    other = ArrayStream.from_arrays([(x + t, x * 2 + t) for t in range(2)], scenario="domain", noise_std=0.1)
    other = recommending(other, "gaussian", learning_rate=0.01)
    with pytest.raises(OptionsError, match="data 'task 1': other content"):
        reverie.run(other, {"name": "naive", "steps": 2}, out=tmp_path, threads=1)


def test_a_run_of_regression_killed_on_the_way_is_resumed_from_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"name": "replay", "steps": 20}
    whole = reverie.run("regression-1d", options, seed=3, threads=1)
    real, count = MLP.step, 0

    def step(self: Any, *given: Any) -> Any:
        nonlocal count
        count += 1
        if count == 47:
            raise Halt
        return real(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(MLP, "step", step)
        with pytest.raises(Halt):
            reverie.run("regression-1d", options, seed=3, threads=1, out=tmp_path, checkpoint_steps=5)
    assert json.loads((tmp_path / "result.json").read_text())["status"] == "interrupted"
    again = reverie.resume(tmp_path)
    assert again.result["matrices"] == whole.result["matrices"]
    assert differing(again.learner.state(), whole.learner.state()) == []


def test_a_spec_of_classification_is_written_without_a_kind() -> None:
    """So that folders from before there was one are still taken for the same run."""
    spec = tiny_stream().spec
    assert not {"kind", "noise_std"} & set(spec_to_dict(spec))
    assert spec_from_dict(spec_to_dict(spec)).kind == "classification"
