"""WGAN-GP: the penalty against closed forms, what a step changes, exact continuation, and replay from it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reverie.checks import NotReadyError, OptionsError
from reverie.device import CPU, Device
from reverie.experiments.runs import run
from reverie.generators import GENERATORS, WGANGP, train
from reverie.generators.wgan_gp import Gate, gradient_penalty
from reverie.learners import GenerativeReplay
from reverie.nn.networks import Linear
from reverie.nn.optimisers import Adam
from reverie.options import from_options, to_options
from reverie.seeding import Position, Randomness
from reverie.streams import Blobs
from reverie.types import Batch, StreamSpec


def spec(shape: tuple[int, ...] = (6,), value_range: tuple[float, float] = (0.0, 1.0)) -> StreamSpec:
    return StreamSpec("rows", "class", shape, (0, 1), ((0, 1),), ("rows",), ((0, 1),), value_range)


def built(seed: int = 0, shape: tuple[int, ...] = (6,), device: Device = CPU, **options: Any) -> WGANGP:
    model = WGANGP(**{"hidden": (16,), "latent_dim": 3, **options})
    model.build(spec(shape), Randomness(seed), device)
    return model


def rows(n: int = 8, shape: tuple[int, ...] = (6,), seed: int = 0) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    x = torch.rand(n, *shape, generator=draw)
    weight = torch.rand(n, generator=draw)
    y = torch.randint(2, (n,), generator=draw)
    return Batch(x, y, torch.zeros(n, dtype=torch.int64), weight / weight.sum())


def steps(model: WGANGP, start: int, end: int, shape: tuple[int, ...] = (6,)) -> list[dict[str, Tensor]]:
    losses = []
    for step in range(start, end):
        model.rng.position = Position(step=step)
        losses.append(model.step(rows(shape=shape, seed=step)))
    return losses


def weights(model: WGANGP, name: str) -> list[Tensor]:
    return [value.clone() for value in model.networks[name].module.state_dict().values()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(left, right) for left, right in zip(a, b, strict=True))


def drawn(model: WGANGP, n: int = 5) -> Tensor:
    return model.sample(n, torch.Generator().manual_seed(1)).x


# ------------------------------------------------------------------------------------------ penalty


def test_penalty_of_a_linear_critic_is_its_slope_less_one_squared() -> None:
    batch, slope = rows(shape=(2, 3, 3)), torch.arange(18.0).reshape(2, 3, 3) / 10
    fake = torch.rand_like(batch.x)
    penalty = gradient_penalty(lambda x: (x * slope).sum((1, 2, 3)), batch.x, fake, batch.weight, torch.Generator())
    # The full norm, over channels, height and width together.
    assert penalty.item() == pytest.approx((slope.norm().item() - 1) ** 2, rel=1e-5)


def test_penalty_is_taken_row_by_row_between_the_pair_and_weighted() -> None:
    seen = []

    def critic(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return 0.5 * x.square().sum(1)  # the slope at x is x

    batch, fake = rows(n=50), torch.rand(50, 6) + 2
    penalty = gradient_penalty(critic, batch.x, fake, batch.weight, torch.Generator().manual_seed(3))
    place = (seen[0] - batch.x) / (fake - batch.x)
    assert torch.allclose(place, place[:, :1].expand_as(place), atol=1e-5)  # one place on the segment for each row
    assert place.min() >= 0
    assert place.max() <= 1
    assert len(place[:, 0].unique()) == 50
    expected = (batch.weight * (seen[0].norm(dim=1) - 1).square()).sum()
    assert penalty.item() == pytest.approx(expected.item(), rel=1e-5)


def test_penalty_of_a_flat_critic_has_a_finite_gradient() -> None:
    slope = torch.zeros(6, requires_grad=True)
    batch = rows()
    penalty = gradient_penalty(lambda x: x @ slope, batch.x, batch.x, batch.weight, torch.Generator())
    penalty.backward()
    assert penalty.item() == pytest.approx(1)
    assert slope.grad is not None
    assert bool(torch.isfinite(slope.grad).all())


def test_penalty_gradient_through_our_layers_equals_that_of_plain_ones() -> None:
    torch.manual_seed(0)
    ours = nn.Sequential(Linear(6, 16), Gate(), Linear(16, 16), Gate(), Linear(16, 1))
    plain = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1)).double()
    plain.load_state_dict(ours.state_dict())
    batch, fake = rows(n=32), torch.rand(32, 6)
    for net, kind in ((ours, torch.float32), (plain, torch.float64)):
        # Real and fake alike, so that the float32 and float64 places on the segments do not matter.
        x, weight = (batch.x + fake).to(kind), batch.weight.to(kind)
        gradient_penalty(lambda x, net=net: net(x).squeeze(1), x, x, weight, torch.Generator()).backward()
    for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
        # Biases have no part in the slope: ours leaves them without a gradient, torch's ReLU hands them zeros.
        gradient = torch.zeros_like(mine) if mine.grad is None else mine.grad
        expected = torch.zeros_like(theirs) if theirs.grad is None else theirs.grad
        assert torch.allclose(gradient, expected.float(), rtol=1e-4, atol=1e-6)


def test_penalty_gradient_against_finite_differences() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(Linear(6, 8), Gate(), Linear(8, 1)).double()
    batch = rows(n=4)
    x, weight = batch.x.double(), batch.weight.double()

    def penalty(first: Tensor) -> Tensor:
        parameters = {**dict(net.named_parameters()), "0.weight": first}
        return gradient_penalty(
            lambda x: torch.func.functional_call(net, parameters, (x,)).squeeze(1), x, x, weight, torch.Generator()
        )

    assert torch.autograd.gradcheck(penalty, net[0].weight.detach().requires_grad_())


# ------------------------------------------------------------------------------------------ a step


def test_same_seed_same_bits() -> None:
    one, two, other = built(), built(), built(seed=1)
    losses = [steps(model, 0, 5) for model in (one, two)]
    steps(other, 0, 5)
    assert torch.equal(drawn(one), drawn(two))
    assert all(torch.equal(a[name], b[name]) for a, b in zip(*losses, strict=True) for name in a)
    assert not torch.equal(drawn(one), drawn(other))


def test_generator_moves_once_in_critic_steps() -> None:
    model = built(critic_steps=3)
    moved = []
    for step in range(7):
        before = weights(model, "generator"), weights(model, "critic")
        (losses,) = steps(model, step, step + 1)
        assert list(losses) == ["critic", "penalty", "generator"]
        assert not any(loss.requires_grad for loss in losses.values())
        assert not same(before[1], weights(model, "critic"))
        moved.append(not same(before[0], weights(model, "generator")))
    assert moved == [True, False, False, True, False, False, True]


def test_rows_of_weight_zero_do_not_matter() -> None:
    one, two = built(conditional=True), built(conditional=True)
    batch = rows()
    weight = batch.weight * (torch.arange(8) < 5)
    for model, x in ((one, batch.x), (two, torch.where(weight[:, None] > 0, batch.x, 1 - batch.x))):
        model.step(Batch(x, batch.y, batch.task, weight / weight.sum()))
    assert same(weights(one, "critic"), weights(two, "critic"))
    assert same(weights(one, "generator"), weights(two, "generator"))


def test_weights_stand_for_repeated_rows() -> None:
    """The losses are expectations under the weights, up to the draw of the noise."""
    model = built(hidden=(8,))
    x = torch.rand(2, 6)
    n = 40000
    fair = Batch(
        x.repeat(n // 2, 1), None, torch.zeros(n, dtype=torch.int64), torch.tensor([0.2, 1.8]).repeat(n // 2) / n
    )
    counts = torch.tensor([n // 10, n - n // 10])
    repeated = Batch(x.repeat_interleave(counts, 0), None, fair.task, torch.full((n,), 1 / n))
    fake = torch.rand(n, 6)
    a, b = (model._critic_losses(batch, fake, None) for batch in (fair, repeated))
    for name in a:
        assert a[name].item() == pytest.approx(b[name].item(), abs=0.02)


def test_sampled_weights_are_the_mean_over_the_phase() -> None:
    model = built(critic_steps=1, averaging=1.0)
    seen = []
    for step in range(4):
        steps(model, step, step + 1)
        seen.append(weights(model, "generator"))
    for mean, *each in zip(weights(model, "sampled"), *seen, strict=True):
        assert torch.allclose(mean, torch.stack(each).mean(0), atol=1e-6)
    steps(model, 0, 1)  # a new phase forgets the mean of the last
    assert same(weights(model, "sampled"), weights(model, "generator"))
    plain = built(averaging=0.0)
    steps(plain, 0, 4)
    assert same(weights(plain, "sampled"), weights(plain, "generator"))


def test_it_learns_where_the_rows_are() -> None:
    centre = torch.tensor([0.8, 0.2, 0.8, 0.8])
    x = centre + 0.03 * torch.randn(400, 4, generator=torch.Generator().manual_seed(0))
    fast = Adam(learning_rate=5e-3, betas=(0.5, 0.9))
    model = WGANGP(hidden=(16,), latent_dim=2, penalty_weight=0.1, optimiser=fast, critic_optimiser=fast)
    miss = [(drawn(train(model, x, steps=n, batch_size=32), 200) - centre).norm(dim=1).mean() for n in (1, 150)]
    assert miss[0] > 0.5
    assert miss[1] < 0.25


# ------------------------------------------------------------------------------------------ sampling


@pytest.mark.parametrize("shape", [(6,), (1, 8, 8), (1, 28, 28), (3, 32, 32)])
@pytest.mark.parametrize("architecture", ["mlp", "conv"])
@pytest.mark.parametrize("conditional", [False, True])
def test_shapes_and_range(shape: tuple[int, ...], architecture: Any, conditional: bool) -> None:
    options = {"architecture": architecture, "conditional": conditional}
    options |= {"channels": (4, 8)} if architecture == "conv" else {}
    if architecture == "conv" and len(shape) != 3:
        with pytest.raises(OptionsError, match="needs images"):
            built(shape=shape, **options)
        return
    model = built(shape=shape, **options)
    losses = steps(model, 0, 2, shape)
    assert all(bool(torch.isfinite(loss)) for loss in losses[-1].values())
    classes = torch.tensor([0, 1, 1]) if conditional else None
    batch = model.sample(3, torch.Generator().manual_seed(0), classes)
    assert batch.x.shape == (3, *shape)
    assert batch.x.dtype == torch.float32
    assert batch.x.min() >= 0
    assert batch.x.max() <= 1
    assert batch.weight.sum().item() == pytest.approx(1)
    assert batch.y is classes


def test_the_class_asked_for_matters() -> None:
    model = built(conditional=True)
    steps(model, 0, 1)
    zeros, ones = (model.sample(4, torch.Generator().manual_seed(0), torch.full((4,), c)).x for c in (0, 1))
    assert not torch.equal(zeros, ones)
    with pytest.raises(OptionsError, match="must be told which classes"):
        model.sample(4, torch.Generator())


def test_sampling_untrained_is_an_error() -> None:
    with pytest.raises(NotReadyError, match="never trained"):
        built().sample(1, torch.Generator())


def test_inputs_outside_the_sigmoids_range() -> None:
    outside = spec(value_range=(-1.0, 1.0))
    with pytest.raises(OptionsError, match=r"must lie in \[0, 1\], this stream's lie in \[-1, 1\]"):
        WGANGP().build(outside, Randomness(0), CPU)
    model = WGANGP(hidden=(16,), output="linear")
    model.build(outside, Randomness(0), CPU)
    steps(model, 0, 1)
    assert drawn(model).min() < 0


def test_options() -> None:
    model = from_options(GENERATORS, {"name": "wgan-gp", "phase_steps": 7, "phase_batch_size": 5})
    assert to_options(from_options(GENERATORS, to_options(model))) == to_options(model)
    phase = model.phase("generator")
    assert (phase.name, phase.steps, phase.batch_size) == ("generator", 7, 5)
    with pytest.raises(OptionsError, match="needs at least one layer"):
        WGANGP(hidden=())


def test_bfloat16_trains() -> None:
    model = built(device=Device(torch.device("cpu"), "bf16"))
    losses = steps(model, 0, 3)
    assert all(bool(torch.isfinite(loss)) for loss in losses[-1].values())
    assert drawn(model).dtype == torch.float32


# ------------------------------------------------------------------------------------------ state and copies


def test_continued_from_its_state_it_is_the_unbroken_one() -> None:
    whole, first, second = (built(critic_steps=2) for _ in range(3))
    steps(whole, 0, 7)
    steps(first, 0, 3)  # between two generator updates
    second.load(first.state())
    steps(second, 3, 7)
    assert torch.equal(drawn(whole), drawn(second))
    for name in ("generator", "critic", "sampled"):
        assert same(weights(whole, name), weights(second, name))


def test_frozen_copy_stays_as_it_was() -> None:
    model = built()
    steps(model, 0, 3)
    frozen = model.frozen()
    before = drawn(model)
    steps(model, 3, 6)
    assert torch.equal(drawn(frozen), before)
    assert not torch.equal(drawn(model), before)
    assert not any(parameter.requires_grad for parameter in frozen.networks["sampled"].module.parameters())
    another = built(seed=5).frozen()
    another.load(frozen.state())
    assert torch.equal(drawn(another), before)


def test_bytes_and_flops() -> None:
    model = built(hidden=(16,), latent_dim=3)
    generator = 4 * (3 * 16 + 16 + 16 * 6 + 6)
    critic = 4 * (6 * 16 + 16 + 16 + 1)
    assert model.num_bytes() == 2 * generator + critic  # live and mean generator
    assert model.working_bytes() == 3 * (generator + critic)  # gradients and Adam's two moments
    assert model.frozen().num_bytes() == generator
    assert model.frozen().working_bytes() == 0
    assert model.flops(10, train=False) == 2 * 10 * (3 * 16 + 16 * 6)
    assert model.flops(10) > 4 * model.flops(10, train=False)
    assert math.isclose(model.flops(20), 2 * model.flops(10))


def test_replay_from_it() -> None:
    generator = WGANGP(hidden=(16,), phase_steps=12, phase_batch_size=16)
    result = run(Blobs(tasks=2, rows_per_class=40), GenerativeReplay(generator=generator, steps=12), threads=1).result
    assert result["status"] == "complete"
    assert result["generator"] == "wgan-gp"
    assert result["cost"]["steps"] == 2 * (12 + 12)
    assert result["memory"]["stores"] == "none"
