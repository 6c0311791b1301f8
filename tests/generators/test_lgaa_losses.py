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
