"""Labelled vectors, and learners of statistics taught with them batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from reverie.device import CPU
from reverie.seeding import Randomness
from reverie.types import Batch, Phase, StreamSpec

Vectors = tuple[Tensor, Tensor]


def vectors(rows: int = 300, width: int = 7, classes: int = 4, seed: int = 0, lowest: float | None = None) -> Vectors:
    """x (rows, width), y (rows,): correlated clouds, each class with means and covariance of its own; values >= ``lowest``."""
    rng = torch.Generator().manual_seed(seed)
    y = torch.arange(rows) % classes
    mix = torch.randn(classes, width, width, generator=rng) / width**0.5
    x = 2 * torch.randn(classes, width, generator=rng)[y]
    x = (
        x
        + (mix[y] @ torch.randn(rows, width, 1, generator=rng))[..., 0]
        + 0.5 * torch.randn(rows, width, generator=rng)
    )
    return (x if lowest is None else x - x.min() + lowest), y


def spec_of(width: int, classes: int, tasks: int = 1) -> StreamSpec:
    all_classes = tuple(range(classes))
    return StreamSpec(
        name="vectors",
        scenario="domain",
        input_shape=(width,),
        classes=all_classes,
        task_classes=(all_classes,) * tasks,
        task_names=tuple(f"part {task}" for task in range(tasks)),
        heads=(all_classes,) * tasks,
    )


def built(learner: Any, width: int, classes: int, seed: int = 0) -> Any:
    learner.build(spec_of(width, classes), Randomness(seed), CPU)
    return learner


def teach(learner: Any, x: Tensor, y: Tensor, parts: Sequence[int] | int = 64) -> Any:
    """One pass over the rows in their order, in batches of these sizes."""
    for some_x, some_y in zip(x.split(parts), y.split(parts), strict=True):
        task, weight = torch.zeros_like(some_y), torch.full((len(some_y),), 1 / len(some_y))
        learner.step(Phase("statistics", 64, epochs=1), Batch(some_x, some_y, task, weight))
    return learner


def taught(learner: Any, x: Tensor, y: Tensor, parts: Sequence[int] | int = 64, classes: int | None = None) -> Any:
    return teach(built(learner, x.shape[1], classes or int(y.max()) + 1), x, y, parts)


def shuffled(x: Tensor, y: Tensor, seed: int = 1) -> Vectors:
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    return x[order], y[order]


def class_by_class(x: Tensor, y: Tensor) -> Vectors:
    order = y.argsort(stable=True)
    return x[order], y[order]
