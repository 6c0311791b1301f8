"""Reservoirs by the frequencies that theory gives, herding by hand and against its definition."""

from __future__ import annotations

import math
from collections import Counter
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from reverie.replay.selection import certainty, class_medians, herding, k_centre, reservoir_slots

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
