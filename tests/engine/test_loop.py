"""What the loop evaluates, records and refuses."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from reverie.checks import NotReadyError, StorageError, TrainingError
from reverie.engine import Interrupted, Settings
from reverie.experiments.runs import run as run_on
from reverie.learners import GenerativeReplay, Naive, Replay
from reverie.nn.optimisers import SGD
from reverie.solvers import MLP
from reverie.types import Phase
from tests.tiny import Halt, differing, halt_after, losses, make_loop, tiny_stream, train

GENERATIVE, REPLAY = GenerativeReplay(chunk=3), Replay()


class Watcher:
    def __init__(self) -> None:
        self.events: list[Any] = []

    def phase_started(self, task: int, tasks: int, name: str, phase: str, steps: int, done: int) -> None:
        self.events.append((task, tasks, name, phase, steps, done))

    def progress(self, step: int, losses: dict[str, float]) -> None:
        self.events.append((step, sorted(losses)))

    def evaluated(self, task: int, measure: str, values: tuple[float | None, ...]) -> None:
        self.events.append((task, values))


# ---------------------------------------------------------------------------------------------- evaluation


@pytest.mark.parametrize("scenario", ["class", "task", "domain"])
def test_seen_leaves_later_tests_open_and_all_fills_them(scenario: Any) -> None:
    seen = train(Naive(), tiny_stream(scenario))
    every = train(Naive(), tiny_stream(scenario), settings=Settings(evaluate="all"))
    assert [[value is None for value in row] for row in seen.accuracy] == [
        [False, True, True],
        [False, False, True],
        [False, False, False],
    ]
    assert all(value is not None for row in every.accuracy for value in row)
    for i in range(3):
        assert every.accuracy[i][: i + 1] == seen.accuracy[i][: i + 1]
    assert seen.result["initial_accuracy"] is None
    assert len(every.result["initial_accuracy"]) == 3
    prescribed = "task_given" if scenario == "task" else "task_agnostic"
    assert seen.result["matrices"][prescribed] == seen.accuracy
    assert set(seen.result["matrices"]) == {"task_agnostic"} | ({"task_given"} if scenario != "domain" else set())
    assert (every.result["summary"]["forward_transfer"] is None) == (scenario == "class")


def test_evaluate_every_adds_points_and_changes_nothing() -> None:
    plain = train(GENERATIVE, tiny_stream(), settings=Settings())
    curve = train(GENERATIVE, tiny_stream(), settings=Settings(evaluate_every=3))
    points = [line for line in curve.lines if line["kind"] == "curve"]
    assert [(line["task"], line["step"]) for line in points] == [(t, s) for t in range(3) for s in (3, 6)]
    assert [value is None for value in points[2]["accuracy"]] == [False, False, True]
    assert differing(plain.learner.state(), curve.learner.state()) == []
    assert plain.result["matrices"] == curve.result["matrices"]


def test_a_point_at_the_last_step_is_the_row_of_the_matrix() -> None:
    run = train(Naive(), tiny_stream(), settings=Settings(evaluate_every=4))
    last = [line["accuracy"] for line in run.lines if line["kind"] == "curve" and line["step"] == 8]
    assert last == run.accuracy


def test_observers_hear_of_phases_losses_and_results_in_order() -> None:
    watcher = Watcher()
    run = train(Naive(steps=60), tiny_stream(tasks=2), observer=watcher)
    names = ["solver.cross-entropy"]
    assert watcher.events == [
        event
        for task in range(2)
        for event in (
            (task, 2, f"clouds {task + 1}", "train", 60, 0),
            (50, names),
            (60, names),
            (task, tuple(run.accuracy[task])),
        )
    ]


def test_the_record_adds_up() -> None:
    run = train(GENERATIVE, tiny_stream())
    cost = run.result["cost"]
    phase = Phase("train", 8, steps=8)
    first = 8 * (run.learner.network.flops(8) + run.learner.model.flops(8))
    assert cost["steps"] == 24
    assert cost["flops_estimate"] == pytest.approx(first + 16 * run.learner.flops(phase, None))
    assert 0 < cost["train_seconds"] <= cost["seconds"]
    assert cost["rows_per_second"] == pytest.approx(24 * 8 / cost["train_seconds"], rel=0.05)
    assert run.result["memory"]["persistent_bytes"] == sum(run.result["memory"]["persistent"].values())
    assert run.result["memory"]["stores_raw_data"] is False


def test_early_stopping_is_asked_at_the_end_of_each_epoch() -> None:
    """48 rows in batches of 8: six steps an epoch."""
    asked = []

    def prepare(learner: Any) -> None:
        learner.finished = lambda phase: bool(asked.append(learner.task)) or asked.count(learner.task) == 2

    run = train(Naive(epochs=4), tiny_stream(tasks=2), prepare=prepare)
    assert asked == [0, 0, 1, 1]
    assert [line["step"] for line in run.lines if line["kind"] == "losses"] == [12, 12]


def test_task_incremental_prediction_needs_the_task() -> None:
    run = run_on(tiny_stream("task"), Naive())
    x = run_inputs()
    with pytest.raises(NotReadyError, match="pass task = 0 to 2"):
        run.predict(x)
    assert set(run.predict(x, task=1)) <= {2, 3}


def run_inputs() -> Any:
    return tiny_stream("task").tests[1].rows.take(torch.arange(4)).x


# ---------------------------------------------------------------------------------------------- losses that are not finite


def poison(at: int, name: str) -> Any:
    """For ``prepare``: the loss ``name`` of step ``at`` of the second task is NaN."""

    def prepare(learner: Any) -> None:
        real = learner.step

        def step(phase: Phase, batch: Any) -> Any:
            losses = real(phase, batch)
            if (learner.task, learner.rng.position.step) == (1, at):
                losses[name] = losses[name] * math.nan
            return losses

        learner.step = step

    return prepare


@pytest.mark.parametrize("at", [0, 3, 7])
@pytest.mark.parametrize("part", ["solver.cross-entropy", "generator.kl"])
def test_a_loss_that_is_not_finite_names_step_part_and_phase(at: int, part: str, tmp_path: Path) -> None:
    message = rf"the loss {part} stopped being finite at step {at} of phase 'train', task 1 \(clouds 2\)"
    with pytest.raises(TrainingError, match=message) as caught:
        train(GENERATIVE, tiny_stream(), folder=tmp_path, prepare=poison(at, part))
    assert caught.value.exit_code == 1
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["status"] == "failed"
    assert result["error"] == str(caught.value)
    whole = train(GENERATIVE, tiny_stream(tasks=3))
    assert result["accuracy"] == whole.accuracy[:1]
    assert [line["task"] for line in losses(tmp_path)] == [0]


def test_a_learning_rate_far_too_large_is_found_within_a_window() -> None:
    solver = MLP(hidden=(12,), optimiser=SGD(learning_rate=1e30))
    with pytest.raises(
        TrainingError, match=r"solver\.cross-entropy stopped being finite at step \d of .* smaller learning rate"
    ):
        train(Naive(solver=solver, steps=200), tiny_stream())


# ---------------------------------------------------------------------------------------------- stopping on request


@pytest.mark.parametrize("at", [0, 4, 7, 8, 13, 23])
@pytest.mark.parametrize("learner", [GENERATIVE, REPLAY], ids=["generative", "replay"])
def test_ctrl_c_finishes_the_step_saves_and_can_be_continued(learner: Any, at: int, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    ask = halt_after(at, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted, match="saved") as caught:
        train(learner, tiny_stream(), folder=tmp_path, prepare=ask)
    assert caught.value.exit_code == 130
    assert signal.getsignal(signal.SIGINT) is before
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["status"], result["cost"]["steps"]) == ("interrupted", at + 1)
    whole = train(learner, tiny_stream())
    assert result["accuracy"] == whole.accuracy[: at // 8]
    again = train(learner, tiny_stream(), folder=tmp_path)
    assert again.result["status"] == "complete"
    assert again.result["matrices"] == whole.result["matrices"]
    assert differing(again.learner.state(), whole.learner.state()) == []


def test_a_second_ctrl_c_stops_at_once() -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    loop = make_loop(Naive(), tiny_stream(), prepare=halt_after(2, twice))
    with pytest.raises(KeyboardInterrupt):
        loop.run()


def test_without_a_folder_nothing_is_said_to_be_saved() -> None:
    ask = halt_after(2, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted, match="nothing was saved"):
        train(Naive(), tiny_stream(), prepare=ask)


# ---------------------------------------------------------------------------------------------- saved state that is damaged


def halted(folder: Path, at: int = 13, every: int = 3) -> None:
    settings = Settings(checkpoint_steps=every)
    loop = make_loop(GENERATIVE, tiny_stream(), folder=folder, settings=settings, prepare=halt_after(at))
    with pytest.raises(Halt):
        loop.run()


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def tamper(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(bytes(data))


@pytest.mark.parametrize("name", ["tensors.safetensors", "tree.json", "manifest.json"])
@pytest.mark.parametrize("harm", [truncate, tamper, Path.unlink], ids=["truncated", "tampered", "missing"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(name: str, harm: Any, tmp_path: Path) -> None:
    halted(tmp_path)
    harm(tmp_path / "checkpoint" / name)
    whole, again = train(GENERATIVE, tiny_stream()), train(GENERATIVE, tiny_stream(), folder=tmp_path)
    assert again.result["matrices"] == whole.result["matrices"]
    assert differing(again.learner.state(), whole.learner.state()) == []
    (warning,) = [text for text in again.result["warnings"] if "checkpoint" in text]
    assert "the state saved before it is used instead" in warning
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert warning in [line["message"] for line in lines if line["kind"] == "warning"]


def test_two_damaged_checkpoints_are_an_error_and_stay_as_they_are(tmp_path: Path) -> None:
    halted(tmp_path)
    for folder in ("checkpoint", "checkpoint.previous"):
        tamper(tmp_path / folder / "tensors.safetensors")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(StorageError, match=r"tensors\.safetensors is damaged") as caught:
        train(GENERATIVE, tiny_stream(), folder=tmp_path)
    assert caught.value.exit_code == 1
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_a_full_disk_leaves_the_checkpoint_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from reverie import storage

    real, calls = storage._write_tensors, []

    def full(path: Path, tensors: Any) -> None:
        calls.append(path)
        if len(calls) == 5:
            path.write_bytes(b"half of")
            raise OSError(28, "No space left on device")
        real(path, tensors)

    monkeypatch.setattr(storage, "_write_tensors", full)
    with pytest.raises(StorageError, match=r"No space left on device.*unchanged") as caught:
        train(GENERATIVE, tiny_stream(), folder=tmp_path, settings=Settings(checkpoint_steps=3))
    assert caught.value.exit_code == 1
    assert not (tmp_path / "checkpoint.next").exists()
    monkeypatch.undo()
    assert json.loads((tmp_path / "result.json").read_text())["status"] == "interrupted"
    whole, again = train(GENERATIVE, tiny_stream()), train(GENERATIVE, tiny_stream(), folder=tmp_path)
    assert again.result["warnings"] == whole.result["warnings"]
    assert again.result["matrices"] == whole.result["matrices"]
    assert differing(again.learner.state(), whole.learner.state()) == []


@pytest.mark.parametrize("name", ["metrics.jsonl", "result.json"])
def test_a_record_that_cannot_be_written_is_a_clear_error(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(StorageError, match=f"cannot write .*{name}"):
        train(Naive(), tiny_stream(), folder=tmp_path)
