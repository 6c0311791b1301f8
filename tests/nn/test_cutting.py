"""Cut points against networks whose data flow is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from reverie.checks import OptionsError
from reverie.nn.cutting import cut_points, split


class Residual(nn.Module):
    """stem, then a block with a connection around it, then a tail."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.inner = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
        self.join = nn.ReLU()
        self.tail = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.tail(self.join(x + self.inner(x)))


class Shifted(nn.Module):
    """A parameter of its own, used on both sides of the cut, and functional calls."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.randn(6))
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x + self.shift)) + self.shift)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x)) if x.sum() > 0 else self.b(x)


def convolutions() -> nn.Sequential:
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def test_the_table_of_a_small_network() -> None:
    found = cut_points(convolutions(), (1, 4, 4))
    assert [cut.name for cut in found] == ["0.0", "0.1", "0.2", "1"]
    assert [cut.kind for cut in found] == ["Conv2d", "BatchNorm2d", "ReLU", "Flatten"]
    assert [cut.shape for cut in found] == [(4, 4, 4)] * 3 + [(64,)]
    assert {cut.width for cut in found} == {64}
    assert {cut.num_bytes for cut in found} == {256}
    convolution, norm, head = 4 * 9 + 4, 8, 64 * 10 + 10
    assert [cut.below for cut in found] == [convolution, *[convolution + norm] * 3]
    assert [cut.below + cut.above for cut in found] == [convolution + norm + head] * 4
    assert {cut.multiplications for cut in found} == {16 * 4 * 9}


@pytest.mark.parametrize("make", [convolutions, Residual, Shifted])
def test_the_halves_are_the_network(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    module = make().eval()
    shape = (1, 4, 4) if make is convolutions else (6,)
    x = torch.randn(5, *shape)
    found = cut_points(module, shape)
    assert found
    for cut in found:
        below, above = split(module, cut.name)
        z = below(x)
        assert tuple(z.shape[1:]) == cut.shape
        assert torch.equal(above(z), module(x))


def test_the_halves_share_the_weights() -> None:
    module = convolutions()
    below, above = split(module, "1")
    mine = {id(parameter) for parameter in module.parameters()}
    assert {id(p) for half in (below, above) for p in half.parameters()} == mine


def test_no_cut_inside_a_residual_block() -> None:
    module = Residual()
    assert [cut.name for cut in cut_points(module, (6,))] == ["stem", "join"]
    for name in ("inner", "inner.0", "inner.2"):
        with pytest.raises(OptionsError, match=r"runs around this module.*stem, join"):
            split(module, name)


def test_a_container_is_cut_after_its_last_module() -> None:
    below, _ = split(convolutions(), "0")
    assert below(torch.zeros(1, 1, 4, 4)).shape == (1, 4, 4, 4)


def test_unknown_names_show_the_nearest() -> None:
    with pytest.raises(OptionsError, match=r"cut = '0\.3'.*0\.0|0\.2"):
        split(convolutions(), "0.3")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("encoder.3", r"cut = 'encoder\.3': .* did you mean 'encoder\.2'"),
        ("7", r"cut = '7': .*valid: encoder, encoder\.0\.0, encoder\.0\.1, encoder\.0\.2, encoder\.1, encoder\.2"),
        ("encodr", r"cut = 'encodr': .* did you mean 'encoder'"),
    ],
)
def test_names_are_those_of_the_whole_network(place: str, message: str) -> None:
    """As they were given, and as the places are listed."""
    with pytest.raises(OptionsError, match=message):
        split(convolutions(), place, inside="encoder")
    with pytest.raises(OptionsError, match=r"cut = 'net\.inner': .*cut at one of net\.stem, net\.join, net\.tail"):
        split(Residual(), "net.inner", inside="net")
    x = torch.rand(2, 1, 4, 4)
    for place_given in ("encoder.1", "1"):
        assert split(convolutions(), place_given, inside="encoder")[0](x).shape == (2, 64)


def test_a_forward_that_branches_on_the_data_is_refused_with_a_remedy() -> None:
    with pytest.raises(OptionsError, match=r"cannot be traced.*module of its own"):
        cut_points(Branching(), (6,))


def test_a_module_that_forward_does_not_run() -> None:
    module = Residual()
    module.add_module("spare", nn.Identity())
    with pytest.raises(OptionsError, match="not run"):
        split(module, "spare")
