"""Networks and what is the same for every trained one: its optimiser, its frozen copy, its bytes and its cost."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from reverie.device import Device
from reverie.nn.matmul import linear
from reverie.nn.optimisers import Optimiser, load_optimiser, optimiser_state
from reverie.seeding import generator


class Linear(nn.Linear):
    """``torch.nn.Linear`` on the fastest product that this machine has."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


class Head(nn.Module):
    """The output layer. Output c starts as U(-bound, bound) drawn for c alone, so that a head grown class by class equals one made
    whole. bound: of weights; None: 1/sqrt(width), of biases too, which are 0 otherwise."""

    def __init__(self, width: int, outputs: int, seed: int, bound: float | None = None) -> None:
        super().__init__()
        self.width, self.seed, self.bound = width, seed, bound
        self.weight = nn.Parameter(torch.empty(0, width))
        self.bias = nn.Parameter(torch.empty(0))
        self.grow(outputs)

    @property
    def outputs(self) -> int:
        return len(self.weight)

    def grow(self, outputs: int) -> None:
        rows = [self._initial(index) for index in range(self.outputs, outputs)]
        if not rows:
            return
        fresh = torch.stack(rows).to(self.weight)
        self.weight = nn.Parameter(torch.cat([self.weight.detach(), fresh[:, :-1]]))
        self.bias = nn.Parameter(torch.cat([self.bias.detach(), fresh[:, -1]]))

    def restart(self, outputs: int) -> None:
        """As new, with that many outputs; for state that was saved when there were fewer."""
        self.weight = nn.Parameter(self.weight.detach()[:0])
        self.bias = nn.Parameter(self.bias.detach()[:0])
        self.grow(outputs)

    def _initial(self, index: int) -> Tensor:
        bound = 1 / math.sqrt(self.width) if self.bound is None else self.bound
        row = torch.empty(self.width + 1).uniform_(-bound, bound, generator=generator(self.seed, "head", index))
        if self.bound is not None:
            row[-1] = 0
        return row

    def forward(self, features: Tensor) -> Tensor:
        return linear(features, self.weight, self.bias)


class EncoderAndHead(nn.Module):
    """x -> features -> scores; what can be cut says where."""

    def __init__(self, encoder: nn.Module, head: Head) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x))


def mlp(
    sizes: Sequence[int], last_activation: bool = False, activation: Callable[[], nn.Module] = nn.ReLU
) -> nn.Sequential:
    """Linear layers of the given widths with an activation between them, and after the last one on request."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers[: None if last_activation else -1])


def conv_stack(
    channels: Sequence[int], strides: Sequence[int], kernel: int = 3, batch_norm: bool = True, plain_last: bool = False
) -> nn.Sequential:
    """Convolutions, each followed by batch norm (on request) and ReLU; ``plain_last`` leaves both off the last layer.

    channels: one more than strides, the first being the input's.
    """
    layers: list[nn.Module] = []
    pairs = list(pairwise(channels))
    for index, ((inputs, outputs), stride) in enumerate(zip(pairs, strides, strict=True)):
        layers.append(nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2))
        if not (plain_last and index == len(pairs) - 1):
            layers += [nn.BatchNorm2d(outputs)] * batch_norm + [nn.ReLU()]
    return nn.Sequential(*layers)


def pooled_stack(channels: Sequence[int], kernel: int, padding: int) -> nn.Sequential:
    """Convolutions of stride 1 with ReLU, each followed by a 2 x 2 max pooling.

    channels: the input's first. Pooling before ReLU gives the same numbers from a quarter of the work.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(channels):
        layers += [nn.Conv2d(inputs, outputs, kernel, padding=padding), nn.MaxPool2d(2), nn.ReLU()]
    return nn.Sequential(*layers)


def deconv_stack(channels: Sequence[int], batch_norm: bool = True) -> nn.Sequential:
    """Transposed convolutions (kernel 4, stride 2), each doubling height and width; the last one is linear."""
    layers: list[nn.Module] = []
    pairs = list(pairwise(channels))
    for index, (inputs, outputs) in enumerate(pairs):
        layers.append(nn.ConvTranspose2d(inputs, outputs, 4, 2, padding=1))
        if index < len(pairs) - 1:
            layers += [nn.BatchNorm2d(outputs)] * batch_norm + [nn.ReLU()]
    return nn.Sequential(*layers)


def output_width(module: nn.Module, shape: Sequence[int]) -> int:
    """Numbers a row that ``module`` gives for inputs of ``shape``; it changes no buffer of the module."""
    twin = copy.deepcopy(module).eval()
    with torch.no_grad():
        return twin(torch.zeros(1, *shape)).numel()


