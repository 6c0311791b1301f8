"""Classifiers: an encoder and a linear head, told apart by nothing but the encoder."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, cast

from pydantic import Field
from torch import Tensor, nn

from reverie.checks import OptionsError
from reverie.device import CPU, Device
from reverie.nn.cutting import CutPoint, cut_points
from reverie.nn.hypernetworks import Activation, ActivationOption
from reverie.nn.networks import (
    EncoderAndHead,
    Head,
    Network,
    conv_stack,
    forward_flops,
    mlp,
    multiplications,
    output_width,
    pooled_stack,
    start_as_xavier,
    training_flops,
)
from reverie.nn.optimisers import Adam, Optimiser
from reverie.options import Part
from reverie.seeding import Randomness
from reverie.solvers.outputs import objective
from reverie.types import Batch, Losses, State, StreamSpec

Hidden = Annotated[
    tuple[Annotated[int, Field(gt=0)], ...] | None, Field(description="widths of the hidden layers; None: the stream's")
]
Init = Literal["pytorch", "xavier"]
InitOption = Annotated[
    Init,
    Field(
        description="how weights start: as PyTorch's layers do, U(-b, b) with b = 1 / sqrt(fan in), or with Xavier's b = "
        "sqrt(6 / (fan in + fan out)) and biases of 0, fan out of the last layer being the classes at first"
    ),
]
OptimiserOption = Annotated[Optimiser, Field(description="how its weights are updated")]
Positive = Annotated[int, Field(gt=0)]

ACTIVATION_LAYERS: dict[Activation, type[nn.Module]] = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}


class Classifier(Part):
    """What all classifiers share. A new one says only how its encoder is made.

    usual_cut: the module whose output is the latent where nothing else is said.
    """

    optimiser: Optimiser
    init: Init = "pytorch"
    usual_cut = "encoder"

    @abstractmethod
    def encoder(self, shape: tuple[int, ...]) -> nn.Module:
        """A module from (B, *shape) to flat features (B, width)."""

    def build(self, spec: StreamSpec, rng: Randomness, device: Device) -> None:
        self.device = device
        with rng.global_torch("solver weights"):
            encoder = self.encoder(spec.input_shape)
            if self.init == "xavier":
                start_as_xavier(encoder)
        width = output_width(encoder, spec.input_shape)
        bound = math.sqrt(6 / (width + spec.outputs)) if self.init == "xavier" else None
        head = Head(width, spec.outputs, rng.seed, bound)
        module = EncoderAndHead(encoder, head)
        self.multiplications = multiplications(module, spec.input_shape)
        self.objective = objective(spec)
        self.network = Network(module, self.optimiser, device)

    @property
    def module(self) -> EncoderAndHead:
        return cast(EncoderAndHead, self.network.module)

    def grow(self, outputs: int) -> None:
        if outputs > self.module.head.outputs:
            self.network.change(lambda module: cast(EncoderAndHead, module).head.grow(outputs))

    def scores(self, x: Tensor) -> Tensor:
        with self.device.autocast():
            return self.network.ready(train=False)(x).float()

    def training_scores(self, x: Tensor) -> Tensor:
        """As ``scores``, in training mode (dropout and batch statistics live) and differentiable."""
        with self.device.autocast():
            return self.network.ready(train=True)(x).float()

    def encode(self, x: Tensor) -> Tensor:
        """(B, ...) -> (B, width) features before the head."""
        with self.device.autocast():
            self.network.ready(train=False)
            return self.module.encoder(x).float()

    def loss(self, batch: Batch, scores: Tensor | None = None) -> Losses:
        scores = self.training_scores(batch.x) if scores is None else scores
        name, value = self.objective
        return {name: value(scores, batch)}

    def step(self, batch: Batch, scores: Tensor | None = None, penalty: Tensor | None = None) -> Losses:
        losses = self.loss(batch, scores)
        total = losses[self.objective[0]]
        if penalty is not None:
            losses["penalty"] = penalty
            total = total + penalty
        self.network.update(total)
        return {name: value.detach() for name, value in losses.items()}

    def begin_task(self) -> None:
        self.network.begin_task()

    def frozen(self) -> Classifier:
        twin = self.clone()
        twin.device = self.device
        twin.multiplications, twin.objective = self.multiplications, self.objective
        twin.network = self.network.frozen()
        return twin

    def num_bytes(self) -> int:
        return self.network.num_bytes()

    def working_bytes(self) -> int:
        return self.network.working_bytes()

    def flops(self, rows: int, train: bool = True) -> float:
        return (training_flops if train else forward_flops)(self.multiplications, rows)

    def state(self) -> State:
        return self.network.state()

    def load(self, state: State) -> None:
        outputs = len(state["weights"]["head.bias"])
        if outputs != self.module.head.outputs:
            self.network.change(lambda module: cast(EncoderAndHead, module).head.restart(outputs))
        self.network.load(state)


@dataclass(eq=False, repr=False)
class MLP(Classifier):
    """Fully connected layers on the flattened input."""

    hidden: Hidden = None
    activation: ActivationOption = "relu"
    init: InitOption = "pytorch"
    optimiser: OptimiserOption = field(default_factory=Adam)

    def encoder(self, shape: tuple[int, ...]) -> nn.Module:
        sizes = [math.prod(shape), *(self.hidden or (400, 400))]
        return nn.Sequential(
            nn.Flatten(), mlp(sizes, last_activation=True, activation=ACTIVATION_LAYERS[self.activation])
        )


@dataclass(eq=False, repr=False)
class CNN(Classifier):
    """A small convolutional network: convolutions with ReLU, each halving height and width, then one hidden layer."""

    channels: Annotated[tuple[Positive, ...], Field(min_length=1, description="channels of the convolutions")] = (
        32,
        64,
    )
    width: Annotated[int, Field(gt=0, description="units of the hidden layer")] = 256
    kernel: Annotated[Literal[3, 5], Field(description="height and width of the filters")] = 3
    halving: Annotated[
        Literal["stride", "max-pool"],
        Field(
            description="how height and width are halved: stride 2, or a 2 x 2 maximum after an unpadded convolution"
        ),
    ] = "stride"
    init: InitOption = "pytorch"
    optimiser: OptimiserOption = field(default_factory=Adam)

    usual_cut = "encoder.1"  # flattened outputs of the convolutions

    def encoder(self, shape: tuple[int, ...]) -> nn.Module:
        _needs_images("cnn", shape)
        channels = [shape[0], *self.channels]
        if self.halving == "stride":
            stack = conv_stack(channels, [2] * len(self.channels), self.kernel, batch_norm=False)
        else:
            side = min(shape[1:])
            for _ in self.channels:
                side = (side - self.kernel + 1) // 2
            if side < 1:
                raise OptionsError(
                    f"channels = {self.channels}, kernel = {self.kernel}, halving = 'max-pool': nothing is left of images of "
                    f"{shape[1]} x {shape[2]}; use halving = 'stride', a smaller kernel or fewer channels"
                )
            stack = pooled_stack(channels, self.kernel, padding=0)
        flat = output_width(nn.Sequential(stack, nn.Flatten()), shape)
        return nn.Sequential(stack, nn.Flatten(), mlp([flat, self.width], last_activation=True))


@dataclass(eq=False, repr=False)
class ConvStack(Classifier):
    """Five 3x3 convolutions, 16 to 256 channels, strides 1-2-2-2-2, batch norm and ReLU on all but the last, then an MLP.

    Source: the network of the CIFAR experiments of van de Ven et al. 2020 (Nature Communications 11:4069) and 2022.
    """

    channels: Annotated[tuple[Positive, ...], Field(min_length=1, description="channels of the convolutions")] = (
        16,
        32,
        64,
        128,
        256,
    )
    hidden: Hidden = None
    optimiser: OptimiserOption = field(default_factory=Adam)

    usual_cut = "encoder.1"

    def encoder(self, shape: tuple[int, ...]) -> nn.Module:
        _needs_images("conv-stack", shape)
        strides = [1, *[2] * (len(self.channels) - 1)]
        stack = conv_stack([shape[0], *self.channels], strides, plain_last=True)
        flat = output_width(nn.Sequential(stack, nn.Flatten()), shape)
        return nn.Sequential(stack, nn.Flatten(), mlp([flat, *(self.hidden or (2000, 2000))], last_activation=True))


@dataclass(eq=False, repr=False)
class Module(Classifier):
    """Any network of the user's. ``factory(input_shape)`` makes an ``nn.Module`` from (B, *input_shape) to features of any shape; a
    linear head over the flattened features is added. A run with it can be repeated from Python, not from its file alone."""

    factory: Annotated[
        Callable[[tuple[int, ...]], nn.Module], Field(description="makes the network, from the input shape")
    ]
    optimiser: OptimiserOption = field(default_factory=Adam)

    def encoder(self, shape: tuple[int, ...]) -> nn.Module:
        made = self.factory(shape)
        if not isinstance(made, nn.Module):
            raise OptionsError(f"factory: returned a {type(made).__name__}; it must return a torch.nn.Module")
        return nn.Sequential(made, nn.Flatten())


def cuts(solver: Classifier, spec: StreamSpec) -> list[CutPoint]:
    """Where a solver can be cut on a stream like this, from the input to the output; the solver itself is not built.

    Raises OptionsError where its data flow cannot be traced.
    """
    twin = solver.clone()
    twin.build(spec, Randomness(0), CPU)
    last = [name for name, _ in twin.module.named_modules() if f"{name}.".startswith(f"{twin.usual_cut}.")][-1]
    return [replace(cut, usual=cut.name == last) for cut in cut_points(twin.module, spec.input_shape)]


def _needs_images(name: str, shape: tuple[int, ...]) -> None:
    if len(shape) != 3:
        raise OptionsError(
            f"solver = {name!r}: needs images (channels, height, width), this stream's inputs have shape {shape}; try 'mlp'"
        )
