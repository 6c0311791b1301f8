"""Implicit posteriors: what their generator makes, where it starts, and that both estimators bring them to a known distribution."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, kl_divergence
from torch.nn.functional import cosine_similarity

from reverie.checks import OptionsError
from reverie.device import CPU
from reverie.nn.hypernetworks import Full
from reverie.nn.networks import Head, Linear, mlp
from reverie.nn.optimisers import Adam
from reverie.nn.parameters import Ensemble, ParameterSpec
from reverie.options import resolved
from reverie.posteriors.adversarial import Contrast
from reverie.posteriors.family import SampledPrior
from reverie.posteriors.implicit import Implicit
from reverie.posteriors.stein import score_surrogate
from reverie.seeding import generator
from reverie.types import Posterior


class Main(nn.Module):
    def __init__(self, sizes: tuple[int, ...], outputs: int, norm: bool = False) -> None:
        super().__init__()
        layers = [nn.LayerNorm(sizes[-1])] if norm else []
        self.encoder = nn.Sequential(nn.Flatten(), *mlp(sizes, last_activation=True), *layers)
        self.head = Head(sizes[-1], outputs, seed=0)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.encoder(x))
        return scores


TINY = Main((2, 10, 10), 6)  # the network of the two-dimensional modes: 206 weights
SPEC = ParameterSpec(TINY)

KINDS: dict[str, dict[str, Any]] = {
    "inflated": {},
    "linear": {"hidden": ()},
    "no narrower": {"latent_dim": None, "hidden": (206,), "perturbation": 0.0},
    "chunked": {"chunk_size": 50},
    "chunked, linear": {"chunk_size": 50, "hidden": ()},
}
every_kind = pytest.mark.parametrize("options", KINDS.values(), ids=list(KINDS))


def drawn(posterior: Implicit, n: int, spec: ParameterSpec = SPEC, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A random theta (1, numel_theta) and noise for n samples."""
    theta = 0.1 * torch.randn(1, posterior.theta_spec(spec).numel, generator=generator("theta", seed))
    return theta, posterior.noise(n, spec, generator("noise", seed))


# ---------------------------------------------------------------------------------- samples


@every_kind
def test_samples_are_weights_that_a_network_runs_with(options: dict[str, Any]) -> None:
    posterior = Implicit(**options)
    theta, noise = drawn(posterior, 3)
    assert noise.shape == (3, 206)
    weights = posterior.sample(theta, SPEC, noise)
    assert weights.shape == (3, 206)
    assert Ensemble(TINY, SPEC)(weights, torch.zeros(4, 2)).shape == (3, 4, 6)
    assert not posterior.deterministic
    assert posterior.moments(theta) is None
    assert isinstance(posterior, Posterior)


@every_kind
def test_the_same_noise_gives_the_same_samples_each_by_itself(options: dict[str, Any]) -> None:
    posterior = Implicit(**options)
    theta, noise = drawn(posterior, 5)
    weights = posterior.sample(theta, SPEC, noise)
    assert torch.equal(weights, posterior.sample(theta, SPEC, noise.clone()))
    assert torch.allclose(posterior.sample(theta, SPEC, noise[3:4]), weights[3:4], atol=1e-6)
    assert torch.equal(noise, posterior.noise(5, SPEC, generator("noise", 0)))


@every_kind
def test_gradients_reach_all_of_theta(options: dict[str, Any]) -> None:
    posterior = Implicit(activation="tanh", **options)
    theta, noise = drawn(posterior, 4)
    theta.requires_grad_()
    posterior.sample(theta, SPEC, noise).square().sum().backward()
    assert theta.grad is not None
    assert int((theta.grad == 0).sum()) == 0


