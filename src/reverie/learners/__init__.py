"""Learners: the methods. One file each, one line here; the command, the docs and the contract tests read this table."""

from __future__ import annotations

from typing import Any

from reverie.generators import GENERATORS
from reverie.learners.ewc import EWC
from reverie.learners.fecam import FeCAM
from reverie.learners.fetril import FeTrIL
from reverie.learners.frozen_backbone import FrozenBackbone, GenerativeLatentReplay, LatentReplay
from reverie.learners.generative_classifier import GenerativeClassifier
from reverie.learners.generative_replay import GenerativeReplay
from reverie.learners.learning_without_forgetting import LearningWithoutForgetting
from reverie.learners.lgaa import LGAA
from reverie.learners.naive import Cumulative, Joint, Naive
from reverie.learners.nearest_class_mean import NearestClassMean
from reverie.learners.posterior_replay import PosteriorReplay
from reverie.learners.ranpac import RanPAC
from reverie.learners.replay import Replay
from reverie.learners.separate_posteriors import SeparatePosteriors
from reverie.learners.si import SI
from reverie.learners.streaming_lda import StreamingLDA
from reverie.learners.vcl import VCL
from reverie.nn.hypernetworks import HYPERNETWORKS
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
        "ewc": EWC,
        "si": SI,
        "generative-replay": GenerativeReplay,
        "posterior-replay": PosteriorReplay,
        "separate-posteriors": SeparatePosteriors,
        "vcl": VCL,
        "lgaa": LGAA,
        "nearest-class-mean": NearestClassMean,
        "streaming-lda": StreamingLDA,
        "ranpac": RanPAC,
        "fecam": FeCAM,
        "fetril": FeTrIL,
        "generative-classifier": GenerativeClassifier,
        "frozen-backbone": FrozenBackbone,
        "latent-replay": LatentReplay,
        "generative-latent-replay": GenerativeLatentReplay,
    },
    aliases={"generative-replay-distilled": {"name": "generative-replay", "distill": True}},
)


def with_recommended(learner: Any, spec: StreamSpec) -> Any:
    """An unbuilt copy whose options left at None take what the stream recommends."""
    values: dict[str, Any] = dict(spec.recommended.values)
    tables = {"solver": SOLVERS, "backbone": SOLVERS, "generator": GENERATORS, "hypernetwork": HYPERNETWORKS}
    for name, table in tables.items():
        if options := getattr(spec.recommended, name):
            values[name] = from_options(table, options)
    assert isinstance(learner, Part)
    return resolved(learner, values)


__all__ = [
    "EWC",
    "LEARNERS",
    "LGAA",
    "SI",
    "VCL",
    "Cumulative",
    "FeCAM",
    "FeTrIL",
    "FrozenBackbone",
    "GenerativeClassifier",
    "GenerativeLatentReplay",
    "GenerativeReplay",
    "Joint",
    "LatentReplay",
    "LearningWithoutForgetting",
    "Naive",
    "NearestClassMean",
    "PosteriorReplay",
    "RanPAC",
    "Replay",
    "SeparatePosteriors",
    "StreamingLDA",
    "with_recommended",
]
