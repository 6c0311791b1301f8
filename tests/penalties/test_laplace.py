"""EWC as Bayes' rule: against the exact posterior where there is one, and what it holds, pulls and leaves alone elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from reverie.checks import OptionsError
from reverie.device import CPU
from reverie.learners import EWC, Naive
from reverie.nn.optimisers import Adam
from reverie.penalties import LaplacePenalty, ewc
from reverie.penalties.quadratic import weights_of
from reverie.seeding import Randomness
from reverie.solvers import MLP
from reverie.streams.rows import TensorRows
from reverie.types import Batch, StreamSpec
from tests.learners.test_posteriors import STEPS, at_step
from tests.penalties.test_ewc import built, rows, shaken
from tests.tiny import tiny_stream, train

BAYES = EWC(mode="bayesian", strength=1.0, fisher="empirical")


def penalty(solver: Any, groups: Tensor | None = None, n: int = 12, **options: Any) -> LaplacePenalty:
    made = LaplacePenalty(**options)
    made.build(StreamSpec("test", "class", (5,), (0,), ((0,),), ("all",), ((0,),)), Randomness(0), CPU)
    made.enter(n, groups)
    made.begin(solver)
    return made


# ---------------------------------------------------------------------------------------------- Bayes' rule


class LinearRegression:
    """As much of a solver as a penalty needs: y = x w + noise of a known deviation."""

    def __init__(self, width: int) -> None:
        self.module = nn.Linear(width, 1, bias=False)


@pytest.mark.parametrize("variance", [1.0, 0.2])
@pytest.mark.parametrize("noise", [0.5, 2.0])
def test_on_linear_gaussian_regression_it_is_the_exact_posterior(variance: float, noise: float) -> None:
    """Tasks of different sizes, their inputs orthogonal, so that the Fisher information is diagonal. Each task is learnt to the minimum of mean
    loss + penalty, in one Newton step."""
    width = 3
    draw = torch.Generator().manual_seed(0)
    solver: Any = LinearRegression(width)
    spec = StreamSpec("test", "domain", (3,), ("y",), ((0,),), ("all",), ((0,),), kind="regression", noise_std=noise)
    holding = LaplacePenalty(prior_variance=variance, fisher="exact")
    holding.build(spec, Randomness(0), CPU)
    precision, moment = torch.eye(width, dtype=torch.float64) / variance, torch.zeros(width, dtype=torch.float64)
    for task, n in enumerate((7, 4, 20, 11)):
        x = torch.linalg.qr(torch.randn(n, width, generator=draw, dtype=torch.float64)).Q
        x = x * torch.tensor([0.3, 1.0, 4.0], dtype=torch.float64) * (1 + task)
        y = x @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64) + noise * torch.randn(
            n, generator=draw, dtype=torch.float64
        )
        holding.enter(n, None)
        holding.begin(solver)

        shown = TensorRows(x.float(), torch.zeros(n, dtype=torch.int64), targets=y.float()[:, None])
        before = solver.module.weight.detach()[0].double()
        slope, curve = x.T @ (x @ before - y) / noise**2 / n, x.T @ x / noise**2 / n  # of the mean loss
        held = holding.loss(solver)
        assert held is not None
        first = torch.autograd.grad(held, solver.module.weight, create_graph=True)[0].flatten()
        second = torch.stack([torch.autograd.grad(g, solver.module.weight, retain_graph=True)[0][0] for g in first])
        with torch.no_grad():
            solver.module.weight -= torch.linalg.solve(curve + second, slope + first).float()[None]

        holding.end_task(solver, shown, task, None)
        precision, moment = precision + x.T @ x / noise**2, moment + x.T @ y / noise**2
        # As far as single precision goes.
        found, mean = holding.precision["weight"][0].diag().double(), holding.mean["weight"][0].double()
        torch.testing.assert_close(found, precision, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(mean, torch.linalg.solve(precision, moment), rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------------------------------- precision


def slow_fisher(module: nn.Module, batch: Batch, active: list[int]) -> dict[str, Tensor]:
    """Mean over rows of squared gradients, a row at a time, of the softmax over some outputs."""
    found = {name: torch.zeros_like(weight) for name, weight in module.named_parameters()}
    assert batch.y is not None
    for x, y in zip(batch.x, batch.y.tolist(), strict=True):
        module.zero_grad()
        cross_entropy(module(x[None])[:, active], torch.tensor([active.index(y)])).backward()  # type: ignore[no-untyped-call]
        for name, weight in module.named_parameters():
            assert weight.grad is not None
            found[name] += weight.grad.square() / len(batch)
    return found


@pytest.mark.parametrize(
    ("scenario", "active"),
    [("class", "current"), ("class", "all-so-far"), ("class", "all"), ("task", "all"), ("domain", "all")],
)
@pytest.mark.parametrize("fisher_rows", [None, 5])
def test_the_precision_is_the_prior_and_all_rows_times_their_information(
    scenario: Any, active: Any, fisher_rows: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With fewer rows for the Fisher information that is scaled to all rows of the task, and the prior is not."""
    measured: list[dict[str, Tensor]] = []
    stream = tiny_stream(scenario, rows=13)
    real = ewc.fisher_diagonal

    def spy(module: nn.Module, batches: Any, *others: Any) -> dict[str, Tensor]:
        (batch,) = batches
        task, outputs = len(measured), stream.spec.outputs
        own = scenario == "task" or active == "current"
        seen = stream.spec.heads[task] if own else stream.spec.classes_until(task)
        everything = scenario == "domain" or (scenario == "class" and active == "all")
        assert len(batch) == (fisher_rows or 26)
        measured.append(slow_fisher(module, batch, list(range(outputs) if everything else seen)))
        return real(module, [batch], *others)

    monkeypatch.setattr(ewc, "fisher_diagonal", spy)
    part = BAYES.clone().set_params(active_classes=active, prior_variance=0.25, fisher_rows=fisher_rows)
    learner = train(part, stream).learner
    assert len(measured) == 3
    for name, weight in weights_of(learner.network).items():
        expected = 4 + 26 * sum(fisher[name] for fisher in measured)
        torch.testing.assert_close(learner.penalty.precision[name], expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(learner.penalty.mean[name], weight)


@pytest.mark.parametrize(("fisher_rows", "times"), [(5, 26 / 5), (26, 1.0), (100, 1.0)])
@pytest.mark.parametrize("active", ["current", "all"])
def test_the_published_precision_counts_the_prior_as_often_as_it_counts_the_rows_measured(
    active: Any, fisher_rows: int, times: float
) -> None:
    """Once for each weight, when a task first trains it; and the outputs that no task has trained keep the prior."""
    stream = tiny_stream(rows=13)
    part = BAYES.clone().set_params(active_classes=active, prior_variance=0.25, fisher_rows=fisher_rows)
    published = part.clone().set_params(fisher_prior="published")
    plain, other = (at_step(each, stream, 2 * STEPS - 1) for each in (part, published))
    for learner in (plain, other):  # from the same weights: what they were learnt with is another matter
        learner.network.load(plain.network.state())
        learner.penalty.trained = [False] * 6
        learner.penalty.tasks = 0
        learner.penalty.precision = {n: torch.full_like(w, 4.0) for n, w in weights_of(learner.network).items()}
        for task in (0, 1):
            learner._enter(task)
            learner.penalty.end_task(learner.network, stream[task].train, task, learner.groups)
    for name, precision in plain.penalty.precision.items():
        more = torch.full_like(precision, 4 * (times - 1))
        if name.startswith("head.") and active == "current":
            more[4:] = 0
        torch.testing.assert_close(other.penalty.precision[name] - precision, more, rtol=1e-3, atol=1e-3)


# ---------------------------------------------------------------------------------------------- the loss


def test_the_first_task_has_the_prior_over_what_it_trains() -> None:
    solver = built(4)
    groups = torch.tensor([0, -1, 0, -1])
    holding = penalty(solver, groups, n=20, prior_variance=0.5, strength=100.0)
    head, bias = solver.module.head.weight[[0, 2]], solver.module.head.bias[[0, 2]]
    body = sum(weight.square().sum() for name, weight in weights_of(solver).items() if not name.startswith("head."))
    expected = (body + head.square().sum() + bias.square().sum()) / (2 * 0.5) / 20
    torch.testing.assert_close(holding.loss(solver), expected)


@pytest.mark.parametrize(("joined", "weight"), [(0, 7.0), (1, 1.0)], ids=["growing", "own"])
def test_later_what_was_trained_is_held_what_is_new_has_the_prior_and_the_rest_is_free(
    joined: int, weight: float
) -> None:
    """The new output joins the softmax of the first task, whose past weighs ``strength``, or begins one of its own."""
    solver = built(3)
    first, second = torch.tensor([0, -1, -1]), torch.tensor([0, joined, -1, -1])
    options = {"strength": 7.0, "prior_variance": 0.5}
    holding = penalty(solver, first, **options)
    at = shaken(solver, 0)
    holding.end_task(solver, rows(30, outputs=1), 0, first)
    assert bool((holding.mean["head.weight"][1:] == 0).all())
    assert torch.equal(holding.precision["head.weight"][1:], torch.full((2, 4), 2.0))
    solver.grow(4)
    holding.enter(40, second)
    holding.begin(solver)
    shaken(solver, 1)
    expected = torch.zeros(())
    for name, here in weights_of(solver).items():
        held = slice(0, 1) if name.startswith("head.") else slice(None)
        old = at[name][held]
        expected = expected + 7.0 / 2 * (holding.precision[name][held] * (here[held] - old).square()).sum()
    new = solver.module.head.weight[1].square().sum() + solver.module.head.bias[1].square()
    value = holding.loss(solver)
    assert value is not None
    torch.testing.assert_close(value, (expected + weight * new / (2 * 0.5)) / 40)
    value.backward()  # type: ignore[no-untyped-call]
    assert solver.module.head.weight.grad is not None
    assert bool((solver.module.head.weight.grad[2:] == 0).all())
    again = penalty(solver, **options)
    again.load(holding.state())
    again.enter(40, second)
    again.begin(solver)
    assert torch.equal(again.loss(solver), value)  # type: ignore[arg-type]


def test_the_limit_of_a_strong_prior_is_a_network_of_zeros_and_of_a_weak_one_plain_training() -> None:
    stream = tiny_stream(tasks=1, steps=200)
    sizes = []
    for variance in (1e-6, 1e9):
        solver = MLP(hidden=(12,), optimiser=Adam(learning_rate=0.01))
        learner = train(BAYES.clone().set_params(prior_variance=variance, solver=solver), stream).learner
        sizes.append(max(float(weight.detach().abs().max()) for weight in weights_of(learner.network).values()))
    plain = train(Naive(solver=solver.clone()), stream).learner
    largest = max(float(weight.detach().abs().max()) for weight in weights_of(plain.network).values())
    assert sizes[0] < 0.05 * largest
    assert sizes[1] == pytest.approx(largest, rel=1e-3)


# ---------------------------------------------------------------------------------------------- options


def test_the_learner_hands_its_options_on() -> None:
    given = {"strength": 3.0, "fisher": "sampled", "fisher_rows": 7, "prior_variance": 0.1, "fisher_prior": "published"}
    made = EWC(mode="bayesian", **given).make_penalty()  # type: ignore[arg-type]
    assert isinstance(made, LaplacePenalty)
    assert made.get_params() == given


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prior_variance": 0.5}, "prior_variance = 0.5: of the posterior in mode 'bayesian' alone"),
        (
            {"mode": "online", "answers": "posterior"},
            "answers = 'posterior': of the posterior in mode 'bayesian' alone",
        ),
        ({"criterion": "confidence"}, "criterion = 'confidence': of the posterior in mode 'bayesian' alone"),
        ({"mode": "bayesian", "gamma": 0.5}, "gamma = 0.5: fades the past in mode 'online' alone"),
        (
            {"mode": "bayesian", "test_samples": 5},
            "test_samples = 5: the point alone answers; set answers = 'posterior'",
        ),
        ({"mode": "bayesian", "criterion": "agreement"}, "compares several weight samples, and there is one alone"),
        (
            {"mode": "bayesian", "criterion": "agreement", "answers": "posterior", "test_samples": 1},
            "compares several weight samples, and there is one alone",
        ),
        (
            {"mode": "bayesian", "prior_variance": 0.0},
            "prior_variance = 0.0: .*; leave prior_variance out for its default, 1.0",
        ),
        (
            {"fisher_prior": "published", "fisher_rows": 5},
            "fisher_prior = 'published': of the posterior in mode 'bayesian'",
        ),
        (
            {"mode": "bayesian", "fisher_prior": "published"},
            "fisher_prior = 'published': with all rows of a task the prior counts once either way; set fisher_rows",
        ),
    ],
)
def test_options_without_effect_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        EWC(**options)
