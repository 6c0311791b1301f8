"""Variational continual learning: which prior each task has, and where the posterior goes that no data pull."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import cosine_similarity, softplus

from reverie.checks import OptionsError
from reverie.learners import VCL, SeparatePosteriors
from reverie.nn.optimisers import SGD, Adam
from reverie.posteriors import Dirac, Implicit, MeanField, Radial
from reverie.seeding import Position, generator
from reverie.solvers import Module
from reverie.streams.rows import TensorRows
from reverie.types import Task
from tests.learners.test_posteriors import PHASE, STEPS, at_step, by_hand, inputs, rows_of
from tests.learners.vectors import built
from tests.tiny import bits, tiny_stream, train

BODY, ROW = 6 * 12 + 12, 12 + 1  # of the tiny network: parameters before its head, and of an output of it


def posterior_of(learner: Any, task: int = 0) -> tuple[Tensor, Tensor]:
    """Means and deviations (numel,)."""
    theta = learner.model.hypernet([task])[0].detach()
    return theta[0], softplus(theta[1] - 2.5)


def of_outputs(classes: set[int], outputs: int = 6) -> Tensor:
    """(numel,) bool, the rows of the head that belong to these outputs."""
    rows = torch.zeros(outputs, ROW, dtype=torch.bool)
    rows[sorted(classes)] = True
    return torch.cat([torch.zeros(BODY, dtype=torch.bool), rows.flatten()])


@pytest.mark.parametrize("fresh_heads", [True, False])
@pytest.mark.parametrize("variance", [1.0, 0.25])
def test_the_first_prior_is_the_same_for_all_weights(variance: float, fresh_heads: bool) -> None:
    stream = tiny_stream()
    learner = at_step(VCL(prior_variance=variance, fresh_heads=fresh_heads), stream, 0)
    prior = learner.model.kept
    assert bool((prior[0] == 0).all())
    torch.testing.assert_close(prior[1].exp().square(), torch.full_like(prior[1], variance))
    expected = kl_divergence(Normal(*posterior_of(learner)), Normal(0.0, math.sqrt(variance))).sum()
    found = learner.step(PHASE, rows_of(stream, 0))["solver.kl"]
    assert expected > 100
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("fresh_heads", [True, False])
@pytest.mark.parametrize(
    ("scenario", "active", "untrained"),
    [
        ("task", "current", [{2, 3, 4, 5}, {4, 5}]),
        ("class", "current", [{2, 3, 4, 5}, {4, 5}]),
        ("class", "all-so-far", [{2, 3, 4, 5}, {4, 5}]),
        ("class", "all", [set(), set()]),
        ("domain", "current", [set(), set()]),
    ],
)
def test_a_posterior_becomes_the_prior_of_the_next_task_but_for_heads_that_none_has_trained(
    scenario: Any, active: Any, untrained: list[set[int]], fresh_heads: bool
) -> None:
    part = VCL(active_classes=active, fresh_heads=fresh_heads, prior_variance=0.5, kl_weight=0.1)
    stream = tiny_stream(scenario)
    for task in (1, 2):
        learner = at_step(part, stream, task * STEPS)
        mean, std = posterior_of(learner)
        fresh = of_outputs(untrained[task - 1] if fresh_heads else set(), stream.spec.outputs)
        expected_mean = torch.where(fresh, torch.zeros(()), mean)
        expected_std = torch.where(fresh, torch.tensor(math.sqrt(0.5)), std)
        prior = learner.model.kept
        torch.testing.assert_close(prior[0], expected_mean, rtol=0, atol=0)
        torch.testing.assert_close(prior[1].exp(), expected_std, rtol=1e-5, atol=0)

        # Nothing has moved, so there is no divergence, but of heads whose prior is another one.
        apart = kl_divergence(Normal(mean, std), Normal(0.0, math.sqrt(0.5)))[fresh].sum()
        found = learner.step(PHASE, rows_of(stream, task))["solver.kl"]
        torch.testing.assert_close(found, apart, rtol=1e-4, atol=0)
        assert (float(found) == 0) == (not bool(fresh.any()))
        assert float(learner.step(PHASE, rows_of(stream, task))["solver.kl"]) != float(found)


def test_the_prior_stays_as_it_is_while_a_task_is_learnt() -> None:
    stream = tiny_stream()
    early, late = (at_step(VCL(), stream, STEPS + more) for more in (0, 6))
    assert bits(early.model.kept) == bits(late.model.kept)
    assert bits(early.model.hypernet.one) != bits(late.model.hypernet.one)
    expected = kl_divergence(Normal(*posterior_of(late)), Normal(late.model.kept[0], late.model.kept[1].exp())).sum()
    torch.testing.assert_close(late.step(PHASE, rows_of(stream, 1))["solver.kl"], expected, rtol=1e-3, atol=0)


def test_all_tasks_are_answered_by_one_posterior() -> None:
    learner = at_step(VCL(), tiny_stream(), 2 * STEPS + 3)
    made = learner.model.hypernet([0, 1, 2])
    assert bits(made[0]) == bits(made[1]) == bits(made[2])
    assert dict(learner.memory().persistent) == {"solver": 2 * (BODY + 6 * ROW) * 4}


def test_a_head_that_grows_is_one_softmax_over_all_classes_so_far() -> None:
    """Without the task; there is none to infer."""
    stream = tiny_stream()
    learner = at_step(VCL(active_classes="all-so-far", test_samples=3), stream, STEPS + 3)
    x = inputs(stream)
    answer = learner.predict(x)
    assert answer.task_scores is None
    assert bits(answer.by_task[:, 0]) == bits(answer.by_task[:, 1]) == bits(answer.scores)
    expected = by_hand(learner, x, 1, range(4)).mean(dim=0).log().float()
    torch.testing.assert_close(answer.scores[:, :4], expected, rtol=1e-4, atol=1e-5)
    assert set(learner.outputs_of(0)) == {0, 1}  # those that it had when it was taught


def test_data_make_the_posterior_narrower_task_by_task_and_what_they_do_not_touch_keeps_the_prior() -> None:
    """Logistic regression. The third input is always 0, so the exact posterior of its weights is the first prior, and so is the one found; what
    the rows pull at knows after each task more than before, though each task shows 30 rows alone."""
    solver = Module(factory=lambda shape: nn.Identity(), optimiser=Adam(learning_rate=0.02))
    learner = built(VCL(solver=solver, kl_weight=1.0, prior_variance=0.25, start="gaussian", samples=10), 3, 2)
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] + 0.5 * x[:, 1] > 0).long()
    x[:, 2] = 0
    widths = []
    for task in range(2):
        part = slice(task * 30, task * 30 + 30)
        rows = TensorRows(x[part], y[part])
        learner.begin_task(Task(task, "part", (0, 1), rows))
        batch, seen = rows.take(torch.arange(30)), []
        for step in range(450):
            learner.rng.position = Position(task, 0, step)
            learner.step(PHASE, batch)
            if step >= 250:  # what the noise of the samples does to single steps is averaged out
                seen.append(torch.stack(posterior_of(learner)).view(2, 2, 4))  # of each output three weights and a bias
        mean, std = torch.stack(seen).mean(dim=0)
        torch.testing.assert_close(std[:, 2], torch.full((2,), 0.5), rtol=0.02, atol=0)
        torch.testing.assert_close(mean[:, 2], torch.zeros(2), rtol=0, atol=0.02)
        slopes = mean[1] - mean[0]
        assert slopes[0] > slopes[1] > 0.1
        widths.append(std[:, [0, 1]])
    assert bool((widths[0] < 0.47).all())
    assert bool((widths[1] < 0.97 * widths[0]).all())


# ------------------------------------------------------------------------------- posteriors that can only be sampled


SAMPLED = [
    Implicit(stein_samples=20),
    Implicit(estimator="adversarial", discriminator_batch=8),
    Implicit(chunk_size=50),
]
every_sampled = pytest.mark.parametrize("posterior", SAMPLED, ids=["stein", "adversarial", "chunked"])


@every_sampled
def test_the_generator_of_the_task_before_is_the_prior_as_it_was(posterior: Any) -> None:
    stream = tiny_stream()
    assert at_step(VCL(posterior=posterior), stream, 3).model.kept is None
    for task in (1, 2):
        early, late = (at_step(VCL(posterior=posterior), stream, task * STEPS + more) for more in (0, 6))
        assert bits(early.model.kept) == bits(early.model.hypernet([0])[0].detach().clone())
        assert bits(late.model.kept) == bits(early.model.kept)
        assert bits(late.model.hypernet.one) != bits(early.model.hypernet.one)
    theta = posterior.theta_spec(late.model.layout).numel
    assert dict(late.memory().persistent) == {"solver": 4 * theta}
    assert late.memory().working["solver training"] == early.memory().working["solver training"] == 4 * theta * 4
    assert train(VCL(posterior=posterior), stream).learner.model.kept is None


@every_sampled
@pytest.mark.parametrize("fresh_heads", [True, False])
def test_a_generator_is_a_prior_but_for_heads_that_none_has_trained(posterior: Any, fresh_heads: bool) -> None:
    stream = tiny_stream()
    part = VCL(posterior=posterior, fresh_heads=fresh_heads, prior_variance=4.0)
    for task, untrained in ((1, {2, 3, 4, 5}), (2, {4, 5})):
        learner = at_step(part, stream, task * STEPS + 2)
        prior = learner.sampled_prior()
        fresh = of_outputs(untrained if fresh_heads else set())
        assert bits(prior.trained) == bits(~fresh)
        theta, layout, n = learner.model.kept, learner.model.layout, 400
        drawn = prior.sample(n, generator("samples"))
        expected = posterior.sample(theta, layout, posterior.noise(n, layout, generator("samples")))
        torch.testing.assert_close(drawn[:, ~fresh], expected[:, ~fresh], rtol=0, atol=0)
        if fresh_heads:
            assert float(drawn[:, fresh].std()) == pytest.approx(2.0, rel=0.05)


def test_the_first_task_of_an_implicit_posterior_is_that_of_separate_posteriors() -> None:
    stream = tiny_stream()
    for posterior in SAMPLED:
        first, other = (at_step(method(posterior=posterior), stream, 6) for method in (VCL, SeparatePosteriors))
        assert bits(first.model.hypernet([0])) == bits(other.model.hypernet([0]))


@pytest.mark.parametrize("prior_sign", ["right", "published"])
def test_a_linear_generator_is_drawn_to_its_prior_as_a_gaussian_is(prior_sign: Any) -> None:
    """Four weights, independent Gaussians either way: the means move as in the closed form, or, with the published sign, against it."""
    old, new = torch.tensor([[1.0, -0.5, 0.3, 0.6], [0.5, 0.8, 0.7, 1.0]]), torch.tensor([0.2, 0.4, -0.6, -0.2])
    solver = Module(factory=lambda shape: nn.Identity(), optimiser=SGD(learning_rate=0.01))
    implicit = Implicit(latent_dim=4, hidden=(), perturbation=0.0, stein_samples=300)
    moved = []
    for posterior in (implicit, MeanField()):
        options: dict[str, Any] = {"prior_sign": prior_sign} if posterior is implicit else {}
        learner = built(VCL(solver=solver, posterior=posterior, kl_weight=1.0, samples=300, **options), 1, 2)
        one = learner.model.hypernet.one
        x, y = torch.zeros(2, 1), torch.tensor([0, 1])

        def put(mean: Tensor, std: Tensor, sampled: bool, one: Tensor = one) -> None:
            if sampled:
                one.data[0] = torch.cat([std.diag(), mean[:, None]], dim=1).flatten()
            else:
                one.data[:] = torch.stack([mean, std.expm1().log() + 2.5])

        rows = TensorRows(x, y)
        learner.begin_task(Task(0, "part", (0, 1), rows))
        put(old[0], old[1], posterior is implicit)
        learner.begin_task(Task(1, "part", (0, 1), rows))
        put(new, old[1], posterior is implicit)
        learner.rows_now = 0  # nothing but the prior pulls
        learner.step(PHASE, rows.take(torch.arange(2)))
        mean = one.detach()[0].view(4, 5)[:, 4] if posterior is implicit else one.detach()[0]
        moved.append(mean - new)
    expected = 0.01 * (old[0] - new) / old[1].square()
    torch.testing.assert_close(moved[1], expected, rtol=1e-4, atol=1e-6)
    cosine = float(cosine_similarity(moved[0], expected, dim=0))
    assert cosine > 0.95 if prior_sign == "right" else cosine < -0.95


def test_a_posterior_that_is_neither_a_density_nor_has_an_estimator_is_refused() -> None:
    for posterior in (Dirac(), Radial()):
        with pytest.raises(
            OptionsError, match="must have a density, or an estimator that does without; use posterior = 'gaussian' or"
        ):
            VCL(posterior=posterior)


@pytest.mark.parametrize("posterior", [MeanField(), Implicit(estimator="adversarial")], ids=["gaussian", "adversarial"])
def test_the_published_sign_of_what_has_no_estimated_score_is_refused(posterior: Any) -> None:
    with pytest.raises(OptionsError, match="concerns an implicit posterior with estimator = 'stein'; leave it out"):
        VCL(posterior=posterior, prior_sign="published")
