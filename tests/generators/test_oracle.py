"""The oracle: the past itself, drawn from uniformly."""

from __future__ import annotations

import pytest
import torch

from reverie.checks import NotReadyError
from reverie.device import CPU
from reverie.generators import Oracle
from reverie.seeding import Randomness
from reverie.streams import TensorRows
from reverie.types import Generator, StreamSpec

SPEC = StreamSpec("test", "class", (2,), (0, 1), ((0,), (1,)), ("a", "b"), ((0,), (1,)))


def built() -> Oracle:
    oracle = Oracle()
    oracle.build(SPEC, Randomness(0), CPU)
    return oracle


def rows(task: int, n: int) -> TensorRows:
    x = torch.stack([torch.full((n,), float(task)), torch.arange(float(n))], 1)
    return TensorRows(x, torch.full((n,), task), task)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_it_draws_every_row_of_every_task_alike_often_with_its_label() -> None:
    oracle = built()
    oracle.fit(rows(0, 3))
    oracle.fit(rows(1, 5))
    drawn = oracle.sample(4000, seeded())
    assert drawn.y is not None
    assert torch.equal(drawn.x[:, 0].long(), drawn.y)
    assert torch.equal(drawn.task, drawn.y)
    assert float(drawn.weight.sum()) == pytest.approx(1, abs=1e-5)
    places = (drawn.x[:, 0] * 3 + drawn.x[:, 1]).long()
    counts = torch.bincount(places, minlength=8) / 4000
    assert len(counts) == 8
    assert (counts - 1 / 8).abs().max() < 5 * (7 / 64 / 4000) ** 0.5
    assert torch.equal(drawn.x, oracle.sample(4000, seeded()).x)


def test_a_frozen_copy_does_not_see_later_rows() -> None:
    oracle = built()
    oracle.fit(rows(0, 3))
    frozen = oracle.frozen()
    oracle.fit(rows(1, 5))
    assert (len(frozen.x), len(oracle.x)) == (3, 8)
    assert not frozen.sample(50, seeded()).y.any()  # type: ignore[union-attr]


def test_it_says_what_it_keeps() -> None:
    oracle = built()
    assert isinstance(oracle, Generator)
    assert oracle.stores_real_samples
    oracle.fit(rows(0, 3))
    assert oracle.num_bytes() == 3 * (2 * 4 + 8 + 8)
    assert oracle.working_bytes() == oracle.flops(5) == 0


def test_state_comes_back() -> None:
    one, two = built(), built()
    one.fit(rows(0, 4))
    two.load(one.state())
    assert torch.equal(one.sample(9, seeded()).x, two.sample(9, seeded()).x)


def test_without_rows_it_has_nothing_to_replay() -> None:
    with pytest.raises(NotReadyError, match="the oracle has seen no rows yet, so it has nothing to replay"):
        built().sample(3, seeded())
