"""AlexNet: its shapes, and torchvision's weights in it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from reverie.checks import OptionsError
from reverie.device import CPU
from reverie.learners import FrozenBackbone, StreamingLDA
from reverie.seeding import Randomness
from reverie.solvers import AlexNet, cuts
from reverie.types import StreamSpec

# Of torchvision's alexnet: layer of ``features``, outputs, inputs, side of the filter.
LAYERS = ((0, 64, 3, 11), (3, 192, 64, 5), (6, 384, 192, 3), (8, 256, 384, 3), (10, 256, 256, 3))


def spec(shape: tuple[int, ...] = (1, 8, 8)) -> StreamSpec:
    classes = tuple(range(4))
    return StreamSpec("test", "class", shape, classes, (classes,), ("all",), (classes,), (0.0, 1.0))


def torchvision_weights() -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    found = {}
    for place, outputs, inputs, side in LAYERS:
        found[f"features.{place}.weight"] = 0.02 * torch.randn(outputs, inputs, side, side, generator=rng)
        found[f"features.{place}.bias"] = torch.randn(outputs, generator=rng)
    return found | {"classifier.1.weight": torch.zeros(16, 9), "classifier.1.bias": torch.zeros(16)}


def built(**options: object) -> AlexNet:
    solver = AlexNet(side=63, **options)  # type: ignore[arg-type]
    solver.build(spec(), Randomness(0), CPU)
    return solver


def test_the_layers_of_the_source() -> None:
    solver = AlexNet(side=244)
    table = {cut.name: cut.shape for cut in cuts(solver, spec())}
    usual = [cut for cut in cuts(solver, spec()) if cut.usual]
    assert [(cut.name, cut.shape) for cut in usual] == [("encoder.3", (2304,))]
    sides = {"encoder.1.2": (64, 29, 29), "encoder.1.5": (192, 14, 14), "encoder.1.8": (256, 14, 14)}
    assert {name: table[name] for name in sides} == sides
    solver.build(spec(), Randomness(0), CPU)
    count = sum(value.numel() for value in solver.module.encoder[1].parameters())
    head = sum(value.numel() for value in solver.module.encoder[4].parameters())
    assert count == 2_469_696
    assert head + 10 * 128 + 10 == 1_247_114  # with an output for each digit


def test_grey_and_colour_are_seen_as_imagenet_is() -> None:
    prepare = built().module.encoder[0]
    grey = prepare(torch.full((2, 1, 8, 8), 0.5))
    assert grey.shape == (2, 3, 63, 63)
    assert torch.allclose(
        grey[0, :, 0, 0], (0.5 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    )
    assert prepare(torch.rand(2, 3, 70, 60)).shape == (2, 3, 63, 63)


@pytest.mark.parametrize("shape", [(8,), (2, 8, 8)])
def test_other_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(OptionsError, match="solver = 'alexnet': needs grey or colour images"):
        AlexNet().build(spec(shape), Randomness(0), CPU)


def test_torchvision_weights_are_taken_below_the_cut(tmp_path: Path) -> None:
    path = tmp_path / "alexnet.safetensors"
    given = torchvision_weights()
    save_file(given, path)
    learner = FrozenBackbone(StreamingLDA(), backbone=AlexNet(side=63), frozen="from-start", weights=str(path))
    learner.build(spec(), Randomness(0), CPU)
    frozen = learner.below.module.state_dict()
    for place, *_ in LAYERS:
        assert torch.equal(frozen[f"1.{place}.weight"], given[f"features.{place}.weight"])
        assert torch.equal(frozen[f"1.{place}.bias"], given[f"features.{place}.bias"])
    assert learner.latent_spec.input_shape == (2304,)


def test_weights_that_are_missing_below_the_cut_are_named(tmp_path: Path) -> None:
    path = tmp_path / "alexnet.safetensors"
    given = torchvision_weights()
    del given["features.8.bias"]
    save_file(given, path)
    learner = FrozenBackbone(StreamingLDA(), backbone=AlexNet(side=63), frozen="from-start", weights=str(path))
    with pytest.raises(OptionsError, match=r"do not fit the backbone: encoder\.1\.8\.bias is missing\. Give"):
        learner.build(spec(), Randomness(0), CPU)
    save_file(given | {"features.8.bias": torch.zeros(7)}, path)
    with pytest.raises(OptionsError, match=r"encoder\.1\.8\.bias has shape \(7,\), the backbone needs \(256,\)"):
        learner.clone().build(spec(), Randomness(0), CPU)
