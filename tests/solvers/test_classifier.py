"""The classifiers: shapes, gradients, seeds, growth, modes and state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reverie.checks import OptionsError
from reverie.device import CPU, Device
from reverie.nn.hypernetworks import Activation
from reverie.nn.optimisers import SGD, Adam
from reverie.seeding import Randomness
from reverie.solvers import CNN, MLP, SOLVERS, AlexNet, Classifier, ConvStack, Module, ResNet, WideResNet, cuts
from reverie.types import Batch, Solver, StreamSpec


class Noisy(nn.Module):
    """A user's network with everything that can go wrong: dropout, batch norm, an output that is not flat."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(shape[0], 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


MAKERS: dict[str, Callable[[], Classifier]] = {
    "mlp": lambda: MLP(hidden=(9, 7)),
    "cnn": lambda: CNN(channels=(3, 5), width=6),
    "conv-stack": lambda: ConvStack(channels=(2, 3, 4), hidden=(8,)),
    "resnet": lambda: ResNet(channels=(3, 5), blocks=2),
    "wide-resnet": lambda: WideResNet(channels=(3, 5), blocks=2),
    "alexnet": lambda: AlexNet(side=63, hidden=(32,), dropout=0.0, optimiser=Adam()),
    "module": lambda: Module(Noisy),
}
RATES = {"alexnet": 3e-4}  # deep, and without batch norm
WIDTHS = {"alexnet": 32, "mlp": 7, "cnn": 6, "conv-stack": 8, "module": 3 * 6 * 6, "resnet": 5, "wide-resnet": 5}
SHAPE = (1, 8, 8)


def spec(outputs: int = 4, shape: tuple[int, ...] = SHAPE) -> StreamSpec:
    classes = tuple(range(outputs))
    return StreamSpec("test", "class", shape, classes, (classes,), ("all",), (classes,), (0.0, 1.0))


def built(name: str, seed: int = 0, outputs: int = 4, shape: tuple[int, ...] = SHAPE) -> Classifier:
    solver = MAKERS[name]()
    solver.build(spec(outputs, shape), Randomness(seed), CPU)
    return solver


def rows(n: int = 6, seed: int = 0, shape: tuple[int, ...] = SHAPE) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 4
    return Batch(torch.rand(n, *shape, generator=generator), y, torch.zeros(n).long(), torch.full((n,), 1 / n))


def weights(solver: Classifier) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in solver.network.module.state_dict().items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture(params=sorted(MAKERS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_entry_of_the_table_is_tested() -> None:
    assert set(MAKERS) == set(SOLVERS)


def test_shapes(name: str) -> None:
    solver = built(name)
    batch = rows()
    assert isinstance(solver, Solver)
    assert solver.scores(batch.x).shape == (6, 4)
    assert solver.encode(batch.x).shape == (6, WIDTHS[name])
    torch.testing.assert_close(solver.scores(batch.x), solver.module.head(solver.encode(batch.x)))


@pytest.mark.parametrize("solver", [MLP(hidden=(5,)), CNN(channels=(2,), width=4), ConvStack((2,) * 5, (4,))], ids=repr)
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (2, 7, 5)], ids=str)
def test_images_of_any_size(solver: Classifier, shape: tuple[int, ...]) -> None:
    solver = solver.clone()
    solver.build(spec(shape=shape), Randomness(0), CPU)
    assert solver.scores(rows(3, shape=shape).x).shape == (3, 4)
    assert solver.step(rows(3, shape=shape))["cross-entropy"].isfinite()


def test_the_mlp_takes_inputs_of_any_shape() -> None:
    for shape in ((5,), (2, 3)):
        solver = MLP(hidden=(4,))
        solver.build(spec(shape=shape), Randomness(0), CPU)
        assert solver.scores(torch.rand(3, *shape)).shape == (3, 4)


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh"])
def test_the_mlp_has_the_activation_that_is_asked_for(activation: Activation) -> None:
    """After each hidden layer; the weights begin the same whichever it is."""
    solver, usual = MLP(hidden=(9, 7), activation=activation), MLP(hidden=(9, 7))
    for each in (solver, usual):
        each.build(spec(), Randomness(0), CPU)
    made = weights(solver)
    assert same(made, weights(usual))
    x = rows().x
    h = x.flatten(1)
    for layer in (0, 2):
        h = getattr(torch, activation)(h @ made[f"encoder.1.{layer}.weight"].T + made[f"encoder.1.{layer}.bias"])
    torch.testing.assert_close(solver.scores(x), h @ made["head.weight"].T + made["head.bias"])
    assert torch.equal(solver.scores(x), usual.scores(x)) == (activation == "relu")


