"""Rectified flow: its target and sampler against closed forms, guidance, recovery of mixtures."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from reverie.checks import OptionsError
from reverie.device import CPU, Device
from reverie.generators import RectifiedFlow, train
from reverie.generators.rectified_flow import FREQUENCIES, time_features
from reverie.nn.optimisers import Adam
from reverie.seeding import Randomness
from reverie.types import Batch, StreamSpec

QUICK = Adam(learning_rate=2e-3)
CENTRES = torch.tensor([[6.0, -2.0], [-6.0, 0.0], [2.0, 3.0]])
WIDTHS = torch.tensor([[2.0, 1.0], [4.0, 1.5], [3.0, 1.5]])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mixture(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """n rows of three classes of two clouds each."""
    y = torch.arange(n) % 3
    side = 2.0 * torch.randint(2, (n, 1), generator=seeded(seed + 50)) - 1
    noise = torch.randn(n, 2, generator=seeded(seed))
    return CENTRES[y] + WIDTHS[y] * (0.9 * side + math.sqrt(1 - 0.81) * noise), y


def trained(x: Tensor, y: Tensor, steps: int = 1500, **options: Any) -> RectifiedFlow:
    model = RectifiedFlow(**{"hidden": (64, 64), "optimiser": QUICK, **options})
    return train(model, x, y, steps=steps, batch_size=512)


def miss(x: Tensor, y: Tensor) -> tuple[float, float]:
    """How far class means and deviations are from the mixture's, in widths of the class."""
    offset = torch.stack([x[y == c].mean(0) - CENTRES[c] for c in range(3)]) / WIDTHS
    spread = torch.stack([x[y == c].std(0) for c in range(3)]) / WIDTHS - 1
    return float(offset.abs().max()), float(spread.abs().max())


def built(**options: Any) -> RectifiedFlow:
    spec = StreamSpec("rows", "class", (3,), (0, 1), ((0, 1),), ("rows",), ((0, 1),))
    model = RectifiedFlow(**{"hidden": (8,), "class_dim": 4, **options})
    model.build(spec, Randomness(0), CPU)
    return model


def follow(monkeypatch: pytest.MonkeyPatch, model: RectifiedFlow, velocity: Any) -> None:
    monkeypatch.setattr(model, "_velocity", velocity)


# ------------------------------------------------------------------------------------------ loss


def test_loss_is_the_squared_error_of_data_less_noise() -> None:
    model = built()
    x = torch.randn(6, 3, generator=seeded())
    weight = torch.tensor([0.5, 0.1, 0.1, 0.1, 0.1, 0.1])
    batch = Batch(x, torch.arange(6) % 2, torch.zeros(6, dtype=torch.int64), weight)
    rng = model.rng("generator noise")
    noise, t = torch.randn(6, 3, generator=rng), torch.rand(6, generator=rng)
    between = (1 - t[:, None]) * noise + t[:, None] * x
    velocity = model.module.net(between, t, model.module.classes(batch.y))
    expected = (weight * ((velocity - (x - noise)) ** 2).mean(1)).sum()
    torch.testing.assert_close(model.loss(batch)["velocity"], expected)


def test_classes_are_dropped_as_often_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    model, told = built(drop_class=0.3), []

    def spy(x: Tensor, t: Tensor, vectors: Tensor) -> Tensor:
        told.append(vectors)
        return torch.zeros_like(x)

    follow(monkeypatch, model, spy)
    n = 4000
    model.loss(Batch(torch.zeros(n, 3), torch.ones(n, dtype=torch.int64), torch.zeros(n), torch.full((n,), 1 / n)))
    dropped = (told[0] == 0).all(dim=1)
    assert abs(float(dropped.float().mean()) - 0.3) < 4 * math.sqrt(0.21 / n)
    assert torch.equal(told[0][~dropped][0], model.module.classes.weight[1])


def test_time_features_tell_all_times_apart() -> None:
    features = time_features(torch.linspace(0, 1, 101))
    assert features.shape == (101, 2 * FREQUENCIES)
    assert float(torch.cdist(features, features).add(torch.eye(101) * 9).min()) > 0.05


# ------------------------------------------------------------------------------------------ sampler


