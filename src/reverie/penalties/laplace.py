"""EWC as Bayes' rule: one Gaussian posterior over all weights, by Laplace's approximation after each task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from reverie.checks import Problems
from reverie.device import Device
from reverie.options import Part
from reverie.penalties.ewc import Fisher, FisherMeasurement, FisherRows, FisherStrength
from reverie.penalties.quadratic import Quadratic, bytes_of, grown, on, weights_of
from reverie.seeding import Randomness
from reverie.types import Rows, Solver, State, StreamSpec

PriorVariance = Annotated[float, Field(gt=0, description="of the prior N(0, prior_variance) over weights")]
FisherPrior = Annotated[
    Literal["once", "published"],
    Field(
        description="mode bayesian, with fisher_rows: the prior counts in the precision once; or, as in the published code, all rows / fisher_rows "
        "times"
    ),
]

HEAD = ("head.weight", "head.bias")  # their rows are outputs


@dataclass(eq=False, repr=False)
class LaplacePenalty(Part):
    """On a task with N rows, 1/N * [lambda / 2 * sum_i P_i (theta_i - theta*_i)^2 + 1 / (2 prior_variance) * sum_j theta_j^2].

    The objective N * mean loss + [...] is divided by N, so that the loss of a step is a mean whatever the task, and a learning rate means
    what it means elsewhere. Adam does not see the difference, but for its epsilon; a limit to the gradient's norm does.

    P = 1 / prior_variance + sum over past tasks k of N_k F_k, theta* the weights after the last of them: with lambda = 1 and an exact
    Fisher information this is Bayes' rule for a linear-Gaussian model (Huszár 2018, arXiv 1712.03847; Ritter, Botev and Barber 2018,
    arXiv 1805.07810; as in the code of Henning, Cervera et al. 2021, arXiv 2103.01133). i: weights that a past task has trained, and outputs
    that join a softmax which past tasks have trained, with the prior for P and 0 for theta*. j: all weights of the first task, later the
    outputs of a head of its own. Outputs of tasks to come are left where they are. F_k is a mean over the rows measured, times all N_k, however
    few they are; the prior is counted once. fisher_prior "published": N_k / fisher_rows times, k the task that is the first to train a weight,
    which holds what the data say little of far harder than the prior does.

    After a task N(theta*, 1 / P) is the posterior; outputs that no task has trained have the prior.
    """

    strength: FisherStrength = 1.0
    prior_variance: PriorVariance = 1.0
    fisher: Fisher = "empirical"
    fisher_rows: FisherRows = None
    fisher_prior: FisherPrior = "once"

    def check(self, problems: Problems) -> None:
        check_fisher_prior(problems, self.fisher_prior, self.fisher_rows)

    def build(self, spec: StreamSpec, rng: Randomness, device: Device) -> None:
        self.device = device.torch_device
        self.measure = FisherMeasurement(self.fisher, self.fisher_rows, spec, rng.seed, self.device)
        self.precision: dict[str, Tensor] = {}
        self.mean: dict[str, Tensor] = {}
        self.trained: list[bool] = []  # by output
        self.tasks = 0  # that have ended
        self.rows = 1
        self.groups: Tensor | None = None
        self.bowl = Quadratic()

    def enter(self, rows: int, groups: Tensor | None) -> None:
        """Before ``begin``: how many rows the task has, and its softmax groups, as in ``Batch``."""
        self.rows, self.groups = rows, groups

    def begin(self, solver: Solver) -> None:
        weights = weights_of(solver)
        for name, weight in weights.items():
            prior = torch.full_like(weight, 1 / self.prior_variance)
            self.precision[name] = grown(self.precision.get(name), prior)
            self.mean[name] = grown(self.mean.get(name), torch.zeros_like(weight))
        outputs = len(weights[HEAD[0]]) if HEAD[0] in weights else 0
        self.trained += [False] * (outputs - len(self.trained))
        body = self.strength if self.tasks else 1.0
        rows = self._pull_of_outputs()
        pull = {
            name: value * (_by_output(rows, value) if name in HEAD else body) for name, value in self.precision.items()
        }
        self.bowl.replace(pull, self.mean)

    def loss(self, solver: Solver) -> Tensor | None:
        return self.bowl.value(weights_of(solver)) / (2 * self.rows)

    def after_step(self, solver: Solver) -> None:
        pass

    def end_task(self, solver: Solver, rows: Rows, task: int, groups: Tensor | None) -> None:
        information = self.measure(solver, rows, task, groups)
        self.precision = {name: self.precision[name] + len(rows) * new for name, new in information.items()}
        if self.fisher_prior == "published" and self.fisher_rows is not None:
            self._count_prior_again((max(len(rows) / self.fisher_rows, 1) - 1) / self.prior_variance)
        self.trained = [old or new for old, new in zip(self.trained, self._active(), strict=True)]
        self.mean = {name: weight.detach().clone() for name, weight in weights_of(solver).items()}
        for name in self.mean.keys() & set(HEAD):
            self.mean[name] = self.mean[name] * _by_output(self.trained, self.mean[name])
        self.tasks = task + 1

    def _count_prior_again(self, more: float) -> None:
        """Adds this to the precision of the weights that the task is the first to train."""
        outputs = [more * (new and not old) for old, new in zip(self.trained, self._active(), strict=True)]
        for name, value in self.precision.items():
            if name in HEAD:
                self.precision[name] = value + _by_output(outputs, value)
            elif self.tasks == 0:
                self.precision[name] = value + more

    def _pull_of_outputs(self) -> list[float]:
        """What the precision of each output counts in this task."""
        groups = [0] * len(self.trained) if self.groups is None else self.groups.tolist()[: len(self.trained)]
        begun = {group for group, old in zip(groups, self.trained, strict=True) if old}
        found = []
        for group, old in zip(groups, self.trained, strict=True):
            # A new output joins a softmax that a past task has trained, or it begins one.
            new = self.strength if group in begun else 1.0
            found.append(self.strength if old else new if group >= 0 else 0.0)
        return found

    def _active(self) -> list[bool]:
        """By output, whether it is in a softmax of this task."""
        if self.groups is None:
            return [True] * len(self.trained)
        return (self.groups >= 0).tolist()[: len(self.trained)]

    def num_bytes(self) -> int:
        return bytes_of(self.precision) + bytes_of(self.mean)

    def working_bytes(self) -> int:
        return self.bowl.num_bytes()

    def state(self) -> State:
        tensors = {"precision": dict(self.precision), "mean": dict(self.mean)}
        return {**tensors, "trained": list(self.trained), "tasks": self.tasks}

    def load(self, state: State) -> None:
        self.precision, self.mean = on(state["precision"], self.device), on(state["mean"], self.device)
        self.trained, self.tasks = list(state["trained"]), state["tasks"]


def check_fisher_prior(problems: Problems, fisher_prior: str, fisher_rows: int | None) -> None:
    problems.check(
        fisher_prior == "once" or fisher_rows is not None,
        f"fisher_prior = {fisher_prior!r}: with all rows of a task the prior counts once either way; set fisher_rows, or leave it out",
    )


def _by_output(values: list[float] | list[bool], like: Tensor) -> Tensor:
    """A value for each row of ``like`` (outputs, ...), to be multiplied with it."""
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, *[1] * (like.dim() - 1))
