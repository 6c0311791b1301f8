"""All parameters of a network as one vector, and many networks of one shape run at once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import groupby
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from reverie.checks import OptionsError
from reverie.nn.matmul import linear
from reverie.nn.networks import EncoderAndHead, Head, Linear

Kind = Literal["weight", "bias", "scale", "shift"]
Shapes = tuple[tuple[Kind, tuple[int, ...]], ...]
Statistics = dict[str, tuple[Tensor, Tensor]]
"""Of batch norms by the names of their layers: means and unbiased variances of their inputs, (channels,) each."""

BatchNorm = nn.modules.batchnorm._BatchNorm
NORMS = (BatchNorm, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)
DENSE = (nn.Linear, Linear, Head)
ELEMENTWISE = (nn.ReLU, nn.Sigmoid, nn.Tanh, nn.ELU, nn.GELU, nn.LeakyReLU, nn.SiLU, nn.Softplus, nn.Identity)


@dataclass(frozen=True)
class Entry:
    """A parameter and where it lies in the vector. fan_in: inputs that one unit of its layer adds up; layer: which of the body it belongs to, a
    norm to the layer before it."""

    name: str
    shape: tuple[int, ...]
    kind: Kind
    fan_in: int
    start: int
    layer: int = 0

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
        _check(module, self.head)
        self.entries: list[Entry] = []
        self.body = 0
        last, index = None, -1
        for name, parameter in module.named_parameters():
            if self.head is not None and name in ("head.weight", "head.bias"):
                continue
            layer, own = kinds[name]
            # A list is no layer: each of its parameters stands for itself.
            if index < 0 or isinstance(layer, nn.ParameterList) or not (layer is last or isinstance(layer, NORMS)):
                index += 1
            last = layer
            kind, fan_in = _kind(layer, own, parameter), _fan_in(layer, parameter)
            entry = Entry(name, tuple(parameter.shape), kind, fan_in, self.body, index)
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
        return self.gather(dict(module.named_parameters()))

    def gather(self, named: Mapping[str, Tensor]) -> Tensor:
        """(numel,) one number for each parameter, from tensors of their shapes by name."""
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

    def layers(self) -> list[tuple[Shapes, int, int]]:
        """(kinds and shapes of its parameters, start, stop) of each layer of the body, in order."""
        found = []
        for _, group in groupby(self.entries, key=lambda entry: entry.layer):
            entries = list(group)
            shapes = tuple((entry.kind, entry.shape) for entry in entries)
            found.append((shapes, entries[0].start, entries[-1].stop))
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


def _check(module: nn.Module, head: Head | None) -> None:
    """Raises OptionsError for what would not be the same network with its parameters made elsewhere."""
    named = dict(module.named_parameters())
    for name in ("head.weight", "head.bias") if head is not None else ():
        if name not in named:
            twin = next(other for other, value in named.items() if value is module.get_parameter(name))
            raise OptionsError(
                f"{name} is also {twin}: the head is made output by output and cannot share its parameters; give it some of its own"
            )
    places: dict[int, str] = {}
    for name, parameter in named.items():
        if parameter.numel() and not parameter.is_meta:
            other = places.setdefault(parameter.data_ptr(), name)
            if other != name:
                raise OptionsError(
                    f"{name} lies in the memory of {other} but is a parameter by itself: they would be made as two; assign one "
                    "nn.Parameter to both layers, or two that are apart"
                )
    for name, layer in module.named_modules():
        if isinstance(layer, nn.modules.instancenorm._InstanceNorm) and layer.track_running_stats:
            raise OptionsError(
                f"{name}: instance norm that keeps running statistics, and of those only batch norm's are kept for each task; use "
                "track_running_stats=False"
            )
        if isinstance(layer, nn.utils.parametrizations._SpectralNorm):
            raise OptionsError(
                f"{name}: spectral norm keeps vectors that change as the weights are trained, and no hypernetwork makes these; leave it out"
            )


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

    Batch norm: ``train`` normalises by the statistics of the batch, those of each network by themselves, and returns their means over the
    networks; evaluation takes the ``statistics`` it is given. The module's own running statistics are where they start, and never change.
    """

    def __init__(self, module: nn.Module, spec: ParameterSpec) -> None:
        self.module, self.spec = module.eval(), spec
        self.chain = dense_chain(module)
        batch_norms = ((name, layer) for name, layer in module.named_modules() if isinstance(layer, BatchNorm))
        # Without running statistics it goes by the batch in evaluation too, and has nothing to keep.
        self.norms = {name: layer for name, layer in batch_norms if layer.running_mean is not None}
        self.constants = [name for name, _ in module.named_buffers() if name.rpartition(".")[0] not in self.norms]

    @property
    def statistics(self) -> Statistics:
        """Those that are there before any batch."""
        found = {name: (layer.running_mean, layer.running_var) for name, layer in self.norms.items()}
        return {name: (cast(Tensor, mean).clone(), cast(Tensor, var).clone()) for name, (mean, var) in found.items()}

    def __call__(self, weights: Tensor, x: Tensor, statistics: Statistics | None = None) -> Tensor:
        """statistics: that batch norms go by; None: those of ``self.statistics``."""
        buffers: dict[str, Tensor] = {}
        for name, (mean, variance) in (statistics or {}).items():
            buffers |= {f"{name}.running_mean": mean, f"{name}.running_var": variance}
        return self._run(weights, x, buffers, {})[0]

    def train(self, weights: Tensor, x: Tensor) -> tuple[Tensor, Statistics]:
        """(S, B, outputs) by the statistics of the batch, and these, without gradient."""
        scores, found = self._run(weights, x, {}, self.norms)
        return scores, {name: (mean.mean(dim=0), variance.mean(dim=0)) for name, (mean, variance) in found.items()}

    def _run(
        self, weights: Tensor, x: Tensor, buffers: Mapping[str, Tensor], live: Mapping[str, BatchNorm]
    ) -> tuple[Tensor, Statistics]:
        """Scores, and of norms that go by the batch its statistics for each network, (S, channels)."""
        parameters = self.spec.unflatten(weights)
        if self.chain is not None:
            return _dense(self.chain, parameters, x), {}

        def one(own: Mapping[str, Tensor]) -> tuple[Tensor, Statistics]:
            with _by_the_batch(live) as found:
                return functional_call(self.module, {**own, **buffers}, (x,)), found

        before = self._versions()
        if len(weights) > 1:
            scores, found = vmap(one)(parameters)
        else:  # without vmap, which some operators do not know
            # Contiguous: the fast product takes a bias of a larger vector for one that lies by itself.
            answer, seen = one({name: value[0].contiguous() for name, value in parameters.items()})
            scores, found = answer[None], {name: (mean[None], var[None]) for name, (mean, var) in seen.items()}
        for name, old, new in zip(self.constants, before, self._versions(), strict=True):
            if old != new:
                raise OptionsError(
                    f"{name}: a buffer that changes as the network runs, and of such only batch norm's are kept for each task; leave it out"
                )
        return scores, found

    def _versions(self) -> list[tuple[int, int]]:
        buffers = [self.module.get_buffer(name) for name in self.constants]
        return [(id(buffer), buffer._version) for buffer in buffers]


