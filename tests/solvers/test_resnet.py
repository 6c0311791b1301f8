"""Residual networks: the sizes and costs of the sources, the shapes of their shortcuts, and where they can be cut."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from reverie.device import CPU
from reverie.nn.parameters import Ensemble, ParameterSpec
from reverie.options import from_options
from reverie.seeding import Randomness
from reverie.solvers import SOLVERS, Classifier, ResNet, WideResNet, cuts
from reverie.solvers.resnet import Block, PreactivatedBlock
from reverie.types import StreamSpec


def spec(outputs: int = 4, shape: tuple[int, ...] = (3, 8, 8)) -> StreamSpec:
    classes = tuple(range(outputs))
    return StreamSpec("test", "class", shape, classes, (classes,), ("all",), (classes,), (0.0, 1.0))


def built(solver: Classifier, outputs: int = 4, shape: tuple[int, ...] = (3, 8, 8)) -> Classifier:
    solver.build(spec(outputs, shape), Randomness(0), CPU)
    return solver


@pytest.mark.parametrize(
    ("name", "outputs", "parameters", "flops"),
    [
        ("resnet", 10, 465_290, 0.14e9),
        ("resnet", 100, 471_140, 0.14e9),
        ("resnet-18", 100, 11_220_032 + 100, 1.1e9),  # the source's has no bias at the output
        ("wide-resnet", 10, 36_479_194, 10.5e9),
    ],
)
def test_the_sizes_of_the_sources(name: str, outputs: int, parameters: int, flops: float) -> None:
    solver = built(from_options(SOLVERS, name), outputs, (3, 32, 32))
    assert sum(parameter.numel() for parameter in solver.module.parameters()) == parameters
    assert solver.flops(1, train=False) == pytest.approx(flops, rel=0.05)


@pytest.mark.parametrize("solver", [ResNet((4,), 1), ResNet((3, 5), 2), WideResNet((3, 5), 1)], ids=repr)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (2, 7, 5)], ids=str)
def test_images_of_any_size(solver: Classifier, shape: tuple[int, ...]) -> None:
    made = built(solver.clone(), shape=shape)
    assert made.scores(torch.rand(3, *shape)).shape == (3, 4)


def test_a_block_adds_its_input() -> None:
    x = torch.randn(2, 3, 7, 7)
    for shortcut in ("identity", "projection"):
        block: Any = Block(3, 3, 1, shortcut, bias=True).eval()
        nn.init.zeros_(block.residual[-1].weight)
        assert torch.equal(block(x), x.relu())  # of one shape there is nothing to project
    preactivated = PreactivatedBlock(3, 3, 1).eval()
    nn.init.zeros_(preactivated.residual[-1].weight)  # type: ignore[arg-type]
    assert torch.equal(preactivated(x), x)


def test_where_channels_join_and_the_size_halves_the_identity_is_padded() -> None:
    x = torch.randn(2, 3, 7, 6)
    block: Any = Block(3, 5, 2, "identity", bias=True).eval()
    assert not list(block.shortcut.parameters())
    nn.init.zeros_(block.residual[-1].weight)
    y = block(x)
    assert y.shape == (2, 5, 4, 3)
    assert torch.equal(y[:, :3], x[:, :, ::2, ::2].relu())
    assert not y[:, 3:].any()


def test_convolutions_start_as_he_has_them() -> None:
    solver = built(ResNet((32, 64), 2))
    for layer in solver.module.modules():
        if isinstance(layer, nn.Conv2d):
            fan_in = layer.weight[0].numel()
            assert layer.weight.var().item() == pytest.approx(2 / fan_in, rel=0.15)
            assert layer.bias is not None
            assert not layer.bias.any()


@pytest.mark.parametrize("solver", [ResNet((3, 5), 2), WideResNet((3, 5), 2)], ids=repr)
def test_it_can_be_cut_between_blocks_and_not_within(solver: Classifier) -> None:
    names = [cut.name for cut in cuts(solver, spec())]
    assert not [name for name in names if ".residual" in name or ".shortcut" in name]
    assert names[-1] == ("encoder.4" if isinstance(solver, WideResNet) else "encoder.3")
    if isinstance(solver, ResNet):
        assert [n for n in names if n.startswith("encoder.1")] == [f"encoder.1.{i}.activation" for i in range(4)]


@pytest.mark.parametrize("solver", [ResNet((3, 5), 2), WideResNet((3, 5), 2)], ids=repr)
def test_its_weights_can_be_made_elsewhere(solver: Classifier) -> None:
    module = built(solver.clone()).module.double()
    layout = ParameterSpec(module)
    ensemble = Ensemble(module, layout)
    vector = layout.flatten(module)
    x = torch.rand(5, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    both = torch.stack([vector, 0.9 * vector])
    scores, found = ensemble.train(both, x)
    assert list(found) == [name for name, layer in module.named_modules() if isinstance(layer, nn.BatchNorm2d)]
    torch.testing.assert_close(ensemble.train(both[:1], x)[0], scores[:1])
    torch.testing.assert_close(ensemble(both, x)[0], module.eval()(x))
    torch.testing.assert_close(scores[0], module.train()(x))