def test_a_sample_is_the_answer_of_a_plain_network_plus_the_perturbation() -> None:
    posterior = Implicit(latent_dim=7, hidden=(9, 8), activation="sigmoid", perturbation=0.3)
    theta, noise = drawn(posterior, 4)
    plain = nn.Sequential(Linear(7, 9), nn.Sigmoid(), Linear(9, 8), nn.Sigmoid(), Linear(8, 206))
    layout = posterior.theta_spec(SPEC)
    named = layout.unflatten(theta[0])
    renamed = {"0": "layers.0", "2": "layers.1", "4": "head"}
    plain.load_state_dict(
        {f"{at}.{own}": named[f"{name}.{own}"] for at, name in renamed.items() for own in ("weight", "bias")}
    )
    expected = plain(noise[:, :7]) + 0.3 * noise
    assert torch.allclose(posterior.sample(theta, SPEC, noise), expected, atol=1e-6)


@pytest.mark.parametrize("hidden", [(), (6,), (6, 5)])
def test_chunks_are_made_by_one_network_from_the_noise_and_their_embeddings(hidden: tuple[int, ...]) -> None:
    posterior = Implicit(latent_dim=4, hidden=hidden, activation="tanh", perturbation=0.0, chunk_size=50, chunk_dim=3)
    theta, noise = drawn(posterior, 2)
    named = posterior.theta_spec(SPEC).unflatten(theta[0])
    for index in range(2):
        parts = []
        for chunk in range(5):
            h = torch.cat([noise[index, :4], named[f"chunks.{chunk}"]])
            for layer in range(len(hidden) + 1):
                h = named[f"layers.{layer}.weight"] @ h + named[f"layers.{layer}.bias"]
                h = torch.tanh(h) if layer < len(hidden) else h
            parts.append(h)
        expected = torch.cat(parts)[:206]
        assert torch.allclose(posterior.sample(theta, SPEC, noise)[index], expected, atol=1e-6)


def test_the_perturbation_reaches_every_weight_and_shares_the_generators_noise() -> None:
    posterior = Implicit(latent_dim=4, perturbation=0.5)
    still = Implicit(latent_dim=4, perturbation=0.0)
    theta, noise = drawn(posterior, 64)
    moved = posterior.sample(theta, SPEC, noise) - still.sample(theta, SPEC, noise)
    assert torch.allclose(moved, 0.5 * noise, atol=1e-6)
    # Of more samples than weights, all directions are reached; without it, no more than the ten hidden units and the bias allow.
    many = posterior.noise(300, SPEC, generator("many"))
    ranks = [int(torch.linalg.matrix_rank(p.sample(theta, SPEC, many).double(), rtol=1e-5)) for p in (posterior, still)]
    assert ranks[0] == 206
    assert ranks[1] <= 11


def test_weights_are_float32_where_a_network_runs_in_bf16() -> None:
    posterior = Implicit()
    theta, noise = drawn(posterior, 2)
    with torch.autocast("cpu", torch.bfloat16):
        weights = posterior.sample(theta, SPEC, noise)
    assert torch.equal(weights, posterior.sample(theta, SPEC, noise))


def test_noise_that_is_not_shared_is_drawn_apart_for_generator_and_perturbation() -> None:
    posterior = Implicit(latent_dim=4, perturbation=0.5, share_noise=False)
    still = Implicit(latent_dim=4, perturbation=0.0)
    theta, noise = drawn(posterior, 3)
    assert noise.shape == (3, 4 + 206)
    made = still.sample(theta, SPEC, noise[:, :206])  # of which the first four are the generator's
    torch.testing.assert_close(posterior.sample(theta, SPEC, noise), made + 0.5 * noise[:, 4:])


def test_the_noise_is_as_wide_as_asked() -> None:
    noise = Implicit(latent_std=0.1).noise(200, SPEC, generator("noise"))
    assert float(noise.std()) == pytest.approx(0.1, rel=0.02)


# ---------------------------------------------------------------------------------- theta


@pytest.mark.parametrize(
    ("options", "numel"),
    [
        ({"latent_dim": 32, "hidden": (10, 10)}, 2706),
        ({"latent_dim": 8, "hidden": (100, 100)}, 31806),
        ({"latent_dim": None, "hidden": (206,), "perturbation": 0.0}, 2 * 206 * 207),
        ({"latent_dim": 8, "hidden": (10,), "chunk_size": 50, "chunk_dim": 4}, 13 * 10 + 11 * 50 + 5 * 4),
    ],
)
def test_theta_holds_the_weights_of_the_generator(options: dict[str, Any], numel: int) -> None:
    """The first two are the sizes that the published runs have."""
    assert Implicit(**options).theta_spec(SPEC).numel == numel


