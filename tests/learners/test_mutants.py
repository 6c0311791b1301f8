"""Two mistakes that look right (spec, section 1.7), built on purpose, and the checks that tell them from the real thing.

Each check is one function, run on the real learner, which passes, and on the mutants, which do not.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from reverie.learners import GenerativeReplay
from reverie.learners.base import prefixed
from reverie.replay import importance, mix
from reverie.seeding import generator
from reverie.types import Batch, Losses, Phase, Task
from tests.tiny import Trained, recommending, tiny_stream, train

SEEDS = (0, 1)


@dataclass(eq=False, repr=False)
class LabelsFromTheLiveSolver(GenerativeReplay):
    """Mistake 1: the solver being trained labels its own replay."""

    def begin_task(self, task: Task) -> None:
        super().begin_task(task)
        if self.scholar is not None:
            self.scholar.solver = self.network


@dataclass(eq=False, repr=False)
class GeneratorWithoutRehearsal(GenerativeReplay):
    """Mistake 2a: replay for the solver alone; the generator learns the new rows and forgets the old ones."""

    def step(self, phase: Phase, batch: Batch) -> Losses:
        r = importance(self.importance, self.task, self.rows_now, self.rows_before)
        both = batch if self.scholar is None else mix(batch, self.scholar.sample(len(batch)), r, self.spec.outputs)
        losses = prefixed("solver", self.network.step(replace(both, groups=self.groups)))
        return losses | prefixed("generator", self.model.step(batch))


@dataclass(eq=False, repr=False)
class SamplesFromTheLiveGenerator(GenerativeReplay):
    """Mistake 2b: replay comes from the generator being trained."""

    chunk: int = 1

    def begin_task(self, task: Task) -> None:
        super().begin_task(task)
        if self.scholar is not None:
            self.scholar.generator = self.model


def stream(seed: int, steps: int = 100) -> Any:
    """Six clouds in three tasks; a learning rate that makes a solver on the move answer differently within a task."""
    return recommending(
        tiny_stream(rows=80, seed=seed),
        steps=steps,
        batch_size=32,
        hidden=(32,),
        latent_dim=6,
        learning_rate=5e-3,
        kl_weight=0.1,
    )


def violations(learner: GenerativeReplay, seed: int) -> set[str]:
    """White box: every batch that solver and generator are trained on, against copies that this test froze itself."""
    found: set[str] = set()

    def spy(made: Any) -> None:
        frozen: dict[str, Any] = {}
        real_begin, real_solver, real_generator = made.begin_task, made.network.step, made.model.step

        def begin(task: Task) -> None:
            if task.index > 0:
                frozen["solver"] = deepcopy(made.network.network.module)
                frozen["generator"] = deepcopy(made.model.network.module)
            real_begin(task)

        def solver_step(batch: Batch, *more: Any) -> Losses:
            if frozen:
                replay, labels = batch.x[32:], batch.y[32:]
                seen = list(made.spec.classes_until(made.task - 1))
                with torch.no_grad():
                    answer = torch.tensor(seen)[frozen["solver"](replay)[:, seen].argmax(dim=1)]
                    z = torch.randn(made.chunk * 32, 6, generator=draw(made))
                    decoded = torch.sigmoid(frozen["generator"].decoder(z))
                first = made.rng.position.step % made.chunk * 32
                if not torch.equal(labels, answer):
                    found.add("labels")
                if not torch.equal(replay, decoded[first : first + 32]):
                    found.add("samples")
            return real_solver(batch, *more)

        def generator_step(batch: Batch) -> Losses:
            r = 1 / (made.task + 1)
            if frozen and not (len(batch) == 64 and torch.isclose(batch.weight[:32].sum(), torch.tensor(r))):
                found.add("rehearsal")
            return real_generator(batch)

        made.begin_task, made.network.step, made.model.step = begin, solver_step, generator_step

    train(learner, stream(seed, steps=40), seed=seed, prepare=spy)
    return found


def draw(learner: Any) -> torch.Generator:
    """The random numbers that the chunk of the present step is made of."""
    here = learner.rng.position
    first = here.step - here.step % learner.chunk
    return generator(learner.rng.seed, "replay", "at", here.task, here.phase, first)


def test_the_real_learner_breaks_no_rule() -> None:
    assert violations(GenerativeReplay(), seed=0) == set()
    assert violations(GenerativeReplay(chunk=1), seed=0) == set()


@pytest.mark.parametrize(
    ("mutant", "rule"),
    [
        (LabelsFromTheLiveSolver(chunk=1), "labels"),
        (LabelsFromTheLiveSolver(), "labels"),
        (GeneratorWithoutRehearsal(), "rehearsal"),
        (SamplesFromTheLiveGenerator(), "samples"),
    ],
    ids=["live-labels", "live-labels-in-chunks", "no-rehearsal", "live-samples"],
)
def test_every_mutant_breaks_its_rule(mutant: GenerativeReplay, rule: str) -> None:
    assert rule in violations(mutant, seed=0)


# ---------------------------------------------------------------------------------------------- behaviour


def shown(run: Trained) -> float:
    """Share of the first task's clouds among samples of the last generator, each given to its nearest true centre."""
    samples = run.learner.model.sample(600, torch.Generator().manual_seed(0)).x
    tests = [test.rows.take(torch.arange(len(test.rows))) for test in run.loop.stream.tests]
    x, y = torch.cat([test.x for test in tests]), torch.cat([test.y for test in tests])
    centres = torch.stack([x[y == c].mean(dim=0) for c in range(6)])
    return float((torch.cdist(samples, centres).argmin(dim=1) < 2).float().mean())


def forgotten(learner: GenerativeReplay, seed: int) -> set[str]:
    """Black box: whether, after three tasks, the solver answers badly on an old one, and whether the generator still shows the first."""
    run = train(learner, stream(seed), seed=seed)
    lost = {"solver"} if min(run.accuracy[-1][:2]) < 0.9 else set()
    return lost | ({"generator"} if shown(run) < 0.02 else set())


@pytest.mark.parametrize("seed", SEEDS)
def test_the_real_learner_remembers(seed: int) -> None:
    assert forgotten(GenerativeReplay(), seed) == set()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("mutant", "lost"),
    [
        (LabelsFromTheLiveSolver(), {"solver"}),
        (GeneratorWithoutRehearsal(), {"solver", "generator"}),
        (SamplesFromTheLiveGenerator(), {"solver", "generator"}),
    ],
    ids=["live-labels", "no-rehearsal", "live-samples"],
)
def test_every_mutant_forgets(mutant: GenerativeReplay, lost: set[str], seed: int) -> None:
    assert forgotten(mutant, seed) == lost
