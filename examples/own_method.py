"""Your own method: one class, one line that names it, compared with naive. Run: python examples/own_method.py

Soft replay: a buffer of real rows whose targets are a mean of the stored label and of what the solver before this task
answers (in the spirit of dark experience replay, Buzzega et al. 2020, arXiv 2004.07211).
"""

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch.nn import functional

import reverie
from reverie.learners import LEARNERS
from reverie.learners.base import SolverLearner, prefixed
from reverie.replay import Buffer, importance, mix


@dataclass(eq=False, repr=False)
class SoftReplay(SolverLearner):
    """Solver + buffer; stored rows are labelled trust * old solver's answer + (1 - trust) * stored label."""

    # The fields are the options: checked here, shown by `reverie list`, read from YAML and from the command line.
    buffer: Annotated[Buffer, Field(description="what is kept of past tasks")] = field(
        default_factory=lambda: Buffer(budget=10)
    )
    trust: Annotated[float, Field(ge=0, le=1, description="share of the old solver's answer in the label")] = 0.5

    def build(self, spec, rng, device):
        super().build(spec, rng, device)
        self.buffer.build(spec, rng)
        self.past = None

    def extend(self, spec):
        super().extend(spec)
        self.buffer.extend(spec)

    def begin_task(self, task):
        self.past = self.network.frozen() if task.index > 0 else None
        super().begin_task(task)

    def step(self, phase, batch):
        if self.past is not None:
            stored = self.buffer.sample(len(batch))
            with torch.no_grad():
                old = self.past.scores(stored.x).softmax(dim=1)
            label = functional.one_hot(stored.y, self.spec.outputs).float()
            stored = replace(stored, y=self.trust * old + (1 - self.trust) * label)
            r = importance("by-task", self.task, self.rows_now, self.rows_before)  # 1/t
            batch = mix(batch, stored, r, self.spec.outputs)
        return prefixed("solver", self.network.step(replace(batch, groups=self.groups)))

    def end_task(self, task):
        self.buffer.add_task(task.train, task.index, self.network)

    # What a crash must not lose ...
    def state(self):
        past = None if self.past is None else self.past.state()
        return {**super().state(), "buffer": self.buffer.state(), "past": past}

    def load(self, state):
        super().load(state)
        self.buffer.load(state["buffer"])
        self.past = None
        if state["past"] is not None:
            self.past = self.network.frozen()
            self.past.load(state["past"])

    # ... and what the comparison must not hide.
    def memory(self):
        base = super().memory()
        return replace(base, persistent={**base.persistent, "buffer": self.buffer.num_bytes()}, stores="raw")


LEARNERS.add("soft-replay", SoftReplay)

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for learner in ("naive", "soft-replay"):
            options = {"name": learner, "steps": 200}
            run = reverie.run("split-digits", options, seed=0, out=Path(folder) / learner, threads=1)
            kept = run.result["memory"]["persistent_bytes"]
            print(f"{learner:12} average accuracy {run.summary['average_accuracy']:.1%}, kept {kept:,} bytes")
