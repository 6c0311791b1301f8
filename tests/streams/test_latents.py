"""Rows behind a frozen network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from reverie.checks import DataError
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


def test_rows_that_are_not_kept_are_computed_as_they_are_read() -> None:
    encode = Counted()
    rows = LatentRows(rows_of(20), encode, (3,), 1 << 20, keep=False)
    for _ in range(2):
        assert rows.take(torch.tensor([3, 1])).x.shape == (2, 3)
    assert (encode.rows, rows.num_bytes()) == (4, 0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_latents_that_are_not_finite_stop_the_run(bad: float) -> None:
    rows = LatentRows(rows_of(4), lambda x: x * bad, (5,), 1 << 20)
    with pytest.raises(DataError, match="NaN or infinite latents"):
        rows.take(torch.tensor([0]))
