"""What learners share whose network has no weights of its own: a meta-model makes a posterior over them, for each task."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, NamedTuple, cast

import torch
from pydantic import Field
from torch import Tensor

from reverie.checks import OptionsError, Problems
from reverie.device import Device
from reverie.learners.answers import EVALUATION, NETWORKS_AT_ONCE, CriterionName, in_parts, log_mean, preferred
from reverie.learners.base import SolverLearner, masked, prefixed
from reverie.learners.coresets import CORESET, Coreset
from reverie.metrics.task_inference import entropy_gradient
from reverie.nn.hypernetworks import (
    EmbeddingHypernet,
    Hypernet,
    HypernetworkOptions,
    Separate,
    SeparateHypernetworks,
    Single,
)
from reverie.nn.networks import Network, training_flops
from reverie.nn.parameters import Ensemble, ParameterSpec, Statistics, average, running
from reverie.posteriors import Dirac, Implicit, MeanField
from reverie.posteriors.divergences import gaussian_kl
from reverie.posteriors.family import Divergence, SampledPrior
from reverie.posteriors.gaussian import NO_CHAIN
from reverie.probes.compression import Compression
from reverie.probes.drift import Drift
from reverie.probes.plane import Plane
from reverie.probes.task_inference import TaskInference
from reverie.seeding import Randomness, derived_seed, generator
from reverie.solvers import MLP
from reverie.solvers.classifier import Classifier
from reverie.solvers.outputs import ActiveClasses, squared_errors
from reverie.types import (
    Batch,
    Losses,
    Memory,
    Phase,
    Posterior,
    Prediction,
    Probe,
    Rows,
    Solver,
    State,
    StreamSpec,
    Task,
)


class Suspect(NamedTuple):
    """Posteriors made (K, parts, numel) of tasks (K,), whose loss was not finite, if bad () says so."""

    bad: Tensor
    tasks: Tensor
    made: Tensor


@dataclass(eq=False, repr=False)
class PosteriorLearner(SolverLearner):
    """On task t: N * E_q[cross-entropy] + kl_weight * KL(q_t || prior) + what the method adds. N: rows of the task. In regression the first
    term is -log N(y; f, noise_std^2) in place of the cross-entropy.

    A method says what makes the posteriors (``meta``) and changes it where it must: the term of the prior, what it rehearses.

    Without the task, ``predict`` asks the posteriors of all tasks and believes the one that ``criterion`` prefers; in regression the one whose
    weight samples agree best, and with a point for a posterior, of which there is one sample, that of the last task.
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
    kl_samples: Annotated[
        int | None,
        Field(
            gt=0,
            description="weight samples that the KL term is estimated from, where it has no closed form (radial, implicit); None: those of the "
            "step; another number than samples: drawn for it alone",
        ),
    ] = None
    kl_weight: Annotated[float, Field(ge=0, description="weight of the KL term; below 1: a cold posterior")] = 1e-3
    prior_variance: Annotated[float, Field(gt=0, description="of the prior N(0, prior_variance)")] = 1.0
    clip: Annotated[float | None, Field(gt=0, description="largest norm of the gradient; None: no limit")] = None
    test_samples: Annotated[
        int, Field(gt=0, description="weight samples that answer (one, where the posterior is a point)")
    ] = 10
    criterion: Annotated[
        CriterionName | Literal["entropy-gradient"],
        Field(
            description="how the task is inferred where it is not given (in regression always by agreement); entropy-gradient, with a "
            "hypernetwork that has embeddings alone, is measured only where it is asked for"
        ),
    ] = "entropy"

    measure_drift: Annotated[
        bool,
        Field(
            description="keep the numbers of each posterior as they were right after their task, and report how far they have moved"
        ),
    ] = False
    coreset: Annotated[
        Coreset | None,
        Field(description="rows held out of each task that tune all models after the last one; None: none"),
    ] = None

    kinds = ("classification", "regression")

    def check(self, problems: Problems) -> None:
        super().check(problems)
        point = self.posterior.deterministic
        problems.check(
            not (self.criterion == "agreement" and (point or self.test_samples < 2)),
            "criterion = 'agreement': compares several weight samples, and there is one alone; set test_samples = 10 and a posterior that is "
            "not a point, or use criterion = 'entropy'",
        )
        problems.check(
            self.criterion != "entropy-gradient"
            or not isinstance(self.meta(), Separate | SeparateHypernetworks | Single),
            "criterion = 'entropy-gradient': mixes the embeddings of all tasks in one hypernetwork, and there is none; use posterior-replay with "
            "hypernetwork = 'chunked', 'structured' or 'full', or criterion = 'entropy'",
        )
        problems.check(
            not (point and self.samples > 1),
            f"samples = {self.samples}: all samples of a point are the same; leave it at 1",
        )
        problems.check(
            self.kl_samples is None or not isinstance(self.posterior, Dirac | MeanField),
            f"kl_samples = {self.kl_samples}: the KL term of posterior = {type(self.posterior).__name__} is known in closed form; leave it out, or "
            "use posterior = 'radial' or 'implicit'",
        )
        problems.check(
            not (isinstance(self.posterior, Implicit) and not self.posterior.clip_score and self.clip is None),
            "clip_score = False: there is no clip that could hold for the score; set clip, or leave clip_score out",
        )
        problems.check(
            self.kl_samples is None or self.kl_weight > 0,
            f"kl_samples = {self.kl_samples}: there is no KL term with kl_weight = 0; leave it out, or set kl_weight",
        )
        problems.check(
            self.coreset is None
            or self.coreset.weight_of_kl(self.kl_weight) == 0
            or isinstance(self.posterior, MeanField),
            f"coreset with posterior = {type(self.posterior).__name__}: what a posterior was becomes a prior, which must have a density; use "
            "posterior = 'gaussian', or coreset.kl_weight = 0",
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

    def closed_form(self, theta: Tensor, weights: Tensor | None) -> Tensor:
        """KL(q || prior) in nats, perhaps but for a constant, where nothing has to estimate it; weights: the samples of this step, if there
        are any."""
        return self.posterior.prior_kl(theta, self.model.layout, self.prior_variance, weights)

    def sampled_prior(self) -> SampledPrior | None:
        """The prior of a posterior whose divergence is estimated, where it is not N(0, prior_variance)."""
        return None

    # ------------------------------------------------------------------ life cycle

    def build(self, spec: StreamSpec, rng: Randomness, device: Device) -> None:
        self.spec, self.rng, self.device = spec, rng, device
        self.main: Solver = self.solver if self.solver is not None else MLP()
        self.main.build(spec, rng, device)
        first_outputs = max(spec.task_classes[0]) + 1
        self.model = MetaModel(self.main, self.meta(), self.posterior, device, rng.seed, first_outputs)
        self.network: Any = self.model
        self._check_stream()
        self.task = -1
        self.rows_before = self.rows_now = 0
        self._answers: tuple[Tensor, Tensor] | None = None
        self._suspect: Suspect | None = None
        self.estimate = self._estimate(0)
        self.learnt: list[Tensor] = []  # theta of each task right after it, with measure_drift
        if self.coreset is not None:
            self.coreset.build(spec, rng)

    def _check_stream(self) -> None:
        """Raises OptionsError for options that mean nothing on this stream, or to this network."""
        problems, criterion = Problems(), f"criterion = {self.criterion!r}"
        if self.spec.kind == "regression":
            problems.check(
                self.criterion in ("entropy", "agreement"),
                f"{criterion}: goes by probabilities of classes, and in regression the model is believed whose samples agree best; leave it out",
            )
            problems.check(
                self.posterior.deterministic or self.test_samples > 1 or self._alike,
                "test_samples = 1: in regression the task is found by how far weight samples differ; use 2 or more",
            )
        problems.check(
            self.criterion == "entropy" or not self._alike,
            f"{criterion}: one posterior with the same outputs for all tasks is one model, and there is nothing to choose from; leave it out, or "
            "use active_classes = 'current' on a stream whose tasks have classes of their own",
        )
        problems.check(
            not (isinstance(self.posterior, MeanField) and self.posterior.local and self.model.ensemble.chain is None),
            NO_CHAIN,
        )
        problems.raise_as(OptionsError, "these options cannot be used here")

    @property
    def _alike(self) -> bool:
        """Whether the models of all tasks are one and the same. Batch norms would tell them apart, which have statistics for each."""
        return self._one_head and not self.model.ensemble.norms

    @property
    def _one_head(self) -> bool:
        """Whether one posterior answers with one softmax: a head that grows is that of the newest task for all of them."""
        grows = self.spec.scenario == "class" and self.active_classes == "all-so-far"
        return isinstance(self.meta(), Single) and (self._shared_outputs or grows)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What can be said before anything is learnt."""
        message = self.model.hypernet.compression_warning() if self.task < 0 else None
        return () if message is None else (message,)

    def extend(self, spec: StreamSpec) -> None:
        grows = spec.outputs > self.model.layout.outputs and self.model.layout.head is not None
        if grows and isinstance(self.posterior, Implicit) and self.posterior.latent_dim is None:
            raise OptionsError(
                "latent_dim = None: the generator sees as many numbers as the network has weights, so one for more classes is another one, and what "
                "was learnt would be lost; learn classes that are known, or train again with a latent_dim and a perturbation"
            )
        super().extend(spec)
        if self.coreset is not None:
            self.coreset.extend(spec)

    def _estimate(self, task: int) -> Any:
        optimiser = cast(Classifier, self.main).optimiser
        seed = derived_seed(self.rng.seed, "divergence", task)
        return self.posterior.estimate(self.model.layout, self.prior_variance, optimiser, self.device, seed)

    def begin_task(self, task: Task) -> None:
        self._answers = None
        if self.coreset is not None:
            self.coreset.hold_out(task, self.main)
        self.rows_before += self.rows_now
        self.rows_now = len(self.rows(self.phase("train"), task))
        self.model.begin_task(self.spec.outputs, task.index)
        self._enter(task.index)
        self.estimate = self._estimate(task.index)
        self.keep()

    def phases(self, task: Task | None) -> tuple[Phase, ...]:
        if task is None and self.coreset is not None:
            return (self.coreset.phase(self.phase("train")),)
        return super().phases(task)

    def rows(self, phase: Phase, task: Task | None) -> Rows:
        if self.coreset is None:
            return super().rows(phase, task)
        return self.coreset.rows(self.device.torch_device) if task is None else self.coreset.rest(task)

    def step(self, phase: Phase, batch: Batch) -> Losses:
        self._answers = None
        if phase.name == CORESET:
            return self._tune(batch)
        assert batch.y is not None
        old = self.rehearsed()
        made = self.model.hypernet([self.task, *old])
        # A split, whose gradient is one copy: that of two slices is two of zeros, added up.
        first, others = made.split([1, len(old)])
        theta = first.squeeze(0)
        with self.device.autocast():
            scores, weights, seen = self.posterior.training_scores(
                theta, self.model.ensemble, batch.x, self.samples, self.rng("weights")
            )
        name, nll = self._nll(scores[..., self.mine].float(), batch.y)
        losses = {name: (batch.weight * nll).sum(dim=1).mean()}
        total, unclipped = self.rows_now * losses[name], None
        if self.kl_weight:
            kl = self._divergence(theta, self._kl_weights(theta, weights))
            losses["kl"] = kl.value
            total = total + self.kl_weight * kl.value
            if kl.unclipped is not None:
                losses["kl"] = kl.value + kl.unclipped
                unclipped = self.kl_weight * kl.unclipped
            losses |= kl.losses or {}
        if old:
            losses["regulariser"] = self.regulariser(others, old)
            total = total + losses["regulariser"]
        self._watch(total if unclipped is None else total.detach() + unclipped.detach(), made, [self.task, *old])
        self.model.network.update(total, self.clip, unclipped)
        self.model.statistics[self.task] = running(self.model.statistics[self.task], seen)
        return prefixed("solver", {name: value.detach() for name, value in losses.items()})

    def _divergence(self, theta: Tensor, weights: Tensor | None) -> Divergence:
        """Of the posterior of this task from its prior; weights: samples of it, if there are any."""
        if self.estimate is None:
            return Divergence(self.closed_form(theta, weights))
        assert weights is not None
        return self.estimate.term(theta, weights, self.rng("divergence"), self.sampled_prior())

    def _kl_weights(self, theta: Tensor, weights: Tensor | None) -> Tensor | None:
        """Samples that the KL term is estimated from: those of the step (S, numel), unless another number is asked for."""
        if self.kl_samples in (None, self.samples):
            return weights
        noise = self.posterior.noise(self.kl_samples, self.model.layout, self.rng("kl weights"))
        return self.posterior.sample(theta, self.model.layout, noise)

    def _watch(self, total: Tensor, made: Tensor, tasks: Sequence[int]) -> None:
        """Keeps the posteriors (K, parts, numel) that gave the first loss which is not finite: a step later everything is NaN."""
        bad, made = ~torch.isfinite(total.detach()), made.detach()
        if self.device.torch_device.type == "cpu":
            if self._suspect is None and bool(bad):
                self._suspect = Suspect(bad, torch.tensor(tasks), made)
            return
        # Elsewhere a look would stop the device: it is told to keep the first, and asked once the record has found out.
        found, before = Suspect(bad, torch.tensor(tasks, device=made.device), made), self._suspect
        if before is None or before.made.shape != made.shape:
            self._suspect = found
        else:
            kept = (torch.where(before.bad, old, new) for old, new in zip(before[1:], found[1:], strict=True))
            self._suspect = Suspect(before.bad | bad, *kept)

    @property
    def trouble(self) -> str:
        """In which tensor of which model a loss that is not finite began, where one has been met."""
        suspect = self._suspect
        if suspect is None or not bool(suspect.bad):
            return ""
        return self._looked_into(suspect.made, suspect.tasks.tolist())

    def _looked_into(self, made: Tensor, tasks: Sequence[int]) -> str:
        """made: posteriors (K, parts, numel) of these tasks."""
        layout = self.model.layout
        for task, theta in zip(tasks, made, strict=True):
            for part, values in zip(self.posterior.names, theta, strict=True):
                for name, value in self.posterior.theta_spec(layout).unflatten(values).items():
                    if not bool(value.isfinite().all()):
                        return f"the {part} of {name} in the model of task {task} is not finite"
        smallest = []
        for task, theta in zip(tasks, made, strict=True):
            moments = self.posterior.moments(theta)
            if moments is not None:
                named = layout.unflatten(moments[1])
                smallest += [(float(value.min()), name, task) for name, value in named.items()]
        if not smallest:
            return ""
        log_std, name, task = min(smallest)
        return f"the smallest deviation is {math.exp(log_std):.2g}, of {name} in the model of task {task}"

    def _tune(self, batch: Batch) -> Losses:
        """One update of all models on rows of all coresets."""
        coreset = self.coreset
        assert coreset is not None
        assert batch.y is not None
        tasks = range(self.task + 1)
        made = self.model.hypernet(tasks)
        if self.model.kept is None:  # the phase begins
            self.model.network.renew_optimiser()
            self.model.kept = made.detach().clone()
        draws, labels, each = self.rng("weights"), self.rng("coreset labels"), []
        for task, theta in zip(tasks, made, strict=True):
            outputs, mine = torch.tensor(list(self.outputs_of(task)), device=batch.x.device), batch.task == task
            with self.device.autocast():
                scores, _, _ = self.posterior.training_scores(theta, self.model.ensemble, batch.x, self.samples, draws)
            logs = torch.log_softmax(scores[..., outputs].float(), dim=-1)
            nll = -(coreset.labels(batch.y, mine, outputs, labels) * logs).sum(dim=-1)
            each.append((coreset.weights(batch.weight, mine, task) * nll).sum(dim=1).mean())
        losses = {"cross-entropy": torch.stack(each).sum()}
        total = len(coreset) * losses["cross-entropy"]
        if weight := coreset.weight_of_kl(self.kl_weight):
            moments = cast(MeanField, self.posterior).moments
            losses["kl"] = gaussian_kl(*moments(made), *moments(cast(Tensor, self.model.kept))).sum()
            total = total + weight * losses["kl"]
        self._watch(total, made, tasks)
        self.model.network.update(total, self.clip)
        return prefixed("solver", {name: value.detach() for name, value in losses.items()})

    def _nll(self, scores: Tensor, y: Tensor) -> tuple[str, Tensor]:
        """Name and value (S, B) of the loss of scores (S, B, outputs of the task)."""
        if self.spec.kind == "regression":
            return "nll", squared_errors(scores, y) / (2 * (self.spec.noise_std or 1.0) ** 2)
        logs = torch.log_softmax(scores, dim=-1)
        return "cross-entropy", -logs.gather(2, self.place[y].expand(len(logs), -1)[..., None])[..., 0]

    def end_phase(self, phase: Phase, task: Task | None) -> None:
        if phase.name == CORESET:
            self.model.kept = None

    def end_task(self, task: Task) -> None:
        self.model.kept = None
        if self.measure_drift:
            self.learnt.append(self.model.hypernet([task.index])[0].detach().clone())

    # ------------------------------------------------------------------ answers

    def predict(self, x: Tensor, task: int | None = None) -> Prediction:
        """Logarithms of mean probabilities, (B, outputs): of the given task's model, or of the one that ``criterion`` prefers, and then also
        those of all models (``by_task``) and how much each criterion prefers each (``task_scores``). In regression means and deviations."""
        answer = self._regressed if self.spec.kind == "regression" else self._predicted
        with torch.no_grad():
            return in_parts(lambda rows: answer(rows, task), x, NETWORKS_AT_ONCE // self._test_samples)

    @property
    def _test_samples(self) -> int:
        return 1 if self.posterior.deterministic else self.test_samples

    def _predicted(self, x: Tensor, task: int | None) -> Prediction:
        if self.task < 0:
            return masked(torch.zeros(len(x), self.spec.outputs, device=x.device), self.spec, self.task, task)
        if task is not None:
            head = self.outputs_of(task)
            logs = log_mean(self._probabilities(x, min(task, self.task), head), head, self.spec.outputs)
            return masked(logs, self.spec, self.task, task)
        heads = [self.outputs_of(self.task if self._one_head else t) for t in range(self.task + 1)]
        models = [self._probabilities(x, t, head) for t, head in enumerate(heads)]
        more = {"entropy-gradient": self._entropy_gradient(x)} if self.criterion == "entropy-gradient" else None
        answer = preferred(models, heads, self.spec.outputs, self.criterion, more)
        return replace(answer, task_scores=None) if self._alike else answer

    def _regressed(self, x: Tensor, task: int | None) -> Prediction:
        """As ``_predicted``, in regression."""
        if self.task < 0:
            return Prediction(torch.zeros(len(x), self.spec.outputs, device=x.device))
        asked = range(self.task + 1) if task is None else [min(task, self.task)]
        drawn = torch.stack([self._answered(x, t, self.outputs_of(t)) for t in asked], dim=2)  # (V, B, T, outputs)
        mean = drawn.mean(dim=0).float()
        std = drawn.std(dim=0, correction=0).float() if len(drawn) > 1 else None
        if task is not None:
            return Prediction(mean[:, 0], None if std is None else std[:, 0])
        rows, last = torch.arange(len(x), device=x.device), torch.full((len(x),), self.task, device=x.device)
        if std is None or self._alike:
            told = None if std is None else std[rows, last]
            return Prediction(mean[rows, last], told, mean, std)
        doubt = std.mean(dim=2)
        chosen = doubt.argmin(dim=1)
        return Prediction(mean[rows, chosen], std[rows, chosen], mean, std, {"agreement": -doubt})

    def _probabilities(self, x: Tensor, task: int, outputs: Sequence[int]) -> Tensor:
        """(V, B, len(outputs)) of the model of a task, float64."""
        return torch.softmax(self._answered(x, task, outputs), dim=-1)

    def _answered(self, x: Tensor, task: int, outputs: Sequence[int]) -> Tensor:
        """(V, B, len(outputs)) scores of the model of a task, float64."""
        thetas, noise = self._drawn()
        return self._scores(x, thetas[task], noise, self.model.statistics[task])[..., list(outputs)].double()

    def _entropy_gradient(self, x: Tensor) -> Tensor:
        """(B, T) how much surer of these rows the equal mixture of all tasks becomes by more of each, over the outputs of all."""
        thetas, noise = self._drawn()
        outputs = list(dict.fromkeys(c for task in range(len(thetas)) for c in self.outputs_of(task)))
        hypernet, statistics = cast(EmbeddingHypernet, self.model.hypernet), average(self.model.statistics)

        def mixed(shares: Tensor) -> Tensor:
            return self._scores(x, hypernet.mixed(shares), noise, statistics)[..., outputs]

        return entropy_gradient(mixed, thetas.new_full((len(thetas),), 1 / len(thetas)))

    def _drawn(self) -> tuple[Tensor, Tensor]:
        """Posteriors (T, parts, numel) of all tasks, and the noise that answers, made anew only where the weights have changed."""
        if self._answers is None:
            fresh = generator(EVALUATION, device=self.device.torch_device)
            noise = self.posterior.noise(self._test_samples, self.model.layout, fresh)
            self._answers = self.model.hypernet(range(self.task + 1)), noise
        return self._answers

    def _scores(self, x: Tensor, theta: Tensor, noise: Tensor, statistics: Statistics) -> Tensor:
        """(V, B, outputs) of the networks drawn from one posterior (parts, numel)."""
        weights = self.posterior.sample(theta, self.model.layout, noise)
        with self.device.autocast():
            return self.model.ensemble(weights, x, statistics)

    def outputs_of(self, task: int) -> Sequence[int]:
        """Those that the model of a task has."""
        if self._shared_outputs:
            return range(self.spec.outputs)
        if self.spec.scenario == "class" and self.active_classes == "all-so-far":
            return self.spec.classes_until(task)
        return self.spec.heads[task]

    @property
    def _shared_outputs(self) -> bool:
        return self.spec.scenario == "domain" or (self.spec.scenario == "class" and self.active_classes == "all")

    # ------------------------------------------------------------------ state and cost

    def state(self) -> State:
        state = super().state()
        if self.measure_drift:
            state["learnt"] = list(self.learnt)
        for name, part in (("divergence", self.estimate), ("coreset", self.coreset)):
            if part is not None:
                state[name] = part.state()
        return state

    def load(self, state: State) -> None:
        self._answers = None
        self.rows_before, self.rows_now = state["rows_before"], state["rows_now"]
        self.model.load(state["solver"])
        self.learnt = [theta.to(self.device.torch_device) for theta in state.get("learnt", [])]
        self._enter(state["task"])
        self.estimate = self._estimate(max(self.task, 0))
        if self.estimate is not None:
            self.estimate.load(state["divergence"])
        if self.coreset is not None:
            self.coreset.load(state["coreset"])

    def memory(self) -> Memory:
        working = {"solver training": self.model.working_bytes()}
        if self.estimate is not None:
            working["discriminator"] = self.estimate.working_bytes()
        if self.measure_drift:
            working["posteriors as they were"] = sum(theta.numel() * theta.element_size() for theta in self.learnt)
        persistent = {"solver": self.model.num_bytes()}
        if self.coreset is None:
            return Memory(persistent, working)
        return Memory({**persistent, "coreset": self.coreset.num_bytes()}, working, stores="raw")

    def flops(self, phase: Phase, task: Task | None) -> float:
        main = training_flops(cast(Classifier, self.main).multiplications, phase.batch_size) * self.samples
        if phase.name == CORESET:
            tasks = self.task + 1
            return tasks * main + 6.0 * self.model.hypernet.multiplications(tasks)
        return main + 6.0 * self.model.hypernet.multiplications(1 + len(self.rehearsed()))

    def probes(self) -> Sequence[Probe]:
        shown = (*super().probes(), Compression(), *((Drift(),) if self.measure_drift else ()))
        if self.spec.kind == "regression":
            return shown
        plane = (Plane(0 if self.posterior.deterministic else 3),) if self.spec.input_shape == (2,) else ()
        return (*shown, TaskInference(), *plane)

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
        self.statistics: list[Statistics] = []  # of the batch norms, for each task

    @property
    def hypernet(self) -> Hypernet:
        return cast(Hypernet, self.network.module)

    def begin_task(self, outputs: int, task: int) -> None:
        self._grow(outputs)
        if self.hypernet.tasks == task:
            self.network.change(lambda module: cast(Hypernet, module).add_task())
        if len(self.statistics) == task:
            self.statistics.append(self.ensemble.statistics)
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
        kept = [tensor for task in self.statistics for pair in task.values() for tensor in pair]
        return self.network.num_bytes() + sum(tensor.numel() * tensor.element_size() for tensor in kept)

    def working_bytes(self) -> int:
        tensors = [self.kept] if isinstance(self.kept, Tensor) else list(self.kept.parameters()) if self.kept else []
        return self.network.working_bytes() + sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def state(self) -> State:
        state = {**self.network.state(), "outputs": self.layout.outputs, "tasks": self.hypernet.tasks}
        if self.ensemble.norms:
            state["statistics"] = list(self.statistics)
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
        device = self.device.torch_device
        tasks = state.get("statistics", [{}] * state["tasks"])
        self.statistics = [{name: (m.to(device), v.to(device)) for name, (m, v) in task.items()} for task in tasks]
        self.kept = None
        if "kept" in state:
            self.kept = state["kept"].to(self.device.torch_device)
        elif "kept network" in state:
            self.kept = cast(Hypernet, self.network.frozen().module)
            self.kept.load_state_dict(state["kept network"])
