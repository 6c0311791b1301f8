"""Curves of one variable, learnt a piece at a time: the toy of regression."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field

from reverie.options import Part
from reverie.seeding import generator
from reverie.streams.sources import DataSeed
from reverie.streams.stream import ArrayStream
from reverie.types import Recommended, Scenario

Curve = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class CurveSet:
    """curves: what is written, the function and its interval, a task each; noise_std of the training targets."""

    curves: Sequence[tuple[str, Curve, tuple[float, float]]]
    noise_std: float


_POLYNOMIALS: Sequence[tuple[str, Curve, tuple[float, float]]] = (
    ("(x + 3)^3", lambda x: (x + 3) ** 3, (-4, -2)),
    ("2 x^2 - 1", lambda x: 2 * x**2 - 1, (-1, 1)),
    ("-(x - 3)^3", lambda x: -((x - 3) ** 3), (2, 4)),
)
CURVE_SETS: Mapping[str, CurveSet] = {
    "polynomials": CurveSet(_POLYNOMIALS, 0.05),
    "noisy-polynomials": CurveSet(_POLYNOMIALS, 0.1),
    "line-and-cubic": CurveSet(
        (
            ("x + 3", lambda x: x + 3, (-4, -2)),
            _POLYNOMIALS[1],
            ("(x - 3)^3", lambda x: (x - 3) ** 3, (2, 4)),
        ),
        0.05,
    ),
    "cubic": CurveSet((("x^3", lambda x: x**3, (-4, 4)),), 3.0),
}


@dataclass(eq=False, repr=False)
class Regression1D(Part):
    """A curve of one variable in pieces, each on an interval of its own: (x, f(x) + noise) for training, f itself, equally spaced inside the
    interval, for testing (Henning et al. 2021, arXiv 2103.01133, section 4). One data set, whatever the seed of the run, unless data_seed is None.

    curves: "polynomials", three cubics and parabolas, set 3 of the authors' code; "noisy-polynomials" (set 2), the same with twice the noise;
    "line-and-cubic" (set 1); "cubic" (set 0), one task, of Hernandez-Lobato and Adams 2015 (arXiv 1502.05336).
    """

    curves: Annotated[
        Literal["polynomials", "noisy-polynomials", "line-and-cubic", "cubic"], Field(description="what is learnt")
    ] = "polynomials"
    rows: Annotated[int, Field(gt=1, description="training rows of a task")] = 20
    test_rows: Annotated[int, Field(gt=1, description="test rows of a task")] = 50
    noise_std: Annotated[
        float | None, Field(gt=0, description="deviation of the noise that a learner assumes; None: the true one")
    ] = None
    data_seed: DataSeed = 42

    scenarios = ("domain",)

    def build(self, scenario: Scenario, seed: int, data_dir: str | None = None) -> ArrayStream:
        chosen = CURVE_SETS[self.curves]
        draw = generator(seed if self.data_seed is None else self.data_seed, "regression-1d")
        # The authors draw each task with the same seed: the same places in every interval.
        place = torch.rand(self.rows, generator=draw, dtype=torch.float64).numpy()
        noise = chosen.noise_std * torch.randn(self.rows, generator=draw, dtype=torch.float64).numpy()
        tasks = []
        for _, curve, (low, high) in chosen.curves:
            x, grid = low + (high - low) * place, np.linspace(low, high, self.test_rows)
            tasks.append((_column(x), _column(curve(x) + noise), _column(grid), _column(curve(grid))))
        recommended = Recommended(
            solver={"name": "mlp"},
            generator={"name": "vae", "likelihood": "gaussian"},
            values={
                "hidden": (10, 10),
                "latent_dim": 2,
                "steps": 2000,
                "batch_size": 32,
                "learning_rate": 1e-3,
                "strength": 1000.0,
            },
            hypernetwork={"name": "full"},
        )
        return ArrayStream.from_arrays(
            tasks,
            scenario,
            names=[f"{text} on [{low:g}, {high:g}]" for text, _, (low, high) in chosen.curves],
            seed=seed,
            recommended=recommended,
            name="regression-1d",
            noise_std=self.noise_std or chosen.noise_std,
        )


def _column(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)[:, None]
