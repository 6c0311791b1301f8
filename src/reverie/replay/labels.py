"""Targets for replayed rows: what the frozen solver answers, hard or soft, for every head that was taught before."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from reverie.solvers.outputs import ActiveClasses, log_probabilities, softmax_groups
from reverie.types import StreamSpec

LabelForm = Literal["hard", "soft"]


def past_groups(spec: StreamSpec, task: int, active: ActiveClasses) -> Tensor | None:
    """Softmax groups of the solver frozen before ``task``; kept on the CPU, where they are looked at."""
    return softmax_groups(spec, task - 1, active) if task > 0 else None


def seen_outputs(spec: StreamSpec, task: int) -> Tensor:
    """(outputs,) bool: classes taught before ``task``."""
    seen = torch.zeros(spec.outputs, dtype=torch.bool)
    seen[list(spec.classes_until(task - 1)) if task > 0 else []] = True
    return seen


def targets(scores: Tensor, groups: Tensor | None, seen: Tensor, form: LabelForm, temperature: float) -> Tensor:
    """Targets from the frozen solver's scores (B, outputs).

    groups: (outputs,) softmax groups of the past (-1: not taught yet), None for one softmax over all outputs; seen:
    (outputs,) bool, classes taught so far. With one group and hard labels: (B,) class indices among the seen ones
    (Shin et al. 2017). Otherwise (B, outputs): for each group its hard or soft distribution, divided by the number of groups, so that one
    row serves all old heads and the loss is their mean. Soft: softmax(scores / temperature) (Hinton et al. 2015).
    """
    many = groups is not None and int(groups.max()) > 0
    if form == "hard" and not many:
        return scores.masked_fill(~seen, float("-inf")).argmax(dim=1)
    if not many:
        if groups is None:
            return torch.softmax(scores / temperature, dim=1)
        groups = groups.to(scores.device)
        return log_probabilities(scores / temperature, groups).exp() * (groups >= 0)
    assert groups is not None
    heads = [head for head in range(int(groups.max()) + 1) if bool((groups == head).any())]
    result = torch.zeros_like(scores)
    for head in heads:
        outputs = (groups == head).nonzero().flatten().to(scores.device)
        mine = scores[:, outputs]
        answer = (
            functional.one_hot(mine.argmax(dim=1), len(outputs)).to(scores)
            if form == "hard"
            else torch.softmax(mine / temperature, dim=1)
        )
        result[:, outputs] = answer / len(heads)
    return result
