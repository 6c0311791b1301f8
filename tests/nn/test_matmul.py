"""The fast product against torch's own: values, gradients, gradients of gradients, and where it steps aside."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from reverie.nn import matmul
from reverie.nn.matmul import linear

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def inputs(*shape: int, seed: int = 0, **options: object) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **options)  # type: ignore[call-overload]


def operands(rows: tuple[int, ...] = (7,), bias: bool = True) -> list[Tensor]:
    """x (*rows, 5), weight (3, 5), bias (3,), all asking for gradients."""
    tensors = [inputs(*rows, 5), inputs(3, 5, seed=1), *([inputs(3, seed=2)] if bias else [])]
    return [tensor.requires_grad_() for tensor in tensors]


@pytest.fixture(autouse=True)
def _small_products_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "WORTHWHILE", 1)


def test_small_products_are_left_to_torch(own_product: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "WORTHWHILE", 7 * 5 * 3)
    linear(inputs(6, 5), inputs(3, 5))
    assert own_product == []
    linear(inputs(7, 5), inputs(3, 5))
    assert own_product == [(7, 5)]


@pytest.fixture
def own_product(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the inputs that took the fast way."""
    if not matmul._AVAILABLE:
        pytest.skip("this machine has no oneDNN")
    taken: list[tuple[int, ...]] = []
    apply = matmul._Linear.apply

    def counted(x: Tensor, *rest: object) -> Tensor:
        taken.append(tuple(x.shape))
        return apply(x, *rest)

    monkeypatch.setattr(matmul._Linear, "apply", counted)
    return taken


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [(7,), (2, 3), ()])
def test_values_and_gradients_are_those_of_the_plain_operator(
    own_product: list[tuple[int, ...]], rows: tuple[int, ...], bias: bool
) -> None:
    tensors = operands(rows, bias)
    fast, plain = linear(*tensors), functional.linear(*tensors)
    assert own_product, "the fast product was not used, so nothing was compared"
    assert fast.shape == plain.shape
    torch.testing.assert_close(fast, plain, **CLOSE)
    direction = torch.randn_like(plain)
    for mine, theirs in zip(
        torch.autograd.grad(fast, tensors, direction), torch.autograd.grad(plain, tensors, direction), strict=True
    ):
        torch.testing.assert_close(mine, theirs, **CLOSE)


def second_derivatives(product: object, tensors: list[Tensor]) -> list[Tensor]:
    """Gradients of a scalar made of gradients, as a gradient penalty does it; two layers, so that none vanishes."""
    x, weight, bias = tensors
    hidden = product(x, weight, bias).tanh()  # type: ignore[operator]
    score = product(hidden, weight.t()[:3, :3], None).square().sum()  # type: ignore[operator]
    first = torch.autograd.grad(score, tensors, create_graph=True)
    return list(torch.autograd.grad(sum(g.square().sum() for g in first), tensors))


def test_second_derivatives_are_those_of_the_plain_operator(own_product: list[tuple[int, ...]]) -> None:
    tensors = operands()
    fast, plain = second_derivatives(linear, tensors), second_derivatives(functional.linear, tensors)
    assert own_product
    for mine, theirs in zip(fast, plain, strict=True):
        assert theirs.abs().max() > 0.1  # the comparison is of something
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_third_derivative(own_product: list[tuple[int, ...]]) -> None:
    x, weight = inputs(4, 3).requires_grad_(), inputs(2, 3, seed=1)

    def third(product: object) -> Tensor:
        value = product(x, weight, None).sin().sum()  # type: ignore[operator]
        for _ in range(3):
            (slope,) = torch.autograd.grad(value, x, create_graph=True)
            value = slope.sum()
        return slope.detach()

    torch.testing.assert_close(third(linear), third(functional.linear), rtol=1e-4, atol=1e-4)
    assert own_product


def test_only_the_gradients_that_are_asked_for_are_made() -> None:
    x, weight, bias = operands()
    frozen = weight.detach()
    linear(x, frozen, bias.detach()).sum().backward()
    assert x.grad is not None
    assert frozen.grad is None


def test_float64_keeps_its_precision(own_product: list[tuple[int, ...]]) -> None:
    x, weight = inputs(4, 5, dtype=torch.float64), inputs(3, 5, dtype=torch.float64, seed=1)
    assert torch.equal(linear(x, weight), functional.linear(x, weight))
    assert own_product == []


def test_float64_passes_the_numerical_gradient_check() -> None:
    tensors = [tensor.detach().double().requires_grad_() for tensor in operands((3,))]
    assert torch.autograd.gradcheck(linear, tensors)
    assert torch.autograd.gradgradcheck(linear, tensors)


def test_autocast_gives_bfloat16(own_product: list[tuple[int, ...]]) -> None:
    x, weight, bias = operands()
    with torch.autocast("cpu", torch.bfloat16):
        out = linear(x, weight, bias)
        assert torch.equal(out, functional.linear(x, weight, bias))
    assert out.dtype == torch.bfloat16
    assert own_product == []


def test_vmap_maps_over_rows_and_over_weights(own_product: list[tuple[int, ...]]) -> None:
    x, weights = inputs(2, 4, 5), inputs(2, 3, 5, seed=1)
    both = torch.func.vmap(linear)(x, weights)
    torch.testing.assert_close(both, torch.einsum("nbi,noi->nbo", x, weights), **CLOSE)
    assert own_product == []


def test_no_rows_give_no_rows() -> None:
    _, weight, bias = operands()
    assert linear(torch.zeros(0, 5), weight, bias).shape == (0, 3)


def test_transposed_inputs_are_read_as_they_are_seen(own_product: list[tuple[int, ...]]) -> None:
    x, weight = inputs(5, 4).t(), inputs(5, 3, seed=1).t()
    assert not x.is_contiguous()
    torch.testing.assert_close(linear(x, weight), x @ weight.t(), **CLOSE)
    assert own_product


def test_parts_of_larger_matrices(own_product: list[tuple[int, ...]]) -> None:
    """Columns of a weight and a bias that lies scattered: oneDNN is slow with the one and misreads the other."""
    x, weight, scattered = inputs(7, 5), inputs(3, 9, seed=1)[:, 2:7], inputs(3, 4, seed=2)[:, 1]
    torch.testing.assert_close(linear(x, weight, scattered), functional.linear(x, weight, scattered), **CLOSE)
    assert len(own_product) == 1


@pytest.mark.filterwarnings("ignore:`torch.jit.script`")  # which torch itself uses at the first one
def test_a_derivative_forwards_is_that_of_the_plain_operator(own_product: list[tuple[int, ...]]) -> None:
    """Also where neither factor is the one that changes."""
    x, weight, direction = inputs(4, 5), inputs(3, 5, seed=1), inputs(4, 3, seed=2)
    found = torch.func.jvp(lambda share: linear(x, weight) * share, (torch.zeros(4, 3),), (direction,))
    torch.testing.assert_close(found[1], functional.linear(x, weight) * direction, **CLOSE)
    assert own_product == []


@pytest.mark.parametrize(("m", "k", "n"), [(40, 9, 3), (4, 9, 30)], ids=["the product is small", "or not"])
def test_of_a_transposed_factor_and_the_rest_whichever_is_smaller_is_copied(m: int, k: int, n: int) -> None:
    """As in the gradient of a weight with many more outputs than inputs; either way it lies in memory as others do."""
    a, b = inputs(k, m).t(), inputs(k, n, seed=1)
    found = matmul._product(a, b)
    torch.testing.assert_close(found, a @ b, rtol=1e-6, atol=1e-6)
    assert found.is_contiguous()
