"""The VAE's terms against torch.distributions, its options, shapes, copies and refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence

from reverie.checks import NotReadyError, OptionsError
from reverie.device import CPU, Device
from reverie.generators import VAE
from reverie.generators.vae import kl_to_standard_normal
from reverie.nn.optimisers import Adam
from reverie.seeding import Position, Randomness
from reverie.storage import read_tree, write_tree
from reverie.types import Batch, Generator, StreamSpec


def spec(shape: tuple[int, ...] = (6,), value_range: tuple[float, float] | None = (0.0, 1.0)) -> StreamSpec:
    classes = (0, 1, 2)
    return StreamSpec("test", "class", shape, classes, (classes,), ("all",), (classes,), value_range)


def built(shape: tuple[int, ...] = (6,), seed: int = 0, device: Device = CPU, **options: Any) -> VAE:
    vae = VAE(**{"hidden": (7, 5), "latent_dim": 4, **options})
    vae.build(spec(shape), Randomness(seed), device)
    return vae


def rows(n: int = 8, shape: tuple[int, ...] = (6,), seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.rand(n, generator=generator)
    x = torch.rand(n, *shape, generator=generator)
    return Batch(x, torch.arange(n) % 3, torch.zeros(n).long(), weight / weight.sum())


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weights(vae: VAE) -> list[Tensor]:
    return [tensor.clone() for tensor in vae.network.module.state_dict().values()]


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def posterior(vae: VAE, batch: Batch, purpose: str = "generator noise") -> tuple[Normal, Tensor, Tensor]:
    """q(z | x), the z that was drawn and what it decodes to, by the textbook."""
    code = vae._code(batch.y)
    mean, log_variance = vae.network.module.encoder(batch.x, code)  # type: ignore[operator]
    q = Normal(mean, (log_variance / 2).exp())
    z = q.loc + q.scale * torch.randn(len(batch), vae.latent, generator=vae.rng(purpose))
    decoded = vae.network.module.decoder(z if code is None else torch.cat([z, code], 1))  # type: ignore[operator]
    return q, z, decoded


# ------------------------------------------------------------------------------------------ the two terms


def test_kl_is_that_of_torch_distributions() -> None:
    mean, log_variance = (torch.randn(9, 5, dtype=torch.float64, generator=seeded(s)) for s in (0, 1))
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(torch.zeros(5), torch.ones(5))).sum(1)
    torch.testing.assert_close(kl_to_standard_normal(mean, log_variance), expected)
    assert bool((expected > 0).all())


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize(("reduction", "kl_weight"), [("mean", None), ("sum", 0.25)])
def test_loss_is_the_weighted_mean_of_its_terms(
    likelihood: str, reduction: str, kl_weight: float | None, conditional: bool
) -> None:
    vae = built(likelihood=likelihood, reduction=reduction, kl_weight=kl_weight, conditional=conditional)
    batch = rows()
    q, _, decoded = posterior(vae, batch)
    if likelihood == "bernoulli":
        # Bernoulli of torch.distributions takes values between 0 and 1 too, without its support check.
        log_p = Independent(Bernoulli(logits=decoded, validate_args=False), 1, validate_args=False).log_prob(batch.x)
    else:
        log_p = Independent(Normal(decoded, 1.0), 1).log_prob(batch.x) + 6 / 2 * math.log(2 * math.pi)
    scale = 1 / 6 if reduction == "mean" else 1.0
    kl = kl_divergence(q, Normal(0.0, 1.0)).sum(1)
    losses = vae.loss(batch)
    torch.testing.assert_close(losses["reconstruction"], scale * (batch.weight * -log_p).sum())
    torch.testing.assert_close(losses["kl"], (kl_weight or 1.0) * scale * (batch.weight * kl).sum())


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_elbo_is_a_bound_whose_gap_is_the_posterior_s_error(likelihood: str) -> None:
    """log p(x) by importance sampling with many draws is above the mean ELBO, and equals it up to KL(q || p(z | x))."""
    vae = built(likelihood=likelihood, hidden=(5,), latent_dim=2)
    batch = rows(3)
    elbo = torch.stack([vae.elbo(batch.x, seeded(seed)) for seed in range(300)])
    with torch.no_grad():
        mean, log_variance = vae.network.module.encoder(batch.x, None)  # type: ignore[operator]
        q = Normal(mean, (log_variance / 2).exp())
        z = q.loc + q.scale * torch.randn(4000, 3, 2, generator=seeded())
        decoded = vae.network.module.decoder(z.flatten(0, 1)).reshape(4000, 3, 6)  # type: ignore[operator]
        p_x = Bernoulli(logits=decoded, validate_args=False) if likelihood == "bernoulli" else Normal(decoded, 1.0)
        ratio = p_x.log_prob(batch.x).sum(2) + (Normal(0.0, 1.0).log_prob(z) - q.log_prob(z)).sum(2)
    log_p = ratio.logsumexp(0) - math.log(4000)
    deviation = (elbo.var(0) / 300 + ratio.var(0) / 4000).sqrt()
    assert bool(((elbo.mean(0) - ratio.mean(0)).abs() < 5 * deviation).all())
    assert bool((elbo.mean(0) < log_p + 0.01).all())


def test_elbo_is_minus_the_summed_loss() -> None:
    vae, batch = built(reduction="sum"), rows()
    alone = replace(batch, weight=torch.ones(8))
    losses = vae.loss(alone)
    torch.testing.assert_close(vae.elbo(batch.x, vae.rng("generator noise")).sum(), -sum(losses.values()))


def test_mean_reduction_is_the_sum_divided_by_the_inputs() -> None:
    batch = rows(shape=(2, 3))
    mean, total = (built((2, 3), reduction=reduction).loss(batch) for reduction in ("mean", "sum"))
    for name in ("reconstruction", "kl"):
        torch.testing.assert_close(6 * mean[name], total[name])


def test_the_log_variance_has_no_bias_and_the_networks_mirror_each_other() -> None:
    encoder, decoder = built().network.module.encoder, built().network.module.decoder
    assert encoder.log_variance.bias is None  # type: ignore[union-attr]
    assert encoder.mean.bias is not None  # type: ignore[union-attr]
    sizes = [tuple(p.shape) for p in decoder.parameters() if p.dim() == 2]  # type: ignore[union-attr]
    assert sizes == [(5, 4), (7, 5), (6, 7)]


# -------------------------------------------------------------------------------------- learned variance

SIGMA = {"likelihood": "gaussian", "variance": "learned"}


def learnt(draw: Callable[[int], Tensor], steps: int, **options: Any) -> VAE:
    """Trained on fresh rows at every step, so that no error is small because rows were learnt by heart."""
    vae = built(**{"hidden": (16,), "latent_dim": 2, "optimiser": Adam(learning_rate=0.01), **options})
    for step in range(steps):
        vae.rng.position = Position(step=step)
        x = draw(step)
        vae.step(Batch(x, None, torch.zeros(len(x)).long(), torch.full((len(x),), 1 / len(x))))
    return vae


def variance_of(vae: VAE) -> float:
    assert vae.module.variance is not None
    return float(vae.module.variance.value)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_loss_with_a_variance_is_that_of_torch_distributions(reduction: str) -> None:
    vae, batch = built(**SIGMA, reduction=reduction, kl_weight=0.5), rows()
    vae.step(batch)
    assert variance_of(vae) != 1
    q, _, decoded = posterior(vae, batch)
    log_p = Independent(Normal(decoded, math.sqrt(variance_of(vae))), 1).log_prob(batch.x) + 3 * math.log(2 * math.pi)
    scale = 1 / 6 if reduction == "mean" else 1.0
    losses = vae.loss(batch)
    torch.testing.assert_close(losses["reconstruction"], scale * (batch.weight * -log_p).sum())
    kl = kl_divergence(q, Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(losses["kl"], 0.5 * scale * (batch.weight * kl).sum())
    exact = -(kl - Independent(Normal(decoded, math.sqrt(variance_of(vae))), 1).log_prob(batch.x))
    torch.testing.assert_close(vae.elbo(batch.x, vae.rng("generator noise")), exact.detach())


def test_the_variance_is_the_running_mean_of_the_weighted_squared_error() -> None:
    vae = built(**SIGMA)
    errors = []
    for step in range(130):
        vae.rng.position = Position(step=step)
        batch = rows(seed=step)
        batch = replace(batch, weight=batch.weight * 0.7)  # as where all replayed rows weigh nothing
        _, _, decoded = posterior(vae, batch)
        error = (decoded - batch.x).square().mean(1)
        errors.append(float((batch.weight * error).sum().detach() / batch.weight.sum()))
        vae.step(batch)
        if step < 100:
            assert variance_of(vae) == pytest.approx(sum(errors) / len(errors), rel=1e-4)
    expected = sum(errors[:100]) / 100
    for error in errors[100:]:
        expected += (error - expected) / 100
    assert variance_of(vae) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("scale", [0.1, 20.0])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_of_noise_that_no_decoder_explains_the_variance_is_all(scale: float, reduction: str) -> None:
    """Rows N(0, s^2 I): p(x) is greatest where the code says nothing and the variance is s^2, whatever the scale of the loss."""
    vae = learnt(lambda step: scale * torch.randn(64, 6, generator=seeded(step)), 400, **SIGMA, reduction=reduction)
    assert variance_of(vae) == pytest.approx(scale**2, rel=0.1)


LOADINGS = torch.tensor([[2.0, 1.0, 0.0, 0.0, -1.0, 0.5], [0.0, 1.0, 1.5, -1.0, 0.0, 0.5]])


def factors(step: int, n: int = 128) -> Tensor:
    """(n, 6) rows of two factors and noise of deviation 0.3."""
    draw = seeded(step)
    return torch.randn(n, 2, generator=draw) @ LOADINGS + 0.3 * torch.randn(n, 6, generator=draw)


def test_beside_two_factors_the_variance_is_that_of_the_rest_and_samples_have_the_covariance() -> None:
    """The likeliest variance of probabilistic principal components (Tipping and Bishop 1999): the noise alone."""
    options = {"hidden": (32,), "reduction": "sum", "likelihood": "gaussian", "optimiser": Adam(learning_rate=0.003)}
    truth = LOADINGS.T @ LOADINGS + 0.09 * torch.eye(6)
    gap = {}
    for variance in ("unit", "learned"):
        vae = learnt(factors, 1200, **options, variance=variance)
        gap[variance] = float((torch.cov(vae.sample(20_000, seeded()).x.T) - truth).norm() / truth.norm())
    assert variance_of(vae) == pytest.approx(0.09, rel=0.2)
    assert gap["learned"] < 0.1
    assert gap["unit"] > 2 * gap["learned"]


def test_samples_have_noise_of_the_variance() -> None:
    vae = learnt(lambda step: 3 * torch.randn(64, 6, generator=seeded(step)), 20, **SIGMA)
    z = torch.randn(400, 2, generator=seeded(1))
    drawn = vae.sample(400, seeded(1))
    noise = drawn.x - vae.module.decoder(z).detach()
    assert float(noise.var()) == pytest.approx(variance_of(vae), rel=0.1)
    assert torch.equal(drawn.x, vae.frozen().sample(400, seeded(1)).x)
    assert not torch.equal(drawn.x, vae.sample(400, seeded(2)).x)


@pytest.mark.parametrize("conditional", [False, True])
def test_a_learned_variance_is_saved_frozen_and_counted(conditional: bool, tmp_path: Path) -> None:
    one, two = built(**SIGMA, conditional=conditional), built(**SIGMA, conditional=conditional, seed=5)
    one.step(rows())
    write_tree(tmp_path / "state", one.state())
    two.load(read_tree(tmp_path / "state"))
    two.rng = one.rng
    frozen, before = one.frozen(), variance_of(one)
    for vae in (one, two):
        vae.step(rows(seed=1))
    assert same(weights(one), weights(two))
    classes = torch.tensor([0, 1, 2])
    assert torch.equal(one.sample(3, seeded(), classes).x, two.sample(3, seeded(), classes).x)
    assert variance_of(frozen) == before != variance_of(one)
    plain = built(likelihood="gaussian", conditional=conditional)
    assert one.num_bytes() == plain.num_bytes() + 8  # the variance and the number of steps
    assert one.working_bytes() == plain.working_bytes()
    assert not any("variance." in name and "encoder" not in name for name in plain.network.module.state_dict())


def test_rows_that_are_reproduced_exactly_leave_a_least_variance() -> None:
    vae = built(**SIGMA)
    with torch.no_grad():
        for parameter in vae.network.module.parameters():
            parameter.zero_()
    batch = replace(rows(), x=torch.zeros(8, 6))
    losses = [vae.step(batch) for _ in range(3)]
    assert variance_of(vae) == pytest.approx(1e-6)
    assert all(bool(value.isfinite()) for value in losses[-1].values())


def test_only_a_gaussian_has_a_variance() -> None:
    with pytest.raises(OptionsError, match="variance = 'learned': likelihood = 'bernoulli' has none of its own"):
        VAE(variance="learned")


# -------------------------------------------------------------------------------------- what it can do

NARROW: dict[str, dict[str, Any]] = {"mlp": {}, "conv": {"architecture": "conv", "channels": (3, 4)}}


@pytest.mark.parametrize("architecture", ["mlp", "conv"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (1, 9, 10)], ids=str)
@pytest.mark.parametrize("conditional", [False, True])
def test_shapes(architecture: str, shape: tuple[int, ...], conditional: bool) -> None:
    vae = built(shape, conditional=conditional, **NARROW[architecture])
    batch = rows(4, shape)
    losses = vae.step(batch)
    assert all(value.isfinite() and not value.requires_grad for value in losses.values())
    drawn = vae.sample(5, seeded(), torch.tensor([0, 1, 2, 0, 1]) if conditional else None)
    assert drawn.x.shape == (5, *shape)
    assert 0 <= float(drawn.x.min()) <= float(drawn.x.max()) <= 1
    assert not drawn.x.requires_grad
    torch.testing.assert_close(drawn.weight, torch.full((5,), 0.2))
    assert isinstance(vae, Generator)


@pytest.mark.parametrize("architecture", ["mlp", "conv"])
def test_gradient_reaches_every_weight(architecture: str) -> None:
    vae = built((1, 8, 8), conditional=True, **NARROW[architecture])
    sum(vae.loss(rows(8, (1, 8, 8))).values()).backward()  # type: ignore[union-attr]
    for name, parameter in vae.network.module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_it_learns_the_mean_and_spread_of_gaussian_rows() -> None:
    quick = Adam(learning_rate=0.02)
    vae = built(likelihood="gaussian", reduction="sum", hidden=(16,), latent_dim=2, optimiser=quick)
    centre = torch.tensor([3.0, -2.0, 0.0, 1.0, 5.0, -4.0])
    for step in range(120):
        vae.rng.position = Position(step=step)
        x = centre + torch.randn(32, 6, generator=seeded(step))
        vae.step(Batch(x, None, torch.zeros(32).long(), torch.full((32,), 1 / 32)))
    drawn = vae.sample(500, seeded()).x
    torch.testing.assert_close(drawn.mean(0), centre, rtol=0, atol=0.4)


def test_a_conditional_one_draws_the_class_that_is_asked_for() -> None:
    vae = built(conditional=True, hidden=(16,), latent_dim=2, optimiser=Adam(learning_rate=0.02))
    y = torch.arange(30) % 3
    x = torch.nn.functional.one_hot(y, 6).float()  # class c lights number c
    for step in range(80):
        vae.rng.position = Position(step=step)
        vae.step(Batch(x, y, torch.zeros(30).long(), torch.full((30,), 1 / 30)))
    classes = torch.tensor([2, 0, 1] * 20)
    drawn = vae.sample(60, seeded(), classes)
    assert torch.equal(drawn.y, classes)  # type: ignore[arg-type]
    assert (drawn.x[:, :3].argmax(1) == classes).float().mean() > 0.9
    soft = torch.nn.functional.one_hot(y, 3).float()
    torch.testing.assert_close(vae.loss(Batch(x, y, y, y / 30)), vae.loss(Batch(x, soft, y, y / 30)))


def test_samples_depend_on_the_generator_handed_in_alone() -> None:
    vae = built()
    vae.step(rows())
    first = vae.sample(6, seeded(1)).x
    decoded = vae.network.module.decoder(torch.randn(6, 4, generator=seeded(1)))  # type: ignore[operator]
    torch.testing.assert_close(first, torch.sigmoid(decoded).detach())
    vae.rng.position = Position(3, 2, 1)
    torch.rand(9)
    assert torch.equal(first, vae.sample(6, seeded(1)).x)
    assert not torch.equal(first, vae.sample(6, seeded(2)).x)
    assert vae.sample(6, seeded(1)).y is None


def test_training_noise_depends_on_the_position_and_weights_on_the_seed() -> None:
    one, two, other = built(seed=1), built(seed=1), built(seed=2)
    assert same(weights(one), weights(two))
    assert not same(weights(one), weights(other))
    one.step(rows()), two.step(rows())
    assert same(weights(one), weights(two))
    two.rng.position = Position(step=1)
    one.step(rows()), two.step(rows())
    assert not same(weights(one), weights(two))


# ------------------------------------------------------------------------------------ copies and refusals


def test_a_frozen_copy_samples_as_before_while_the_original_trains() -> None:
    vae = built((1, 8, 8), architecture="conv", channels=(3,))
    vae.step(rows(8, (1, 8, 8)))
    frozen = vae.frozen()
    before, drawn = weights(frozen), frozen.sample(4, seeded()).x
    assert torch.equal(drawn, vae.sample(4, seeded()).x)
    vae.step(rows(8, (1, 8, 8)))
    assert same(before, weights(frozen))
    assert torch.equal(drawn, frozen.sample(4, seeded()).x)
    assert not torch.equal(drawn, vae.sample(4, seeded()).x)
    assert not any(parameter.requires_grad for parameter in frozen.network.module.parameters())
    assert frozen.working_bytes() == 0
    assert frozen.flops(2, train=False) == vae.flops(2, train=False) > 0


def test_sampling_is_in_evaluation_mode_and_changes_nothing() -> None:
    vae = built((1, 8, 8), architecture="conv", channels=(3,))
    vae.step(rows(8, (1, 8, 8)))
    before = weights(vae)
    vae.sample(5, seeded())
    vae.elbo(rows(8, (1, 8, 8)).x, seeded())
    assert same(before, weights(vae))
    assert not vae.network.module.training


def test_a_loaded_vae_goes_on_bit_for_bit() -> None:
    one, two = built(), built(seed=5)
    one.step(rows())
    two.load(one.state())
    two.rng = one.rng
    for vae in (one, two):
        vae.step(rows(seed=1))
    assert same(weights(one), weights(two))
    assert torch.equal(one.sample(3, seeded()).x, two.sample(3, seeded()).x)


def test_an_untrained_generator_has_nothing_to_replay() -> None:
    vae = built()
    with pytest.raises(NotReadyError, match="never trained, so it has nothing to replay; train it before sampling"):
        vae.sample(3, seeded())
    fresh = built()
    fresh.load(vae.state())
    with pytest.raises(NotReadyError, match="never trained"):
        fresh.frozen().sample(3, seeded())


@pytest.mark.parametrize("value_range", [(-1.0, 1.0), (0.0, 255.0)])
def test_bernoulli_needs_inputs_in_the_unit_interval(value_range: tuple[float, float]) -> None:
    with pytest.raises(OptionsError, match=r"likelihood = 'bernoulli': inputs must lie in \[0, 1\].*'gaussian'"):
        VAE().build(spec(value_range=value_range), Randomness(0), CPU)
    VAE(hidden=(3,), likelihood="gaussian").build(spec(value_range=value_range), Randomness(0), CPU)
    VAE(hidden=(3,)).build(spec(value_range=None), Randomness(0), CPU)


def test_gaussian_samples_are_means_of_any_size() -> None:
    vae = built(likelihood="gaussian")
    vae.step(rows())
    vae.network.module.decoder.layers[-1].bias.data.fill_(5.0)  # type: ignore[union-attr, index]
    assert float(vae.sample(3, seeded()).x.mean()) > 2


def test_other_refusals() -> None:
    with pytest.raises(OptionsError, match=r"architecture = 'conv': needs images, inputs have shape \(6,\); try 'mlp'"):
        built(architecture="conv")
    vae = built(conditional=True)
    vae.step(rows())
    with pytest.raises(OptionsError, match="classes = None: a conditional generator must be told which classes"):
        vae.sample(3, seeded())
    with pytest.raises(OptionsError, match="labelled rows to train"):
        vae.step(replace(rows(), y=None))


def test_bf16_trains_near_float32() -> None:
    exact, rough = built(), built(device=Device(precision="bf16"))
    for name, value in exact.loss(rows()).items():
        other = rough.loss(rows())[name]
        assert other.dtype == torch.float32
        assert value != other
        torch.testing.assert_close(value, other, rtol=0.05, atol=0.01)