@pytest.mark.parametrize("options", [{}, {"hidden": ()}, {"chunk_size": 50}], ids=["inflated", "linear", "chunked"])
def test_a_head_that_grows_only_makes_theta_longer(options: dict[str, Any]) -> None:
    posterior = Implicit(perturbation=0.0, **options)
    grown = SPEC.with_outputs(9)
    theta, _ = drawn(posterior, 1, grown)
    length = posterior.theta_spec(SPEC).numel
    noise = posterior.noise(2, grown, generator("noise"))
    few = posterior.sample(theta[:, :length], SPEC, noise[:, : SPEC.numel])
    assert torch.allclose(posterior.sample(theta, grown, noise)[:, : SPEC.numel], few, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"chunk_size": 50}], ids=["inflated", "chunked"])
def test_a_hypernetwork_makes_theta_and_more_of_it_once_the_head_has_grown(options: dict[str, Any]) -> None:
    posterior = Implicit(**options)
    layout = posterior.theta_spec(SPEC)
    base = posterior.initial(SPEC, seed=0)
    hypernet = Full(init="main").make(layout, posterior.variances, base, seed=0)
    hypernet.add_task()
    theta = hypernet([0])[0]
    assert torch.equal(theta.detach()[0], base)
    assert posterior.sample(theta, SPEC, posterior.noise(2, SPEC, generator("noise"))).requires_grad
    grown = SPEC.with_outputs(9)
    hypernet.grow(posterior.theta_spec(grown), posterior.initial(grown, seed=0))
    longer = hypernet([0])[0]
    assert longer.shape == (1, posterior.theta_spec(grown).numel)
    assert torch.equal(longer.detach()[0, : layout.numel], base)


def test_rows_of_theta_can_be_masked_as_the_weights_that_they_make() -> None:
    posterior = Implicit(perturbation=0.0)
    theta, noise = drawn(posterior, 2)
    mine = SPEC.mask([0, 1])
    rows = posterior.theta_spec(SPEC).mask(mine.nonzero()[:, 0].tolist())
    weights = posterior.sample(theta, SPEC, noise)
    changed = posterior.sample(theta + 1.0 * ~rows, SPEC, noise)
    assert torch.equal(changed[:, mine], weights[:, mine])
    assert (changed[:, ~mine] != weights[:, ~mine]).all()


# ---------------------------------------------------------------------------------- where it starts


WIDE = ParameterSpec(Main((64, 100, 80), 10, norm=True))


@pytest.mark.parametrize(
    "options",
    [{}, {"hidden": ()}, {"activation": "sigmoid"}, {"latent_std": 0.1}, {"hidden": (100, 100), "latent_dim": 8}],
    ids=["usual", "linear", "sigmoid", "narrow noise", "wide"],
)
def test_the_weights_made_start_with_the_variance_of_their_layer(options: dict[str, Any]) -> None:
    """The mean over eight starts: a head's ten biases alone vary by a third from one to the next."""
    posterior = Implicit(**options)
    made = []
    for seed in range(8):
        noise = posterior.noise(100, WIDE, generator("noise", seed))
        made.append(posterior.sample(posterior.initial(WIDE, seed)[None], WIDE, noise))
    weights = torch.cat(made)
    wanted = torch.zeros(WIDE.numel)
    for kind, fan_in, start, stop in WIDE.blocks():
        wanted[start:stop] = {"weight": 2 / fan_in, "bias": 1 / (3 * fan_in), "scale": 1.0, "shift": 0.0}[kind]
    added = (posterior.perturbation * posterior.latent_std) ** 2
    for places in WIDE.tensors:
        expected = float(wanted[places].mean())
        assert float(weights[:, places].square().mean()) == pytest.approx(expected, rel=0.3, abs=1.1 * added)


