"""Curves of one variable, and how sure a learner is of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from reverie.seeding import Randomness
from reverie.types import Finding, Prediction, Stream, StreamSpec, Task

POINTS = 120
MARGIN = 0.05  # of the tests' range, on either side
CHUNK = 4096


class RegressionFan:
    """For streams of regression with one input and one target.

    Arrays: grid (G,), equally spaced over the range of all test rows and a little beyond; mean, deviation (T, G) of what the learner predicts
    there, T = 1, or the tasks so far where it has a model a task (deviation: 0 where it has none); truth (tasks, G), the curve through each test
    set, NaN outside its range; train_x, train_y (M,), train_task (M,), the training rows so far.
    """

    name = "regression-fan"

    def __call__(self, learner: Any, stream: Stream, task: Task, rng: Randomness) -> Finding:
        curves = []
        for test in stream.tests:
            parts = list(test.rows.chunks(CHUNK))
            x, y = (torch.cat([getattr(part, name).cpu() for part in parts])[:, 0].numpy() for name in ("x", "y"))
            order = np.argsort(x)
            curves.append((x[order], y[order]))
        low, high = min(x[0] for x, _ in curves), max(x[-1] for x, _ in curves)
        margin = MARGIN * (high - low)
        grid = np.linspace(low - margin, high + margin, POINTS, dtype=np.float32)
        truth = np.stack([np.interp(grid, x, y, left=np.nan, right=np.nan) for x, y in curves])
        answer: Prediction = learner.predict(torch.from_numpy(grid)[:, None].to(rng.device), None)
        mean = answer.scores[:, None] if answer.by_task is None else answer.by_task
        std = answer.std_by_task if answer.by_task is not None else None if answer.std is None else answer.std[:, None]
        deviation = torch.zeros_like(mean) if std is None else std
        seen = [stream[number].train for number in range(task.index + 1)]
        train = [part for rows in seen for part in rows.chunks(CHUNK)]
        train_x, train_y = (torch.cat([getattr(part, name).cpu() for part in train])[:, 0] for name in ("x", "y"))
        arrays = {
            "grid": torch.from_numpy(grid),
            "mean": mean[..., 0].T.cpu(),
            "deviation": deviation[..., 0].T.cpu(),
            "truth": torch.from_numpy(truth.astype(np.float32)),
            "train_x": train_x,
            "train_y": train_y,
            "train_task": torch.cat([part.task.cpu() for part in train]),
        }
        return Finding(arrays=arrays)


def shows_fan(spec: StreamSpec) -> bool:
    """Whether the stream is one that ``RegressionFan`` can draw."""
    return spec.kind == "regression" and spec.input_shape == (1,) and spec.outputs == 1
