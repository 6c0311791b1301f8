"""Rows in fewer bytes: what comes back, and what it costs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from reverie.learners import LatentReplay, Replay
from reverie.replay import Buffer
from reverie.replay.encoding import decode, empty, encode
from reverie.seeding import Randomness
from reverie.solvers import MLP
from reverie.streams import TensorRows
from tests.tiny import tiny_stream, train

SPEC = tiny_stream().spec


def rows(n: int = 40) -> torch.Tensor:
    return 10 * torch.randn(n, 3, 4, generator=torch.Generator().manual_seed(0))


def test_lossless_rows_come_back_bit_by_bit() -> None:
    x = rows()
    whole = (x.abs() % 1 * 255).round() / 255
    for values, dtype in ((x, torch.float32), (whole, torch.uint8)):
        stored = encode(values, "lossless")
        assert stored.dtype == dtype
        assert torch.equal(decode(stored, "lossless", (3, 4)), values)


@pytest.mark.parametrize(("encoding", "each"), [("float16", 2 * 12), ("int8", 12 + 8)])
def test_rounded_rows_take_the_bytes_they_say(encoding: Any, each: int) -> None:
    stored = encode(rows(), encoding)
    assert stored.numel() * stored.element_size() == 40 * each
    assert stored.shape[1:] == empty(encoding, (3, 4)).shape[1:]
    assert stored.dtype == empty(encoding, (3, 4)).dtype


def test_float16_is_the_nearest_half() -> None:
    x = rows()
    x[0, 0, 0] = 1e9  # beyond its range
    back = decode(encode(x, "float16"), "float16", (3, 4))
    assert float(back[0, 0, 0]) == 65504
    assert torch.equal(back.flatten()[1:], x.half().float().flatten()[1:])


def test_int8_errs_by_half_a_step_at_most_and_keeps_the_bounds() -> None:
    x = rows()
    x[3] = 0.25  # a constant row
    back = decode(encode(x, "int8"), "int8", (3, 4))
    step = (x.flatten(1).amax(1) - x.flatten(1).amin(1)) / 255
    assert bool(((back - x).abs().flatten(1).amax(1) <= 0.501 * step + 1e-6).all())
    assert torch.allclose(back.flatten(1).amax(1), x.flatten(1).amax(1), rtol=1e-6)
    assert torch.equal(back[3], x[3])


@pytest.mark.parametrize("encoding", ["float16", "int8"])
@pytest.mark.parametrize("strategy", ["class-balanced", "reservoir"])
def test_a_buffer_counts_and_gives_back_rounded_rows(encoding: Any, strategy: Any) -> None:
    x = torch.rand(60, 6, generator=torch.Generator().manual_seed(1))
    each = {"float16": 12, "int8": 6 + 8}[encoding] + 16
    buffer = Buffer(budget=20 * each, unit="bytes", strategy=strategy, encoding=encoding)
    buffer.build(SPEC, Randomness(0))
    buffer.add_task(TensorRows(x, torch.arange(60) % 6), 0, MLP())
    assert buffer.num_bytes() <= 20 * each
    assert len(buffer.x) in (18, 20)  # classes share equally
    batch = buffer.sample(50)
    nearest = torch.cdist(batch.x, x).min(dim=1)
    assert bool((nearest.values < 0.01).all())
    assert torch.equal(nearest.indices % 6, batch.y)
    again = Buffer(budget=20 * each, unit="bytes", strategy=strategy, encoding=encoding)
    again.build(SPEC, Randomness(0))
    again.load(buffer.state())
    assert torch.equal(again.sample(50).x, batch.x)


def test_rounded_latents_are_kept_in_a_quarter_of_the_bytes() -> None:
    sizes = {}
    for encoding in ("lossless", "int8"):
        buffer: Any = Buffer(budget=5, encoding=encoding)  # type: ignore[arg-type]
        learner = train(LatentReplay(Replay(buffer=buffer)), tiny_stream("class")).learner
        labels = 16 * len(learner.inner.buffer.x)
        sizes[encoding] = (learner.memory().persistent["buffer"] - labels) // len(learner.inner.buffer.x)
    assert sizes == {"lossless": 4 * 12, "int8": 12 + 8}
