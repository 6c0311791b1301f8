"""Which task does an input belong to? Answers from the predictions that the models of all tasks give for it.

probabilities: (T, V, B, C) what model t, with its v-th sample of weights, says of input b, over the C classes of its head. Each criterion
gives (B, T), higher for likelier tasks, in float64: in float32 several sure models are equally sure. Nothing here needs the true task.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Criterion = Callable[[Tensor], Tensor]


def entropy(probabilities: Tensor) -> Tensor:
    """Minus the entropy of the mean prediction, as a share of its largest value: the total uncertainty.

    >>> entropy(torch.tensor([[[[0.5, 0.5]]], [[[1.0, 0.0]]]]))
    tensor([[-1., -0.]], dtype=torch.float64)
    """
    mean = probabilities.double().mean(dim=1)
    return (torch.special.entr(mean).sum(dim=2) / -math.log(max(mean.shape[2], 2))).T


def confidence(probabilities: Tensor) -> Tensor:
    """The largest probability of the mean prediction."""
    return probabilities.double().mean(dim=1).amax(dim=2).T


def agreement(probabilities: Tensor) -> Tensor:
    """Minus the deviation between the samples of one model, a mean over the classes: what the model does not know. It tells nothing of one
    sample, so V must be 2 or more."""
    if probabilities.shape[1] < 2:
        raise ValueError("agreement compares samples of one model, and there is one sample alone")
    return -probabilities.double().std(dim=1, correction=0).mean(dim=2).T


CRITERIA: Mapping[str, Criterion] = {"entropy": entropy, "confidence": confidence, "agreement": agreement}


def in_batches(scores: Tensor, size: int) -> Tensor:
    """(B, T) with the scores of each run of ``size`` inputs, known to belong to one task, added up: one decision for all of them.

    >>> in_batches(torch.tensor([[0.0, 1.0], [3.0, 0.0], [0.0, 1.0]]), 2)
    tensor([[3., 1.],
            [3., 1.],
            [0., 1.]])
    """
    parts = [part.sum(dim=0, keepdim=True).expand_as(part) for part in scores.split(size)]
    return torch.cat(parts)
