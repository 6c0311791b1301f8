"""Elastic weight consolidation (Kirkpatrick et al. 2017, arXiv 1612.00796) and its online form (Schwarz et al. 2018, arXiv 1805.06370)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from reverie.checks import Problems
from reverie.device import Device
from reverie.options import Part
from reverie.penalties.fisher import FisherLabels, fisher_diagonal
from reverie.penalties.quadratic import Quadratic, weights_of
from reverie.seeding import Randomness
from reverie.types import Batch, Rows, Solver, State, StreamSpec

CHUNK = 512

FisherStrength = Annotated[
    float,
    Field(
        ge=0,
        description="lambda: weight of the penalty beside the mean loss (bayesian: beside the sum over rows, 1 is Bayes' rule); 0: no penalty",
    ),
]
Mode = Annotated[
    Literal["separate", "online"],
    Field(
        description="separate: a term a task, each around its own weights; online: one term around the newest weights"
    ),
]
Gamma = Annotated[float, Field(ge=0, le=1, description="mode online: what is left of the past at each new task")]
Fisher = Annotated[
    FisherLabels,
    Field(
        description="labels of the Fisher information: exact (mean over all), sampled (by the model), empirical (true)"
    ),
]
FisherRows = Annotated[
    int | None, Field(gt=0, description="rows of a task that the Fisher information is measured on; None: all")
]


@dataclass(eq=False, repr=False)
class FisherPenalty(Part):
    """lambda / 2 * sum over past tasks k of sum_i F_ki (theta_i - theta_ki)^2 (Kirkpatrick et al., equation 3).

    F_k: diagonal of the Fisher information at the end of task k, a mean over its rows, in the softmax that the task was trained with.
    theta_k: the weights then. Mode "separate" is this sum, kept exactly in two numbers a weight, however many the tasks
    (``Quadratic.add``). Mode "online" recentres: F* <- gamma F* + F_k around theta_k, and while a task is learnt F* counts gamma times
    (Schwarz et al.; with gamma = 1 this is Huszár's correction, 2018, arXiv 1712.03847).
    """

    strength: FisherStrength = 10_000.0
    mode: Mode = "separate"
    gamma: Gamma = 1.0
    fisher: Fisher = "exact"
    fisher_rows: FisherRows = None

    def check(self, problems: Problems) -> None:
        check_gamma(problems, self.mode, self.gamma)

    def build(self, spec: StreamSpec, rng: Randomness, device: Device) -> None:
        self.device = device.torch_device
        self.measure = FisherMeasurement(self.fisher, self.fisher_rows, spec, rng.seed, self.device)
        self.kept = Quadratic()

    def begin(self, solver: Solver) -> None:
        self.kept.grow(weights_of(solver))

    def loss(self, solver: Solver) -> Tensor | None:
        if not self.kept.active or self.strength * self.gamma == 0:
            return None
        return self.strength * self.gamma / 2 * self.kept.value(weights_of(solver))

    def after_step(self, solver: Solver) -> None:
        pass

    def end_task(self, solver: Solver, rows: Rows, task: int, groups: Tensor | None) -> None:
        information = self.measure(solver, rows, task, groups)
        if self.mode == "separate":
            self.kept.add(information, weights_of(solver))
        else:
            past = self.kept.importance
            information = {name: self.gamma * past[name] + new for name, new in information.items()}
            self.kept.replace(information, weights_of(solver))

    def num_bytes(self) -> int:
        return self.kept.num_bytes()

    def working_bytes(self) -> int:
        return 0

    def state(self) -> State:
        return {"kept": self.kept.state()}

    def load(self, state: State) -> None:
        self.kept.load(state["kept"], self.device)


class FisherMeasurement:
    """The diagonal of the Fisher information of a task, a mean over its rows or ``fisher_rows`` of them."""

    def __init__(
        self, labels: FisherLabels, fisher_rows: int | None, spec: StreamSpec, seed: int, device: torch.device
    ) -> None:
        self.labels, self.fisher_rows, self.device = labels, fisher_rows, device
        self.noise_std = spec.noise_std if spec.kind == "regression" else None
        self.choice = Randomness(seed)  # rows and labels are drawn on the CPU, whatever the device

    def __call__(self, solver: Solver, rows: Rows, task: int, groups: Tensor | None) -> dict[str, Tensor]:
        draw = self.choice.at("fisher labels", task)
        return fisher_diagonal(solver.module, self._batches(rows, task), groups, self.labels, draw, self.noise_std)

    def _batches(self, rows: Rows, task: int) -> Iterator[Batch]:
        index = torch.arange(len(rows))
        if self.fisher_rows is not None and self.fisher_rows < len(rows):
            index = torch.randperm(len(rows), generator=self.choice.at("fisher rows", task))[: self.fisher_rows]
        return (rows.take(part).to(self.device) for part in index.split(CHUNK))


def check_gamma(problems: Problems, mode: str, gamma: float) -> None:
    problems.check(
        mode == "online" or gamma == 1,
        f"gamma = {gamma}: fades the past in mode 'online' alone; mode = {mode!r} keeps each task's term whole",
    )
