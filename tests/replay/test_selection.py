"""Reservoirs by the frequencies that theory gives, herding by hand and against its definition."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from reverie.device import CPU
from reverie.nn.optimisers import SGD
from reverie.replay.selection import (
    certainty,
    class_medians,
    greedy_balance,
    herding,
    interference,
    k_centre,
    reservoir_slots,
    row_losses,
)
from reverie.seeding import Randomness
from reverie.solvers import MLP, Module
from reverie.types import Batch, StreamSpec
from tests.tiny import bits

REPEATS = 1500


def reservoir(seen: int, capacity: int, rng: torch.Generator) -> int | None:
    """Slot for row number ``seen`` (from 0) of a stream, or None to pass it over (Vitter 1985, algorithm R).

    Every row seen so far ends up stored with the same probability, capacity / (seen + 1).
    """
    if seen < capacity:
        return seen
    slot = int(torch.randint(seen + 1, (1,), generator=rng))
    return slot if slot < capacity else None


def one_by_one(rows: int, capacity: int, rng: torch.Generator) -> tuple[int, ...]:
    """Which row ends up in which slot, by algorithm R."""
    slots: list[int] = []
    for row in range(rows):
        slot = reservoir(row, capacity, rng)
        if slot is not None and slot == len(slots):
            slots.append(row)
        elif slot is not None:
            slots[slot] = row
    return tuple(slots)


def at_once(pieces: list[int], capacity: int, rng: torch.Generator) -> tuple[int, ...]:
    """The same, in as many calls as there are pieces."""
    slots: dict[int, int] = {}
    seen = 0
    for count in pieces:
        chosen, where = reservoir_slots(seen, count, capacity, rng)
        slots |= dict(zip(where.tolist(), (chosen + seen).tolist(), strict=True))
        seen += count
    return tuple(slots[slot] for slot in sorted(slots))


def exact(rows: int, capacity: int) -> dict[tuple[int, ...], float]:
    """The distribution of the filled slots, by going through every outcome of every draw."""
    result: dict[tuple[int, ...], float] = {tuple(range(min(rows, capacity))): 1.0}
    for row in range(capacity, rows):
        after: dict[tuple[int, ...], float] = {}
        for (slots, chance), draw in product(result.items(), range(row + 1)):
            new = slots if draw >= capacity else (*slots[:draw], row, *slots[draw + 1 :])
            after[new] = after.get(new, 0) + chance / (row + 1)
        result = after
    return result


def chi_square(counts: Counter[tuple[int, ...]], expected: dict[tuple[int, ...], float]) -> tuple[float, int]:
    assert set(counts) <= set(expected)
    total = sum(counts.values())
    return sum((counts[k] - total * p) ** 2 / (total * p) for k, p in expected.items()), len(expected) - 1


@pytest.mark.parametrize("method", ["one by one", "at once", "in pieces"])
def test_every_outcome_is_as_likely_as_algorithm_r_makes_it(method: str) -> None:
    """Five rows, two slots: all 13 outcomes, whose joint probabilities are known exactly; bound: mean + 5 deviations."""
    rng = torch.Generator().manual_seed(0)
    draw = {
        "one by one": lambda: one_by_one(5, 2, rng),
        "at once": lambda: at_once([5], 2, rng),
        "in pieces": lambda: at_once([1, 3, 1], 2, rng),
    }[method]
    statistic, freedom = chi_square(Counter(draw() for _ in range(REPEATS)), exact(5, 2))
    assert statistic < freedom + 5 * (2 * freedom) ** 0.5


def test_the_bound_catches_a_reservoir_that_favours_late_rows() -> None:
    rng = torch.Generator().manual_seed(0)

    def biased() -> tuple[int, ...]:
        slots = [0, 1]
        for row in range(2, 5):
            slots[int(torch.randint(2, (1,), generator=rng))] = row  # always taken in
        return tuple(slots)

    counts = Counter(biased() for _ in range(REPEATS))
    statistic, freedom = chi_square(counts, exact(5, 2))
    assert statistic > freedom + 5 * (2 * freedom) ** 0.5


def test_every_row_is_kept_with_the_same_chance_over_many_pieces() -> None:
    rng = torch.Generator().manual_seed(0)
    kept = torch.zeros(60)
    for _ in range(1000):
        kept[list(at_once([5, 25, 1, 29], 12, rng))] += 1
    chance, deviation = 12 / 60, (0.2 * 0.8 / 1000) ** 0.5
    assert kept.sum() == 12 * 1000
    assert (kept / 1000 - chance).abs().max() < 5 * deviation


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 20), st.integers(1, 20), st.integers(1, 12), st.integers(0, 10**6))
def test_slots_are_valid_and_named_once(first: int, count: int, capacity: int, seed: int) -> None:
    rows, slots = reservoir_slots(first, count, capacity, torch.Generator().manual_seed(seed))
    assert len(rows) == len(slots) == len(set(slots.tolist()))
    assert all(0 <= row < count for row in rows.tolist())
    assert all(0 <= slot < capacity for slot in slots.tolist())
    filling = range(first, min(first + count, capacity))  # empty slots fill up without a gap
    assert set(filling) <= set(slots.tolist())


# --------------------------------------------------------------------------------------------- herding


def distance(features: Tensor, chosen: list[int]) -> float:
    return float((features.mean(0) - features[chosen].mean(0)).norm())


def test_herding_by_hand() -> None:
    """Mean 2. First 2.5 (off by .5), then 1 (mean 1.75), 3 (mean 2.17), 0 (mean 1.625, where 3.5 would give 2.5)."""
    features = torch.tensor([[0.0], [3.5], [2.5], [1.0], [3.0]])
    assert herding(features, 5).tolist() == [2, 3, 4, 0, 1]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(1, 4), st.integers(0, 10**6))
def test_herding_follows_its_definition_and_prefixes_are_smaller_selections(n: int, width: int, seed: int) -> None:
    features = torch.randn(n, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    order = herding(features, n).tolist()
    assert sorted(order) == list(range(n))
    for k in range(n):
        best = min(distance(features, [*order[:k], i]) for i in range(n) if i not in order[:k])
        assert distance(features, order[: k + 1]) == pytest.approx(best, abs=1e-9)
        assert herding(features, k).tolist() == order[:k]


def test_herding_of_more_than_there_is_gives_all() -> None:
    assert sorted(herding(torch.rand(3, 2), 10).tolist()) == [0, 1, 2]


def test_herding_represents_the_mean_better_than_the_first_rows() -> None:
    features = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    chosen = features[herding(features, 10)].mean(0)
    assert (chosen - features.mean(0)).norm() < 0.2 * (features[:10].mean(0) - features.mean(0)).norm()


def test_certainty_orders_rows_by_hand() -> None:
    """Probabilities (0.9, 0.05, 0.05), (0.4, 0.4, 0.2), (1/3, 1/3, 1/3)."""
    rows = torch.tensor([[0.9, 0.05, 0.05], [0.4, 0.4, 0.2], [1 / 3, 1 / 3, 1 / 3]]).log()
    assert torch.allclose(certainty(rows, "confidence"), torch.tensor([0.9, 0.4, 1 / 3]))
    assert torch.allclose(certainty(rows, "margin"), torch.tensor([-0.85, 0.0, 0.0]), atol=1e-6)
    entropy = [-sum(p * math.log(p) for p in row) for row in rows.exp().tolist()]
    assert torch.allclose(certainty(rows, "entropy"), torch.tensor(entropy))
    assert certainty(rows[:, :1], "margin").tolist() == [0.0, 0.0, 0.0]  # a single class has no rival


def test_medians_of_classes() -> None:
    values, classes = torch.tensor([1.0, 5.0, 2.0, 7.0, 3.0]), torch.tensor([0, 1, 0, 1, 0])
    assert class_medians(values, classes).tolist() == [2.0, 5.0, 2.0, 5.0, 2.0]
    assert class_medians(values, None).tolist() == [3.0] * 5


# --------------------------------------------------------------------------------------------- k-centre


@given(n=st.integers(1, 25), width=st.integers(1, 3), seed=st.integers(0, 99))
def test_k_centre_is_farthest_first_and_prefixes_are_smaller_selections(n: int, width: int, seed: int) -> None:
    features = torch.rand(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    order = k_centre(features, n).tolist()
    assert sorted(order) == list(range(n))
    distances = torch.cdist(features, features)
    for k in range(1, n):
        reach = distances[:, order[:k]].min(dim=1).values
        assert float(reach[order[k]]) == pytest.approx(float(reach.max()))
        assert k_centre(features, k).tolist() == order[:k]


def test_k_centre_takes_copies_of_a_row_as_rows_of_their_own() -> None:
    assert sorted(k_centre(torch.zeros(4, 2), 3).tolist()) in ([0, 1, 2], [0, 1, 3], [0, 2, 3])


def test_k_centre_takes_rows_marked_last_only_once_the_others_are_chosen() -> None:
    features = torch.rand(12, 2, generator=torch.Generator().manual_seed(0))
    last = torch.arange(12) % 3 == 0
    first, centre = features[~last], features.mean(dim=0)
    order = k_centre(features, 12, last)
    assert sorted(order.tolist()) == list(range(12))
    assert not last[order[:8]].any()
    assert torch.equal(features[order[0]], first[(first - centre).norm(dim=1).argmin()])
    for k in range(1, 8):
        reach = torch.cdist(first, features[order[:k]]).min(dim=1).values
        assert float(torch.cdist(features[order[k]][None], features[order[:k]]).min()) == pytest.approx(
            float(reach.max())
        )
    assert k_centre(features, 2, torch.ones(12, dtype=torch.bool)).unique().numel() == 2


# --------------------------------------------------------------------------------------------- greedy balance


def gdumb(stream: list[int], capacity: int, choose: Callable[[int], int]) -> list[int]:
    """Places of a stream of classes that stay, algorithm 1 of GDumb in its own words: memory D, classes Y, counts C."""
    memory: list[int] = []
    for t, y in enumerate(stream):
        counts = Counter(stream[i] for i in memory)
        share = capacity / len(counts) if counts else capacity
        if y not in counts or counts[y] < share:
            if len(memory) >= capacity:
                classes = list(dict.fromkeys(stream[i] for i in sorted(memory)))
                largest = max(classes, key=lambda c: counts[c])
                mine = [i for i in memory if stream[i] == largest]
                memory.remove(mine[choose(len(mine))])
            memory.append(t)
    return sorted(memory)


def sizes(stream: list[int], kept: list[int]) -> dict[int, int]:
    return dict(Counter(stream[i] for i in kept))


@settings(max_examples=60, deadline=None)
@given(
    stream=st.lists(st.integers(0, 4), min_size=1, max_size=60), capacity=st.integers(5, 20), seed=st.integers(0, 99)
)
def test_greedy_balance_keeps_as_many_of_each_class_as_gdumb(stream: list[int], capacity: int, seed: int) -> None:
    """Which row of the largest class goes is drawn; of several largest one is taken, so that sizes are compared sorted."""
    rng = torch.Generator().manual_seed(seed)
    held, taken = greedy_balance([], stream, capacity, rng)
    assert len(held) == 0
    assert len(taken.unique()) == len(taken) <= capacity
    expected = gdumb(stream, capacity, lambda n: 0)
    assert sorted(sizes(stream, taken.tolist()).values()) == sorted(sizes(stream, expected).values())


def test_greedy_balance_in_pieces_goes_on_from_what_is_held() -> None:
    rng = torch.Generator().manual_seed(0)
    _, taken = greedy_balance([], [7] * 30, 12, rng)
    assert len(taken) == 12  # alone, a class fills all
    held, taken = greedy_balance([7] * 12, [8] * 30, 12, rng)
    assert (len(held), len(taken)) == (6, 6)
    held, taken = greedy_balance([7] * 6 + [8] * 6, [9, 9, 9], 12, rng)
    assert (len(held), len(taken)) == (9, 3)  # fewer than its share: the others keep the room
    held, taken = greedy_balance([7] * 6 + [8] * 6, [7, 8, 7], 12, rng)
    assert (held.tolist(), len(taken)) == (list(range(12)), 0)  # at their share, the rows that came first stay


def test_greedy_balance_with_less_room_than_before_shrinks_the_largest() -> None:
    held, taken = greedy_balance([0] * 9 + [1] * 3, [2] * 5, 8, torch.Generator().manual_seed(0))
    assert Counter((held >= 9).tolist()) == {False: 2, True: 3}  # 5 and 3 fit; then the new class takes 3 of the larger
    assert taken.tolist() == [0, 1, 2]


def test_every_row_of_the_largest_class_gives_way_alike_often() -> None:
    rng, kept = torch.Generator().manual_seed(0), torch.zeros(10)
    for _ in range(REPEATS):
        held, _ = greedy_balance([0] * 10, [1] * 9, 10, rng)
        kept[held] += 1
    assert (kept / REPEATS - 0.5).abs().max() < 5 * (0.25 / REPEATS) ** 0.5


# --------------------------------------------------------------------------------------------- interference


SPEC = StreamSpec("test", "class", (6,), (0, 1, 2, 3), ((0, 1), (2, 3)), ("a", "b"), ((0, 1), (2, 3)), (0.0, 1.0))


class Noisy(nn.Module):
    """Batch statistics, dropout, and a weight that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.ReLU())
        self.fixed = nn.Parameter(torch.ones(8), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) * self.fixed


