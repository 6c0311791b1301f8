"""Cutting a network in two at a named module: what lies below can be frozen, what lies above goes on learning.

The network's data flow is traced once (torch.fx). A place is a cut if everything that is computed later reaches the input only
through it: inside a residual block there is none, after the block there is one.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from reverie.checks import OptionsError, nearest
from reverie.nn.networks import multiplications


@dataclass(frozen=True)
class CutPoint:
    """name: module whose output is the latent; kind: its class; shape: of a latent; below, above: parameters on either side;
    multiplications: multiply-accumulates a row below the cut, which a rehearsed row is spared; usual: whether the network is cut
    here where nothing else is said."""

    name: str
    kind: str
    shape: tuple[int, ...]
    below: int
    above: int
    multiplications: int
    usual: bool = False

    @property
    def width(self) -> int:
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Of a latent in float32."""
        return 4 * self.width


class _Tracer(fx.Tracer):
    """Every module without children, and every one of torch's own but its containers, is one step."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        containers = isinstance(m, nn.Sequential | nn.ModuleList | nn.ModuleDict)
        return not containers and (m.__module__.startswith("torch.nn") or not list(m.children()))


def cut_points(module: nn.Module, shape: Sequence[int]) -> list[CutPoint]:
    """All places where ``module``, for inputs of ``shape``, can be cut, from the input to the output.

    Raises OptionsError where the data flow cannot be traced.
    """
    graph = _graph(module)
    total = sum(parameter.numel() for parameter in module.parameters())
    found = []
    for node in _bottlenecks(graph)[:-1]:  # the last is the output itself
        lower, _ = _halves(module, graph, node)
        twin = copy.deepcopy(lower).cpu().eval()
        with torch.no_grad():
            out = twin(torch.zeros(1, *shape))
        if not isinstance(out, Tensor):
            continue
        below = sum(parameter.numel() for parameter in lower.parameters())
        kind = type(module.get_submodule(str(node.target))).__name__
        spared = sum(multiplications(twin, shape))
        found.append(CutPoint(str(node.target), kind, tuple(out.shape[1:]), below, total - below, spared))
    return found


def split(module: nn.Module, place: str, inside: str = "") -> tuple[nn.Module, nn.Module]:
    """(below, above) with above(below(x)) = module(x), both sharing the module's parameters.

    place: a module's dotted name; that of a container means its last module. inside: what ``module`` is called in the whole network, with which
    its places are shown and ``place`` may begin. Raises OptionsError for a name that is no cut.
    """
    graph = _graph(module)
    around = f"{inside}." if inside else ""
    name = place.removeprefix(around)
    places = {str(node.target): node for node in _bottlenecks(graph)}
    shown = [around + target for target in places]
    modules = dict(module.named_modules())
    if name not in modules:
        hint = nearest(place, [*shown, inside] if inside else shown)
        raise OptionsError(f"cut = {place!r}: the network has no module of this name; {hint}")
    within = [target for target in places if target == name or target.startswith(f"{name}.")]
    last = [str(n.target) for n in graph.nodes if n.op == "call_module" and f"{n.target}.".startswith(f"{name}.")]
    if not last:
        raise OptionsError(f"cut = {place!r}: this module is not run by the network's forward; {nearest(place, shown)}")
    if not within or within[-1] != last[-1]:
        raise OptionsError(
            f"cut = {place!r}: a connection runs around this module, so what lies above needs more than its output; "
            f"cut at one of {', '.join(shown)}"
        )
    return _halves(module, graph, places[within[-1]])


def _graph(module: nn.Module) -> fx.Graph:
    tracer = _Tracer()
    try:
        return tracer.trace(module)
    except Exception as error:  # whatever the user's forward does with the proxies
        raise OptionsError(
            f"cut: the network's data flow cannot be traced ({type(error).__name__}: {error}); its forward must not branch on the "
            "data; wrap the part that does in a module of its own without children, or hand in the frozen part alone"
        ) from error


def _bottlenecks(graph: fx.Graph) -> list[fx.Node]:
    """Module calls that everything later passes through."""
    nodes = [node for node in graph.nodes if node.op not in ("get_attr", "output")]
    place = {node: index for index, node in enumerate(nodes)}
    furthest = -1  # the latest use of anything made so far
    found = []
    for index, node in enumerate(nodes):
        if node.op == "call_module" and furthest <= index:
            found.append(node)
        uses = [place[user] for user in node.users if user in place]
        furthest = max([furthest, *uses])
    return found


def _halves(module: nn.Module, graph: fx.Graph, cut: fx.Node) -> tuple[nn.Module, nn.Module]:
    lower, upper = fx.Graph(), fx.Graph()
    known: dict[fx.Node, fx.Node] = {}
    into = lower
    for node in graph.nodes:
        if node.op == "output":
            (result,) = node.args
            upper.output(_renamed(result, known))
            continue
        known[node] = into.node_copy(node, known.__getitem__)
        if node is cut:
            lower.output(known[node])
            into = upper
            known = {k: upper.node_copy(k) for k in known if k.op == "get_attr"}
            known[node] = upper.placeholder("latent")
    return fx.GraphModule(module, lower), fx.GraphModule(module, upper)


def _renamed(value: Any, known: dict[fx.Node, fx.Node]) -> Any:
    return fx.node.map_arg(value, lambda node: known[node])
