"""Matrix products in float32 on the CPU through oneDNN, with gradients of any order.

PyTorch sends float32 products to its BLAS, which on many processors uses half of the vector width that oneDNN uses
(``benchmarks/step.py`` prints both). The results agree to float32 rounding; elsewhere (other devices, other
types, autocast, transforms such as vmap) the ordinary operators are used.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


# Multiply-accumulates from which a product gains: below, the call costs more than the wider vectors save.
WORTHWHILE = 1 << 22


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., in), weight (out, in), bias (out,) -> (..., out); as ``torch.nn.functional.linear``."""
    if x.numel() * len(weight) < WORTHWHILE or not (_eligible(x) and _eligible(weight)):
        return torch.nn.functional.linear(x, weight, bias)
    out: Tensor = _Linear.apply(x.reshape(-1, x.shape[-1]), weight, bias)
    return out.reshape(*x.shape[:-1], weight.shape[0])


def _eligible(tensor: Tensor) -> bool:
    return (
        _AVAILABLE
        and tensor.device.type == "cpu"
        and tensor.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
    )


def _product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a (m, k) @ b (k, n) + bias; a transposed b is read where it lies. A part of a larger matrix is copied first: oneDNN multiplies it by
    a routine that is tens of times slower. Of a transposed a it is copied where that is less to copy than b and the product."""
    m, k, n = *a.shape, b.shape[1]
    if bias is None and m * k > k * n + m * n and a.t().is_contiguous():
        return _product(b.t(), a.t()).t().contiguous()
    b = b if b.is_contiguous() or b.t().is_contiguous() else b.contiguous()
    bias = bias if bias is None else bias.contiguous()  # which it would read as if it were
    return torch.ops.mkldnn._linear_pointwise(a.contiguous(), b.t(), bias, "none", [], "")


class _Product(torch.autograd.Function):
    """a @ b. Its gradient is made of the same products, so it may be differentiated again (gradient penalties)."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return _product(a, b)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = ctx.saved_tensors
        (grad,) = grads
        grad_a = _Product.apply(grad, b.t()) if ctx.needs_input_grad[0] else None
        grad_b = _Product.apply(a.t(), grad) if ctx.needs_input_grad[1] else None
        return grad_a, grad_b


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight.t(), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        (grad,) = grads
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            _Product.apply(grad, weight) if needs_x else None,
            _Product.apply(grad.t(), x) if needs_weight else None,
            grad.sum(0) if needs_bias else None,
        )