def solver_of(kind: str) -> Any:
    made = MLP(hidden=(5,)) if kind == "mlp" else Module(lambda shape: Noisy(), optimiser=SGD(learning_rate=0.3))
    made.build(SPEC, Randomness(0), CPU)
    return made


def labelled(n: int, seed: int, **fields: Any) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    x, y = torch.rand(n, 6, generator=rng), torch.randint(4, (n,), generator=rng)
    return replace(Batch(x, y, torch.zeros(n).long(), torch.full((n,), 1 / n)), **fields)


def growth_one_by_one(rows: Batch, current: Batch, solver: Any, rate: float) -> list[float]:
    """Slowly: a real optimiser on a real copy, then each row alone."""
    after = copy.deepcopy(solver.module).train()
    optimiser = torch.optim.SGD([weight for weight in after.parameters() if weight.requires_grad], lr=rate)
    functional.cross_entropy(after(current.x), current.y).backward()  # type: ignore[arg-type]
    optimiser.step()

    def loss(module: Any, i: int) -> float:
        temperature = 1.0 if rows.temperature is None else float(rows.temperature[i])
        with torch.no_grad():
            scores = module.eval()(rows.x[i : i + 1]) / temperature
        assert rows.y is not None
        return float(functional.cross_entropy(scores, rows.y[i : i + 1]))

    before = copy.deepcopy(solver.module)
    return [loss(after, i) - loss(before, i) for i in range(len(rows))]


