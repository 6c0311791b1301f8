"""Losses of the adversarial autoencoder against closed forms, slow versions and torch.distributions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Normal, kl_divergence

from reverie.generators.decoding import squared_error
from reverie.generators.lgaa_losses import (
    code_cross_entropy,
    gumbel_softmax,
    normal_kl,
    uniform_kl,
    virtual_adversarial,
)
from reverie.generators.wgan_gp import gradient_penalty
from reverie.seeding import generator


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pair(n: int = 6, shape: tuple[int, ...] = (2, 3, 5)) -> tuple[Tensor, Tensor, Tensor]:
    """Real and fake rows, and weights that sum to 1."""
    weight = torch.rand(n, generator=rng(1))
    return torch.rand(n, *shape, generator=rng(2)), torch.rand(n, *shape, generator=rng(3)), weight / weight.sum()


# ------------------------------------------------------------------------------------------ gradient penalty


def test_penalty_of_a_linear_critic_is_its_slope_less_one_squared() -> None:
    real, fake, weight = pair()
    slope = torch.randn(real.shape[1:], generator=rng())
    penalty = gradient_penalty(lambda x: (x * slope).sum((1, 2, 3)), real, fake, weight, rng())
    # The norm is that of a whole row, over channels, height and width.
    assert penalty.item() == pytest.approx((slope.norm().item() - 1) ** 2, rel=1e-5)


def test_penalty_by_columns_against_a_slow_version() -> None:
    real, fake, weight = pair()
    slope = torch.randn(real.shape[1:], generator=rng())
    penalty = gradient_penalty(lambda x: (x * slope).sum((1, 2, 3)), real, fake, weight, rng(), "columns")
    channels, height, width = slope.shape
    squares = []
    for c in range(channels):
        for w in range(width):
            norm = math.sqrt(sum(slope[c, h, w].item() ** 2 for h in range(height)))
            squares.append((norm - 1) ** 2)
    assert penalty.item() == pytest.approx(sum(squares) / len(squares), rel=1e-5)
    assert penalty.item() != pytest.approx((slope.norm().item() - 1) ** 2, rel=0.1)


@pytest.mark.parametrize("one_place", [False, True])
def test_penalty_looks_at_a_place_for_each_row_or_at_one_for_all(one_place: bool) -> None:
    seen = []

    def critic(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return 0.5 * x.square().sum((1, 2, 3))  # the slope at x is x

    real, _, weight = pair(n=40)
    fake = real + 2
    penalty = gradient_penalty(critic, real, fake, weight, rng(), one_place=one_place)
    place = ((seen[0] - real) / 2).flatten(1)
    assert torch.allclose(place, place[:, :1].expand_as(place), atol=1e-5)
    assert place.min() >= 0
    assert place.max() <= 1
    spread = place[:, 0].max() - place[:, 0].min()
    assert spread < 1e-5 if one_place else spread > 0.5
    expected = (weight * (seen[0].flatten(1).norm(dim=1) - 1).square()).sum()
    assert penalty.item() == pytest.approx(expected.item(), rel=1e-5)


def test_penalty_of_a_flat_critic_has_a_finite_gradient() -> None:
    slope = torch.zeros(2, 3, 5, requires_grad=True)
    real, fake, weight = pair()
    penalty = gradient_penalty(lambda x: (x * slope).sum((1, 2, 3)), real, fake, weight, rng())
    penalty.backward()
    assert penalty.item() == pytest.approx(1)
    assert slope.grad is not None
    assert bool(torch.isfinite(slope.grad).all())


# ------------------------------------------------------------------------------------------ divergences


@pytest.mark.parametrize("centre", [0.0, 2.0])
def test_kl_of_the_continuous_code_is_that_of_torch(centre: float) -> None:
    mean, std = torch.randn(5, 4, generator=rng()), torch.rand(5, 4, generator=rng(1)) + 0.1
    expected = kl_divergence(Normal(mean, std), Normal(torch.tensor(centre), torch.tensor(1.0))).sum(dim=1)
    assert torch.allclose(normal_kl(mean, std, centre), expected, atol=1e-5)
    assert torch.allclose(normal_kl(mean, std, torch.full((5, 1), centre)), expected, atol=1e-5)


def test_kl_from_uniform_is_that_of_torch_and_known_at_both_ends() -> None:
    logits = 3 * torch.randn(6, 7, generator=rng())
    expected = kl_divergence(Categorical(logits=logits), Categorical(probs=torch.full((6, 7), 1 / 7)))
    assert torch.allclose(uniform_kl(logits), expected, atol=1e-5)
    assert uniform_kl(torch.full((1, 10), 0.3)).item() == pytest.approx(0, abs=1e-6)
    assert uniform_kl(200 * torch.eye(10)[:1]).item() == pytest.approx(math.log(10), rel=1e-5)


def test_cross_entropy_of_hard_and_soft_codes() -> None:
    logits, y = torch.randn(6, 4, generator=rng()), torch.tensor([0, 3, 1, 1, 2, 0])
    hard = torch.nn.functional.one_hot(y, 4).float()
    expected = torch.nn.functional.cross_entropy(logits, y, reduction="none")
    assert torch.allclose(code_cross_entropy(logits, hard), expected)
    soft = torch.softmax(torch.randn(6, 4, generator=rng(1)), dim=1)
    expected = torch.nn.functional.cross_entropy(logits, soft, reduction="none")
    assert torch.allclose(code_cross_entropy(logits, soft), expected)
    assert not code_cross_entropy(logits, torch.zeros(6, 4)).any()


def test_reconstruction_is_a_sum_over_the_pixels_of_a_row() -> None:
    real, fake, _ = pair()
    slow = torch.tensor([((a - b) ** 2).sum() for a, b in zip(real, fake, strict=True)])
    assert torch.allclose(squared_error(fake, real), slow)


# ------------------------------------------------------------------------------------------ Gumbel-softmax


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_samples_lie_on_the_simplex(temperature: float) -> None:
    soft = gumbel_softmax(torch.randn(200, 5, generator=rng()), temperature, rng(1))
    assert soft.min() >= 0
    assert torch.allclose(soft.sum(dim=1), torch.ones(200), atol=1e-6)


def test_a_lower_temperature_goes_to_the_corners() -> None:
    logits = torch.randn(200, 5, generator=rng())
    sure = [gumbel_softmax(logits, temperature, rng(1)).max(dim=1).values.mean() for temperature in (0.1, 0.5, 5.0)]
    assert sure[0] > 0.9 > sure[1] > sure[2]


def test_hard_samples_are_corners_with_the_gradient_of_soft_ones() -> None:
    logits = torch.randn(50, 5, generator=rng(), requires_grad=True)
    direction = torch.randn(50, 5, generator=rng(2))
    hard, soft = (gumbel_softmax(logits, 0.5, rng(1), hard=hard) for hard in (True, False))
    assert torch.allclose(hard, torch.nn.functional.one_hot(soft.argmax(dim=1), 5).float(), atol=1e-6)
    gradients = [torch.autograd.grad((sample * direction).sum(), logits)[0] for sample in (hard, soft)]
    assert gradients[0].abs().max() > 1e-3
    assert torch.equal(*gradients)


def test_hard_samples_follow_the_probabilities() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0])
    n = 20000
    share = gumbel_softmax(logits.expand(n, 3), 1.0, generator("gumbel"), hard=True).mean(dim=0)
    assert torch.allclose(share, torch.softmax(logits, dim=0), atol=0.015)


# ------------------------------------------------------------------------------------------ virtual adversarial training


def linear_classes(seed: int = 4) -> Tensor:
    return torch.randn(12, 3, generator=rng(seed), dtype=torch.float64)


def test_virtual_adversarial_change_follows_the_curvature() -> None:
    """Of a linear classifier the divergence grows as d' H d / 2, H = W (diag p - p p') W': a power iteration is a product by H."""
    weights, x, radius = linear_classes(), torch.rand(5, 1, 3, 4, generator=rng(), dtype=torch.float64), 1e-3
    found = virtual_adversarial(lambda x: x.flatten(1) @ weights, x, radius, rng(1))
    start = torch.randn(5, 1, 3, 4, generator=rng(1)).double().flatten(1)
    for row, drawn, value in zip(x.flatten(1), start, found, strict=True):
        p = torch.softmax(row @ weights, dim=0)
        curvature = weights @ (torch.diag(p) - torch.outer(p, p)) @ weights.T
        steepest = curvature @ drawn
        change = steepest / steepest.norm() * radius * math.sqrt(12)
        assert value.item() == pytest.approx((change @ curvature @ change / 2).item(), rel=1e-2)


