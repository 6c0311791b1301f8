"""Bayes' rule with the densities of a generator: the answer that generative replay could give without a solver."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from reverie.checks import OptionsError, Problems
from reverie.device import Device
from reverie.generators import Densities
from reverie.learners.base import masked
from reverie.learners.statistics import ClosedForm
from reverie.seeding import Randomness
from reverie.types import Generator, Memory, Prediction, State, StreamSpec, Task


@dataclass(eq=False, repr=False)
class GenerativeClassifier(ClosedForm):
    """Answers argmax_c log p(x | c) + log pi_c; p is fitted to each task when it ends, and there are no steps.

    Source: the generative classifier of van de Ven, Li and Tolias 2021 (arXiv 2104.10093), with densities in place of a VAE for each class.
    """

    generator: Annotated[
        Generator,
        Field(description="densities of classes, or of the classes of each task, which are mixed by their rows"),
    ] = field(default_factory=lambda: cast(Generator, Densities()))
    priors: Annotated[
        Literal["counts", "uniform"],
        Field(description="pi_c: the class's share of all rows so far, or the same for all"),
    ] = "counts"

    def check(self, problems: Problems) -> None:
        if not isinstance(self.generator, Densities):
            problems.add(
                f"generator = {type(self.generator).__name__}: has no density of single classes to compare; use generator = 'densities'"
            )
        elif not self.generator.conditional:
            problems.add(
                f"generator.scope = {self.generator.scope!r}: does not tell classes apart; use 'class' or 'task-class'"
            )

    # ------------------------------------------------------------------ life cycle

    def build(self, spec: StreamSpec, rng: Randomness, device: Device) -> None:
        super().build(spec, rng, device)
        self.model: Any = self.generator
        self.model.build(spec, rng, device)

    def extend(self, spec: StreamSpec) -> None:
        super().extend(spec)
        self.model.extend(spec)

    def begin_task(self, task: Task) -> None:
        super().begin_task(task)
        self.model.begin_task()

    def end_task(self, task: Task) -> None:
        rows = task.train.to(self.device.torch_device)
        self.model.fit(rows)
        try:
            self.model.class_log_prob(rows.take(torch.arange(1)).x.flatten(1))
        except NotImplementedError as error:
            raise OptionsError(
                f"generator.density = {self.model.density!r}: can be sampled but not compared: {error}; or use density = 'gaussian'"
            ) from error

    # ------------------------------------------------------------------ answers

    def predict(self, x: Tensor, task: int | None = None) -> Prediction:
        lowest = torch.finfo(torch.float32).min  # of classes without a row yet, and of a density that is 0
        scores = torch.full((len(x), self.spec.outputs), lowest, device=x.device)
        known = self.model.known_classes()
        if known:
            table = self.model.class_log_prob(x.flatten(1)).float()
            if self.priors == "counts":
                counts = self.model.class_counts()
                rows = torch.tensor([float(counts[c]) for c in known], device=x.device)
                table = table + (rows / rows.sum()).log()
            scores[:, known] = table.clamp(min=lowest)
        return masked(scores, self.spec, self.task, task)

    # ------------------------------------------------------------------ state and cost

    def state(self) -> State:
        return {"task": self.task, "generator": self.model.state()}

    def load(self, state: State) -> None:
        self.task = state["task"]
        self.model.load(state["generator"])

    def memory(self) -> Memory:
        stores = "raw" if self.model.stores_real_samples else "none"
        return Memory({"generator": self.model.num_bytes()}, {"densities": self.model.working_bytes()}, stores)  # type: ignore[arg-type]
