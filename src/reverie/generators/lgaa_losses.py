"""The losses of the lifelong generative adversarial autoencoder, as pure functions; every mean over rows is weighted."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

NEAR = 0.01  # of the radius: how far off the direction of steepest divergence is looked for


def gumbel_softmax(logits: Tensor, temperature: float, rng: torch.Generator, hard: bool = False) -> Tensor:
    """(B, K) a sample near the corners of the simplex (Jang, Gu and Poole 2017, arXiv 1611.01144); hard: at a corner, with the gradient of
    the soft one."""
    uniform = torch.rand(logits.shape, generator=rng, device=logits.device).clamp(min=torch.finfo(torch.float32).tiny)
    soft = torch.softmax((logits - (-uniform.log()).log()) / temperature, dim=1)
    if not hard:
        return soft
    corner = functional.one_hot(soft.argmax(dim=1), soft.shape[1]).to(soft)
    return corner + soft - soft.detach()


def normal_kl(mean: Tensor, std: Tensor, centre: Tensor | float = 0.0) -> Tensor:
    """(B,) KL(N(mean, std^2) || N(centre, 1)) in nats, summed over the numbers of a row.

    >>> normal_kl(torch.zeros(1, 3), torch.ones(1, 3)).item()
    0.0
    """
    return 0.5 * ((mean - centre).square() + std.square() - 2 * std.log() - 1).sum(dim=1)


def uniform_kl(logits: Tensor) -> Tensor:
    """(B,) KL(softmax(logits) || uniform) in nats: 0 where all are alike, ln K at a corner."""
    logs = torch.log_softmax(logits, dim=1)
    return (logs.exp() * logs).sum(dim=1) + math.log(logits.shape[1])


def code_cross_entropy(logits: Tensor, code: Tensor) -> Tensor:
    """(B,) of codes (B, K): one-hot, or soft; rows whose code is all 0 have none to be found."""
    return -(code * torch.log_softmax(logits, dim=1)).sum(dim=1)


def virtual_adversarial(classify: Callable[[Tensor], Tensor], x: Tensor, radius: float, rng: torch.Generator) -> Tensor:
    """(B,) KL(q(.|x) || q(.|x + r)) in nats, q the softmax of classify (B, *shape) -> (B, K): how little it takes to change the answer on a row,
    whose class need not be known (Miyato, Maeda, Koyama and Ishii 2018, arXiv 1704.03976, one power iteration).

    r points where the divergence grows fastest; radius: the root mean square of its numbers. The gradient is that of q(.|x + r) alone.
    """
    with torch.no_grad():
        here = torch.log_softmax(classify(x), dim=1)
    direction = _scaled(torch.randn(x.shape, generator=rng, device=x.device), NEAR * radius).requires_grad_()
    with torch.enable_grad():
        (steepest,) = torch.autograd.grad(_divergence(here, classify(x + direction)).sum(), direction)
    return _divergence(here, classify(x + _scaled(steepest, radius)))


def _divergence(here: Tensor, logits: Tensor) -> Tensor:
    """(B,) KL(here || softmax(logits)); here: log-probabilities."""
    return (here.exp() * (here - torch.log_softmax(logits, dim=1))).sum(dim=1)


def _scaled(rows: Tensor, size: float) -> Tensor:
    """The rows brought to this root mean square; rows of 0 stay."""
    flat = rows.flatten(1)
    largest = flat.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(flat.dtype).tiny)
    flat = flat / largest  # first, for squares of tiny numbers are 0
    return (size * functional.normalize(flat, dim=1) * math.sqrt(flat.shape[1])).reshape(rows.shape)
