"""Separate posteriors: nothing is shared, so nothing is forgotten, and memory pays for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from reverie.learners import PosteriorReplay, SeparatePosteriors
from reverie.nn.optimisers import Adam
from reverie.posteriors import Dirac, MeanField, Radial
from reverie.solvers import MLP
from reverie.streams.rows import TensorRows
from tests.learners.test_posteriors import STEPS, at_step, inputs
from tests.tiny import bits, tiny_stream, train

NUMEL = 6 * 12 + 12 + 6 * (12 + 1)  # parameters of the tiny network with six outputs
POSTERIORS = [Dirac(), MeanField(), Radial()]

every_posterior = pytest.mark.parametrize("posterior", POSTERIORS, ids=["point", "gaussian", "radial"])


@every_posterior
@pytest.mark.parametrize("scenario", ["class", "task", "domain"])
def test_nothing_that_is_learnt_later_changes_an_answer(posterior: Any, scenario: Any) -> None:
    """Bit for bit, weight decay and all; but the posterior replay of the same stream does change."""
    stream = tiny_stream(scenario)
    x = inputs(stream)
    solver = MLP(hidden=(12,), optimiser=Adam(weight_decay=0.1))
    then = []

    def spy(learner: Any) -> None:
        real = learner.end_task

        def end_task(task: Any) -> None:
            real(task)
            then.append(learner.predict(x, task.index).scores)

        learner.end_task = end_task

    for method, same in ((SeparatePosteriors, True), (PosteriorReplay, False)):
        then.clear()
        part = method(posterior=posterior, solver=solver, active_classes="all-so-far")
        learner = train(part, stream, prepare=spy).learner
        now = [learner.predict(x, task).scores for task in range(3)]
        assert [bits(a) == bits(b) for a, b in zip(then, now, strict=True)] == [same, same, True]
        by_task = learner.predict(x).by_task
        for task, head in enumerate(map(list, stream.spec.heads)):
            assert bits(by_task[:, task][:, head]) == bits(now[task][:, head])


def test_a_task_learns_the_same_whatever_came_before() -> None:
    stream = tiny_stream()
    first = stream[0].train.take(torch.arange(len(stream[0].train)))
    assert first.y is not None
    other = replace(stream, trains=(TensorRows(1 - first.x, first.y), *stream.trains[1:]))
    nets = [train(SeparatePosteriors(), given).learner.model.hypernet for given in (stream, other)]
    same = [bits(nets[0].of(task)["theta"]) == bits(nets[1].of(task)["theta"]) for task in range(3)]
    assert same == [False, True, True]


@every_posterior
def test_memory_grows_by_a_model_a_task(posterior: Any) -> None:
    stream = tiny_stream()
    parts = len(posterior.names)
    for task in range(3):
        learner = at_step(SeparatePosteriors(posterior=posterior), stream, task * STEPS + 1)
        assert dict(learner.memory().persistent) == {"solver": (task + 1) * parts * NUMEL * 4}
        assert learner.memory().stores == "none"
        shapes = [tuple(p.shape) for p in learner.model.hypernet.parameters()]
        assert shapes == [(parts, NUMEL)] * (task + 1)


def test_means_start_where_the_network_does_and_deviations_anew_for_each_task() -> None:
    learner = train(SeparatePosteriors(steps=1), tiny_stream()).learner
    fresh = at_step(SeparatePosteriors(), tiny_stream(), 0)
    start = fresh.model.hypernet.of(0)["theta"].detach()
    torch.testing.assert_close(start[0], fresh.model.layout.flatten(fresh.main.module), rtol=0, atol=0)
    thetas = [learner.model.hypernet.of(task)["theta"].detach() for task in range(3)]
    for theta in thetas:  # one step of Adam moves each number by its learning rate at most
        assert float((theta[0] - start[0]).abs().max()) <= 1.01e-3
    assert bool(((thetas[0][1] - thetas[1][1]).abs() > 2.02e-3).any())