def test_scales_start_at_one_and_shifts_at_zero() -> None:
    posterior = Implicit(perturbation=0.0)
    weights = posterior.sample(posterior.initial(WIDE, 0)[None], WIDE, posterior.noise(3, WIDE, generator("noise")))
    kinds = {kind: weights[:, start:stop] for kind, _, start, stop in WIDE.blocks() if kind in ("scale", "shift")}
    assert torch.equal(kinds["scale"], torch.ones(3, 80))
    assert torch.equal(kinds["shift"], torch.zeros(3, 80))


@pytest.mark.parametrize("hidden", [(), (10, 10)])
def test_chunks_start_with_the_mean_variance_of_what_is_in_them(hidden: tuple[int, ...]) -> None:
    spec = ParameterSpec(Main((64, 100, 80), 10))
    posterior = Implicit(chunk_size=800, hidden=hidden, perturbation=0.0002)
    made = []
    for seed in range(8):
        noise = posterior.noise(50, spec, generator("noise", seed))
        made.append(posterior.sample(posterior.initial(spec, seed)[None], spec, noise))
    weights = torch.cat(made)
    wanted = torch.cat(
        [torch.full((stop - start,), 2 / f if k == "weight" else 1 / (3 * f)) for k, f, start, stop in spec.blocks()]
    )
    for part, target in (
        (weights, wanted),
        (weights[:, :6400], wanted[:6400]),
        (weights[:, 7200:14400], wanted[7200:14400]),
    ):
        assert float(part.square().mean()) == pytest.approx(float(target.mean()), rel=0.3)


def test_what_the_perturbation_adds_is_taken_off() -> None:
    posterior = Implicit(latent_std=2.0, perturbation=0.06)
    spec = ParameterSpec(Linear(100, 300))  # 2 / 100, of which the perturbation makes 0.0144
    weights = torch.cat(
        [
            posterior.sample(
                posterior.initial(spec, seed)[None], spec, posterior.noise(40, spec, generator("noise", seed))
            )
            for seed in range(4)
        ]
    )
    assert float(weights[:, :30000].square().mean()) == pytest.approx(0.02, rel=0.15)


def test_the_start_depends_on_the_seed_alone_and_is_kept_for_what_was_there() -> None:
    posterior = Implicit()
    before = torch.get_rng_state()
    first = posterior.initial(SPEC, seed=1)
    assert torch.equal(first, posterior.initial(SPEC, seed=1))
    assert not torch.equal(first, posterior.initial(SPEC, seed=2))
    grown = posterior.initial(SPEC.with_outputs(8), seed=1)
    assert torch.equal(grown[: len(first)], first)
    assert torch.equal(before, torch.get_rng_state())


# ---------------------------------------------------------------------------------- divergence


def test_the_divergence_has_no_formula() -> None:
    posterior = Implicit(estimator="adversarial")
    theta, noise = drawn(posterior, 2)
    with pytest.raises(NotImplementedError, match=r"learner must estimate .* estimator = 'adversarial'"):
        posterior.prior_kl(theta, SPEC, 1.0, posterior.sample(theta, SPEC, noise))


def fitted(posterior: Implicit, variance: float, steps: int) -> Tensor:
    """Weights of three numbers after minimising KL(q || N(0, variance)) alone."""
    spec = ParameterSpec(Linear(2, 1))
    theta = nn.Parameter(posterior.initial(spec, seed=0)[None])
    optimiser = Adam(learning_rate=5e-3).make([theta])
    discriminator = posterior.ratio(spec, Adam(learning_rate=5e-3), seed=0)

    def samples(n: int, *key: object) -> Tensor:
        return posterior.sample(theta, spec, posterior.noise(n, spec, generator(n, *key)))

    for step in range(steps):
        weights = samples(posterior.stein_samples, step)
        if posterior.estimator == "stein":
            loss = score_surrogate(weights, posterior.score(weights, weights))
            loss = loss + weights.square().sum(dim=1).mean() / (2 * variance)
        else:
            contrast = Contrast.of(samples(posterior.contrast_samples, "contrast", step))
            for k in range(posterior.discriminator_steps):
                reference = contrast.sample(posterior.discriminator_batch, generator("reference", step, k))
                discriminator.update(samples(posterior.discriminator_batch, "discriminator", step, k), reference)
            loss = discriminator.kl(weights, variance, contrast)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        return samples(2000, "test")


