"""Learners: the methods. One file each, one line here; the command, the docs and the contract tests read this table."""

from __future__ import annotations

from typing import Any

from reverie.generators import GENERATORS
from reverie.learners.generative_replay import GenerativeReplay
from reverie.learners.learning_without_forgetting import LearningWithoutForgetting
from reverie.learners.naive import Cumulative, Joint, Naive
from reverie.learners.replay import Replay
from reverie.options import Part, Table, from_options, resolved
from reverie.solvers import SOLVERS
from reverie.types import Learner, StreamSpec

LEARNERS = Table(
    "learner",
    Learner,
    {
        "naive": Naive,
        "joint": Joint,
        "cumulative": Cumulative,
        "replay": Replay,
        "learning-without-forgetting": LearningWithoutForgetting,
        "generative-replay": GenerativeReplay,
    },
    aliases={"generative-replay-distilled": {"name": "generative-replay", "distill": True}},
)


def with_recommended(learner: Any, spec: StreamSpec) -> Any:
    """An unbuilt copy whose options left at None take what the stream recommends."""
    values: dict[str, Any] = dict(spec.recommended.values)
    if spec.recommended.solver:
        values["solver"] = from_options(SOLVERS, spec.recommended.solver)
    if spec.recommended.generator:
        values["generator"] = from_options(GENERATORS, spec.recommended.generator)
    if getattr(learner, "epochs", None) is not None:
        values.pop("steps", None)
    assert isinstance(learner, Part)
    return resolved(learner, values)


__all__ = [
    "LEARNERS",
    "Cumulative",
    "GenerativeReplay",
    "Joint",
    "LearningWithoutForgetting",
    "Naive",
    "Replay",
    "with_recommended",
]