@pytest.mark.parametrize("name", ["cnn", "conv-stack", "resnet", "wide-resnet"])
def test_convolutions_need_images(name: str) -> None:
    with pytest.raises(OptionsError, match=rf"solver = '{name}': needs images .*have shape \(8,\); try 'mlp'"):
        MAKERS[name]().build(spec(shape=(8,)), Randomness(0), CPU)


def test_a_factory_must_make_a_module() -> None:
    with pytest.raises(OptionsError, match="factory: returned a int; it must return a torch"):
        Module(len).build(spec(), Randomness(0), CPU)


def test_gradient_reaches_every_weight(name: str) -> None:
    solver = built(name)
    losses = solver.loss(rows(12))
    assert set(losses) == {"cross-entropy"}
    losses["cross-entropy"].backward()
    for key, parameter in solver.network.module.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


def test_the_loss_is_the_weighted_cross_entropy(name: str) -> None:
    solver, batch = built(name), rows()
    scores = solver.scores(batch.x)
    expected = torch.nn.functional.cross_entropy(scores, batch.y)
    torch.testing.assert_close(solver.loss(batch, scores)["cross-entropy"], expected)


def test_steps_reduce_the_loss(name: str) -> None:
    solver, batch = MAKERS[name]().set_params(optimiser__learning_rate=RATES.get(name, 0.01)), rows(12)
    solver.build(spec(), Randomness(0), CPU)
    torch.manual_seed(0)
    first, *_, last = (solver.step(batch)["cross-entropy"] for _ in range(25))
    assert not last.requires_grad
    assert last < 0.9 * first


def test_a_penalty_is_part_of_the_step() -> None:
    solver = MLP(hidden=(5,), optimiser=SGD(learning_rate=1.0))
    solver.build(spec(), Randomness(0), CPU)
    bias = solver.module.head.bias
    before = bias.detach().clone()
    still = Batch(rows().x, rows().y, rows().task, torch.zeros(6))  # rows that weigh nothing: the penalty alone moves
    losses = solver.step(still, penalty=(3 * bias).sum())
    assert float(losses["penalty"]) == pytest.approx(float(3 * before.sum()), rel=1e-5)
    torch.testing.assert_close(bias.detach(), before - 3)


def test_scores_that_are_at_hand_are_not_computed_again() -> None:
    solver, batch = built("mlp"), rows()
    twin = built("mlp")
    solver.step(batch, solver.training_scores(batch.x))
    twin.step(batch)
    assert same(weights(solver), weights(twin))


# -------------------------------------------------------------------------------------- seeds and growth


def test_weights_depend_on_the_seed_alone(name: str) -> None:
    one = built(name, seed=3)
    torch.rand(7)  # the state of torch's global generator has no part in it
    assert same(weights(one), weights(built(name, seed=3)))
    assert not same(weights(one), weights(built(name, seed=4)))


def test_building_leaves_the_global_generator_alone(name: str) -> None:
    before = torch.get_rng_state()
    built(name)
    assert torch.equal(before, torch.get_rng_state())


def test_grown_class_by_class_or_made_whole(name: str) -> None:
    whole, grown = built(name, outputs=4), built(name, outputs=1)
    for outputs in (2, 3, 4, 2):
        grown.grow(outputs)
    assert same(weights(whole), weights(grown))
    for _ in range(2):
        whole.step(rows()), grown.step(rows())
    if name != "module":  # its dropout draws from torch's global generator, which the engine seeds
        assert same(weights(whole), weights(grown))


