"""Rows seen through a frozen network: each is passed through it once, and its latent kept while it is needed."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reverie.checks import DataError
from reverie.streams.rows import TensorRows
from reverie.types import Batch, Rows

CHUNK = 1024


class LatentRows:
    """The latents of ``rows``, computed when they are first read.

    encode: (B, ...) -> (B, *shape). More than ``memory_limit`` bytes are kept in a file that vanishes with the process, else in memory.
    ``keep`` False: computed anew at every read.
    """

    def __init__(
        self,
        rows: Rows,
        encode: Callable[[Tensor], Tensor],
        shape: tuple[int, ...],
        memory_limit: int,
        keep: bool = True,
    ) -> None:
        self._rows, self._encode, self._shape = rows, encode, shape
        self._limit, self._keep = memory_limit, keep
        self._device = torch.device("cpu")
        self._made: Rows | None = None

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def labels(self) -> Tensor:
        return self._rows.labels

    def take(self, indices: Tensor) -> Batch:
        if self._keep:
            return self._all().take(indices).to(self._device)
        batch = self._rows.take(indices)
        return Batch(self._encoded(batch.x), batch.y, batch.task, batch.weight)

    def chunks(self, size: int) -> Iterator[Batch]:
        for start in range(0, len(self), size):
            yield self.take(torch.arange(start, min(start + size, len(self))))

    def to(self, device: torch.device) -> Rows:
        self._device = device
        return self

    def num_bytes(self) -> int:
        """Of the latents in float32."""
        return 4 * len(self) * math.prod(self._shape) if self._keep else 0

    def _all(self) -> Rows:
        if self._made is None:
            store = self._room()
            tasks = []
            start = 0
            for batch in self._rows.chunks(CHUNK):
                z = self._encoded(batch.x)
                store[start : start + len(z)] = z.to(store.device)
                tasks.append(batch.task.cpu())
                start += len(z)
            made: Rows = TensorRows(store, self.labels, torch.cat(tasks))
            self._made = made.to(self._device) if self.num_bytes() <= self._limit else made
        return self._made

    def _encoded(self, x: Tensor) -> Tensor:
        z = self._encode(x.to(self._device))
        if not bool(torch.isfinite(z).all()):
            raise DataError("the backbone gives NaN or infinite latents; look at the inputs' range, and at its weights")
        return z

    def _room(self) -> Tensor:
        size = (len(self), *self._shape)
        if self.num_bytes() <= self._limit:
            return torch.empty(size)
        # The file has no name, so that it is gone when the process is, whatever ends it.
        with tempfile.TemporaryFile() as file:
            array = np.memmap(file, dtype=np.float32, mode="w+", shape=size)
        return torch.from_numpy(array)


def encoded(below: Any, x: Tensor) -> Tensor:
    """(B, ...) -> (B, *latent) float32 through a frozen network, in evaluation mode and without gradients."""
    with torch.no_grad(), below.device.autocast():
        z: Tensor = below.ready(train=False)(x)
    return z.float()
