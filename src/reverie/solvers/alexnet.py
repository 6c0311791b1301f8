"""AlexNet with a small head: the backbone of the source of generative latent replay."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import interpolate

from reverie.checks import OptionsError
from reverie.nn.networks import Linear
from reverie.nn.optimisers import SGD
from reverie.solvers.classifier import Classifier, OptimiserOption, Positive

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's red, green and blue, in [0, 1]


class ImageNetInput(nn.Module):
    """(B, 1 or 3, h, w) in [0, 1] -> (B, 3, side, side) as networks trained on ImageNet expect it."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION)[:, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = interpolate(x, size=(self.side, self.side), mode="bilinear", align_corners=False, antialias=True)
        return (x - self.mean) / self.deviation


@dataclass(eq=False, repr=False)
class AlexNet(Classifier):
    """Five convolutions (Krizhevsky 2014, arXiv 1404.5997: one column, no batch norm), a 3 x 3 average pooling to 2,304 numbers, and a head of
    fully connected layers with dropout before each.

    ``weights`` of a frozen backbone may be a safetensors file of torchvision's ``alexnet``: its ``features`` are taken, its own head is not.
    """

    side: Annotated[
        int, Field(ge=63, description="pixels that images are resized to, a side; grey becomes three channels")
    ] = 224
    hidden: Annotated[tuple[Positive, ...], Field(description="widths of the head's layers below the output")] = (
        512,
        128,
    )
    dropout: Annotated[
        float, Field(ge=0, lt=1, description="share of inputs of a fully connected layer that are dropped")
    ] = 0.5
    optimiser: OptimiserOption = field(default_factory=lambda: SGD(learning_rate=1e-3))

    usual_cut = "encoder.3"  # after the pooling, below the first dropout
    foreign = {"features.": "encoder.1."}  # noqa: RUF012

    def encoder(self, shape: tuple[int, ...]) -> nn.Module:
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise OptionsError(
                f"solver = 'alexnet': needs grey or colour images (1 or 3, height, width), this stream's inputs have shape {shape}"
            )
        features = nn.Sequential(
            *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
        )
        head: list[nn.Module] = []
        for inputs, outputs in zip((256 * 9, *self.hidden), self.hidden, strict=False):
            head += [nn.Dropout(self.dropout), Linear(inputs, outputs), nn.ReLU()]
        return nn.Sequential(
            ImageNetInput(self.side), features, nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Sequential(*head)
        )
