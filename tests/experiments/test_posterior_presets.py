"""The presets of posterior meta-replay: each learns two tasks, and what comes after the last one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from reverie.device import CPU
from reverie.experiments.config import RunConfig
from reverie.experiments.posterior_presets import CURVES, ROWS, ROWS_A_TASK
from reverie.learners import LEARNERS, with_recommended
from reverie.options import from_options
from reverie.seeding import Position, Randomness
from reverie.streams import STREAMS, ArrayStream
from reverie.streams.augmentation import augmented

SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32), "cifar100": (3, 32, 32)}
TOYS = ("regression-1d", "gaussian-modes")


def of(name: str) -> Mapping[str, Any]:
    options: Mapping[str, Any] = ROWS[name][0]
    return options


def classes_a_task(stream: Mapping[str, Any]) -> int:
    return 2 if stream["name"] == "split" and stream["dataset"] != "cifar100" else 10


def small(config: RunConfig, tasks: int = 2) -> ArrayStream:
    """The preset's own stream where it is a toy; else one with as wide rows and as many classes a task."""
    source = from_options(STREAMS, config.stream)
    assert config.scenario is not None
    if config.stream["name"] in TOYS:
        stream: ArrayStream = source.build(config.scenario, 0)
        return stream
    channels, height, width = SHAPES[config.stream["dataset"]]
    pad, classes = config.stream.get("pad", 0), classes_a_task(config.stream)
    rng = torch.Generator().manual_seed(0)
    parts = []
    for task in range(tasks):
        y = task * classes + torch.arange(12) % classes
        x = torch.rand(len(y), channels, height + 2 * pad, width + 2 * pad, generator=rng)
        parts.append((x, y, x[:classes], y[:classes]))
    return ArrayStream.from_arrays(parts, config.scenario, augment=config.stream.get("augment", "none"))


def learner_of(name: str, stream: ArrayStream, rng: Randomness) -> Any:
    """Small where nothing but time depends on it: coresets, and the weight samples of wide networks."""
    options, changes = of(name)["learner"], {}
    learner: Any = with_recommended(from_options(LEARNERS, options), stream.spec)
    if "coreset" in options:
        changes["coreset__size"] = 4
    if options["solver"].get("hidden") != [10, 10]:
        most = {"samples": 2, "kl_samples": 3, "test_samples": 2}
        changes |= {key: min(value, options[key]) for key, value in most.items() if key in options}
        if "stein_samples" in options.get("posterior", {}):
            changes["posterior__stein_samples"] = min(4, options["posterior"]["stein_samples"])
    learner = learner.set_params(**changes)
    learner.build(stream.spec, rng, CPU)
    return learner


def heavy(name: str) -> bool:
    return "res" in of(name)["learner"]["solver"]["name"]


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if heavy(n) else []) for n in ROWS])
def test_two_tasks_and_the_phase_after_the_last_can_be_learnt(name: str) -> None:
    """A step each. What holds on to the first task is in the losses of the second."""
    config, rng = RunConfig.from_dict(of(name)), Randomness(0)
    stream = small(config)
    learner = learner_of(name, stream, rng)
    told: list[dict[str, float]] = []
    for index, task in enumerate((stream[0], stream[1], None)):
        rng.position = Position(index, 0, 0)
        if task is not None:
            learner.begin_task(task)
        for phase in learner.phases(task):
            batch = augmented(learner.rows(phase, task).take(torch.arange(4)), stream.spec, phase, rng)
            told.append({key: float(value) for key, value in learner.step(phase, batch).items()})
            learner.end_phase(phase, task)
        if task is not None:
            learner.end_task(task)
    assert all(torch.tensor(list(losses.values())).isfinite().all() for losses in told)

    options = config.learner
    assert len(told) == 2 + (options.get("coreset") is not None)
    assert [("solver.kl" in losses) for losses in told] == [bool(options.get("kl_weight"))] * len(told)
    assert ("solver.regulariser" in told[1]) == bool(options.get("strength") and options["name"] == "posterior-replay")
    assert ("solver.penalty" in told[1]) == (options["name"] == "ewc")
    assert ("solver.distillation" in told[1]) == (options["name"] == "replay")
    answer = learner.predict(stream.tests[0].rows.take(torch.arange(2)).x)
    assert not bool(answer.scores.isnan().any())


@pytest.mark.parametrize("name", ROWS)
def test_the_cost_tells_the_steps_of_a_run(name: str) -> None:
    config = RunConfig.from_dict(of(name))
    learner: Any = from_options(LEARNERS, config.learner)
    coreset = getattr(learner, "coreset", None)
    rows = ROWS_A_TASK.get(config.stream.get("dataset", ""), 0) - (0 if coreset is None else coreset.size)
    steps = learner.phase("train").length(max(rows, 0)) * config.stream.get("tasks", 3)
    steps += 0 if coreset is None else coreset.phase(learner.phase("train")).length(0)
    assert re.match(r"[\d,]+ steps", ROWS[name][1]).group() == f"{steps:,} steps"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "tasks", "made", "trained"),
    [
        ("pr-bbb-curves", 3, 282, 3_326),
        ("pr-bbb-modes", 3, 412, 25_308),
        ("pr-ssge-modes", 3, 2_706, 286_802),
        ("pr-avb-modes", 3, 31_806, 3_222_812),
        ("pr-dirac-split-mnist-small", 5, 89_610, 89_524),
        ("pr-dirac-split-mnist", 5, 478_410, 474_684),
        ("pr-dirac-split-mnist-lenet", 5, 431_080, 418_952),
        ("pr-bbb-split-mnist-small", 5, 179_220, 174_180),
        ("pr-bbb-split-mnist-lenet", 5, 862_160, 859_784),
        pytest.param("pr-bbb-permuted-mnist", 10, 4_252_200, 3_147_200, marks=pytest.mark.slow),
        pytest.param("pr-dirac-split-cifar10-resnet-32", 5, 465_290, 232_152, marks=pytest.mark.slow),
        pytest.param("pr-bbb-split-cifar10-resnet-32", 5, 930_580, 924_144, marks=pytest.mark.slow),
    ],
)
def test_networks_are_as_large_as_those_of_the_authors(name: str, tasks: int, made: int, trained: int) -> None:
    """Numbers made and trained after so many tasks. Two parts are cut into chunks by themselves, where theirs are cut as one vector: at most
    one chunk embedding a task more."""
    config = RunConfig.from_dict(of(name))
    stream = small(config, tasks)
    learner = learner_of(name, stream, Randomness(0))
    for task in stream:
        learner.begin_task(task)
    assert learner.model.hypernet.outputs == made
    options = config.learner["hypernetwork"]
    most = (tasks if options.get("chunks_per_task") else 1) * options.get("chunk_dim", 0)
    assert 0 <= learner.model.hypernet.trained - trained <= most


def test_what_belongs_together_is_together() -> None:
    """What the module's text promises of all rows."""
    for name in ROWS:
        config, learner = of(name), of(name)["learner"]
        posterior = learner.get("posterior", {})
        classification = config["stream"] is not CURVES
        assert ("fresh_heads" in learner) == (learner["name"] == "vcl" and classification)
        assert ("normalise" in learner) == ("divergence" in learner and classification)
        assert (posterior.get("clip_score") is False) == ("stein_samples" in posterior and "clip" in learner)
        assert ("fisher_prior" in learner) == ("fisher_rows" in learner)
        if "stein_samples" in posterior:
            assert learner.get("kl_samples", learner["samples"]) >= learner["samples"]
