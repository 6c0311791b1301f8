"""Phases and batches: any step can be reached directly, and an epoch shows every row once."""

from __future__ import annotations

import pytest
import torch

from reverie.engine import batches
from reverie.seeding import Randomness
from reverie.streams import TensorRows
from reverie.types import Batch, Phase

PHASES = [
    Phase("train", 4, steps=11),
    Phase("train", 4, steps=11, drop_last=False),
    Phase("train", 5, epochs=3),
    Phase("train", 5, epochs=3, drop_last=False),
    Phase("train", 64, epochs=2),
    Phase("train", 64, steps=5, drop_last=False),
    Phase("train", 1, epochs=1),
]


def rows(n: int) -> TensorRows:
    return TensorRows(torch.arange(n, dtype=torch.float32)[:, None], torch.zeros(n, dtype=torch.int64))


def drawn(
    phase: Phase, n: int, start: int = 0, task: int = 1, number: int = 0, seed: int = 3
) -> list[tuple[int, Batch]]:
    return list(batches(rows(n), phase, Randomness(seed), task, number, start))


def values(found: list[tuple[int, Batch]]) -> list[tuple[int, list[float]]]:
    return [(step, batch.x.flatten().tolist()) for step, batch in found]


@pytest.mark.parametrize("phase", PHASES, ids=str)
@pytest.mark.parametrize("n", [1, 4, 13, 20])
def test_random_access_is_sequential_access(phase: Phase, n: int) -> None:
    whole = values(drawn(phase, n))
    assert [step for step, _ in whole] == list(range(phase.length(n)))
    for start in range(len(whole) + 1):
        assert values(drawn(phase, n, start)) == whole[start:]


@pytest.mark.parametrize("n", [1, 4, 13, 20])
def test_every_row_once_an_epoch(n: int) -> None:
    phase = Phase("train", 4, epochs=3, drop_last=False)
    per_epoch = phase.steps_per_epoch(n)
    found = values(drawn(phase, n))
    epochs = [[x for _, batch in found[k : k + per_epoch] for x in batch] for k in range(0, len(found), per_epoch)]
    assert len(epochs) == 3
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
    assert n < 4 or epochs[0] != epochs[1]  # shuffled anew


def test_drop_last_leaves_out_the_rest_and_nothing_else() -> None:
    found = values(drawn(Phase("train", 4, epochs=1), 13))
    assert [len(batch) for _, batch in found] == [4, 4, 4]
    assert len({x for _, batch in found for x in batch}) == 12


@pytest.mark.parametrize("drop_last", [True, False])
def test_fewer_rows_than_a_batch_are_one_batch(drop_last: bool) -> None:
    found = drawn(Phase("train", 64, steps=3, drop_last=drop_last), 5)
    assert [sorted(x) for _, x in values(found)] == [[0, 1, 2, 3, 4]] * 3
    assert all(torch.equal(batch.weight, torch.full((5,), 0.2)) for _, batch in found)


def test_another_seed_task_or_phase_is_another_order() -> None:
    phase = Phase("train", 20, steps=1)
    orders = [
        values(drawn(phase, 20, **where))[0][1]
        for where in ({}, {"seed": 4}, {"task": 2}, {"number": 1}, {"seed": 4, "task": 2})
    ]
    assert len({tuple(order) for order in orders}) == len(orders)
