"""Small streams, small learners and exact comparisons, for tests that train whole methods in a moment."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reverie.device import CPU
from reverie.engine import Loop, Observer, Record, Settings
from reverie.generators import GENERATORS
from reverie.generators.lgaa_replay import Recognised
from reverie.learners import LEARNERS, with_recommended
from reverie.options import Part, from_options, signature
from reverie.seeding import Randomness
from reverie.streams import ArrayStream, Blobs, Regression1D
from reverie.types import Recommended, Scenario

SMALL = {"hidden": (12,), "latent_dim": 3, "batch_size": 8}


class Halt(BaseException):
    """Stands for a process that dies: nothing in the package may catch it."""


def tiny_stream(
    scenario: Scenario = "class",
    *,
    tasks: int = 3,
    classes_per_task: int = 2,
    rows: int = 24,
    steps: int = 8,
    seed: int = 0,
    **recommended: Any,
) -> ArrayStream:
    """Blobs whose recommendation keeps every learner small, whatever its own defaults."""
    source = Blobs(tasks=tasks, classes_per_task=classes_per_task, dimensions=6, rows_per_class=rows, spread=0.08)
    return recommending(source.build(scenario, seed), steps=steps, **recommended)


def tiny_images(
    scenario: Scenario = "class",
    *,
    tasks: int = 3,
    classes_per_task: int = 2,
    rows: int = 24,
    steps: int = 8,
    seed: int = 0,
    **recommended: Any,
) -> ArrayStream:
    """The same with rows of 1 x 8 x 8."""
    blobs = Blobs(tasks=tasks, classes_per_task=classes_per_task, dimensions=64, rows_per_class=rows, spread=0.08)
    source = blobs.build("class", seed)
    parts = [
        [rows.take(torch.arange(len(rows))) for rows in (task.train, source.tests[task.index].rows)] for task in source
    ]
    arrays = [[v for b in pair for v in (b.x.reshape(-1, 1, 8, 8), b.y)] for pair in parts]
    return recommending(ArrayStream.from_arrays(arrays, scenario), steps=steps, **recommended)


def tiny_curves(*, targets: int = 1, rows: int = 12, steps: int = 8, **recommended: Any) -> ArrayStream:
    """Regression: three cubics and parabolas in pieces, each target a multiple of the curve."""
    source = Regression1D(rows=rows, test_rows=9).build("domain", 0)
    if targets > 1:
        parts = [(task.train, test.rows) for task, test in zip(source, source.tests, strict=True)]
        taken = [[rows.take(torch.arange(len(rows))) for rows in pair] for pair in parts]
        arrays = [[v for b in pair for v in (b.x, b.y * torch.arange(1, targets + 1))] for pair in taken]
        source = ArrayStream.from_arrays(arrays, "domain", noise_std=0.1)
    return recommending(source, steps=steps, likelihood="gaussian", **recommended)


def recommending(stream: ArrayStream, likelihood: str = "bernoulli", **values: Any) -> ArrayStream:
    generator = {"name": "vae", "likelihood": likelihood}
    recommended = Recommended({"name": "mlp"}, generator, {**SMALL, **values}, {"name": "mlp"})
    return replace(stream, spec=replace(stream.spec, recommended=recommended))


def tiny_generator(name: str) -> Part:
    """An entry of the table of generators with its own budgets, where it has any, cut short."""
    alias = GENERATORS.aliases.get(name, {"name": name})
    short = {"phase_steps": 8, "phase_batch_size": 8, "critic_steps": 2}
    options = {key: value for key, value in short.items() if key in signature(GENERATORS[alias["name"]])}
    return from_options(GENERATORS, {**alias, **options})


@dataclass
class Trained:
    """What is left after training: everything a test may look at."""

    learner: Any
    loop: Loop
    result: dict[str, Any]

    @property
    def accuracy(self) -> list[list[float | None]]:
        return self.result["accuracy"]

    @property
    def lines(self) -> list[dict[str, Any]]:
        return self.loop.record.lines


def make_loop(
    learner: Part | str,
    stream: ArrayStream,
    *,
    seed: int = 0,
    folder: Path | None = None,
    settings: Settings | None = None,
    observer: Observer | None = None,
    prepare: Callable[[Any], None] = lambda learner: None,
) -> Loop:
    """A loop over a freshly built learner; ``prepare`` may spy on the learner before it trains."""
    made: Any = from_options(LEARNERS, learner) if isinstance(learner, str) else learner.clone()
    if made.on_merged_stream:
        stream = stream.merged()
    made = with_recommended(made, stream.spec)
    rng = Randomness(seed)
    made.build(stream.spec, rng, CPU)
    prepare(made)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    facts = {
        "learner": type(made).__name__,
        "generator": None,
        "seed": seed,
        "options": {},
        "kind": stream.spec.kind,
    }
    return Loop(made, stream, rng, CPU, Record(folder, facts), settings or Settings(), observer)


def train(learner: Part | str, stream: ArrayStream, **options: Any) -> Trained:
    loop = make_loop(learner, stream, **options)
    return Trained(loop.learner, loop, loop.run())


def halt_after(steps: int, how: Callable[[], None] | None = None) -> Callable[[Any], None]:
    """For ``prepare``: the learner's step number ``steps`` (from 0, over the whole run) does not come back."""

    def die() -> None:
        raise Halt

    def prepare(learner: Any) -> None:
        real, count = learner.step, 0

        def step(phase: Any, batch: Any) -> Any:
            nonlocal count
            if count == steps:
                (how or die)()
            count += 1
            return real(phase, batch)

        learner.step = step

    return prepare


