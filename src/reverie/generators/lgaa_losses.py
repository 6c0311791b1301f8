"""The losses of the lifelong generative adversarial autoencoder, as pure functions; every mean over rows is weighted."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

PenaltyNorm = Literal["row", "columns"]


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


def squared_reconstruction(decoded: Tensor, x: Tensor) -> Tensor:
    """(B,) summed over the pixels of a row, images in [-1, 1]."""
    return (decoded - x).square().flatten(1).sum(dim=1)


def code_cross_entropy(logits: Tensor, code: Tensor) -> Tensor:
    """(B,) of codes (B, K): one-hot, or soft; rows whose code is all 0 have none to be found."""
    return -(code * torch.log_softmax(logits, dim=1)).sum(dim=1)


def gradient_penalty(
    critic: Callable[[Tensor], Tensor],
    real: Tensor,
    fake: Tensor,
    weight: Tensor,
    rng: torch.Generator,
    norm: PenaltyNorm = "row",
    one_place: bool = False,
) -> Tensor:
    """sum_i weight_i (|| grad critic(x^_i) || - 1)^2, x^_i between real_i and fake_i (B, C, H, W), at a place drawn for each row (Gulrajani et
    al. 2017, arXiv 1704.00028, equation 3).

    norm: "row", over all numbers of a row. "columns", over the height alone, so that every column of every channel is drawn to 1, and one_place,
    one place for the whole batch, are what the code published with the method does.
    """
    place = torch.rand(1 if one_place else len(real), generator=rng, dtype=real.dtype, device=real.device)
    place = place.reshape(-1, *[1] * (real.dim() - 1))
    between = torch.lerp(real, fake, place).detach().requires_grad_()
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    if norm == "columns":
        return (weight * (slope.norm(dim=-2) - 1).square().flatten(1).mean(dim=1)).sum()
    return (weight * (slope.flatten(1).norm(dim=1) - 1).square()).sum()
