"""The contract of every family of posteriors, and the distribution that each claims to be."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import softplus

from reverie.checks import OptionsError
from reverie.nn import matmul
from reverie.nn.networks import EncoderAndHead, Head, Linear
from reverie.nn.parameters import Ensemble, ParameterSpec
from reverie.options import from_options, to_options
from reverie.posteriors import POSTERIORS, Dirac, Implicit, MeanField, Radial
from reverie.posteriors.gaussian import OFFSET, log_softplus
from reverie.types import Posterior

# A weight of 12, a bias of 4, of the head a weight of 8 and a bias of 2.
NETWORK = EncoderAndHead(nn.Sequential(nn.Flatten(), Linear(3, 4), nn.ReLU()), Head(4, 2, seed=0))
SPEC = ParameterSpec(NETWORK)
N = SPEC.numel
LONE = ParameterSpec(
    nn.ParameterDict({name: nn.Parameter(torch.zeros(1)) for name in "abcde"})
)  # tensors of one element


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def theta_of(family: Posterior, spec: ParameterSpec = SPEC, seed: int = 0) -> Tensor:
    return torch.randn(len(family.names), family.theta_spec(spec).numel, generator=seeded(seed))


def drawn(family: Posterior, theta: Tensor, n: int, spec: ParameterSpec = SPEC, seed: int = 1) -> Tensor:
    return family.sample(theta, spec, family.noise(n, spec, seeded(seed)).to(theta.dtype))


@pytest.fixture(params=list(POSTERIORS))
def family(request: pytest.FixtureRequest) -> Posterior:
    made: Posterior = Implicit(latent_dim=4) if request.param == "implicit" else from_options(POSTERIORS, request.param)
    return made


# ------------------------------------------------------------------------------- what holds for every family


@pytest.fixture(params=[name for name in POSTERIORS if name != "implicit"])
def explicit(request: pytest.FixtureRequest) -> Posterior:
    """Families whose weights are theta, moved and scaled, and whose divergence from the prior is known."""
    made: Posterior = from_options(POSTERIORS, request.param)
    return made


def test_a_family_says_what_its_parts_are_and_how_much_they_vary(family: Posterior) -> None:
    assert len(family.names) == len(family.variances) > 0
    assert len(set(family.names)) == len(family.names)
    assert all(variance > 0 for variance in family.variances)


def test_a_family_is_remade_from_its_options(family: Posterior) -> None:
    options = to_options(family)  # type: ignore[arg-type]
    assert to_options(from_options(POSTERIORS, options)) == options


@pytest.mark.parametrize("n", [1, 7])
def test_samples_are_weight_vectors(family: Posterior, n: int) -> None:
    weights = drawn(family, theta_of(family), n)
    assert weights.shape == (n, N)
    assert weights.dtype == torch.float32
    assert weights.isfinite().all()


def test_all_samples_are_the_same_if_and_only_if_the_family_says_so(family: Posterior) -> None:
    weights = drawn(family, theta_of(family), 5)
    apart = torch.cdist(weights, weights)[~torch.eye(5, dtype=torch.bool)]
    assert (apart.max() == 0) if family.deterministic else (apart.min() > 0.1)


def test_the_seed_decides_the_noise_and_nothing_else_does(family: Posterior) -> None:
    before = torch.get_rng_state()
    first, again, other = (family.noise(4, SPEC, seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert len(first) == 4
    assert torch.equal(first, again)
    assert family.deterministic == torch.equal(first, other)


def test_noise_goes_on_where_its_generator_stands(family: Posterior) -> None:
    rng = seeded(3)
    first, second = family.noise(4, SPEC, rng), family.noise(4, SPEC, rng)
    assert family.deterministic == torch.equal(first, second)


def test_sampling_changes_neither_theta_nor_noise(family: Posterior) -> None:
    theta, noise = theta_of(family), family.noise(3, SPEC, seeded())
    kept = theta.clone(), noise.clone()
    first = family.sample(theta, SPEC, noise).clone()
    assert torch.equal(theta, kept[0])
    assert torch.equal(noise, kept[1])
    assert torch.equal(family.sample(theta, SPEC, noise), first)


def test_noise_is_independent_of_theta(explicit: Posterior) -> None:
    """What the noise does to weights stays when their place moves."""
    theta, noise = theta_of(explicit).double(), explicit.noise(3, SPEC, seeded()).double()
    moved = theta.clone()
    shift = torch.randn(N, generator=seeded(5), dtype=torch.float64)
    moved[0] += shift
    apart = explicit.sample(moved, SPEC, noise) - explicit.sample(theta, SPEC, noise)
    torch.testing.assert_close(apart, shift.expand(3, -1))


def test_samples_are_differentiable_in_all_of_theta(explicit: Posterior) -> None:
    theta = theta_of(explicit).double().requires_grad_()
    noise = explicit.noise(2, SPEC, seeded()).double()
    assert torch.autograd.gradcheck(lambda t: explicit.sample(t, SPEC, noise), theta)
    direction = torch.randn(2, N, generator=seeded(6), dtype=torch.float64)
    (grad,) = torch.autograd.grad(explicit.sample(theta, SPEC, noise), theta, direction)
    assert (grad.abs() > 1e-8).all()


@pytest.mark.parametrize("family", [MeanField(), Radial()])
def test_moved_and_scaled_noise_and_its_gradient_are_those_of_the_fused_operator(family: Posterior) -> None:
    noise = family.noise(6, SPEC, seeded())
    theta, direction = theta_of(family).requires_grad_(), torch.randn(6, N, generator=seeded(6))
    found = family.sample(theta, SPEC, noise)
    fused = torch.addcmul(theta[0], softplus(theta[1] + OFFSET), noise)
    torch.testing.assert_close(found, fused, rtol=1e-6, atol=1e-6)
    mine, theirs = (torch.autograd.grad(weights, theta, direction)[0] for weights in (found, fused))
    assert torch.equal(mine, theirs)


def test_the_kl_is_one_number_differentiable_in_all_of_theta(explicit: Posterior) -> None:
    theta = theta_of(explicit).double().requires_grad_()
    noise = explicit.noise(2, SPEC, seeded()).double()

    def kl(t: Tensor) -> Tensor:
        return explicit.prior_kl(t, SPEC, 0.7, explicit.sample(t, SPEC, noise))

    value = kl(theta)
    assert value.shape == ()
    assert torch.autograd.gradcheck(kl, theta)
    (grad,) = torch.autograd.grad(value, theta)
    assert (grad.abs() > 1e-8).all()


def test_the_kl_grows_with_the_distance_from_the_prior_and_less_the_wider_it_is(explicit: Posterior) -> None:
    theta = theta_of(explicit)
    theta[0] = 0
    noise = explicit.noise(20, SPEC, seeded())

    def kl(distance: float, variance: float) -> float:
        moved = theta.clone()
        moved[0] += distance
        return explicit.prior_kl(moved, SPEC, variance, explicit.sample(moved, SPEC, noise)).item()

    near, far, farther = (kl(distance, 1.0) for distance in (0.0, 3.0, 6.0))
    # On average N * distance^2 / (2 variance) more.
    assert far - near == pytest.approx(N * 9 / 2, rel=0.2)
    assert farther - near == pytest.approx(N * 36 / 2, rel=0.2)
    assert kl(6.0, 10.0) - kl(0.0, 10.0) == pytest.approx(N * 36 / 20, rel=0.2)


def test_moments_are_given_where_weights_are_independent_gaussians(family: Posterior) -> None:
    theta, noise = theta_of(family), family.noise(5, SPEC, seeded())
    found = family.moments(theta)
    assert (found is not None) == isinstance(family, MeanField)
    if found is not None:
        mean, log_std = found
        back = (family.sample(theta, SPEC, noise) - mean) / log_std.exp()
        torch.testing.assert_close(back, noise, rtol=1e-4, atol=1e-5)


def test_a_longer_head_has_noise_too(family: Posterior) -> None:
    longer = SPEC.with_outputs(6)
    weights = drawn(family, theta_of(family, longer), 3, longer)
    assert weights.shape == (3, longer.numel)
    assert (weights.isfinite() & (weights != 0)).all()
    assert SPEC.numel < longer.numel


@pytest.mark.parametrize("make", [MeanField, Radial])
def test_where_nothing_is_generated_the_deviation_is_small(make: Callable[..., Posterior]) -> None:
    noise = torch.ones(1, N)
    assert make().sample(torch.zeros(2, N), SPEC, noise).unique().item() == pytest.approx(0.0789, abs=1e-4)
    other = make(offset=1.0).sample(torch.zeros(2, N), SPEC, noise)
    assert other.unique().item() == pytest.approx(math.log(1 + math.e))


@pytest.mark.parametrize("n", [1, 4])
def test_training_scores_are_those_of_networks_with_the_weights_that_were_drawn(family: Posterior, n: int) -> None:
    theta, x = theta_of(family).requires_grad_(), torch.randn(5, 3, generator=seeded(2))
    ensemble = Ensemble(NETWORK, SPEC)
    scores, weights, _ = family.training_scores(theta, ensemble, x, n, seeded(1))
    assert weights is not None
    assert torch.equal(weights, drawn(family, theta, n))
    torch.testing.assert_close(scores, ensemble(weights, x))
    (grad,) = torch.autograd.grad(scores.square().sum(), theta)
    assert grad.any(dim=1).all()


# ----------------------------------------------------------------------------------------------- softplus


def test_the_logarithm_of_softplus_is_that_of_float64_wherever_it_is() -> None:
    x = torch.cat([torch.linspace(-100, 60, 3001), torch.tensor([-15.0, -15.000001, -14.999999, 0.0, -2.5])])
    expected = torch.log1p(x.double().exp()).log()
    torch.testing.assert_close(log_softplus(x).double(), expected, rtol=1e-6, atol=1e-6)


def test_the_slope_of_the_logarithm_of_softplus_is_right_and_always_finite() -> None:
    x = torch.linspace(-100, 60, 3001).requires_grad_()
    (slope,) = torch.autograd.grad(log_softplus(x).sum(), x)
    wide = x.detach().double()
    expected = torch.sigmoid(wide) / torch.log1p(wide.exp())
    torch.testing.assert_close(slope.double(), expected, rtol=1e-5, atol=1e-6)
    far = torch.tensor([-1e4, 1e4], requires_grad=True)
    (slope,) = torch.autograd.grad(log_softplus(far).sum(), far)
    assert slope.tolist() == pytest.approx([1.0, 1e-4])
    assert log_softplus(far).tolist() == pytest.approx([-1e4, math.log(1e4)])


# -------------------------------------------------------------------------------------------------- point


def test_a_point_is_its_own_weights() -> None:
    theta = theta_of(Dirac())
    assert torch.equal(drawn(Dirac(), theta, 3), theta.expand(3, -1))


def test_the_kl_of_a_point_is_minus_the_log_density_of_the_prior_but_for_its_constant() -> None:
    theta = theta_of(Dirac())
    prior = Normal(0.0, math.sqrt(0.3))
    expected = prior.log_prob(torch.zeros(N)).sum() - prior.log_prob(theta).sum()
    torch.testing.assert_close(Dirac().prior_kl(theta, SPEC, 0.3, theta), expected)


# --------------------------------------------------------------------------------------------- mean field


def test_samples_of_mean_field_have_the_stated_means_and_deviations_and_are_independent() -> None:
    family, n = MeanField(), 20_000
    theta = theta_of(family)
    weights = drawn(family, theta, n)
    std = softplus(theta[1] + OFFSET)
    assert ((weights.mean(dim=0) - theta[0]).abs() < 5 * std / math.sqrt(n)).all()
    assert ((weights.std(dim=0) / std - 1).abs() < 5 / math.sqrt(2 * n)).all()
    between = torch.corrcoef(weights.T) - torch.eye(N)
    assert between.abs().max() < 5 / math.sqrt(n)
    kurtosis = ((weights - theta[0]) / std).pow(4).mean(dim=0)
    assert (kurtosis - 3).abs().max() < 5 * math.sqrt(96 / n)  # as of a Gaussian


@settings(max_examples=50, deadline=None)
@given(st.floats(0.01, 10), st.floats(-4, 4), st.integers(0, 100))
def test_the_kl_of_mean_field_is_that_of_torch(variance: float, offset: float, seed: int) -> None:
    family = MeanField(offset=offset)
    theta = theta_of(family, seed=seed).double()
    q = Normal(theta[0], softplus(theta[1] + offset))
    expected = kl_divergence(q, Normal(torch.zeros(N, dtype=torch.float64), math.sqrt(variance))).sum()
    found = family.prior_kl(theta, SPEC, variance, torch.empty(0))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_the_kl_of_mean_field_is_what_its_samples_say() -> None:
    family, n, variance = MeanField(), 20_000, 0.5
    theta = theta_of(family).double()
    weights = drawn(family, theta, n)
    q, p = Normal(theta[0], softplus(theta[1] + OFFSET)), Normal(0.0, math.sqrt(variance))
    apart = (q.log_prob(weights) - p.log_prob(weights)).sum(dim=1)
    found = family.prior_kl(theta, SPEC, variance, weights[:1]).item()
    assert found == pytest.approx(apart.mean().item(), abs=5 * apart.std().item() / math.sqrt(n))


def test_moments_of_mean_field_are_taken_of_many_posteriors_at_once() -> None:
    family = MeanField()
    thetas = torch.stack([theta_of(family, seed=seed) for seed in range(3)])
    mean, log_std = family.moments(thetas)
    for k, theta in enumerate(thetas):
        torch.testing.assert_close(mean[k], theta[0])
        torch.testing.assert_close(log_std[k].exp(), softplus(theta[1] + OFFSET))


def local_scores(network: nn.Module, theta: Tensor, x: Tensor, n: int, seed: int = 1) -> Tensor:
    ensemble = Ensemble(network, ParameterSpec(network))
    scores, weights, _ = MeanField(local=True).training_scores(theta, ensemble, x, n, seeded(seed))
    assert weights is None
    assert scores.shape[:2] == (n, len(x))
    return scores


def test_sums_that_are_drawn_have_the_mean_and_the_variance_of_sums_of_drawn_weights() -> None:
    network = EncoderAndHead(nn.Sequential(nn.Flatten()), Head(3, 2, seed=0))
    spec, n = ParameterSpec(network), 20_000
    theta, x = theta_of(MeanField(offset=0.0), spec), torch.randn(4, 3, generator=seeded(2))
    mean = spec.unflatten(theta[0])
    variance = spec.unflatten(softplus(theta[1] + OFFSET).square())
    centre = x @ mean["head.weight"].T + mean["head.bias"]
    std = (x.square() @ variance["head.weight"].T + variance["head.bias"]).sqrt()
    scores = local_scores(network, theta, x, n)
    assert ((scores.mean(dim=0) - centre).abs() < 5 * std / math.sqrt(n)).all()
    assert ((scores.std(dim=0) / std - 1).abs() < 5 / math.sqrt(2 * n)).all()
    # Each row has a draw of its own, also a row that is there twice.
    twice = local_scores(network, theta, x[:1].expand(2, -1), n)
    assert abs(torch.corrcoef(twice[:, :, 0].T)[0, 1].item()) < 5 / math.sqrt(n)


def test_through_a_hidden_layer_rows_by_themselves_are_answered_alike_with_and_without_local_draws() -> None:
    n = 40_000
    theta, x = theta_of(MeanField()), torch.randn(2, 3, generator=seeded(2))
    theta[1] += 2  # so that ReLUs are sometimes on and sometimes off
    weights = drawn(MeanField(), theta, n)
    sampled, local = Ensemble(NETWORK, SPEC)(weights, x), local_scores(NETWORK, theta, x, n)
    for moment in (1, 2):
        one, other = sampled.pow(moment), local.pow(moment)
        error = (one.var(dim=0) + other.var(dim=0)).sqrt() / math.sqrt(n)
        assert ((one.mean(dim=0) - other.mean(dim=0)).abs() < 5 * error).all()


def test_local_draws_depend_on_the_seed_and_are_differentiable_where_inputs_are_zero() -> None:
    theta = theta_of(MeanField()).requires_grad_()
    x = torch.zeros(3, 3)
    scores = local_scores(NETWORK, theta, x, 2)
    assert torch.equal(scores, local_scores(NETWORK, theta, x, 2))
    assert not torch.equal(scores, local_scores(NETWORK, theta, x, 2, seed=4))
    network = EncoderAndHead(nn.Sequential(nn.Flatten(), nn.Linear(3, 4, bias=False)), Head(4, 2, seed=0))
    theta = theta_of(MeanField(), ParameterSpec(network)).requires_grad_()
    (grad,) = torch.autograd.grad(local_scores(network, theta, x, 2).sum(), theta)
    assert grad.isfinite().all()


def test_local_draws_are_the_same_through_the_own_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which reads a bias as if it lay by itself."""
    theta, x = theta_of(MeanField()), torch.randn(5, 3, generator=seeded(2))
    plain = local_scores(NETWORK, theta, x, 3)
    monkeypatch.setattr(matmul, "WORTHWHILE", 1)
    torch.testing.assert_close(local_scores(NETWORK, theta, x, 3), plain, rtol=1e-5, atol=1e-5)


