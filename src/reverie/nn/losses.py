"""Losses over large outputs in as few passes over memory as they need."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


def bernoulli_nll(logits: Tensor, x: Tensor) -> Tensor:
    """-log p(x) in nats a row (B,) of independent Bernoulli units with these logits; logits, x: (B, ...), x in [0, 1].

    sum_j softplus(l_j) - x_j l_j, with gradient sigmoid(l) - x: the binary cross-entropy on logits, in half the passes.

    >>> bernoulli_nll(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]])).item()  # 2 ln 2
    1.3862943649291992
    """
    nll: Tensor = _BernoulliNLL.apply(logits.flatten(1), x.flatten(1))
    return nll


class _BernoulliNLL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(logits, x)
        return functional.softplus(logits).addcmul_(logits, x, value=-1).sum(dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        logits, x = ctx.saved_tensors
        return torch.sigmoid(logits).sub_(x).mul_(grads[0][:, None]), None
