"""The diagonal of the Fisher information of a classifier or regressor: the mean, over rows, of squared gradients of log p."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import unfold

from reverie.nn.networks import Head, Linear
from reverie.solvers.outputs import log_probabilities
from reverie.types import Batch

FisherLabels = Literal["exact", "sampled", "empirical"]

ROW_GRADIENT_BYTES = 1 << 26  # of gradients a row that are held at once


def fisher_diagonal(
    module: nn.Module,
    batches: Iterable[Batch],
    groups: Tensor | None,
    labels: FisherLabels,
    draw: torch.Generator,
    noise_std: float | None = None,
) -> dict[str, Tensor]:
    """Mean over rows of (d log p(label | row) / d theta_i)^2, for every trained weight by name; in evaluation mode.

    p: the softmax of the row's own group, which is that of its label; with a noise_std, of regression, N(scores, noise_std^2). labels: "exact", the
    mean over all labels, each as likely as p says; "sampled", one label drawn from p by ``draw``, a CPU generator; "empirical", the row's own.
    """

    def ways(scores: Tensor, y: Tensor) -> Iterator[Tensor]:
        if noise_std is None:
            return directions(scores, y, groups, labels, draw)
        return regression_directions(scores, y, noise_std, labels, draw)

    module.eval()
    total = {name: torch.zeros_like(weight) for name, weight in module.named_parameters() if weight.requires_grad}
    rows = 0
    for batch in batches:
        rows += len(batch)
        for name, squares in _summed_squares(module, batch, ways, total):
            total[name] += squares
    return {name: value / rows for name, value in total.items()}


def directions(
    scores: Tensor, y: Tensor, groups: Tensor | None, labels: FisherLabels, draw: torch.Generator
) -> Iterator[Tensor]:
    """(B, outputs) each, detached: v with J^T v = sqrt(q_c) d log p_c / d theta for a label c of weight q_c, J = d scores / d theta.

    Of the softmax d log p_c / d score_k = [k = c] - p_k, within the row's group.
    """
    inside = torch.ones_like(scores, dtype=torch.bool) if groups is None else groups == groups[y][:, None]
    p = log_probabilities(scores.detach(), groups).exp() * inside
    one_hot = torch.eye(scores.shape[1], device=scores.device)
    if labels == "exact":
        for c in inside.any(dim=0).nonzero().flatten().tolist():
            yield p[:, [c]].sqrt() * (one_hot[c] - p)
    else:
        label = y if labels == "empirical" else torch.multinomial(p.cpu(), 1, generator=draw)[:, 0].to(y.device)
        yield one_hot[label] - p


def regression_directions(
    scores: Tensor, y: Tensor, noise_std: float, labels: FisherLabels, draw: torch.Generator
) -> Iterator[Tensor]:
    """As ``directions``, of log N(y; scores, noise_std^2): d log p / d score = (y - score) / noise_std^2, of which the mean square over y is
    1 / noise_std^2, output by output."""
    scores = scores.detach()
    if labels == "exact":
        for k in range(scores.shape[1]):
            way = torch.zeros_like(scores)
            way[:, k] = 1 / noise_std
            yield way
    elif labels == "sampled":
        yield torch.randn(scores.shape, generator=draw).to(scores) / noise_std
    else:
        yield (y - scores) / noise_std**2


def _summed_squares(
    module: nn.Module, batch: Batch, ways: Callable[[Tensor, Tensor], Iterator[Tensor]], names: Iterable[str]
) -> Iterator[tuple[str, Tensor]]:
    """For each weight, the sum over rows and directions of its squared gradient.

    A linear layer z = W a has the gradient delta a^T a row, so the sum of its squares is (delta^2)^T (a^2): one product, and no gradient a
    row is held. A convolution is a linear layer over patches, whose gradient a row is one product of deltas and patches. All other
    weights go row by row, many rows at once (vmap).
    """
    assert batch.y is not None
    scores, layers = _watched(module, batch.x)
    outputs = [layer.output for layer in layers]
    left = set(names) - {name for layer in layers for name in (layer.weight, layer.bias)}
    for way in ways(scores, batch.y):
        if layers:
            deltas = torch.autograd.grad(scores, outputs, way, retain_graph=True, materialize_grads=True)
            for layer, delta in zip(layers, deltas, strict=True):
                weight, bias = _squares(layer, delta)
                yield layer.weight, weight
                if layer.bias is not None:
                    yield layer.bias, bias
        if left:
            yield from _row_by_row(module, batch.x, way, left)


def _row_by_row(module: nn.Module, x: Tensor, way: Tensor, names: set[str]) -> Iterator[tuple[str, Tensor]]:
    every = {name: weight.detach() for name, weight in module.named_parameters()}
    asked = {name: weight for name, weight in every.items() if name in names}

    def score(weights: dict[str, Tensor], row: Tensor, way: Tensor) -> Tensor:
        return (functional_call(module, {**every, **weights}, (row[None],))[0].float() * way).sum()

    gradients = vmap(grad(score), in_dims=(None, 0, 0))
    at_once = max(1, ROW_GRADIENT_BYTES // (4 * sum(weight.numel() for weight in asked.values())))
    for rows, its_way in zip(x.split(at_once), way.split(at_once), strict=True):
        for name, value in gradients(asked, rows, its_way).items():
            yield name, value.square().sum(dim=0)


@dataclass(frozen=True)
class _Seen:
    """A layer in one forward pass: names of its weight and bias, input and output, (B, in) and (B, out) or images."""

    layer: nn.Module
    weight: str
    bias: str | None
    input: Tensor
    output: Tensor


def _squares(seen: _Seen, delta: Tensor) -> tuple[Tensor, Tensor]:
    """Summed over rows, the squared gradients of weight and bias; delta: gradient of each row's score by its output."""
    if not isinstance(seen.layer, nn.Conv2d):
        squares = delta.square()
        return squares.T @ seen.input.square(), squares.sum(dim=0)
    layer, delta = seen.layer, delta.flatten(2)  # (B, out, places)
    patch = layer.weight[0].numel()
    at_once = max(1, ROW_GRADIENT_BYTES // (4 * patch * max(delta.shape[1:])))
    total = delta.new_zeros(len(layer.weight), patch)
    for rows, mine in zip(seen.input.split(at_once), delta.split(at_once), strict=True):
        patches = unfold(rows, layer.kernel_size, layer.dilation, cast(Any, layer.padding), layer.stride)
        total += (mine @ patches.transpose(1, 2)).square().sum(dim=0)
    return total.view_as(layer.weight), delta.sum(dim=2).square().sum(dim=0)


def _watched(module: nn.Module, x: Tensor) -> tuple[Tensor, list[_Seen]]:
    """Scores (B, outputs), and the linear layers and convolutions that each row met once, whose weights are all trained and no one else's."""
    owners = Counter(id(weight) for _, weight in module.named_parameters(remove_duplicate=False))
    calls: defaultdict[str, list[_Seen]] = defaultdict(list)
    hooks = []

    def watch(prefix: str, biased: bool) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            seen = _Seen(layer, f"{prefix}weight", f"{prefix}bias" if biased else None, inputs[0].detach(), output)
            calls[prefix].append(seen)
            return output.clone()  # an activation in place may follow

        return note

    for name, layer in module.named_modules():
        own = dict(layer.named_parameters(recurse=False))
        alone = all(weight.requires_grad and owners[id(weight)] == 1 for weight in own.values())
        if _has_short_cut(layer) and alone and {"weight"} <= own.keys() <= {"weight", "bias"}:
            hooks.append(layer.register_forward_hook(watch(f"{name}." if name else "", "bias" in own)))
    try:
        with torch.enable_grad():
            scores = module(x).float()
    finally:
        for hook in hooks:
            hook.remove()
    once = [seen[0] for seen in calls.values() if len(seen) == 1]
    images = {True: 4, False: 2}
    by_row = [seen for seen in once if seen.output.dim() == images[isinstance(seen.layer, nn.Conv2d)]]
    return scores, [seen for seen in by_row if len(seen.output) == len(x)]


def _has_short_cut(layer: nn.Module) -> bool:
    if type(layer) is nn.Conv2d:
        return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return type(layer) in (nn.Linear, Linear, Head)
