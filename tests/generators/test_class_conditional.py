"""What generators that are told the class share: class vectors that grow, a scale that stays, exact continuation, copies, replay."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from reverie.checks import NotReadyError, OptionsError
from reverie.device import CPU, Device
from reverie.experiments.runs import run
from reverie.generators import GENERATORS, NormalizingFlow, RectifiedFlow, flow
from reverie.generators.class_conditional import ClassConditional, ClassVectors, Scale
from reverie.learners import GenerativeLatentReplay, GenerativeReplay
from reverie.nn.optimisers import Adam
from reverie.options import from_options, to_options
from reverie.seeding import Position, Randomness
from reverie.storage import read_tree, write_tree
from reverie.streams import Split
from reverie.types import Batch, Generator, StreamSpec
from tests.tiny import differing

needs_zuko = pytest.mark.skipif(flow.zuko is None, reason="zuko is not installed (the extra 'flows')")

MADE: dict[str, Callable[..., ClassConditional]] = {
    "affine-autoregressive": lambda **options: NormalizingFlow(kind="affine-autoregressive", transforms=2, **options),
    "coupling": lambda **options: NormalizingFlow(kind="coupling", transforms=2, **options),
    "spline": lambda **options: NormalizingFlow(kind="spline", transforms=2, bins=4, **options),
    "rectified-flow": lambda **options: RectifiedFlow(sampling_steps=3, drop_class=0.2, guidance=0.3, **options),
}
every_generator = pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind == "rectified-flow" else needs_zuko) for kind in MADE]
)


def spec(classes: int = 3, shape: tuple[int, ...] = (4,)) -> StreamSpec:
    names = tuple(range(classes))
    return StreamSpec("rows", "class", shape, names, (names,), ("rows",), (names,))


def built(kind: str, classes: int = 3, shape: tuple[int, ...] = (4,), seed: int = 0, device: Device = CPU) -> Any:
    model = MADE[kind](hidden=(8, 6), class_dim=5, optimiser=Adam(learning_rate=0.01))
    model.build(spec(classes, shape), Randomness(seed), device)
    return model


def rows(n: int = 12, classes: int = 3, shape: tuple[int, ...] = (4,), seed: int = 0) -> Batch:
    draw = seeded(seed)
    weight = torch.rand(n, generator=draw)
    x = 50 + 20 * torch.randn(n, *shape, generator=draw)
    return Batch(x, torch.arange(n) % classes, torch.zeros(n, dtype=torch.int64), weight / weight.sum())


def steps(model: Any, start: int, end: int, **options: Any) -> list[dict[str, Tensor]]:
    losses = []
    for step in range(start, end):
        model.rng.position = Position(step=step)
        losses.append(model.step(rows(seed=step, **options)))
    return losses


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(model: Any, seed: int = 1) -> Tensor:
    return model.sample(6, seeded(seed), torch.arange(6) % 3).x


# ------------------------------------------------------------------------------------------ class vectors and scale


def test_vectors_grown_class_by_class_are_those_made_whole() -> None:
    whole, grown = ClassVectors(4, 5, seed=3), ClassVectors(4, 2, seed=3)
    grown.grow(3)
    grown.grow(5)
    assert torch.equal(whole.weight, grown.weight)
    grown.grow(2)  # never fewer
    assert len(grown.weight) == 5
    assert not torch.equal(whole.weight, ClassVectors(4, 5, seed=4).weight)
    vectors = ClassVectors(200, 50, seed=0).weight.detach()
    assert abs(float(vectors.mean())) < 0.04
    assert abs(float(vectors.std()) - 1) < 0.03


def test_soft_scores_are_told_the_mean_of_their_vectors() -> None:
    vectors = ClassVectors(4, 3, seed=0)
    y = torch.tensor([2, 0, 1])
    torch.testing.assert_close(vectors(torch.nn.functional.one_hot(y, 3).float()), vectors(y))
    half = vectors(torch.tensor([[0.5, 0.0, 0.5]]))
    torch.testing.assert_close(half[0], (vectors.weight[0] + vectors.weight[2]) / 2)
    with pytest.raises(OptionsError, match="a conditional generator must be told which classes"):
        vectors(None)


def test_scale_is_fitted_and_undone() -> None:
    x = torch.randn(200, 3, generator=seeded()) * torch.tensor([1e3, 2e3, 0.0]) + 7e3
    scale = Scale(3)
    assert torch.equal(scale(x), x)
    scale.fit(x)
    u = scale(x)
    torch.testing.assert_close(scale.inverse(u), x)
    torch.testing.assert_close(u.mean(0), torch.zeros(3), rtol=0, atol=1e-3)
    assert bool((u.std(0)[:2] > 0.85).all())
    assert bool((u.std(0)[:2] < 1.01).all())
    assert scale.scale[2] == pytest.approx(100, rel=0.15)  # a constant number: a tenth of the mean deviation
    for constant in (torch.full((5, 3), 4.0), torch.ones(1, 3)):
        scale.fit(constant)
        assert torch.equal(scale.scale, torch.ones(3))
        assert torch.equal(scale(constant), torch.zeros_like(constant))


@every_generator
def test_the_scale_is_that_of_the_first_rows_for_ever(kind: str) -> None:
    model = built(kind)
    steps(model, 0, 1)
    first = model.module.scale.scale.clone()
    expected = Scale(4)
    expected.fit(rows(seed=0).x)
    assert torch.equal(first, expected.scale)
    steps(model, 1, 3)
    model.begin_task()
    steps(model, 3, 4)
    assert torch.equal(first, model.module.scale.scale)


# ------------------------------------------------------------------------------------------ steps and samples


@every_generator
@pytest.mark.parametrize("shape", [(1,), (2,), (4,), (2, 3, 3)])
def test_shapes_losses_and_samples(kind: str, shape: tuple[int, ...]) -> None:
    model = built(kind, shape=shape)
    losses = steps(model, 0, 3, shape=shape)
    assert all(bool(value.isfinite()) and not value.requires_grad for value in losses[-1].values())
    classes = torch.tensor([0, 2, 1, 1, 0])
    batch = model.sample(5, seeded(), classes)
    assert batch.x.shape == (5, *shape)
    assert batch.x.dtype == torch.float32
    assert bool(batch.x.isfinite().all())
    assert not batch.x.requires_grad
    assert torch.equal(batch.y, classes)
    torch.testing.assert_close(batch.weight, torch.full((5,), 0.2))
    assert isinstance(model, Generator)


@every_generator
def test_samples_depend_on_the_generator_handed_in_alone(kind: str) -> None:
    model = built(kind)
    steps(model, 0, 3)
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    first = drawn(model)
    model.rng.position = Position(3, 2, 1)
    torch.rand(9)
    state = torch.random.get_rng_state()
    assert torch.equal(first, drawn(model))
    assert torch.equal(state, torch.random.get_rng_state())
    assert not torch.equal(first, drawn(model, seed=2))
    assert not torch.equal(first, model.sample(6, seeded(1), torch.ones(6, dtype=torch.int64)).x)
    assert differing(before, dict(model.module.state_dict())) == []


@every_generator
def test_same_seed_same_bits_and_noise_by_position(kind: str) -> None:
    one, two, other = built(kind), built(kind), built(kind, seed=1)
    assert differing(one.state(), two.state()) == []
    assert differing(one.state(), other.state())
    steps(one, 0, 3), steps(two, 0, 3)
    assert differing(one.state(), two.state()) == []
    for model, position in ((one, 3), (two, 4)):
        model.rng.position = Position(step=position)
        model.step(rows(seed=3))
    assert differing(one.state(), two.state())


@every_generator
def test_rows_of_weight_zero_do_not_matter(kind: str) -> None:
    one, two = built(kind), built(kind)
    steps(one, 0, 1), steps(two, 0, 1)
    batch = rows(seed=1)
    weight = batch.weight * (torch.arange(12) < 7)
    for model, x in ((one, batch.x), (two, torch.where(weight[:, None] > 0, batch.x, batch.x + 3))):
        model.step(replace(batch, x=x, weight=weight / weight.sum()))
    assert torch.equal(drawn(one), drawn(two))


@every_generator
def test_gradient_reaches_every_weight_that_is_used(kind: str) -> None:
    model = built(kind)
    steps(model, 0, 1)
    model.module.zero_grad()
    sum(model.loss(rows()).values()).backward()  # type: ignore[union-attr]
    for name, parameter in model.module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@every_generator
def test_untrained_it_has_nothing_to_replay(kind: str) -> None:
    model = built(kind)
    with pytest.raises(NotReadyError, match="never trained"):
        drawn(model)
    loaded = built(kind)
    loaded.load(model.state())
    with pytest.raises(NotReadyError, match="never trained"):
        drawn(loaded.frozen())
    steps(model, 0, 1)
    with pytest.raises(OptionsError, match="classes = None: a conditional generator must be told which classes"):
        model.sample(3, seeded())
    with pytest.raises(OptionsError, match="labelled rows to train"):
        model.step(replace(rows(), y=None))


# ------------------------------------------------------------------------------------------ growth, state, copies


@every_generator
def test_grown_it_learns_as_one_made_whole(kind: str) -> None:
    whole, grown = built(kind, classes=5), built(kind, classes=2)
    for model in (whole, grown):
        steps(model, 0, 3, classes=2)
    grown.extend(spec(5))
    assert grown.spec.outputs == 5
    for model in (whole, grown):
        steps(model, 3, 6, classes=5)
    assert differing(dict(whole.module.state_dict()), dict(grown.module.state_dict())) == []
    classes = torch.arange(5)
    assert torch.equal(*(model.sample(5, seeded(), classes).x for model in (whole, grown)))


@every_generator
def test_saved_and_loaded_it_goes_on_bit_for_bit(kind: str, tmp_path: Path) -> None:
    whole, first, second = built(kind), built(kind), built(kind, seed=7)
    steps(whole, 0, 6)
    steps(first, 0, 3)
    write_tree(tmp_path / "state", first.state())
    second.load(read_tree(tmp_path / "state"))
    second.rng = first.rng
    assert torch.equal(drawn(first), drawn(second))
    steps(second, 3, 6)
    assert differing(whole.state(), second.state()) == []


@every_generator
def test_state_of_fewer_classes_can_be_loaded(kind: str) -> None:
    """As for the frozen copy of a run that has since been told of more classes."""
    small = built(kind, classes=3)
    steps(small, 0, 2)
    frozen = small.frozen()
    for other in (built(kind, classes=5), built(kind, classes=5).frozen()):
        other.load(small.state() if hasattr(other.network, "optimiser") else frozen.state())
        assert torch.equal(drawn(other), drawn(small))
    assert not any(parameter.requires_grad for parameter in other.module.parameters())
    other.extend(spec(4))
    assert not any(parameter.requires_grad for parameter in other.module.parameters())


@every_generator
def test_a_frozen_copy_stays_as_it_was(kind: str) -> None:
    model = built(kind)
    steps(model, 0, 2)
    frozen = model.frozen()
    before = drawn(model)
    steps(model, 2, 4)
    assert torch.equal(drawn(frozen), before)
    assert not torch.equal(drawn(model), before)
    assert frozen.working_bytes() == 0
    assert frozen.flops(2, train=False) == model.flops(2, train=False) > 0


@every_generator
def test_bytes_and_cost(kind: str) -> None:
    model = built(kind)
    tensors = model.state()["network"]["weights"].values()
    assert model.num_bytes() == sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    floats = sum(parameter.numel() for parameter in model.module.parameters())
    assert model.working_bytes() == 3 * 4 * floats
    before = model.num_bytes()
    model.extend(spec(4))
    assert model.num_bytes() == before + 4 * 5
    assert math.isclose(model.flops(20), 2 * model.flops(10))


@every_generator
def test_options_there_and_back(kind: str) -> None:
    model = MADE[kind]()
    assert to_options(from_options(GENERATORS, to_options(model))) == to_options(model)
    with pytest.raises(OptionsError, match=r"hidden = \(\): needs at least one layer"):
        MADE[kind](hidden=())


@every_generator
@pytest.mark.parametrize("latent", [True, False])
def test_it_replays_digits_and_their_latents(kind: str, latent: bool) -> None:
    method = GenerativeReplay(
        generator=MADE[kind](hidden=(16,)), labels="condition", steps=6, batch_size=16, selection="none"
    )
    learner = GenerativeLatentReplay(method=method, steps=6, batch_size=16) if latent else method
    result = run(Split(dataset="digits", tasks=5), learner, threads=1).result
    assert result["status"] == "complete"
    assert result["generator"] == ("rectified-flow" if kind == "rectified-flow" else "normalizing-flow")
    assert result["memory"]["stores"] == "none"
    assert result["memory"]["persistent"]["generator"] > 0
