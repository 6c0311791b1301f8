"""How far posteriors of earlier tasks move."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from reverie.learners import PosteriorReplay, SeparatePosteriors
from reverie.nn.hypernetworks import Full, Single
from reverie.posteriors import Dirac
from tests.tiny import Halt, halt_after, make_loop, tiny_stream, train


def drifts(learner: Any) -> list[list[float]]:
    run = train(learner, tiny_stream(tasks=3))
    return [found["numbers"]["drift"] for found in run.loop.record.findings if found["probe"] == "drift"]


def points(**options: Any) -> Any:
    return PosteriorReplay(posterior=Dirac(), kl_weight=0.0, steps=5, measure_drift=True, **options)


def test_a_posterior_has_not_moved_right_after_its_task_and_one_of_all_tasks_moves_with_each() -> None:
    first, second, third = drifts(points(hypernetwork=Single(), strength=0.0))
    assert first == [0.0]
    assert second[0] > second[1] == 0.0
    assert third[0] > third[1] > third[2] == 0.0


def test_separate_posteriors_do_not_move_and_rehearsed_ones_move_less() -> None:
    separate = SeparatePosteriors(posterior=Dirac(), kl_weight=0.0, steps=5, measure_drift=True)
    assert drifts(separate)[-1] == [0.0, 0.0, 0.0]
    held, free = (drifts(points(hypernetwork=Full(init="xavier"), strength=beta))[-1] for beta in (1e4, 0.0))
    assert 0 < held[0] < free[0]


def test_what_it_compares_with_is_saved(tmp_path: Any) -> None:
    whole = train(points(), tiny_stream(tasks=3))
    folder = tmp_path / "run"
    loop = make_loop(points(), tiny_stream(tasks=3), folder=folder, prepare=halt_after(12))
    with contextlib.suppress(Halt):
        loop.run()
    again = make_loop(points(), tiny_stream(tasks=3), folder=folder)
    again.run()
    assert len(again.learner.learnt) == 3
    for mine, other in zip(again.learner.learnt, whole.learner.learnt, strict=True):
        assert torch.equal(mine, other)