def channels_last(module: nn.Module) -> nn.Module:
    """The weights of convolutions laid out with the channels last, which halves the time of a convolution on the CPU; no value changes."""
    if any(tensor.dim() == 5 for tensor in module.parameters()):  # three dimensions have a layout of their own
        return module
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def start_as_xavier(module: nn.Module) -> None:
    """Weights of its linear layers and convolutions U(-b, b), b = sqrt(6 / (fan in + fan out)); biases 0 (Glorot and Bengio 2010)."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


class Network:
    """A module on its device with its own optimiser; without one (``optimiser`` None) it is frozen."""

    def __init__(self, module: nn.Module, optimiser: Optimiser | None, device: Device) -> None:
        self.module = channels_last(module.to(device.torch_device)).eval()
        self.device = device
        self.options = optimiser
        if optimiser is None:
            self.module.requires_grad_(False)
            return
        self.renew_optimiser()

    def ready(self, train: bool) -> nn.Module:
        """The module in training mode (dropout, batch statistics) or evaluation mode; switched only where it differs."""
        if self.module.training != train:
            self.module.train(train)
        return self.module

    def update(self, loss: Tensor, clip: float | None = None, unclipped: Tensor | None = None) -> None:
        """clip: largest norm of the gradient of ``loss``; unclipped: a further loss, which it does not hold for."""
        for parameter in self._parameters:
            parameter.grad = None
        loss.backward(retain_graph=unclipped is not None)
        if clip is not None:
            nn.utils.clip_grad_norm_(self._parameters, clip)
        if unclipped is not None:
            unclipped.backward()
        self.optimiser.step()

    def renew_optimiser(self) -> None:
        assert self.options is not None
        self._parameters = list(self.module.parameters())
        self.optimiser = self.options.make(self._parameters)

    def begin_task(self) -> None:
        if self.options is not None and self.options.reset_each_task:
            self.renew_optimiser()

    def change(self, edit: Callable[[nn.Module], None]) -> None:
        """Lets ``edit`` replace parameters (a head that grows) and keeps what the optimiser knew of the others."""
        moments = optimiser_state(self.optimiser) if self.options is not None else {}
        edit(self.module)
        self.module.to(self.device.torch_device)
        if self.options is not None:
            self.renew_optimiser()
            load_optimiser(self.optimiser, moments)

    def frozen(self) -> Network:
        return Network(copy.deepcopy(self.module), None, self.device)

    def num_bytes(self) -> int:
        tensors = [*self.module.parameters(), *self.module.buffers()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def working_bytes(self) -> int:
        """Gradients and optimiser state, on top of the weights."""
        if self.options is None:
            return 0
        weights = sum(parameter.numel() * parameter.element_size() for parameter in self.module.parameters())
        return weights * (1 + self.options.state_per_parameter)

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = {"weights": dict(self.module.state_dict())}
        if self.options is not None:
            state["optimiser"] = optimiser_state(self.optimiser)
        return state

    def load(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state["weights"])
        if self.options is not None:
            load_optimiser(self.optimiser, state["optimiser"])


def multiplications(module: nn.Module, shape: Sequence[int]) -> list[int]:
    """Multiply-accumulates a row of each linear or convolution layer, in the order they run, for inputs of ``shape``."""
    counts: list[int] = []

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not inputs:  # a helper module, such as a weight's parametrisation
            return
        rows = inputs[0].shape[0]
        if isinstance(layer, nn.Linear | Head):
            counts.append(layer.weight.numel() * (output.numel() // rows // layer.weight.shape[0]))
        elif isinstance(layer, nn.Conv2d):
            counts.append(output[0].numel() * layer.weight[0].numel())
        elif isinstance(layer, nn.ConvTranspose2d):
            counts.append(inputs[0][0].numel() * layer.weight[0].numel())

    twin = copy.deepcopy(module).cpu().eval()
    for layer in twin.modules():
        layer.register_forward_hook(count)
    with torch.no_grad():
        twin(torch.zeros(1, *shape))
    return counts


def training_flops(counts: Sequence[int], rows: int, input_gradient: bool = False) -> float:
    """Forward, weight gradients and input gradients; the first layer's input gradient only where asked for."""
    total = sum(counts)
    backward = 2 * total - (0 if input_gradient or not counts else counts[0])
    return 2.0 * rows * (total + backward)


def forward_flops(counts: Sequence[int], rows: int) -> float:
    return 2.0 * rows * sum(counts)
