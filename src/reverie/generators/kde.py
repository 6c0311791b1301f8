"""Kernel density estimates: the rows themselves, blurred."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from reverie.generators.family import Family, Fitted
from reverie.generators.gaussian import JITTER
from reverie.types import State

ROWS = 1024  # rows that are compared with all kept ones at a time
JUDGED = 1024  # rows by which a bandwidth is judged (leave-one-out)
FLOOR = 1e-3  # smallest bandwidth of an axis before scaling, relative to the mean deviation
TRIED = tuple(2.0 ** (step / 2) for step in range(-12, 5))  # multiples of Scott's bandwidth (leave-one-out)


@dataclass(eq=False, repr=False)
class KernelDensity(Family):
    """The mean of Gaussian kernels at stored rows (Parzen 1962). It stores real latents: it is latent replay with noise, not free of data.

    bandwidth: a number, the deviation on every axis; or of each axis's own deviation the share m^(-1/(d + 4)) ("scott", Scott 1992),
    (m (d + 2) / 4)^(-1/(d + 4)) ("silverman", Silverman 1986), or the one under which each row is likeliest from all others
    ("leave-one-out"), m rows kept. With a number two estimates merge exactly as long as all rows are kept.
    """

    bandwidth: Annotated[
        Literal["scott", "silverman", "leave-one-out"] | Annotated[float, Field(gt=0)],
        Field(description="deviation of the kernels: a number, or a rule that scales each axis by its deviation"),
    ] = "scott"
    most: Annotated[int | None, Field(gt=0, description="rows kept of each fit, drawn at random; None: all")] = None

    @property
    def stores_real_samples(self) -> bool:
        return True

    def fit(self, z: Tensor, rng: torch.Generator) -> FittedKernels:
        rows = z
        if self.most is not None and self.most < len(z):
            rows = z[torch.randperm(len(z), generator=rng, device=z.device)[: self.most].sort().values]
        if not isinstance(self.bandwidth, str):
            return FittedKernels(len(z), rows.clone(), rows.new_tensor([self.bandwidth]), self.most)
        deviation = z.std(dim=0, correction=0)
        deviation = deviation.clamp(min=FLOOR * float(deviation.mean()) or JITTER**0.5)
        m, d = rows.shape
        share = m ** (-1 / (d + 4))
        if self.bandwidth == "silverman":
            share = (m * (d + 2) / 4) ** (-1 / (d + 4))
        elif self.bandwidth == "leave-one-out" and m > 1:
            tried = [share * factor for factor in TRIED]
            share = tried[int(_left_out(rows / deviation, tried, rng).argmax())]
        return FittedKernels(len(z), rows.clone(), share * deviation, None)

    def restore(self, state: State) -> FittedKernels:
        return FittedKernels(state["count"], state["rows"], state["bandwidth"], state["most"])

    def numbers(self, width: int) -> int | None:
        return None if self.most is None else width * self.most + (width if isinstance(self.bandwidth, str) else 1)


class FittedKernels(Fitted):
    """rows (m, d), real ones; bandwidth (d,), or (1,) where it was given as a number. Immutable."""

    def __init__(self, count: int, rows: Tensor, bandwidth: Tensor, most: int | None) -> None:
        self.count, self.rows, self.bandwidth, self.most = count, rows, bandwidth, most

    @property
    def width(self) -> int:
        return self.rows.shape[1]

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        which = torch.randint(len(self.rows), (n,), generator=rng, device=self.rows.device)
        noise = torch.randn(n, self.rows.shape[1], generator=rng, device=self.rows.device, dtype=self.rows.dtype)
        return self.rows[which] + noise * self.bandwidth

    def log_prob(self, z: Tensor) -> Tensor:
        m, d = self.rows.shape
        bandwidth = self.bandwidth.double().expand(d)
        points = self.rows.double() / bandwidth
        constant = math.log(m) + 0.5 * d * math.log(2 * math.pi) + bandwidth.log().sum()
        parts = [
            torch.logsumexp(-0.5 * _squares(rows.double() / bandwidth, points), dim=1) - constant
            for rows in z.split(ROWS)
        ]
        return torch.cat(parts).to(z)

    def union(self, other: Fitted) -> FittedKernels | None:
        """All rows of both, where the bandwidth is one number and no row was left out."""
        if not isinstance(other, FittedKernels) or not torch.equal(self.bandwidth, other.bandwidth):
            return None
        count = self.count + other.count
        whole = len(self.rows) + len(other.rows) == count and (self.most is None or count <= self.most)
        if not whole or len(self.bandwidth) != 1:
            return None
        return FittedKernels(count, torch.cat([self.rows, other.rows]), self.bandwidth, self.most)

    def tensors(self) -> dict[str, Tensor]:
        return {"rows": self.rows, "bandwidth": self.bandwidth}

    def settings(self) -> State:
        return {"count": self.count, "most": self.most}


def _squares(x: Tensor, points: Tensor) -> Tensor:
    """Squared distances (n, m), about the points' mean."""
    middle = points.mean(dim=0)
    x, points = x - middle, points - middle
    square = x.square().sum(dim=1, keepdim=True) - 2 * x @ points.T + points.square().sum(dim=1)
    return square.clamp(min=0)


def _left_out(rows: Tensor, bandwidths: list[float], rng: torch.Generator) -> Tensor:
    """For each bandwidth the mean log density of a row under the kernels of all others."""
    m, d = rows.shape
    points = rows.double()
    judged = torch.randperm(m, generator=rng, device=rows.device)[:JUDGED]
    square = _squares(points[judged], points)
    square[torch.arange(len(judged), device=rows.device), judged] = math.inf
    logs = [torch.logsumexp(-0.5 * square / h**2, dim=1).mean() - d * math.log(h) for h in bandwidths]
    return torch.stack(logs)
