"""FeTrIL (Petit et al. 2023, "Feature translation for exemplar-free class-incremental learning", arXiv 2211.13131)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from reverie.device import Device
from reverie.learners.base import SolverLearner
from reverie.seeding import Randomness
from reverie.solvers.moments import Moments
from reverie.types import Batch, Memory, Phase, Rows, State, StreamSpec, Task

CHUNK = 4096


@dataclass(eq=False, repr=False)
class FeTrIL(SolverLearner):
    """Pseudo-rows of an old class p are rows of a new class n moved by the difference of their means, x + m_p - m_n.

    n is the new class whose mean is nearest; a class that comes back is moved from its own new rows. Every class is drawn equally often: each
    has as many rows as the largest new one. Only means are kept, one for each class of each task, and the solver trains on from
    task to task. Meant for a frozen backbone; the published head is linear.
    """

    batch_size: Annotated[
        int | None, Field(gt=0, description="rows a step, new and moved ones together; None: the stream's")
    ] = None
    nearest: Annotated[
        Literal["euclidean", "cosine"], Field(description="which new mean is nearest to that of an old class")
    ] = "euclidean"

    def build(self, spec: StreamSpec, rng: Randomness, device: Device) -> None:
        super().build(spec, rng, device)
        self.means = ClassMeans.none(torch.Size(spec.input_shape).numel(), device.torch_device)

    def rows(self, phase: Phase, task: Task | None) -> Rows:
        assert task is not None
        if len(self.means) == 0:
            return task.train
        return self._moved(task)

    def end_task(self, task: Task) -> None:
        self.means = self.means.and_more(self._means_of(task))

    def _means_of(self, task: Task) -> ClassMeans:
        moments = Moments(self.means.width, self.spec.outputs, "none", self.device.torch_device)
        for batch in task.train.to(self.device.torch_device).chunks(CHUNK):
            assert batch.y is not None
            moments.add(batch.x.flatten(1), batch.y)
        present = moments.counts.nonzero().flatten()
        return ClassMeans(moments.means[present].float(), present, torch.full_like(present, task.index))

    def _moved(self, task: Task) -> Rows:
        new, old = self._means_of(task), self.means
        places = {c: (task.train.labels == c).nonzero().flatten() for c in new.classes.tolist()}
        most = max(len(place) for place in places.values())
        index = torch.stack(
            [place[torch.arange(most) % len(place)] for place in places.values()]
        )  # (new classes, most)
        origin = torch.cat(
            [torch.arange(len(new)), self._origins(new).cpu()]
        )  # the new class behind each class, new ones first
        table = torch.cat([new.means, old.means])
        shift = table - new.means[origin.to(table.device)]
        source = torch.arange(len(origin)).repeat_interleave(most)
        labels = torch.cat([new.classes, old.classes]).cpu()[source]
        tasks = torch.cat([new.tasks, old.tasks]).cpu()[source]
        return MovedRows(task.train, index[origin].flatten(), labels, tasks, shift, source)

    def _origins(self, new: ClassMeans) -> Tensor:
        """(old means,) place of the new class that each old one is moved from."""
        old = self.means
        if self.nearest == "cosine":
            distance = -functional.normalize(old.means, dim=1) @ functional.normalize(new.means, dim=1).T
        else:
            distance = torch.cdist(old.means, new.means, compute_mode="donot_use_mm_for_euclid_dist")
        same = old.classes[:, None] == new.classes
        return distance.masked_fill(same, float("-inf")).argmin(dim=1)

    # ------------------------------------------------------------------ state and cost

    def state(self) -> State:
        return {**super().state(), "means": self.means.state()}

    def load(self, state: State) -> None:
        super().load(state)
        self.means = ClassMeans(**{name: value.to(self.device.torch_device) for name, value in state["means"].items()})

    def memory(self) -> Memory:
        base = super().memory()
        return Memory({**base.persistent, "class means": self.means.num_bytes()}, base.working)


@dataclass(frozen=True)
class ClassMeans:
    """means (k, d); classes and tasks (k,) int64."""

    means: Tensor
    classes: Tensor
    tasks: Tensor

    @classmethod
    def none(cls, width: int, device: torch.device) -> ClassMeans:
        nothing = torch.empty(0, dtype=torch.int64, device=device)
        return cls(torch.empty(0, width, device=device), nothing, nothing.clone())

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def width(self) -> int:
        return self.means.shape[1]

    def and_more(self, other: ClassMeans) -> ClassMeans:
        return ClassMeans(*(torch.cat([mine, theirs]) for mine, theirs in zip(self._all(), other._all(), strict=True)))

    def num_bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self._all())

    def state(self) -> State:
        return {"means": self.means, "classes": self.classes, "tasks": self.tasks}

    def _all(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.means, self.classes, self.tasks


class MovedRows:
    """Row i is row ``index[i]`` of ``rows`` plus ``shift[source[i]]``, with label and task of its own."""

    def __init__(self, rows: Rows, index: Tensor, labels: Tensor, tasks: Tensor, shift: Tensor, source: Tensor) -> None:
        self._rows, self._index, self._labels, self._tasks = rows, index, labels, tasks
        self._shift, self._source = shift, source

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def labels(self) -> Tensor:
        return self._labels

    def take(self, indices: Tensor) -> Batch:
        indices = indices.cpu()
        base = self._rows.take(self._index[indices])
        x = base.x + self._shift[self._source[indices].to(base.x.device)].reshape(base.x.shape)
        return Batch(x, self._labels[indices].to(x.device), self._tasks[indices].to(x.device), base.weight)

    def chunks(self, size: int) -> Iterator[Batch]:
        for part in torch.arange(len(self)).split(size):
            yield self.take(part)

    def to(self, device: torch.device) -> Rows:
        return MovedRows(
            self._rows.to(device), self._index, self._labels, self._tasks, self._shift.to(device), self._source
        )
