"""Separate posteriors: nothing is shared, so nothing is forgotten, and memory pays for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import reverie
from reverie.checks import OptionsError
from reverie.learners import PosteriorReplay, SeparatePosteriors
from reverie.nn.hypernetworks import Chunked, Full, Separate, Single
from reverie.nn.optimisers import Adam
from reverie.options import resolved
from reverie.posteriors import Dirac, MeanField, Radial
from reverie.solvers import MLP
from reverie.streams.rows import TensorRows
from tests.learners.test_posteriors import STEPS, at_step, inputs
from tests.tiny import bits, tiny_stream, train

NUMEL = 6 * 12 + 12 + 6 * (12 + 1)  # parameters of the tiny network with six outputs
POSTERIORS = [Dirac(), MeanField(), Radial()]

every_posterior = pytest.mark.parametrize("posterior", POSTERIORS, ids=["point", "gaussian", "radial"])


BEHIND: list[Any] = [None, Chunked(chunk_size=40, task_dim=4, chunk_dim=4), Full(task_dim=4)]


@every_posterior
@pytest.mark.parametrize("scenario", ["class", "task", "domain"])
@pytest.mark.parametrize("hypernetwork", BEHIND, ids=["table", "chunked", "full"])
def test_nothing_that_is_learnt_later_changes_an_answer(posterior: Any, scenario: Any, hypernetwork: Any) -> None:
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
        part = method(posterior=posterior, solver=solver, active_classes="all-so-far", hypernetwork=hypernetwork)
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


# ------------------------------------------------------------------------------- behind a hypernetwork of each task


def test_each_task_has_a_hypernetwork_begun_anew_and_memory_grows_by_it() -> None:
    stream = tiny_stream()
    options = Chunked(chunk_size=40, task_dim=4, chunk_dim=4)
    alone = at_step(PosteriorReplay(hypernetwork=options), stream, 1).memory().persistent["solver"]
    for task in range(3):
        learner = at_step(SeparatePosteriors(hypernetwork=options), stream, task * STEPS)
        assert dict(learner.memory().persistent) == {"solver": (task + 1) * alone}
    nets = [dict(learner.model.hypernet.hypernet(task).named_parameters()) for task in range(3)]
    starts = [at_step(SeparatePosteriors(hypernetwork=options), stream, task * STEPS) for task in range(3)]
    for task, start in enumerate(starts):  # what the tasks before did does not count
        fresh = dict(start.model.hypernet.hypernet(task).named_parameters())
        assert task < 2 or bits(fresh) == bits(nets[2])
        assert bits(fresh) != bits(dict(start.model.hypernet.hypernet(0).named_parameters())) or task == 0


def test_a_task_learns_the_same_whatever_came_before_behind_a_hypernetwork_too() -> None:
    stream = tiny_stream()
    first = stream[0].train.take(torch.arange(len(stream[0].train)))
    assert first.y is not None
    other = replace(stream, trains=(TensorRows(1 - first.x, first.y), *stream.trains[1:]))
    part = SeparatePosteriors(hypernetwork=Full(task_dim=4, hidden=(5,)))
    nets = [train(part, given).learner.model.hypernet for given in (stream, other)]
    same = [bits(nets[0].hypernet(task).state_dict()) == bits(nets[1].hypernet(task).state_dict()) for task in range(3)]
    assert same == [False, True, True]


def test_new_classes_can_join_behind_hypernetworks() -> None:
    options = Chunked(chunk_size=40, task_dim=4, chunk_dim=4)
    part = SeparatePosteriors(hypernetwork=options, posterior=Dirac(), steps=3, batch_size=8)
    run = reverie.run(tiny_stream(), part, threads=1)
    x = torch.rand(20, 6).numpy()
    before = run.learner.predict(torch.from_numpy(x), 1).scores
    longer = run.learn(x, ["new"] * 10 + ["newer"] * 10)
    after = longer.learner.predict(torch.from_numpy(x), 1).scores
    torch.testing.assert_close(after[:, :6], before, rtol=1e-5, atol=1e-5)
    assert longer.learner.model.hypernet.tasks == 4


def test_a_stream_s_hypernetwork_is_not_taken_and_tables_and_other_starts_are_refused() -> None:
    assert resolved(SeparatePosteriors(), {"hypernetwork": Full()}).hypernetwork is None
    for table, name in ((Separate(), "separate"), (Single(), "single")):
        with pytest.raises(
            OptionsError, match=f"hypernetwork = '{name}': makes nothing; use 'chunked', 'structured' or"
        ):
            SeparatePosteriors(hypernetwork=table)
    with pytest.raises(OptionsError, match="start = 'gaussian': a posterior begins as its hypernetwork's init says"):
        SeparatePosteriors(hypernetwork=Full(), start="gaussian")
    with pytest.raises(OptionsError, match="criterion = 'entropy-gradient': mixes the embeddings of all tasks in one"):
        SeparatePosteriors(hypernetwork=Full(), criterion="entropy-gradient")
