"""The five networks of the lifelong generative adversarial autoencoder, in several sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from reverie.checks import OptionsError
from reverie.generators.wgan_gp import Gate
from reverie.nn.matmul import linear
from reverie.nn.networks import Head, Linear, output_width
from reverie.seeding import generator as seeded

Size = Literal["tiny", "small32", "faithful32", "faithful64", "eccv28"]
Norm = Literal["none", "affine", "batch", "layer"]
Conditioning = Literal["none", "projection", "auxiliary"]
SLOPE = 0.2  # of leaky ReLUs


@dataclass(frozen=True)
class Layout:
    """What the networks are made of. Convolutions are (channels, kernel, stride), all of them padded so that stride alone shrinks an image.

    latent: numbers of the continuous code. hidden: widths of the generator's layers before its first map of ``first`` channels; up: its
    transposed convolutions but the last, (kernel, stride). down, dense: the trunk of critic and encoder. classes: the trunk of the
    class inference, None: as ``down`` and ``dense``; pooled: with a maximum over 2 x 2 after each convolution; dropout before its head.
    domains: hidden widths of the domain inference. sides: of the images that it is for; None: any that ``up`` can reach. norm: of the generator
    and of that trunk, where it is not in the first ``plain`` convolutions nor, unless ``norm_dense``, in fully connected layers.
    """

    latent: int
    hidden: tuple[int, ...]
    first: int
    up: tuple[tuple[int, int, int], ...]
    last: tuple[int, int]
    down: tuple[tuple[int, int, int], ...]
    dense: tuple[int, ...]
    domains: tuple[int, ...]
    classes: tuple[tuple[int, int, int], ...] | None = None
    class_dense: tuple[int, ...] = ()
    pooled: bool = False
    dropout: float = 0.0
    norm: Norm = "none"
    plain: int = 0
    norm_dense: bool = True
    sides: tuple[int, ...] | None = None

    @property
    def growth(self) -> int:
        """How much larger than its first map a generated image is."""
        return math.prod(stride for _, _, stride in self.up) * self.last[1]


def _faithful(share: int, latent: int, more: bool = False) -> Layout:
    """The published networks for images of 32 x 32 or, with one more doubling, 64 x 64; share: their widths are divided by it."""

    def wide(*convolutions: tuple[int, int, int]) -> tuple[tuple[int, int, int], ...]:
        return tuple((channels // share, kernel, stride) for channels, kernel, stride in convolutions)

    up = wide((256, 3, 2), (256, 3, 1), (256, 3, 2), (256, 3, 1)) + (wide((128, 3, 2)) if more else ())
    return Layout(
        latent=latent,
        hidden=(),
        first=256 // share,
        up=up,
        last=(3, 1),
        down=wide((64, 3, 2), (128, 3, 2), (256, 3, 2), (512, 3, 2)),
        dense=(1024 // share,),
        domains=(400,) if more else (200, 100),
        classes=wide((32, 5, 1), (64, 5, 1)),
        class_dense=(1024 // share,),
        pooled=True,
        dropout=0.5,
        norm="affine",
        plain=int(more),
        norm_dense=False,
        sides=(64,) if more else (32,),
    )


LAYOUTS: Mapping[Size, Layout] = {
    "tiny": Layout(
        latent=32,
        hidden=(),
        first=64,
        up=((32, 4, 2),),
        last=(4, 2),
        down=((32, 4, 2), (64, 4, 2)),
        dense=(128,),
        domains=(64,),
    ),
    "small32": _faithful(4, 64),
    "faithful32": _faithful(1, 256),
    "faithful64": _faithful(1, 256, more=True),
    "eccv28": Layout(
        latent=32,
        hidden=(1024,),
        first=128,
        up=((64, 4, 2),),
        last=(4, 2),
        down=((64, 4, 2), (128, 4, 2)),
        dense=(1024,),
        domains=(64,),
        norm="affine",
        plain=1,
        sides=(28,),
    ),
}


class Affine(nn.Module):
    """A factor and a shift a channel: what a batch norm is that never sees its statistics."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1, *[1] * (x.dim() - 2))
        return torch.addcmul(self.bias.view(shape), x, self.weight.view(shape))


