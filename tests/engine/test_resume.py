"""A run that dies at any step and is resumed ends as the unbroken one, bit for bit."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import reverie
from reverie.engine import Settings
from reverie.experiments.runs import run_config
from reverie.learners import Cumulative, GenerativeReplay, Naive, Replay
from reverie.options import to_options
from reverie.storage import read_tree
from tests.tiny import (
    SMALL,
    Halt,
    Trained,
    differing,
    halt_after,
    losses,
    make_loop,
    tiny_generator,
    tiny_stream,
    train,
)

STEPS = 60  # a task: past one window of losses, so that a checkpoint may hold losses that are not written yet
METHODS: dict[str, Any] = {
    "generative": GenerativeReplay(chunk=7),
    "wgan-gp": GenerativeReplay(generator=tiny_generator("wgan-gp"), chunk=3),
    "replay": Replay(),
    "cumulative": Cumulative(),
}


def unbroken(name: str, folder: Path) -> Trained:
    return train(METHODS[name], tiny_stream(steps=STEPS), folder=folder / "unbroken", settings=Settings("all", 25))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    """Trained at the first use of each method."""
    folder = tmp_path_factory.mktemp("runs")

    class Lazily(dict[str, Trained]):
        def __missing__(self, name: str) -> Trained:
            self[name] = unbroken(name, folder / name)
            return self[name]

    return Lazily()


def same_lines(a: Path, b: Path) -> bool:
    """Whether two records hold the same lines, but for how many bytes a chunk of replay happened to occupy."""
    texts = [[json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] for folder in (a, b)]
    for line in (line for lines in texts for line in lines):
        line.pop("memory", None)
    return texts[0] == texts[1]


def check(again: Trained, before: Trained) -> None:
    assert again.result["status"] == "complete"
    assert again.result["matrices"] == before.result["matrices"]
    assert again.result["findings"] == before.result["findings"]
    for key in ("steps", "flops_estimate"):
        assert again.result["cost"][key] == before.result["cost"][key]
    assert differing(again.learner.state(), before.learner.state()) == []
    folders = again.loop.record.folder, before.loop.record.folder
    assert losses(folders[0]) == losses(folders[1])
    assert same_lines(*folders)


POINTS = sorted(random.Random(20).sample(range(3 * STEPS), 20))


@pytest.mark.parametrize("at", POINTS)
@pytest.mark.parametrize("name", ["generative", "replay"])
def test_killed_in_process_at_a_random_step(name: str, at: int, whole: dict[str, Trained], tmp_path: Path) -> None:
    settings = Settings("all", 25, checkpoint_steps=1 + at % 11)
    stream = tiny_stream(steps=STEPS)
    loop = make_loop(METHODS[name], stream, folder=tmp_path, settings=settings, prepare=halt_after(at))
    with pytest.raises(Halt):
        loop.run()
    check(train(METHODS[name], stream, folder=tmp_path, settings=Settings("all", 25)), whole[name])


@pytest.mark.parametrize("at", [3, 66, 130])
@pytest.mark.parametrize("name", ["wgan-gp", "cumulative"])
def test_killed_in_other_methods(name: str, at: int, whole: dict[str, Trained], tmp_path: Path) -> None:
    test_killed_in_process_at_a_random_step(name, at, whole, tmp_path)


def test_killed_again_and_again(whole: dict[str, Trained], tmp_path: Path) -> None:
    name = "generative"
    settings = Settings("all", 25, checkpoint_steps=13)
    for _ in range(8):
        loop = make_loop(
            METHODS[name], tiny_stream(steps=STEPS), folder=tmp_path, settings=settings, prepare=halt_after(19)
        )
        with pytest.raises(Halt):
            loop.run()
    check(train(METHODS[name], tiny_stream(steps=STEPS), folder=tmp_path, settings=settings), whole[name])


@pytest.mark.parametrize("verb", ["begin_task", "end_phase", "end_task", "probes", "memory"])
@pytest.mark.parametrize("name", ["generative", "wgan-gp"])
def test_killed_between_two_phases(name: str, verb: str, whole: dict[str, Trained], tmp_path: Path) -> None:
    """The second call of ``verb`` does its work and does not come back."""

    def prepare(learner: Any) -> None:
        real, calls = getattr(learner, verb), []

        def dies(*arguments: Any) -> Any:
            result = real(*arguments)
            calls.append(arguments)
            if len(calls) == 2:
                raise Halt
            return result

        setattr(learner, verb, dies)

    stream = tiny_stream(steps=STEPS)
    loop = make_loop(METHODS[name], stream, folder=tmp_path, settings=Settings("all", 25), prepare=prepare)
    with pytest.raises(Halt):
        loop.run()
    check(train(METHODS[name], stream, folder=tmp_path, settings=Settings("all", 25)), whole[name])


@pytest.mark.parametrize("at", [0, 2, 58])
def test_killed_before_the_first_checkpoint(at: int, whole: dict[str, Trained], tmp_path: Path) -> None:
    """Lines written by the process that died are not written twice."""
    stream, settings = tiny_stream(steps=STEPS), Settings("all", 25)
    loop = make_loop(METHODS["replay"], stream, folder=tmp_path, settings=settings, prepare=halt_after(at))
    with pytest.raises(Halt):
        loop.run()
    assert (tmp_path / "metrics.jsonl").read_text()
    assert not (tmp_path / "checkpoint").exists()
    check(train(METHODS["replay"], stream, folder=tmp_path, settings=settings), whole["replay"])


@pytest.mark.parametrize("at", [11, 12, 13, 24])
def test_early_stopping_is_the_same_after_a_kill(at: int, tmp_path: Path) -> None:
    """48 rows in batches of 8, stopped after the second epoch of each task; the decision is made from the learner's state."""

    def stops(learner: Any) -> None:
        real, told = learner.step, learner.state

        def step(phase: Any, batch: Any) -> Any:
            learner.count = getattr(learner, "count", 0) + 1
            return real(phase, batch)

        def load(state: Any, real: Any = learner.load) -> None:
            learner.count = state["count"]
            real(state)

        learner.step, learner.load = step, load
        learner.state = lambda: {**told(), "count": getattr(learner, "count", 0)}
        learner.finished = lambda phase: learner.count % 12 == 0

    def stops_and_dies(learner: Any) -> None:
        stops(learner)
        halt_after(at)(learner)

    part, stream = Naive(epochs=5), tiny_stream()
    before = train(part, stream, folder=tmp_path / "whole", prepare=stops)
    assert before.result["cost"]["steps"] == 36
    settings = Settings(checkpoint_steps=1)
    loop = make_loop(part, stream, folder=tmp_path / "broken", settings=settings, prepare=stops_and_dies)
    with pytest.raises(Halt):
        loop.run()
    check(train(part, stream, folder=tmp_path / "broken", settings=settings, prepare=stops), before)


