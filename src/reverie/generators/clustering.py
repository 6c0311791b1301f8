"""k-means: where mixtures begin, and what a codebook is made of. In float64, a few thousand rows at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import one_hot

LLOYD_STEPS = 10
ROWS = 4096  # rows in float64 at a time
KEPT = (
    2**25
)  # numbers in float64 that are made once and kept while a fit lasts (256 MiB); more are made anew at each pass


class Chunks:
    """Rows (n, d) a few thousand at a time, in float64 about a middle (d,), each with its squares where those are asked for."""

    def __init__(self, z: Tensor, middle: Tensor, squares: bool = False, size: int = ROWS) -> None:
        self.z, self.middle, self.squares, self.size = z, middle, squares, size
        self._kept: list[tuple[Tensor, Tensor]] | None = None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self._kept is None and self.z.numel() * (1 + self.squares) <= KEPT:
            self._kept = list(self._made())
        return iter(self._kept) if self._kept is not None else self._made()

    def _made(self) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in self.z.split(self.size):
            x = rows.double() - self.middle
            yield x, x.square() if self.squares else x


def k_means(z: Tensor, k: int, rng: torch.Generator, steps: int = LLOYD_STEPS) -> tuple[Tensor, Tensor]:
    """Centres (at most k, d) in float64 and the centre of each row (n,); no centre is without rows.

    Starting centres by k-means++ (Arthur and Vassilvitskii 2007), then Lloyd's steps until no row moves; a centre that loses its
    rows is put on the row farthest from its own. Fewer distinct rows than k give fewer centres.
    """
    middle = z.mean(dim=0, dtype=torch.float64)
    chunks = Chunks(z, middle)
    centres = _plus_plus(chunks, min(k, len(z)), rng)
    distance, label = _nearest(chunks, centres)
    for _ in range(steps):
        centres = _means(chunks, label, centres)
        for empty in (torch.bincount(label, minlength=len(centres)) == 0).nonzero().flatten().tolist():
            farthest = int(distance.argmax())
            centres[empty] = z[farthest].double() - middle
            distance[farthest] = 0
        before = label
        distance, label = _nearest(chunks, centres)
        if torch.equal(before, label):
            break
    used, label = label.unique(return_inverse=True)
    return _means(chunks, label, centres[used]) + middle, label


def nearest_centre(z: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distance of each row to its nearest centre (n,), and which that is (n,)."""
    middle = centres.mean(dim=0)
    return _nearest(Chunks(z, middle), centres - middle)


def _nearest(chunks: Chunks, centres: Tensor) -> tuple[Tensor, Tensor]:
    parts = []
    for x, _ in chunks:
        square = centres.square().sum(dim=1) - 2 * x @ centres.T
        nearest = square.min(dim=1)
        length = torch.linalg.vector_norm(x, dim=1).square()
        parts.append(((nearest.values + length).clamp(min=0), nearest.indices))
    distances, labels = zip(*parts, strict=True)
    return torch.cat(distances), torch.cat(labels)


def _plus_plus(chunks: Chunks, k: int, rng: torch.Generator) -> Tensor:
    """Each centre is a row drawn with the squared distance to those before as its weight."""
    z = chunks.z
    first = torch.randint(len(z), (1,), generator=rng, device=z.device)
    chosen = [z[first].double() - chunks.middle]
    distance, _ = _nearest(chunks, chosen[0])
    while len(chosen) < k and bool(distance.any()):
        row = torch.multinomial(distance / distance.sum(), 1, generator=rng)
        chosen.append(z[row].double() - chunks.middle)
        distance = torch.minimum(distance, _nearest(chunks, chosen[-1])[0])
        distance[row] = 0  # whatever the rounding: no row twice
    return torch.cat(chosen)


def _means(chunks: Chunks, label: Tensor, centres: Tensor) -> Tensor:
    """Of the rows of each centre; a centre without rows stays where it is."""
    total = torch.zeros_like(centres)
    for (x, _), mine in zip(chunks, label.split(chunks.size), strict=True):
        total += one_hot(mine, len(centres)).double().T @ x  # not index_add_, whose order of sums varies on a GPU
    count = torch.bincount(label, minlength=len(centres))[:, None]
    return torch.where(count > 0, total / count.clamp(min=1), centres)
