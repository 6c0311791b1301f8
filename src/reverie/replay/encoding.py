"""How kept rows are written down: as they came, or in fewer bytes."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from reverie.streams.rows import as_bytes

Encoding = Literal["lossless", "float16", "int8"]
BOUNDS = 8  # bytes of a row's lowest and highest value in float32


def empty(encoding: Encoding, shape: tuple[int, ...]) -> Tensor:
    """No rows yet; lossless ones are taken for bytes until one is not."""
    if encoding == "int8":
        return torch.empty(0, math.prod(shape) + BOUNDS, dtype=torch.uint8)
    return torch.empty(0, *shape, dtype=torch.float16 if encoding == "float16" else torch.uint8)


def encode(x: Tensor, encoding: Encoding) -> Tensor:
    """x (n, *shape) float32 -> (n, ...) as it is stored.

    lossless: uint8 where every value is a whole number of 255ths, else float32. int8: 256 even steps between a row's lowest and highest
    value, which are stored after its numbers.
    """
    if encoding == "float16":
        return x.clamp(-65504, 65504).to(torch.float16)
    if encoding == "lossless":
        whole = as_bytes(x)
        return x if whole is None else whole
    flat = x.flatten(1)
    bounds = torch.stack([flat.amin(dim=1), flat.amax(dim=1)], dim=1)
    step = (bounds[:, 1:] - bounds[:, :1]) / 255
    levels = ((flat - bounds[:, :1]) / step.clamp(min=torch.finfo(torch.float32).tiny)).round().to(torch.uint8)
    return torch.cat([levels, bounds.contiguous().view(torch.uint8)], dim=1)


def decode(stored: Tensor, encoding: Encoding, shape: tuple[int, ...]) -> Tensor:
    """(n, ...) as stored -> (n, *shape) float32."""
    if encoding != "int8":
        return stored.float() / 255 if stored.dtype == torch.uint8 else stored.float()
    bounds = stored[:, -BOUNDS:].contiguous().view(torch.float32)
    step = (bounds[:, 1:] - bounds[:, :1]) / 255
    return (stored[:, :-BOUNDS].float() * step + bounds[:, :1]).reshape(len(stored), *shape)
