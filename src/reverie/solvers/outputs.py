"""Which outputs take part in the softmax, and the losses over them.

Softmax groups say it all in one table: output c belongs to group ``groups[c]`` (-1: inactive), and log-probabilities are
normalised within each group. One group is a single head, one group a task is a multi-headed solver.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from reverie.types import Batch, StreamSpec

ActiveClasses = Literal["all", "all-so-far", "current"]
Objective = Callable[[Tensor, Batch], Tensor]


def objective(spec: StreamSpec) -> tuple[str, Objective]:
    """Name and function of the loss of scores (B, outputs) on a batch: minus the log-likelihood of its y, summed by the weights."""
    if spec.kind == "classification":
        return "cross-entropy", cross_entropy
    return "nll", partial(gaussian_nll, noise_std=spec.noise_std or 1.0)


def softmax_groups(spec: StreamSpec, task: int, active: ActiveClasses) -> Tensor | None:
    """(outputs,) int64 groups while training on ``task``; None stands for one softmax over all outputs.

    Task-incremental: a group for each head so far. Domain-incremental: one group. Class-incremental, by ``active``:
    "all" units from the start, "all-so-far" those of classes seen, "current" a group a task ("labels trick",
    Zeno et al. 2018), so that classes of different tasks do not compete in training; in joint training the tasks are those that were merged.
    """
    if spec.scenario == "domain" or (spec.scenario == "class" and active == "all"):
        return None
    groups = torch.full((spec.outputs,), -1)
    merged = len(spec.heads) > spec.tasks  # joint training: every head is taught at once
    parts = spec.heads if spec.scenario == "task" or merged else spec.task_classes
    for head, classes in enumerate(parts):
        if head > task and not merged:
            break
        for output in classes:
            if groups[output] < 0:
                groups[output] = 0 if spec.scenario == "class" and active == "all-so-far" else head
    return groups


def log_probabilities(scores: Tensor, groups: Tensor | None) -> Tensor:
    """(B, outputs) log-softmax within each group; 0 at inactive outputs, which no target may ask for."""
    if groups is None:
        return torch.log_softmax(scores, dim=1)
    active = groups >= 0
    count = int(groups.max()) + 1 if groups.device.type == "cpu" else len(groups)
    if count == 1:
        masked = scores.masked_fill(~active, float("-inf"))
        return torch.log_softmax(masked, dim=1).masked_fill(~active, 0.0)
    where = groups.clamp(min=0).expand_as(scores)
    masked = scores.masked_fill(~active, float("-inf"))
    highest = torch.full((len(scores), count), float("-inf"), dtype=scores.dtype, device=scores.device)
    highest = highest.scatter_reduce(1, where, masked.detach(), "amax").gather(1, where).masked_fill(~active, 0.0)
    shifted = masked - highest  # inactive outputs stay at -inf: whatever their scores, they add exp(-inf) = 0
    total = torch.zeros(len(scores), count, dtype=scores.dtype, device=scores.device)
    total = total.scatter_add(1, where, shifted.exp())
    return (shifted - total.gather(1, where).clamp(min=1e-38).log()).masked_fill(~active, 0.0)


def cross_entropy(scores: Tensor, batch: Batch) -> Tensor:
    """sum_i w_i * -sum_c y_ic log softmax(scores_i / temperature_i)_c, the softmax within each group."""
    if batch.y is None:
        raise ValueError("cross-entropy needs labels")
    if batch.temperature is not None:
        scores = scores / batch.temperature[:, None]
    logs = log_probabilities(scores, batch.groups)
    hard = batch.y.dtype == torch.int64
    nll = -(logs.gather(1, batch.y[:, None]).squeeze(1) if hard else (batch.y * logs).sum(dim=1))
    return (batch.weight * nll).sum()


def gaussian_nll(scores: Tensor, batch: Batch, noise_std: float) -> Tensor:
    """sum_i w_i * |y_i - f_i|^2 / (2 noise_std^2), for targets y (B, outputs): -log N(y; f, noise_std^2 I) but for its constant."""
    if batch.y is None:
        raise ValueError("regression needs targets")
    return (batch.weight * squared_errors(scores, batch.y)).sum() / (2 * noise_std**2)


def squared_errors(scores: Tensor, y: Tensor) -> Tensor:
    """(..., B, outputs), (B, outputs) -> (..., B)."""
    return (y - scores).square().sum(dim=-1)
