"""Distances between diagonal Gaussians against torch.distributions, matrix formulas and sorted samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from reverie.posteriors.divergences import gaussian_kl, gaussian_wasserstein

means = st.floats(-5, 5)
logs = st.floats(-4, 2)
gaussians = st.tuples(means, logs)
pairs = st.lists(st.tuples(gaussians, gaussians), min_size=1, max_size=6)


def tensors(pairs_of: list[tuple[tuple[float, float], tuple[float, float]]]) -> tuple[Tensor, ...]:
    """mean, log_std, other_mean, other_log_std."""
    values = torch.tensor(pairs_of, dtype=torch.float64)  # (n, 2, 2)
    return values[:, 0, 0], values[:, 0, 1], values[:, 1, 0], values[:, 1, 1]


@settings(max_examples=100, deadline=None)
@given(pairs)
def test_kl_is_that_of_torch(pairs_of: list[tuple[tuple[float, float], tuple[float, float]]]) -> None:
    m, s, other_m, other_s = tensors(pairs_of)
    expected = kl_divergence(Normal(m, s.exp()), Normal(other_m, other_s.exp())).sum()
    torch.testing.assert_close(gaussian_kl(m, s, other_m, other_s), expected, rtol=1e-9, atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(pairs)
def test_gradients_of_kl_are_those_of_torch(pairs_of: list[tuple[tuple[float, float], tuple[float, float]]]) -> None:
    inputs = [tensor.clone().requires_grad_() for tensor in tensors(pairs_of)]
    m, s, other_m, other_s = inputs
    expected = kl_divergence(Normal(m, s.exp()), Normal(other_m, other_s.exp())).sum()
    for mine, theirs in zip(
        torch.autograd.grad(gaussian_kl(*inputs), inputs), torch.autograd.grad(expected, inputs), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-8)


def test_the_wasserstein_distance_and_its_gradient_are_the_plain_formulas_to_the_last_bit() -> None:
    rng = torch.Generator().manual_seed(0)
    m, s, other_m, other_s = (torch.randn(3, 50, generator=rng).requires_grad_() for _ in range(4))
    plain = ((m - other_m).square() + (s - other_s).square()).sum(dim=-1)
    found = gaussian_wasserstein(m, s, other_m, other_s)
    assert torch.equal(found, plain)
    for mine, theirs in zip(
        torch.autograd.grad((0.3 * found).sum(), (m, s)), torch.autograd.grad((0.3 * plain).sum(), (m, s)), strict=True
    ):
        assert torch.equal(mine, theirs)


def test_kl_is_the_mean_of_the_difference_of_the_log_densities() -> None:
    one, other = Normal(torch.tensor(0.5), torch.tensor(0.7)), Normal(torch.tensor(-0.2), torch.tensor(1.3))
    n = 200_000
    x = 0.5 + 0.7 * torch.randn(n, generator=torch.Generator().manual_seed(0))
    apart = one.log_prob(x) - other.log_prob(x)
    exact = gaussian_kl(*(torch.tensor([v]) for v in (0.5, math.log(0.7), -0.2, math.log(1.3))))
    assert exact.item() == pytest.approx(apart.mean().item(), abs=5 * apart.std().item() / math.sqrt(n))
    # One way round is not the other.
    back = gaussian_kl(*(torch.tensor([v]) for v in (-0.2, math.log(1.3), 0.5, math.log(0.7))))
    assert back.item() > 1.5 * exact.item()


@pytest.mark.parametrize("apart", [1e-5, 1e-4, 1e-3])
def test_kl_of_near_distributions_is_right_in_float32(apart: float) -> None:
    """As at the first steps of a task, when a regulariser begins to hold."""
    n = 10_000
    mean, log_std = torch.zeros(n), torch.full((n,), -2.5)
    moved = log_std + apart
    exact = gaussian_kl(mean.double(), log_std.double(), mean.double(), moved.double()).item()
    assert gaussian_kl(mean, log_std, mean, moved).item() == pytest.approx(exact, rel=0.05)


def test_equal_distributions_are_no_distance_apart_and_pull_nowhere() -> None:
    rng = torch.Generator().manual_seed(0)
    mean, log_std = torch.randn(1000, generator=rng), torch.randn(1000, generator=rng) - 2.5
    for distance in (gaussian_kl, gaussian_wasserstein):
        m, s = mean.clone().requires_grad_(), log_std.clone().requires_grad_()
        value = distance(m, s, mean, log_std)
        assert value.item() == 0
        assert all(not grad.any() for grad in torch.autograd.grad(value, [m, s]))


def test_only_the_last_dimension_is_summed() -> None:
    rng = torch.Generator().manual_seed(0)
    m, s, other_m, other_s = torch.randn(4, 3, 5, generator=rng, dtype=torch.float64)
    for distance in (gaussian_kl, gaussian_wasserstein):
        rows = torch.stack([distance(*row) for row in zip(m, s, other_m, other_s, strict=True)])
        torch.testing.assert_close(distance(m, s, other_m, other_s), rows)
        one = distance(m, s, other_m[0], other_s[0])  # the same other one for all
        torch.testing.assert_close(one[2], distance(m[2], s[2], other_m[0], other_s[0]))
        assert one.shape == (3,)


def root(matrix: np.ndarray) -> np.ndarray:
    """Of a symmetric matrix without negative eigenvalues."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


@settings(max_examples=50, deadline=None)
@given(pairs)
def test_wasserstein_is_that_of_full_covariances(
    pairs_of: list[tuple[tuple[float, float], tuple[float, float]]],
) -> None:
    """|m - m'|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2), in axes that are turned, so that no matrix is diagonal."""
    m, s, other_m, other_s = (tensor.numpy() for tensor in tensors(pairs_of))
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(len(m), len(m))))
    a, b = (turn @ np.diag(np.exp(2 * log_std)) @ turn.T for log_std in (s, other_s))
    between = root(root(a) @ b @ root(a))
    expected = np.square(turn @ (m - other_m)).sum() + np.trace(a + b - 2 * between)
    found = gaussian_wasserstein(*(torch.from_numpy(v) for v in (m, np.exp(s), other_m, np.exp(other_s))))
    assert found.item() == pytest.approx(expected, rel=1e-6, abs=1e-5)


def test_wasserstein_is_the_cost_of_moving_sorted_samples() -> None:
    """On the line the best transport keeps the order."""
    n = 200_000
    rng = torch.Generator().manual_seed(0)
    x, y = 0.5 + 0.7 * torch.randn(n, generator=rng), -1.0 + 2.0 * torch.randn(n, generator=rng)
    cost = (x.sort().values - y.sort().values).square().mean().item()
    found = gaussian_wasserstein(*(torch.tensor([v]) for v in (0.5, 0.7, -1.0, 2.0))).item()
    assert found == pytest.approx(1.5**2 + 1.3**2)
    assert found == pytest.approx(cost, rel=0.02)


@settings(max_examples=50, deadline=None)
@given(gaussians, gaussians, gaussians)
def test_wasserstein_is_a_metric(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> None:
    def distance(left: tuple[float, float], right: tuple[float, float]) -> float:
        one, other = (torch.tensor([[m], [math.exp(s)]], dtype=torch.float64) for m, s in (left, right))
        return math.sqrt(gaussian_wasserstein(one[0], one[1], other[0], other[1]).item())

    assert distance(a, b) == distance(b, a) >= 0
    assert distance(a, c) <= distance(a, b) + distance(b, c) + 1e-12