@pytest.mark.parametrize("kind", ["mlp", "noisy"])
@pytest.mark.parametrize("soft", [False, True])
def test_interference_is_what_a_real_step_does_to_each_row(kind: str, soft: bool) -> None:
    solver, current, rows = solver_of(kind), labelled(16, 0), labelled(30, 1)
    if soft:
        scores = torch.randn(30, 4, generator=torch.Generator().manual_seed(2))
        rows = replace(rows, y=scores.softmax(dim=1), temperature=torch.full((30,), 2.0))
    solver.step(labelled(16, 3))
    before = bits(solver.state())
    torch.manual_seed(5)
    expected = growth_one_by_one(rows, current, solver, 0.3)
    torch.manual_seed(5)  # the same dropout
    found = interference(rows, current, solver, 0.3)
    torch.testing.assert_close(found, torch.tensor(expected), atol=2e-6, rtol=1e-4)
    assert found.std() > 1e-3
    assert not found.requires_grad
    # The live solver is as it was: weights, batch statistics, moments.
    assert bits(solver.state()) == before


def test_interference_is_highest_where_the_step_does_most_harm_and_zero_without_one() -> None:
    """Rows like the current ones under another label against the same rows under their own."""
    solver, current = solver_of("mlp"), labelled(16, 0)
    assert current.y is not None
    harmed, helped = (
        interference(replace(current, y=y), current, solver, 0.3) for y in ((current.y + 1) % 4, current.y)
    )
    assert harmed.mean() > 0 > helped.mean()
    assert not interference(current, current, solver, 0.0).any()


