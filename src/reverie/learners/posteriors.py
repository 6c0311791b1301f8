"""What learners share whose network has no weights of its own: a meta-model makes a posterior over them, for each task."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from reverie.checks import OptionsError, Problems
from reverie.device import Device
from reverie.learners.base import SolverLearner, masked, prefixed
from reverie.metrics.task_inference import CRITERIA
from reverie.nn.hypernetworks import Hypernet, HypernetworkOptions
from reverie.nn.networks import Network, training_flops
from reverie.nn.parameters import Ensemble, ParameterSpec
from reverie.posteriors import MeanField
from reverie.seeding import Randomness, derived_seed, generator
from reverie.solvers import MLP
from reverie.solvers.classifier import Classifier
from reverie.solvers.outputs import ActiveClasses
from reverie.types import Batch, Losses, Memory, Phase, Posterior, Prediction, Solver, State, StreamSpec, Task

CriterionName = Literal["entropy", "confidence", "agreement"]

NETWORKS_AT_ONCE = 1 << 17  # rows times weight samples that are answered at a time
EVALUATION = "weights of the evaluation"  # all tasks, and all runs, answer with the same noise


@dataclass(eq=False, repr=False)
class PosteriorLearner(SolverLearner):
    """On task t: N * E_q[cross-entropy] + kl_weight * KL(q_t || prior) + what the method adds. N: rows of the task.

    A method says what makes the posteriors (``meta``) and changes it where it must: the term of the prior, what it rehearses.

    Without the task, ``predict`` asks the posteriors of all tasks and believes the one that ``criterion`` prefers.
    The optimiser of the solver trains what makes its weights, anew each task.
    """

    active_classes: Annotated[
        ActiveClasses,
        Field(
            description="outputs that the model of a task has, class-incremental: current, those of the task; all-so-far; all"
        ),
    ] = "current"
    posterior: Annotated[Posterior, Field(description="family of the distribution over weights")] = field(
        default_factory=MeanField
    )
    samples: Annotated[int, Field(gt=0, description="weight samples a step")] = 1
    kl_weight: Annotated[float, Field(ge=0, description="weight of the KL term; below 1: a cold posterior")] = 1e-3
    prior_variance: Annotated[float, Field(gt=0, description="of the prior N(0, prior_variance)")] = 1.0
    clip: Annotated[float | None, Field(gt=0, description="largest norm of the gradient; None: no limit")] = None
    test_samples: Annotated[
        int, Field(gt=0, description="weight samples that answer (one, where the posterior is a point)")
    ] = 10
    criterion: Annotated[CriterionName, Field(description="how the task is inferred where it is not given")] = "entropy"

    def check(self, problems: Problems) -> None:
        super().check(problems)
        point = self.posterior.deterministic
        problems.check(
            not (self.criterion == "agreement" and (point or self.test_samples < 2)),
            "criterion = 'agreement': compares several weight samples, and there is one alone; set test_samples = 10 and a posterior that is "
            "not a point, or use criterion = 'entropy'",
        )
        problems.check(
            not (point and self.samples > 1),
            f"samples = {self.samples}: all samples of a point are the same; leave it at 1",
        )

    # ------------------------------------------------------------------ what a method says

    @abstractmethod
    def meta(self) -> HypernetworkOptions:
        """What makes the posteriors."""

    def keep(self) -> None:
        """A task begins: what of the present state has to be kept while it is learnt, in ``model.kept``."""

    def rehearsed(self) -> Sequence[int]:
        """Earlier tasks whose posteriors this step looks at."""
        return ()

    def regulariser(self, made: Tensor, tasks: Sequence[int]) -> Tensor:
        """Of the posteriors (K, parts, numel) of ``rehearsed``."""
        raise NotImplementedError

    def prior_term(self, theta: Tensor, weights: Tensor | None) -> Tensor:
        """KL(q || prior) in nats, or what has its gradient; weights: the samples of this step, if there are any."""
        if self.estimate is not None:
            assert weights is not None
            return self.estimate.term(theta, weights, self.rng("divergence"))
        return self.posterior.prior_kl(theta, self.model.layout, self.prior_variance, weights)

    # ------------------------------------------------------------------ life cycle

    def build(self, spec: StreamSpec, rng: Randomness, device: Device) -> None:
        self.spec, self.rng, self.device = spec, rng, device
        self.main: Solver = self.solver if self.solver is not None else MLP()
        self.main.build(spec, rng, device)
        if list(self.main.module.buffers()):
            raise OptionsError(
                "solver: has buffers (batch statistics), which no hypernetwork makes; use one without them"
            )
        first_outputs = max(spec.task_classes[0]) + 1
        self.model = MetaModel(self.main, self.meta(), self.posterior, device, rng.seed, first_outputs)
        self.network: Any = self.model
        self.task = -1
        self.rows_before = self.rows_now = 0
        self._answers: tuple[Tensor, Tensor] | None = None
        self.estimate = self._estimate(0)

    def _estimate(self, task: int) -> Any:
        optimiser = cast(Classifier, self.main).optimiser
        seed = derived_seed(self.rng.seed, "divergence", task)
        return self.posterior.estimate(self.model.layout, self.prior_variance, optimiser, self.device, seed)

    def begin_task(self, task: Task) -> None:
        self._answers = None
        self.rows_before += self.rows_now
        self.rows_now = len(task.train)
        self.model.begin_task(self.spec.outputs, task.index)
        self._enter(task.index)
        self.estimate = self._estimate(task.index)
        self.keep()

    def step(self, phase: Phase, batch: Batch) -> Losses:
        self._answers = None
        assert batch.y is not None
        old = self.rehearsed()
        made = self.model.hypernet([self.task, *old])
        with self.device.autocast():
            scores, weights = self.posterior.training_scores(
                made[0], self.model.ensemble, batch.x, self.samples, self.rng("weights")
            )
        logs = torch.log_softmax(scores[..., self.mine].float(), dim=-1)
        nll = -logs.gather(2, self.place[batch.y].expand(len(logs), -1)[..., None])[..., 0]
        losses = {"cross-entropy": (batch.weight * nll).sum(dim=1).mean()}
        total = self.rows_now * losses["cross-entropy"]
        if self.kl_weight:
            losses["kl"] = self.prior_term(made[0], weights)
            total = total + self.kl_weight * losses["kl"]
        if old:
            losses["regulariser"] = self.regulariser(made[1:], old)
            total = total + losses["regulariser"]
        self.model.network.update(total, self.clip)
        return prefixed("solver", {name: value.detach() for name, value in losses.items()})

    def end_task(self, task: Task) -> None:
        self.model.kept = None

    # ------------------------------------------------------------------ answers

    def predict(self, x: Tensor, task: int | None = None) -> Prediction:
        """Logarithms of mean probabilities, (B, outputs): of the given task's model, or of the one that ``criterion`` prefers, and then also
        those of all models (``by_task``) and how much each criterion prefers each (``task_scores``)."""
        with torch.no_grad():
            parts = [self._predicted(rows, task) for rows in x.split(max(1, NETWORKS_AT_ONCE // self._test_samples))]
        if len(parts) == 1:
            return parts[0]
        scores = torch.cat([part.scores for part in parts])
        if parts[0].by_task is None or parts[0].task_scores is None:
            return Prediction(scores)
        by_task = torch.cat([cast(Tensor, part.by_task) for part in parts])
        found = {
            name: torch.cat([cast(dict[str, Tensor], part.task_scores)[name] for part in parts])
            for name in parts[0].task_scores
        }
        return Prediction(scores, None, by_task, found)

    @property
    def _test_samples(self) -> int:
        return 1 if self.posterior.deterministic else self.test_samples

    def _predicted(self, x: Tensor, task: int | None) -> Prediction:
        if self.task < 0:
            return masked(torch.zeros(len(x), self.spec.outputs, device=x.device), self.spec, self.task, task)
        if task is not None:
            head = self.outputs_of(task)
            logs = self._logs(self._probabilities(x, min(task, self.task), head).mean(dim=0), head)
            return masked(logs, self.spec, self.task, task)
        heads = [self.outputs_of(t) for t in range(self.task + 1)]
        each = [self._probabilities(x, t, head) for t, head in enumerate(heads)]
        by_task = torch.stack([self._logs(p.mean(dim=0), head) for p, head in zip(each, heads, strict=True)], dim=1)
        found = {
            name: torch.cat([criterion(p[None]) for p in each], dim=1)
            for name, criterion in CRITERIA.items()
            if name != "agreement" or self._test_samples > 1
        }
        chosen = found[self.criterion].argmax(dim=1)
        scores = by_task[torch.arange(len(x), device=x.device), chosen]
        # Classes of other tasks are known, and out of the question.
        taught = torch.zeros(self.spec.outputs, dtype=torch.bool, device=x.device)
        taught[list(dict.fromkeys(c for head in heads for c in head))] = True
        scores = torch.where(taught & scores.isneginf(), torch.finfo(torch.float32).min, scores)
        return Prediction(scores, None, by_task, found)

    def _probabilities(self, x: Tensor, task: int, outputs: Sequence[int]) -> Tensor:
        """(V, B, len(outputs)) of the model of a task, float64."""
        if self._answers is None:
            fresh = generator(EVALUATION, device=self.device.torch_device)
            noise = self.posterior.noise(self._test_samples, self.model.layout, fresh)
            self._answers = self.model.hypernet(range(self.task + 1)), noise
        thetas, noise = self._answers
        weights = self.posterior.sample(thetas[task], self.model.layout, noise)
        with self.device.autocast():
            scores = self.model.ensemble(weights, x)
        return torch.softmax(scores[..., list(outputs)].double(), dim=-1)

    def _logs(self, probabilities: Tensor, outputs: Sequence[int]) -> Tensor:
        """(B, C) of some outputs -> (B, outputs) logarithms, -inf at the others."""
        found = probabilities.new_full((len(probabilities), self.spec.outputs), -math.inf)
        found[:, list(outputs)] = probabilities.log()
        return found.float()

    def outputs_of(self, task: int) -> Sequence[int]:
        """Those that the model of a task has."""
        if self.spec.scenario == "domain" or (self.spec.scenario == "class" and self.active_classes == "all"):
            return range(self.spec.outputs)
        if self.spec.scenario == "class" and self.active_classes == "all-so-far":
            return self.spec.classes_until(task)
        return self.spec.heads[task]

    # ------------------------------------------------------------------ state and cost

    def state(self) -> State:
        return {**super().state(), **({} if self.estimate is None else {"divergence": self.estimate.state()})}

    def load(self, state: State) -> None:
        self._answers = None
        self.rows_before, self.rows_now = state["rows_before"], state["rows_now"]
        self.model.load(state["solver"])
        self._enter(state["task"])
        self.estimate = self._estimate(max(self.task, 0))
        if self.estimate is not None:
            self.estimate.load(state["divergence"])

    def memory(self) -> Memory:
        working = {"solver training": self.model.working_bytes()}
        if self.estimate is not None:
            working["discriminator"] = self.estimate.working_bytes()
        return Memory({"solver": self.model.num_bytes()}, working)

    def flops(self, phase: Phase, task: Task | None) -> float:
        main = training_flops(cast(Classifier, self.main).multiplications, phase.batch_size) * self.samples
        return main + 6.0 * self.model.hypernet.multiplications(1 + len(self.rehearsed()))

    def _enter(self, task: int) -> None:
        self.task = task
        device = self.device.torch_device
        mine = list(self.outputs_of(task)) if task >= 0 else []
        self.mine = torch.tensor(mine, dtype=torch.int64, device=device)
        self.place = torch.zeros(self.spec.outputs, dtype=torch.int64, device=device)
        self.place[self.mine] = torch.arange(len(mine), device=device)


class MetaModel:
    """The hypernetwork with its optimiser, the network that it makes weights for, and what is kept while a task is learnt.

    kept: a tensor, or a hypernetwork as it was when the task began.
    """

    def __init__(
        self,
        main: Solver,
        meta: HypernetworkOptions,
        posterior: Posterior,
        device: Device,
        seed: int,
        first_outputs: int,
    ) -> None:
        """first_outputs: of the first task."""
        self.main, self.device = main, device
        self.layout = ParameterSpec(main.module)
        self.ensemble = Ensemble(main.module, self.layout)
        self.posterior, self.seed = posterior, seed
        theta = posterior.theta_spec(self.layout)
        first = posterior.theta_spec(self.layout.with_outputs(first_outputs)).numel
        made = meta.make(theta, posterior.variances, self._base(), seed, first)
        made.add_task()
        self.network = Network(made, cast(Classifier, main).optimiser, device)
        self.kept: Tensor | Hypernet | None = None

    @property
    def hypernet(self) -> Hypernet:
        return cast(Hypernet, self.network.module)

    def begin_task(self, outputs: int, task: int) -> None:
        self._grow(outputs)
        if self.hypernet.tasks == task:
            self.network.change(lambda module: cast(Hypernet, module).add_task())
        self.network.renew_optimiser()
        self.kept = None

    def _grow(self, outputs: int) -> None:
        if outputs == self.layout.outputs or self.layout.head is None:
            return
        self.main.grow(outputs)
        self.layout = self.layout.with_outputs(outputs)
        self.ensemble = Ensemble(self.main.module, self.layout)
        theta, base = self.posterior.theta_spec(self.layout), self._base()
        self.network.change(lambda module: cast(Hypernet, module).grow(theta, base))

    def _base(self) -> Tensor:
        """Where the first part of theta may start."""
        base = self.posterior.initial(self.layout, self.seed)
        return self.layout.flatten(self.main.module).cpu() if base is None else base

    def num_bytes(self) -> int:
        return self.network.num_bytes()

    def working_bytes(self) -> int:
        tensors = [self.kept] if isinstance(self.kept, Tensor) else list(self.kept.parameters()) if self.kept else []
        return self.network.working_bytes() + sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def state(self) -> State:
        state = {**self.network.state(), "outputs": self.layout.outputs, "tasks": self.hypernet.tasks}
        if isinstance(self.kept, Tensor):
            state["kept"] = self.kept
        elif self.kept is not None:
            state["kept network"] = dict(self.kept.state_dict())
        return state

    def load(self, state: State) -> None:
        self._grow(state["outputs"])
        while self.hypernet.tasks < state["tasks"]:
            self.network.change(lambda module: cast(Hypernet, module).add_task())
        self.network.load(state)
        self.kept = None
        if "kept" in state:
            self.kept = state["kept"].to(self.device.torch_device)
        elif "kept network" in state:
            self.kept = cast(Hypernet, self.network.frozen().module)
            self.kept.load_state_dict(state["kept network"])
