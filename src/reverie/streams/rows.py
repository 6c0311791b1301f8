"""Rows over tensors, over any map-style data set, and joined from several."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reverie.checks import DataError
from reverie.types import Batch, Rows


def _weights(n: int, device: torch.device) -> Tensor:
    return torch.full((n,), 1 / max(n, 1), device=device)


class TensorRows:
    """Rows over an array held in memory, or memory-mapped by NumPy.

    x: (M, ...) uint8 (read as x / 255) or float32; index: (N,) the rows of x that are meant, in order; labels, tasks: (N,) int64;
    targets: (N, outputs) float32, of regression, which batches then have for y.
    ``transform`` maps a float32 batch (B, ...) to another, row by row, at every take; with ``once`` it is instead applied to
    all rows when they are first moved to a device or read.
    """

    def __init__(
        self,
        x: Tensor,
        labels: Tensor,
        task: int | Tensor = 0,
        index: Tensor | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
        once: bool = False,
        targets: Tensor | None = None,
    ) -> None:
        self._x, self._index = x, index
        self._labels = labels
        self._tasks = task if isinstance(task, Tensor) else torch.full((len(labels),), task)
        self._transform = transform
        self._once = once
        self._targets = targets
        self._y = labels if targets is None else targets  # on the device

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def labels(self) -> Tensor:
        return self._labels

    def take(self, indices: Tensor) -> Batch:
        self._prepare()
        indices = indices.to(self._y.device)
        where = indices if self._index is None else self._index[indices]
        x = _as_float(self._x.index_select(0, where.to(self._x.device)))
        if self._transform is not None:
            x = self._transform(x)
        return Batch(x, self._y[indices], self._tasks[indices], _weights(len(indices), x.device))

    def chunks(self, size: int) -> Iterator[Batch]:
        for start in range(0, len(self), size):
            yield self.take(torch.arange(start, min(start + size, len(self))))

    def to(self, device: torch.device) -> Rows:
        if device == self._y.device:
            return self
        self._prepare()
        x = self._x if self._index is None else self._x.index_select(0, self._index)
        tasks = self._tasks.to(device)
        moved = TensorRows(x.to(device), self._labels, tasks, None, self._transform, targets=self._targets)
        moved._y = self._y.to(device)
        return moved

    def _prepare(self) -> None:
        if not self._once or self._transform is None:
            return
        x = self._x if self._index is None else self._x.index_select(0, self._index)
        parts = [self._transform(_as_float(part)) for part in x.split(4096)]
        whole = torch.cat(parts) if parts else _as_float(x)
        if self._x.dtype == torch.uint8:  # a byte a pixel, as the source had
            whole = (whole * 255).round().clamp(0, 255).to(torch.uint8)
        self._x, self._index, self._transform = whole, None, None


def _as_float(x: Tensor) -> Tensor:
    return x.to(torch.float32).div_(255) if x.dtype == torch.uint8 else x.to(torch.float32)


class DatasetRows:
    """Rows over any map-style ``torch.utils.data.Dataset`` whose items are (x, label); read row by row, so it may be larger than memory."""

    def __init__(self, dataset: Any, labels: Tensor, task: int = 0, index: Sequence[int] | None = None) -> None:
        self._dataset = dataset
        self._labels = labels
        self._task = task
        self._index = index
        self._device = torch.device("cpu")

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def labels(self) -> Tensor:
        return self._labels

    def take(self, indices: Tensor) -> Batch:
        indices = indices.cpu()
        where = indices.tolist() if self._index is None else [self._index[i] for i in indices.tolist()]
        x = torch.stack([item_array(self._dataset[i]) for i in where])
        finite = torch.isfinite(x.flatten(1)).all(dim=1)
        if not bool(finite.all()):
            raise DataError(
                f"row {where[int(finite.logical_not().nonzero()[0])]} of the data set holds NaN or infinite values"
            )
        batch = Batch(x, self._labels[indices], torch.full((len(where),), self._task), _weights(len(where), x.device))
        return batch if self._device == x.device else batch.to(self._device)

    def chunks(self, size: int) -> Iterator[Batch]:
        for start in range(0, len(self), size):
            yield self.take(torch.arange(start, min(start + size, len(self))))

    def to(self, device: torch.device) -> Rows:
        moved = copy.copy(self)
        moved._device = device
        return moved


def item_array(item: Any) -> Tensor:
    """The input of one data set item as float32, channels first; uint8 and PIL images become [0, 1]."""
    x = item[0]
    if not isinstance(x, Tensor):
        array = np.asarray(x)
        is_image = not isinstance(x, np.ndarray)
        x = torch.from_numpy(np.array(array))
        if is_image:  # PIL: (H, W) or (H, W, C)
            x = x[None] if x.dim() == 2 else x.permute(2, 0, 1)
    return _as_float(x)


class JoinedRows:
    """Several rows one after the other, as one."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        self._parts = tuple(parts)
        self._labels = torch.cat([part.labels for part in self._parts])
        ends = np.cumsum([len(part) for part in self._parts])
        self._ends = torch.from_numpy(ends)

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def labels(self) -> Tensor:
        return self._labels

    def take(self, indices: Tensor) -> Batch:
        indices = indices.cpu()
        owner = torch.searchsorted(self._ends, indices, right=True)
        starts = torch.cat([torch.zeros(1, dtype=self._ends.dtype), self._ends[:-1]])
        pieces, places = [], []
        for number, part in enumerate(self._parts):
            place = (owner == number).nonzero().flatten()
            if len(place):
                pieces.append(part.take(indices[place] - starts[number]))
                places.append(place)
        back = torch.argsort(torch.cat(places))
        device = pieces[0].x.device
        back = back.to(device)
        return Batch(
            torch.cat([piece.x for piece in pieces])[back],
            torch.cat([piece.y for piece in pieces if piece.y is not None])[back],
            torch.cat([piece.task for piece in pieces])[back],
            _weights(len(indices), device),
        )

    def chunks(self, size: int) -> Iterator[Batch]:
        for start in range(0, len(self), size):
            yield self.take(torch.arange(start, min(start + size, len(self))))

    def to(self, device: torch.device) -> Rows:
        return JoinedRows([part.to(device) for part in self._parts])