# ---------------------------------------------------------------------------------------------- exact comparison


def bits(tree: Any, path: str = "") -> dict[str, Any]:
    """Every leaf of a tree by its path; tensors as dtype, shape and bytes, so that == means the same bits."""
    if isinstance(tree, Tensor):
        data = tree.detach().cpu().contiguous()
        return {path: (str(data.dtype), tuple(data.shape), data.flatten().view(torch.uint8).numpy().tobytes())}
    if isinstance(tree, dict):
        items = [(str(key), value) for key, value in tree.items()]
    elif isinstance(tree, list | tuple):
        items = [(str(index), value) for index, value in enumerate(tree)]
    else:
        return {path: tree}
    return {
        path: type(tree).__name__,
        **{k: v for key, value in items for k, v in bits(value, f"{path}/{key}").items()},
    }


def differing(a: Any, b: Any) -> list[str]:
    """Paths at which two trees differ; empty: the same bits."""
    left, right = bits(a), bits(b)
    return sorted(path for path in {*left, *right} if left.get(path, ...) != right.get(path, ...))


def snapshot(learner: Any) -> Any:
    return deepcopy(learner.state())


def module_bits(part: Any) -> dict[str, Any]:
    """Parameters and buffers of a solver's or generator's module."""
    return bits(dict(part.network.module.state_dict()))


def losses(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that carry losses, as written."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "losses"]


class TakenFor:
    """An adversarial autoencoder that finds ``answers[i]`` in its i-th drawing, with this certainty: a class, "right", or what becomes of the
    classes and domains that were asked for."""

    outputs = 6
    replay_temperature = 1.5

    def __init__(self, answers: list[Any], sure: float = 1.0, taught: tuple[tuple[int, ...], ...] = ((0, 1),)) -> None:
        self.answers, self.sure, self.asked, self.domains, self.heads = list(answers), sure, [], [], taught
        self.seen = len(taught)

    def taught(self) -> Tensor:
        return torch.tensor([[c in head for c in range(self.outputs)] for head in self.heads])

    def draw(self, classes: Tensor, domains: Tensor, rng: torch.Generator, temperature: float) -> Tensor:
        assert temperature == 1.5
        self.asked.append(classes.tolist())
        self.domains.append(domains.tolist())
        return torch.rand(len(classes), 1, 8, 8, generator=rng)

    def recognise(self, x: Tensor, categories: bool) -> Recognised:
        answer = self.answers.pop(0)
        classes, domains = torch.tensor(self.asked[-1]), torch.tensor(self.domains[-1])
        if callable(answer):
            classes, domains = answer(classes, domains)
        elif answer != "right":
            classes = torch.full_like(classes, answer)
        return Recognised(classes, domains, torch.full((len(x),), self.sure))
