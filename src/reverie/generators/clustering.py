"""k-means: where mixtures begin, and what a codebook is made of. In float64, a few thousand rows at a time."""

from __future__ import annotations

import torch
from torch import Tensor

LLOYD_STEPS = 10
ROWS = 4096  # rows in float64 at a time


def k_means(z: Tensor, k: int, rng: torch.Generator, steps: int = LLOYD_STEPS) -> tuple[Tensor, Tensor]:
    """Centres (at most k, d) in float64 and the centre of each row (n,); no centre is without rows.

    Starting centres by k-means++ (Arthur and Vassilvitskii 2007), then Lloyd's steps until no row moves; a centre that loses its
    rows is put on the row farthest from its own. Fewer distinct rows than k give fewer centres.
    """
    centres = _plus_plus(z, min(k, len(z)), rng)
    distance, label = nearest_centre(z, centres)
    for _ in range(steps):
        centres = _means(z, label, centres)
        for empty in (torch.bincount(label, minlength=len(centres)) == 0).nonzero().flatten().tolist():
            farthest = int(distance.argmax())
            centres[empty] = z[farthest].double()
            distance[farthest] = 0
        before = label
        distance, label = nearest_centre(z, centres)
        if torch.equal(before, label):
            break
    used, label = label.unique(return_inverse=True)
    return _means(z, label, centres[used]), label


def nearest_centre(z: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distance of each row to its nearest centre (n,), and which that is (n,)."""
    middle = centres.mean(dim=0)
    moved = centres - middle
    parts = []
    for rows in z.split(ROWS):
        x = rows.double() - middle
        square = x.square().sum(dim=1, keepdim=True) - 2 * x @ moved.T + moved.square().sum(dim=1)
        parts.append(square.clamp(min=0).min(dim=1))
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def _plus_plus(z: Tensor, k: int, rng: torch.Generator) -> Tensor:
    """Each centre is a row drawn with the squared distance to those before as its weight."""
    first = torch.randint(len(z), (1,), generator=rng, device=z.device)
    chosen = [z[first].double()]
    distance, _ = nearest_centre(z, chosen[0])
    while len(chosen) < k and bool(distance.any()):
        row = torch.multinomial(distance / distance.sum(), 1, generator=rng)
        chosen.append(z[row].double())
        distance = torch.minimum(distance, nearest_centre(z, chosen[-1])[0])
        distance[row] = 0  # whatever the rounding: no row twice
    return torch.cat(chosen)


def _means(z: Tensor, label: Tensor, centres: Tensor) -> Tensor:
    """Of the rows of each centre; a centre without rows stays where it is."""
    total = torch.zeros_like(centres)
    for rows, mine in zip(z.split(ROWS), label.split(ROWS), strict=True):
        total.index_add_(0, mine, rows.double())
    count = torch.bincount(label, minlength=len(centres))[:, None]
    return torch.where(count > 0, total / count.clamp(min=1), centres)
