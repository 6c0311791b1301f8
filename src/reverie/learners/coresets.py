"""Coresets: rows of each task that are held out of its training and, after the last task, teach all models which rows are not theirs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import one_hot

from reverie.checks import OptionsError
from reverie.options import Part, Table
from reverie.replay import Buffer
from reverie.seeding import Randomness
from reverie.streams.rows import ChosenRows, TensorRows
from reverie.types import Phase, Rows, Solver, State, StreamSpec, Task

CORESET = "coreset"  # the phase after the last task


@dataclass(eq=False, repr=False)
class Coreset(Part):
    """After the last task, for the models q_j of all tasks at once, n being the rows of all coresets and p_j what q_j was before the phase,

        sum_j kl_weight * KL(q_j || p_j) + n * E_q_j[cross-entropy]

    where rows of task j have their own label and rows of other tasks none: the model of j is to be unsure of them (Henning, Cervera et al.
    2021, arXiv 2103.01133). A step sees the same rows under all models.
    """

    size: Annotated[int, Field(gt=0, description="rows of each task, drawn at random; it is not trained on them")] = 100
    steps: Annotated[int | None, Field(gt=0, description="updates of the phase; None: those of a task")] = None
    own: Annotated[
        float | None,
        Field(
            gt=0, lt=1, description="weight of the rows of a task in the loss of its model; None: as many as there are"
        ),
    ] = None
    targets: Annotated[
        Literal["uniform", "random"],
        Field(description="of the rows of other tasks: all outputs alike, or one drawn anew at each step"),
    ] = "uniform"
    kl_weight: Annotated[
        float | None, Field(ge=0, description="weight of the KL term in the phase; None: that of the learner")
    ] = None

    def recommended(self, values: Mapping[str, Any], option: str | None = None) -> Mapping[str, Any]:
        return {}  # the stream's steps are those of a task, which may have its own

    def build(self, spec: StreamSpec, rng: Randomness) -> None:
        if spec.kind == "regression":
            raise OptionsError(
                "coreset: rows of other tasks have classes for targets, and this is regression; leave it out"
            )
        self.rng = rng
        self.kept = Buffer(budget=None)
        self.kept.build(spec, rng)

    def extend(self, spec: StreamSpec) -> None:
        self.kept.extend(spec)

    def hold_out(self, task: Task, solver: Solver) -> None:
        """Stores the rows of a task that begins."""
        if len(task.train) <= self.size:
            raise OptionsError(
                f"coreset.size = {self.size}: task {task.name!r} has {len(task.train)} rows, and none would be left to train on; use fewer"
            )
        self.kept.add_task(ChosenRows(task.train, self._order(task)[: self.size]), task.index, solver)

    def rest(self, task: Task) -> Rows:
        """The rows of a task that are trained on."""
        return ChosenRows(task.train, self._order(task)[self.size :])

    def _order(self, task: Task) -> Tensor:
        return torch.randperm(len(task.train), generator=Randomness(self.rng.seed).at("coreset", task.index))

    # ------------------------------------------------------------------ the phase after the last task

    def weight_of_kl(self, usual: float) -> float:
        """usual: the learner's."""
        return usual if self.kl_weight is None else self.kl_weight

    def phase(self, train: Phase) -> Phase:
        """train: that of a task."""
        if self.steps is None:
            return replace(train, name=CORESET)
        return Phase(CORESET, train.batch_size, self.steps, augmented=train.augmented)

    def rows(self, device: torch.device) -> Rows:
        """Of all tasks."""
        return TensorRows(self.kept.x, self.kept.y, self.kept.task).to(device)

    def __len__(self) -> int:
        return len(self.kept.x)

    def labels(self, y: Tensor, mine: Tensor, outputs: Tensor, rng: torch.Generator) -> Tensor:
        """(B, C) probabilities over the outputs (C,) of a model: of rows with labels y (B,), those that are its own (mine, bool) and others."""
        count = len(outputs)
        own = (y[:, None] == outputs).float()
        if self.targets == "random":
            drawn = torch.randint(count, (len(y),), generator=rng, device=rng.device)
            return torch.where(mine[:, None], own, one_hot(drawn, count).float())
        return torch.where(mine[:, None], own, 1 / count)

    def weights(self, weight: Tensor, mine: Tensor, task: int) -> Tensor:
        """(B,) for the loss of a model, from those of rows that were drawn uniformly from all coresets; equal to these where ``own`` is
        None."""
        if self.own is None:
            return weight
        share = float((self.kept.task == task).float().mean())
        return weight * torch.where(mine, self.own / share, (1 - self.own) / max(1 - share, 1 / len(self)))

    # ------------------------------------------------------------------ state and cost

    def num_bytes(self) -> int:
        return self.kept.num_bytes()

    def state(self) -> State:
        return self.kept.state()

    def load(self, state: State) -> None:
        self.kept.load(state)


CORESETS = Table("coreset", Coreset, {"coreset": Coreset}, usual="coreset")
