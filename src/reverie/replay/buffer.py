"""A buffer of real rows under a budget."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from reverie.checks import NotReadyError, OptionsError, Problems
from reverie.options import Part, Table
from reverie.replay.encoding import Encoding, decode, empty, encode
from reverie.replay.selection import Strategy, greedy_balance, herding, k_centre, reservoir_slots, unit_features
from reverie.seeding import Randomness
from reverie.types import Batch, Rows, Solver, State, StreamSpec

CHUNK = 4096


@dataclass(eq=False, repr=False)
class Buffer(Part):
    """Keeps rows of past tasks and draws from them uniformly with replacement.

    strategy: "reservoir", every row seen is kept with equal probability (Vitter 1985); "class-balanced", a reservoir for every class
    (of every task); "greedy-balance", rows taken one by one while their class has less than an equal share, the largest class giving
    way (GDumb, Prabhu, Torr and Dokania 2020); for every class, "herding", the rows whose mean feature is closest to its mean (Rebuffi
    et al. 2017), "ring", the newest, "k-centre", those that cover its features best (Sener and Savarese 2018). Images that arrive as
    bytes are stored as bytes.

    All but "reservoir" keep classes balanced. "greedy-balance" is the one of them that uses the whole budget from the first task on, also
    where "items-per-class" counts classes to come; classes met early keep what later, smaller ones do not fill. Its rows are the first
    of their class, those of "ring" the last, those of "class-balanced" a uniform draw.
    encoding: of the inputs or latents; "float16" and "int8" round them.
    """

    budget: Annotated[int | None, Field(gt=0, description="how much is kept, in ``unit``; None: everything")] = 100
    unit: Annotated[
        Literal["items-per-class", "items", "bytes"],
        Field(description="what the budget counts; items and bytes are shared equally by the classes so far"),
    ] = "items-per-class"
    strategy: Annotated[Strategy, Field(description="which rows stay")] = "class-balanced"
    encoding: Annotated[
        Encoding,
        Field(
            description="how a row is stored: lossless; float16; int8 (256 steps between the row's lowest and highest value)"
        ),
    ] = "lossless"

    def check(self, problems: Problems) -> None:
        for name, value, usual in (
            ("unit", self.unit, "items-per-class"),
            ("strategy", self.strategy, "class-balanced"),
        ):
            problems.check(
                self.budget is not None or value == usual,
                f"{name} = {value!r}: has no effect where budget = None keeps everything; give a budget or leave it out",
            )

    @property
    def labels(self) -> Tensor:
        """(N,) int64 classes of the rows that are kept; all 0 in regression."""
        return self.y if self.y.dim() == 1 else torch.zeros(len(self.y), dtype=torch.int64)

    def check_budget(self, classes: int) -> None:
        """Raises OptionsError when the budget cannot hold one row of each of that many classes (tasks, in regression)."""
        if self.capacity() is not None and self.unit != "items-per-class" and (self.capacity() or 0) < classes:
            what = "tasks" if self.spec.kind == "regression" else "classes"
            raise OptionsError(
                f"budget = {self.budget} {self.unit}: holds {self.capacity()} rows, fewer than the {classes} {what} of this stream; raise it"
            )

    def build(self, spec: StreamSpec, rng: Randomness) -> None:
        self.rng = rng
        self.choice = Randomness(rng.seed)  # rows are chosen on the CPU, whatever the device
        self.spec = spec
        self.x = empty(self.encoding, spec.input_shape)
        # Latents are no bytes: a budget too small for them as floats is refused before any training.
        if self.encoding == "lossless" and math.inf in map(abs, spec.value_range or ()):
            self.x = self.x.float()
        # Class indices, or in regression the targets of each row.
        self.y = torch.empty(0, spec.outputs) if spec.kind == "regression" else torch.empty(0, dtype=torch.int64)
        self.task = torch.empty(0, dtype=torch.int64)
        self.seen: dict[str, int] = {}
        classes = _classes(spec)
        self.check_budget(classes)
        # A reservoir's size is settled here: a later one would leave slots that no row is drawn into.
        self.reservoir = self.budget * classes if self.budget is not None and self.unit == "items-per-class" else None

    def extend(self, spec: StreamSpec) -> None:
        """Classes have joined; raises OptionsError when the budget is too small for them."""
        self.spec = spec
        self.check_budget(_classes(spec))

    def capacity(self) -> int | None:
        """Rows that the whole buffer may hold; None for one budget a class, or no limit."""
        if self.budget is None or self.unit == "items-per-class":
            return None
        return self.budget if self.unit == "items" else self.budget // self._row_bytes()

    def _row_bytes(self) -> int:
        """Of the input, the label and the task number: what ``num_bytes`` counts."""
        labels = math.prod(self.y.shape[1:]) * self.y.element_size() + self.task.element_size()
        return math.prod(self.x.shape[1:]) * self.x.element_size() + labels

    def add_task(self, rows: Rows, task: int, solver: Solver) -> None:
        """Takes in a finished task: each of its rows is offered once, in random order."""
        order = torch.randperm(len(rows), generator=self.choice.at("buffer order", task))
        if self.strategy == "reservoir":
            self._add_reservoir(rows, order, task)
        elif self.strategy == "greedy-balance":
            self._add_greedily(rows, order, task)
        else:
            self._add_by_class(rows, order, task, solver)

    def sample(self, n: int, current: Batch | None = None) -> Batch:
        if len(self.x) == 0:
            raise NotReadyError("the replay buffer is empty; it is filled at the end of a task")
        device = self.rng.device
        index = torch.randint(len(self.x), (n,), generator=self.rng("buffer draw"), device=device).to(self.x.device)
        weight = torch.full((n,), 1 / n)
        return Batch(self.decoded(self.x[index]), self.y[index], self.task[index], weight).to(device)

    def decoded(self, stored: Tensor) -> Tensor:
        """Rows of ``x`` as they are drawn: (n, *input_shape) float32."""
        return decode(stored, self.encoding, self.spec.input_shape)

    def num_bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in (self.x, self.y, self.task))

    def state(self) -> State:
        rows = {"x": self.x, "y": self.y, "task": self.task}
        return {**rows, "seen": dict(self.seen), "reservoir": self.reservoir}

    def load(self, state: State) -> None:
        self.x, self.y, self.task = (state[name].clone() for name in ("x", "y", "task"))  # a reservoir writes to them
        self.seen, self.reservoir = dict(state["seen"]), state["reservoir"]

    # ------------------------------------------------------------------ filling

    def _add_reservoir(self, rows: Rows, order: Tensor, task: int) -> None:
        capacity = self.reservoir or self.capacity()
        assert capacity is not None  # checked: a reservoir has a budget
        seen, dtype = self.seen.get("all", 0), self.x.dtype
        chosen, slots = reservoir_slots(seen, len(rows), capacity, self.choice.at("reservoir", task))
        x, y, where = self._read(rows, order[chosen], task)
        if self.x.dtype != dtype and self.unit == "bytes":  # rows turned out to need more bytes: fewer fit
            keep = torch.randperm(len(self.x), generator=self.choice.at("smaller reservoir", task))[: self.capacity()]
            self.x, self.y, self.task = self.x[keep], self.y[keep], self.task[keep]
            return self._add_reservoir(rows, order, task)
        length = max(len(self.x), int(slots.max()) + 1 if len(slots) else 0)
        self._resize(length)
        self.x[slots], self.y[slots], self.task[slots] = x, y, where
        self.seen["all"] = seen + len(rows)

    def _add_greedily(self, rows: Rows, order: Tensor, task: int) -> None:
        assert self.budget is not None  # checked
        capacity = self.capacity() or self.budget * _classes(self.spec)
        held = list(zip(self.task.tolist(), self.labels.tolist(), strict=True))
        offered = [(task, c) for c in rows.labels[order].tolist()]
        kept, chosen = greedy_balance(held, offered, capacity, self.choice.at("greedy balance", task))
        dtype = self.x.dtype
        x, y, where = self._read(rows, order[chosen], task)
        if self.x.dtype != dtype and self.unit == "bytes":  # rows turned out to need more bytes: fewer fit
            return self._add_greedily(rows, order, task)
        self.x, self.y = torch.cat([self.x[kept], x]), torch.cat([self.y[kept], y])
        self.task = torch.cat([self.task[kept], where])

    def _add_by_class(self, rows: Rows, order: Tensor, task: int, solver: Solver) -> None:
        labels = rows.labels[order]
        for c in torch.unique(labels).tolist():
            mine = order[labels == c]
            quota = self._quota(new=(task, c))
            if quota is not None and self.strategy == "herding":
                mine = mine[herding(self._features(rows, mine, solver), quota)]
            elif quota is not None and self.strategy == "k-centre":
                mine = mine[k_centre(self._features(rows, mine, solver), quota)]
            elif quota is not None and self.strategy == "ring":
                mine = mine[-quota:].flip(0)
            elif quota is not None:
                mine = mine[:quota]  # the first of a random order: a uniform draw without replacement
            x, y, where = self._read(rows, mine, task)
            self.x, self.y, self.task = torch.cat([self.x, x]), torch.cat([self.y, y]), torch.cat([self.task, where])
        self._trim()

    def _quota(self, new: tuple[int, int] | None = None) -> int | None:
        """Rows that each class may hold once ``new`` has joined."""
        if self.budget is None:
            return None
        if self.unit == "items-per-class":
            return self.budget
        keys = set(zip(self.task.tolist(), self.labels.tolist(), strict=True))
        if new is not None:
            keys.add(new)
        return (self.capacity() or 0) // max(len(keys), 1)

    def _trim(self) -> None:
        """Drops the rows of each class that came last in its own order, down to the present quota."""
        quota = self._quota()
        if quota is None:
            return
        keep, labels = torch.zeros(len(self.x), dtype=torch.bool), self.labels
        for task, c in sorted(set(zip(self.task.tolist(), self.labels.tolist(), strict=True))):
            keep[((self.task == task) & (labels == c)).nonzero().flatten()[:quota]] = True
        self.x, self.y, self.task = self.x[keep], self.y[keep], self.task[keep]

    def _read(self, rows: Rows, index: Tensor, task: int) -> tuple[Tensor, Tensor, Tensor]:
        parts = [rows.take(part) for part in index.split(CHUNK)]
        x = torch.cat([part.x.cpu() for part in parts]) if parts else torch.empty(0, *self.spec.input_shape)
        encoded = encode(x, self.encoding)
        if encoded.dtype != self.x.dtype:  # lossless rows are bytes until one is not
            if self.x.dtype == torch.uint8:
                self.x = self.decoded(self.x)
                self.check_budget(_classes(self.spec))  # floats take four times the bytes
            encoded = x
        y = torch.cat([part.y.cpu() for part in parts if part.y is not None]) if parts else self.y[:0]
        return encoded, y, torch.full((len(index),), task)

    def _features(self, rows: Rows, index: Tensor, solver: Solver) -> Tensor:
        parts = [unit_features(solver, rows.take(part).x.to(self.rng.device)).cpu() for part in index.split(CHUNK)]
        return torch.cat(parts)

    def _resize(self, length: int) -> None:
        missing = length - len(self.x)
        if missing > 0:
            self.x = torch.cat([self.x, torch.zeros(missing, *self.x.shape[1:], dtype=self.x.dtype)])
            self.y = torch.cat([self.y, torch.zeros(missing, *self.y.shape[1:], dtype=self.y.dtype)])
            self.task = torch.cat([self.task, torch.zeros(missing, dtype=torch.int64)])


BUFFERS = Table("buffer", Buffer, {"buffer": Buffer})


def _classes(spec: StreamSpec) -> int:
    """Classes of the stream, counted in every task they occur in; in regression a task is one."""
    if spec.kind == "regression":
        return spec.tasks
    return len({(head, c) for head, classes in enumerate(spec.heads) for c in classes})