def test_virtual_adversarial_change_is_worse_than_a_random_one_of_its_size() -> None:
    weights, x = linear_classes().float(), torch.rand(200, 12, generator=rng())
    sizes: list[Tensor] = []

    def classify(rows: Tensor) -> Tensor:
        sizes.append((rows - x).square().mean(dim=1).sqrt())
        return rows @ weights

    worst = virtual_adversarial(classify, x, 0.3, rng(1))
    assert torch.allclose(sizes[-1], torch.full((200,), 0.3), rtol=1e-4)
    other = torch.randn(200, 12, generator=rng(2))
    other = other * 0.3 / other.square().mean(dim=1, keepdim=True).sqrt()
    here, there = Categorical(logits=x @ weights), Categorical(logits=(x + other) @ weights)
    assert worst.mean() > 2 * kl_divergence(here, there).mean()


def test_virtual_adversarial_gradient_is_that_of_the_changed_answer_alone() -> None:
    """The answer on the row itself is what the other is brought to, and the direction is given."""
    weights, x = linear_classes().float().requires_grad_(), torch.rand(6, 12, generator=rng())
    places: list[Tensor] = []

    def classify(rows: Tensor) -> Tensor:
        places.append(rows.detach())
        return rows @ weights

    virtual_adversarial(classify, x, 0.2, rng(1)).sum().backward()
    difference = torch.softmax(places[-1] @ weights, dim=1) - torch.softmax(x @ weights, dim=1)
    assert weights.grad is not None
    assert torch.allclose(weights.grad, (places[-1].T @ difference).detach(), atol=1e-5)


def test_virtual_adversarial_of_a_constant_answer_is_zero() -> None:
    bias = torch.zeros(3, requires_grad=True)
    found = virtual_adversarial(lambda x: bias + 0 * x[:, :3], torch.rand(4, 12, generator=rng()), 0.2, rng(1))
    found.sum().backward()
    assert bias.grad is not None
    for zero in (found, bias.grad):
        assert zero.abs().max() < 1e-6
