"""Which rows of a class a full buffer keeps, and which generated candidates are rehearsed."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Strategy = Literal["reservoir", "class-balanced", "herding", "ring", "k-centre"]
Selection = Literal["none", "confidence", "entropy", "margin", "likelihood"]
SCORED = ("confidence", "entropy", "margin")  # by the frozen solver's scores


def reservoir_slots(first: int, count: int, capacity: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Algorithm R (Vitter 1985) for rows first .. first + count - 1 at once: (rows, slots), one entry for each slot that changes.

    rows: (K,) offsets among the new rows, slots: (K,) the slots they end up in, later rows having overwritten earlier ones.
    """
    number = torch.arange(first, first + count)
    draw = (torch.rand(count, generator=rng, dtype=torch.float64) * (number + 1)).long().clamp(max=first + count - 1)
    slot = torch.where(number < capacity, number, draw)
    chosen = (slot < capacity).nonzero().flatten()
    last = torch.full((capacity,), -1)
    last.scatter_reduce_(0, slot[chosen], chosen, "amax")
    slots = (last >= 0).nonzero().flatten()
    return last[slots], slots


def herding(features: Tensor, count: int) -> Tensor:
    """Indices (count,) of the rows whose running mean stays closest to the mean of all, in order of choice.

    features: (N, width). Greedy: k-th choice argmin_i || mean - (sum of chosen + f_i) / k || (Welling 2009; Rebuffi et al. 2017,
    iCaRL, algorithm 4). A prefix of the result is the selection for a smaller count.
    """
    mean = features.mean(dim=0)
    total = torch.zeros_like(mean)
    free = torch.ones(len(features), dtype=torch.bool, device=features.device)
    squares = features.square().sum(dim=1)
    chosen = []
    for k in range(1, min(count, len(features)) + 1):
        # || k mean - total - f ||^2 = const + |f|^2 - 2 f.(k mean - total)
        distance = squares - 2 * features @ (k * mean - total)
        best = int(distance.masked_fill(~free, float("inf")).argmin())
        chosen.append(best)
        free[best] = False
        total = total + features[best]
    return torch.tensor(chosen, dtype=torch.int64)


def k_centre(features: Tensor, count: int) -> Tensor:
    """Indices (count,) of rows that cover all: first the one nearest to the mean, then always the one farthest from those chosen.

    The greedy 2-approximation of the k-centre problem (Gonzalez 1985), as in Sener and Savarese 2018 (arXiv 1708.00489).

    >>> k_centre(torch.tensor([[0.0], [1.0], [1.1], [9.0]]), 3).tolist()
    [2, 3, 0]
    """
    count = min(count, len(features))
    place = int((features - features.mean(dim=0)).square().sum(dim=1).argmin())
    chosen = [place]
    nearest = torch.full((len(features),), float("inf"), device=features.device)
    while len(chosen) < count:
        nearest = torch.minimum(nearest, (features - features[place]).square().sum(dim=1))
        nearest[chosen] = -1.0  # copies of a chosen row are still other rows
        place = int(nearest.argmax())
        chosen.append(place)
    return torch.tensor(chosen)


def certainty(scores: Tensor, rule: Selection) -> Tensor:
    """(B,) by which candidates are preferred, from scores (B, classes seen): "confidence" the surest rows, "entropy" those of which the solver
    is least sure, "margin" those whose two likeliest classes are closest.

    >>> sure, torn = torch.tensor([[9.0, 0.0, 0.0], [2.0, 2.0, 0.0]])
    >>> [int(certainty(torch.stack([sure, torn]), rule).argmax()) for rule in ("confidence", "entropy", "margin")]
    [0, 1, 1]
    """
    probabilities = torch.softmax(scores, dim=1)
    if rule == "confidence":
        return probabilities.amax(dim=1)
    if rule == "entropy":
        return -(probabilities * torch.log_softmax(scores, dim=1)).sum(dim=1)
    if probabilities.shape[1] < 2:
        return torch.zeros_like(probabilities[:, 0])
    top = probabilities.topk(2, dim=1).values
    return top[:, 1] - top[:, 0]


def class_medians(values: Tensor, classes: Tensor | None) -> Tensor:
    """(B,) the median of the values of a row's class; of all where there are no classes."""
    if classes is None:
        return values.median().expand_as(values)
    result = torch.empty_like(values)
    for c in classes.unique():
        mine = classes == c
        result[mine] = values[mine].median()
    return result
