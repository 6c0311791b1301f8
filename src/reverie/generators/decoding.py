"""From codes to samples, and back: what generators with encoder and decoder networks share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from reverie.checks import NotReadyError, OptionsError, Problems
from reverie.nn.losses import bernoulli_nll
from reverie.nn.networks import conv_stack, deconv_stack, mlp
from reverie.types import Batch, StreamSpec

Likelihood = Literal["bernoulli", "gaussian"]
Positive = Annotated[int, Field(gt=0)]
CHANNELS = (32, 64)


class Decoder(nn.Module):
    """z (B, latent_dim + classes) -> (B, *shape), linear."""

    def __init__(self, layers: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = layers
        self.shape = shape

    def forward(self, z: Tensor) -> Tensor:
        out = self.layers(z)
        if out.dim() == 4:  # the deconvolutions may overshoot a size that is no multiple of theirs
            out = out[..., : self.shape[-2], : self.shape[-1]]
        return out.reshape(len(z), *self.shape)


def mlp_decoder(z: int, hidden: Sequence[int], shape: tuple[int, ...]) -> Decoder:
    """Fully connected, the widths ``hidden`` (the encoder's) in reverse."""
    return Decoder(mlp([z, *reversed(hidden), math.prod(shape)]), shape)


def conv_decoder(
    z: int, hidden: Sequence[int], channels: Sequence[int], shape: tuple[int, ...], batch_norm: bool
) -> Decoder:
    """Fully connected layers, then a transposed convolution for each of the encoder's ``channels``, mirrored."""
    deepest = deepest_shape(channels, shape)
    layers = nn.Sequential(
        mlp([z, *reversed(hidden), math.prod(deepest)], last_activation=True),
        nn.Unflatten(1, deepest),
        deconv_stack([*reversed(channels), shape[0]], batch_norm),
    )
    return Decoder(layers, shape)


def mlp_trunk(hidden: Sequence[int], shape: tuple[int, ...]) -> nn.Sequential:
    """(B, *shape) -> (B, hidden[-1]) features of an encoder, fully connected."""
    return nn.Sequential(nn.Flatten(), mlp([math.prod(shape), *hidden], last_activation=True))


def conv_trunk(hidden: Sequence[int], channels: Sequence[int], shape: tuple[int, ...]) -> nn.Sequential:
    """The same from convolutions of stride 2, then fully connected layers."""
    stack = conv_stack([shape[0], *channels], [2] * len(channels))
    flat = math.prod(deepest_shape(channels, shape))
    return nn.Sequential(stack, nn.Flatten(), mlp([flat, *hidden], last_activation=True))


def deepest_shape(channels: Sequence[int], shape: tuple[int, ...]) -> list[int]:
    """What a stack of stride-2 convolutions makes of images of ``shape``. Raises OptionsError for other inputs."""
    if len(shape) != 3:
        raise OptionsError(f"architecture = 'conv': needs images, inputs have shape {shape}; try 'mlp'")
    return [channels[-1], *(math.ceil(side / 2 ** len(channels)) for side in shape[1:])]


def check_channels(architecture: str, channels: Sequence[int], problems: Problems) -> None:
    """Adds channels that were given to a network without convolutions."""
    problems.check(
        architecture == "conv" or tuple(channels) == CHANNELS,
        f"channels = {channels}: has no effect with architecture = {architecture!r}; set architecture = 'conv' or leave it out",
    )


def squared_error(decoded: Tensor, x: Tensor) -> Tensor:
    """Summed over the numbers of a row (B,)."""
    return (decoded - x).square().flatten(1).sum(1)


def reconstruction_nll(likelihood: Likelihood, decoded: Tensor, x: Tensor) -> Tensor:
    """-log p(x | decoded) in nats a row (B,); of the gaussian with unit variance, without its constant."""
    return bernoulli_nll(decoded, x) if likelihood == "bernoulli" else 0.5 * squared_error(decoded, x)


def class_code(y: Tensor | None, outputs: int) -> Tensor:
    """(B, outputs): one-hot rows for class indices, soft scores as they are."""
    if y is None:
        raise OptionsError(
            "classes = None: a conditional generator must be told which classes: labelled rows to train, classes to sample"
        )
    return functional.one_hot(y, outputs).float() if y.dtype == torch.int64 else y


def joined(z: Tensor, code: Tensor | None) -> Tensor:
    """Noise with the class code beside it, where there is one."""
    return z if code is None else torch.cat([z, code], dim=1)


def as_batch(x: Tensor, classes: Tensor | None) -> Batch:
    """Samples as rows of equal weight; y is the class asked for."""
    where = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    return Batch(x, classes, where, torch.full((len(x),), 1 / len(x), device=x.device))


def check_trained(generator: object) -> None:
    """Raises NotReadyError for a generator that was not trained, or not even built."""
    if not getattr(generator, "trained", False):
        raise NotReadyError("the generator was never trained, so it has nothing to replay; train it before sampling")


def check_unit_range(spec: StreamSpec, option: str, remedy: str) -> None:
    """Raises OptionsError where inputs leave [0, 1], which ``option`` needs."""
    if spec.value_range is None:
        return
    low, high = spec.value_range
    if low < 0 or high > 1:
        raise OptionsError(
            f"{option}: inputs must lie in [0, 1], this stream's lie in [{low:g}, {high:g}]; rescale them or use {remedy}"
        )


def check_classes(made_for: StreamSpec, spec: StreamSpec, conditional: bool) -> None:
    """Raises OptionsError where a class code of fixed width would have to hold more classes."""
    if conditional and spec.outputs > made_for.outputs:
        raise OptionsError(
            f"the conditional generator was made for {made_for.outputs} classes and cannot take on more; "
            "train with an unconditional one, or name all classes at the start"
        )
