"""Counts, means and scatter of classes, added up batch by batch: the same numbers in any order and however the rows are divided."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from reverie.checks import OptionsError
from reverie.nn.matmul import linear
from reverie.types import State

Scatter = Literal["none", "pooled", "each"]


class Moments:
    """Of ``outputs`` classes of vectors (d,), in float64 (products of float32 rows in float32).

    counts (outputs,), means (outputs, d); scatter: sums of outer products of rows centred on their class's mean, for all classes
    together (pooled, (d, d)), for each (outputs, d, d), or none. Two merge exactly (Chan, Golub and LeVeque 1979).
    """

    def __init__(self, width: int, outputs: int, scatter: Scatter, device: torch.device | str = "cpu") -> None:
        self.kind = scatter
        self.counts = torch.zeros(outputs, dtype=torch.float64, device=device)
        self.means = torch.zeros(outputs, width, dtype=torch.float64, device=device)
        shape = {"none": (0,), "pooled": (width, width), "each": (outputs, width, width)}[scatter]
        self.scatter = torch.zeros(shape, dtype=torch.float64, device=device)

    @property
    def width(self) -> int:
        return self.means.shape[1]

    def grow(self, outputs: int) -> None:
        more = outputs - len(self.counts)
        if more > 0:
            self.counts = torch.cat([self.counts, self.counts.new_zeros(more)])
            self.means = torch.cat([self.means, self.means.new_zeros(more, self.width)])
            if self.kind == "each":
                self.scatter = torch.cat([self.scatter, self.scatter.new_zeros(more, self.width, self.width)])

    def add(self, x: Tensor, y: Tensor) -> None:
        """x (B, d), y (B,) int64."""
        counts = y.bincount(minlength=len(self.counts)).double()
        rows = counts.clamp(min=1)[:, None]
        near = class_sums(x, y, len(counts)) / rows.to(x.dtype)
        centred = x - near[y]
        means = near.double() + class_sums(centred, y, len(counts)) / rows  # and what float32 had left out of them
        if self.kind == "pooled":
            self.scatter += linear(centred.T, centred.T)
        for c in y.unique().tolist() if self.kind == "each" else ():
            mine = centred[y == c].T
            self.scatter[c] += linear(mine, mine)
        self._join(counts, means)

    def merge(self, other: Moments) -> None:
        """Adds what another has seen. Raises OptionsError for other widths, classes or kinds."""
        mine, theirs = (self.kind, *self.means.shape), (other.kind, *other.means.shape)
        if mine != theirs:
            words = "scatter {}, {} classes, width {}".format
            order = ((k, c, w) for k, c, w in (mine, theirs))
            raise OptionsError(
                "these statistics cannot be merged: "
                + " and ".join(words(*each) for each in order)
                + "; fit both on latents of one cut"
            )
        if self.kind != "none":
            self.scatter += other.scatter
        self._join(other.counts, other.means)

    def placed(self, places: Tensor, outputs: int) -> Moments:
        """The same of ``outputs`` classes, class c being class ``places[c]`` there."""
        found = Moments(self.width, outputs, self.kind, self.counts.device)
        found.counts[places], found.means[places] = self.counts, self.means
        if self.kind == "each":
            found.scatter[places] = self.scatter
        else:
            found.scatter = self.scatter
        return found

    def _join(self, counts: Tensor, means: Tensor) -> None:
        """Counts and means of the union, and what the distance between both means adds to the scatter."""
        total = self.counts + counts
        apart = means - self.means
        weight = counts / total.clamp(min=1)
        if self.kind != "none":
            between = apart * (self.counts * weight).sqrt()[:, None]
            touched = ((self.counts > 0) & (counts > 0)).nonzero().flatten()
            if self.kind == "pooled" and len(touched):
                self.scatter += between[touched].T @ between[touched]
            for c in touched.tolist() if self.kind == "each" else ():
                self.scatter[c] += torch.outer(between[c], between[c])
        self.means = self.means + weight[:, None] * apart
        self.counts = total

    def covariance(self, correction: int = 0) -> Tensor:
        """Pooled within-class (d, d), or of each class (outputs, d, d)."""
        if self.kind == "pooled":
            return self.scatter / max(float(self.counts.sum()) - correction, 1.0)
        return self.scatter / (self.counts - correction).clamp(min=1)[:, None, None]

    def num_bytes(self) -> int:
        """Of ``state``: a symmetric scatter is its triangle there; in memory it is whole."""
        d = self.width
        triangles = {"none": 0, "pooled": 1, "each": len(self.counts)}[self.kind]
        return 8 * (self.counts.numel() + self.means.numel() + triangles * d * (d + 1) // 2)

    def state(self) -> State:
        scatter = self.scatter if self.kind == "none" else packed(self.scatter)
        return {"counts": self.counts, "means": self.means, "scatter": scatter}

    def load(self, state: State) -> None:
        self.counts, self.means, scatter = (
            state[name].to(self.counts.device).clone() for name in ("counts", "means", "scatter")
        )
        # Runs from before triangles were saved have whole matrices.
        whole = self.kind == "none" or scatter.dim() == self.scatter.dim()
        self.scatter = scatter if whole else unpacked(scatter, self.width)


def class_sums(x: Tensor, y: Tensor, outputs: int) -> Tensor:
    """(B, d), (B,) int64 -> (outputs, d), the sum of each class's rows; the same bits each time, which atomic additions are not."""
    if x.device.type == "cpu":
        return x.new_zeros(outputs, x.shape[1]).index_add_(0, y, x)
    return functional.one_hot(y, outputs).T.to(x.dtype) @ x


def packed(symmetric: Tensor) -> Tensor:
    """(..., d, d) -> (..., d (d + 1) / 2): the lower triangle, row by row. A row at a time, since indices would take more room than it."""
    return torch.cat([symmetric[..., row, : row + 1] for row in range(symmetric.shape[-1])], dim=-1)


def unpacked(triangle: Tensor, width: int) -> Tensor:
    """(..., width (width + 1) / 2) -> (..., width, width)."""
    found = triangle.new_empty(*triangle.shape[:-1], width, width)
    for row, part in enumerate(triangle.split(list(range(1, width + 1)), dim=-1)):
        found[..., row, : row + 1] = found[..., : row + 1, row] = part
    return found
