"""Training a generator alone, without solver, stream or engine."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from reverie.device import CPU, Device
from reverie.seeding import Position, Randomness
from reverie.streams.rows import TensorRows
from reverie.types import Generator, StreamSpec

AnyGenerator = TypeVar("AnyGenerator", bound=Generator)


def train(
    generator: AnyGenerator,
    x: Tensor | np.ndarray,
    y: Tensor | np.ndarray | None = None,
    *,
    steps: int = 1000,
    batch_size: int = 128,
    seed: int = 0,
    device: Device = CPU,
) -> AnyGenerator:
    """Builds the generator for rows like ``x`` and trains it on them.

    x: (N, ...) uint8 or float32; y: (N,) class indices, needed by conditional generators only. Returns the generator.

    >>> from reverie.generators import VAE
    >>> x = torch.rand(64, 10)
    >>> vae = train(VAE(hidden=(16,), latent_dim=2), x, steps=5)
    >>> vae.sample(3, torch.Generator().manual_seed(0)).x.shape
    torch.Size([3, 10])
    """
    inputs = torch.as_tensor(x)
    labels = torch.zeros(len(inputs), dtype=torch.int64) if y is None else torch.as_tensor(y).to(torch.int64)
    classes = tuple(range(int(labels.max()) + 1))
    floats = inputs.dtype != torch.uint8
    spec = StreamSpec(
        name="rows",
        scenario="class",
        input_shape=tuple(inputs.shape[1:]),
        classes=classes,
        task_classes=(classes,),
        task_names=("rows",),
        heads=(classes,),
        value_range=(float(inputs.min()), float(inputs.max())) if floats else (0.0, 1.0),
    )
    rng = Randomness(seed, device.torch_device)
    rows = TensorRows(inputs, labels).to(device.torch_device)
    generator.build(spec, rng, device)
    for step in range(steps if generator.trains_by == "step" else 0):
        rng.position = Position(step=step)
        index = torch.randint(
            len(rows), (min(batch_size, len(rows)),), generator=rng("batches"), device=device.torch_device
        )
        generator.step(rows.take(index))
    generator.fit(rows)
    return generator
