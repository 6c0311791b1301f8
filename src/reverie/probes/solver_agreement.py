"""Whether the solver still answers as the frozen one on what it rehearsed: the current inputs (learning without forgetting)."""

from __future__ import annotations

from typing import Any

import torch

from reverie.probes.replay_quality import ROWS, answers, drift_warning, old_heads
from reverie.seeding import Randomness
from reverie.types import Finding, Stream, Task


class SolverAgreement:
    """For learners that keep the former solver as ``past``.

    solver_agreement: share of the current task's training rows on which the old outputs of both solvers have the same
    highest class; a warning below ``threshold``.
    """

    name = "solver-agreement"

    def __init__(self, threshold: float = 0.8) -> None:
        self.threshold = threshold

    def __call__(self, learner: Any, stream: Stream, task: Task, rng: Randomness) -> Finding:
        if learner.past is None:
            return Finding()
        index = torch.randperm(len(task.train), generator=rng("rows"), device=rng.device)[:ROWS]
        x = task.train.to(rng.device).take(index).x
        heads = old_heads(learner, stream.spec, task.index)
        frozen, live = (answers(solver.scores(x), heads) for solver in (learner.past, learner.network))
        agreement = float((frozen == live).float().mean())
        return Finding(
            numbers={"solver_agreement": agreement},
            warnings=drift_warning(task, agreement, self.threshold, "current rows"),
        )
