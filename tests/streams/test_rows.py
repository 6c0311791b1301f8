"""Rows over tensors, data sets and several of them: the same few promises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from reverie.streams import DatasetRows, JoinedRows, TensorRows
from reverie.streams.rows import Relabelled, item_array, stored_bytes
from reverie.types import Rows

X = torch.arange(24.0).reshape(6, 4)
Y = torch.tensor([0, 1, 2, 0, 1, 2])


class Items(Dataset[tuple[Tensor, int]]):
    def __init__(self, x: Tensor = X, y: Tensor = Y) -> None:
        self.x, self.y, self.read = x, y, 0

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.read += 1
        return self.x[index], int(self.y[index])


def joined() -> JoinedRows:
    return JoinedRows([TensorRows(X[:2], Y[:2]), DatasetRows(Items(X[2:5], Y[2:5]), Y[2:5]), TensorRows(X[5:], Y[5:])])


MAKERS: dict[str, Callable[[], Rows]] = {
    "tensor": lambda: TensorRows(X, Y),
    "tensor by index": lambda: TensorRows(X.flip(0), Y, index=torch.arange(5, -1, -1)),
    "data set": lambda: DatasetRows(Items(), Y),
    "data set by index": lambda: DatasetRows(Items(X.flip(0), Y.flip(0)), Y, index=list(range(5, -1, -1))),
    "joined": joined,
    "moved": lambda: TensorRows(X, Y).to(torch.device("cpu")),
    "transformed": lambda: TensorRows(X / 2, Y, transform=lambda x: 2 * x),
    "relabelled": lambda: Relabelled(TensorRows(X, Y.flip(0)), Y),
    "relabelled data set, moved": lambda: Relabelled(DatasetRows(Items(), Y + 5), Y).to(torch.device("cpu")),
    "transformed once": lambda: TensorRows(X / 2, Y, transform=lambda x: 2 * x, once=True),
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [5, 0, 3], [2, 2, 2], [4]])
def test_take_gives_the_rows_asked_for_in_that_order(name: str, order: list[int]) -> None:
    rows = MAKERS[name]()
    index = torch.tensor(order)
    batch = rows.take(index)
    assert torch.equal(batch.x, X[index])
    assert torch.equal(batch.y, Y[index])  # type: ignore[arg-type]
    assert batch.x.dtype == batch.weight.dtype == torch.float32
    torch.testing.assert_close(batch.weight, torch.full((len(order),), 1 / len(order)))


@pytest.mark.parametrize("name", MAKERS)
def test_chunks_are_all_rows_in_order(name: str) -> None:
    rows = MAKERS[name]()
    chunks = list(rows.chunks(4))
    assert [len(chunk) for chunk in chunks] == [4, 2]
    assert torch.equal(torch.cat([chunk.x for chunk in chunks]), X)
    assert torch.equal(torch.cat([chunk.y for chunk in chunks if chunk.y is not None]), Y)
    assert len(rows) == 6
    assert torch.equal(rows.labels, Y)


def test_labels_are_known_without_reading_inputs() -> None:
    items = Items()
    rows = DatasetRows(items, Y)
    assert (len(rows), rows.labels.tolist()) == (6, Y.tolist())
    assert items.read == 0
    rows.take(torch.tensor([1, 2]))
    assert items.read == 2


def test_bytes_are_read_as_shares_of_255() -> None:
    x = torch.tensor([[0, 51, 255]], dtype=torch.uint8)
    assert TensorRows(x, Y[:1]).take(torch.tensor([0])).x.tolist() == [[0, pytest.approx(0.2), 1]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.bfloat16])
def test_other_floats_become_float32(dtype: torch.dtype) -> None:
    batch = TensorRows(X.to(dtype), Y).take(torch.tensor([1]))
    assert batch.x.dtype == torch.float32
    assert torch.equal(batch.x, X[1:2])


def test_taking_rows_does_not_hand_out_the_source() -> None:
    x = X.clone()
    rows = TensorRows(x, Y)
    rows.take(torch.arange(6)).x.zero_()
    assert torch.equal(x, X)


def test_rows_under_other_labels_leave_the_source_as_it_is() -> None:
    source = TensorRows(X, Y, task=3)
    labels = torch.tensor([7, -1, 7, -1, 0, 0])
    rows = Relabelled(source, labels)
    assert torch.equal(rows.labels, labels)
    batch = rows.take(torch.tensor([4, 1]))
    assert batch.y is not None
    assert batch.y.tolist() == [0, -1]
    assert batch.task.tolist() == [3, 3]
    assert torch.equal(source.labels, Y)
    assert torch.equal(source.take(torch.arange(6)).y, Y)  # type: ignore[arg-type]
    both = JoinedRows([rows, source])
    assert torch.equal(both.labels, torch.cat([labels, Y]))


def test_the_task_of_each_row() -> None:
    parts = [TensorRows(X[:2], Y[:2], 4), TensorRows(X[2:], Y[2:], torch.tensor([7, 7, 8, 8]))]
    assert JoinedRows(parts).take(torch.tensor([0, 5, 1, 2])).task.tolist() == [4, 8, 4, 7]


def test_a_transform_is_applied_at_every_take_or_once() -> None:
    for once, calls in ((False, 3), (True, 1)):
        seen: list[int] = []

        def transform(x: Tensor, seen: list[int] = seen) -> Tensor:
            seen.append(len(x))
            return x + 1

        rows = TensorRows(X, Y, index=torch.tensor([1, 3]), transform=transform, once=once)
        for _ in range(3):
            assert torch.equal(rows.take(torch.tensor([1])).x, X[3:4] + 1)
        assert len(seen) == calls


def test_a_transform_made_once_keeps_a_byte_a_pixel() -> None:
    x = torch.tensor([[0, 100, 255]], dtype=torch.uint8)
    rows = TensorRows(x, Y[:1], transform=lambda x: 1.5 * x, once=True)
    got = rows.take(torch.tensor([0])).x
    torch.testing.assert_close(got, torch.tensor([[0.0, 150 / 255, 1.0]]))
    assert rows._x.dtype == torch.uint8


def test_moving_to_where_it_is_moves_nothing() -> None:
    rows = TensorRows(X, Y)
    assert rows.to(torch.device("cpu")) is rows


def test_a_memory_mapped_file_is_read_where_it_lies(tmp_path: Any) -> None:
    np.save(tmp_path / "x.npy", X.numpy())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r+")
    rows = TensorRows(torch.from_numpy(mapped), Y)
    assert torch.equal(rows.take(torch.tensor([4, 0])).x, X[[4, 0]])
    mapped[0] = 9
    assert rows.take(torch.tensor([0])).x.tolist() == [[9, 9, 9, 9]]


# ---------------------------------------------------------------------------------- items of data sets


@pytest.mark.parametrize(
    ("item", "shape", "value"),
    [
        (torch.full((2, 3), 0.5), (2, 3), 0.5),
        (torch.full((1, 2, 2), 51, dtype=torch.uint8), (1, 2, 2), 0.2),
        (np.full((3, 2, 2), 51, dtype=np.uint8), (3, 2, 2), 0.2),
        (np.full((4,), 0.25), (4,), 0.25),
        (Image.new("L", (5, 4), 51), (1, 4, 5), 0.2),
        (Image.new("RGB", (5, 4), (51, 51, 51)), (3, 4, 5), 0.2),
    ],
    ids=["tensor", "bytes", "array of bytes", "array", "grey picture", "colour picture"],
)
def test_items_of_any_kind_become_channels_first_floats(item: Any, shape: tuple[int, ...], value: float) -> None:
    x = item_array((item, 0))
    assert x.shape == shape
    assert x.dtype == torch.float32
    torch.testing.assert_close(x, torch.full(shape, value))


def test_colours_stay_in_their_channels() -> None:
    x = item_array((Image.new("RGB", (2, 2), (255, 0, 51)), 0))
    assert x[:, 0, 0].tolist() == [1, 0, pytest.approx(0.2)]


# ---------------------------------------------------------------------------------------------- targets of regression

TARGETS = torch.stack([Y * 0.5, -1.0 - Y], dim=1)


@pytest.mark.parametrize("make", ["whole", "by index", "moved", "joined"])
def test_targets_are_what_batches_have_for_labels(make: str) -> None:
    none = torch.zeros(6, dtype=torch.int64)
    rows: Rows = {
        "whole": lambda: TensorRows(X, none, targets=TARGETS),
        "by index": lambda: TensorRows(X.flip(0), none, index=torch.arange(5, -1, -1), targets=TARGETS),
        "moved": lambda: TensorRows(X, none, targets=TARGETS).to(torch.device("meta")),
        "joined": lambda: JoinedRows(
            [TensorRows(X[part], none[part], targets=TARGETS[part]) for part in (slice(0, 2), slice(2, 6))]
        ),
    }[make]()
    assert rows.labels.tolist() == [0] * 6
    assert rows.labels.device == torch.device("cpu")
    order = torch.tensor([5, 0, 3])
    batch = rows.take(order)
    assert batch.y is not None
    assert (batch.y.shape, batch.y.dtype) == ((3, 2), torch.float32)
    if make == "moved":  # where there are no values to look at
        assert batch.x.device == batch.y.device == batch.task.device == torch.device("meta")
        return
    assert torch.equal(batch.x, X[order])
    assert torch.equal(batch.y, TARGETS[order])
    parts = [part.y for part in rows.chunks(4) if part.y is not None]
    assert torch.equal(torch.cat(parts), TARGETS)


def test_a_row_is_counted_with_its_targets() -> None:
    none = torch.zeros(6, dtype=torch.int64)
    assert stored_bytes(TensorRows(X + 0.25, none)) == 4 * 4 + 8 + 8
    assert stored_bytes(TensorRows(X + 0.25, none, targets=TARGETS)) == 4 * 4 + 2 * 4 + 8