class CodeColumns(nn.Module):
    """A code (B, K) -> (B, width), linear without bias; K may grow. The column of code k starts as U(-bound, bound) drawn for k alone, so that
    columns grown one by one equal those made at once."""

    def __init__(self, width: int, count: int, bound: float, seed: int) -> None:
        super().__init__()
        self.width, self.bound, self.seed = width, bound, seed
        self.weight = nn.Parameter(torch.empty(0, width))  # (K, width)
        self.grow(count)

    def grow(self, count: int) -> None:
        fresh = [self._initial(place).to(self.weight) for place in range(len(self.weight), count)]
        if fresh:
            self.weight = nn.Parameter(torch.cat([self.weight.detach(), torch.stack(fresh)]))

    def restart(self, count: int) -> None:
        """As new, with that many columns; for state that was saved when there were fewer."""
        self.weight = nn.Parameter(self.weight.detach()[:0])
        self.grow(count)

    def _initial(self, place: int) -> Tensor:
        rng = seeded(self.seed, "column", place)
        return torch.empty(self.width).uniform_(-self.bound, self.bound, generator=rng)

    def forward(self, code: Tensor) -> Tensor:
        return linear(code, self.weight.T)


class CodeLinear(nn.Module):
    """z, c, a -> (B, width): a linear layer of all three side by side, whose columns for c and a grow. Codes at a corner that were there before
    give the same sums after growth, to the bit: what joins is multiplied by 0."""

    def __init__(self, latent: int, width: int, classes: int, domains: int, seed: int) -> None:
        super().__init__()
        self.z = Linear(latent, width)
        bound = 1 / math.sqrt(latent)  # as the other columns
        self.c, self.a = CodeColumns(width, classes, bound, seed), CodeColumns(width, domains, bound, seed + 1)

    def forward(self, z: Tensor, c: Tensor, a: Tensor) -> Tensor:
        sums: Tensor = self.z(z) + self.c(c) + self.a(a)
        return sums


class ImageGenerator(nn.Module):
    """z (B, latent), c (B, classes), a (B, domains) -> images (B, *shape) in [-1, 1]."""

    def __init__(
        self, layout: Layout, norm: Norm, shape: tuple[int, ...], classes: int, domains: int, seed: int
    ) -> None:
        super().__init__()
        sides = [side // layout.growth for side in shape[1:]]
        first = (layout.first, *sides)
        widths = [*layout.hidden, math.prod(first)]
        self.codes = CodeLinear(layout.latent, widths[0], classes, domains, seed)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [*_normalised(norm, before, flat=True), nn.ReLU(), Linear(before, after)]
        layers += [nn.Unflatten(1, first), *_normalised(norm, layout.first), nn.ReLU()]
        channels = layout.first
        for wide, kernel, stride in layout.up:
            layers += [_transposed(channels, wide, kernel, stride), *_normalised(norm, wide), nn.ReLU()]
            channels = wide
        layers += [_transposed(channels, shape[0], *layout.last), nn.Tanh()]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor, c: Tensor, a: Tensor) -> Tensor:
        images: Tensor = self.layers(self.codes(z, c, a))
        return images


