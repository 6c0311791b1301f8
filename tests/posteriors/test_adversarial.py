"""The ratio of two densities by a discriminator, against two Gaussians whose divergence is known."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence
from torch.nn.functional import cosine_similarity

from reverie.nn.optimisers import Adam
from reverie.posteriors.adversarial import AdversarialRatio, Contrast
from reverie.seeding import generator

VARIANCE = 1.2
MEAN = torch.tensor([0.6, -0.4, 0.3])
ROOT = torch.tensor([[0.6, 0.0, 0.0], [0.35, 0.5, 0.0], [-0.2, 0.3, 0.4]])
POSTERIOR = MultivariateNormal(MEAN, scale_tril=ROOT)
PRIOR = MultivariateNormal(torch.zeros(3), VARIANCE * torch.eye(3))
TRUE = float(kl_divergence(POSTERIOR, PRIOR))


def draw(n: int, *key: object) -> Tensor:
    return MEAN + torch.randn(n, 3, generator=generator("posterior", *key)) @ ROOT.T


def made(seed: int = 0, batch_stats: bool = False) -> AdversarialRatio:
    return AdversarialRatio(3, (32, 32), "relu", batch_stats, Adam(learning_rate=3e-3), seed=seed)


def trained(
    adaptive: bool, batch_stats: bool = False, references: int = 256
) -> tuple[AdversarialRatio, Contrast | None]:
    ratio = made(batch_stats=batch_stats)
    contrast = None
    for step in range(600):
        if adaptive:
            contrast = Contrast.of(draw(100, "contrast", step))
        reference = contrast or Contrast.prior(VARIANCE, MEAN)
        ratio.update(draw(256, "samples", step), reference.sample(references, generator("reference", step)))
    return ratio, contrast


def estimate(ratio: AdversarialRatio, contrast: Contrast | None) -> float:
    with torch.no_grad():
        values = [ratio.kl(draw(256, "test", k), VARIANCE, contrast) for k in range(20)]
    return float(torch.stack(values).mean())


def weights(ratio: AdversarialRatio) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in ratio.network.module.parameters()]


# ---------------------------------------------------------------------------------- the estimate


@pytest.mark.parametrize(
    ("adaptive", "batch_stats", "references"),
    [(False, False, 256), (True, False, 256), (True, True, 256), (False, False, 128)],
    ids=["prior", "contrast", "contrast and batch statistics", "fewer references than samples"],
)
def test_the_divergence_of_two_gaussians_is_estimated(adaptive: bool, batch_stats: bool, references: int) -> None:
    ratio, contrast = trained(adaptive, batch_stats, references)
    assert estimate(ratio, contrast) == pytest.approx(TRUE, rel=0.15)


def test_its_slope_at_the_samples_is_that_of_the_log_ratio() -> None:
    ratio, contrast = trained(adaptive=True)
    samples = draw(256, "slope").requires_grad_()
    (found,) = torch.autograd.grad(ratio.kl(samples, VARIANCE, contrast), samples)
    (true,) = torch.autograd.grad((POSTERIOR.log_prob(samples) - PRIOR.log_prob(samples)).mean(), samples)
    assert float(cosine_similarity(found.flatten(), true.flatten(), dim=0)) > 0.9


# ---------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("batch_stats", [False, True])
def test_gradients_reach_the_samples_and_not_the_discriminator(batch_stats: bool) -> None:
    ratio = made(batch_stats=batch_stats)
    samples = draw(8, "samples").requires_grad_()
    values = ratio.ratio(samples)
    assert values.shape == (8,)
    values.sum().backward()
    assert samples.grad is not None
    assert (samples.grad != 0).any(dim=1).all()
    assert all(parameter.grad is None for parameter in ratio.network.module.parameters())


def test_an_update_leaves_what_made_the_samples_alone_and_lowers_the_loss() -> None:
    ratio = made()
    samples = draw(64, "samples").requires_grad_()
    reference = Contrast.prior(VARIANCE, MEAN).sample(64, generator("reference"))
    losses = [float(ratio.update(samples, reference)) for _ in range(50)]
    assert samples.grad is None
    assert losses[-1] < losses[0]


def test_batch_statistics_join_the_mean_of_the_batch() -> None:
    ratio = made(batch_stats=True)
    samples = draw(8, "samples")
    together, alone = ratio.ratio(samples), ratio.ratio(samples[:1])
    assert not torch.allclose(together[:1], alone)
    apart = made()
    assert torch.allclose(apart.ratio(samples)[:1], apart.ratio(samples[:1]))


# ---------------------------------------------------------------------------------- the contrast


def test_a_contrast_has_the_moments_of_the_samples_and_the_density_of_a_gaussian() -> None:
    samples = draw(50, "samples").requires_grad_()
    contrast = Contrast.of(samples)
    assert not contrast.mean.requires_grad
    assert torch.allclose(contrast.mean, samples.detach().mean(dim=0))
    reference = Independent(Normal(contrast.mean, contrast.std), 1)
    assert torch.allclose(contrast.log_prob(samples), reference.log_prob(samples), atol=1e-5)
    drawn = contrast.sample(4000, generator("contrast"))
    assert torch.allclose(drawn.mean(dim=0), contrast.mean, atol=0.05)
    assert torch.allclose(drawn.std(dim=0), contrast.std, rtol=0.05)
    assert torch.equal(drawn, contrast.sample(4000, generator("contrast")))


def test_the_prior_is_a_contrast_of_its_own() -> None:
    prior = Contrast.prior(VARIANCE, draw(2, "like"))
    samples = draw(5, "samples")
    assert torch.allclose(prior.log_prob(samples), PRIOR.log_prob(samples), atol=1e-5)


@pytest.mark.parametrize("count", [1, 4])
def test_the_contrast_of_samples_that_are_all_the_same_is_finite(count: int) -> None:
    same = torch.full((count, 3), 0.1)
    assert torch.isfinite(Contrast.of(same).log_prob(same)).all()


# ---------------------------------------------------------------------------------- state


def test_a_loaded_discriminator_learns_on_bit_by_bit() -> None:
    one = made(seed=1)
    prior = Contrast.prior(VARIANCE, MEAN)

    def steps(ratio: AdversarialRatio, first: int) -> None:
        for step in range(first, first + 5):
            ratio.update(draw(16, step), prior.sample(16, generator("reference", step)))

    steps(one, 0)
    kept = copy.deepcopy(one.state())
    steps(one, 5)
    other = made(seed=2)
    other.load(kept)
    steps(other, 5)
    assert all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


def test_the_seed_alone_decides_the_initial_weights() -> None:
    torch.manual_seed(0)
    first = weights(made(seed=1))
    torch.manual_seed(1)
    again, other = weights(made(seed=1)), weights(made(seed=2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_a_linear_discriminator_counts_its_bytes() -> None:
    """7 numbers with batch statistics, once more for gradients and twice for Adam's moments."""
    linear = AdversarialRatio(3, (), batch_stats=True)
    assert linear.num_bytes() == 4 * 7 * 4
