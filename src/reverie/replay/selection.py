"""Which rows of a class a full buffer keeps, and which generated candidates are rehearsed."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from reverie.types import Batch, Losses, Solver

Strategy = Literal["reservoir", "class-balanced", "greedy-balance", "herding", "ring", "k-centre"]
Selection = Literal["none", "confidence", "entropy", "margin", "likelihood", "diversity", "interference"]
SCORED = ("confidence", "entropy", "margin")  # by the frozen solver's scores

LABEL_ROWS = 8192  # rows scored at a time: large products, bounded memory


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


def greedy_balance(
    held: Sequence[Hashable], offered: Sequence[Hashable], capacity: int, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The greedy balancing sampler of GDumb (Prabhu, Torr and Dokania 2020, algorithm 1), over rows offered one by one.

    held: the class of each row that is kept so far, offered: of each new one, in order. A row of a new class is always taken, another
    while its class has fewer than capacity / classes; where all is full, a row drawn from the largest class (of several the one
    met first) gives way. Returns (K,) places among the rows held and (M,) among those offered that are kept in the end.
    """
    members: dict[Hashable, list[int]] = {}
    for place, c in enumerate(held):
        members.setdefault(c, []).append(place)
    count = len(held)
    # The draw for a row, and those for rows that have to go since each of them takes more room than before.
    draws = iter(torch.rand(len(held) + len(offered), generator=rng, dtype=torch.float64).tolist())

    def give_way() -> None:
        largest = max(members.values(), key=len)
        largest.pop(int(next(draws) * len(largest)))

    for _ in range(count - capacity):
        give_way()
    count = min(count, capacity)
    for place, c in enumerate(offered, start=len(held)):
        mine = members.get(c)
        if mine and len(mine) * len(members) >= capacity:
            continue
        if count == capacity:
            give_way()
        else:
            count += 1
        members.setdefault(c, []).append(place)
    kept = torch.tensor(sorted(place for places in members.values() for place in places), dtype=torch.int64)
    return kept[kept < len(held)], kept[kept >= len(held)] - len(held)


def unit_features(solver: Solver, x: Tensor) -> Tensor:
    """(B, ...) -> (B, width) features before the head, of length 1, as iCaRL uses them."""
    with torch.no_grad():
        return functional.normalize(solver.encode(x).flatten(1), dim=1)


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


def k_centre(features: Tensor, count: int, last: Tensor | None = None) -> Tensor:
    """Indices (count,) of rows that cover all: first the one nearest to the mean, then always the one farthest from those chosen.

    The greedy 2-approximation of the k-centre problem (Gonzalez 1985), as in Sener and Savarese 2018 (arXiv 1708.00489). last:
    (N,) bool, rows that come in only once all others are chosen.

    >>> k_centre(torch.tensor([[0.0], [1.0], [1.1], [9.0]]), 3).tolist()
    [2, 3, 0]
    """
    last = torch.zeros(len(features), dtype=torch.bool, device=features.device) if last is None else last
    from_mean = (features - features.mean(dim=0)).square().sum(dim=1)
    # Places stay on the device: nothing here waits for it.
    place = from_mean.masked_fill(last, float("inf")).argmin(dim=0, keepdim=True)
    nearest = torch.full_like(from_mean, float("inf")).masked_fill(last, -1.0)
    chosen = []
    for _ in range(min(count, len(features))):
        chosen.append(place)
        nearest = torch.minimum(nearest, (features - features[place]).square().sum(dim=1))
        nearest[place] = -2.0  # copies of a chosen row are still other rows
        place = nearest.argmax(dim=0, keepdim=True)
    return torch.cat(chosen)


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


def interference(rows: Batch, current: Batch, solver: Solver, learning_rate: float) -> Tensor:
    """(B,) how much the loss of each row under its label grows by one update on the current rows alone.

    l(row; theta - rate * gradient) - l(row; theta), as in maximally interfered retrieval (Aljundi et al. 2019, arXiv 1908.04742,
    equation 2): a step of plain gradient descent, in training mode, on a copy that is thrown away; the losses in evaluation mode.
    """
    copy = solver.frozen()
    for mine, live in zip(copy.module.parameters(), solver.module.parameters(), strict=True):
        mine.requires_grad_(live.requires_grad)
    weights = [weight for weight in copy.module.parameters() if weight.requires_grad]
    gradients = torch.autograd.grad(_total(copy.loss(current)), weights, allow_unused=True)
    with torch.no_grad():
        for weight, gradient in zip(weights, gradients, strict=True):
            if gradient is not None:
                weight.sub_(gradient, alpha=learning_rate)
    rows = replace(rows, groups=current.groups)
    return row_losses(copy, rows) - row_losses(solver, rows)


def row_losses(solver: Solver, batch: Batch) -> Tensor:
    """(B,) the loss of each row alone, in evaluation mode, whatever it weighs."""
    with torch.no_grad():
        scores = torch.cat([solver.scores(part) for part in batch.x.split(LABEL_ROWS)])
    # The loss of a solver is sum_i w_i l_i, so that its gradient by the weights is l.
    weight = batch.weight.clone().requires_grad_()
    return torch.autograd.grad(_total(solver.loss(replace(batch, weight=weight), scores)), weight)[0]


def _total(losses: Losses) -> Tensor:
    return torch.stack(list(losses.values())).sum()
