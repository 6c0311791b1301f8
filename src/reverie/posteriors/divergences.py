"""Distances between diagonal Gaussians, from means and standard deviations, summed over the last dimension, in nats."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import mse_loss


def gaussian_kl(mean: Tensor, log_std: Tensor, other_mean: Tensor, other_log_std: Tensor) -> Tensor:
    """KL(N(mean, std^2) || N(other_mean, other_std^2)) = 1/2 sum ((s^2 + (m' - m)^2) / s'^2 - 1) + log s' - log s."""
    ratio = 2 * (log_std - other_log_std)
    apart = _squared_differences(mean, other_mean) * (-2 * other_log_std).exp()
    return 0.5 * (ratio.expm1() - ratio + apart).sum(dim=-1)  # expm1: of near distributions nothing else would be left


def gaussian_wasserstein(mean: Tensor, std: Tensor, other_mean: Tensor, other_std: Tensor) -> Tensor:
    """The squared 2-Wasserstein distance: sum (m - m')^2 + (s - s')^2."""
    return (_squared_differences(mean, other_mean) + _squared_differences(std, other_std)).sum(dim=-1)


def _squared_differences(a: Tensor, b: Tensor) -> Tensor:
    """(a - b)^2 in one pass forwards and one back, where the difference and its square take two and four."""
    a, b = torch.broadcast_tensors(a, b)
    return mse_loss(a, b, reduction="none")