@pytest.mark.parametrize("estimator", [{"estimator": "stein", "keep": 1.0}, {"estimator": "adversarial"}], ids=str)
def test_either_estimator_brings_it_to_the_prior(estimator: dict[str, Any]) -> None:
    """From a mean square of 1 for weights and 0.17 for the bias to 4 for all."""
    weights = fitted(Implicit(latent_dim=3, hidden=(20,), activation="tanh", **estimator), variance=4.0, steps=500)
    assert weights.mean(dim=0).abs().max() < 0.5
    assert torch.allclose(weights.std(dim=0), torch.full((3,), 2.0), rtol=0.25)


# ---------------------------------------------------------------------------------- an earlier posterior as the prior


THREE = ParameterSpec(Linear(2, 1))
ALL = torch.ones(3, dtype=torch.bool)
OLD = torch.tensor(
    [[0.9, 0.2, 0.0, 1.0], [0.0, 0.7, -0.2, -0.5], [0.3, 0.0, 0.8, 0.4]]
)  # factor and mean of three weights
NEW = torch.tensor([[0.5, 0.0, 0.1, 0.2], [0.2, 0.6, 0.0, 0.4], [0.0, -0.1, 1.1, -0.3]])


def linear_posterior(**options: Any) -> Implicit:
    """theta.view(3, 4): N(mean, factor factor^T), the factor in its first three columns, the mean in the last."""
    return Implicit(latent_dim=3, hidden=(), perturbation=0.0, **options)


def exact(rows: Tensor) -> MultivariateNormal:
    return MultivariateNormal(rows[:, 3], rows[:, :3] @ rows[:, :3].T)


def exact_gradient(rows: Tensor) -> Tensor:
    """Of KL(q || old)."""
    rows = rows.clone().requires_grad_()
    (found,) = torch.autograd.grad(kl_divergence(exact(rows), exact(OLD)), rows)
    return found


def estimated_gradient(posterior: Implicit, rows: Tensor, prior: SampledPrior, repeats: int = 10) -> Tensor:
    """Mean over some calls of ``term``, 200 samples each."""
    theta = rows.flatten()[None].clone().requires_grad_()
    estimate = posterior.estimate(THREE, 1.0, Adam(learning_rate=3e-3), CPU, 0)
    for k in range(repeats):
        weights = posterior.sample(theta, THREE, posterior.noise(200, THREE, generator("weights", k)))
        estimate.term(theta, weights, generator("rest", k), prior).value.backward()
    assert theta.grad is not None
    return theta.grad.view(3, 4) / repeats


def prior_of(posterior: Implicit, rows: Tensor = OLD, trained: Tensor = ALL, **options: Any) -> SampledPrior:
    return SampledPrior(posterior, THREE, rows.flatten()[None], trained, 2.0, **options)


@pytest.mark.parametrize("repels", [False, True])
def test_the_score_of_an_earlier_posterior_pulls_towards_it_and_with_the_published_sign_away(repels: bool) -> None:
    """Against the gradient of the divergence between the two Gaussians that the generators make."""
    posterior = linear_posterior(stein_samples=200)
    found = estimated_gradient(posterior, NEW, prior_of(posterior, repels=repels))
    means = cosine_similarity(found[:, 3], exact_gradient(NEW)[:, 3], dim=0)  # the entropy says nothing about the mean
    assert means < -0.9 if repels else means > 0.9
    if not repels:
        assert cosine_similarity(found.flatten(), exact_gradient(NEW).flatten(), dim=0) > 0.9


def test_a_discriminator_that_looks_at_an_earlier_posterior_pulls_towards_it() -> None:
    posterior = linear_posterior(estimator="adversarial", discriminator=(32, 32), discriminator_batch=256)
    posterior.set_params(discriminator_steps=60)
    found = estimated_gradient(posterior, NEW, prior_of(posterior))
    assert cosine_similarity(found.flatten(), exact_gradient(NEW).flatten(), dim=0) > 0.9


