"""How much smaller a hypernetwork is than what it makes."""

from __future__ import annotations

from typing import Any

from reverie.seeding import Randomness
from reverie.types import Finding, Stream, Task


class Compression:
    """For learners with a hypernetwork, after the first task.

    compression: numbers it is made of for each that it makes; a warning says where that is more than its option ``compression`` allows, which a
    learner that is not behind another one has said before.
    """

    name = "compression"

    def __call__(self, learner: Any, stream: Stream, task: Task, rng: Randomness) -> Finding:
        hypernet = learner.model.hypernet
        warning = hypernet.compression_warning() if task.index == 0 else None
        return Finding({"compression": hypernet.compression}, warnings=(warning,) if warning else ())
