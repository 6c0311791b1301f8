"""k-means: where mixtures begin, and what a codebook is made of; and rows about a middle, a few thousand at a time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from reverie.nn.matmul import linear

LLOYD_STEPS = 10
AHEAD = 16  # centres of k-means++ that are looked for at a time, and rows that may become each of them
BLOCK = 256  # columns of a product of rows with themselves that are made at a time
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
        return cast(Tensor, sum(gram(x).double() for x, _ in self))

    def _made(self) -> Iterator[tuple[Tensor, Tensor]]:
        middle = self.middle.to(self.z)
        for rows in self.z.split(self.size):
            x = rows - middle
            yield x, x.square() if self.squares else x


def middle_of(z: Tensor) -> Tensor:
    """(n, d) -> (d,) means in float64, added up in the rows' own precision a few thousand at a time: tens of times faster."""
    return cast(Tensor, sum(rows.sum(dim=0).double() for rows in z.split(ROWS))) / len(z)


def gram(x: Tensor) -> Tensor:
    """(n, d) -> x.T @ x (d, d), symmetric to the last bit; products of one half only."""
    columns = x.T.contiguous()
    lower = x.new_zeros(len(columns), len(columns))
    for start in range(0, len(columns), BLOCK):
        end = start + BLOCK
        lower[start:end, :end] = linear(columns[start:end], columns[:end])
    return lower.tril() + lower.tril(-1).T


def k_means(z: Tensor, k: int, rng: torch.Generator, steps: int = LLOYD_STEPS) -> tuple[Tensor, Tensor]:
    """Centres (at most k, d) in float64 and the centre of each row (n,); no centre is without rows.

    Starting centres by k-means++ (Arthur and Vassilvitskii 2007), then Lloyd's steps until no row moves; a centre that loses its
    rows is put on the row farthest from its own. Fewer distinct rows than k give fewer centres. In the rows' own precision, about
    their mean.
    """
    middle = middle_of(z)
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


def _nearest(x: Tensor, length: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """length: squared, of each row."""
    parts = [(centres.square().sum(dim=1) - 2 * linear(rows, centres)).min(dim=1) for rows in x.split(ROWS)]
    distance = torch.cat([part.values for part in parts]) + length
    return distance.clamp_(min=0), torch.cat([part.indices for part in parts])


def _plus_plus(x: Tensor, length: Tensor, k: int, rng: torch.Generator) -> Tensor:
    """Each centre is a row drawn with the squared distance to those before as its weight, by torch.multinomial's rule: the row of the
    largest distance / q, q exponential.

    One product of matrices finds all rows' distances to several centres, far faster than one for each. Between two products distances
    have only shrunk, so a row that beats what its rivals had before is the row drawn; only those in front are looked at.
    """

    def distances(a: Tensor, length_a: Tensor, b: Tensor, length_b: Tensor) -> Tensor:
        both = length_a[:, None] + length_b
        found = both - 2 * linear(a, b)
        # What is no more than rounding is no distance: no row twice, nor one that equals it.
        return found.masked_fill_(found < ROUNDING[x.dtype] * both, 0)

    def nearer(distance: Tensor, new: Tensor) -> Tensor:
        found = distances(x, length, x[new], length[new])
        found[new, torch.arange(len(new), device=x.device)] = 0
        return torch.minimum(distance, found.amin(dim=1))

    chosen = torch.randint(len(x), (1,), generator=rng, device=x.device)
    distance = nearer(torch.full_like(length, torch.inf), chosen)
    draws: list[Tensor] = []
    while len(chosen) < k and bool(distance.any()):
        while len(draws) < min(AHEAD, k - len(chosen)):
            draws.append(torch.empty_like(distance).exponential_(generator=rng))
        front = (distance / torch.stack(draws)).topk(min(AHEAD + 1, len(x)), dim=1)
        rivals = front.values[:, AHEAD].tolist() if len(x) > AHEAD else [0.0] * len(draws)
        rows, places = front.indices[:, :AHEAD].unique(return_inverse=True)
        among, between = distance[rows], distances(x[rows], length[rows], x[rows], length[rows]).fill_diagonal_(0)
        new: list[Tensor] = []
        for q, mine, rival in zip(draws, places, rivals, strict=True):
            best, place = (among[mine] / q[rows[mine]]).max(dim=0)
            if new and float(best) <= rival:  # all have come nearer: a row farther back may be the one
                break
            new.append(rows[mine[place]])
            among = torch.minimum(among, between[mine[place]])
        draws = draws[len(new) :]
        fresh = torch.stack(new)
        chosen, distance = torch.cat([chosen, fresh]), nearer(distance, fresh)
    return x[chosen]


def _means(x: Tensor, label: Tensor, centres: Tensor) -> Tensor:
    """Of the rows of each centre; a centre without rows stays where it is."""
    total = torch.zeros_like(centres)
    for rows, mine in zip(x.split(ROWS), label.split(ROWS), strict=True):
        if x.device.type == "cpu":
            total += torch.zeros_like(centres).index_add_(0, mine, rows)
        else:  # where the order of its sums would vary
            total += one_hot(mine, len(centres)).to(x).T @ rows
    count = torch.bincount(label, minlength=len(centres))[:, None]
    return torch.where(count > 0, total / count.clamp(min=1), centres)