def test_a_grown_state_loads_into_a_small_solver(name: str) -> None:
    old = built(name, outputs=2)
    old.step(Batch(rows(2).x, rows(2).y, rows(2).task, rows(2).weight))
    old.grow(4)
    old.step(rows())
    new = built(name, seed=9, outputs=2)
    new.load(old.state())
    assert same(weights(old), weights(new))
    torch.manual_seed(0)
    old.step(rows())
    torch.manual_seed(0)
    new.step(rows())
    assert same(weights(old), weights(new))


# ------------------------------------------------------------------------------------ modes and copies


def test_training_mode_is_for_training_only(name: str) -> None:
    solver, batch = built(name), rows()
    buffers = weights(solver)
    assert torch.equal(solver.scores(batch.x), solver.scores(batch.x))  # no dropout when it answers
    solver.encode(batch.x)
    assert same(buffers, weights(solver))  # and no batch statistics
    modes: list[bool] = []
    solver.network.module.register_forward_hook(lambda module, x, y: modes.append(module.training))
    solver.scores(batch.x)
    solver.training_scores(batch.x)
    solver.step(batch)
    solver.scores(batch.x)
    assert modes == [False, True, True, False]
    assert not any(module.training for module in solver.network.module.modules())


def test_a_frozen_copy_never_moves(name: str) -> None:
    solver, batch = built(name), rows()
    solver.step(batch)
    frozen = solver.frozen()
    before, answers = weights(frozen), frozen.scores(batch.x)
    assert same(before, weights(solver))
    for _ in range(2):
        solver.step(batch)
    solver.grow(6)
    assert same(before, weights(frozen))
    assert torch.equal(answers, frozen.scores(batch.x))
    assert not frozen.scores(batch.x).requires_grad
    assert not any(parameter.requires_grad for parameter in frozen.network.module.parameters())
    assert frozen.working_bytes() == 0
    assert frozen.flops(3) == solver.flops(3)


def test_begin_task_forgets_moments_only_on_request() -> None:
    for reset in (False, True):
        solver = MLP(hidden=(5,), optimiser=Adam(reset_each_task=reset))
        solver.build(spec(), Randomness(0), CPU)
        solver.step(rows())
        solver.begin_task()
        assert bool(solver.state()["optimiser"]) is not reset


def test_bf16_answers_in_float32_near_the_float32_ones() -> None:
    x = rows().x
    exact = built("mlp")
    rough: Any = MAKERS["mlp"]()
    rough.build(spec(), Randomness(0), Device(precision="bf16"))
    assert rough.scores(x).dtype == rough.encode(x).dtype == torch.float32
    difference = (rough.scores(x) - exact.scores(x)).abs().max()
    assert 0 < difference < 0.02
    assert all(tensor.dtype == torch.float32 for tensor in weights(rough).values())


def test_cost_of_the_published_sizes() -> None:
    """Split MNIST and CIFAR-100 rows of section 6.2 of the specification (multiply-accumulates a row)."""
    mnist = MLP()
    mnist.build(spec(10, (1, 28, 28)), Randomness(0), CPU)
    assert mnist.flops(1, train=False) == 2 * 477_600
    cifar = ConvStack(hidden=(50, 50))
    cifar.build(spec(100, (3, 32, 32)), Randomness(0), CPU)
    assert cifar.flops(1, train=False) == 2 * (5_160_960 + 1024 * 50 + 50 * 50 + 50 * 100)


def test_max_pool_cnn_halves_by_maxima_of_unpadded_convolutions() -> None:
    solver = CNN(channels=(3, 4), kernel=5, halving="max-pool", width=6)
    solver.build(spec(3, (1, 28, 28)), Randomness(0), CPU)
    x = torch.rand(2, 1, 28, 28)
    first, second = (layer for layer in solver.module.encoder.modules() if isinstance(layer, torch.nn.Conv2d))
    relu, pool = torch.nn.functional.relu, torch.nn.functional.max_pool2d
    by_hand = pool(relu(second(pool(relu(first(x)), 2))), 2).flatten(1)
    assert by_hand.shape == (2, 4 * 4 * 4)
    assert torch.equal(solver.module.encoder[1](solver.module.encoder[0](x)), by_hand)


def test_max_pool_cnn_on_images_too_small_for_it() -> None:
    solver = CNN(channels=(3, 4), kernel=5, halving="max-pool")
    with pytest.raises(OptionsError, match=r"nothing is left of images of 8 x 8; use halving = 'stride'"):
        solver.build(spec(3, (1, 8, 8)), Randomness(0), CPU)


