"""All parameters of a network as one vector, and many networks of one shape run at once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from reverie.checks import OptionsError
from reverie.nn.matmul import linear
from reverie.nn.networks import EncoderAndHead, Head, Linear

Kind = Literal["weight", "bias", "scale", "shift"]

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)
DENSE = (nn.Linear, Linear, Head)
ELEMENTWISE = (nn.ReLU, nn.Sigmoid, nn.Tanh, nn.ELU, nn.GELU, nn.LeakyReLU, nn.SiLU, nn.Softplus, nn.Identity)


@dataclass(frozen=True)
class Entry:
    """A parameter and where it lies in the vector. fan_in: inputs that one unit of its layer adds up."""

    name: str
    shape: tuple[int, ...]
    kind: Kind
    fan_in: int
    start: int

    @property
    def stop(self) -> int:
        return self.start + math.prod(self.shape)


class ParameterSpec:
    """The layout of the parameters of a module in one vector (numel,): those of the body in order, then, output by output, the
    weights and the bias of its head, so that a head that grows only makes the vector longer.

    The head is a ``Head`` named ``head``; a module without one is all body. Raises OptionsError where nothing can be generated.
    """

    def __init__(self, module: nn.Module) -> None:
        head = getattr(module, "head", None)
        self.head = head if isinstance(head, Head) else None
        kinds = {
            f"{name}.{own}".lstrip("."): (layer, own)
            for name, layer in module.named_modules()
            for own in dict(layer.named_parameters(recurse=False))
        }
        self.entries: list[Entry] = []
        self.body = 0
        for name, parameter in module.named_parameters():
            if self.head is not None and name in ("head.weight", "head.bias"):
                continue
            layer, own = kinds[name]
            entry = Entry(
                name, tuple(parameter.shape), _kind(layer, own, parameter), _fan_in(layer, parameter), self.body
            )
            self.entries.append(entry)
            self.body = entry.stop
        self.width = 0 if self.head is None else self.head.width
        self.outputs = 0 if self.head is None else self.head.outputs
        if not self.numel:
            raise OptionsError("the network has no parameters, so nothing can be generated for it")

    @property
    def numel(self) -> int:
        return self.body + self.outputs * (self.width + 1)

    def with_outputs(self, outputs: int) -> ParameterSpec:
        """The same with another number of outputs."""
        twin = object.__new__(ParameterSpec)
        twin.__dict__.update({name: value for name, value in vars(self).items() if name != "tensors"}, outputs=outputs)
        return twin

    def flatten(self, module: nn.Module) -> Tensor:
        """(numel,) what the module holds."""
        named = dict(module.named_parameters())
        parts = [named[entry.name].detach().flatten() for entry in self.entries]
        if self.head is not None:
            both = [named["head.weight"].detach(), named["head.bias"].detach()[:, None]]
            parts.append(torch.cat(both, dim=1).flatten())
        return torch.cat(parts)

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """(..., numel) -> parameters (..., *shape) by name, as views."""
        lead = vector.shape[:-1]
        # One split, whose gradient is one concatenation: that of many slices is many vectors of zeros.
        sizes = [entry.stop - entry.start for entry in self.entries]
        *parts, last = vector.split([*sizes, self.numel - self.body], dim=-1)
        found = {entry.name: part.view((*lead, *entry.shape)) for entry, part in zip(self.entries, parts, strict=True)}
        if self.head is not None:
            rows = last.view(*lead, self.outputs, self.width + 1)
            found["head.weight"], found["head.bias"] = rows[..., :-1], rows[..., -1]
        return found

    def blocks(self) -> list[tuple[Kind, int, int, int]]:
        """(kind, fan_in, start, stop) of what is initialised alike, in order: each parameter of the body, and of each output of
        the head its weights and its bias."""
        found = [(entry.kind, entry.fan_in, entry.start, entry.stop) for entry in self.entries]
        for output in range(self.outputs):
            start = self.body + output * (self.width + 1)
            found += [
                ("weight", self.width, start, start + self.width),
                ("bias", self.width, start + self.width, start + self.width + 1),
            ]
        return found

    @cached_property
    def tensors(self) -> list[Tensor]:
        """Places of each parameter, as the module has them, in the vector."""
        found = [torch.arange(entry.start, entry.stop) for entry in self.entries]
        if self.head is not None:
            rows = torch.arange(self.body, self.numel).view(self.outputs, self.width + 1)
            found += [rows[:, :-1].flatten(), rows[:, -1]]
        return found

    def mask(self, classes: Iterable[int]) -> Tensor:
        """(numel,) bool: the body, and of the head the rows of these outputs."""
        mine = torch.zeros(self.outputs, self.width + 1, dtype=torch.bool)
        mine[list(classes)] = True
        return torch.cat([torch.ones(self.body, dtype=torch.bool), mine.flatten()])


def _kind(layer: nn.Module, own: str, parameter: Tensor) -> Kind:
    if isinstance(layer, NORMS):
        return "scale" if own == "weight" else "shift"
    return "weight" if parameter.dim() > 1 else "bias"


def _fan_in(layer: nn.Module, parameter: Tensor) -> int:
    if isinstance(layer, NORMS):
        return 1
    weight = parameter if parameter.dim() > 1 else getattr(layer, "weight", None)
    return math.prod(weight.shape[1:]) if isinstance(weight, Tensor) and weight.dim() > 1 else 1


# --------------------------------------------------------------------------------- many networks at once


class Ensemble:
    """Networks of one shape and many weights: ``ensemble(weights (S, numel), x (B, ...))`` is (S, B, outputs), in evaluation mode.

    Chains of linear layers and functions of single numbers are run as a few batched products; anything else by ``vmap``.
    """

    def __init__(self, module: nn.Module, spec: ParameterSpec) -> None:
        self.module, self.spec = module.eval(), spec
        self.chain = dense_chain(module)

    def __call__(self, weights: Tensor, x: Tensor) -> Tensor:
        parameters = self.spec.unflatten(weights)
        if self.chain is not None:
            return _dense(self.chain, parameters, x)
        if len(weights) == 1:  # without vmap, which some operators do not know
            # Contiguous: the fast product takes a bias of a larger vector for one that lies by itself.
            alone = {name: value[0].contiguous() for name, value in parameters.items()}
            return functional_call(self.module, alone, (x,))[None]
        return vmap(lambda one: functional_call(self.module, one, (x,)))(parameters)


Link = tuple[str, nn.Module]


def dense_chain(module: nn.Module) -> list[Link] | None:
    """The layers of a network in the order they run, with the prefix of their parameters, where that is a chain of linear layers and
    functions of single numbers after flattening; else None."""
    chain = list(_links(module, ""))
    kinds = [type(layer) for _, layer in chain]
    if not chain or kinds[0] is not nn.Flatten:
        return None
    # The types themselves: a subclass may compute what it likes.
    if not set(kinds[1:]) <= {*DENSE, *ELEMENTWISE}:
        return None
    names = {name for name, _ in module.named_parameters()}  # what layers share has one name alone
    needed = {
        f"{prefix}{own}"
        for prefix, layer in chain
        if isinstance(layer, DENSE)
        for own in ("weight", "bias")
        if getattr(layer, own) is not None
    }
    return chain[1:] if needed <= names else None


def _links(module: nn.Module, prefix: str) -> Iterable[Link]:
    children: list[tuple[str, nn.Module]] = []
    if type(module) is nn.Sequential:
        children = list(zip(map(str, module._modules), module))  # not named_children: a layer may stand there twice
    elif type(module) is EncoderAndHead:
        children = list(module.named_children())
    if not children:
        yield prefix, module
        return
    for name, child in children:
        yield from _links(child, f"{prefix}{name}.")


def _dense(chain: Sequence[Link], parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
    h = x.flatten(1)
    for prefix, layer in chain:
        if not isinstance(layer, DENSE):
            h = layer(h)
            continue
        weight, bias = parameters[f"{prefix}weight"], parameters.get(f"{prefix}bias")
        samples, outputs = weight.shape[:2]
        if h.dim() == 2:  # all networks see the same rows: one product
            flat = linear(h, weight.reshape(samples * outputs, -1))
            h = flat.view(len(h), samples, outputs).transpose(0, 1)
            h = h if bias is None else h + bias[:, None]
        elif bias is None:
            h = torch.bmm(h, weight.transpose(1, 2))
        else:
            h = torch.baddbmm(bias[:, None], h, weight.transpose(1, 2))
    return h
