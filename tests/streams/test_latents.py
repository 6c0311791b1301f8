"""Rows behind a frozen network."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from reverie.checks import DataError, StorageError
from reverie.streams.latents import CHUNK, LatentRows
from reverie.streams.rows import TensorRows


class Counted:
    """Twice the input, first three numbers; counts the rows that passed."""

    def __init__(self) -> None:
        self.rows = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.rows += len(x)
        return 2 * x[:, :3]


def rows_of(n: int) -> TensorRows:
    x = torch.arange(5.0 * n).reshape(n, 5)
    return TensorRows(x, torch.arange(n) % 4, torch.arange(n) // 10)


@pytest.mark.parametrize("memory_limit", [1 << 20, 0], ids=["memory", "disk"])
def test_each_row_passes_once_and_keeps_its_label_and_task(memory_limit: int) -> None:
    n, encode = CHUNK + 7, Counted()
    inner = rows_of(n)
    rows = LatentRows(inner, encode, (3,), memory_limit)
    assert encode.rows == 0
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    for part in order.split(100):
        batch, raw = rows.take(part), inner.take(part)
        assert torch.equal(batch.x, 2 * raw.x[:, :3])
        assert torch.equal(batch.y, raw.y)
        assert torch.equal(batch.task, raw.task)
        assert torch.equal(batch.weight, raw.weight)
    assert encode.rows == n
    assert torch.equal(torch.cat([chunk.y for chunk in rows.chunks(64)]), rows.labels)
    assert rows.num_bytes() == 4 * 3 * n


def read(rows: LatentRows) -> Tensor:
    return rows.take(torch.arange(len(rows))).x


def test_the_store_computes_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same network on the same rows, in another run too; other rows or another network are something else."""
    monkeypatch.setenv("REVERIE_LATENTS", str(tmp_path / "store"))
    n, encode = CHUNK + 7, Counted()
    first = LatentRows(rows_of(n), encode, (3,), 1 << 20, name="a")
    assert torch.equal(read(first), 2 * rows_of(n).take(torch.arange(n)).x[:, :3])
    again = LatentRows(rows_of(n), encode, (3,), 1 << 20, name="a")
    assert torch.equal(read(again), read(first))
    assert torch.equal(again.take(torch.tensor([11, 3])).task, rows_of(n).take(torch.tensor([11, 3])).task)
    assert encode.rows == n
    for rows, name in ((rows_of(n - 1), "a"), (rows_of(n), "b"), (rows_of(n), "")):
        before = encode.rows
        read(LatentRows(rows, encode, (3,), 1 << 20, name=name))
        assert encode.rows == before + len(rows)
    assert len(list((tmp_path / "store").iterdir())) == 3


def test_what_reads_the_store_cannot_change_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REVERIE_LATENTS", str(tmp_path))
    for _ in range(2):
        rows = LatentRows(rows_of(9), Counted(), (3,), 1 << 20, name="a")
        batch = rows.take(torch.arange(9))
        assert torch.equal(batch.x, 2 * rows_of(9).take(torch.arange(9)).x[:, :3])
        batch.x.zero_()
        rows._all()._x.zero_()  # type: ignore[attr-defined]


def test_a_store_that_cannot_be_used_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("REVERIE_LATENTS", str(tmp_path / "file"))
    with pytest.raises(StorageError, match=r"cannot keep 36 bytes of latents in .*file, which REVERIE_LATENTS names"):
        read(LatentRows(rows_of(3), Counted(), (3,), 1 << 20, name="a"))
    monkeypatch.setenv("REVERIE_LATENTS", str(tmp_path / "store"))
    read(LatentRows(rows_of(3), Counted(), (3,), 1 << 20, name="a"))
    (kept,) = (tmp_path / "store").iterdir()
    kept.write_bytes(kept.read_bytes()[:-4])
    with pytest.raises(StorageError, match=r"npy does not hold latents .* delete it"):
        read(LatentRows(rows_of(3), Counted(), (3,), 1 << 20, name="a"))


@pytest.mark.parametrize("store", [False, True])
def test_a_full_disk_is_an_error_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: bool
) -> None:
    """A mapped file whose room is not taken beforehand would kill the process instead."""

    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if store:
        monkeypatch.setenv("REVERIE_LATENTS", str(tmp_path))
    encode = Counted()
    rows = LatentRows(rows_of(100), encode, (3,), memory_limit=1199, name="a")
    remedy = "make room there, or unset it" if store else "name another folder with TMPDIR"
    with pytest.raises(
        StorageError, match=rf"cannot keep 1,200 bytes of latents in {tmp_path}.*No space left.*{remedy}"
    ):
        read(rows)
    assert encode.rows == 0
    assert list(tmp_path.iterdir()) == []


def test_the_room_of_a_file_is_taken_before_it_is_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    real = os.posix_fallocate

    def fallocate(descriptor: int, offset: int, size: int) -> None:
        real(descriptor, offset, size)
        taken.append(os.fstat(descriptor).st_blocks * 512)

    monkeypatch.setattr(os, "posix_fallocate", fallocate)
    rows = LatentRows(rows_of(CHUNK), Counted(), (3,), memory_limit=0)
    read(rows)
    assert taken
    assert taken[0] >= rows.num_bytes()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_latents_that_are_not_finite_stop_the_run(bad: float) -> None:
    rows = LatentRows(rows_of(4), lambda x: x * bad, (5,), 1 << 20)
    with pytest.raises(DataError, match="NaN or infinite latents"):
        rows.take(torch.tensor([0]))
