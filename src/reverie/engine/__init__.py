"""The loop, evaluation and the record of a run; it imports no learner."""

from reverie.engine.evaluation import Evaluation, Evaluator
from reverie.engine.loop import (
    Cursor,
    Interrupted,
    Loop,
    Observer,
    Settings,
    Silent,
    batches,
    checkpoint_state,
    restore,
)
from reverie.engine.record import Record, environment

__all__ = [
    "Cursor",
    "Evaluation",
    "Evaluator",
    "Interrupted",
    "Loop",
    "Observer",
    "Record",
    "Settings",
    "Silent",
    "batches",
    "checkpoint_state",
    "environment",
    "restore",
]