@pytest.mark.parametrize(
    "options",
    [
        {"estimator": "stein"},
        {"estimator": "adversarial", "discriminator": (32, 32), "discriminator_batch": 128, "discriminator_steps": 2},
    ],
    ids=["stein", "adversarial"],
)
def test_either_estimator_brings_it_to_an_earlier_posterior(options: dict[str, Any]) -> None:
    posterior = linear_posterior(**options)
    theta = nn.Parameter(NEW.flatten()[None].clone())
    optimiser = Adam(learning_rate=5e-3).make([theta])  # slower than the discriminator, or it runs past it
    estimate = posterior.estimate(THREE, 1.0, Adam(learning_rate=1e-2), CPU, 0)
    for step in range(400):
        weights = posterior.sample(theta, THREE, posterior.noise(100, THREE, generator("weights", step)))
        optimiser.zero_grad()
        estimate.term(theta, weights, generator("rest", step), prior_of(posterior)).value.backward()
        optimiser.step()
    before, after = (float(kl_divergence(exact(rows), exact(OLD))) for rows in (NEW, theta.detach().view(3, 4)))
    assert before > 1.5
    assert after < 0.2


def test_weights_that_were_never_trained_keep_the_first_prior() -> None:
    posterior = linear_posterior(stein_samples=200)
    trained = torch.tensor([True, False, True])
    prior = prior_of(posterior, trained=trained)
    samples = prior.sample(20000, generator("samples"))
    expected = exact(OLD)
    torch.testing.assert_close(samples.mean(dim=0), expected.mean * trained, rtol=0, atol=0.05)
    covariance = expected.covariance_matrix * (trained[:, None] & trained) + torch.diag(2.0 * ~trained)
    torch.testing.assert_close(samples.T.cov(), covariance, rtol=0, atol=0.06)

    # The score of the posterior before enters with its sign, that of the first prior always with the right one.
    theta = NEW.flatten()[None]
    weights = posterior.sample(theta, THREE, posterior.noise(50, THREE, generator("weights"))).requires_grad_()
    gradients = []
    for repels in (False, True):
        term = posterior.estimate(THREE, 1.0, Adam(), CPU, 0).term
        value = term(theta, weights, generator("rest"), prior_of(posterior, trained=trained, repels=repels)).value
        gradients.append(torch.autograd.grad(value, weights)[0] * len(weights))
    entropy = posterior.estimate(THREE, 2.0, Adam(), CPU, 0).term(theta, weights, generator("rest")).value
    plain = torch.autograd.grad(entropy, weights)[0] * len(weights)
    for gradient in gradients:
        torch.testing.assert_close(gradient[:, 1], plain[:, 1], rtol=1e-4, atol=1e-5)
    scores = (plain - weights.detach() / 2.0)[:, trained]  # of q itself, which the two lie around
    torch.testing.assert_close((gradients[0] + gradients[1])[:, trained] / 2, scores, rtol=1e-4, atol=1e-5)
    assert bool((gradients[0][:, trained] != gradients[1][:, trained]).all())


@pytest.mark.parametrize("with_prior", [False, True])
def test_a_score_that_is_not_to_be_clipped_is_a_share_apart(with_prior: bool) -> None:
    theta, terms = NEW.flatten()[None], []
    for clip_score in (True, False):
        posterior = linear_posterior(stein_samples=20, clip_score=clip_score)
        weights = posterior.sample(theta, THREE, posterior.noise(20, THREE, generator("weights")))
        prior = prior_of(posterior) if with_prior else None
        terms.append(posterior.estimate(THREE, 2.0, Adam(), CPU, 0).term(theta, weights, generator("rest"), prior))
    together, apart = terms
    assert together.unclipped is None
    assert apart.unclipped is not None
    torch.testing.assert_close(apart.value + apart.unclipped, together.value)
    expected = (
        torch.zeros(()) if with_prior else weights.square().sum(dim=1).mean() / 4
    )  # the score of N(0, 2) is exact
    torch.testing.assert_close(apart.value, expected)


