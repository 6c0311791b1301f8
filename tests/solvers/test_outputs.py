"""Softmax groups, and the losses over them, against slow loops in float64."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from reverie.solvers.outputs import (
    ActiveClasses,
    cross_entropy,
    gaussian_nll,
    log_probabilities,
    objective,
    softmax_groups,
    squared_errors,
)
from reverie.types import Batch, Scenario, StreamSpec

SPLIT = ((0, 1), (2, 3), (4, 5))


def spec(scenario: Scenario, heads: tuple[tuple[int, ...], ...] = SPLIT, merged: bool = False) -> StreamSpec:
    outputs = max(output for head in heads for output in head) + 1
    tasks = (tuple(range(outputs)),) if merged else heads
    names = tuple(f"task {task}" for task in range(len(tasks)))
    return StreamSpec("test", scenario, (4,), tuple(range(outputs)), tasks, names, heads)


def batch(y: Tensor, weight: Tensor | None = None, groups: Tensor | None = None, t: Tensor | None = None) -> Batch:
    n = len(y)
    weight = torch.full((n,), 1 / n, dtype=torch.float64) if weight is None else weight
    return Batch(torch.zeros(n, 1), y, torch.zeros(n, dtype=torch.int64), weight, groups, t)


def slow_log_softmax(row: list[float], groups: list[int]) -> list[float]:
    result = []
    for score, group in zip(row, groups, strict=True):
        if group < 0:
            result.append(0.0)
            continue
        mine = [other for other, g in zip(row, groups, strict=True) if g == group]
        result.append(score - max(mine) - math.log(sum(math.exp(other - max(mine)) for other in mine)))
    return result


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_log_softmax_in_groups_equals_the_slow_loop(data: st.DataObject) -> None:
    outputs = data.draw(st.integers(1, 6))
    groups = data.draw(st.lists(st.integers(-1, 3), min_size=outputs, max_size=outputs).filter(lambda g: max(g) >= 0))
    rows = data.draw(st.lists(st.lists(st.floats(-60, 60), min_size=outputs, max_size=outputs), min_size=1, max_size=3))
    scores = torch.tensor(rows, dtype=torch.float64)
    expected = torch.tensor([slow_log_softmax(row, groups) for row in rows], dtype=torch.float64)
    torch.testing.assert_close(log_probabilities(scores, torch.tensor(groups)), expected, rtol=1e-12, atol=1e-12)


def test_no_groups_is_the_plain_softmax() -> None:
    scores = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(log_probabilities(scores, None), torch.log_softmax(scores, 1))
    torch.testing.assert_close(
        log_probabilities(scores, torch.zeros(4, dtype=torch.int64)), torch.log_softmax(scores, 1)
    )


@pytest.mark.parametrize("groups", [[0, 0, -1, -1], [0, 0, 2, -1], [1, 1, 0, 0]])
def test_gradients_in_groups(groups: list[int]) -> None:
    scores = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: log_probabilities(s, torch.tensor(groups)), scores)


@pytest.mark.parametrize("groups", [[0, 0, -1], [0, 1, -1], [1, 1, -1]])
@pytest.mark.parametrize("extreme", [-1e4, 1e4])
def test_extreme_scores_are_harmless(groups: list[int], extreme: float) -> None:
    """An output that takes no part may drift anywhere; one that does may be certain."""
    for place in range(3):
        values = [[0.5, -0.5, 0.1]]
        values[0][place] = extreme
        scores = torch.tensor(values, requires_grad=True)
        logs = log_probabilities(scores, torch.tensor(groups))
        assert logs.isfinite().all()
        assert logs[0, 2] == 0
        logs[0, 0].backward()
        assert scores.grad is not None
        assert scores.grad.isfinite().all()
        assert scores.grad[0, 2] == 0


# ------------------------------------------------------------------------------------- which outputs


@pytest.mark.parametrize("active", ["all", "all-so-far", "current"])
def test_domain_incremental_is_one_softmax(active: ActiveClasses) -> None:
    shared = spec("domain", ((0, 1), (0, 1), (0, 1)))
    assert softmax_groups(shared, 2, active) is None


@pytest.mark.parametrize(
    ("active", "task", "groups"),
    [
        ("all", 0, None),
        ("all", 2, None),
        ("all-so-far", 0, [0, 0, -1, -1, -1, -1]),
        ("all-so-far", 1, [0, 0, 0, 0, -1, -1]),
        ("all-so-far", 2, [0, 0, 0, 0, 0, 0]),
        ("current", 0, [0, 0, -1, -1, -1, -1]),
        ("current", 1, [0, 0, 1, 1, -1, -1]),
    ],
)
def test_class_incremental(active: ActiveClasses, task: int, groups: list[int] | None) -> None:
    got = softmax_groups(spec("class"), task, active)
    assert (got if got is None else got.tolist()) == groups


@pytest.mark.parametrize("active", ["all", "all-so-far", "current"])
def test_task_incremental_has_a_group_a_head_so_far(active: ActiveClasses) -> None:
    got = [softmax_groups(spec("task"), task, active) for task in range(3)]
    assert [groups.tolist() for groups in got if groups is not None] == [
        [0, 0, -1, -1, -1, -1],
        [0, 0, 1, 1, -1, -1],
        [0, 0, 1, 1, 2, 2],
    ]


def test_a_merged_stream_teaches_every_head_at_once() -> None:
    groups = softmax_groups(spec("task", merged=True), 0, "all")
    assert groups is not None
    assert groups.tolist() == [0, 0, 1, 1, 2, 2]
    so_far = softmax_groups(spec("class", merged=True), 0, "all-so-far")
    assert so_far is not None
    assert so_far.tolist() == [0] * 6


def test_a_class_that_comes_back_stays_in_the_group_it_had_first() -> None:
    groups = softmax_groups(spec("class", ((0, 1), (1, 2))), 1, "current")
    assert groups is not None
    assert groups.tolist() == [0, 0, 1]


# --------------------------------------------------------------------------------------- cross-entropy


def test_hard_labels_with_weights_and_temperatures() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(5, 4, dtype=torch.float64, generator=generator)
    weight, temperature = torch.rand(5, dtype=torch.float64, generator=generator), torch.tensor([1.0, 2, 0.5, 3, 1])
    y, groups = torch.tensor([0, 1, 3, 2, 0]), [0, 0, 1, 1]
    expected = 0.0
    for i in range(5):
        row = slow_log_softmax([s / float(temperature[i]) for s in scores[i].tolist()], groups)
        expected -= float(weight[i]) * row[int(y[i])]
    loss = cross_entropy(scores, batch(y, weight, torch.tensor(groups), temperature.double()))
    assert float(loss) == pytest.approx(expected, rel=1e-12)


def test_soft_labels_with_weights_and_temperatures() -> None:
    generator = torch.Generator().manual_seed(1)
    scores, y = (torch.randn(4, 5, dtype=torch.float64, generator=generator) for _ in range(2))
    y, groups = y.softmax(1), [0, 0, -1, 2, 2]
    weight, temperature = torch.rand(4, dtype=torch.float64, generator=generator), torch.tensor([2.0, 1, 4, 0.5])
    expected = 0.0
    for i in range(4):
        row = slow_log_softmax([s / float(temperature[i]) for s in scores[i].tolist()], groups)
        expected -= float(weight[i]) * sum(p * log for p, log in zip(y[i].tolist(), row, strict=True))
    loss = cross_entropy(scores, batch(y, weight, torch.tensor(groups), temperature.double()))
    assert float(loss) == pytest.approx(expected, rel=1e-12)


def test_one_hot_soft_labels_equal_hard_ones() -> None:
    scores = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1, 2, 2, 1, 0])
    hard = cross_entropy(scores, batch(y))
    soft = cross_entropy(scores, batch(torch.nn.functional.one_hot(y, 3).float()))
    torch.testing.assert_close(hard, soft)
    torch.testing.assert_close(hard.float(), torch.nn.functional.cross_entropy(scores, y))


def test_the_gradient_of_distillation_is_the_difference_of_the_distributions() -> None:
    """d loss / d score = (q - p) / tau: with teacher and pupil alike there is none, and no tau squared is hidden in it."""
    generator = torch.Generator().manual_seed(0)
    teacher, pupil = (torch.randn(1, 4, dtype=torch.float64, generator=generator) for _ in range(2))
    p, tau = (teacher / 2).softmax(1), torch.tensor([2.0], dtype=torch.float64)
    pupil.requires_grad_()
    cross_entropy(pupil, batch(p, torch.ones(1, dtype=torch.float64), None, tau)).backward()
    torch.testing.assert_close(pupil.grad, ((pupil / 2).softmax(1) - p).detach() / 2)


def test_rows_of_no_weight_have_no_say() -> None:
    scores = torch.randn(3, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    cross_entropy(scores, batch(torch.tensor([0, 1, 0]), torch.tensor([0.5, 0.0, 0.5]))).backward()
    assert scores.grad is not None
    assert not scores.grad[1].any()
    assert scores.grad[0].any()


def test_unlabelled_rows_are_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="cross-entropy needs labels"):
        cross_entropy(torch.zeros(1, 2), Batch(torch.zeros(1, 2), None, torch.zeros(1), torch.ones(1)))


def test_an_output_taught_later_gets_no_gradient_before() -> None:
    """Over the tasks of a class-incremental stream, "all-so-far" reaches exactly the outputs so far, "all" every one."""
    reached = []
    for active in ("all-so-far", "all"):
        counts = []
        for task in range(3):
            scores = torch.zeros(1, 6, requires_grad=True)
            cross_entropy(
                scores, batch(torch.tensor([2 * task]), None, softmax_groups(spec("class"), task, active))
            ).backward()
            assert scores.grad is not None
            counts.append(int((scores.grad != 0).sum()))
        reached.append(counts)
    assert reached == [[2, 4, 6], [6, 6, 6]]
    assert all(a < b for a, b in pairwise(reached[0]))


def test_joint_training_has_one_softmax_or_a_head_for_each_task_that_was_merged() -> None:
    """Multitask learning is joint training with heads of their own."""
    for scenario, active, expected in (
        ("class", "all-so-far", [0] * 6),
        ("class", "current", [0, 0, 1, 1, 2, 2]),
        ("task", "all", [0, 0, 1, 1, 2, 2]),
    ):
        groups = softmax_groups(spec(scenario, merged=True), 0, active)
        assert groups is not None
        assert groups.tolist() == expected


# ------------------------------------------------------------------------------------------ regression


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 3), st.floats(0.01, 10))
def test_the_loss_of_regression_is_that_of_a_normal_distribution_but_for_a_constant(
    n: int, outputs: int, noise_std: float
) -> None:
    rng = torch.Generator().manual_seed(n)
    scores, y = (torch.randn(n, outputs, generator=rng, dtype=torch.float64) for _ in range(2))
    weight = torch.rand(n, generator=rng, dtype=torch.float64)
    density = torch.distributions.Normal(scores, noise_std)
    best = torch.distributions.Normal(y, noise_std)
    expected = (weight * (best.log_prob(y) - density.log_prob(y)).sum(dim=1)).sum()
    torch.testing.assert_close(gaussian_nll(scores, batch(y, weight), noise_std), expected)


def test_squared_errors_of_several_networks_at_once() -> None:
    scores, y = torch.arange(12.0).view(2, 3, 2), torch.ones(3, 2)
    expected = [[sum((float(f) - 1) ** 2 for f in row) for row in network] for network in scores]
    assert squared_errors(scores, y).tolist() == expected


def test_the_kind_of_stream_says_what_is_minimised() -> None:
    classes = spec("class")
    scores = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    name, loss = objective(classes)
    rows = batch(torch.tensor([0, 2, 5]))
    assert name == "cross-entropy"
    torch.testing.assert_close(loss(scores, rows), cross_entropy(scores, rows))
    numbers = replace(spec("domain", ((0, 1, 2, 3, 4, 5),)), kind="regression", noise_std=0.5)
    name, loss = objective(numbers)
    targets = batch(torch.zeros(3, 6))
    assert name == "nll"
    torch.testing.assert_close(loss(scores, targets), gaussian_nll(scores, targets, 0.5))
    with pytest.raises(ValueError, match="regression needs targets"):
        loss(scores, replace(targets, y=None))
