"""The past itself. It breaks the rule that old data are not kept; it serves tests and as the upper bound of any generator."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from reverie.checks import NotReadyError
from reverie.device import Device
from reverie.options import Part
from reverie.seeding import Randomness
from reverie.types import Batch, Level, Losses, Rows, State, StreamSpec


@dataclass(eq=False, repr=False)
class Oracle(Part):
    """Stores every row of every task with its label, and draws from them uniformly with replacement."""

    trains_by = "fit"
    own_phase = False
    stores_real_samples = True
    conditional = False
    labelled = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.level: Level = "input"

    def build(self, spec: StreamSpec, rng: Randomness, device: Device) -> None:
        self.device = device
        self.x = torch.empty(0, *spec.input_shape, device=device.torch_device)
        self.y = torch.empty(0, dtype=torch.int64, device=device.torch_device)
        self.task = self.y.clone()

    def extend(self, spec: StreamSpec) -> None:
        """It takes whatever rows come."""

    def fit(self, rows: Rows) -> None:
        """Adds all rows to those of earlier calls."""
        for chunk in rows.chunks(4096):
            chunk = chunk.to(self.device.torch_device)
            assert chunk.y is not None
            self.x, self.y, self.task = (
                torch.cat(pair) for pair in ((self.x, chunk.x), (self.y, chunk.y), (self.task, chunk.task))
            )

    def step(self, batch: Batch) -> Losses:
        return {}

    def sample(self, n: int, rng: torch.Generator, classes: Tensor | None = None) -> Batch:
        if len(getattr(self, "x", ())) == 0:
            raise NotReadyError("the oracle has seen no rows yet, so it has nothing to replay")
        index = torch.randint(len(self.x), (n,), generator=rng, device=self.x.device)
        weight = torch.full((n,), 1 / n, device=self.x.device)
        return Batch(self.x[index], self.y[index], self.task[index], weight)

    def begin_task(self) -> None:
        pass

    def frozen(self) -> Oracle:
        twin = self.clone()
        twin.device = self.device
        twin.x, twin.y, twin.task = self.x, self.y, self.task  # fit replaces them and writes to none
        return twin

    def num_bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in (self.x, self.y, self.task))

    def working_bytes(self) -> int:
        return 0

    def flops(self, rows: int, train: bool = True) -> float:
        return 0.0

    def state(self) -> State:
        return {"x": self.x, "y": self.y, "task": self.task}

    def load(self, state: State) -> None:
        self.x, self.y, self.task = (state[name].to(self.device.torch_device) for name in ("x", "y", "task"))
