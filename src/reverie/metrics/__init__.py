"""Metrics: pure functions of saved records."""

from reverie.metrics.accuracy import (
    as_matrix,
    average_accuracy,
    average_incremental_accuracy,
    backward_transfer,
    forgetting,
    forward_transfer,
    learning_accuracy,
    summary,
)

__all__ = [
    "as_matrix",
    "average_accuracy",
    "average_incremental_accuracy",
    "backward_transfer",
    "forgetting",
    "forward_transfer",
    "learning_accuracy",
    "summary",
]
