"""The Bernoulli loss against torch's binary cross-entropy: values and gradients, far out on both sides too."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from reverie.nn.losses import bernoulli_nll


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_the_binary_cross_entropy(dtype: torch.dtype) -> None:
    rng = torch.Generator().manual_seed(0)
    logits = (20 * torch.randn(7, 1, 3, 4, generator=rng, dtype=dtype)).requires_grad_()
    x, weight = torch.rand(7, 1, 3, 4, generator=rng, dtype=dtype), torch.rand(7, generator=rng, dtype=dtype)
    expected = functional.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)
    torch.testing.assert_close(bernoulli_nll(logits, x), expected, rtol=1e-6, atol=1e-6)
    (slope,) = torch.autograd.grad((weight * expected).sum(), logits)
    (ours,) = torch.autograd.grad((weight * bernoulli_nll(logits, x)).sum(), logits)
    torch.testing.assert_close(ours, slope, rtol=1e-5, atol=1e-6)


def test_far_out_it_stays_finite() -> None:
    logits = torch.tensor([[-1000.0, 1000.0]], requires_grad=True)
    assert bernoulli_nll(logits, torch.tensor([[0.0, 1.0]])).item() == 0
    assert bernoulli_nll(logits, torch.tensor([[1.0, 0.0]])).item() == 2000
    bernoulli_nll(logits, torch.tensor([[1.0, 0.0]])).sum().backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [[-1.0, 1.0]]
