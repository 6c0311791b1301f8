"""What an adversarial autoencoder rehearses: drawn again while it is taken for something else, and labelled as what it is taken for."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from reverie.generators import lgaa_replay
from reverie.generators.lgaa_replay import ROUNDS, Drawn, rehearse
from reverie.types import UNKNOWN
from tests.tiny import TakenFor

CLASSES = torch.tensor([0, 1, 0, 1, 0, 1])


def rehearsed(model: TakenFor, **options: Any) -> Drawn:
    return rehearse(model, CLASSES, torch.zeros_like(CLASSES), torch.Generator().manual_seed(0), **options)


def test_what_is_of_another_class_than_asked_for_is_drawn_again() -> None:
    model = TakenFor([0, 1])  # first all look like class 0, then what is drawn again like class 1
    made = rehearsed(model)
    assert model.asked == [[0, 1, 0, 1, 0, 1], [1, 1, 1]]
    assert made.classes.tolist() == [0, 1, 0, 1, 0, 1]
    assert made.first.classes.tolist() == [0] * 6
    assert made.images == 9


def test_what_is_right_stays_as_it_was_drawn() -> None:
    """Also where the others are drawn again: each image is in the place of what was asked for."""
    rng = torch.Generator().manual_seed(0)
    first, second = (torch.rand(n, 1, 8, 8, generator=rng) for n in (6, 3))
    expected = first.index_copy(0, torch.tensor([1, 3, 5]), second)
    made = rehearsed(TakenFor([0, 1]))
    assert made.x.dtype == torch.uint8
    assert torch.equal(made.x, (expected * 255).round().to(torch.uint8))


def test_a_class_that_is_never_found_costs_some_rounds_and_is_then_called_what_it_is() -> None:
    model = TakenFor([0] * ROUNDS)
    made = rehearsed(model)
    assert [len(asked) for asked in model.asked] == [6] + [3] * (ROUNDS - 1)
    assert made.classes.tolist() == [0] * 6
    assert made.images == 6 + 3 * (ROUNDS - 1)


def test_what_is_of_another_domain_than_asked_for_is_drawn_again() -> None:
    model = TakenFor([lambda classes, domains: (classes, domains + 1), "right"], taught=((0, 1), (0, 1)))
    made = rehearsed(model)
    assert model.asked == [[0, 1, 0, 1, 0, 1]] * 2
    assert made.domains.tolist() == [0] * 6
    assert made.first.domains.tolist() == [1] * 6


def test_without_balance_all_stays_under_what_is_found() -> None:
    model = TakenFor([0])
    assert rehearsed(model, balance=False).classes.tolist() == [0] * 6
    assert len(model.asked) == 1


def test_the_unsure_are_drawn_again_and_in_the_end_have_no_label() -> None:
    model = TakenFor(["right"] * ROUNDS, sure=0.8)
    assert rehearsed(model, confidence=0.9).classes.tolist() == [UNKNOWN] * 6
    assert len(model.asked) == ROUNDS
    sure = TakenFor(["right"], sure=0.95)
    assert rehearsed(sure, confidence=0.9).classes.tolist() == [0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize("chunk", [1, 4])
def test_images_are_made_a_chunk_at_a_time(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lgaa_replay, "CHUNK", chunk)
    model = TakenFor(["right"] * 6)
    made = rehearsed(model)
    assert [len(asked) for asked in model.asked] == ([1] * 6 if chunk == 1 else [4, 2])
    assert made.classes.tolist() == CLASSES.tolist()
    assert made.images == 6
