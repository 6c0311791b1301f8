"""What a replay buffer holds: a class without a row in it is not rehearsed."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from reverie.seeding import Randomness
from reverie.types import Finding, Stream, Task


class Labelled(Protocol):
    """Rows of which only the labels (N,) are looked at."""

    @property
    def labels(self) -> Tensor: ...


class BufferClasses:
    """For learners with a buffer.

    histogram: rows of each class that the buffer holds after a task, (outputs,); a warning names the classes taught so far that
    have none.
    """

    name = "buffer-classes"

    def __init__(self, buffer: Labelled) -> None:
        self.buffer = buffer

    def __call__(self, learner: Any, stream: Stream, task: Task, rng: Randomness) -> Finding:
        spec = stream.spec
        rows = torch.bincount(self.buffer.labels, minlength=spec.outputs)
        missing = [spec.classes[c] for c in spec.classes_until(task.index) if rows[c] == 0]
        warnings: tuple[str, ...] = ()
        if missing:
            warnings = (
                f"task {task.name!r}: the buffer holds no row of classes {missing}, so they are not rehearsed; "
                "try a larger budget, or strategy = 'class-balanced'",
            )
        return Finding(numbers={"histogram": rows.tolist()}, arrays={"histogram": rows}, warnings=warnings)
