"""Time a step of posterior replay: against the number of earlier tasks, against weight samples, and against its own matrix products.

The shapes are those of the presets for Split MNIST with the small network, 784-100-100-10; inputs are random: the time does not depend on them.
What a table compares is timed in turns in one run, so that its ratios hold on a machine whose speed drifts.

    python -m benchmarks.posteriors [tasks|samples|products ...] [--steps 20] [--threads 1] [--json] [--page docs/results.md]
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.step import ROUNDS, product_seconds
from reverie.device import CPU
from reverie.engine.record import peak_memory_bytes, processor
from reverie.experiments.presets import PRESETS
from reverie.experiments.tables import write_section
from reverie.learners import LEARNERS
from reverie.options import from_options, merged
from reverie.seeding import Position, Randomness
from reverie.streams import Stream
from reverie.types import Scenario

DIRAC, GAUSSIAN = "pr-dirac-split-mnist-small", "pr-bbb-split-mnist-small"
PIXELS, TASKS, ROWS = 784, 5, 200
OLD_TASKS = (0, 1, 4, 9, 19)
SAMPLES = (1, 2, 5, 10, 20)
REHEARSED: Mapping[str, Mapping[str, Any]] = {
    "all, stored": {},
    "all, recomputed": {"targets": "recomputed"},
    "one a step, stored": {"old_tasks": 1},
    "one a step, recomputed": {"old_tasks": 1, "targets": "recomputed"},
}


class Stepper:
    """A preset's learner in the task after so many others, none of them trained, and a batch that it steps on again and again."""

    def __init__(self, preset: str, old_tasks: int, scenario: Scenario = "class", **changes: Any) -> None:
        """scenario: "class", two classes a task; "domain", ten classes and so one size of network, however many tasks there are."""
        rng = torch.Generator().manual_seed(0)
        classes = 2 if scenario == "class" else 10
        tasks = []
        for task in range(old_tasks + 1):
            x = torch.rand(ROWS, PIXELS, generator=rng)
            y = torch.randint(classes, (ROWS,), generator=rng) + (classes * task if scenario == "class" else 0)
            tasks.append((x, y, x[:1], y[:1]))
        stream = Stream.from_arrays(tasks, scenario)
        options = merged(dict(PRESETS[preset].options["learner"]), changes)
        self.learner: Any = from_options(LEARNERS, options)
        self.rng = Randomness(0)
        self.learner.build(stream.spec, self.rng, CPU)
        for task in stream:
            self.rng.position = Position(task.index)
            self.learner.begin_task(task)
            self.phase = self.learner.phase("train")
            if task.index < old_tasks:
                self.learner.end_task(task)
        rows = self.learner.rows(self.phase, stream[old_tasks])
        self.batch = rows.take(torch.arange(self.phase.batch_size))
        self.taken = 0
        self.run(2)

    def run(self, steps: int) -> float:
        """Milliseconds a step."""
        began = time.perf_counter()
        for _ in range(steps):
            self.taken += 1
            self.rng.position = replace(self.rng.position, step=self.taken)
            self.learner.step(self.phase, self.batch)
        return 1000 * (time.perf_counter() - began) / steps

    def megabytes(self) -> float:
        """MiB that the learner holds while it learns this task."""
        memory = self.learner.memory()
        return float(sum([*memory.persistent.values(), *memory.working.values()])) / 2**20
