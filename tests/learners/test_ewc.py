"""What EWC answers as a Gaussian posterior: samples of it, head by head. Its penalties: tests/penalties."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from reverie.checks import OptionsError
from reverie.device import CPU
from reverie.learners import EWC
from reverie.learners import ewc as module
from reverie.learners.answers import EVALUATION, in_parts, log_mean, preferred
from reverie.metrics.task_inference import CRITERIA
from reverie.nn.optimisers import Adam
from reverie.nn.parameters import ParameterSpec
from reverie.seeding import Randomness, generator
from reverie.solvers import CNN, MLP, ConvStack
from reverie.streams.rows import TensorRows
from reverie.types import Prediction, Task
from tests.learners.test_posteriors import PHASE, STEPS, at_step, inputs, of_mlp
from tests.learners.vectors import spec_of
from tests.tiny import bits, differing, make_loop, tiny_stream, train

SOLVER = MLP(hidden=(12,), optimiser=Adam(learning_rate=0.03))
POINT = EWC(mode="bayesian", strength=1.0, active_classes="current", solver=SOLVER)
SAMPLES = POINT.clone().set_params(answers="posterior")
every_scenario = pytest.mark.parametrize("scenario", ["class", "task", "domain"])


def drawn(learner: Any) -> Tensor:
    """(V, numel) weights from what the penalty keeps, once all tasks are learnt."""
    layout = ParameterSpec(learner.network.module)
    noise = torch.randn(learner.test_samples, layout.numel, generator=generator(EVALUATION))
    return layout.flatten(learner.network.module) + noise / layout.gather(learner.penalty.precision).sqrt()


# ------------------------------------------------------------------------------- samples


@pytest.mark.parametrize("variance", [1.0, 0.25])
def test_samples_have_the_mean_and_variance_of_the_posterior_and_untrained_heads_those_of_the_prior(
    variance: float,
) -> None:
    """After the first task of three."""
    stream = tiny_stream(rows=40)
    part = SAMPLES.clone().set_params(prior_variance=variance, test_samples=4000)
    learner = at_step(part, stream, STEPS - 1)
    learner.end_task(stream[0])
    layout = ParameterSpec(learner.network.module)
    weights = learner._drawn(layout, learner.penalty)

    held = layout.mask([0, 1])
    assert int((~held).sum()) == 4 * 13
    assert weights[:, ~held].mean().item() == pytest.approx(0, abs=0.01)
    assert weights[:, ~held].var().item() == pytest.approx(variance, rel=0.02)
    precision = layout.gather(learner.penalty.precision)
    apart = ((weights - layout.flatten(learner.network.module)) * precision.sqrt())[:, held]
    assert apart.mean(dim=0).abs().max() < 5 / math.sqrt(4000)
    torch.testing.assert_close(apart.var(dim=0), torch.ones(int(held.sum())), rtol=0, atol=0.12)
    assert float(precision[held].max()) > 2 / variance  # the data do tell something


def test_weights_that_are_not_trained_are_not_sampled() -> None:
    learner = train(SAMPLES, tiny_stream()).learner
    name = "encoder.1.0.weight"
    weight = learner.network.module.get_parameter(name).requires_grad_(False)
    del learner.penalty.precision[name], learner.penalty.mean[name]
    layout = ParameterSpec(learner.network.module)
    found = layout.unflatten(learner._drawn(layout, learner.penalty))
    assert bits(found[name]) == bits(weight.expand(10, -1, -1))
    assert bool((found["encoder.1.0.bias"].std(dim=0) > 0).all())


# ------------------------------------------------------------------------------- answers


@pytest.mark.parametrize("part", [POINT, SAMPLES], ids=["point", "samples"])
@pytest.mark.parametrize("scenario", ["class", "task"])
@pytest.mark.parametrize("criterion", ["entropy", "confidence", "agreement"])
def test_every_head_is_a_model_and_the_criterion_believes_one(part: EWC, scenario: Any, criterion: Any) -> None:
    if part is POINT and criterion == "agreement":
        return
    stream = tiny_stream(scenario)
    learner = train(part.clone().set_params(criterion=criterion, steps=20), stream).learner
    x = inputs(stream, 40)
    answer = learner.predict(x)
    weights = [ParameterSpec(learner.network.module).flatten(learner.network.module)]
    if part is SAMPLES:
        weights = list(drawn(learner))
    scores = torch.stack([of_mlp(one, x) for one in weights]).double()
    models = [torch.softmax(scores[..., list(head)], dim=-1) for head in stream.spec.heads]
    for task, (head, model) in enumerate(zip(stream.spec.heads, models, strict=True)):
        torch.testing.assert_close(
            answer.by_task[:, task, list(head)], model.mean(dim=0).log().float(), rtol=1e-3, atol=1e-4
        )
        others = [c for c in range(6) if c not in head]
        given = learner.predict(x, task)
        assert bits(given.scores[:, list(head)]) == bits(answer.by_task[:, task][:, list(head)])
        assert bool((given.scores[:, others] == -math.inf).all())
        assert bool((answer.by_task[:, task, others] == -math.inf).all())
        assert given.by_task is None
    assert set(answer.task_scores) == set(CRITERIA) - ({"agreement"} if part is POINT else set())
    for name, found in answer.task_scores.items():
        expected = torch.cat([CRITERIA[name](model[None]) for model in models], dim=1)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    chosen = answer.task_scores[criterion].argmax(dim=1)
    for row, task in enumerate(chosen.tolist()):
        head = list(stream.spec.heads[task])
        assert bits(answer.scores[row, head]) == bits(answer.by_task[row, task, head])
    assert bool(torch.isfinite(answer.scores).all())


@pytest.mark.parametrize("part", [POINT, SAMPLES], ids=["point", "samples"])
@pytest.mark.parametrize(
    ("scenario", "active"),
    [("domain", "all"), ("class", "all"), ("class", "all-so-far")],
    ids=["one", "full", "growing"],
)
def test_one_softmax_infers_no_task_and_answers_with_its_mean_probabilities(
    part: EWC, scenario: Any, active: Any
) -> None:
    stream = tiny_stream(scenario)
    learner = train(part.clone().set_params(active_classes=active), stream).learner
    x = inputs(stream)
    answer = learner.predict(x)
    assert answer.by_task is None
    assert answer.task_scores is None
    weights = [ParameterSpec(learner.network.module).flatten(learner.network.module)]
    if part is SAMPLES:
        weights = list(drawn(learner))
    mean = torch.stack([torch.softmax(of_mlp(one, x), dim=1) for one in weights]).mean(dim=0)
    torch.testing.assert_close(answer.scores.exp(), mean, rtol=1e-3, atol=1e-5)


@every_scenario
def test_a_task_that_is_not_done_is_answered_by_the_point(scenario: Any) -> None:
    """Its Fisher information is not known yet. The heads of tasks to come are not asked."""
    stream = tiny_stream(scenario)
    for steps, heads in ((3, 1), (STEPS + 3, 2)):
        point, samples = (at_step(part, stream, steps) for part in (POINT, SAMPLES))
        x = inputs(stream)
        answer = samples.predict(x)
        assert differing(vars(point.predict(x)), vars(answer)) == []
        if scenario != "domain":
            assert answer.by_task.shape == (13, heads, 6)
    samples.end_task(stream[1])
    assert differing(vars(point.predict(x)), vars(samples.predict(x)))


@pytest.mark.parametrize(("scenario", "active"), [("domain", "current"), ("class", "all"), ("class", "all-so-far")])
@pytest.mark.parametrize("criterion", ["confidence", "agreement"])
def test_a_criterion_is_refused_where_there_are_no_heads_to_choose_from(
    scenario: Any, active: Any, criterion: Any
) -> None:
    part = SAMPLES.clone().set_params(criterion=criterion, active_classes=active)
    with pytest.raises(
        OptionsError, match=f"criterion = '{criterion}': chooses between heads, and here all tasks have"
    ):
        make_loop(part, tiny_stream(scenario))
    make_loop(part, tiny_stream("task"))
    result = train(part.set_params(criterion="entropy"), tiny_stream(scenario)).result
    assert result["summary"]["task_inference_accuracy"] is None


def test_how_it_answers_does_not_move_what_it_learns() -> None:
    point, samples = (train(part, tiny_stream()).learner for part in (POINT, SAMPLES))
    assert differing(point.state(), samples.state()) == []


def test_all_runs_draw_with_the_same_noise_and_all_calls_the_same_weights() -> None:
    stream = tiny_stream()
    first, other = (train(SAMPLES, stream, seed=seed).learner for seed in (0, 1))
    x = inputs(stream)
    answer = first.predict(x)
    assert differing(vars(answer), vars(first.predict(x))) == []
    assert differing(vars(answer), vars(other.predict(x)))
    other.load(first.state())
    assert differing(vars(answer), vars(other.predict(x))) == []


@pytest.mark.parametrize("at_once", [3, 40])
def test_answers_in_several_parts_are_those_in_one(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = tiny_stream()
    learner = train(SAMPLES, stream).learner
    x = inputs(stream)
    whole, given = learner.predict(x), learner.predict(x, 1)
    monkeypatch.setattr(module, "NETWORKS_AT_ONCE", at_once)
    parts = learner.predict(x)
    torch.testing.assert_close(parts.scores, whole.scores, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(parts.by_task, whole.by_task, rtol=1e-4, atol=1e-5)
    assert set(parts.task_scores) == set(whole.task_scores)
    for name, scores in whole.task_scores.items():
        torch.testing.assert_close(parts.task_scores[name], scores, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(learner.predict(x, 1).scores, given.scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "solver", [CNN(channels=(2,), width=4), ConvStack(channels=(2, 2), hidden=(4,))], ids=["cnn", "norm"]
)
def test_networks_of_other_kinds_are_sampled_too(solver: Any) -> None:
    """Convolutions, and batch norm with the statistics that it has."""
    spec = replace(spec_of(2, 2), input_shape=(1, 8, 8))
    learner: Any = SAMPLES.clone().set_params(solver=solver, active_classes="current")
    learner.build(replace(spec, scenario="task"), Randomness(0), CPU)
    x = torch.rand(12, 1, 8, 8, generator=generator(0))
    task = Task(0, "all", (0, 1), TensorRows(x, torch.arange(12) % 2))
    learner.begin_task(task)
    learner.step(PHASE, task.train.take(torch.arange(12)))
    learner.end_task(task)
    answer = learner.predict(x)
    assert bool(torch.isfinite(answer.scores).all())
    assert bool((answer.task_scores["agreement"] < 0).all())


# ------------------------------------------------------------------------------- the shared functions


def test_parts_are_joined_field_by_field() -> None:
    def predict(rows: Tensor) -> Prediction:
        return Prediction(rows, by_task=rows[:, None], task_scores={"entropy": rows + 1})

    x = torch.arange(10.0).view(5, 2)
    assert differing(vars(in_parts(predict, x, 2)), vars(predict(x))) == []
    assert differing(vars(in_parts(predict, x, 0)), vars(predict(x))) == []  # a row at a time
    assert in_parts(Prediction, x, 2).by_task is None


def test_entropy_stands_in_where_one_sample_cannot_disagree() -> None:
    sure, doubtful = torch.tensor([[[0.9, 0.1]]]).double(), torch.tensor([[[0.6, 0.4]]]).double()
    found = preferred([doubtful, sure], [(0, 1), (2, 3)], 5, "agreement")
    assert set(found.task_scores or ()) == {"entropy", "confidence"}
    assert int(found.scores.argmax()) == 2
    least = torch.finfo(torch.float32).min
    assert found.scores[0, [0, 1, 4]].tolist() == [least, least, -math.inf]
    torch.testing.assert_close(found.scores[0, 2:4].exp(), torch.tensor([0.9, 0.1]))
    torch.testing.assert_close(
        log_mean(torch.cat([sure, doubtful]), (1, 3), 4)[0].exp(), torch.tensor([0, 0.75, 0, 0.25])
    )
