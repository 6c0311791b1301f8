"""RanPAC (McDonnell et al. 2023, arXiv 2307.02251): ridge regression on a random projection, from sums that do not forget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from reverie.checks import OptionsError, Problems, StorageError, TrainingError
from reverie.device import Device
from reverie.learners.statistics import StatisticsLearner
from reverie.seeding import Randomness
from reverie.solvers.moments import class_sums, packed, unpacked
from reverie.storage import fingerprint
from reverie.streams.rows import ChosenRows
from reverie.types import Memory, Phase, Rows, State, StreamSpec, Task

HELD_OUT = "held-out"
GRID = (-8, 8)  # powers of ten that the paper tries
BLOCK = 1000


@dataclass(eq=False, repr=False)
class RanPAC(StatisticsLearner):
    """Scores h (G + l I)^-1 Q of h = relu(x W), W ~ N(0, 1): G sums h'h and Q sums h'y (one-hot) over all rows so far.

    W is made again from the seed whenever the learner is built, so it counts as no kept bytes, only as working memory. Without a
    projection (``projection`` = None) h = x, and this is recursive ridge regression. Everything is computed in float64: in float32 the scores
    would differ in the fourth digit with the order of the rows. One triangle of G is kept.

    With ``ridge`` = "held-out" each task's rows are split 80 to 20. Of the powers of ten from 1e-8 to 1e8 the one is chosen whose scores, fitted
    to everything before and the 80 %, have the least squared error on the 20 %; then these are added too. The search starts at G's mean
    diagonal and goes to the best neighbour until none is better by 1 %. The paper tries the whole grid on a fit to the current task alone.
    The choice is the one thing that depends on how the rows are divided into tasks; with a number nothing does.
    """

    projection: Annotated[
        int | None,
        Field(
            gt=0, description="width of the random projection (the paper's: 10000); None: none, plain ridge regression"
        ),
    ] = 2000
    ridge: Annotated[
        Literal["held-out"] | Annotated[float, Field(gt=0)],
        Field(description="l: a number, or held-out: chosen from powers of ten on 20 % of each task's rows"),
    ] = "held-out"

    # ------------------------------------------------------------------ statistics

    def build(self, spec: StreamSpec, rng: Randomness, device: Device) -> None:
        super().build(spec, rng, device)
        self.exponent: int | None = None  # of the last choice
        self.weight, self.weight_hash = None, ""
        if self.projection is not None:
            # Drawn on the CPU, so that every device has the same.
            weight = torch.randn(self.projection, self.width, generator=Randomness(rng.seed).at("random projection"))
            self.weight, self.weight_hash = weight.to(device.torch_device).double(), fingerprint({"projection": weight})

    def start(self, width: int, outputs: int) -> None:
        self.sums = RidgeSums(self.projection or width, outputs, self.device.torch_device)

    def features(self, x: Tensor) -> Tensor:
        """(B, width) float32 -> (B, M) float64."""
        x = x.double()
        return x if self.weight is None else (x @ self.weight.T).relu_()

    def add(self, x: Tensor, y: Tensor) -> None:
        self.sums.add(self.features(x), y)

    def counts(self) -> Tensor:
        return self.sums.counts

    def solve(self) -> Any:
        if not isinstance(self.ridge, str):
            weights = self.sums.weights(self.ridge)
            if weights is None:
                most = float(self.sums.gram.diagonal().max())
                raise TrainingError(
                    f"ridge = {self.ridge:g}: too small for sums in float64 whose largest diagonal entry is {most:.3g}; "
                    f"try {most * 1e-12:.0e} or more, or ridge = 'held-out'"
                )
            return weights
        exponents = range(GRID[1] if self.exponent is None else self.exponent, GRID[1] + 1)
        solved = (self.sums.weights(10.0**exponent) for exponent in exponents)
        return next(weights for weights in solved if weights is not None)

    def answer(self, solution: Any, x: Tensor) -> Tensor:
        return self.features(x) @ solution

    def parts(self) -> dict[str, Any]:
        return {"ridge sums": self.sums}

    def check_merge(self, other: StatisticsLearner, problems: Problems) -> None:
        super().check_merge(other, problems)
        if isinstance(other, RanPAC) and not problems.found and self.weight_hash != other.weight_hash:
            problems.add(
                f"the random projections of seeds {self.rng.seed} and {other.rng.seed} are two; fit both with one seed"
            )

    def merge(self, other: StatisticsLearner) -> None:
        """Also: of two choices of the ridge, that of the learner that has seen more rows is kept."""
        mine = float(self.sums.counts.sum())
        super().merge(other)
        assert isinstance(other, RanPAC)
        if self.exponent is None or (other.exponent is not None and float(other.sums.counts.sum()) > mine):
            self.exponent = other.exponent

    # ------------------------------------------------------------------ the held-out rows

    def phases(self, task: Task | None) -> tuple[Phase, ...]:
        if task is None or not self._held_out(task):
            return super().phases(task)
        return (*super().phases(task), Phase(HELD_OUT, self.rows_a_step, epochs=1, drop_last=False))

    def rows(self, phase: Phase, task: Task | None) -> Rows:
        assert task is not None
        held_out = self._held_out(task)
        if not held_out:
            return task.train
        order = torch.randperm(len(task.train), generator=Randomness(self.rng.seed).at("held-out rows", task.index))
        return ChosenRows(task.train, order[:held_out] if phase.name == HELD_OUT else order[held_out:])

    def end_phase(self, phase: Phase, task: Task | None) -> None:
        """Chooses the ridge before the held-out rows are added; it depends on nothing but the sums and these rows."""
        if phase.name != HELD_OUT and task is not None and self._held_out(task):
            rows = self.rows(Phase(HELD_OUT, self.rows_a_step), task).to(self.device.torch_device)
            self.exponent = self._chosen(rows)

    def _held_out(self, task: Task) -> int:
        return len(task.train) // 5 if self.ridge == HELD_OUT else 0

    def _chosen(self, rows: Rows) -> int:
        lowest, highest = GRID
        errors: dict[int, float] = {}
        best = round(math.log10(max(float(self.sums.gram.diagonal().mean()), 10.0**lowest)))
        best = min(max(best, lowest), highest)
        while True:
            near = [e for e in (best - 1, best, best + 1) if lowest <= e <= highest and e not in errors]
            errors |= zip(near, self._errors(rows, [10.0**e for e in near]), strict=True)
            better = min(errors, key=lambda e: (errors[e], -e))
            # Below the ridges that matter lies a plateau, where one is better than the other by rounding: it must not draw the search in.
            if better == best or errors[better] > 0.99 * errors[best]:
                return best
            best = better

    def _errors(self, rows: Rows, ridges: Sequence[float]) -> list[float]:
        """Squared error on ``rows`` with each ridge; infinite where G + l I has no Cholesky factor in float64."""
        weights = [self.sums.weights(ridge) for ridge in ridges]
        total = torch.zeros(len(ridges), dtype=torch.float64)
        for batch in rows.chunks(self.rows_a_step):
            assert batch.y is not None
            h = self.features(batch.x.flatten(1))
            y = functional.one_hot(batch.y, len(self.sums.counts))
            for place, weight in enumerate(weights):
                total[place] += math.inf if weight is None else float((h @ weight - y).square().sum())
        return [float(error) for error in total]

    # ------------------------------------------------------------------ state and cost

    def state(self) -> State:
        return {**super().state(), "exponent": self.exponent, "projection": self.weight_hash}

    def load(self, state: State) -> None:
        if state["projection"] != self.weight_hash:
            raise StorageError(
                f"the random projection of seed {self.rng.seed} is not the one that these statistics were made with: seed, projection = "
                f"{self.projection} and the version of torch must be those of the run"
            )
        super().load(state)
        self.exponent = state["exponent"]

    def memory(self) -> Memory:
        size = self.sums.width
        weight = 0 if self.weight is None else 8 * self.weight.numel()
        return Memory(super().memory().persistent, {"random projection": weight, "factor of G": 8 * size**2})

    def flops(self, phase: Phase, task: Task | None) -> float:
        """Of the projection, and of one triangle of G."""
        size = self.sums.width
        return float(phase.batch_size * size * (size + (0 if self.weight is None else 2 * self.width)))


class RidgeSums:
    """gram (d, d), the lower triangle of the sum of h'h; sums (outputs, d) of each class's rows; counts (outputs,); all float64."""

    def __init__(self, width: int, outputs: int, device: torch.device | str = "cpu") -> None:
        self.gram = torch.zeros(width, width, dtype=torch.float64, device=device)
        self.sums = torch.zeros(outputs, width, dtype=torch.float64, device=device)
        self.counts = torch.zeros(outputs, dtype=torch.float64, device=device)

    @property
    def width(self) -> int:
        return self.gram.shape[0]

    def grow(self, outputs: int) -> None:
        more = outputs - len(self.counts)
        if more > 0:
            self.sums = torch.cat([self.sums, self.sums.new_zeros(more, self.width)])
            self.counts = torch.cat([self.counts, self.counts.new_zeros(more)])

    def add(self, h: Tensor, y: Tensor) -> None:
        """h (B, d) float64, y (B,) int64."""
        for start in range(0, self.width, BLOCK):  # block column by block column, from the diagonal down
            self.gram[start:, start : start + BLOCK] += h[:, start:].T @ h[:, start : start + BLOCK]
        self.sums += class_sums(h, y, len(self.sums))
        self.counts += y.bincount(minlength=len(self.counts))

    def placed(self, places: Tensor, outputs: int) -> RidgeSums:
        """The same of ``outputs`` classes, class c being class ``places[c]`` there."""
        found = RidgeSums(0, outputs, self.counts.device)
        found.gram, found.sums = self.gram, self.sums.new_zeros(outputs, self.width)
        found.counts[places], found.sums[places] = self.counts, self.sums
        return found

    def merge(self, other: RidgeSums) -> None:
        """Adds what another has seen. Raises OptionsError for other widths or numbers of classes."""
        if self.sums.shape != other.sums.shape:
            (c, d), (other_c, other_d) = self.sums.shape, other.sums.shape
            raise OptionsError(
                f"these statistics cannot be merged: {c} classes, width {d} and {other_c} classes, width {other_d}; "
                "fit both on latents of one cut with one projection"
            )
        self.gram += other.gram
        self.sums += other.sums
        self.counts += other.counts

    def weights(self, ridge: float) -> Tensor | None:
        """(G + ridge I)^-1 Q, (d, outputs); None where the factor does not exist in float64."""
        shifted = self.gram.clone()
        shifted.diagonal().add_(ridge)
        # The transpose has LAPACK's order of columns, so the factor takes the place of the matrix.
        info = torch.zeros((), dtype=torch.int32, device=shifted.device)
        torch.linalg.cholesky_ex(shifted.mT, upper=True, out=(shifted.mT, info))
        if int(info) != 0:
            return None
        half = torch.linalg.solve_triangular(shifted, self.sums.T, upper=False)
        return torch.linalg.solve_triangular(shifted.mT, half, upper=True)

    def num_bytes(self) -> int:
        """Of ``state``: G is its triangle there; in memory it is a whole matrix."""
        return 8 * (self.width * (self.width + 1) // 2 + self.sums.numel() + self.counts.numel())

    def state(self) -> State:
        return {"gram": packed(self.gram), "sums": self.sums, "counts": self.counts}

    def load(self, state: State) -> None:
        gram, self.sums, self.counts = (
            state[name].to(self.counts.device).double().clone() for name in ("gram", "sums", "counts")
        )
        # Runs from before triangles were saved have whole matrices, in float32.
        self.gram = unpacked(gram, self.sums.shape[1]) if gram.dim() == 1 else gram
