"""Moments: saved, loaded, and carried over where a parameter grows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from reverie.device import CPU
from reverie.nn.networks import Network
from reverie.nn.optimisers import SGD, Adam, Optimiser, RMSprop, load_optimiser, optimiser_state
from reverie.storage import read_tree, write_tree


def network(optimiser: Optimiser) -> Network:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(64, 2))
    return Network(layers, optimiser, CPU)


def steps(net: Network, start: int, end: int) -> None:
    for step in range(start, end):
        x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        net.update(net.module(x).square().mean())


@pytest.mark.parametrize("optimiser", [Adam(), SGD(momentum=0.9), RMSprop()], ids=["adam", "sgd", "rmsprop"])
def test_convolutions_saved_and_loaded_go_on_as_if_nothing_had_happened(optimiser: Optimiser, tmp_path: Path) -> None:
    """A file has no memory layout, and a fused update goes through weights and moments side by side as they lie in memory."""
    whole, first, second = (network(optimiser) for _ in range(3))
    steps(whole, 0, 6)
    steps(first, 0, 3)
    write_tree(tmp_path / "state", first.state())
    second.load(read_tree(tmp_path / "state"))
    for parameter, values in second.optimiser.state.items():
        layouts = {value.stride() for value in values.values() if isinstance(value, Tensor) and value.dim()}
        assert layouts == {parameter.stride()}
    steps(second, 3, 6)
    for mine, theirs in zip(whole.module.parameters(), second.module.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_moments_of_what_is_new_are_zero() -> None:
    old, new = nn.Parameter(torch.randn(2, 3)), nn.Parameter(torch.randn(4, 3))
    before, after = Adam().make([old]), Adam().make([new])
    old.grad = torch.randn(2, 3)
    before.step()
    load_optimiser(after, optimiser_state(before))
    for name in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(after.state[new][name][:2], before.state[old][name])
        assert not after.state[new][name][2:].any()
