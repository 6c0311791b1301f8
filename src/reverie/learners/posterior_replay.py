"""Posterior meta-replay: one hypernetwork makes, for each task, a posterior over the weights of the network that answers; what is rehearsed
is the hypernetwork's own output (Henning, Cervera et al. 2021, arXiv 2103.01133)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from reverie.checks import OptionsError, Problems
from reverie.device import Device
from reverie.learners.base import SolverLearner
from reverie.metrics.task_inference import CRITERIA
from reverie.nn.hypernetworks import Full, Hypernet, HypernetworkOptions
from reverie.nn.networks import Network, training_flops
from reverie.nn.parameters import Ensemble, ParameterSpec
from reverie.posteriors import MeanField
from reverie.posteriors.divergences import gaussian_kl, gaussian_wasserstein
from reverie.seeding import Randomness, generator
from reverie.solvers import MLP
from reverie.solvers.classifier import Classifier
from reverie.solvers.outputs import ActiveClasses
from reverie.types import Batch, Losses, Memory, Phase, Posterior, Prediction, Solver, State, StreamSpec, Task

CriterionName = Literal["entropy", "confidence", "agreement"]
Divergence = Literal["squared", "forward-kl", "reverse-kl", "wasserstein"]

NETWORKS_AT_ONCE = 1 << 17  # rows times weight samples that are answered at a time
EVALUATION = "weights of the evaluation"  # all tasks, and all runs, answer with the same noise


@dataclass(eq=False, repr=False)
class PosteriorReplay(SolverLearner):
    """On task t: N * E_q[cross-entropy] + kl_weight * KL(q_t || N(0, prior_variance)) + strength * R (section 2 of the paper).

    N: rows of the task. q_t: the posterior that the hypernetwork makes from the embedding of task t. R: how far the posteriors of earlier
    tasks have moved from what they were when the task began, by ``divergence``, a mean over the tasks ("published": divided twice, as
    their code for classification does, which its strengths belong to). Embeddings of earlier tasks stay trainable.

    Without the task, ``predict`` asks the posteriors of all tasks and believes the one that ``criterion`` prefers.
    The optimiser of the solver trains the hypernetwork, anew each task.
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
    hypernetwork: Annotated[HypernetworkOptions, Field(description="what makes the posteriors")] = field(
        default_factory=Full
    )
    strength: Annotated[float, Field(ge=0, description="beta: weight of the regulariser; 0: nothing is rehearsed")] = (
        10.0
    )
    divergence: Annotated[
        Divergence,
        Field(
            description="squared: distance of the hypernetwork's outputs; between Gaussians also forward-kl (old to new), reverse-kl, wasserstein"
        ),
    ] = "squared"
    normalise: Annotated[
        Literal["mean", "published"],
        Field(description="the regulariser is a mean over tasks; or divided by their number once more (not squared)"),
    ] = "mean"
    old_tasks: Annotated[
        int | None, Field(gt=0, description="earlier tasks that a step rehearses, drawn anew each step; None: all")
    ] = None
    targets: Annotated[
        Literal["stored", "recomputed"],
        Field(
            description="outputs to be kept: stored while a task is learnt, or recomputed at each step from the old hypernetwork"
        ),
    ] = "stored"
    mask_heads: Annotated[bool, Field(description="squared: outputs that belong to other tasks are free")] = True
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
        problems.check(
            self.divergence == "squared" or isinstance(self.posterior, MeanField),
            f"divergence = {self.divergence!r}: between Gaussians alone; use posterior = 'gaussian' or divergence = 'squared'",
        )
        problems.check(
            self.divergence != "squared" or self.normalise == "mean",
            "normalise = 'published': concerns the divergences between Gaussians; leave it out, or set divergence",
        )

    # ------------------------------------------------------------------ life cycle

    def build(self, spec: StreamSpec, rng: Randomness, device: Device) -> None:
        self.spec, self.rng, self.device = spec, rng, device
        self.main: Solver = self.solver if self.solver is not None else MLP()
        self.main.build(spec, rng, device)
        if list(self.main.module.buffers()):
            raise OptionsError(
                "solver: has buffers (batch statistics), which no hypernetwork makes; use a solver without them"
            )
        self.network: Any = MetaModel(self, rng.seed)
        self.task = -1
        self.rows_before = self.rows_now = 0
        self._answers: tuple[Tensor, Tensor] | None = None

    def begin_task(self, task: Task) -> None:
        self._answers = None
        self.rows_before += self.rows_now
        self.rows_now = len(task.train)
        self.network.begin_task(self.spec.outputs, task.index)
        self._enter(task.index)

    def step(self, phase: Phase, batch: Batch) -> Losses:
        self._answers = None
        assert batch.y is not None
        model: MetaModel = self.network
        old = self._rehearsed()
        made = model.hypernet([self.task, *old])
        theta = made[0]
        noise = self.posterior.noise(self.samples, model.layout, self.rng("weights"))
        scores, weights = self._training_scores(theta, noise, batch.x)
        logs = torch.log_softmax(scores[..., self.mine].float(), dim=-1)
        nll = -logs.gather(2, self.place[batch.y].expand(len(logs), -1)[..., None])[..., 0]
        losses = {"cross-entropy": (batch.weight * nll).sum(dim=1).mean()}
        total = self.rows_now * losses["cross-entropy"]
        if self.kl_weight:
            losses["kl"] = self.posterior.prior_kl(theta, model.layout, self.prior_variance, weights)
            total = total + self.kl_weight * losses["kl"]
        if old:
            losses["regulariser"] = self._moved(made[1:], model.targets_of(old), old)
            total = total + self.strength * losses["regulariser"]
        model.network.update(total, self.clip)
        return {f"solver.{name}": value.detach() for name, value in losses.items()}

    def end_task(self, task: Task) -> None:
        self.network.end_task()

    def _rehearsed(self) -> list[int]:
        """The earlier tasks of this step."""
        if self.task < 1 or self.strength == 0:
            return []
        if self.old_tasks is None or self.old_tasks >= self.task:
            return list(range(self.task))
        drawn = torch.randperm(self.task, generator=generator(self.rng.seed, "old tasks", self.rng.position))
        return sorted(drawn[: self.old_tasks].tolist())

    def _training_scores(self, theta: Tensor, noise: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        weights = self.posterior.sample(theta, self.network.layout, noise)
        with self.device.autocast():
            return self.network.ensemble(weights, x), weights

    def _moved(self, made: Tensor, targets: Tensor, old: Sequence[int]) -> Tensor:
        """R: (K, parts, numel) as made now, as they were, and of which tasks."""
        if self.divergence == "squared":
            apart = made - targets
            if self.mask_heads:
                apart = apart * self.network.masks([self._outputs(task) for task in old])[:, None]
            return apart.square().sum() / len(old)
        mean, log_std = cast(tuple[Tensor, Tensor], self.posterior.moments(made))
        old_mean, old_log_std = cast(tuple[Tensor, Tensor], self.posterior.moments(targets))
        if self.divergence == "forward-kl":
            each = gaussian_kl(old_mean, old_log_std, mean, log_std)
        elif self.divergence == "reverse-kl":
            each = gaussian_kl(mean, log_std, old_mean, old_log_std)
        else:
            each = gaussian_wasserstein(mean, log_std.exp(), old_mean, old_log_std.exp())
        return each.mean() / (self.task if self.normalise == "published" else 1)

    # ------------------------------------------------------------------ answers

    def predict(self, x: Tensor, task: int | None = None) -> Prediction:
        """Logarithms of mean probabilities, (B, outputs): of the given task's model, or of the one that ``criterion`` prefers, and then also
        those of all models (``by_task``) and how much each criterion prefers each (``task_scores``)."""
        with torch.no_grad():
            parts = [self._predicted(rows, task) for rows in x.split(self._rows_at_once())]
        if len(parts) == 1:
            return parts[0]
        scores = torch.cat([part.scores for part in parts])
        if parts[0].by_task is None:
            return Prediction(scores)
        by_task = torch.cat([cast(Tensor, part.by_task) for part in parts])
        names = cast(dict[str, Tensor], parts[0].task_scores)
        return Prediction(
            scores,
            None,
            by_task,
            {name: torch.cat([cast(Any, part.task_scores)[name] for part in parts]) for name in names},
        )

    def _rows_at_once(self) -> int:
        return max(1, NETWORKS_AT_ONCE // self._test_samples)

    @property
    def _test_samples(self) -> int:
        return 1 if self.posterior.deterministic else self.test_samples

    def _predicted(self, x: Tensor, task: int | None) -> Prediction:
        if self.task < 0:
            return Prediction(torch.zeros(len(x), self.spec.outputs, device=x.device))
        if task is not None:
            head = self._outputs(task) if self.spec.scenario != "domain" else range(self.spec.outputs)
            probabilities = self._probabilities(x, min(task, self.task), head)
            return Prediction(self._logs(probabilities.mean(dim=0), head))
        heads = [self._outputs(t) for t in range(self.task + 1)]
        each = [self._probabilities(x, t, head) for t, head in enumerate(heads)]
        by_task = torch.stack([self._logs(p.mean(dim=0), head) for p, head in zip(each, heads, strict=True)], dim=1)
        found = {}
        for name, criterion in CRITERIA.items():
            if name == "agreement" and self._test_samples < 2:
                continue
            found[name] = torch.cat([criterion(p[None]) for p in each], dim=1)
        chosen = found[self.criterion].argmax(dim=1)
        return Prediction(by_task[torch.arange(len(x), device=x.device), chosen], None, by_task, found)

    def _probabilities(self, x: Tensor, task: int, outputs: Sequence[int]) -> Tensor:
        """(V, B, len(outputs)) of the model of a task, float64."""
        if self._answers is None:
            tasks = list(range(self.task + 1))
            noise = self.posterior.noise(
                self._test_samples, self.network.layout, generator(EVALUATION, device=self.device.torch_device)
            )
            self._answers = self.network.hypernet(tasks), noise
        thetas, noise = self._answers
        weights = self.posterior.sample(thetas[task], self.network.layout, noise)
        with self.device.autocast():
            scores = self.network.ensemble(weights, x)
        return torch.softmax(scores[..., list(outputs)].double(), dim=-1)

    def _logs(self, probabilities: Tensor, outputs: Sequence[int]) -> Tensor:
        """(B, C) of some outputs -> (B, outputs) logarithms, -inf at the others."""
        found = probabilities.new_full((len(probabilities), self.spec.outputs), -math.inf)
        found[:, list(outputs)] = probabilities.log()
        return found.float()

    def _outputs(self, task: int) -> Sequence[int]:
        """Those that the model of a task has."""
        if self.spec.scenario == "domain" or (self.spec.scenario == "class" and self.active_classes == "all"):
            return range(self.spec.outputs)
        if self.spec.scenario == "class" and self.active_classes == "all-so-far":
            return self.spec.classes_until(task)
        return self.spec.heads[task]

    # ------------------------------------------------------------------ state and cost

    def load(self, state: State) -> None:
        self._answers = None
        self.rows_before, self.rows_now = state["rows_before"], state["rows_now"]
        self.network.load(state["solver"])
        self._enter(state["task"])

    def memory(self) -> Memory:
        return Memory(
            {"hypernetwork": self.network.num_bytes()}, {"hypernetwork training": self.network.working_bytes()}
        )

    def flops(self, phase: Phase, task: Task | None) -> float:
        main = training_flops(cast(Classifier, self.main).multiplications, phase.batch_size) * self.samples
        return main + self.network.flops(1 + (self.old_tasks or max(self.task, 0)))

    def _enter(self, task: int) -> None:
        self.task = task
        mine = list(self._outputs(task)) if task >= 0 else []
        self.mine = torch.tensor(mine, dtype=torch.int64, device=self.device.torch_device)
        self.place = torch.zeros(self.spec.outputs, dtype=torch.int64, device=self.device.torch_device)
        self.place[self.mine] = torch.arange(len(mine), device=self.device.torch_device)


class MetaModel:
    """The hypernetwork with its optimiser, what it makes, and, while a task is learnt, what it made when the task began."""

    def __init__(self, learner: PosteriorReplay, seed: int) -> None:
        self.device, self.seed, self.learner = learner.device, seed, learner
        module = learner.main.module
        self.layout = ParameterSpec(module)
        self.ensemble = Ensemble(module, self.layout)
        posterior = learner.posterior
        base = self.layout.flatten(module).cpu()
        made = learner.hypernetwork.make(self.layout, posterior.variances, base, seed)
        optimiser = cast(Classifier, learner.main).optimiser
        self.network = Network(made, optimiser, self.device)
        self.snapshot: Tensor | Hypernet | None = None

    @property
    def hypernet(self) -> Hypernet:
        return cast(Hypernet, self.network.module)

    def begin_task(self, outputs: int, task: int) -> None:
        self._grow(outputs)
        if self.hypernet.tasks == task:
            self.network.change(lambda module: cast(Hypernet, module).add_task())
        self.network.renew_optimiser()
        self._remember(task)

    def _grow(self, outputs: int) -> None:
        if outputs == self.layout.outputs or not self.layout.outputs:
            return
        self.learner.main.grow(outputs)
        module = self.learner.main.module
        self.layout = self.layout.with_outputs(outputs)
        self.ensemble = Ensemble(module, self.layout)
        base = self.layout.flatten(module).cpu()
        self.network.change(lambda module: cast(Hypernet, module).grow(self.layout, base))

    def _remember(self, task: int) -> None:
        """What is made for the tasks before this one, or the hypernetwork that makes it."""
        self.snapshot = None
        if task < 1 or self.learner.strength == 0:
            return
        if self.learner.targets == "recomputed":
            self.snapshot = cast(Hypernet, self.network.frozen().module)
        else:
            with torch.no_grad():
                self.snapshot = self.hypernet(range(task)).clone()

    def targets_of(self, tasks: Sequence[int]) -> Tensor:
        if isinstance(self.snapshot, Tensor):
            return self.snapshot if len(tasks) == len(self.snapshot) else self.snapshot[list(tasks)]
        assert self.snapshot is not None
        with torch.no_grad():
            return self.snapshot(tasks)

    def masks(self, outputs: Sequence[Sequence[int]]) -> Tensor:
        """(K, numel) 0 or 1."""
        key = tuple(map(tuple, outputs))
        if getattr(self, "_masked", (None, None))[0] != key:
            rows = torch.stack([self.layout.mask(mine) for mine in outputs]).to(self.device.torch_device)
            self._masked = key, rows.float()
        return self._masked[1]

    def end_task(self) -> None:
        self.snapshot = None

    def num_bytes(self) -> int:
        return self.network.num_bytes()

    def working_bytes(self) -> int:
        kept = 0
        if isinstance(self.snapshot, Tensor):
            kept = self.snapshot.numel() * self.snapshot.element_size()
        elif self.snapshot is not None:
            kept = self.network.num_bytes()
        return self.network.working_bytes() + kept

    def flops(self, tasks: int) -> float:
        """Of a step that asks for so many tasks."""
        return 6.0 * self.hypernet.multiplications(tasks)

    def state(self) -> State:
        state = {**self.network.state(), "outputs": self.layout.outputs, "tasks": self.hypernet.tasks}
        if isinstance(self.snapshot, Tensor):
            state["targets"] = self.snapshot
        elif self.snapshot is not None:
            state["old"] = dict(self.snapshot.state_dict())
        return state

    def load(self, state: State) -> None:
        self._grow(state["outputs"])
        while self.hypernet.tasks < state["tasks"]:
            self.network.change(lambda module: cast(Hypernet, module).add_task())
        self.network.load(state)
        self.snapshot = None
        if "targets" in state:
            self.snapshot = state["targets"].to(self.device.torch_device)
        elif "old" in state:
            twin = cast(Hypernet, self.network.frozen().module)
            twin.load_state_dict(state["old"])
            self.snapshot = twin
