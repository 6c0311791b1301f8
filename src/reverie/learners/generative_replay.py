"""Deep generative replay (Shin, Lee, Kim and Kim 2017, arXiv 1705.08690), as realised by van de Ven et al. 2022.

Everything that is carried from task to task is the scholar: a solver and a generator. Both learn from the new rows and from samples of
the frozen scholar, labelled by the frozen solver; the generator rehearses too, or it would forget and take the solver with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from reverie.checks import OptionsError, Problems
from reverie.device import Device
from reverie.generators import VAE, Densities
from reverie.learners.base import SolverLearner, prefixed
from reverie.probes.latent_quality import LatentQuality
from reverie.probes.replay_quality import ReplayQuality
from reverie.replay import Labelling, Scholar, importance, mix, replay_rows
from reverie.replay.generative import LabelSource, steps_a_chunk
from reverie.replay.labels import past_groups, seen_outputs, targets
from reverie.replay.mixing import Importance, ReplaySize, check_replay_rows
from reverie.replay.selection import SCORED, Selection
from reverie.seeding import Randomness
from reverie.streams.augmentation import augmented
from reverie.types import Batch, Generator, Losses, Memory, Phase, Probe, Rows, State, StreamSpec, Task

ALIGN = "align"


@dataclass(eq=False, repr=False)
class GenerativeReplay(SolverLearner):
    """Solver + generator. Loss of each: r * loss(new rows) + (1 - r) * loss(replayed rows), r = 1/t by default.

    A generator with a phase of its own (a GAN) is trained first, then the solver; the others are trained side by side with it.
    """

    generator: Annotated[Generator | None, Field(description="the model of past inputs; None: the stream's")] = None
    labels: Annotated[
        LabelSource,
        Field(
            description="who labels replay: the frozen solver, the class asked for (condition), or both where they agree (agreement)"
        ),
    ] = "solver"
    distill: Annotated[bool, Field(description="soft labels from the solver instead of its hard answer")] = False
    temperature: Annotated[float, Field(gt=0, description="softmax temperature of soft labels")] = 2.0
    temperature_squared: Annotated[
        bool, Field(description="multiply the replay loss of soft labels by temperature squared")
    ] = False
    importance: Importance = "by-task"
    replay_size: ReplaySize = None
    align_steps: Annotated[
        int,
        Field(
            ge=0,
            description="updates after each task on generated rows of all classes so far alone (needs a generator of classes)",
        ),
    ] = 0
    reconstructed: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="share of its new rows that the solver sees as a generator that was trained before it (lgaa) reconstructs them: to look "
            "generated then says nothing of the class",
        ),
    ] = 0.0
    pool: Annotated[
        int | None,
        Field(gt=0, description="generated rows that a task rehearses again and again; None: new ones at every step"),
    ] = None
    refresh: Annotated[
        Literal["task", "epoch"],
        Field(
            description="the pool is generated once a task, or anew after as many steps as one pass over the task's rows takes"
        ),
    ] = "task"
    selection: Annotated[
        Selection,
        Field(
            description="of each row's candidates the one rehearsed: the surest (confidence), the least sure (entropy), the one between two classes "
            "(margin), the most typical (likelihood), or the only one (none); or of all candidates those that cover them (diversity), or "
            "whose loss the current rows raise most (interference)"
        ),
    ] = "none"
    candidates: Annotated[int, Field(ge=2, description="rows generated for each that is rehearsed (selection)")] = 4
    chunk: Annotated[int, Field(gt=0, description="steps whose replay is generated and labelled in one pass")] = 25
    drift_warning: Annotated[
        float,
        Field(
            ge=0, le=1, description="warn when the solver agrees with the frozen one on less than this share of replay"
        ),
    ] = 0.8
    quality: Annotated[
        bool,
        Field(
            description="measure what is generated, class by class, against test rows after each task; for latents and other vectors, seconds a task"
        ),
    ] = False

    kinds = ("classification", "regression")

    def check(self, problems: Problems) -> None:
        super().check(problems)
        conditional = self.generator is not None and self.generator.conditional
        knows_classes = conditional or getattr(self.generator, "labelled", False)
        if self.labels != "solver" and self.generator is not None and not knows_classes:
            problems.add(
                f"labels = {self.labels!r}: the generator cannot be asked for a class; use a conditional one, or labels = 'solver'"
            )
        if self.labels == "agreement" and not conditional and knows_classes:
            problems.add("labels = 'agreement': needs a conditional generator; use labels = 'condition' or 'solver'")
        if self.selection == "none" and self.candidates != 4:
            problems.add(
                f"candidates = {self.candidates}: has no effect where selection = 'none'; choose a selection or leave it out"
            )
        if self.refresh != "task" and self.pool is None:
            problems.add(
                f"refresh = {self.refresh!r}: has no effect where pool = None generates new rows at every step; give a pool or leave it out"
            )
        if self.selection == "likelihood" and not hasattr(self.generator, "log_prob"):
            problems.add(
                "selection = 'likelihood': needs a generator with a density, such as 'densities'; choose another selection"
            )
        elif self.selection == "likelihood" and not getattr(self.generator, "has_density", True):
            problems.add(f"selection = 'likelihood': {self._without_density()}")
        if self.align_steps and self.generator is not None and not (conditional and self.generator.trains_by == "fit"):
            problems.add(
                f"align_steps = {self.align_steps}: needs a generator that is fitted to classes, such as 'densities'; leave it out"
            )
        if self.reconstructed and self.generator is not None:
            problems.check(_reconstructs(self.generator), self._without_reconstruction())
        if not self.distill and (self.temperature_squared or self.temperature != 2.0):
            problems.add(
                f"temperature = {self.temperature}, temperature_squared = {self.temperature_squared}: shape soft labels, which "
                "distill = False does not use; set distill = True or leave them out"
            )
        if self.distill and self.labels != "solver":
            problems.add(
                f"distill = True and labels = {self.labels!r}: soft labels come from the solver alone; choose one of the two"
            )

    # ------------------------------------------------------------------ life cycle

    def build(self, spec: StreamSpec, rng: Randomness, device: Device) -> None:
        check_replay_rows(self.replay_size, self.phase("train").batch_size, spec.tasks)
        super().build(spec, rng, device)
        self.model: Generator = cast(Generator, self.generator or VAE())
        if spec.kind == "regression":
            self._check_regression()
        if self.labels != "solver" and not (self.model.conditional or getattr(self.model, "labelled", False)):
            raise OptionsError(
                f"labels = {self.labels!r}: needs a conditional generator, such as generator = 'conditional-vae'"
            )
        if self.reconstructed and not _reconstructs(self.model):
            raise OptionsError(self._without_reconstruction())
        self.model.build(spec, rng, device)
        self.scholar: Scholar | None = None
        self._alignment: Scholar | None = None  # while rows of all classes are rehearsed at the end of a task
        if self.quality and len(spec.input_shape) != 1:
            raise OptionsError(
                f"quality = True: measures generated vectors, and the rows here have shape {spec.input_shape}; put the learner behind a "
                "frozen backbone cut where latents are vectors, or leave it out"
            )

    def _check_regression(self) -> None:
        """Raises OptionsError for options that concern classes or their probabilities, of which regression has none."""
        problems = Problems()
        for name, value, usual in (
            ("labels", self.labels, "solver"),
            ("distill", self.distill, False),
            ("align_steps", self.align_steps, 0),
            ("quality", self.quality, False),
        ):
            problems.check(value == usual, f"{name} = {value!r}: concerns classes; leave it out")
        problems.check(
            self.selection not in SCORED,
            f"selection = {self.selection!r}: goes by the classes' probabilities; choose another selection",
        )
        problems.check(
            not (self.model.conditional and self.model.trains_by == "step"),
            f"generator = {type(self.model).__name__}: learns rows with their class; use one without, such as 'vae', or 'densities'",
        )
        problems.raise_as(OptionsError, "this is a stream of regression, where targets come from the frozen solver")

    def extend(self, spec: StreamSpec) -> None:
        self.model.extend(spec)
        super().extend(spec)

    def begin_task(self, task: Task) -> None:
        # The copy is made before anything of the new task can touch solver or generator.
        self.scholar = self._freeze() if task.index > 0 else None
        self._alignment = None
        super().begin_task(task)
        self.model.begin_task()

    def phases(self, task: Task | None) -> tuple[Phase, ...]:
        if task is None:
            return ()
        if self.model.own_phase:
            return (self.model.phase("generator"), self.phase("solver"))  # type: ignore[attr-defined]
        # A generator that learns from the same rows is to generate them as they are.
        train = replace(self.phase("train"), augmented=self.model.trains_by == "fit")
        return (train, Phase(ALIGN, train.batch_size, self.align_steps)) if self.align_steps else (train,)

    def step(self, phase: Phase, batch: Batch) -> Losses:
        if phase.name == ALIGN:
            return self._align(2 * phase.batch_size)
        r = importance(self.importance, self.task, self.rows_now, self.rows_before)
        past = None
        if self.scholar is not None and r < 1:
            past = self._replay(self.scholar, phase, batch)
            past = augmented(past, self.spec, phase, self.rng, "augmentation of replay")
        losses: Losses = {}
        if phase.name == "solver":
            batch = self._partly_reconstructed(batch)
        if phase.name != "generator":
            both = batch if past is None else mix(batch, self._scaled(past), r, self.spec.outputs)
            losses |= prefixed("solver", self.network.step(replace(both, groups=self.groups)))
        if phase.name != "solver" and self.model.trains_by == "step":
            # A conditional generator learns each sample under the class that it was asked for, unless it looks for itself.
            shown = past if past is None or past.asked is None else replace(past, y=past.asked)
            relabelled = None if self.scholar is None else getattr(self.scholar.generator, "relabelled", None)
            if shown is not None and relabelled is not None:
                shown = relabelled(shown)
            both = batch if shown is None else mix(batch, shown, r, self.spec.outputs)
            losses |= prefixed("generator", self.model.step(both))
        return losses

    def _partly_reconstructed(self, batch: Batch) -> Batch:
        """Rows come shuffled, so the first of them are as good as any."""
        n = self._reconstructed_rows(len(batch.x))
        if not n:
            return batch
        return replace(batch, x=torch.cat([cast(Any, self.model).reconstruct(batch.x[:n]), batch.x[n:]]))

    def _reconstructed_rows(self, rows: int) -> int:
        return round(self.reconstructed * rows)

    def _without_reconstruction(self) -> str:
        return f"reconstructed = {self.reconstructed}: needs a generator that reconstructs and is trained before the solver, 'lgaa'; leave it out"

    def end_phase(self, phase: Phase, task: Task | None) -> None:
        # At the end of this phase, not of the task: the alignment draws from it.
        if phase.name in ("train", "generator") and task is not None:
            self.model.fit(task.train)
            if self.selection == "likelihood" and isinstance(self.model, Densities):
                self._check_likelihood(self.model, task.train.to(self.device.torch_device))

    def _check_likelihood(self, model: Densities, rows: Rows) -> None:
        """Raises OptionsError where a density that was just fitted turns out to be none, not when it is first asked for."""
        try:
            model.log_prob(rows.take(torch.arange(1)).x)
        except NotImplementedError as error:
            raise OptionsError(f"selection = 'likelihood': {self._without_density()}: {error}") from error

    def _without_density(self) -> str:
        return (
            f"generator = {self.generator!r} can be sampled but has no likelihood; choose another selection, or density = 'gaussian' without "
            "'normalise' among the transforms"
        )

    def _align(self, n: int) -> Losses:
        """One update on n generated rows of all classes so far, those of the new task among them.

        As the classifier alignment of SLCA (Zhang et al. 2023, arXiv 2303.05118): old and new classes are met in the same, generated
        form, so that being generated tells nothing about the class.
        """
        if self._alignment is None:
            alignment = Scholar(self.network, self.model, self.rng, self.chunk)
            alignment.begin_task(replace(self._labelling(self.task + 1), source="condition"))
            self._alignment = alignment
        batch = self._alignment.sample(n)
        return prefixed("solver", self.network.step(replace(batch, groups=self.groups)))

    # ------------------------------------------------------------------ state and cost

    def state(self) -> State:
        scholar = None if self.scholar is None else self.scholar.state()
        return {**super().state(), "generator": self.model.state(), "scholar": scholar}

    def load(self, state: State) -> None:
        super().load(state)
        self.model.load(state["generator"])
        self.scholar = self._alignment = None
        if state["scholar"] is not None:
            self.scholar = self._freeze()
            self.scholar.load(state["scholar"])
            self.scholar.begin_task(self._labelling(state["task"]))

    def memory(self) -> Memory:
        base = super().memory()
        working = {**base.working, "generator training": self.model.working_bytes()}
        if self.scholar is not None:
            working |= {"frozen scholar": self.scholar.num_bytes(), "replay chunk": self._chunk_bytes()}
            if self.selection == "interference":
                working["virtual update"] = 2 * self.network.num_bytes()  # a copy and its gradients
        stores = "raw" if self.model.stores_real_samples else "none"
        return Memory({**base.persistent, "generator": self.model.num_bytes()}, working, stores)  # type: ignore[arg-type]

    def flops(self, phase: Phase, task: Task | None) -> float:
        new, total = phase.batch_size, 0.0
        if phase.name == ALIGN:
            return self.network.flops(2 * new) + self.model.flops(2 * new, train=False)
        past = self._past_rows(new)
        if phase.name != "generator":
            total += self.network.flops(new + past)
        if phase.name == "solver" and self.reconstructed:
            total += cast(Any, self.model).rehearsal_flops(self._reconstructed_rows(new))
        if phase.name != "solver":
            total += self.model.flops(new + past)
        if past:
            drawn = past * (self.candidates if self.selection != "none" else 1)
            scored = self.labels != "condition" or self.selection in SCORED
            # Passes over the candidates: for their labels or scores, their features, or their losses before and after an update.
            passes = scored + {"diversity": 1, "interference": 2}.get(self.selection, 0)
            total += self.model.flops(drawn, train=False)
            total += passes * self.network.flops(drawn, train=False)
            total += self.network.flops(new) if self.selection == "interference" else 0.0
        return total

    def _past_rows(self, batch_size: int) -> int:
        """Replayed rows a step; none in the first task, nor where new rows have all the weight."""
        if self.scholar is None or self.importance == 1.0:
            return 0
        return replay_rows(self.replay_size, batch_size, self.task)

    def _chunk_bytes(self) -> int:
        """Of the replay that is generated in one pass: inputs, labels, task, weight, temperature."""
        labels = 4 * self.spec.outputs if self.distill else 8
        row = 4 * math.prod(self.spec.input_shape) + labels + 8 + 4 + (4 if self.distill else 0)
        past = self._past_rows(self.phase("train").batch_size)
        if not past:
            return 0
        if self.pool is not None:
            return row * self.pool
        each = self.candidates if self.selection != "none" else 1
        kept = past * each if self.selection == "interference" else past
        return row * steps_a_chunk(self.chunk, past * each) * kept

    def probes(self) -> Sequence[Probe]:
        if self.spec.kind == "regression":
            return super().probes()  # there are no classes that replay could be of
        probes: tuple[Probe, ...] = (ReplayQuality(self.drift_warning),)
        return (*probes, LatentQuality()) if self.quality else probes

    # ------------------------------------------------------------------ replay

    def _replay(self, scholar: Scholar, phase: Phase, batch: Batch) -> Batch:
        """What is rehearsed beside the new rows of a step."""
        n, epoch = self._past_rows(phase.batch_size), 0
        if self.refresh == "epoch":
            epoch = self.rng.position.step // phase.steps_per_epoch(self.rows_now)
        if self.selection != "interference":
            return scholar.sample(n, epoch=epoch)
        rate = cast(Any, self.network).network.optimiser.param_groups[0]["lr"]
        current = replace(batch, groups=self.groups)
        return scholar.sample(n, current=current, solver=self.network, learning_rate=rate, epoch=epoch)

    def _freeze(self) -> Scholar:
        return Scholar(self.network, self.model, self.rng, self.chunk, self.pool, self.selection, self.candidates)

    def _enter(self, task: int) -> None:
        super()._enter(task)
        if getattr(self, "scholar", None) is not None:
            self.scholar.begin_task(self._labelling(task))  # type: ignore[union-attr]

    def _labelling(self, task: int) -> Labelling:
        """How replay is labelled while ``task`` is learnt."""
        device = self.device.torch_device
        groups = past_groups(self.spec, task, self.active_classes)
        seen = seen_outputs(self.spec, task).to(device)
        form = "soft" if self.distill else "hard"

        def answer(scores: Tensor) -> Tensor:
            if self.spec.kind == "regression":
                return scores
            # The frozen solver may be from before some outputs joined: they get no probability.
            scores = functional.pad(scores, (0, self.spec.outputs - scores.shape[1]), value=float("-inf"))
            return targets(scores, groups, seen, form, self.temperature)  # type: ignore[arg-type]

        rivals = seen.expand(len(seen), -1)
        if groups is not None:
            rivals = rivals & (groups[:, None] == groups).to(device)
        temperature = self.temperature if self.distill else None
        # All rows of regression are of class 0, which is what a conditional generator can be asked for.
        asked = seen.nonzero().flatten()[: 1 if self.spec.kind == "regression" else None]
        return Labelling(self.labels, asked, answer, temperature, rivals)

    def _scaled(self, past: Batch) -> Batch:
        if self.distill and self.temperature_squared:
            return replace(past, weight=past.weight * self.temperature**2)
        return past


def _reconstructs(generator: Generator) -> bool:
    """Whether a solver can be shown its reconstructions: it is trained when the solver begins."""
    return generator.own_phase and hasattr(generator, "reconstruct")