@pytest.mark.parametrize("solver", [MLP(), CNN(), ConvStack(channels=(4, 4))])
def test_every_cut_of_a_solver_is_listed_and_the_usual_one_marked(solver: Any) -> None:
    found = cuts(solver, spec(3, (1, 8, 8)))
    assert [cut.usual for cut in found].count(True) == 1
    assert all(cut.name.startswith("encoder.") for cut in found)
    usual = next(cut for cut in found if cut.usual)
    assert usual.name.startswith(solver.usual_cut)
    assert not hasattr(solver, "network")


# ------------------------------------------------------------------------------------------------------ regression


def linear(outputs: int, n: int = 40) -> tuple[Classifier, Batch]:
    """A linear solver of three numbers a row, and rows with targets that are linear but for some noise."""
    generator = torch.Generator().manual_seed(outputs)
    x = torch.randn(n, 3, generator=generator)
    y = x @ torch.randn(3, outputs, generator=generator) + 1 + 0.3 * torch.randn(n, outputs, generator=generator)
    weight = torch.rand(n, generator=generator)
    solver = Module(lambda shape: nn.Identity(), optimiser=SGD(learning_rate=0.1))
    given = replace(spec(outputs, (3,)), scenario="domain", kind="regression", noise_std=0.5)
    solver.build(given, Randomness(0), CPU)
    return solver, Batch(x, y, torch.zeros(n).long(), weight / weight.sum())


@pytest.mark.parametrize("outputs", [1, 2])
def test_training_on_linear_targets_reaches_least_squares(outputs: int) -> None:
    solver, batch = linear(outputs)
    assert batch.y is not None
    for _ in range(200):
        losses = solver.step(batch)
    design, root = torch.cat([batch.x, torch.ones(40, 1)], dim=1), batch.weight.sqrt()[:, None]
    best = torch.linalg.lstsq(root * design, root * batch.y).solution
    torch.testing.assert_close(solver.scores(batch.x), design @ best, rtol=1e-3, atol=1e-3)
    rest = float((batch.weight[:, None] * (batch.y - design @ best).square()).sum())
    assert set(losses) == {"nll"}
    assert float(losses["nll"]) == pytest.approx(rest / (2 * 0.5**2), rel=1e-3)


def test_a_frozen_solver_of_regression_has_the_same_loss() -> None:
    solver, batch = linear(2)
    solver.step(batch)
    assert torch.equal(solver.frozen().loss(batch)["nll"], solver.loss(batch)["nll"])


# ------------------------------------------------------------------------------------------------------ how weights start


@pytest.mark.parametrize("solver", [MLP(hidden=(300, 200), init="xavier"), CNN(init="xavier")], ids=["mlp", "cnn"])
def test_xavier(solver: Classifier) -> None:
    solver.build(spec(10, (1, 28, 28)), Randomness(0), CPU)
    layers = [part for part in solver.module.encoder.modules() if isinstance(part, nn.Linear | nn.Conv2d)]
    for weight, bias in [(part.weight.detach(), part.bias) for part in layers] + [
        (solver.module.head.weight.detach(), solver.module.head.bias)
    ]:
        field = weight[0, 0].numel() if weight.dim() == 4 else 1
        bound = (6 / (field * (weight.shape[0] + weight.shape[1]))) ** 0.5
        assert bias is not None
        assert not bias.any()
        assert 0.97 * bound < float(weight.abs().max()) <= bound
        assert float(weight.std()) == pytest.approx(bound / 3**0.5, rel=0.1)


def test_a_xavier_head_that_grows_keeps_its_bound() -> None:
    solver = MLP(hidden=(50,), init="xavier")
    solver.build(spec(2, (4,)), Randomness(0), CPU)
    old = solver.module.head.weight.detach().clone()
    solver.grow(4)
    assert torch.equal(solver.module.head.weight[:2], old)
    assert 0.8 * (6 / 52) ** 0.5 < float(solver.module.head.weight.detach().abs().max()) <= (6 / 52) ** 0.5
    assert not solver.module.head.bias.any()