def test_local_draws_are_refused_where_layers_are_no_chain() -> None:
    network = EncoderAndHead(nn.Sequential(nn.Flatten(), nn.Linear(3, 4), nn.LayerNorm(4)), Head(4, 2, seed=0))
    with pytest.raises(OptionsError, match="chains of linear layers"):
        local_scores(network, theta_of(MeanField(), ParameterSpec(network)), torch.zeros(1, 3), 1)


# ------------------------------------------------------------------------------------------------- radial


def standardised(spec: ParameterSpec, n: int) -> list[Tensor]:
    """(weights - mean) / deviation, tensor by tensor, in float64."""
    family = Radial()
    theta = theta_of(family, spec).double()
    back = (drawn(family, theta, n, spec) - theta[0]) / softplus(theta[1] + OFFSET)
    return [back[:, places] for places in spec.tensors]


def assert_half_normal(lengths: Tensor) -> None:
    """Kolmogorov and Smirnov: 1.95 / sqrt(n) is passed by chance once in a thousand."""
    n = len(lengths)
    expected = torch.erf(lengths.sort().values / math.sqrt(2))
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    assert max((expected - steps[:-1]).max(), (steps[1:] - expected).max()) < 1.95 / math.sqrt(n)


def test_each_tensor_of_a_radial_posterior_has_a_half_normal_length() -> None:
    lengths = [tensor.norm(dim=1) for tensor in standardised(SPEC, 4000)]
    assert [tensor.shape[1] for tensor in standardised(SPEC, 1)] == [12, 4, 8, 2]
    for mine in lengths:
        assert_half_normal(mine)
    between = torch.corrcoef(torch.stack(lengths)) - torch.eye(4)
    assert between.abs().max() < 5 / math.sqrt(4000)  # each has a length of its own


