"""Which task does an input belong to? Answers from the predictions that the models of all tasks give for it.

probabilities: (T, V, B, C) what model t, with its v-th sample of weights, says of input b, over the C classes of its head. Each criterion
gives (B, T), higher for likelier tasks, in float64: in float32 several sure models are equally sure. The criteria do not need the true task;
what follows them measures, with its help, how good such answers are.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.func import jvp

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


def entropy_gradient(mixed: Callable[[Tensor], Tensor], shares: Tensor) -> Tensor:
    """-dH / d alpha_j (B, T), float64: how much surer the mixture of all tasks becomes as it has more of task j (one-shot inference of
    Wortsman et al. 2020, "Supermasks in superposition", arXiv 2006.14769). H: entropy of the mean prediction, in nats.

    mixed: shares alpha (T,) of the tasks -> (V, B, C) scores of the networks of that mixture, differentiable forwards, over the classes of
    all tasks. shares: where the derivatives are taken. Unlike the criteria it looks at no answer of any one task.
    """

    def entropies(alpha: Tensor) -> Tensor:
        logs = torch.log_softmax(mixed(alpha).double(), dim=-1)
        mean = logs.logsumexp(dim=0) - math.log(len(logs))
        return -(mean.exp() * mean).sum(dim=1)  # of logarithms: the derivative of p log p is infinite at 0

    directions = torch.eye(len(shares)).to(shares)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="`torch.jit.script`"
        )  # which torch itself uses at the first derivative
        # Forwards: each direction gives a derivative for every input.
        return torch.stack([-jvp(entropies, (shares,), (one,))[1] for one in directions], dim=1)


def in_batches(scores: Tensor, size: int) -> Tensor:
    """(B, T) with the scores of each run of ``size`` inputs, known to belong to one task, added up: one decision for all of them.

    >>> in_batches(torch.tensor([[0.0, 1.0], [3.0, 0.0], [0.0, 1.0]]), 2)
    tensor([[3., 1.],
            [3., 1.],
            [0., 1.]])
    """
    parts = [part.sum(dim=0, keepdim=True).expand_as(part) for part in scores.split(size)]
    return torch.cat(parts)


# ------------------------------------------------------------------------------------------ how good the answers are


def task_confusion(inferred: Tensor, truth: Tensor, tasks: int) -> Tensor:
    """(tasks, tasks) int64, rows of each task (down) that were taken for each task (across). inferred, truth: (B,) tasks.

    >>> task_confusion(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), 2)
    tensor([[1, 1],
            [0, 1]])
    """
    return torch.bincount(truth * tasks + inferred, minlength=tasks * tasks).view(tasks, tasks)


def auroc(inside: Tensor, outside: Tensor) -> float | None:
    """P(u < v) + P(u = v) / 2 of uncertainties u in and v out of distribution, drawn independently: the area under the ROC curve of
    telling the two apart (Hanley and McNeil 1982). 1: always told apart; 1/2: by chance. None where there are none of either.

    inside: (n,), outside: (m,).

    >>> auroc(torch.tensor([0.1, 0.2]), torch.tensor([0.2, 0.3]))
    0.875
    """
    if not len(inside) or not len(outside):
        return None
    ranked = outside.double().sort().values
    inside = inside.double().contiguous()
    below, up_to = (torch.searchsorted(ranked, inside, right=right) for right in (False, True))
    return float((len(ranked) - (below + up_to).double() / 2).mean() / len(ranked))


def expected_calibration_error(probabilities: Tensor, y: Tensor, bins: int = 15) -> float | None:
    """ECE = sum_k (n_k / B) |accuracy_k - confidence_k| over the rows whose largest probability lies in ((k-1)/bins, k/bins] (Guo, Pleiss,
    Sun and Weinberger 2017, arXiv 1706.04599). None where there are no rows.

    probabilities: (B, C), y: (B,) classes.

    >>> expected_calibration_error(torch.tensor([[0.75, 0.25], [0.75, 0.25]]), torch.tensor([0, 1]))
    0.25
    """
    if not len(y):
        return None
    confidences, answers = probabilities.double().max(dim=1)
    edges = torch.arange(1, bins, dtype=torch.float64, device=y.device) / bins
    place = torch.bucketize(confidences, edges)
    apart = torch.zeros(bins, dtype=torch.float64, device=y.device)
    apart.index_add_(0, place, (answers == y).double() - confidences)
    return float(apart.abs().sum() / len(y))