def test_the_loss_of_the_discriminator_is_told() -> None:
    """At first it cannot tell the samples from their own Gaussian: 2 log 2; with time it can tell them from the prior."""
    posterior = linear_posterior(estimator="adversarial", discriminator_batch=64, contrast_samples=0)
    estimate = posterior.estimate(THREE, 1e-4, Adam(learning_rate=1e-2), CPU, 0)
    theta, losses = NEW.flatten()[None], []
    for step in range(40):
        weights = posterior.sample(theta, THREE, posterior.noise(8, THREE, generator("weights", step)))
        found = estimate.term(theta, weights, generator("rest", step)).losses
        assert found is not None
        assert not found["discriminator"].requires_grad
        losses.append(float(found["discriminator"]))
    assert losses[0] == pytest.approx(2 * math.log(2), rel=0.3)
    assert losses[-1] < 0.7 * losses[0]


# ---------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("estimator", "options"),
    [
        ("adversarial", {"bandwidth": 1.0}),
        ("adversarial", {"keep": 0.9}),
        ("adversarial", {"stein_samples": 20}),
        ("adversarial", {"clip_score": False}),
        ("stein", {"discriminator": (5,)}),
        ("stein", {"discriminator_activation": "tanh"}),
        ("stein", {"batch_stats": True}),
        ("stein", {"discriminator_steps": 2}),
        ("stein", {"discriminator_batch": 8}),
        ("stein", {"contrast_samples": 0}),
    ],
)
def test_options_of_the_other_estimator_are_refused(estimator: Any, options: dict[str, Any]) -> None:
    ((name, value),) = options.items()
    other = "stein" if estimator == "adversarial" else "adversarial"
    with pytest.raises(
        OptionsError, match=re.escape(f"{name} = {value!r}: concerns estimator = {other!r}; leave it out")
    ):
        Implicit(estimator=estimator, **options)
    assert getattr(Implicit(estimator=other, **options), name) == value  # type: ignore[arg-type]


def test_what_a_stream_recommends_for_generators_of_rows_is_not_taken() -> None:
    """None of the options is an answer: as much noise as weights, all weights made at once."""
    whole = Implicit(latent_dim=None, hidden=(206,), perturbation=0.0)
    found = resolved(whole, {"latent_dim": 2, "hidden": (5,), "chunk_size": 7})
    assert found.get_params() == whole.get_params()


def test_contradictions_are_told() -> None:
    with pytest.raises(
        OptionsError, match=r"hidden = \(206, 10\): .* no layer may be narrower than the 206 parameters"
    ):
        Implicit(latent_dim=None, hidden=(206, 10), perturbation=0.0).theta_spec(SPEC)
    assert Implicit(latent_dim=None, hidden=(), perturbation=0.0).theta_spec(SPEC).numel == 206 * 207
    with pytest.raises(
        OptionsError, match="latent_dim = None and chunk_size = 50: all chunks are made from the same noise"
    ):
        Implicit(latent_dim=None, hidden=(206,), perturbation=0.0, chunk_size=50)
    with pytest.raises(OptionsError, match="share_noise = False: there is no perturbation to share it with"):
        Implicit(perturbation=0.0, share_noise=False)
    with pytest.raises(OptionsError, match="set perturbation = 0"):
        Implicit(latent_dim=None)
    with pytest.raises(OptionsError, match="latent_dim = 300"):
        Implicit(latent_dim=300).theta_spec(SPEC)
    with pytest.raises(OptionsError, match="chunk_size = 1,000"):
        Implicit(chunk_size=1000).theta_spec(SPEC)
    with pytest.raises(OptionsError, match="bandwidth"):
        Implicit(bandwidth=-1.0)
    assert Implicit(bandwidth=0.5).clone().bandwidth == 0.5


def test_multiplications_are_counted() -> None:
    assert Implicit().multiplications(3, SPEC) == 3 * (32 * 10 + 10 * 10 + 10 * 206)
    assert Implicit(chunk_size=50).multiplications(3, SPEC) == 3 * 5 * (64 * 10 + 10 * 10 + 10 * 50)
