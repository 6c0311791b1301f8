"""Weights of new and old, and the merged batch: its gradient is that of the two-term loss."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from reverie.checks import OptionsError
from reverie.device import CPU
from reverie.generators import VAE
from reverie.replay import importance, mix, replay_rows
from reverie.replay.mixing import check_replay_rows
from reverie.seeding import Randomness
from reverie.solvers import MLP
from reverie.solvers.outputs import cross_entropy
from reverie.types import Batch, StreamSpec

OUTPUTS = 4
SPEC = StreamSpec("test", "class", (6,), (0, 1, 2, 3), ((0, 1), (2, 3)), ("a", "b"), ((0, 1), (2, 3)), (0.0, 1.0))


def batch(n: int, seed: int, soft: bool = False, temperature: float | None = None) -> Batch:
    """Float64 rows of unequal weight."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 6, dtype=torch.float64, generator=generator)
    y = torch.randint(OUTPUTS, (n,), generator=generator)
    scores = torch.rand(n, OUTPUTS, dtype=torch.float64, generator=generator).softmax(1)
    weight = torch.rand(n, dtype=torch.float64, generator=generator)
    t = None if temperature is None else torch.full((n,), temperature, dtype=torch.float64)
    return Batch(x, scores if soft else y, torch.full((n,), seed), weight / weight.sum(), temperature=t)


def relative_difference(left: list[Tensor], right: list[Tensor]) -> float:
    a, b = (torch.cat([tensor.flatten() for tensor in tensors]) for tensors in (left, right))
    return float((a - b).norm() / b.norm())


def gradients(loss: Tensor, module: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(module.parameters())))


@pytest.mark.parametrize("r", [1 / 2, 1 / 7, 0.9])
@pytest.mark.parametrize(
    "past",
    [batch(5, 1), batch(9, 1, soft=True), batch(3, 1, soft=True, temperature=2.0), batch(3, 1, temperature=3.0)],
    ids=["hard", "soft", "distilled", "hard with temperature"],
)
@pytest.mark.parametrize("groups", [None, torch.tensor([0, 0, 1, 1])], ids=["one softmax", "a softmax a task"])
def test_solver_gradient_of_the_merged_batch_is_that_of_the_two_terms(
    r: float, past: Batch, groups: Tensor | None
) -> None:
    solver = MLP(hidden=(5, 5))
    solver.build(SPEC, Randomness(0), CPU)
    module = solver.network.module.double()
    new, past = replace(batch(4, 0), groups=groups), replace(past, groups=groups)
    both = mix(new, past, r, OUTPUTS)
    merged = cross_entropy(module(both.x), both)
    two_terms = r * cross_entropy(module(new.x), new) + (1 - r) * cross_entropy(module(past.x), past)
    torch.testing.assert_close(merged, two_terms, rtol=1e-12, atol=0)
    assert relative_difference(gradients(merged, module), gradients(two_terms, module)) < 1e-12