@pytest.mark.parametrize(("integrator", "order"), [("euler", 1), ("midpoint", 2), ("heun", 2)])
def test_steps_follow_the_velocity_with_their_order(
    monkeypatch: pytest.MonkeyPatch, integrator: Any, order: int
) -> None:
    """dx/dt = x + t has x(1) = (x(0) + 1) e - 2; halving the step divides the error by 2 ** order."""
    noise, errors = torch.randn(7, 3, generator=seeded(), dtype=torch.float64), []
    for steps in (20, 40):
        model = built(integrator=integrator, sampling_steps=steps)
        follow(monkeypatch, model, lambda x, t, told: x + t[:, None])
        x = model.draw(noise, torch.zeros(7, 4))
        errors.append(float((x - (noise + 1) * math.e + 2).norm()))
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.1)


def test_guidance_goes_past_the_velocity_of_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    model = built(guidance=0.5, drop_class=0.1, integrator="euler", sampling_steps=1)
    follow(monkeypatch, model, lambda x, t, told: told[:, :3] + 1)
    told = torch.full((2, 4), 2.0)
    x = model.draw(torch.zeros(2, 3), told)
    torch.testing.assert_close(x, torch.full((2, 3), 1.5 * 3 - 0.5 * 1))  # (1 + w) v(y) - w v(no class)


# ------------------------------------------------------------------------------------------ recovery


def test_moments_of_each_class_are_recovered() -> None:
    n = 6000
    model = trained(*mixture(n))
    y = mixture(n)[1]
    x = model.sample(n, seeded(), y).x
    offset, spread = miss(x, y)
    error = 4 / math.sqrt(n / 3)  # four standard errors of a mean; the rest is what is not learnt in these steps
    assert offset < error + 0.15
    assert spread < error + 0.1
    # Two clouds, not one broad one: few samples lie between them.
    between = ((x - CENTRES[y]) / WIDTHS[y])[:, 0].abs() < 0.3
    assert float(between.float().mean()) < 0.5 * math.erf(0.3 / math.sqrt(2))


def test_fitted_to_its_own_samples_it_stays_where_it_is() -> None:
    x, y = mixture(3000)
    for seed in range(2):
        x = trained(x, y).sample(3000, seeded(seed), y).x
    offset, spread = miss(x, y)
    assert offset < 0.35
    assert spread < 0.3


def test_guided_samples_are_surer_of_their_class() -> None:
    """By the true posterior of the mixture, at the same noise."""
    x, y = mixture(3000)
    model = trained(x, y, drop_class=0.2)
    sure = []
    for guidance in (0.0, 1.0):
        model.guidance = guidance
        drawn = model.sample(900, seeded(), y[:900]).x
        u = (drawn[:, None] - CENTRES) / WIDTHS  # (B, classes, 2)
        clouds = torch.stack([-(u - side * 0.9).square().sum(2) / (2 * 0.19) for side in (-1, 1)])
        posterior = (clouds.logsumexp(0) - WIDTHS.log().sum(1)).softmax(1)
        sure.append(float(posterior.gather(1, y[:900, None]).mean()))
    assert sure[1] > sure[0]


# ------------------------------------------------------------------------------------------ options


def test_it_has_no_density() -> None:
    assert not hasattr(RectifiedFlow, "log_prob")


def test_cost_of_sampling_counts_every_look() -> None:
    look = 2 * 10 * ((3 + 16 + 4) * 8 + 8 * 3)
    assert built(integrator="euler", sampling_steps=7).flops(10, train=False) == 7 * look
    assert built(integrator="heun", sampling_steps=7).flops(10, train=False) == 14 * look
    assert built(sampling_steps=7, drop_class=0.1, guidance=1.0).flops(10, train=False) == 28 * look
    assert built().flops(10) == 3 * look


def test_bf16_trains_near_float32() -> None:
    x, y = mixture(60)
    exact, rough = (
        train(RectifiedFlow(hidden=(8,)), x, y, steps=3, device=device) for device in (CPU, Device(precision="bf16"))
    )
    a, b = (model.sample(30, seeded(), y[:30]).x for model in (exact, rough))
    assert b.dtype == torch.float32
    assert not torch.equal(a, b)
    torch.testing.assert_close(a, b, rtol=0.05, atol=0.5)


def test_refusals() -> None:
    with pytest.raises(OptionsError, match=r"guidance = 1\.0: needs a velocity without class.*set drop_class = 0\.1"):
        RectifiedFlow(guidance=1.0)
