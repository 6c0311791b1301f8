"""What learners share that make a posterior over weights for each task: the loss of a step, and the answers of several models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import cross_entropy, relu, softplus

import reverie
from reverie.checks import OptionsError, TrainingError
from reverie.device import CPU
from reverie.engine.loop import Silent
from reverie.learners import VCL, PosteriorReplay, SeparatePosteriors, posteriors
from reverie.learners.coresets import Coreset
from reverie.learners.posteriors import EVALUATION
from reverie.metrics.task_inference import CRITERIA
from reverie.nn.hypernetworks import Chunked, Full, Single
from reverie.nn.optimisers import SGD, Adam
from reverie.options import Part
from reverie.posteriors import Dirac, Implicit, MeanField, Radial
from reverie.seeding import Position, Randomness, generator
from reverie.solvers import CNN, MLP, ConvStack, Module
from reverie.streams import ArrayStream
from reverie.streams.rows import TensorRows
from reverie.types import Batch, Phase, Prediction, Task
from tests.learners.vectors import built, spec_of
from tests.tiny import Halt, bits, differing, halt_after, make_loop, tiny_stream, train

PHASE = Phase("train", 8, steps=8)
CLASSES = ((0, 1), (2, 3), (4, 5))  # of the three tasks of the tiny stream, but for domain-incremental ones
STEPS = 8  # a task of it


def at_step(part: Part, stream: ArrayStream, steps: int, seed: int = 0) -> Any:
    """The learner after so many steps of the whole stream; where a task is then due, it has begun."""
    loop = make_loop(part, stream, seed=seed, prepare=halt_after(steps))
    with pytest.raises(Halt):
        loop.run()
    del loop.learner.step  # the one that halts
    return loop.learner


def rows_of(stream: ArrayStream, task: int, n: int = 8) -> Batch:
    return stream[task].train.take(torch.arange(n))


def inputs(stream: ArrayStream, n: int = 13) -> Tensor:
    return torch.cat([test.rows.take(torch.arange(len(test.rows))).x for test in stream.tests])[:n]


def of_mlp(weights: Tensor, x: Tensor, hidden: int = 12) -> Tensor:
    """Scores (B, outputs) of the tiny network, from its flat weights (numel,): a hidden layer, then the head, output by output."""
    inputs = x.shape[1]
    first, bias, head = weights.split([hidden * inputs, hidden, len(weights) - hidden * (inputs + 1)])
    rows = head.view(-1, hidden + 1)
    return relu(x @ first.view(hidden, inputs).T + bias) @ rows[:, :-1].T + rows[:, -1]


# ------------------------------------------------------------------------------- the loss of a step


@pytest.mark.parametrize("rows", [4, 9])
@pytest.mark.parametrize("kl_weight", [0.5, 0.0])
def test_a_step_goes_down_the_rows_of_the_task_times_the_mean_loss_and_the_prior(rows: int, kl_weight: float) -> None:
    """A linear classifier of two numbers a row, with two rows in the batch, all of it by hand; the batch is not scaled by its own size."""
    solver = Module(factory=lambda shape: nn.Identity(), optimiser=SGD(learning_rate=0.1))
    part = SeparatePosteriors(solver=solver, posterior=Dirac(), kl_weight=kl_weight, prior_variance=2.0)
    learner = built(part, width=2, classes=2)
    learner.begin_task(Task(0, "all", (0, 1), TensorRows(torch.zeros(rows, 2), torch.arange(rows) % 2)))
    theta = learner.model.hypernet.of(0)["theta"]
    before = [0.5, -0.5, 0.1, -0.25, 0.25, 0.0]  # two weights and a bias of class 0, then of class 1
    theta.data[0] = torch.tensor(before)

    x, y = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1])
    losses = learner.step(PHASE, Batch(x, y, torch.zeros_like(y), torch.tensor([0.5, 0.5])))

    # Row 0: scores 0.6 and -0.25, the right one is ahead by 0.85. Row 1: scores -0.9 and 0.5, ahead by 1.4.
    wrong = [1 / (1 + math.exp(0.85)), 1 / (1 + math.exp(1.4))]
    assert float(losses["solver.cross-entropy"]) == pytest.approx(
        -0.5 * (math.log(1 - wrong[0]) + math.log(1 - wrong[1])), rel=1e-6
    )
    if kl_weight:  # the square of the weights is 0.635, twice the variance 4
        assert float(losses["solver.kl"]) == pytest.approx(0.635 / 4, rel=1e-6)
    assert ("solver.kl" in losses) == bool(kl_weight)
    a, b = wrong[0] / 2, wrong[1] / 2
    of_mean = [-a, 2 * b, b - a, a, -2 * b, a - b]
    expected = [w - 0.1 * (rows * g + kl_weight * w / 2) for w, g in zip(before, of_mean, strict=True)]
    assert theta[0].tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("posterior", [Dirac(), MeanField(), Radial()], ids=["point", "gaussian", "radial"])
def test_samples_are_averaged_over_their_losses(posterior: Any) -> None:
    """One step of gradient descent against the gradient of a loss written sample by sample, in the second task."""
    n = 1 if posterior.deterministic else 3
    stream = tiny_stream("class", rows=20)
    solver = MLP(hidden=(12,), optimiser=SGD(learning_rate=1e-4))
    part = SeparatePosteriors(solver=solver, posterior=posterior, samples=n, kl_weight=0.3, prior_variance=0.5)
    learner = at_step(part, stream, STEPS)
    batch = rows_of(stream, 1)
    assert batch.y is not None
    theta = learner.model.hypernet.of(1)["theta"].detach().clone().requires_grad_()
    losses = learner.step(PHASE, batch)

    noise = posterior.noise(n, learner.model.layout, learner.rng("weights"))
    weights = posterior.sample(theta, learner.model.layout, noise)
    each = [cross_entropy(of_mlp(one, batch.x)[:, 2:4], batch.y - 2) for one in weights]
    if isinstance(posterior, MeanField):
        kl = kl_divergence(Normal(theta[0], softplus(theta[1] - 2.5)), Normal(0.0, math.sqrt(0.5))).sum()
    elif isinstance(posterior, Radial):
        kl = weights.square().sum() / n - softplus(theta[1] - 2.5).log().sum()
    else:
        kl = theta.square().sum()
    loss = torch.stack(each).mean()
    assert len(stream[1].train) == 40
    (40 * loss + 0.3 * kl).backward()
    torch.testing.assert_close(losses["solver.cross-entropy"], loss.detach(), rtol=1e-5, atol=0)
    torch.testing.assert_close(losses["solver.kl"], kl.detach(), rtol=1e-5, atol=0)
    assert theta.grad is not None
    moved = learner.model.hypernet.of(1)["theta"] - theta
    torch.testing.assert_close(moved, -1e-4 * theta.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("scenario", "active", "mine"),
    [
        ("task", "current", {2, 3}),
        ("class", "current", {2, 3}),
        ("class", "all-so-far", {0, 1, 2, 3}),
        ("class", "all", {0, 1, 2, 3, 4, 5}),
        ("domain", "current", {0, 1}),
    ],
)
def test_a_step_scores_the_outputs_of_its_task_alone(scenario: Any, active: Any, mine: set[int]) -> None:
    part = SeparatePosteriors(active_classes=active, posterior=Dirac(), kl_weight=0.0)
    stream = tiny_stream(scenario)
    learner = at_step(part, stream, STEPS)

    def heads() -> Tensor:
        theta = learner.model.hypernet.of(1)["theta"]
        return theta[0, learner.model.layout.body :].detach().view(-1, 13).clone()

    before = heads()
    batch = rows_of(stream, 1)
    learner.step(PHASE, batch)
    moved = (heads() != before).any(dim=1)
    assert set(moved.nonzero().flatten().tolist()) == mine
    assert len(moved) == (2 if scenario == "domain" else 6)
    assert set(learner.outputs_of(1)) == mine


@pytest.mark.parametrize("posterior", [Radial(), Implicit(stein_samples=8)], ids=["radial", "implicit"])
@pytest.mark.parametrize("method", [SeparatePosteriors, PosteriorReplay])
def test_the_term_of_the_prior_has_as_many_samples_as_it_is_given(method: Any, posterior: Any) -> None:
    stream = tiny_stream()
    usual, same, other = (
        at_step(method(posterior=posterior, samples=2, kl_weight=0.3, kl_samples=n), stream, 3) for n in (None, 2, 5)
    )
    batch = rows_of(stream, 0)
    theta = other.model.hypernet([0])[0].detach()
    losses = [learner.step(PHASE, batch) for learner in (usual, same, other)]
    assert differing(losses[0], losses[1]) == []
    assert differing(usual.state(), same.state()) == []
    assert losses[2]["solver.kl"] != losses[0]["solver.kl"]
    layout = other.model.layout
    weights = posterior.sample(theta, layout, posterior.noise(5, layout, other.rng("kl weights")))
    if isinstance(posterior, Radial):
        expected = posterior.prior_kl(theta, layout, 1.0, weights)
    else:
        expected = other.estimate.term(theta, weights, other.rng("divergence")).value
    torch.testing.assert_close(losses[2]["solver.kl"], expected)


@pytest.mark.parametrize("divergence", [0.0, 1.0])
def test_a_score_that_is_not_clipped_is_added_to_the_gradient_that_is(divergence: float) -> None:
    """One step of gradient descent; without the score, what is left is as long as it may be."""
    stream = tiny_stream()
    options: dict[str, Any] = {"solver": MLP(hidden=(12,), optimiser=SGD(learning_rate=1e-3)), "clip": 0.5}
    moved = []
    for clip_score in (True, False):
        posterior = Implicit(stein_samples=20, hidden=(), clip_score=clip_score)
        learner = at_step(
            SeparatePosteriors(posterior=posterior, samples=4, kl_weight=divergence, **options), stream, 0
        )
        theta = learner.model.hypernet.of(0)["theta"]
        before, layout = theta.detach().clone(), learner.model.layout
        noise = posterior.noise(4, layout, learner.rng("weights"))
        weights = posterior.sample(theta, layout, noise)
        term = learner.estimate.term(theta, weights, learner.rng("divergence"))
        learner.step(PHASE, rows_of(stream, 0))
        gradient = (theta.detach() - before) / -1e-3
        if not clip_score and divergence:
            assert term.unclipped is not None
            (score,) = torch.autograd.grad(term.unclipped, theta)
            assert float(score.norm()) > 1
            assert float(gradient.norm()) > 1
            gradient = gradient - score
        moved.append(float(gradient.norm()))
    assert moved == pytest.approx([0.5, 0.5], rel=0.02)


def test_a_gradient_that_is_too_long_keeps_its_direction() -> None:
    stream = tiny_stream()

    def moved(clip: float | None) -> Tensor:
        solver = MLP(hidden=(12,), optimiser=SGD(learning_rate=1e-3))
        learner = at_step(SeparatePosteriors(solver=solver, posterior=Dirac(), clip=clip), stream, 0)
        before = learner.model.hypernet.of(0)["theta"].detach().clone()
        learner.step(PHASE, rows_of(stream, 0))
        return (learner.model.hypernet.of(0)["theta"].detach() - before) / -1e-3

    free = moved(None)
    norm = float(free.norm())
    assert norm > 1
    torch.testing.assert_close(moved(0.5), 0.5 * free / norm, rtol=1e-3, atol=1e-4)
    assert bits(moved(2 * norm)) == bits(free)


@pytest.mark.parametrize("method", [SeparatePosteriors, PosteriorReplay, VCL])
def test_the_optimiser_begins_anew_with_each_task(method: Any) -> None:
    """Whatever its own option says of that."""
    stream = tiny_stream()
    part = method(solver=MLP(hidden=(12,), optimiser=Adam(reset_each_task=False)))
    assert at_step(part, stream, STEPS - 1).model.network.state()["optimiser"]
    assert at_step(part, stream, STEPS).model.network.state()["optimiser"] == {}


def test_a_step_of_several_samples_costs_as_many_networks_and_each_rehearsed_task_is_made_once() -> None:
    stream = tiny_stream()
    alone, several = (
        at_step(SeparatePosteriors(samples=n, steps=STEPS), stream, STEPS).flops(PHASE, None) for n in (1, 3)
    )
    assert several == 3 * alone
    hypernetwork = Full(task_dim=4)
    keeping, forgetting = (
        at_step(PosteriorReplay(strength=s, hypernetwork=hypernetwork), stream, 2 * STEPS).flops(PHASE, None)
        for s in (1.0, 0.0)
    )
    made = 2 * 162 * 4  # means and deviations, each linear in four numbers
    assert forgetting == alone + 6 * made
    assert keeping == alone + 3 * 6 * made


# ------------------------------------------------------------------------------- answers


FAST = MLP(hidden=(12,), optimiser=Adam(learning_rate=0.03))
METHODS = [
    SeparatePosteriors(),
    SeparatePosteriors(posterior=Radial(), active_classes="all-so-far"),
    PosteriorReplay(posterior=Dirac(), criterion="confidence"),
    PosteriorReplay(hypernetwork=Chunked(chunk_size=30, task_dim=4, chunk_dim=4), criterion="agreement"),
    VCL(active_classes="all"),
]
NAMES = ["separate", "radial, so far", "point", "chunked", "one for all"]
every_method = pytest.mark.parametrize("part", METHODS, ids=NAMES)
every_scenario = pytest.mark.parametrize("scenario", ["class", "task", "domain"])


def by_hand(learner: Any, x: Tensor, task: int, outputs: Sequence[int]) -> Tensor:
    """(V, B, len(outputs)) probabilities, network after network, of noise that depends on nothing but the layout."""
    posterior, layout = learner.posterior, learner.model.layout
    noise = posterior.noise(1 if posterior.deterministic else learner.test_samples, layout, generator(EVALUATION))
    weights = posterior.sample(learner.model.hypernet([task])[0].detach(), layout, noise)
    return torch.stack([torch.softmax(of_mlp(one, x)[:, list(outputs)].double(), dim=1) for one in weights])


@every_method
@every_scenario
def test_answers_are_those_of_the_models_that_the_criterion_prefers(part: Part, scenario: Any) -> None:
    stream = tiny_stream(scenario)
    learner = train(part.clone().set_params(solver=FAST, steps=20), stream).learner
    x = inputs(stream, 100)
    answer = learner.predict(x)
    probabilities = []
    for task in range(3):
        outputs = list(learner.outputs_of(task))
        probabilities.append(by_hand(learner, x, task, outputs))
        expected = probabilities[-1].mean(dim=0).log().float()
        torch.testing.assert_close(answer.by_task[:, task, outputs], expected, rtol=1e-4, atol=1e-5)
        others = [c for c in range(stream.spec.outputs) if c not in outputs]
        assert bool((answer.by_task[:, task, others] == -math.inf).all())
        given = learner.predict(x, task)
        head = list(stream.spec.heads[task])
        assert bits(given.scores[:, head]) == bits(answer.by_task[:, task][:, head])
        assert bool((given.scores[:, [c for c in range(stream.spec.outputs) if c not in head]] == -math.inf).all())
        assert given.by_task is None
        assert given.task_scores is None

    if isinstance(part, VCL) and scenario != "task":  # one posterior and the same outputs: there is nothing to prefer
        assert answer.task_scores is None
        assert bits(answer.by_task[:, 0]) == bits(answer.by_task[:, 2])
        assert bits(answer.scores) == bits(answer.by_task[:, 2])
        return
    one = learner.posterior.deterministic
    assert set(answer.task_scores) == set(CRITERIA) - ({"agreement"} if one else set())
    for name, scores in answer.task_scores.items():
        assert scores.shape == (len(x), 3)
        expected = torch.cat([CRITERIA[name](each[None]) for each in probabilities], dim=1)
        torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)

    chosen = answer.task_scores[learner.criterion].argmax(dim=1)
    assert len(chosen.unique()) > 1 or isinstance(part, VCL)  # or it would not be seen whose answer it is
    for row, task in enumerate(chosen.tolist()):
        mine = list(learner.outputs_of(task))
        assert bits(answer.scores[row, mine]) == bits(answer.by_task[row, task, mine])


@every_scenario
def test_classes_of_other_tasks_are_out_of_the_question_and_untaught_ones_impossible(scenario: Any) -> None:
    stream = tiny_stream(scenario)
    learner = at_step(SeparatePosteriors(), stream, STEPS + 3)  # in the second task of three
    answer = learner.predict(inputs(stream))
    taught = range(2) if scenario == "domain" else range(4)
    assert torch.isfinite(answer.scores).all(dim=0).nonzero().flatten().tolist() == list(taught)
    assert answer.by_task.shape == (13, 2, stream.spec.outputs)
    chosen = answer.task_scores["entropy"].argmax(dim=1)
    for row, task in enumerate(chosen.tolist()):
        others = [c for c in taught if c not in learner.outputs_of(task)]
        assert len(others) == (0 if scenario == "domain" else 2)
        assert answer.scores[row, others].tolist() == [torch.finfo(torch.float32).min] * len(others)
    torch.testing.assert_close(answer.scores.exp().sum(dim=1), torch.ones(13))  # they have no share of the softmax


def test_a_task_that_was_not_taught_is_answered_by_the_last_model_over_its_own_outputs() -> None:
    stream = tiny_stream("task")
    learner = at_step(SeparatePosteriors(), stream, STEPS + 3)
    x = inputs(stream)
    scores = learner.predict(x, 2).scores
    expected = by_hand(learner, x, 1, CLASSES[2]).mean(dim=0).log().float()
    torch.testing.assert_close(scores[:, list(CLASSES[2])], expected, rtol=1e-4, atol=1e-5)
    assert bool((scores[:, :4] == -math.inf).all())


def test_before_any_task_nothing_is_preferred_within_the_head_that_is_asked() -> None:
    stream = tiny_stream("task")
    learner = make_loop(SeparatePosteriors(), stream).learner
    for task, classes in enumerate(CLASSES):
        scores = learner.predict(inputs(stream), task).scores
        assert scores[:, list(classes)].unique().numel() == 1
        assert torch.isfinite(scores).all(dim=0).nonzero().flatten().tolist() == list(classes)


def test_all_tasks_answer_with_the_same_noise() -> None:
    """Models with the same posterior give the same answers to the last bit, though none is sure of its weights."""
    stream = tiny_stream("domain")
    part = PosteriorReplay(hypernetwork=Single(), strength=0.0, kl_weight=0.0)
    learner = train(part, stream).learner
    x = inputs(stream)
    answer = learner.predict(x)
    assert bits(answer.by_task[:, 0]) == bits(answer.by_task[:, 1]) == bits(answer.by_task[:, 2])
    assert bool((by_hand(learner, x, 0, (0, 1)).std(dim=0) > 1e-4).all())
    assert answer.task_scores is None


def test_every_call_and_every_run_answers_with_the_same_noise() -> None:
    stream = tiny_stream()
    first, other = (train(SeparatePosteriors(), stream, seed=seed).learner for seed in (0, 1))
    x = inputs(stream)
    answer = first.predict(x)
    assert differing(vars(answer), vars(first.predict(x))) == []
    assert differing(vars(answer), vars(other.predict(x)))
    other.load(first.state())
    assert differing(vars(answer), vars(other.predict(x))) == []
    first.rng.position = Position(2, 0, 5)
    first._answers = None
    assert differing(vars(answer), vars(first.predict(x))) == []


def test_answers_follow_the_weights() -> None:
    """What was made for the last answers is not used for those after a step, a new task, or a state that is loaded."""
    stream = tiny_stream()
    learner = at_step(SeparatePosteriors(), stream, 3)
    x = inputs(stream)

    def fresh() -> Prediction:
        twin = make_loop(SeparatePosteriors(), stream).learner
        twin.load(learner.state())
        answer: Prediction = twin.predict(x)
        return answer

    before = learner.predict(x)
    learner.step(PHASE, rows_of(stream, 0))
    after = learner.predict(x)
    assert differing(vars(before), vars(after))
    assert differing(vars(after), vars(fresh())) == []
    learner.begin_task(stream[1])
    begun = learner.predict(x)
    assert begun.by_task.shape[1] == 2
    assert differing(vars(begun), vars(fresh())) == []
    other = at_step(SeparatePosteriors(), stream, STEPS + 6, seed=1)
    learner.load(other.state())
    assert differing(vars(learner.predict(x)), vars(other.predict(x))) == []


@every_method
@pytest.mark.parametrize("at_once", [3, 40])
def test_answers_in_several_parts_are_those_in_one(part: Part, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten samples of weights: a row at a time, or four; of points, three rows or all."""
    stream = tiny_stream()
    learner = train(part, stream).learner
    x = inputs(stream)
    whole, given = learner.predict(x), learner.predict(x, 1)
    seen: list[int] = []
    real = learner._predicted

    def predicted(rows: Tensor, task: int | None) -> Prediction:
        seen.append(len(rows))
        found: Prediction = real(rows, task)
        return found

    monkeypatch.setattr(learner, "_predicted", predicted)
    monkeypatch.setattr(posteriors, "NETWORKS_AT_ONCE", at_once)
    parts = learner.predict(x)
    size = max(1, at_once // (1 if learner.posterior.deterministic else 10))
    assert seen == [size] * (13 // size) + ([13 % size] if 13 % size else [])
    torch.testing.assert_close(parts.scores, whole.scores, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(parts.by_task, whole.by_task, rtol=1e-5, atol=1e-5)
    assert set(parts.task_scores or ()) == set(whole.task_scores or ())
    for name, scores in (whole.task_scores or {}).items():
        torch.testing.assert_close(parts.task_scores[name], scores, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(learner.predict(x, 1).scores, given.scores, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------- options that are refused


@pytest.mark.parametrize(
    "options",
    [
        {"posterior": Dirac()},
        {"posterior": Dirac(), "test_samples": 10},
        {"test_samples": 1},
        {"posterior": Radial(), "test_samples": 1},
    ],
)
@pytest.mark.parametrize("method", [SeparatePosteriors, PosteriorReplay])
def test_agreement_of_one_sample_is_refused(method: Any, options: dict[str, Any]) -> None:
    with pytest.raises(OptionsError, match="'agreement': compares several weight samples, and there is one alone"):
        method(criterion="agreement", **options)
    assert method(criterion="entropy", **options).criterion == "entropy"


@pytest.mark.parametrize("posterior", [Dirac(), MeanField()])
def test_samples_for_a_divergence_that_needs_none_are_refused(posterior: Any) -> None:
    with pytest.raises(OptionsError, match=r"kl_samples = 3: the KL term of posterior = \w+ is known in closed form"):
        SeparatePosteriors(posterior=posterior, kl_samples=3)
    with pytest.raises(OptionsError, match="kl_samples = 3: there is no KL term with kl_weight = 0"):
        SeparatePosteriors(posterior=Radial(), kl_samples=3, kl_weight=0.0)


def test_a_score_is_not_exempted_from_a_limit_that_there_is_not() -> None:
    with pytest.raises(
        OptionsError, match="clip_score = False: there is no clip that could hold for the score; set clip"
    ):
        SeparatePosteriors(posterior=Implicit(clip_score=False))


ALIKE = [VCL(active_classes="all"), PosteriorReplay(active_classes="all", hypernetwork=Single())]


@pytest.mark.parametrize("part", ALIKE, ids=["vcl", "single"])
@pytest.mark.parametrize("criterion", ["confidence", "agreement"])
def test_there_is_nothing_to_prefer_among_models_that_are_all_the_same(part: Any, criterion: Any) -> None:
    part = part.clone().set_params(criterion=criterion)
    for scenario in ("class", "domain"):
        with pytest.raises(
            OptionsError, match=f"criterion = '{criterion}': one posterior with the same outputs for all"
        ):
            make_loop(part, tiny_stream(scenario))
    make_loop(part, tiny_stream("task"))
    result = train(part.set_params(criterion="entropy"), tiny_stream("domain")).result
    assert not [name for name in result["matrices"] if "inferred" in name or "found" in name]
    assert result["summary"]["task_inference_accuracy"] is None
    assert result["summary"]["tgiven_final"] is not None


def test_batch_norms_tell_models_apart_that_have_the_same_weights() -> None:
    learner, stream = normed(steps=2)
    part = VCL(active_classes="all", **{name: getattr(learner, name) for name in ("solver", "steps", "batch_size")})
    assert train(part, stream).result["summary"]["task_inference_accuracy"] is not None


def test_several_samples_of_a_point_are_refused() -> None:
    with pytest.raises(OptionsError, match="samples = 2: all samples of a point are the same; leave it at 1"):
        SeparatePosteriors(posterior=Dirac(), samples=2)
    assert SeparatePosteriors(posterior=Radial(), samples=2).samples == 2


IMAGES = replace(spec_of(2, 2), input_shape=(1, 8, 8))


def normed(steps: int = 8) -> tuple[Any, ArrayStream]:
    """A learner whose network has batch norms, and images of two tasks that differ in brightness."""
    rng = generator(0, "images")
    tasks = []
    for task in range(2):
        x = torch.rand(40, 1, 8, 8, generator=rng) * (task + 1)
        tasks.append((x.numpy(), 2 * task + torch.arange(40).numpy() % 2))
    stream = ArrayStream.from_arrays(tasks)
    solver = ConvStack(channels=(2, 2), hidden=(4,), optimiser=Adam(1e-2))
    learner: Any = PosteriorReplay(solver=solver, posterior=MeanField(), samples=2, steps=steps, batch_size=16)
    return learner, stream


def test_batch_norms_have_the_running_statistics_of_their_task() -> None:
    learner, stream = normed()
    run = train(learner, stream)
    first, second = run.learner.model.statistics
    assert list(first) == list(second)
    assert len(first) > 0
    assert any(not torch.equal(first[name][0], second[name][0]) for name in first)
    x = stream.tests[0].rows.take(torch.arange(6)).x
    before = run.learner.predict(x, 0).scores
    run.learner.model.statistics[1] = {name: (m + 1, v) for name, (m, v) in second.items()}
    torch.testing.assert_close(run.learner.predict(x, 0).scores, before)
    run.learner.model.statistics[0] = {name: (m + 1, v) for name, (m, v) in first.items()}
    assert not torch.allclose(run.learner.predict(x, 0).scores, before)


def test_batch_statistics_are_memory_and_state() -> None:
    learner, stream = normed()
    run = train(learner, stream)
    model = run.learner.model
    numbers = sum(t.numel() for task in model.statistics for pair in task.values() for t in pair)
    assert model.num_bytes() == model.network.num_bytes() + 4 * numbers
    twin, _ = normed()
    twin.build(stream.spec, Randomness(0), CPU)
    twin.load(run.learner.state())
    x = stream.tests[1].rows.take(torch.arange(6)).x
    assert torch.equal(twin.predict(x, None).scores, run.learner.predict(x, None).scores)


@pytest.mark.parametrize("local", [True, False])
def test_local_reparametrisation_of_convolutions_is_refused(local: bool) -> None:
    learner: Any = SeparatePosteriors(solver=CNN(channels=(2,), width=4), posterior=MeanField(local=local))
    if local:
        with pytest.raises(OptionsError, match="for chains of linear layers; use an MLP, or local = False"):
            learner.build(IMAGES, Randomness(0), CPU)
        return
    learner.build(IMAGES, Randomness(0), CPU)
    y = torch.tensor([0, 1])
    x = torch.zeros(2, 1, 8, 8)
    learner.begin_task(Task(0, "all", (0, 1), TensorRows(x, y)))
    batch = Batch(x, y, torch.zeros_like(y), torch.tensor([0.5, 0.5]))
    assert math.isfinite(learner.step(PHASE, batch)["solver.cross-entropy"])


def broken_at(learner: Any, step: int, name: str) -> None:
    """Sets a tensor of all posteriors to numbers without a deviation before so many steps are done."""
    real, count = learner.step, 0

    def broken(phase: Phase, batch: Batch) -> Any:
        nonlocal count
        if count == step:
            layout = learner.posterior.theta_spec(learner.model.layout)
            entry = next(entry for entry in layout.entries if entry.name == name)
            with torch.no_grad():
                for theta in learner.model.hypernet.parameters():
                    theta[..., -1, entry.start : entry.stop] = math.nan
        count += 1
        return real(phase, batch)

    learner.step = broken


@pytest.mark.parametrize(
    ("options", "step", "phase", "said"),
    [
        ({"posterior": Radial()}, STEPS + 2, "train", "the rho of encoder.1.0.bias in the model of task"),
        (
            {"posterior": Implicit(hidden=(5,))},
            STEPS + 2,
            "train",
            "the generator of layers.0.bias in the model of task",
        ),
        ({"coreset": Coreset(size=4)}, 3 * STEPS + 2, "coreset", "the rho of encoder.1.0.bias in the model of task 0"),
    ],
    ids=["radial", "implicit", "coreset"],
)
def test_what_breaks_is_named_whatever_the_posterior_and_the_phase(
    options: dict[str, Any], step: int, phase: str, said: str
) -> None:
    name = "layers.0.bias" if "generator" in said else "encoder.1.0.bias"
    with pytest.raises(TrainingError) as caught:
        train(SeparatePosteriors(**options), tiny_stream(), prepare=lambda learner: broken_at(learner, step, name))
    assert f"stopped being finite at step 2 of phase '{phase}'" in str(caught.value)
    assert said in str(caught.value)


def test_a_device_that_may_not_be_stopped_keeps_the_first_that_is_not_finite() -> None:
    """What comes after it is of no more use, and what came before was well."""
    learner = at_step(SeparatePosteriors(), tiny_stream(), STEPS + 2)
    learner.device = SimpleNamespace(torch_device=SimpleNamespace(type="elsewhere"))
    made = learner.model.hypernet([0, 1]).detach()
    entry = learner.model.layout.entries[0]

    def broken(task: int) -> Tensor:
        other = made.clone()
        other[task, 0, entry.start] = math.inf
        return other

    learner._watch(torch.tensor(1.0), broken(0), [0, 1])
    assert learner.trouble == ""
    learner._watch(torch.tensor(math.nan), broken(1), [3, 4])
    learner._watch(torch.tensor(math.nan), torch.full_like(made, math.nan), [5, 6])
    learner._watch(torch.tensor(1.0), made, [7, 8])
    assert learner.trouble == f"the mean of {entry.name} in the model of task 4 is not finite"
    learner._watch(torch.tensor(1.0), made[:1], [2])  # a task with other rehearsal begins
    assert learner.trouble == ""


def test_a_variance_that_collapses_is_named_with_its_layer_and_task() -> None:
    def collapse(learner: Any) -> None:
        real, count = learner.step, 0

        def step(phase: Phase, batch: Batch) -> Any:
            nonlocal count
            count += 1
            if count == STEPS + 2:  # in the second task
                first = learner.model.layout.entries[0]
                with torch.no_grad():
                    for theta in learner.model.hypernet.parameters():
                        theta[..., 1, first.start : first.stop] = -1e30
            return real(phase, batch)

        learner.step = step

    learner: Any = PosteriorReplay(
        posterior=MeanField(), hypernetwork=Single(), divergence="forward-kl", steps=STEPS, batch_size=8
    )
    names = [name for name, _ in MLP().encoder((2,)).named_parameters(prefix="encoder")]
    with pytest.raises(TrainingError) as caught:
        train(learner, tiny_stream(), prepare=collapse)
    assert "stopped being finite at step 1 of phase 'train', task 1" in str(caught.value)
    assert f"of {names[0]} in the model of task" in str(caught.value)


# ------------------------------------------------------------------------------- classes that join, and what is told at the start


@pytest.mark.parametrize("method", [VCL, SeparatePosteriors, PosteriorReplay])
def test_a_generator_of_as_many_numbers_as_it_makes_cannot_take_in_new_classes(method: Any) -> None:
    numel = 6 * 4 + 4 + 6 * 5
    posterior = Implicit(latent_dim=None, hidden=(numel,), perturbation=0.0, stein_samples=4)
    solver = MLP(hidden=(4,))
    run = reverie.run(tiny_stream(), method(posterior=posterior, solver=solver, steps=2), threads=1)
    before = deepcopy(run.learner.state())
    x = np.random.default_rng(0).random((20, 6), dtype=np.float32)
    with pytest.raises(OptionsError, match="latent_dim = None: the generator sees as many numbers as the network has"):
        run.learn(x, np.repeat(["new", "newer"], 10))
    assert differing(before, run.learner.state()) == []
    assert run.learner.spec.outputs == 6
    known = run.spec.classes
    assert run.learn(x, [known[0], known[3]] * 10).result["status"] == "complete"


def test_a_hypernetwork_that_is_larger_than_it_may_be_is_told_before_the_first_step() -> None:
    told: list[str] = []

    class Listener(Silent):
        def warned(self, message: str) -> None:
            told.append(message)

    part = PosteriorReplay(hypernetwork=Full())
    loop = make_loop(part, tiny_stream(), observer=Listener(), prepare=halt_after(0))
    with pytest.raises(Halt):
        loop.run()
    (message,) = told
    assert message.startswith("hypernetwork: 2,924 numbers make 324, 9.02 for one, more than compression = 1")
    assert loop.record.warnings == told
    assert train(part, tiny_stream()).result["warnings"] == told
    quiet = PosteriorReplay(hypernetwork=Full(compression=None))
    assert train(quiet, tiny_stream()).result["warnings"] == []
