"""Heads that grow, optimisers that remember, frozen copies that stay as they are, and the arithmetic of the costs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reverie.device import CPU
from reverie.learners import GenerativeReplay
from reverie.nn.networks import (
    Head,
    Linear,
    Network,
    conv_stack,
    deconv_stack,
    forward_flops,
    mlp,
    multiplications,
    output_width,
    training_flops,
)
from reverie.nn.optimisers import SGD, Adam, Optimiser
from reverie.seeding import Randomness
from reverie.streams import TensorRows
from reverie.types import Phase, StreamSpec, Task


def network(optimiser: Optimiser | None, outputs: int = 2, batch_norm: bool = False) -> Network:
    torch.manual_seed(0)
    layers: list[nn.Module] = [Linear(3, 4), *([nn.BatchNorm1d(4)] * batch_norm), nn.ReLU(), Head(4, outputs, seed=5)]
    return Network(nn.Sequential(*layers), optimiser, CPU)


def train(net: Network, steps: int, start: int = 0) -> None:
    for step in range(start, start + steps):
        x = torch.randn(6, 3, generator=torch.Generator().manual_seed(step))
        net.update(net.ready(train=True)(x).square().mean())


def weights(net: Network) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in net.module.state_dict().values()]


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    return len(left) == len(right) and all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


# ---------------------------------------------------------------------------------------------- heads


def test_a_head_grown_class_by_class_equals_one_made_whole() -> None:
    whole, grown = Head(7, 5, seed=3), Head(7, 0, seed=3)
    for outputs in (1, 2, 4, 5, 5):
        grown.grow(outputs)
    assert torch.equal(grown.weight, whole.weight)
    assert torch.equal(grown.bias, whole.bias)


def test_a_head_starts_within_its_bound_and_differs_by_class_and_seed() -> None:
    head = Head(400, 3, seed=0)
    bound = 1 / math.sqrt(400)
    assert 0.9 * bound < head.weight.abs().max() <= bound
    assert head.bias.abs().max() <= bound
    assert not torch.equal(head.weight[0], head.weight[1])
    assert not torch.equal(head.weight, Head(400, 3, seed=1).weight)


def test_growing_leaves_what_was_learnt() -> None:
    head = Head(4, 2, seed=0)
    with torch.no_grad():
        head.weight += 1
    learnt = head.weight.detach().clone()
    head.grow(3)
    assert torch.equal(head.weight[:2], learnt)
    head.grow(1)
    assert head.outputs == 3


# ----------------------------------------------------------------------------------------- optimisers


@pytest.mark.parametrize("optimiser", [Adam(), SGD(momentum=0.9)], ids=["adam", "sgd"])
def test_change_keeps_the_moments_of_old_rows_and_starts_new_ones_at_zero(optimiser: Optimiser) -> None:
    net = network(optimiser)
    train(net, 3)
    before = [dict(net.optimiser.state[parameter]) for parameter in net.module.parameters()]
    net.change(lambda module: module[-1].grow(5))
    after = [net.optimiser.state[parameter] for parameter in net.module.parameters()]
    assert [parameter.shape[0] for parameter in net.module.parameters()][-2:] == [5, 5]
    moments = 0
    for old, new in zip(before, after, strict=True):
        for name, value in old.items():
            if value.dim() == 0:
                assert torch.equal(new[name], value)
                continue
            moments += int(value.abs().sum() > 0)
            assert torch.equal(new[name][: len(value)], value)
            assert not new[name][len(value) :].any()
    assert moments == 4 * optimiser.state_per_parameter
    train(net, 1)  # and it trains on


def test_change_moves_no_old_row_of_a_training_run() -> None:
    """Growth by outputs that no loss sees leaves the training of the others as it is, bit for bit."""
    grown, still = network(Adam()), network(Adam())

    def step(net: Network, number: int) -> None:
        x = torch.randn(6, 3, generator=torch.Generator().manual_seed(number))
        net.update(net.module(x)[:, :2].square().mean())

    for number in range(3):
        step(grown, number), step(still, number)
    grown.change(lambda module: module[-1].grow(4))
    for number in range(3, 6):
        step(grown, number), step(still, number)
    assert torch.equal(grown.module[0].weight, still.module[0].weight)
    assert torch.equal(grown.module[-1].weight[:2], still.module[-1].weight)


@pytest.mark.parametrize("reset", [False, True])
def test_moments_live_through_tasks_unless_reset(reset: bool) -> None:
    net = network(Adam(reset_each_task=reset))
    train(net, 2)
    net.begin_task()
    assert (len(net.optimiser.state) == 0) is reset
    # The optimiser that was made anew holds this network's weights (not another's: spec 8.2.1).
    held = [id(parameter) for group in net.optimiser.param_groups for parameter in group["params"]]
    assert held == [id(parameter) for parameter in net.module.parameters()]


@pytest.mark.parametrize("optimiser", [Adam(), SGD(momentum=0.5)], ids=["adam", "sgd"])
def test_a_loaded_network_goes_on_bit_for_bit(optimiser: Optimiser) -> None:
    unbroken = network(optimiser, batch_norm=True)
    train(unbroken, 3)
    saved = unbroken.state()
    saved = {
        "weights": {name: value.clone() for name, value in saved["weights"].items()},
        "optimiser": {k: {n: v.clone() for n, v in values.items()} for k, values in saved["optimiser"].items()},
    }
    resumed = network(optimiser, batch_norm=True)
    train(resumed, 1, start=100)  # whatever it did before is forgotten
    resumed.load(saved)
    for net in (unbroken, resumed):
        train(net, 4, start=3)
    assert same(weights(unbroken), weights(resumed))


@pytest.mark.parametrize("options", [SGD, Adam])
def test_numbers_of_a_gradient_are_cut_and_what_is_left_is_shortened(options: Any) -> None:
    def gradient(**limits: float) -> Tensor:
        weight = nn.Parameter(torch.zeros(3))
        optimiser = options(learning_rate=0.1, **limits).make([weight])
        (weight * torch.tensor([-5.0, 1.0, 3.0])).sum().backward()
        optimiser.step()
        assert weight.grad is not None
        return weight.grad

    assert gradient(clip_value=2.0).tolist() == [-2, 1, 2]
    torch.testing.assert_close(gradient(clip_value=2.0, clip=1.5), torch.tensor([-1.0, 0.5, 1.0]))


@pytest.mark.parametrize("options", [SGD, Adam])
def test_a_gradient_that_is_too_long_is_shortened_before_the_update(options: Any) -> None:
    def gradient(clip: float | None) -> tuple[Tensor, Tensor]:
        weight = nn.Parameter(torch.tensor([1.0, 2.0]))
        optimiser = options(learning_rate=0.1, clip=clip).make([weight])
        (weight * torch.tensor([3.0, 4.0])).sum().backward()
        optimiser.step()
        assert weight.grad is not None
        return weight.grad, weight.detach()

    free, moved = gradient(None)
    assert free.tolist() == [3, 4]
    torch.testing.assert_close(gradient(0.5)[0], torch.tensor([0.3, 0.4]))
    if options is SGD:
        torch.testing.assert_close(gradient(0.5)[1], torch.tensor([0.97, 1.96]))
    same = gradient(5.5)
    assert torch.equal(same[0], free)
    assert torch.equal(same[1], moved)


def test_adam_and_sgd_use_their_options() -> None:
    adam = Adam(learning_rate=0.02, betas=(0.5, 0.9), weight_decay=0.1).make([nn.Parameter(torch.ones(1))])
    assert adam.defaults["lr"] == 0.02
    assert adam.defaults["betas"] == (0.5, 0.9)
    assert adam.defaults["weight_decay"] == 0.1
    weight = nn.Parameter(torch.ones(1))
    sgd = SGD(learning_rate=0.5).make([weight])
    weight.grad = torch.full((1,), 0.25)
    sgd.step()
    assert weight.item() == 1 - 0.5 * 0.25


# --------------------------------------------------------------------------------------------- frozen


def test_a_frozen_copy_stays_as_it_is_while_the_original_trains() -> None:
    net = network(Adam(), batch_norm=True)
    train(net, 1)
    frozen = net.frozen()
    before = weights(frozen)
    assert same(before, weights(net))
    train(net, 3)
    assert same(before, weights(frozen))
    assert not same(before, weights(net))


def test_a_frozen_copy_is_weights_alone() -> None:
    frozen = network(Adam()).frozen()
    assert not any(parameter.requires_grad for parameter in frozen.module.parameters())
    assert not frozen.module.training
    assert not hasattr(frozen, "optimiser")
    assert set(frozen.state()) == {"weights"}
    assert frozen.working_bytes() == 0
    with pytest.raises(RuntimeError, match="does not require grad"):
        frozen.module(torch.ones(1, 3)).sum().backward()


def test_ready_switches_every_layer_to_the_mode_asked_for() -> None:
    net = network(Adam(), batch_norm=True)
    for train_mode in (True, False, True):
        assert all(layer.training == train_mode for layer in net.ready(train=train_mode).modules())


def test_bytes_are_weights_buffers_gradients_and_moments() -> None:
    net = network(Adam(), batch_norm=True)
    parameters = 3 * 4 + 4 + (4 + 4) + 4 * 2 + 2
    assert net.num_bytes() == 4 * (parameters + 4 + 4) + 8  # running mean and variance, and the int64 count
    assert net.working_bytes() == 3 * 4 * parameters  # gradient and two moments
    assert network(SGD()).working_bytes() == 2 * 4 * (12 + 4 + 8 + 2)


# ------------------------------------------------------------------------------------- shapes and cost


def test_mlp_ends_linear_unless_asked() -> None:
    assert [type(layer).__name__ for layer in mlp([2, 3, 4])] == ["Linear", "ReLU", "Linear"]
    assert [type(layer).__name__ for layer in mlp([2, 3], last_activation=True)] == ["Linear", "ReLU"]


def test_conv_stack_of_the_specification() -> None:
    stack = conv_stack([3, 16, 32, 64, 128, 256], [1, 2, 2, 2, 2], plain_last=True)
    assert stack(torch.rand(2, 3, 32, 32)).shape == (2, 256, 2, 2)
    assert [type(layer).__name__ for layer in stack].count("BatchNorm2d") == 4
    assert isinstance(stack[-1], nn.Conv2d)
    assert sum(multiplications(stack, (3, 32, 32))) == 5_160_960  # 5.161 M (spec 6.2)


def test_deconv_stack_doubles_every_time() -> None:
    assert deconv_stack([8, 4, 1])(torch.rand(2, 8, 3, 3)).shape == (2, 1, 12, 12)


def test_output_width_counts_numbers_and_leaves_batch_statistics_alone() -> None:
    stack = nn.Sequential(conv_stack([1, 4], [2]), nn.Flatten())
    before = [tensor.clone() for tensor in stack.state_dict().values()]
    assert output_width(stack, (1, 6, 6)) == 4 * 3 * 3
    assert all(torch.equal(a, b) for a, b in zip(before, stack.state_dict().values(), strict=True))
    assert stack.training


def test_multiplications_by_hand() -> None:
    module = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ConvTranspose2d(3, 5, 4, 2, padding=1), nn.Flatten())
    assert multiplications(module, (2, 4, 4)) == [4 * 4 * 3 * 2 * 9, 4 * 4 * 3 * 5 * 16]
    assert multiplications(Linear(6, 7), (5, 6)) == [5 * 6 * 7]


def test_flops_by_hand() -> None:
    # Two layers of 10 and 4 products: forward 14, weight gradients 14, input gradients 4 (the first needs none).
    assert training_flops([10, 4], rows=3) == 2 * 3 * (14 + 14 + 4)
    assert training_flops([10, 4], rows=3, input_gradient=True) == 2 * 3 * (14 + 14 + 14)
    assert forward_flops([10, 4], rows=3) == 2 * 3 * 14


def test_cost_of_the_split_mnist_protocol() -> None:
    """Sections 6.2 and 6.3 of the specification, from the layers that are really built."""
    heads = tuple((2 * task, 2 * task + 1) for task in range(5))
    names = tuple(f"task {task}" for task in range(5))
    spec = StreamSpec("mnist", "class", (1, 28, 28), tuple(range(10)), heads, names, heads, (0.0, 1.0))
    learner = GenerativeReplay()
    learner.build(spec, Randomness(0), CPU)
    solver, vae = learner.network, learner.model
    assert solver.flops(1, train=False) == 2 * 477_600
    assert solver.flops(1) == 2 * (477_600 + 641_600)
    assert vae.flops(1, train=False) == 2 * 513_600
    assert vae.flops(1) == 2 * (1_067_200 + 1_820_800)
    assert solver.num_bytes() == 4 * 478_410
    assert vae.num_bytes() == 4 * 1_069_684

    phase = Phase("train", 128, steps=1)
    empty = TensorRows(torch.zeros(1, 1, 28, 28), torch.zeros(1, dtype=torch.int64))
    learner.begin_task(Task(0, "task 0", (0, 1), empty))
    assert learner.flops(phase, None) == pytest.approx(1.026e9, rel=1e-3)
    learner.begin_task(Task(1, "task 1", (2, 3), empty))
    assert learner.flops(phase, None) == pytest.approx(2.305e9, rel=1e-3)


def test_multiplications_of_a_layer_with_a_parametrised_weight() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(6, 4))
    assert multiplications(nn.Sequential(nn.Flatten(), layer), (6,)) == [24]