class ChosenRows:
    """Some of the rows, in the order of ``index`` (N,)."""

    def __init__(self, rows: Rows, index: Tensor) -> None:
        self._rows, self._index = rows, index
        self._labels = rows.labels[index.cpu()]

    def __len__(self) -> int:
        return len(self._index)

    @property
    def labels(self) -> Tensor:
        return self._labels

    def take(self, indices: Tensor) -> Batch:
        return self._rows.take(self._index[indices.to(self._index.device)])

    def chunks(self, size: int) -> Iterator[Batch]:
        for part in self._index.split(size):
            yield self._rows.take(part)

    def to(self, device: torch.device) -> Rows:
        return ChosenRows(self._rows.to(device), self._index.to(device))


class Relabelled:
    """The same rows under other labels (N,) int64."""

    def __init__(self, rows: Rows, labels: Tensor) -> None:
        self._rows, self._labels = rows, labels

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def labels(self) -> Tensor:
        return self._labels

    def take(self, indices: Tensor) -> Batch:
        batch = self._rows.take(indices)
        return replace(batch, y=self._labels[indices.cpu()].to(batch.x.device))

    def chunks(self, size: int) -> Iterator[Batch]:
        for start in range(0, len(self), size):
            yield self.take(torch.arange(start, min(start + size, len(self))))

    def to(self, device: torch.device) -> Rows:
        return Relabelled(self._rows.to(device), self._labels)


def stored_bytes(rows: Rows) -> int:
    """Bytes of a row, input, label or targets, and task, as a buffer would keep it; judged by the first rows."""
    first = rows.take(torch.arange(min(len(rows), 256)))
    x, y = first.x, first.y
    label = 8 if y is None or y.dim() == 1 else 4 * y.shape[1]
    return x[0].numel() * (1 if as_bytes(x) is not None else 4) + label + 8


def as_bytes(x: Tensor) -> Tensor | None:
    """x as uint8 if every value is a whole number of 255ths, else None."""
    scaled = (x * 255).round()
    fits = bool((scaled >= 0).all()) and bool((scaled <= 255).all()) and torch.equal(scaled / 255, x)
    return scaled.to(torch.uint8) if fits else None
