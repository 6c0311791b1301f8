"""A generator trained alone, without solver, stream or engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from reverie.checks import OptionsError
from reverie.generators import VAE, Oracle, train

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