class Critic(nn.Module):
    """x (B, *shape) -> scores (B,), high for images that look real; with "projection" of a class and domain (Miyato and Koyama 2018, arXiv
    1802.05637); with "auxiliary" it also tells class and domain (Odena, Olah and Shlens 2017, arXiv 1610.09585)."""

    def __init__(
        self,
        layout: Layout,
        norm: Norm,
        shape: tuple[int, ...],
        conditioning: Conditioning,
        classes: int,
        domains: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.trunk = _down(layout, "none" if norm == "batch" else norm, shape, gated=True)
        width = output_width(self.trunk, shape)
        self.score = Linear(width, 1)
        self.conditioning = conditioning
        if conditioning != "none":
            self.classes, self.domains = Head(width, classes, seed + 1), Head(width, domains, seed + 2)

    def forward(self, x: Tensor, c: Tensor | None = None, a: Tensor | None = None) -> Tensor:
        features = self.trunk(x)
        scores: Tensor = self.score(features)[:, 0]
        if self.conditioning == "projection":
            assert c is not None
            assert a is not None
            scores = scores + (c * self.classes(features)).sum(dim=1) + (a * self.domains(features)).sum(dim=1)
        return scores

    def codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of class and domain, of an auxiliary critic."""
        features = self.trunk(x)
        return self.classes(features), self.domains(features)


class GaussianEncoder(nn.Module):
    """x -> mean and standard deviation (B, latent) of the continuous code."""

    def __init__(self, layout: Layout, norm: Norm, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.trunk = _down(layout, "none" if norm == "batch" else norm, shape)
        self.heads = Linear(output_width(self.trunk, shape), 2 * layout.latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, spread = self.heads(self.trunk(x)).float().chunk(2, dim=1)
        return mean, nn.functional.softplus(spread) + 1e-6


class Inference(nn.Module):
    """x or z -> logits of a code (B, K), which may grow."""

    def __init__(self, layers: nn.Module, width: int, outputs: int, seed: int) -> None:
        super().__init__()
        self.layers, self.head = layers, Head(width, outputs, seed)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layers(x)).float()
        return logits


def class_inference(layout: Layout, norm: Norm, shape: tuple[int, ...], classes: int, seed: int) -> Inference:
    """x (B, *shape) -> (B, classes)."""
    if layout.classes is None:
        layers = _down(layout, norm, shape)
    else:
        # The published one has batch norm whatever the others have.
        layers = trunk(layout.classes, layout.class_dense, "batch", shape, pooled=layout.pooled, leaky=False)
    if layout.dropout:
        layers.append(nn.Dropout(layout.dropout))
    return Inference(layers, output_width(layers, shape), classes, seed)


def domain_inference(layout: Layout, domains: int, seed: int) -> Inference:
    """z (B, latent) -> (B, domains)."""
    layers: list[nn.Module] = []
    width = layout.latent
    for hidden in layout.domains:
        layers += [Linear(width, hidden), nn.LeakyReLU(SLOPE)]
        width = hidden
    return Inference(nn.Sequential(*layers), width, domains, seed)


def _down(layout: Layout, norm: Norm, shape: tuple[int, ...], gated: bool = False) -> nn.Sequential:
    """The trunk that critic, encoder and, unless it has its own, class inference share the shape of."""
    return trunk(
        *(layout.down, layout.dense, norm, shape), gated=gated, plain=layout.plain, norm_dense=layout.norm_dense
    )


def trunk(
    convolutions: Sequence[tuple[int, int, int]],
    dense: Sequence[int],
    norm: Norm,
    shape: tuple[int, ...],
    *,
    pooled: bool = False,
    leaky: bool = True,
    gated: bool = False,
    plain: int = 0,
    norm_dense: bool = True,
) -> nn.Sequential:
    """Convolutions, then fully connected layers, each with an activation behind it. gated: leaky ReLUs that can be differentiated twice at no
    cost. plain: first convolutions without normalisation; norm_dense: whether fully connected layers have it."""

    def activation() -> nn.Module:
        return (LeakyGate() if gated else nn.LeakyReLU(SLOPE)) if leaky else nn.ReLU()

    layers: list[nn.Module] = []
    channels = shape[0]
    for place, (wide, kernel, stride) in enumerate(convolutions):
        layers += [nn.Conv2d(channels, wide, kernel, stride, padding=(kernel - 1) // 2)]
        layers += _normalised(norm if place >= plain else "none", wide)
        layers += [activation(), *([nn.MaxPool2d(2)] if pooled else [])]
        channels = wide
    layers.append(nn.Flatten())
    width = output_width(nn.Sequential(*layers), shape)
    for hidden in dense:
        layers += [Linear(width, hidden)]
        layers += [*_normalised(norm if norm_dense else "none", hidden, flat=True), activation()]
        width = hidden
    return nn.Sequential(*layers)


class LeakyGate(Gate):
    """A leaky ReLU as a product with constants, see ``Gate``."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x.detach().sign().clamp_(min=SLOPE)


def chosen_layout(size: Size | None, shape: tuple[int, ...]) -> tuple[Size, Layout]:
    """The networks for images of this shape; None: tiny, which a CPU can train. Raises OptionsError."""
    if len(shape) != 3:
        raise OptionsError(f"lgaa needs images (channels, height, width), this stream's inputs have shape {shape}")
    found: Size = size or "tiny"
    layout = LAYOUTS[found]
    if layout.sides is not None and any(side not in layout.sides for side in shape[1:]):
        raise OptionsError(
            f"size = {found!r}: makes images of {layout.sides[0]} x {layout.sides[0]}, this stream's are {shape[1]} x {shape[2]}; use size = "
            "'tiny', or resize the images"
        )
    if any(side % layout.growth for side in shape[1:]):
        raise OptionsError(
            f"size = {found!r}: makes images whose sides are multiples of {layout.growth}, this stream's are {shape[1]} x {shape[2]}; pad or "
            "resize them"
        )
    return found, layout


def start(module: nn.Module, std: float) -> None:
    """Weights of convolutions and linear layers from N(0, std^2) by torch's own generator, biases 0; what grows keeps its own start."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(layer.weight, 0, std)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)


def _normalised(norm: Norm, channels: int, flat: bool = False) -> list[nn.Module]:
    if norm == "none":
        return []
    if norm == "affine":
        return [Affine(channels)]
    if norm == "layer":
        return [nn.GroupNorm(1, channels)]
    return [nn.BatchNorm1d(channels) if flat else nn.BatchNorm2d(channels)]


def _transposed(channels: int, wide: int, kernel: int, stride: int) -> nn.ConvTranspose2d:
    """It makes an image ``stride`` times as large."""
    padding = (kernel - 1) // 2
    return nn.ConvTranspose2d(channels, wide, kernel, stride, padding, output_padding=stride - kernel + 2 * padding)
