"""Normalizing flow and rectified flow: recovery, exact densities, growth, state and bytes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from reverie.checks import NotReadyError, OptionsError
from reverie.device import CPU
from reverie.generators import NormalizingFlow, RectifiedFlow, flow
from reverie.nn.optimisers import Adam
from reverie.seeding import Position, Randomness
from reverie.types import Batch, Generator, StreamSpec

if flow.zuko is None:
    pytest.skip("zuko is not installed", allow_module_level=True)

CENTRES = torch.tensor([[4.0, -1.0], [-4.0, 3.0]])
SPREADS = torch.tensor([[1.0, 0.4], [0.5, 1.5]])
MAKERS: dict[str, Any] = {
    "coupling": lambda: NormalizingFlow("coupling", hidden=(32, 32), dequantise=0.0, optimiser=Adam(3e-3)),
    "affine-autoregressive": lambda: NormalizingFlow(
        "affine-autoregressive", hidden=(32, 32), dequantise=0.0, optimiser=Adam(3e-3)
    ),
    "spline": lambda: NormalizingFlow("spline", hidden=(32, 32), dequantise=0.0, optimiser=Adam(3e-3)),
    "rectified": lambda: RectifiedFlow(hidden=(64, 64), sampling_steps=20, optimiser=Adam(3e-3)),
}
FLOWS = ("coupling", "affine-autoregressive", "spline")


def spec(classes: int = 2, width: int = 2) -> StreamSpec:
    every = tuple(range(classes))
    return StreamSpec("test", "class", (width,), every, (every,), ("all",), (every,))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(n: int, seed: int, width: int = 2) -> Batch:
    rng = seeded(seed)
    y = torch.randint(2, (n,), generator=rng)
    x = CENTRES[y] + SPREADS[y] * torch.randn(n, 2, generator=rng)
    return Batch(x[:, :width], y, torch.zeros(n, dtype=torch.int64), torch.full((n,), 1 / n))


def trained(name: str, steps: int = 300, classes: int = 2, width: int = 2, generator: Any = None) -> Any:
    rng = Randomness(1)
    if generator is None:
        generator = MAKERS[name]()
        generator.build(spec(classes, width), rng, CPU)
    for step in range(steps):
        generator.rng.position = Position(step=step)
        generator.step(batch(256, step, width))
    return generator


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {name: trained(name, 1200 if name == "rectified" else 300) for name in MAKERS}


@pytest.mark.parametrize("name", MAKERS)
def test_classes_are_recovered(models: dict[str, Any], name: str) -> None:
    generator = models[name]
    assert isinstance(generator, Generator)
    classes = torch.arange(6000) % 2
    drawn = generator.sample(6000, seeded(), classes)
    assert torch.equal(drawn.y, classes)
    for c in (0, 1):
        rows = drawn.x[classes == c]
        assert (rows.mean(dim=0) - CENTRES[c]).abs().max() < 0.25
        assert (rows.std(dim=0) / SPREADS[c] - 1).abs().max() < 0.25


@pytest.mark.parametrize("name", MAKERS)
def test_same_seed_same_rows_and_a_copy_that_nothing_trains(models: dict[str, Any], name: str) -> None:
    generator = models[name]
    classes = torch.arange(9) % 2
    torch.manual_seed(5)
    once = generator.sample(9, seeded(), classes).x
    torch.manual_seed(6)  # the global generator has no part in it
    assert torch.equal(generator.sample(9, seeded(), classes).x, once)
    again = MAKERS[name]()
    again.build(spec(), Randomness(7), CPU)
    again.load(generator.state())
    assert torch.equal(again.sample(9, seeded(), classes).x, once)
    frozen = again.frozen()
    again.step(batch(64, 99))
    assert torch.equal(frozen.sample(9, seeded(), classes).x, once)
    assert not torch.equal(again.sample(9, seeded(), classes).x, once)


@pytest.mark.parametrize("name", FLOWS)
def test_the_density_integrates_to_one_and_is_that_of_the_samples(models: dict[str, Any], name: str) -> None:
    generator = models[name]
    side, step = torch.arange(-15, 15, 0.05), 0.05
    grid = torch.cartesian_prod(side, side)
    for c in (0, 1):
        density = generator.log_prob(grid, torch.full((len(grid),), c)).double().exp()
        assert float(density.sum()) * step**2 == pytest.approx(1, abs=0.01)
        mean = (density[:, None] * grid).sum(dim=0) * step**2
        drawn = generator.sample(6000, seeded(), torch.full((6000,), c)).x
        assert (mean - drawn.mean(dim=0)).abs().max() < 0.1
        # The entropy of the samples under their own density is at most sampling error away from that of the density.
        own = generator.log_prob(drawn, torch.full((6000,), c)).mean()
        assert float((density * density.clamp(min=1e-300).log()).sum()) * step**2 == pytest.approx(float(own), abs=0.08)


@pytest.mark.parametrize("name", FLOWS)
def test_the_density_is_the_change_of_variables(models: dict[str, Any], name: str) -> None:
    generator = models[name]
    x, y = batch(5, 3).x, batch(5, 3).y

    def to_noise(row: Tensor, c: Tensor) -> Tensor:
        told = generator.module.classes(c[None])
        made: Tensor = generator.module.net(told)(generator.module.scale(row[None]))[0]
        return made

    for row, c, value in zip(x, y, generator.log_prob(x, y), strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda r, c=c: to_noise(r, c), row)
        noise = to_noise(row, c).detach()
        exact = -0.5 * float(noise.square().sum()) - math.log(2 * math.pi) + float(jacobian.det().abs().log())
        assert float(value) == pytest.approx(exact, abs=1e-3)


def test_the_velocity_of_a_gaussian_is_the_closed_form() -> None:
    """For data N(m, s^2) the best velocity is m + (t s^2 - (1 - t)) / ((1 - t)^2 + t^2 s^2) (x - t m)."""
    generator = trained("rectified", steps=600)
    scale = generator.module.scale
    for c in (0, 1):
        m, s = scale(CENTRES[c][None])[0], SPREADS[c] / scale.scale
        for time in (0.2, 0.5, 0.8):
            spread = ((1 - time) ** 2 + time**2 * s.square()).sqrt()
            x = time * m + spread * torch.randn(200, 2, generator=seeded())
            best = m + (time * s.square() - (1 - time)) / spread.square() * (x - time * m)
            told = generator.module.classes(torch.full((200,), c))
            with torch.no_grad():
                found = generator._velocity(x, torch.full((200,), time), told)
            assert (found - best).square().mean().sqrt() < 0.25


@pytest.mark.parametrize("name", MAKERS)
def test_grown_class_by_class_equals_made_whole(name: str) -> None:
    whole = trained(name, steps=0, classes=4)
    grown = trained(name, steps=0, classes=2)
    grown.extend(spec(4))
    assert torch.equal(grown.module.classes.weight, whole.module.classes.weight)
    for generator in (whole, grown):
        trained(name, steps=3, generator=generator)
    classes = torch.arange(8) % 2
    assert torch.equal(whole.sample(8, seeded(), classes).x, grown.sample(8, seeded(), classes).x)


@pytest.mark.parametrize("name", MAKERS)
def test_bytes_and_what_is_not_ready(name: str) -> None:
    generator = trained(name, steps=0)
    tensors = [*generator.module.parameters(), *generator.module.buffers()]
    assert generator.num_bytes() == sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert not generator.stores_real_samples
    with pytest.raises(NotReadyError):
        generator.sample(3, seeded(), torch.zeros(3, dtype=torch.int64))


def test_guidance_adds_the_difference_that_the_class_makes() -> None:
    generator = trained("", steps=20, generator=guided(0.0))
    pushed = guided(2.0)
    pushed.load(generator.state())
    x, told = torch.randn(5, 2, generator=seeded()), generator.module.classes(torch.zeros(5, dtype=torch.int64))
    with torch.no_grad():
        plain, none = generator._guided(x, 0.5, told), generator._guided(x, 0.5, torch.zeros_like(told))
        assert torch.allclose(pushed._guided(x, 0.5, told), 3 * plain - 2 * none, atol=1e-5)
    assert not torch.allclose(plain, none)


def guided(weight: float) -> RectifiedFlow:
    generator = RectifiedFlow(hidden=(16,), drop_class=0.3, guidance=weight)
    generator.build(spec(), Randomness(1), CPU)
    return generator


@pytest.mark.parametrize("integrator", ["euler", "midpoint", "heun"])
def test_integrators_agree_with_many_steps(models: dict[str, Any], integrator: str) -> None:
    classes = torch.arange(40) % 2
    made = []
    for name, steps in (("midpoint", 200), (integrator, 200 if integrator == "euler" else 40)):
        generator = RectifiedFlow(hidden=(64, 64), sampling_steps=steps, integrator=name)  # type: ignore[arg-type]
        generator.build(spec(), Randomness(1), CPU)
        generator.load(models["rectified"].state())
        made.append(generator.sample(40, seeded(), classes).x)
    assert (made[0] - made[1]).abs().max() < 0.1


def test_options_without_effect_are_refused_and_zuko_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionsError, match="bins = 4: has no effect"):
        NormalizingFlow(bins=4)
    with pytest.raises(OptionsError, match="transforms = 1: a coupling"):
        NormalizingFlow(transforms=1)
    with pytest.raises(OptionsError, match=r"guidance = 1\.0: needs a velocity without class"):
        RectifiedFlow(guidance=1.0)
    monkeypatch.setattr(flow, "zuko", None)
    with pytest.raises(OptionsError, match=r"needs zuko, which is not installed; pip install 'reverie\[flows\]'"):
        NormalizingFlow()
