"""k-means: where mixtures begin, and what a codebook is made of; and rows about a middle, a few thousand at a time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import one_hot

LLOYD_STEPS = 10
ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-13}  # of a squared distance, as a share of the squared lengths
ROWS = 4096  # rows at a time
KEPT = (
    2**28
)  # bytes of rows about a middle that are made once and kept while a fit lasts; more are made anew at each pass


class Chunks:
    """Rows (n, d) a few thousand at a time, in their own precision about a middle (d,) in float64, with their squares where those
    are asked for. Sums over chunks belong in float64: within a chunk single precision is enough, over all rows it is not."""

    def __init__(self, z: Tensor, middle: Tensor, squares: bool = False, size: int = ROWS) -> None:
        self.z, self.squares, self.size = z, squares, size
        self.middle = middle.to(z).double()  # what is taken from the rows, to the last digit
        self._kept: list[tuple[Tensor, Tensor]] | None = None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self._kept is None and self.z.numel() * self.z.element_size() * (1 + self.squares) <= KEPT:
            self._kept = list(self._made())
        return iter(self._kept) if self._kept is not None else self._made()

    @cached_property
    def moment(self) -> Tensor:
        """(d, d) the sum of x xᵀ over all rows, in float64."""
        return cast(Tensor, sum((x.T @ x).double() for x, _ in self))

    def _made(self) -> Iterator[tuple[Tensor, Tensor]]:
        middle = self.middle.to(self.z)
        for rows in self.z.split(self.size):
            x = rows - middle
            yield x, x.square() if self.squares else x


def k_means(z: Tensor, k: int, rng: torch.Generator, steps: int = LLOYD_STEPS) -> tuple[Tensor, Tensor]:
    """Centres (at most k, d) in float64 and the centre of each row (n,); no centre is without rows.

    Starting centres by k-means++ (Arthur and Vassilvitskii 2007), then Lloyd's steps until no row moves; a centre that loses its
    rows is put on the row farthest from its own. Fewer distinct rows than k give fewer centres. In the rows' own precision, about
    their mean.
    """
    middle = z.mean(dim=0, dtype=torch.float64)
    x = z - middle.to(z)
    length = torch.linalg.vector_norm(x, dim=1).square()
    centres = _plus_plus(x, length, min(k, len(z)), rng)
    distance, label = _nearest(x, length, centres)
    for _ in range(steps):
        centres = _means(x, label, centres)
        for empty in (torch.bincount(label, minlength=len(centres)) == 0).nonzero().flatten().tolist():
            farthest = int(distance.argmax())
            centres[empty] = x[farthest]
            distance[farthest] = 0
        before = label
        distance, label = _nearest(x, length, centres)
        if torch.equal(before, label):
            break
    used, label = label.unique(return_inverse=True)
    return _means(x, label, centres[used]).double() + middle, label


def nearest_centre(z: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distance of each row to its nearest centre (n,), and which that is (n,)."""
    middle = centres.mean(dim=0)
    x = (z.to(centres) - middle).to(z)
    return _nearest(x, torch.linalg.vector_norm(x, dim=1).square(), (centres - middle).to(z))


def _nearest(x: Tensor, length: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """length: squared, of each row."""
    parts = [(centres.square().sum(dim=1) - 2 * rows @ centres.T).min(dim=1) for rows in x.split(ROWS)]
    distance = torch.cat([part.values for part in parts]) + length
    return distance.clamp_(min=0), torch.cat([part.indices for part in parts])


def _plus_plus(x: Tensor, length: Tensor, k: int, rng: torch.Generator) -> Tensor:
    """Each centre is a row drawn with the squared distance to those before as its weight."""
    row = torch.randint(len(x), (1,), generator=rng, device=x.device)
    chosen, distance = [row], torch.full_like(length, torch.inf)
    while True:
        fresh = length + length[row] - 2 * torch.mv(x, x[row[0]])
        # What is no more than rounding is no distance: no row twice, nor one that equals it.
        fresh[fresh < ROUNDING[x.dtype] * (length + length[row])] = 0
        fresh[row] = 0
        distance = torch.minimum(distance, fresh)
        if len(chosen) == k or not bool(distance.any()):
            return x[torch.cat(chosen)]
        row = torch.multinomial(distance / distance.sum(), 1, generator=rng)
        chosen.append(row)


def _means(x: Tensor, label: Tensor, centres: Tensor) -> Tensor:
    """Of the rows of each centre; a centre without rows stays where it is."""
    total = torch.zeros_like(centres)
    for rows, mine in zip(x.split(ROWS), label.split(ROWS), strict=True):
        total += one_hot(mine, len(centres)).to(x).T @ rows  # not index_add_, whose order of sums varies on a GPU
    count = torch.bincount(label, minlength=len(centres))[:, None]
    return torch.where(count > 0, total / count.clamp(min=1), centres)
