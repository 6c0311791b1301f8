"""The probe of the plane: a grid around the test rows, answers as the learner gives them, and the best ones where these are known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from reverie.learners import VCL, PosteriorReplay
from reverie.posteriors import Dirac
from reverie.probes.plane import SIDE, Plane
from reverie.seeding import Randomness
from reverie.streams import ArrayStream, GaussianModes
from reverie.types import Finding, Scenario
from tests.tiny import differing, make_loop, recommending, snapshot, train


def modes(scenario: Scenario = "class", **options: Any) -> ArrayStream:
    return recommending(GaussianModes(**options).build(scenario, 0), steps=10)


def look(learner: Any, stream: ArrayStream, task: int = 2, draws: int = 3) -> Finding:
    return Plane(draws)(learner, stream, stream[task], Randomness(0))


def grid(found: Finding) -> torch.Tensor:
    """(G, G, 2): first and second input at [row, column]."""
    first, second = found.arrays["first"], found.arrays["second"]
    return torch.stack([first.expand(SIDE, -1), second[:, None].expand(-1, SIDE)], dim=2)


@pytest.mark.parametrize("scenario", ["class", "task", "domain"])
def test_maps_are_what_the_learner_says(scenario: Scenario) -> None:
    stream = modes(scenario)
    learner = train(PosteriorReplay(test_samples=3), stream).learner
    before = snapshot(learner)
    found = look(learner, stream)
    assert differing(before, learner.state()) == []
    points = grid(found)
    rows = torch.cat([test.rows.take(torch.arange(len(test.rows))).x for test in stream.tests])
    for k in range(2):
        assert points[..., k].min() < rows[:, k].min()
        assert points[..., k].max() > rows[:, k].max()
    said = learner.predict(points.view(-1, 2))
    assert said.by_task is not None
    assert said.task_scores is not None
    assert torch.equal(found.arrays["answer"].flatten(), said.scores.argmax(dim=1))
    for k in range(3):
        assert torch.equal(found.arrays["classes"][k].flatten(), said.by_task[:, k].argmax(dim=1))
        torch.testing.assert_close(found.arrays["entropy"][k].flatten(), -said.task_scores["entropy"][:, k].float())
    samples = found.arrays["samples"]
    assert samples.shape == (3, 3, SIDE, SIDE)
    for k in range(3):
        assert set(samples[:, k].unique().tolist()) <= set(learner.outputs_of(k))
    assert differing(look(learner, stream).arrays, found.arrays) == []
    assert not found.numbers


def test_single_samples_share_their_noise_and_differ() -> None:
    """One posterior for all tasks: its samples, with the same noise, answer alike for every task."""
    stream = modes("domain")
    learner = train(VCL(), stream).learner
    with torch.no_grad():
        for parameter in learner.model.hypernet.parameters():  # means and rhos of all weights: larger deviations
            parameter.add_(0.5)
    samples = look(learner, stream).arrays["samples"]
    assert torch.equal(samples[:, 0], samples[:, 2])
    assert not torch.equal(samples[0], samples[1])


def test_samples_need_not_be_drawn_and_learners_without_models_of_tasks_find_nothing() -> None:
    stream = modes()
    assert "samples" not in look(train(PosteriorReplay(posterior=Dirac()), stream).learner, stream, draws=0).arrays
    assert look(train("naive", stream).learner, stream).arrays == {}


@pytest.mark.parametrize("scenario", ["class", "domain"])
def test_the_best_answer_is_that_of_the_modes_where_they_are_known(scenario: Scenario) -> None:
    """Of equal round Gaussians it is the nearest mode; of one alone in the domain-incremental scenario, where a class has several, it is the
    nearest but for where two are as near."""
    source = GaussianModes(test_rows=2)
    stream = recommending(source.build(scenario, 0), steps=1)
    found = look(train(PosteriorReplay(posterior=Dirac()), stream).learner, stream)
    nearest = torch.cdist(grid(found).view(-1, 2), source.centres()).argmin(dim=1).view(SIDE, SIDE)
    agree = (found.arrays["bayes"] == (nearest % 2 if scenario == "domain" else nearest)).double().mean()
    assert agree == 1 if scenario == "class" else agree > 0.999


def test_the_best_answer_is_estimated_from_the_test_rows_where_nothing_is_known() -> None:
    """Far from all rows the estimated covariances decide."""
    source = GaussianModes(test_rows=2000)
    stream = recommending(replace(source.build("class", 0), modes=None), steps=1)
    found = look(train(PosteriorReplay(posterior=Dirac()), stream).learner, stream)
    nearest = torch.cdist(grid(found).view(-1, 2), source.centres()).argmin(dim=1).view(SIDE, SIDE)
    agree = (found.arrays["bayes"] == nearest).double().mean()
    assert 0.9 < agree < 1


@pytest.mark.parametrize("scenario", ["class", "task", "domain"])
def test_entropies_are_known_of_models_that_are_all_the_same(scenario: Scenario) -> None:
    """Whose task nobody can infer."""
    stream = modes(scenario)
    learner = train(VCL(active_classes="all"), stream).learner
    found = look(learner, stream)
    said = learner.predict(grid(found).view(-1, 2))
    assert (said.task_scores is None) == (scenario != "task")
    for k in range(3):
        p = said.by_task[:, k, list(learner.outputs_of(k))].double().exp()
        expected = torch.distributions.Categorical(p).entropy() / np.log(p.shape[1])
        torch.testing.assert_close(found.arrays["entropy"][k].flatten(), expected.float(), rtol=1e-4, atol=1e-5)


def test_later_tasks_are_not_known_yet_but_the_grid_stays() -> None:
    stream = modes()
    loop = make_loop(PosteriorReplay(posterior=Dirac()), stream)
    loop.learner.begin_task(stream[0])
    early = look(loop.learner, stream, 0)
    assert early.arrays["bayes"].unique().tolist() == [0, 1]
    assert early.arrays["entropy"].shape == (1, SIDE, SIDE)
    assert early.arrays["task"].unique().tolist() == [0]
    late = look(train(PosteriorReplay(posterior=Dirac()), stream).learner, stream)
    assert torch.equal(early.arrays["first"], late.arrays["first"])
    assert late.arrays["task"].unique().tolist() == [0, 1, 2]
    assert len(late.arrays["x"]) == len(late.arrays["y"]) == len(late.arrays["task"]) == 3 * 60


def test_classes_of_several_clouds_and_of_rows_on_a_line() -> None:
    """Domain-incremental: the same class in several places; and a class without any width."""
    x = np.array([[-1, 0], [-1, 0.5], [1, 0], [1, 0.5]], dtype=np.float32)
    y = np.array([0, 0, 1, 1])
    tasks = [(np.repeat(x + shift, 5, axis=0), np.repeat(labels, 5)) for shift, labels in ((0, y), (8, 1 - y))]
    stream = recommending(ArrayStream.from_arrays(tasks, scenario="domain"), steps=1)
    found = look(train(PosteriorReplay(posterior=Dirac()), stream).learner, stream, 1)
    best = found.arrays["bayes"]
    assert best.unique().tolist() == [0, 1]
    at = [
        (grid(found) - torch.tensor(place)).norm(dim=2).argmin() for place in ([-1, 0.2], [1, 0.2], [7, 8.2], [9, 8.2])
    ]
    assert [int(best.flatten()[k]) for k in at] == [0, 1, 1, 0]
