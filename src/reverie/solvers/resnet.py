"""Residual networks for small images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import pad

from reverie.nn.optimisers import Adam
from reverie.solvers.classifier import Classifier, OptimiserOption, Positive, _needs_images

STEM = 16  # channels before the first stage of a wide residual network

Shortcut = Literal["identity", "projection"]
Stages = Annotated[
    tuple[Positive, ...],
    Field(min_length=1, description="channels of the stages; each but the first halves height and width"),
]
Blocks = Annotated[int, Field(gt=0, description="blocks of a stage, two convolutions each")]


class Padded(nn.Module):
    """The identity where a block has more channels and halves the size: every second pixel, and channels of 0 (He et al. 2016, option A)."""

    def __init__(self, more: int, stride: int) -> None:
        super().__init__()
        self.more, self.stride = more, stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C + more, ceil(h / stride), ceil(w / stride))."""
        return pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))


class Block(nn.Module):
    """x -> relu(x + norm(conv(relu(norm(conv(x))))))."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: Shortcut, bias: bool) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            *(convolution(inputs, outputs, stride, bias), nn.BatchNorm2d(outputs), nn.ReLU()),
            *(convolution(outputs, outputs, 1, bias), nn.BatchNorm2d(outputs)),
        )
        self.shortcut: nn.Module = nn.Identity()
        if shortcut == "projection" and (stride > 1 or inputs != outputs):
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=bias), nn.BatchNorm2d(outputs))
        elif stride > 1 or inputs != outputs:
            self.shortcut = Padded(outputs - inputs, stride)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.residual(x) + self.shortcut(x))


class PreactivatedBlock(nn.Module):
    """x -> x + conv(relu(norm(conv(a)))), a = relu(norm(x)); where the shape changes the shortcut is a 1 x 1 convolution of a instead of x."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU())
        self.residual = nn.Sequential(
            *(convolution(inputs, outputs, stride, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()),
            convolution(outputs, outputs, 1, bias=False),
        )
        same = stride == 1 and inputs == outputs
        self.shortcut = None if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        a = self.before(x)
        return self.residual(a) + (x if self.shortcut is None else self.shortcut(a))


def convolution(inputs: int, outputs: int, stride: int, bias: bool) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=bias)


def stages(channels: Sequence[int], blocks: int) -> list[tuple[int, int, int]]:
    """(inputs, outputs, stride) of each block; channels: the stem's first."""
    found = []
    for stage, (inputs, outputs) in enumerate(pairwise(channels)):
        found += [(inputs, outputs, 2 if stage else 1), *[(outputs, outputs, 1)] * (blocks - 1)]
    return found


def begun(encoder: nn.Module) -> nn.Module:
    """With convolutions as He et al. (2015) start them: variance 2 / fan_in, biases 0."""
    for layer in encoder.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return encoder


@dataclass(eq=False, repr=False)
class ResNet(Classifier):
    """A residual network for images of about 32 x 32 pixels: a convolution, stages of blocks, and the mean over all pixels (He et al. 2016,
    arXiv 1512.03385). As it stands it is ResNet-32, with biases as posterior meta-replay has it (Henning et al. 2021, arXiv 2103.01133):
    465,290 parameters for 10 outputs.

    ``resnet-18`` is the larger one, without biases but with convolutions of 1 x 1 as shortcuts: 11,220,132 for 100 outputs.
    """

    channels: Stages = (16, 32, 64)
    blocks: Blocks = 5
    shortcut: Annotated[
        Shortcut,
        Field(description="around a block that changes the shape: identity, channels of 0 added; projection, 1 x 1"),
    ] = "identity"
    bias: Annotated[bool, Field(description="whether convolutions have biases")] = True
    optimiser: OptimiserOption = field(default_factory=Adam)

    def encoder(self, shape: tuple[int, ...]) -> nn.Module:
        _needs_images("resnet", shape)
        first = self.channels[0]
        stem = nn.Sequential(convolution(shape[0], first, 1, self.bias), nn.BatchNorm2d(first), nn.ReLU())
        plan = stages((first, *self.channels), self.blocks)
        body = nn.Sequential(*(Block(*sizes, self.shortcut, self.bias) for sizes in plan))
        return begun(nn.Sequential(stem, body, nn.AdaptiveAvgPool2d(1), nn.Flatten()))


@dataclass(eq=False, repr=False)
class WideResNet(Classifier):
    """A residual network with few blocks of many channels, norm and ReLU before each convolution (Zagoruyko and Komodakis 2016, arXiv 1605.07146). As
    it stands it is WRN-28-10, without dropout: 36,479,194 parameters for 10 outputs."""

    channels: Stages = (160, 320, 640)
    blocks: Blocks = 4
    optimiser: OptimiserOption = field(default_factory=Adam)

    def encoder(self, shape: tuple[int, ...]) -> nn.Module:
        _needs_images("wide-resnet", shape)
        plan = stages((STEM, *self.channels), self.blocks)
        body = nn.Sequential(*(PreactivatedBlock(*sizes) for sizes in plan))
        last = nn.Sequential(nn.BatchNorm2d(self.channels[-1]), nn.ReLU())
        stem = convolution(shape[0], STEM, 1, bias=False)
        return begun(nn.Sequential(stem, body, last, nn.AdaptiveAvgPool2d(1), nn.Flatten()))
