"""Augmentation: images change anew each time they are trained on; what they show stays what it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import pad

from reverie.seeding import Randomness
from reverie.types import Augment, Batch, Phase, StreamSpec

PADDING = 4  # pixels on every side

AugmentOption = Annotated[
    Augment,
    Field(
        description="of training images, anew at every step: none; flip-crop, half of them mirrored left to right, each moved by up to 4 pixels"
    ),
]


def augmented(batch: Batch, spec: StreamSpec, phase: Phase, rng: Randomness, purpose: str = "augmentation") -> Batch:
    """The batch as this step is to train on it; where the stream or the phase does not ask for anything, as it is."""
    if spec.augment == "none" or not phase.augmented:
        return batch
    return replace(batch, x=flip_crop(batch.x, rng(purpose)))


def flip_crop(x: Tensor, rng: torch.Generator) -> Tensor:
    """Each image of (B, C, H, W) mirrored left to right with probability 1/2, padded by 4 zeros on every side and cut to its size again at a random
    place (He et al. 2016, arXiv 1512.03385, section 4.2)."""
    rows, channels, height, width = x.shape
    device = x.device
    down, right = torch.randint(2 * PADDING + 1, (2, rows, 1), generator=rng, device=device)
    mirrored = torch.rand(rows, 1, generator=rng, device=device) < 0.5
    across = torch.arange(width, device=device)
    i = down + torch.arange(height, device=device)  # (B, H): which row of the padded image each row shows
    j = right + torch.where(mirrored, width - 1 - across, across)  # (B, W)
    places = (i[:, :, None] * (width + 2 * PADDING) + j[:, None]).flatten(1)
    padded = pad(x, (PADDING,) * 4).flatten(2)
    return padded.gather(2, places[:, None].expand(-1, channels, -1)).view(x.shape)
