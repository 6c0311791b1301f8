"""Rows seen through a frozen network: each is passed through it once, and its latent kept while it is needed.

Environment: REVERIE_LATENTS, a folder in which latents are also kept between runs, so that many methods can be tried behind one
backbone. A file there is named by all that decides its bits; nothing is taken out of the folder.
"""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from reverie.checks import DataError, StorageError
from reverie.streams.rows import TensorRows
from reverie.types import Batch, Rows

CHUNK = 1024
STORE_VARIABLE = "REVERIE_LATENTS"


class LatentRows:
    """The latents of ``rows``, computed when they are first read.

    encode: (B, ...) -> (B, *shape); name: of what it computes, to the bit. More than ``memory_limit`` bytes are kept in a file that
    vanishes with the process, else in memory. With a name, and where REVERIE_LATENTS is
    set, they are kept there, and read from there.
    """

    def __init__(
        self,
        rows: Rows,
        encode: Callable[[Tensor], Tensor],
        shape: tuple[int, ...],
        memory_limit: int,
        name: str = "",
    ) -> None:
        self._rows, self._encode, self._shape = rows, encode, shape
        self._limit, self._name = memory_limit, name
        store = os.environ.get(STORE_VARIABLE)
        self._store = Path(store) if store and name else None
        self._device = torch.device("cpu")
        self._made: Rows | None = None

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def labels(self) -> Tensor:
        return self._rows.labels

    def take(self, indices: Tensor) -> Batch:
        return self._all().take(indices).to(self._device)

    def chunks(self, size: int) -> Iterator[Batch]:
        for start in range(0, len(self), size):
            yield self.take(torch.arange(start, min(start + size, len(self))))

    def to(self, device: torch.device) -> Rows:
        self._device = device
        return self

    def num_bytes(self) -> int:
        """Of the latents in float32."""
        return 4 * len(self) * math.prod(self._shape)

    def _all(self) -> Rows:
        if self._made is None:
            store, tasks = self._filled() if self._store is None else self._stored(self._store)
            made: Rows = TensorRows(store, self.labels, tasks)
            self._made = made.to(self._device) if self.num_bytes() <= self._limit else made
        return self._made

    def _filled(self, store: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """All latents and the tasks of the rows; into ``store`` where that is given."""
        store = self._room() if store is None else store
        tasks, start = [], 0
        for batch in self._rows.chunks(CHUNK):
            z = self._encoded(batch.x)
            store[start : start + len(z)] = z.to(store.device)
            tasks.append(batch.task.cpu())
            start += len(z)
        return store, torch.cat(tasks)

    def _stored(self, folder: Path) -> tuple[Tensor, Tensor]:
        """The same from a file in the folder, made where it is missing."""
        about = f"{self._name} {self._shape} {self._device} {torch.get_num_threads()} {torch.__version__}"
        digest, tasks = hashlib.sha256(about.encode()), []
        for batch in self._rows.chunks(CHUNK):
            digest.update(batch.x.cpu().contiguous().numpy().data)
            tasks.append(batch.task.cpu())
        path = folder / f"{digest.hexdigest()[:32]}.npy"
        size = (len(self), *self._shape)
        if not path.exists():
            partial = path.with_suffix(f".{os.getpid()}.partial")
            try:
                folder.mkdir(parents=True, exist_ok=True)
                array = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=size)
                with open(partial, "r+b") as file:
                    _reserve(file, os.path.getsize(partial))
                self._filled(torch.from_numpy(array))
                array.flush()
                os.replace(partial, path)
            except OSError as error:
                raise StorageError(
                    f"cannot keep {self.num_bytes():,} bytes of latents in {folder}, which {STORE_VARIABLE} names: {error}; make room there, "
                    "or unset it"
                ) from error
            finally:
                with suppress(OSError):
                    partial.unlink()
        try:
            array = np.lib.format.open_memmap(path, mode="c")
        except (OSError, ValueError) as error:
            raise StorageError(f"{path} does not hold latents ({error}); delete it, and it is made anew") from error
        return torch.from_numpy(array), torch.cat(tasks)

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
        try:
            with tempfile.TemporaryFile() as file:
                _reserve(file, self.num_bytes())
                array = np.memmap(file, dtype=np.float32, mode="w+", shape=size)
        except OSError as error:
            raise StorageError(
                f"cannot keep {self.num_bytes():,} bytes of latents in {tempfile.gettempdir()}: {error}; make room there, or name "
                "another folder with TMPDIR"
            ) from error
        return torch.from_numpy(array)


def _reserve(file: IO[bytes], size: int) -> None:
    """Takes the room on the disk now: a mapped file without it kills the process when the disk turns out to be full. Raises OSError."""
    if hasattr(os, "posix_fallocate"):  # macOS has none
        os.posix_fallocate(file.fileno(), 0, size)


def encoded(below: Any, x: Tensor) -> Tensor:
    """(B, ...) -> (B, *latent) float32 through a frozen network, in evaluation mode and without gradients."""
    with torch.no_grad(), below.device.autocast():
        z: Tensor = below.ready(train=False)(x)
    return z.float()