@pytest.mark.parametrize("r", [1 / 2, 1 / 7])
@pytest.mark.parametrize(
    "options", [{}, {"likelihood": "gaussian", "reduction": "sum"}, {"conditional": True}], ids=str
)
def test_generator_gradient_of_the_merged_batch_is_that_of_the_two_terms(
    monkeypatch: pytest.MonkeyPatch, r: float, options: dict[str, Any]
) -> None:
    vae = VAE(hidden=(5,), latent_dim=3, **options)
    vae.build(SPEC, Randomness(0), CPU)
    module = vae.network.module.double()
    new, past = batch(4, 0), batch(6, 1)
    noise = torch.randn(10, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    parts: Iterator[Tensor] = iter((noise, noise[:4], noise[4:]))
    monkeypatch.setattr(torch, "randn", lambda *_, **__: next(parts))  # the same noise for the same row
    monkeypatch.setattr(Tensor, "float", Tensor.double)  # losses are reduced in float32 otherwise
    merged, of_new, of_past = (sum(vae.loss(rows).values()) for rows in (mix(new, past, r, OUTPUTS), new, past))
    two_terms = r * of_new + (1 - r) * of_past
    torch.testing.assert_close(merged, two_terms, rtol=1e-12, atol=0)
    assert relative_difference(gradients(merged, module), gradients(two_terms, module)) < 1e-12


def test_the_merged_batch_holds_every_row_in_order() -> None:
    new, past = batch(4, 0), batch(3, 1)
    both = mix(new, past, 0.25, OUTPUTS)
    assert torch.equal(both.x, torch.cat([new.x, past.x]))
    assert torch.equal(both.y, torch.cat([new.y, past.y]))
    assert both.task.tolist() == [0] * 4 + [1] * 3
    assert float(both.weight[:4].sum()) == pytest.approx(0.25)
    assert float(both.weight.sum()) == pytest.approx(1)
    assert both.temperature is None


def test_the_share_of_the_new_rows_does_not_depend_on_how_many_there_are() -> None:
    for n in (1, 5, 50):
        weight = mix(batch(4, 0), batch(n, 1), 0.2, OUTPUTS).weight
        assert float(weight[:4].sum()) == pytest.approx(0.2)


def test_hard_labels_become_one_hot_beside_soft_ones() -> None:
    both = mix(batch(2, 0), batch(3, 1, soft=True, temperature=2.0), 0.5, OUTPUTS)
    assert both.y is not None
    assert torch.equal(both.y[:2].argmax(1), batch(2, 0).y)
    assert torch.equal(both.y[:2].sum(1), torch.ones(2, dtype=torch.float64))
    assert both.temperature is not None
    assert both.temperature.tolist() == [1, 1, 2, 2, 2]


def test_unlabelled_rows_make_an_unlabelled_batch() -> None:
    assert mix(batch(2, 0), replace(batch(2, 1), y=None), 0.5, OUTPUTS).y is None


def test_levels_do_not_mix() -> None:
    with pytest.raises(ValueError, match="cannot mix rows at level 'input' with rows at level 'latent'"):
        mix(batch(2, 0), replace(batch(2, 1), level="latent"), 0.5, OUTPUTS)


# ------------------------------------------------------------------------------------ importance, sizes


@pytest.mark.parametrize("rule", ["by-task", "by-count", 0.3])
def test_the_first_task_is_all_there_is(rule: Any) -> None:
    assert importance(rule, 0, 100, 0) == 1.0


@pytest.mark.parametrize(
    ("rule", "r"), [("by-task", 1 / 4), ("by-count", 100 / 400), (0.3, 0.3), (1.0, 1.0), ("by-count", 0.25)]
)
def test_importance_of_the_fourth_task(rule: Any, r: float) -> None:
    assert importance(rule, 3, 100, 300) == r


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 1000), min_size=1, max_size=8))
def test_by_count_gives_every_row_and_by_task_every_task_the_same_weight(sizes: list[int]) -> None:
    """Unrolled over the tasks: the weight of task j in the end is r_j * prod of (1 - r) of the later ones."""
    for rule in ("by-count", "by-task"):
        rs = [importance(rule, t, size, sum(sizes[:t])) for t, size in enumerate(sizes)]  # type: ignore[arg-type]
        for j, size in enumerate(sizes):
            share = rs[j]
            for later in rs[j + 1 :]:
                share *= 1 - later
            expected = size / sum(sizes) if rule == "by-count" else 1 / len(sizes)
            assert share == pytest.approx(expected)


@pytest.mark.parametrize(
    ("rule", "rows"),
    [(None, [32, 32, 32, 32]), (5, [5, 5, 5, 5]), ("linear", [32, 64, 96, 128]), ("doubling", [32, 64, 128, 256])],
)
def test_replayed_rows_a_step(rule: Any, rows: list[int]) -> None:
    assert [replay_rows(rule, 32, past) for past in (1, 2, 3, 4)] == rows


def test_doubling_without_end_is_refused_at_the_door() -> None:
    check_replay_rows("doubling", 128, 10)
    with pytest.raises(OptionsError, match=r"replay_size = 'doubling': 33,554,432 rows a step in task 20"):
        check_replay_rows("doubling", 128, 20)
    check_replay_rows("linear", 128, 100)
    check_replay_rows(None, 128, 1)