@contextmanager
def _by_the_batch(norms: Mapping[str, BatchNorm]) -> Iterator[Statistics]:
    """These layers, while one pass runs, normalise by their inputs and add the statistics to what is given."""
    found: Statistics = {}

    def record(name: str, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if name in found:
            raise OptionsError(
                f"{name}: a batch norm that is run twice a pass, whose statistics belong to no one place; give each place a layer of its own"
            )
        x = inputs[0].detach()
        x = x.to(torch.promote_types(x.dtype, torch.float32))  # under autocast
        variance, mean = torch.var_mean(x, dim=[0, *range(2, x.dim())])
        found[name] = mean, variance

    with ExitStack() as hooks:
        try:
            for name, layer in norms.items():
                hooks.enter_context(layer.register_forward_pre_hook(partial(record, name)))
                layer.training, layer.track_running_stats = True, False  # so it neither reads nor moves its own
            yield found
        finally:
            for layer in norms.values():
                layer.training, layer.track_running_stats = False, True


def running(old: Statistics, new: Statistics, momentum: float = 0.1) -> Statistics:
    """The running average that follows ``new``, as ``torch.nn.BatchNorm2d`` keeps it; one momentum for all layers, whatever theirs."""
    return {
        name: (torch.lerp(mean, new[name][0], momentum), torch.lerp(variance, new[name][1], momentum))
        for name, (mean, variance) in old.items()
    }


def average(each: Sequence[Statistics]) -> Statistics:
    """The plain mean of several networks' statistics."""

    def mean(name: str, which: int) -> Tensor:
        return torch.stack([found[name][which] for found in each]).mean(dim=0)

    return {name: (mean(name, 0), mean(name, 1)) for name in each[0]}


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
