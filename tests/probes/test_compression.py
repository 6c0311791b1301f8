"""How much smaller a hypernetwork is than what it makes, and when that is worth a warning."""

from __future__ import annotations

from typing import Any

import pytest

from reverie.learners import PosteriorReplay, SeparatePosteriors
from reverie.nn.hypernetworks import Chunked
from reverie.posteriors import Dirac
from tests.tiny import tiny_stream, train


def findings(learner: Any) -> list[dict[str, Any]]:
    run = train(learner, tiny_stream(tasks=2))
    return [found for found in run.loop.record.findings if found["probe"] == "compression"]


@pytest.mark.parametrize("limit", [None, 1.0, 1e6])
def test_a_hypernetwork_larger_than_it_may_be_is_warned_of_once(limit: float | None) -> None:
    meta = Chunked(chunk_size=4, hidden=(40,), compression=limit)
    learner: Any = PosteriorReplay(posterior=Dirac(), kl_weight=0.0, hypernetwork=meta, steps=2)
    run = train(learner, tiny_stream(tasks=2))
    told = [message for message in run.loop.record.warnings if "compression" in message]
    hypernet = run.learner.model.hypernet
    assert hypernet.compression > 1
    assert len(told) == (1 if limit == 1.0 else 0)
    for message in told:
        assert f"{hypernet.outputs:,}" in message


def test_the_ratio_is_found_after_each_task() -> None:
    learner = SeparatePosteriors(posterior=Dirac(), kl_weight=0.0, steps=2)
    ratios = [found["numbers"]["compression"] for found in findings(learner)]
    assert ratios[1] > ratios[0] > 0  # a model more