# ---------------------------------------------------------------------------------------------- real processes

# Each point is a child of its own, which the kernel kills; one interpreter starts them, because importing torch takes seconds.
SCRIPT = """
import json, os, signal, sys
import torch
torch.set_num_threads(1)
from reverie.experiments.config import RunConfig
from reverie.experiments.runs import run_config
from reverie.learners import LEARNERS
config, points, folder = RunConfig.from_dict(json.loads(sys.argv[1])), json.loads(sys.argv[2]), sys.argv[3]
learner = LEARNERS[config.learner["name"]]
real, count = learner.step, 0
for point in points:
    child = os.fork()
    if child == 0:
        def step(self, phase, batch):
            global count
            if count == point:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            return real(self, phase, batch)
        learner.step = step
        run_config(config, f"{folder}/{point}")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(point, os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status))
"""


def config(learner: Any) -> dict[str, Any]:
    small = {key: list(value) if isinstance(value, tuple) else value for key, value in SMALL.items()}
    options = to_options(learner)
    options |= {"solver": {"name": "mlp", "hidden": small["hidden"]}, "batch_size": 8, "steps": 40}
    if "generator" in options:
        options["generator"] = {"name": "vae", "hidden": small["hidden"], "latent_dim": small["latent_dim"]}
    stream = {"name": "blobs", "tasks": 3, "dimensions": 6, "rows_per_class": 24}
    return {"stream": stream, "learner": options, "threads": 1, "checkpoint_steps": 7}


def killed_and_resumed(learner: Any, points: list[int], folder: Path) -> None:
    values = config(learner)
    killed = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(values), json.dumps(points), str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert killed.returncode == 0, killed.stderr
    assert killed.stdout.split("\n")[:-1] == [f"{point} {signal.SIGKILL.value}" for point in points]
    before = run_config(reverie.experiments.config.RunConfig.from_dict(values), folder / "whole")
    for point in points:
        again = reverie.resume(folder / str(point))
        assert again.result["status"] == "complete"
        assert again.accuracy == before.accuracy
        assert again.result["matrices"] == before.result["matrices"]
        assert losses(folder / str(point)) == losses(folder / "whole")
        states = [read_tree(folder / name / "checkpoint")["learner"] for name in (str(point), "whole")]
        assert differing(*states) == []


def test_sigkill_at_three_steps(tmp_path: Path) -> None:
    killed_and_resumed(GenerativeReplay(chunk=6), [4, 59, 111], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("learner", [GenerativeReplay(chunk=6), Replay()], ids=["generative", "replay"])
def test_sigkill_at_twenty_steps(learner: Any, tmp_path: Path) -> None:
    killed_and_resumed(learner, sorted(random.Random(7).sample(range(120), 20)), tmp_path)
