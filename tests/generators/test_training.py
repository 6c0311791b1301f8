"""A generator trained alone, without solver, stream or engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from reverie.checks import OptionsError
from reverie.generators import VAE, WGANGP, Oracle, RegularisedAutoencoder, train
from reverie.nn.optimisers import Adam

X = np.random.default_rng(0).random((20, 6), dtype=np.float32)
Y = np.arange(20) % 3


def small(**options: Any) -> VAE:
    return VAE(hidden=(8,), latent_dim=2, **options)


def draw(generator: Any, n: int = 4, classes: Tensor | None = None) -> Tensor:
    return generator.sample(n, torch.Generator().manual_seed(0), classes).x


@pytest.mark.parametrize("x", [X, torch.from_numpy(X), X.astype(np.float64), (X * 255).astype(np.uint8)], ids=type)
def test_from_arrays_and_tensors(x: Any) -> None:
    assert draw(train(small(), x, steps=3)).shape == (4, 6)


def test_more_steps_fit_better_and_the_seed_decides() -> None:
    x = torch.from_numpy(X)
    bounds = []
    for steps in (1, 60):
        vae = train(small(), X, steps=steps, batch_size=10)
        bounds.append(float(vae.elbo(x, torch.Generator().manual_seed(0)).mean()))
    assert bounds[1] > bounds[0]
    one, two, other = (draw(train(small(), X, steps=2, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_it_returns_the_generator_it_was_given() -> None:
    vae = small()
    assert train(vae, X, steps=1) is vae


def test_conditional_on_the_labels() -> None:
    vae = train(small(conditional=True), X, Y, steps=2)
    assert vae.outputs == 3
    assert draw(vae, 3, torch.tensor([0, 1, 2])).shape == (3, 6)


def test_one_that_is_fitted_sees_every_row_once() -> None:
    oracle = train(Oracle(), X, Y)
    assert torch.equal(oracle.x, torch.from_numpy(X))
    assert oracle.y.tolist() == Y.tolist()


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(OptionsError, match=r"inputs must lie in \[0, 1\], this stream's lie in \[0, 1\.\d+\]|rescale"):
        train(small(), 2 * X, steps=1)
    train(small(likelihood="gaussian"), 2 * X, steps=1)


def test_a_batch_larger_than_the_data_is_all_there_is() -> None:
    sizes: list[int] = []
    vae = small()
    step = vae.step
    vae.step = lambda batch: (sizes.append(len(batch)), step(batch))[1]  # type: ignore[method-assign]
    train(vae, X, steps=2, batch_size=1000)
    assert sizes == [20, 20]


QUICK = Adam(learning_rate=1e-2, betas=(0.5, 0.9))
# The generator, and between what shares of the rows' deviations its samples may have theirs: an adversarial one loses some each time.
GENERATIONS: dict[str, tuple[Any, tuple[float, float]]] = {
    "vae": (
        VAE(latent_dim=4, likelihood="gaussian", variance="learned", reduction="sum", conditional=True),
        (0.8, 1.4),
    ),
    "autoencoder": (RegularisedAutoencoder(latent_dim=4, likelihood="gaussian", reduction="sum"), (0.8, 1.3)),
    "wgan-gp": (
        WGANGP(latent_dim=4, output="linear", conditional=True, phase_steps=400, critic_optimiser=QUICK),
        (0.3, 1.3),
    ),
}


@pytest.mark.parametrize("name", GENERATIONS)
def test_trained_on_its_own_samples_it_stays_where_it_is(name: str) -> None:
    """Two classes four deviations apart, through two generations."""
    part, (least, most) = GENERATIONS[name]
    rate = QUICK if name == "wgan-gp" else Adam(learning_rate=5e-3)
    y = torch.arange(400) % 2
    noise = torch.randn(400, 4, generator=torch.Generator().manual_seed(0)) @ (torch.eye(4) + 0.3)
    rows = 0.5 * noise + (2.0 * y[:, None] - 1) * torch.tensor([1.0, -1.0, 1.0, 0.0])
    drawn = rows
    for seed in range(2):
        made = part.clone().set_params(hidden=(32,), optimiser=rate)
        train(made, drawn, y, steps=400 if name == "wgan-gp" else 200, batch_size=64, seed=seed)
        drawn = made.sample(400, torch.Generator().manual_seed(seed), y).x
    for c in (0, 1):
        mine, theirs = rows[y == c], drawn[y == c]
        assert float(((theirs.mean(0) - mine.mean(0)) / mine.std(0)).abs().max()) < 0.6
        ratio = theirs.std(0) / mine.std(0)
        assert least < float(ratio.min()) <= float(ratio.max()) < most