def test_directions_of_a_radial_posterior_are_uniform() -> None:
    n = 4000
    for tensor in standardised(SPEC, n):
        d = tensor.shape[1]
        directions = tensor / tensor.norm(dim=1, keepdim=True)
        assert directions.mean(dim=0).abs().max() < 5 / math.sqrt(n * d)
        second = directions.T @ directions / n  # the mean of u u^T is I / d
        assert (second - torch.eye(d) / d).abs().max() < 5 * math.sqrt(2) / d / math.sqrt(n)


def test_a_tensor_of_one_element_is_plus_or_minus_its_length() -> None:
    """Which makes it a Gaussian."""
    tensors = standardised(LONE, 4000)
    assert len(tensors) == 5
    for tensor in tensors:
        assert_half_normal(tensor[:, 0].abs())
        assert abs((tensor > 0).double().mean().item() - 0.5) < 5 / math.sqrt(4 * 4000)


def test_the_kl_of_a_radial_posterior_is_right_up_to_a_constant_where_it_is_a_gaussian() -> None:
    """With tensors of one element: what is left out is 1/2 (1 - log variance) a weight, whatever theta."""
    family, n = Radial(), 20_000
    for seed, variance in ((0, 1.0), (1, 0.4), (2, 3.0)):
        theta = theta_of(family, LONE, seed).double()
        weights = drawn(family, theta, n, LONE)
        exact = MeanField().prior_kl(theta, LONE, variance, weights).item()
        error = weights.square().sum(dim=1).std().item() / (2 * variance) / math.sqrt(n)
        constant = LONE.numel * (1 - math.log(variance)) / 2
        found = family.prior_kl(theta, LONE, variance, weights).item()
        assert found - exact == pytest.approx(constant, abs=5 * error)


def test_the_kl_of_a_radial_posterior_is_estimated_without_bias() -> None:
    """Its mean is - sum log s + (|m|^2 + sum s^2 / d) / (2 variance), d the number of elements of the weight's tensor."""
    family, n, variance = Radial(), 20_000, 0.4
    theta = theta_of(family).double()
    std = softplus(theta[1] + OFFSET)
    sizes = torch.empty(N, dtype=torch.float64)
    for places in SPEC.tensors:
        sizes[places] = len(places)
    expected = (theta[0].square() + std.square() / sizes).sum() / (2 * variance) - std.log().sum()
    weights = drawn(family, theta, n)
    single = torch.stack([family.prior_kl(theta, SPEC, variance, row[None]) for row in weights[:2000]])
    assert single.mean().item() == pytest.approx(expected.item(), abs=5 * single.std().item() / math.sqrt(2000))
    together = family.prior_kl(theta, SPEC, variance, weights).item()
    assert together == pytest.approx(expected.item(), abs=5 * single.std().item() / math.sqrt(n))
    # Many samples are a mean over samples, not a sum.
    assert family.prior_kl(theta, SPEC, variance, weights[:2000]).item() == pytest.approx(single.mean().item())