def test_interference_is_within_the_softmax_groups_of_the_current_rows() -> None:
    solver, rows = solver_of("mlp"), labelled(10, 1, y=torch.arange(10) % 2)
    current = labelled(8, 0, y=torch.arange(8) % 2 + 2, groups=torch.tensor([0, 0, 1, 1]))
    found = interference(rows, current, solver, 0.3)
    twin = copy.deepcopy(solver.module)
    functional.cross_entropy(twin(current.x)[:, 2:], current.y - 2).backward()  # type: ignore[operator]
    with torch.no_grad():
        expected = -functional.cross_entropy(twin(rows.x)[:, :2], rows.y, reduction="none")  # type: ignore[arg-type]
        for weight in twin.parameters():
            weight -= 0.3 * weight.grad
        expected += functional.cross_entropy(twin(rows.x)[:, :2], rows.y, reduction="none")  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-4)


def test_losses_of_rows_are_theirs_whatever_they_weigh() -> None:
    solver, rows = solver_of("mlp"), labelled(9, 0)
    uneven = replace(rows, weight=torch.arange(9.0) / 36)
    expected = functional.cross_entropy(solver.scores(rows.x), rows.y, reduction="none").detach()  # type: ignore[arg-type]
    torch.testing.assert_close(row_losses(solver, rows), expected)
    torch.testing.assert_close(row_losses(solver, uneven), expected)
