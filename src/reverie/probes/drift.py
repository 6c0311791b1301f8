"""How far what is known of earlier tasks has moved."""

from __future__ import annotations

from typing import Any

import torch

from reverie.seeding import Randomness
from reverie.types import Finding, Stream, Task


class Drift:
    """For learners with ``measure_drift``.

    drift: for each task so far the Euclidean distance of the numbers of its posterior from what they were right after it was learnt (Henning
    et al. 2021, arXiv 2103.01133); numbers that have joined since, for classes of later tasks, do not count.
    """

    name = "drift"

    def __call__(self, learner: Any, stream: Stream, task: Task, rng: Randomness) -> Finding:
        made = learner.model.hypernet(range(len(learner.learnt)))
        moved = [
            float(torch.linalg.vector_norm(now[:, : before.shape[1]] - before))
            for now, before in zip(made, learner.learnt, strict=True)
        ]
        return Finding({"drift": moved})
