"""A run as a dictionary: what it accepts, what it writes, what it compares; presets and grids."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from reverie.checks import OptionsError, StorageError
from reverie.device import CPU
from reverie.experiments.config import RunConfig, differences, read_yaml, same_run
from reverie.experiments.grid import grid
from reverie.experiments.posterior_presets import ROWS
from reverie.experiments.presets import PRESETS
from reverie.learners import LEARNERS, with_recommended
from reverie.options import from_options, signature, to_options
from reverie.seeding import Randomness
from reverie.streams import STREAMS, ArrayStream, Folder
from tests.tiny import tiny_stream

EVERYTHING: dict[str, Any] = {
    "stream": {"name": "blobs", "tasks": 2},
    "learner": {"name": "replay", "buffer": {"name": "buffer", "budget": 7, "strategy": "ring"}, "importance": 0.25},
    "scenario": "task",
    "seed": 5,
    "device": "cpu",
    "precision": "bf16",
    "threads": 1,
    "evaluate": "all",
    "evaluate_every": 10,
    "checkpoint_seconds": 2.5,
    "checkpoint_steps": 4,
    "data_dir": "somewhere",
}


def test_a_config_comes_back_from_yaml(tmp_path: Path) -> None:
    config = RunConfig.from_dict(EVERYTHING)
    config.write(tmp_path / "config.yaml")
    assert RunConfig.read(tmp_path / "config.yaml") == config
    values = config.to_dict()
    assert values["schema"] == 1
    assert {key: values[key] for key in EVERYTHING if key not in ("stream", "learner")} == {
        key: value for key, value in EVERYTHING.items() if key not in ("stream", "learner")
    }
    usual = {"unit": "items-per-class", "encoding": "lossless"}
    assert values["learner"]["buffer"] == {"name": "buffer", "budget": 7, "strategy": "ring", **usual}
    assert differences(values, read_yaml(tmp_path / "config.yaml")) == []


@pytest.mark.parametrize("learner", LEARNERS.names())
def test_every_learner_comes_back_resolved(learner: str, tmp_path: Path) -> None:
    part = with_recommended(from_options(LEARNERS, learner), tiny_stream().spec)
    config = replace(RunConfig.from_dict({"learner": learner}), learner=to_options(part))
    config.write(tmp_path / "config.yaml")
    again = RunConfig.read(tmp_path / "config.yaml")
    assert again.to_dict() == config.to_dict()
    assert to_options(from_options(LEARNERS, again.learner)) == to_options(part)
    # What the stream recommends is written out: nothing that decides the result is left to later versions.
    options = signature(LEARNERS[again.learner["name"]])
    assert "steps" not in options or again.learner["steps"] == 8  # statistics have neither steps nor a network
    networks = [again.learner[name] for name in ("solver", "backbone") if name in options]
    assert all(network["hidden"] == [12] for network in networks)
    if "method" in options:  # its network is what lies above the cut
        assert (again.learner["method"]["steps"], again.learner["method"]["solver"]) == (8, None)


# A stream that needs data still has options; a folder must be named.
@pytest.mark.parametrize("stream", [name for name in STREAMS.names() if STREAMS.parts.get(name) is not Folder])
def test_every_stream_is_written_and_read(stream: str, tmp_path: Path) -> None:
    config = RunConfig.from_dict({"stream": stream})
    config.write(tmp_path / "config.yaml")
    assert RunConfig.read(tmp_path / "config.yaml").to_dict() == config.to_dict()
    assert config.stream["name"] in STREAMS.parts


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(OptionsError) as caught:
        RunConfig.from_dict(
            {
                "stream": {"name": "blobs", "tasks": 0, "taks": 3},
                "learner": {"name": "generative-replay", "generator": {"name": "vea"}, "temperature": -1},
                "scenario": "klass",
                "seed": -1,
                "evalute": "all",
            }
        )
    text = str(caught.value)
    for part in (
        "stream.tasks = 0: input should be greater than or equal to 1",
        "stream.taks: stream 'blobs' has no such option; did you mean 'tasks'?",
        "learner.generator = 'vea': no generator of this name; did you mean 'vae'?",
        "learner.temperature = -1: input should be greater than 0",
        "scenario = 'klass'",
        "seed = -1",
        "evalute: no such option; did you mean 'evaluate'?",
    ):
        assert part in text
    assert len(text.splitlines()) == 8


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learner": {"name": "naive", "steps": 5, "epochs": 2}}, "give one of the two"),
        (
            {"learner": {"name": "generative-replay", "distill": True, "labels": "condition"}},
            "soft labels come from the solver",
        ),
        (
            {"learner": {"name": "generative-replay", "labels": "condition", "generator": "vae"}},
            "cannot be asked for a class",
        ),
        ({"learner": {"name": "replay", "importance": 1.5}}, "less than or equal to 1"),
        ({"learner": {"name": "replay", "importance": 0}}, "greater than 0"),
        ({"learner": {"name": "naive", "batch_size": 2.5}}, "valid integer"),
        ({"learner": 3}, "learner"),
        ({"checkpoint_seconds": float("nan")}, "finite"),
    ],
)
def test_contradictions_and_ranges(values: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        RunConfig.from_dict(values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("schema: 2\nseed: 1\n", "config has schema 2, this version of Reverie reads up to 1"),
        ("- a\n- b\n", "not a dictionary of options"),
        ("seed: [1\n", "not readable"),
        ("schema: one\n", "no schema number"),
        ("seed: !!python/object/apply:os.system ['true']\n", "not readable"),
    ],
)
def test_files_that_are_no_config(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(StorageError, match=message):
        RunConfig.read(path)


def test_differences_name_the_options() -> None:
    a, b = RunConfig.from_dict(EVERYTHING).to_dict(), RunConfig.from_dict(EVERYTHING).to_dict()
    assert differences(a, b) == []
    b["seed"], b["learner"]["buffer"]["budget"], b["evaluate_every"] = 6, None, 20
    assert differences(a, b) == ["evaluate_every: 10 -> 20", "learner.buffer.budget: 7 -> None", "seed: 5 -> 6"]
    assert not same_run(a, b)


def test_where_and_how_often_to_save_is_no_other_run() -> None:
    a = RunConfig.from_dict(EVERYTHING)
    moved = replace(a, data_dir="elsewhere", checkpoint_seconds=9.0, checkpoint_steps=None)
    assert same_run(a.to_dict(), moved.to_dict())
    for change in ({"seed": 1}, {"threads": 2}, {"evaluate": "seen"}, {"precision": "float32"}, {"scenario": "class"}):
        assert not same_run(a.to_dict(), replace(a, **change).to_dict())


# ---------------------------------------------------------------------------------------------- presets


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_valid(name: str) -> None:
    """Its options are, and come back from YAML, and it names source and cost."""
    preset = PRESETS[name]
    config = RunConfig.from_dict(preset.options)
    assert preset.source
    assert preset.cost
    assert config.scenario in from_options(STREAMS, config.stream).scenarios
    assert from_options(LEARNERS, config.learner)
    assert RunConfig.from_dict(config.to_dict()) == config
    assert yaml.safe_load(yaml.safe_dump(config.to_dict())) == config.to_dict()


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if n == "lgaa-faithful64" else []) for n in PRESETS if n not in ROWS],
)
def test_every_preset_can_be_run(name: str) -> None:
    """Its learner builds on a stream of this scenario and takes two steps; what posteriors do is tested beside their presets."""
    config = RunConfig.from_dict(PRESETS[name].options)
    stream = tiny_stream(config.scenario or "class")
    autoencoder = config.learner.get("autoencoder")
    if autoencoder or "backbone" in config.learner or (config.learner.get("generator") or {}).get("name") == "lgaa":
        side = {"small32": 32, "faithful32": 32, "faithful64": 64}.get((autoencoder or {}).get("size"), 28)
        images = torch.rand(4, 1, side, side), torch.arange(4) % 2
        stream = ArrayStream.from_arrays([(*images, *images)] * 2, config.scenario or "class")
    learner: Any = with_recommended(from_options(LEARNERS, config.learner), stream.spec)
    learner.build(stream.spec, Randomness(0), CPU)
    learner.begin_task(stream[0])
    assert all(phase.length(48) > 0 for phase in learner.phases(stream[0]))
    phase = learner.phases(stream[0])[0]
    batch = learner.rows(phase, stream[0]).take(torch.arange(4))
    for _ in range(2):
        assert all(bool(loss.isfinite()) for loss in learner.step(phase, batch).values())


# ---------------------------------------------------------------------------------------------- grids


def configs(*learners: Any) -> list[RunConfig]:
    return [RunConfig.from_dict({"stream": "blobs", "learner": learner}) for learner in learners]


def folders(learners: list[Any], seeds: list[int]) -> list[str]:
    return [str(cell.folder) for cell in grid(configs(*learners), seeds, Path("out"))]


def test_cells_are_named_by_learner_and_seed() -> None:
    assert folders(["naive"], [3]) == ["out"]
    assert folders(["naive"], [0, 1]) == ["out/naive-seed0", "out/naive-seed1"]
    assert folders(["naive", "replay"], [3]) == ["out/naive", "out/replay"]
    assert folders(["naive", "replay"], [0, 1]) == [
        "out/naive-seed0",
        "out/naive-seed1",
        "out/replay-seed0",
        "out/replay-seed1",
    ]


def test_no_two_cells_share_a_folder() -> None:
    names = folders(["generative-replay", "generative-replay-distilled", "naive"], [0, 1])
    assert len(set(names)) == len(names) == 6


def test_all_wrong_seeds_of_a_grid_are_told_at_once() -> None:
    with pytest.raises(OptionsError, match=r"(?s)seed = -1: .*seed = -2: ") as caught:
        grid(configs("naive", "replay"), [-1, 0, -2], Path("out"))
    assert len(str(caught.value).splitlines()) == 3


def test_cells_carry_their_seed_and_their_options() -> None:
    cells = grid(configs("naive", {"name": "replay", "importance": 0.5}), [4, 7], Path("out"))
    assert [cell.config.seed for cell in cells] == [4, 7, 4, 7]
    assert [cell.config.learner["name"] for cell in cells] == ["naive", "naive", "replay", "replay"]
    assert cells[3].config.learner["importance"] == 0.5
