"""Targets for replay: whose answer, among which outputs, hard or soft, for one head or for many."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from reverie.replay.labels import past_groups, seen_outputs, targets
from reverie.solvers.outputs import cross_entropy
from reverie.types import Batch, Scenario, StreamSpec

SCORES = torch.tensor([[1.0, 2.0, 0.0, -1.0, 9.0, 3.0], [0.5, 0.1, 0.2, 0.9, 7.0, -1.0]], dtype=torch.float64)
HEADS = ((0, 1), (2, 3), (4, 5))


def spec(scenario: Scenario) -> StreamSpec:
    heads = ((0, 1),) * 3 if scenario == "domain" else HEADS
    classes = (0, 1) if scenario == "domain" else tuple(range(6))
    return StreamSpec("test", scenario, (1,), classes, heads, ("a", "b", "c"), heads)


def seen(*classes: int) -> Tensor:
    mask = torch.zeros(6, dtype=torch.bool)
    mask[list(classes)] = True
    return mask


def loss(scores: Tensor, y: Tensor, groups: Tensor | None) -> Tensor:
    n = len(scores)
    weight = torch.full((n,), 1 / n, dtype=torch.float64)
    return cross_entropy(scores, Batch(torch.zeros(n, 1), y, torch.zeros(n), weight, groups))


def test_seen_classes_and_past_groups() -> None:
    assert seen_outputs(spec("class"), 0).tolist() == [False] * 6
    assert seen_outputs(spec("class"), 2).tolist() == [True] * 4 + [False] * 2
    assert seen_outputs(spec("domain"), 1).tolist() == [True, True]
    assert past_groups(spec("class"), 2, "all") is None
    assert past_groups(spec("task"), 0, "all") is None
    groups: Any = past_groups(spec("task"), 2, "all")
    assert groups.tolist() == [0, 0, 1, 1, -1, -1]
    groups = past_groups(spec("class"), 2, "all-so-far")
    assert groups.tolist() == [0, 0, 0, 0, -1, -1]


def test_hard_labels_are_the_best_of_the_seen_classes() -> None:
    """Outputs 4 and 5 score highest but were never taught: they cannot be the label of a memory."""
    assert targets(SCORES, None, seen(0, 1, 2, 3), "hard", 2.0).tolist() == [1, 3]
    assert targets(SCORES, None, seen(*range(6)), "hard", 2.0).tolist() == [4, 4]
    groups = torch.tensor([0, 0, 0, 0, -1, -1])
    assert targets(SCORES, groups, seen(0, 1, 2, 3), "hard", 2.0).tolist() == [1, 3]


def test_soft_labels_over_all_outputs() -> None:
    torch.testing.assert_close(targets(SCORES, None, seen(0, 1), "soft", 2.0), (SCORES / 2).softmax(1))


def test_soft_labels_are_zero_where_nothing_was_taught() -> None:
    groups = torch.tensor([0, 0, 0, 0, -1, -1])
    y = targets(SCORES, groups, seen(0, 1, 2, 3), "soft", 2.0)
    assert not y[:, 4:].any()
    torch.testing.assert_close(y[:, :4], (SCORES[:, :4] / 2).softmax(1))


def test_a_high_temperature_flattens_and_a_low_one_sharpens() -> None:
    hot, cold = (targets(SCORES, None, seen(0), "soft", tau) for tau in (1e4, 1e-2))
    torch.testing.assert_close(hot, torch.full_like(SCORES, 1 / 6), rtol=1e-2, atol=0)
    torch.testing.assert_close(cold, torch.nn.functional.one_hot(SCORES.argmax(1), 6).double())


@pytest.mark.parametrize("form", ["hard", "soft"])
def test_many_heads_each_answer_with_their_share(form: Any) -> None:
    groups = torch.tensor([0, 0, 1, 1, -1, -1])
    y = targets(SCORES, groups, seen(0, 1, 2, 3), form, 2.0)
    torch.testing.assert_close(y.sum(1), torch.ones(2, dtype=torch.float64))
    assert not y[:, 4:].any()
    for head in ((0, 1), (2, 3)):
        mine = SCORES[:, head]
        alone = torch.nn.functional.one_hot(mine.argmax(1), 2).double() if form == "hard" else (mine / 2).softmax(1)
        torch.testing.assert_close(y[:, head], alone / 2)


@pytest.mark.parametrize("form", ["hard", "soft"])
def test_one_row_serves_all_old_heads(form: Any) -> None:
    """The loss of one pass over all heads is the mean over the heads of each one's own loss (spec 1.4)."""
    groups = torch.tensor([0, 0, 1, 1, 2, 2])  # while a fourth task is learnt, three heads are old
    y = targets(SCORES, groups, seen(*range(6)), form, 2.0)
    pupil = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    together = loss(pupil, y, groups)
    heads = []
    for head in HEADS:
        teacher = SCORES[:, head]
        alone = teacher.argmax(1) if form == "hard" else (teacher / 2).softmax(1)
        heads.append(loss(pupil[:, head], alone, None))
    mean = sum(heads) / 3
    torch.testing.assert_close(together, mean)
    torch.testing.assert_close(*(torch.autograd.grad(value, pupil)[0] for value in (together, mean)))


def test_a_single_old_head_is_labelled_by_index() -> None:
    groups = past_groups(spec("task"), 1, "all")
    y = targets(SCORES, groups, seen(0, 1), "hard", 2.0)
    assert y.dtype == torch.int64
    assert y.tolist() == [1, 0]


def test_heads_without_a_number_in_between() -> None:
    """A class that comes back leaves its later group empty; it must not take a share."""
    groups = torch.tensor([0, 0, -1, -1, 2, 2])
    y = targets(SCORES, groups, seen(0, 1, 4, 5), "hard", 2.0)
    torch.testing.assert_close(y.sum(1), torch.ones(2, dtype=torch.float64))
    assert y[0].tolist() == [0, 0.5, 0, 0, 0.5, 0]
