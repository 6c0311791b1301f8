"""The generator of the published code: what its components are, and what its buffer holds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from reverie.checks import DataError, NotReadyError
from reverie.device import CPU
from reverie.generators.class_mixture import ClassMixture
from reverie.seeding import Randomness
from reverie.streams import TensorRows
from reverie.types import Generator, StreamSpec

SPEC = StreamSpec("test", "class", (2,), (0, 1, 2, 3), ((0, 1), (2, 3)), ("a", "b"), ((0, 1), (2, 3)))
CENTRES = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0], [9.0, 9.0]])


def built(samples: int = 300) -> ClassMixture:
    generator = ClassMixture(samples=samples)
    generator.build(SPEC, Randomness(3), CPU)
    return generator


def rows(task: int, n: int = 400) -> TensorRows:
    """Two classes, the second twice as wide as the first."""
    y = torch.arange(n) % 2 + 2 * task
    noise = torch.randn(n, 2, generator=torch.Generator().manual_seed(task))
    return TensorRows(CENTRES[y] + noise * (0.5 + 0.5 * (y % 2))[:, None], y, task)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.mean(dim=0), x.std(dim=0)


def test_components_are_the_classes_and_rows_have_their_moments() -> None:
    generator = built(samples=400)
    generator.fit(rows(0))
    assert isinstance(generator, Generator)
    drawn = generator.sample(4000, seeded())
    assert drawn.y is not None
    for c in (0, 1):
        mean, spread = moments(drawn.x[drawn.y == c])
        width = 0.5 + 0.5 * c
        assert (mean - CENTRES[c]).abs().max() < 0.3
        assert (spread - width).abs().max() < 0.2 * width
    assert float(drawn.weight.sum()) == pytest.approx(1, abs=1e-5)


def test_later_tasks_take_random_places_of_the_buffer_and_nothing_is_drawn_twice() -> None:
    generator = built(samples=300)
    generator.fit(rows(0))
    first = generator.x
    generator.fit(rows(1))
    assert torch.bincount(generator.task).tolist() == [150, 150]
    assert set(generator.y[generator.task == 1].tolist()) == {2, 3}
    kept = generator.task == 0
    assert torch.equal(generator.x[kept], first[kept])
    pool = {tuple(row) for row in generator.x.tolist()}
    assert {tuple(row) for row in generator.sample(500, seeded()).x.tolist()} <= pool


def test_a_task_gives_no_more_rows_than_it_has() -> None:
    generator = built(samples=300)
    generator.fit(rows(0, n=100))
    assert len(generator.y) == 100
    generator.fit(rows(1, n=40))
    assert torch.bincount(generator.task).tolist() == [60, 40]


def test_expectation_maximisation_is_not_told_the_classes() -> None:
    """A class in two places: its component leaves the place that it shares with the other class."""
    place = (torch.arange(600) % 2 * 6.0)[:, None]
    y = torch.where(place[:, 0] > 0, 1, (torch.arange(600) % 10 < 4).long())
    generator = built()
    generator.fit(TensorRows(place + torch.randn(600, 2, generator=seeded(1)), y, 0))
    drawn = generator.sample(2000, seeded())
    assert drawn.y is not None
    assert float(place[y == 1].mean()) < 4.5
    assert abs(float(drawn.x[drawn.y == 1].mean()) - 6) < 0.3
    assert abs(float(drawn.x[drawn.y == 0].mean())) < 0.3


def test_a_frozen_copy_does_not_see_later_tasks_and_state_comes_back() -> None:
    generator = built()
    generator.fit(rows(0))
    frozen, before = generator.frozen(), generator.sample(50, seeded()).x
    generator.fit(rows(1))
    assert torch.equal(frozen.sample(50, seeded()).x, before)
    again = built()
    again.load(generator.state())
    assert torch.equal(again.sample(50, seeded()).x, generator.sample(50, seeded()).x)
    again.fit(rows(0))
    generator.fit(rows(0))
    assert torch.equal(again.x, generator.x)


def test_bytes_are_those_of_the_buffer_and_of_all_mixtures() -> None:
    generator = built()
    generator.fit(rows(0))
    generator.fit(rows(1))
    assert generator.num_bytes() == 300 * (2 * 4 + 8 + 8) + 2 * 4 * (2 + 2 * 2 + 2 * 2)
    assert not generator.stores_real_samples


def test_what_cannot_be_fitted_or_sampled_is_named() -> None:
    with pytest.raises(NotReadyError, match="no mixture was fitted yet"):
        built().sample(3, seeded())
    with pytest.raises(DataError, match="NaN or infinite"):
        built().fit(TensorRows(torch.full((4, 2), torch.inf), torch.arange(4) % 2, 0))
