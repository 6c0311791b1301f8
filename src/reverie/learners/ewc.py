"""Elastic weight consolidation (Kirkpatrick et al. 2017, arXiv 1612.00796): weights that past tasks depend on are held."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from reverie.checks import OptionsError, Problems
from reverie.device import Device
from reverie.learners.answers import EVALUATION, NETWORKS_AT_ONCE, CriterionName, in_parts, log_mean, preferred
from reverie.learners.base import masked
from reverie.learners.regularised import Regularised
from reverie.nn.parameters import Ensemble, ParameterSpec
from reverie.penalties import FisherPenalty, LaplacePenalty
from reverie.penalties.ewc import Fisher, FisherRows, FisherStrength, Gamma, check_gamma
from reverie.penalties.laplace import FisherPrior, PriorVariance, check_fisher_prior
from reverie.probes.plane import Plane
from reverie.probes.task_inference import TaskInference
from reverie.seeding import Randomness, generator
from reverie.solvers.outputs import log_probabilities
from reverie.types import Penalty, Phase, Prediction, Probe, StreamSpec, Task

Mode = Annotated[
    Literal["separate", "online", "bayesian"],
    Field(
        description="separate: a term a task, each around its own weights; online: one term around the newest weights; bayesian: online, and "
        "scaled as the Gaussian posterior of all tasks so far"
    ),
]
Answers = Annotated[
    Literal["point", "posterior"],
    Field(description="mode bayesian: the newest weights answer, or samples of the posterior around them"),
]
TestSamples = Annotated[int, Field(gt=0, description="answers posterior: weight samples that answer")]
CriterionOption = Annotated[
    CriterionName, Field(description="mode bayesian, a head a task: how the task is inferred where it is not given")
]


@dataclass(eq=False, repr=False)
class EWC(Regularised):
    """Solver + quadratic penalty weighted by the Fisher information of past tasks. Loss: loss(new rows) + penalty.

    Mode "bayesian": ``LaplacePenalty``. With a head a task (task-incremental, or active_classes "current") every head is then a model
    of its task, and without the task ``predict`` believes the one that ``criterion`` prefers. While a task is learnt its Fisher information
    is not known yet, and the weights alone answer.
    """

    strength: FisherStrength = 10_000.0
    mode: Mode = "separate"
    gamma: Gamma = 1.0
    fisher: Fisher = "exact"
    fisher_rows: FisherRows = None
    fisher_prior: FisherPrior = "once"
    prior_variance: PriorVariance = 1.0
    answers: Answers = "point"
    test_samples: TestSamples = 10
    criterion: CriterionOption = "entropy"

    kinds = ("classification", "regression")

    def check(self, problems: Problems) -> None:
        super().check(problems)
        check_gamma(problems, self.mode, self.gamma)
        check_fisher_prior(problems, self.fisher_prior, self.fisher_rows)
        unused = (("prior_variance", 1.0), ("fisher_prior", "once"), ("answers", "point"), ("criterion", "entropy"))
        for name, usual in unused:
            value = getattr(self, name)
            problems.check(
                self.mode == "bayesian" or value == usual,
                f"{name} = {value!r}: of the posterior in mode 'bayesian' alone; set mode = 'bayesian', or leave {name} out",
            )
        problems.check(
            self.answers == "posterior" or self.test_samples == 10,
            f"test_samples = {self.test_samples}: the point alone answers; set answers = 'posterior', or leave test_samples out",
        )
        problems.check(
            self.criterion != "agreement" or (self.answers == "posterior" and self.test_samples > 1),
            "criterion = 'agreement': compares several weight samples, and there is one alone; set answers = 'posterior' and test_samples = 10, "
            "or use criterion = 'entropy'",
        )

    def build(self, spec: StreamSpec, rng: Randomness, device: Device) -> None:
        super().build(spec, rng, device)
        if self.criterion != "entropy" and not self._own_heads:
            raise OptionsError(
                f"criterion = {self.criterion!r}: chooses between heads, and here all tasks have the same outputs, so that there is one model and "
                "no task to infer; leave it out, or use active_classes = 'current' on a class-incremental stream"
            )

    def make_penalty(self) -> Penalty:
        if self.mode == "bayesian":
            return LaplacePenalty(self.strength, self.prior_variance, self.fisher, self.fisher_rows, self.fisher_prior)
        return FisherPenalty(self.strength, self.mode, self.gamma, self.fisher, self.fisher_rows)

    def _enter(self, task: int) -> None:
        super()._enter(task)
        if isinstance(self.penalty, LaplacePenalty):
            self.penalty.enter(self.rows_now, self.groups)

    # ------------------------------------------------------------------ answers

    def predict(self, x: Tensor, task: int | None = None) -> Prediction:
        """In mode "bayesian" logarithms of mean probabilities, (B, outputs): with a head a task those of the given head, or of the one that
        ``criterion`` prefers, and then also those of all heads (``by_task``) and how much each criterion prefers each (``task_scores``)."""
        if self.task < 0 or not isinstance(self.penalty, LaplacePenalty):
            return super().predict(x, task)
        with torch.no_grad():
            if self.answers == "point" or self.penalty.tasks <= self.task:
                return self._answered(self.network.scores(x)[None], task)
            layout = ParameterSpec(self.network.module)
            networks, weights = Ensemble(self.network.module, layout), self._drawn(layout, self.penalty)

            def answered(rows: Tensor) -> Prediction:
                with self.device.autocast():
                    scores = networks(weights, rows)
                return self._answered(scores.float(), task)

            return in_parts(answered, x, NETWORKS_AT_ONCE // self.test_samples)

    def _drawn(self, layout: ParameterSpec, penalty: LaplacePenalty) -> Tensor:
        """(test_samples, numel) weights, the same whenever they are asked for; weights that are not trained have one value."""
        named = dict(self.network.module.named_parameters())
        deviations = {name: penalty.precision[name].rsqrt() for name in penalty.precision}
        mean = layout.gather({**named, **penalty.mean})
        std = layout.gather({**{name: torch.zeros_like(value) for name, value in named.items()}, **deviations})
        fresh = generator(EVALUATION, device=mean.device)
        return mean + std * torch.randn(self.test_samples, layout.numel, generator=fresh, device=mean.device)

    def _answered(self, scores: Tensor, task: int | None) -> Prediction:
        """scores: (V, B, outputs) of V samples of weights."""
        if self.spec.kind == "regression":
            return Prediction(scores.mean(dim=0), scores.std(dim=0, correction=0) if len(scores) > 1 else None)
        heads, outputs = self._heads(), scores.shape[-1]
        if not heads:
            logs = torch.stack([log_probabilities(one, self.groups) for one in scores])
            return masked(logs.logsumexp(dim=0) - math.log(len(logs)), self.spec, self.task, task)
        if task is None:
            return preferred([_softmax(scores, head) for head in heads], heads, outputs, self.criterion)
        asked = self.spec.heads[task]
        return Prediction(log_mean(_softmax(scores, asked), asked, outputs))

    def _heads(self) -> Sequence[Sequence[int]]:
        """Outputs of the tasks so far where each has a head of its own; else none. In a merged stream one task has all heads."""
        return self.spec.heads[: self.task + 1] if self._own_heads else ()

    @property
    def _own_heads(self) -> bool:
        spec = self.spec
        own = spec.scenario == "task" or (spec.scenario == "class" and self.active_classes == "current")
        return own and len(spec.heads) == spec.tasks

    def probes(self) -> Sequence[Probe]:
        if not self._heads():
            return super().probes()
        plane = (Plane(draws=0),) if self.spec.input_shape == (2,) else ()
        return (*super().probes(), TaskInference(), *plane) if self.mode == "bayesian" else super().probes()

    # ------------------------------------------------------------------ cost

    def flops(self, phase: Phase, task: Task | None) -> float:
        """Of a step, and of the pass that measures the Fisher information, spread over the steps of the task."""
        rows = min(self.rows_now, self.fisher_rows or self.rows_now)
        forward = self.network.flops(rows, train=False)
        backward = self.network.flops(rows) - forward
        measuring = forward + backward * (self._labels() if self.fisher == "exact" else 1)
        return super().flops(phase, task) + measuring / max(phase.length(self.rows_now), 1)

    def _labels(self) -> int:
        """Outputs of the widest softmax."""
        return self.spec.outputs if self.groups is None else int(torch.bincount(self.groups[self.groups >= 0]).max())


def _softmax(scores: Tensor, head: Sequence[int]) -> Tensor:
    """(V, B, outputs) -> (V, B, C) probabilities over a head, float64."""
    return torch.softmax(scores[..., list(head)].double(), dim=-1)
