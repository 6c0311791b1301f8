"""The lifelong generative adversarial autoencoder as a learner: it classifies, reconstructs and generates what it met in all its tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from reverie.checks import Problems
from reverie.device import Device
from reverie.generators.lgaa import UNKNOWN, AdversarialAutoencoder
from reverie.learners.base import masked, prefixed
from reverie.options import Part, Table
from reverie.seeding import Randomness
from reverie.streams.rows import JoinedRows, Relabelled, TensorRows
from reverie.types import (
    Batch,
    FrozenPrefix,
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

CHUNK = 1000  # images of the replay set that are made at a time
ROUNDS = 5  # in which replay is drawn until every class has its share; what is missing then is taken as it comes


@dataclass(eq=False, repr=False)
class LGAA(Part):
    """Autoencoder + replay set. When a task begins, the autoencoder is frozen as it is; from this snapshot a set of images is drawn once, evenly
    from all earlier domains and classes, labelled by the snapshot's own class inference (and, as soon as there is more than one, by its
    domain inference), and mixed with the rows of the task. Every step then learns all networks on such rows, see the autoencoder.

    The domain of a row is the task it was met in; it is known in training and inferred in use.
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
        Literal["snapshot", "none"], Field(description="what is rehearsed; none: fine-tuning, the lower bound")
    ] = "snapshot"
    replay_ratio: Annotated[float, Field(gt=0, description="size of the replay set for each row of the task")] = 1.0
    mixing: Annotated[
        Literal["pool", "weighted"],
        Field(description="pool: all rows weigh the same; weighted: new rows 1/t and replay 1 - 1/t in task t"),
    ] = "pool"
    confidence: Annotated[
        float, Field(ge=0, lt=1, description="replay of which the snapshot is less sure is drawn again")
    ] = 0.0
    balance: Annotated[
        bool, Field(description="replay is drawn until its classes, as inferred, are equally frequent")
    ] = True
    labels_per_class: Annotated[
        int | None,
        Field(ge=0, description="labelled rows of each class in a task, the others without label; None: all; 0: none"),
    ] = None
    joint: Annotated[bool, Field(description="learn all tasks at once: the upper bound")] = False

    def check(self, problems: Problems) -> None:
        problems.check(
            self.steps is None or self.epochs is None,
            f"steps = {self.steps} and epochs = {self.epochs}: give one of the two",
        )
        usual = (self.replay_ratio, self.mixing, self.confidence, self.balance) == (1.0, "pool", 0.0, True)
        problems.check(
            self.replay != "none" or usual,
            "replay = 'none': nothing is rehearsed; leave replay_ratio, mixing, confidence and balance out",
        )

    def recommended(self, values: Mapping[str, Any], option: str | None = None) -> Mapping[str, Any]:
        if option is None and self.epochs is not None:
            return {name: value for name, value in values.items() if name != "steps"}
        return values if option is None else {}

    @property
    def on_merged_stream(self) -> bool:
        return self.joint

    # ------------------------------------------------------------------ life cycle

    def build(self, spec: StreamSpec, rng: Randomness, device: Device) -> None:
        self.spec, self.rng, self.device = spec, rng, device
        self.model = self.autoencoder if self.autoencoder is not None else AdversarialAutoencoder()
        self.model.build(spec, rng, device)
        self.snapshot: AdversarialAutoencoder | None = None
        self.pool: TensorRows | None = None
        self.task = -1
        self.rows_now = 0

    def extend(self, spec: StreamSpec) -> None:
        self.spec = spec
        self.model.extend(spec)

    def begin_task(self, task: Task) -> None:
        rehearses = task.index > 0 and self.replay == "snapshot"
        self.snapshot = self.model.frozen() if rehearses else None
        self.model.begin_task()
        self.task, self.rows_now = task.index, len(task.train)
        self.pool = self._drawn() if rehearses else None

    def phases(self, task: Task | None) -> tuple[Phase, ...]:
        if task is None:
            return ()
        steps = None if self.epochs is not None else self.steps or 1000
        return (Phase("train", self.batch_size or 64, steps, self.epochs),)

    def rows(self, phase: Phase, task: Task | None) -> Rows:
        assert task is not None
        new: Rows = task.train
        if self.labels_per_class is not None:
            new = Relabelled(new, self._hidden(new.labels))
        return new if self.pool is None else JoinedRows([new, self.pool])

    def step(self, phase: Phase, batch: Batch) -> Losses:
        if self.mixing == "weighted" and self.pool is not None:
            batch = Batch(batch.x, batch.y, batch.task, self._weights(batch.task))
        return prefixed("lgaa", self.model.step(batch))

    def finished(self, phase: Phase) -> bool:
        return False

    def end_phase(self, phase: Phase, task: Task | None) -> None:
        pass

    def end_task(self, task: Task) -> None:
        self.snapshot = self.pool = None

    def _hidden(self, labels: Tensor) -> Tensor:
        """Labels of which all but some of each class are unknown."""
        result = torch.full_like(labels, UNKNOWN)
        for c in labels.unique().tolist():
            mine = (labels == c).nonzero().flatten()
            rng = Randomness(self.rng.seed).at("labelled rows", self.task, c)
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

    def _drawn(self) -> TensorRows:
        """The replay set, as bytes: images, the classes and domains that the snapshot finds in them."""
        snapshot = cast(AdversarialAutoencoder, self.snapshot)
        rng = self.rng.at("replay set", self.task)
        n = max(1, round(self.replay_ratio * self.rows_now))
        domains = torch.arange(n) % self.task
        taught = snapshot._taught()
        asked = torch.empty(n, dtype=torch.int64)
        for domain in range(self.task):
            classes = taught[domain].nonzero().flatten()
            mine = domains == domain
            asked[mine] = classes[torch.arange(int(mine.sum())) % len(classes)]
        x = torch.empty(n, *self.spec.input_shape, dtype=torch.uint8)
        y, a = torch.empty(n, dtype=torch.int64), domains.clone()
        open_places = torch.arange(n)
        for round_ in range(ROUNDS):
            if not len(open_places):
                break
            images, found, place, sure = self._labelled(snapshot, asked[open_places], domains[open_places], rng)
            good = sure >= self.confidence
            if self.balance:
                good &= found == asked[open_places]
            if round_ == ROUNDS - 1:
                good = torch.ones_like(good)
            filled = open_places[good]
            x[filled], y[filled], a[filled] = images[good], found[good], place[good]
            open_places = open_places[~good]
        return TensorRows(x, y, a)

    def _labelled(
        self, snapshot: AdversarialAutoencoder, classes: Tensor, domains: Tensor, rng: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Images of these classes and domains as bytes; the class that is found in each, its domain, and how sure the class is."""
        parts = []
        device = self.device.torch_device
        for c, d in zip(classes.split(CHUNK), domains.split(CHUNK), strict=True):
            x = snapshot.draw(c.to(device), d.to(device), rng)
            stored = (x * 255).round().to(torch.uint8)
            found = snapshot.encode(stored.float() / 255)
            sure, label = found.c.max(dim=1)
            place = found.a.argmax(dim=1) if self.task > 1 else d.to(device)
            parts.append(tuple(each.cpu() for each in (stored, label, place, sure)))
        images, label, place, sure = (torch.cat(each) for each in zip(*parts, strict=True))
        return images, label, place, sure

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

    @property
    def frozen_prefix(self) -> FrozenPrefix | None:
        return None

    # ------------------------------------------------------------------ state and cost

    def state(self) -> State:
        snapshot = None if self.snapshot is None else self.snapshot.state()
        return {"task": self.task, "rows_now": self.rows_now, "model": self.model.state(), "snapshot": snapshot}

    def load(self, state: State) -> None:
        self.task, self.rows_now = state["task"], state["rows_now"]
        self.model.load(state["model"])
        self.snapshot = self.pool = None
        if state["snapshot"] is not None:
            twin = self.model.clone()
            twin.build(self.spec, self.rng, self.device)
            twin.load(state["snapshot"])
            self.snapshot = twin.frozen()
            self.pool = self._drawn()

    def memory(self) -> Memory:
        working = {"autoencoder training": self.model.working_bytes()}
        if self.snapshot is not None and self.pool is not None:
            working["snapshot"] = self.snapshot.num_bytes()
            working["replay set"] = len(self.pool) * (self.pool._x[0].numel() + 16)
        return Memory({"autoencoder": self.model.num_bytes()}, working)

    def flops(self, phase: Phase, task: Task | None) -> float:
        return self.model.flops(phase.batch_size)

    def probes(self) -> Sequence[Probe]:
        return ()


AUTOENCODERS = Table("autoencoder", AdversarialAutoencoder, {"lgaa": AdversarialAutoencoder}, usual="lgaa")
