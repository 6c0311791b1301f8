"""The lifelong generative adversarial autoencoder as a learner: it classifies, reconstructs and generates what it met in all its tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from reverie.checks import DataError, Problems
from reverie.device import Device
from reverie.generators.lgaa import AdversarialAutoencoder, Labelled
from reverie.generators.lgaa_replay import Drawn, Recognised, rehearse
from reverie.learners.base import LearnerBase, masked, prefixed
from reverie.options import Table
from reverie.probes.dreams import Dreams
from reverie.probes.risk import Risk
from reverie.seeding import Randomness
from reverie.streams.rows import JoinedRows, Relabelled, TensorRows, stored_bytes
from reverie.types import (
    UNKNOWN,
    Batch,
    Kind,
    Losses,
    Memory,
    Phase,
    Prediction,
    Probe,
    Rows,
    State,
    StreamSpec,
    Task,
)

SURE = 0.5  # confidence from which a pseudo-label counts where most rows have no label


@dataclass(eq=False, repr=False)
class LGAA(LearnerBase):
    """Autoencoder + replay set. When a task begins, the autoencoder is frozen as it is; from this snapshot a set of images is drawn once, evenly
    from all earlier domains and classes, labelled by the snapshot's own inference of class and domain, and mixed with the rows of the
    task. Every step then learns all networks on such rows, see the autoencoder.

    The domain of a row is the task it was met in; it is known in training and inferred in use. Rows without a label are learnt from where
    ``labels_per_class`` is given.
    """

    autoencoder: Annotated[
        AdversarialAutoencoder | None, Field(description="the networks and their losses; None: with its own defaults")
    ] = None
    steps: Annotated[
        int | None, Field(gt=0, description="updates a task; None: the stream's, unless epochs are given")
    ] = None
    epochs: Annotated[int | None, Field(gt=0, description="passes over a task's rows and its replay set")] = None
    batch_size: Annotated[int | None, Field(gt=0, description="rows a step, new and replayed")] = 64
    replay: Annotated[
        bool, Field(description="whether earlier tasks are rehearsed; false: fine-tuning, the lower bound")
    ] = True
    replay_ratio: Annotated[float, Field(gt=0, description="size of the replay set for each row of the task")] = 1.0
    mixing: Annotated[
        Literal["pool", "weighted"],
        Field(description="pool: all rows weigh the same; weighted: new rows 1/t and replay 1 - 1/t in task t"),
    ] = "pool"
    confidence: Annotated[
        float | None,
        Field(
            ge=0,
            lt=1,
            description="replay of which the snapshot is less sure is drawn again, and what is left of it has no label; None: 0.5 where "
            "labels_per_class leaves rows without label, else 0",
        ),
    ] = None
    balance: Annotated[
        bool, Field(description="replay is drawn until its domains and classes, as inferred, are equally frequent")
    ] = True
    refresh: Annotated[
        Literal["task", "epoch"],
        Field(
            description="replay is drawn once a task and stored, or anew each time that it is rehearsed, and never stored"
        ),
    ] = "task"
    labels_per_class: Annotated[
        int | None,
        Field(
            ge=0,
            description="labelled rows of each class in a task, the others without label; None: all; 0: none, classes are then categories found "
            "by the model itself",
        ),
    ] = None
    joint: Annotated[bool, Field(description="learn all tasks at once: the upper bound")] = False

    kinds: ClassVar[Sequence[Kind]] = ("classification",)

    def check(self, problems: Problems) -> None:
        problems.check(
            self.steps is None or self.epochs is None,
            f"steps = {self.steps} and epochs = {self.epochs}: give one of the two",
        )
        rehearsal = (self.replay_ratio, self.mixing, self.confidence or 0.0, self.balance, self.refresh)
        problems.check(
            rehearsal == (1.0, "pool", 0.0, True, "task") or not (self.joint or not self.replay),
            f"replay = {self.replay!r}, joint = {self.joint}: nothing is rehearsed; leave replay_ratio, mixing, confidence, balance and refresh out",
        )
        problems.check(
            self.labels_per_class != 0 or (self.autoencoder is not None and self.autoencoder.shape_inference),
            "labels_per_class = 0: nothing would teach the inference of classes; use an autoencoder with shape_inference = True and code_kl_weight "
            "= 1",
        )

    def recommended(self, values: Mapping[str, Any], option: str | None = None) -> Mapping[str, Any]:
        if option is None and self.epochs is not None:
            return {name: value for name, value in values.items() if name != "steps"}
        return values if option is None else {}

    @property
    def on_merged_stream(self) -> bool:
        return self.joint

    @property
    def takes_unlabelled(self) -> bool:
        return self.labels_per_class is not None

    @property
    def unsupervised(self) -> bool:
        """Whether classes are categories of the model's own, which may mean anything in any domain."""
        return self.labels_per_class == 0

    # ------------------------------------------------------------------ life cycle

    def build(self, spec: StreamSpec, rng: Randomness, device: Device) -> None:
        self.spec, self.rng, self.device = spec, rng, device
        self.model = self.autoencoder if self.autoencoder is not None else AdversarialAutoencoder()
        self.model.build(spec, rng, device)
        self.snapshot: AdversarialAutoencoder | None = None
        self.pool: TensorRows | None = None
        self.task = -1
        self.rows_now = 0
        self.images_drawn = 0  # for the replay set, those that were drawn again included
        self.first_drawn: Recognised | None = None  # what the snapshot took the first drawing of the replay set for
        self.labelled: Labelled = "all"  # of the rows of the phase
        self.unlabelled = 0.0  # share of them that lack a class

    def extend(self, spec: StreamSpec) -> None:
        self.spec = spec
        self.model.extend(spec)

    def begin_task(self, task: Task) -> None:
        self._check_labels(task)
        # The copy is made before anything of the new task can touch the model.
        rehearses = task.index > 0 and self.replay
        self.snapshot = self.model.frozen() if rehearses else None
        self.pool = None
        self.model.begin_task()
        self.task, self.rows_now = task.index, len(task.train)

    def _check_labels(self, task: Task) -> None:
        """Raises DataError for rows without label where all have one, and for labels that are no class of the stream."""
        labels = task.train.labels
        if not self.takes_unlabelled and bool((labels < 0).any()):
            raise DataError(
                f"task {task.name!r}: {int((labels < 0).sum())} of {len(labels)} rows have no label; label them, or say how many are labelled with "
                "labels_per_class"
            )
        if len(labels) and int(labels.max()) >= self.spec.outputs:
            raise DataError(
                f"task {task.name!r}: a row of class {int(labels.max())}, and the stream has classes 0 to {self.spec.outputs - 1}"
            )

    def phases(self, task: Task | None) -> tuple[Phase, ...]:
        if task is None:
            return ()
        steps = None if self.epochs is not None else self.steps or 1000
        return (Phase("train", self.batch_size or 64, steps, self.epochs),)

    def rows(self, phase: Phase, task: Task | None) -> Rows:
        assert task is not None
        new: Rows = task.train
        if self.labels_per_class is not None:
            new = Relabelled(new, self._hidden(new.labels, task.index))
        past = self._wanted() if self.refresh == "epoch" else self.replay_set()
        rows = new if past is None else JoinedRows([new, past])
        unsure = self.refresh == "epoch" and past is not None and self._confidence > 0  # of replay, drawn in the steps
        self.unlabelled = (rows.labels < 0).float().mean().item()
        self.labelled = "none" if self.unsupervised else "some" if self.unlabelled or unsure else "all"
        return rows

    def step(self, phase: Phase, batch: Batch) -> Losses:
        if self.refresh == "epoch" and self.snapshot is not None:
            batch = self._redrawn(self.snapshot, batch)
        if self.mixing == "weighted" and self.snapshot is not None:
            batch = replace(batch, weight=self._weights(batch.task))
        return prefixed("lgaa", self.model.step(batch, self.labelled))

    def _hidden(self, labels: Tensor, task: int) -> Tensor:
        """Labels of which all but some of each class are unknown."""
        result = torch.full_like(labels, UNKNOWN)
        for c in labels[labels >= 0].unique().tolist():
            mine = (labels == c).nonzero().flatten()
            rng = Randomness(self.rng.seed).at("labelled rows", task, c)
            chosen = mine[torch.randperm(len(mine), generator=rng)[: self.labels_per_class]]
            result[chosen] = labels[chosen]
        return result

    def _weights(self, task: Tensor) -> Tensor:
        """(B,) new rows together 1 / t, replay the rest."""
        new = task == self.task
        share = 1 / (self.task + 1)
        count = new.sum().clamp(min=1), (~new).sum().clamp(min=1)
        weight = torch.where(new, share / count[0], (1 - share) / count[1])
        return weight / weight.sum()

    # ------------------------------------------------------------------ replay

    @property
    def _confidence(self) -> float:
        return (SURE if self.labels_per_class else 0.0) if self.confidence is None else self.confidence

    def replay_set(self) -> TensorRows | None:
        """That of the present task, None where nothing is rehearsed: drawn when it is first asked for, the same each time. Where none is stored
        (refresh), one that is drawn as those of the steps are."""
        if self.snapshot is None or self.pool is not None:
            return self.pool
        drawn = self._drawn(self.snapshot)
        if self.refresh == "task":
            self.pool = drawn
        return drawn

    def _drawn(self, snapshot: AdversarialAutoencoder) -> TensorRows:
        """The replay set, as bytes: images, the classes and domains that the snapshot finds in them."""
        asked = self.asked(snapshot, self._replay_rows)
        made = self.rehearsed(snapshot, *asked, self.rng.at("replay set", self.task))
        self.images_drawn, self.first_drawn = made.images, made.first
        return TensorRows(made.x, made.classes, made.domains)

    def _wanted(self) -> TensorRows | None:
        """What is asked for in place of a stored replay set: blank images, their classes and domains."""
        if self.snapshot is None:
            return None
        classes, domains = self.asked(self.snapshot, self._replay_rows)
        shape = self.spec.input_shape
        nothing = torch.zeros(len(classes), 1, dtype=torch.uint8)
        return TensorRows(nothing, classes, domains, transform=lambda x: x.new_zeros(len(x), *shape))

    def _redrawn(self, snapshot: AdversarialAutoencoder, batch: Batch) -> Batch:
        """The batch with replay in place of what is asked for."""
        where = (batch.task != self.task).nonzero().flatten()
        if not len(where) or batch.y is None:
            return batch
        made = self.rehearsed(snapshot, batch.y[where].cpu(), batch.task[where].cpu(), self.rng("replay"))
        values = made.x.float() / 255, made.classes, made.domains
        x, y, task = (
            whole.index_copy(0, where, part.to(whole.device))
            for whole, part in zip((batch.x, batch.y, batch.task), values, strict=True)
        )
        return replace(batch, x=x, y=y, task=task)

    def rehearsed(
        self, snapshot: AdversarialAutoencoder, classes: Tensor, domains: Tensor, rng: torch.Generator
    ) -> Drawn:
        """Images of these classes and domains (n,), drawn again while they are taken for others, or the snapshot is not sure enough; on the CPU."""
        device = self.device.torch_device
        return rehearse(
            snapshot,
            *(classes.to(device), domains.to(device), rng),
            balance=self.balance,
            confidence=self._confidence,
            categories=self.unsupervised,
        ).cpu()

    @property
    def _replay_rows(self) -> int:
        return max(1, round(self.replay_ratio * self.rows_now))

    def asked(self, snapshot: AdversarialAutoencoder, n: int) -> tuple[Tensor, Tensor]:
        """Classes and domains (n,) that n replayed rows are to have: domains take turns, and within each the classes that it taught."""
        domains = torch.arange(n) % snapshot.seen
        classes = torch.empty(n, dtype=torch.int64)
        for domain, mine in enumerate(self.taught(snapshot)):
            turns = torch.arange(len(classes[domains == domain]))
            choice = mine.nonzero().flatten()
            classes[domains == domain] = choice[turns % len(choice)]
        return classes, domains

    def taught(self, model: AdversarialAutoencoder) -> Tensor:
        """(domains learnt, classes) bool: which classes each may be asked for; all, where they are categories of the model's own."""
        taught = model.taught()
        return torch.ones_like(taught) if self.unsupervised else taught

    # ------------------------------------------------------------------ answers

    def predict(self, x: Tensor, task: int | None = None) -> Prediction:
        """Log-probabilities of the classes; ``by_task`` the same over the classes of each domain, and ``task_scores`` how likely each domain is
        to the inference of domains from the code of x ("code")."""
        found = self.model.encode(x)
        logs = torch.log_softmax(found.class_logits, dim=1)
        if task is not None or self.task < 0:
            return masked(logs, self.spec, self.task, task)
        answer = masked(logs, self.spec, self.task, None)
        domains = torch.log_softmax(found.domain_logits, dim=1)
        heads = self.spec.heads[: domains.shape[1]]
        each = [masked(logs, self.spec, self.task, place).scores for place in range(len(heads))]
        return Prediction(
            answer.scores, by_task=torch.stack(each, dim=1), task_scores={"code": domains[:, : len(heads)]}
        )

    def measure(self, x: Tensor) -> dict[str, Tensor]:
        """(B,) of further matrices: the mean squared error a pixel of reconstruction, images in [0, 1]."""
        return {"reconstruction_mse": (self.model.reconstruct(x) - x).square().flatten(1).mean(dim=1)}

    # ------------------------------------------------------------------ state and cost

    def state(self) -> State:
        snapshot = None if self.snapshot is None else self.snapshot.state()
        return {"task": self.task, "rows_now": self.rows_now, "model": self.model.state(), "snapshot": snapshot}

    def load(self, state: State) -> None:
        self.task, self.rows_now = state["task"], state["rows_now"]
        self.model.load(state["model"])
        self.snapshot = self.pool = None
        if state["snapshot"] is not None:
            self.snapshot = self.model.frozen()
            self.snapshot.load(state["snapshot"])

    def memory(self) -> Memory:
        working = {"autoencoder training": self.model.working_bytes()}
        if self.snapshot is not None:
            working["snapshot"] = self.snapshot.num_bytes()
        if self.pool is not None:
            working["replay set"] = len(self.pool) * stored_bytes(self.pool)
        return Memory({"autoencoder": self.model.num_bytes()}, working)

    def flops(self, phase: Phase, task: Task | None) -> float:
        """Of a step, with its share of the making of the replay set."""
        total = self.model.flops(phase.batch_size)
        if self.labelled == "some":
            total += self.model.smoothing_flops(round(phase.batch_size * self.unlabelled))
        if self.snapshot is None:
            return total
        if self.pool is not None:
            images = self.images_drawn / max(phase.length(self.rows_now + len(self.pool)), 1)
        else:  # drawn in the step, and what is drawn again is not foreseen
            images = phase.batch_size * self.replay_ratio / (1 + self.replay_ratio)
        return total + images * self.snapshot.rehearsal_flops(1)

    def probes(self) -> Sequence[Probe]:
        return (Dreams(), Risk())


AUTOENCODERS = Table("autoencoder", AdversarialAutoencoder, {"lgaa": AdversarialAutoencoder}, usual="lgaa")
