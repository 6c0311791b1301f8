"""The Fisher information: against its closed form, and against a loop over rows and labels that no one could mistake."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reverie.device import CPU
from reverie.nn.networks import Linear
from reverie.penalties import fisher
from reverie.penalties.fisher import fisher_diagonal
from reverie.seeding import Randomness
from reverie.solvers import CNN, MLP, Classifier, Module
from reverie.types import Batch, StreamSpec
from tests.tiny import differing

SHAPE = (1, 6, 6)
HEADS = torch.tensor([0, 0, 1, 1, -1])
GROUPS = {"one softmax": None, "heads": HEADS, "so far": torch.tensor([0, 0, 0, 0, -1])}
KINDS = ("exact", "sampled", "empirical")


class Noisy(nn.Module):
    """Dropout and batch statistics: in training mode rows would disturb each other and themselves."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Dropout(0.5), nn.Flatten())
        self.layers[1].running_mean.uniform_(-0.1, 0.1)
        self.layers[1].running_var.uniform_(0.5, 1.5)


class Images(nn.Module):
    """Convolutions of every kind: stride, dilation, padding, without bias, in groups, padded by reflection, or as wide as their input."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(
                nn.Conv2d(1, 4, 3, stride=2, padding=1, bias=False),
                nn.ReLU(),
                nn.Conv2d(4, 6, 2, dilation=2),
                nn.ReLU(),
            ),
            *(nn.Conv2d(6, 6, 3, padding="same"), nn.ReLU(), nn.Conv2d(6, 4, 1, groups=2), nn.ReLU()),
            *(nn.Conv2d(4, 4, 3, padding=1, padding_mode="replicate"), nn.Flatten()),
        )


class Odd(nn.Module):
    """Linear layers as the short cut must not take them: over steps, over steps made rows, twice, tied, and partly frozen."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.first, self.second = nn.Linear(6, 6), Linear(6, 6)
        if kind == "tied":
            self.second.weight = self.first.weight
        if kind == "frozen":
            self.first.weight.requires_grad_(False)
        if kind == "weight norm":
            torch.nn.utils.parametrizations.weight_norm(self.first)

    def forward(self, x: Tensor) -> Tensor:
        steps = x[:, 0]  # (B, 6, 6)
        if self.kind == "over steps":
            return self.second(self.first(steps).tanh()).mean(dim=1)
        if self.kind == "steps as rows":
            return self.first(steps.reshape(-1, 6)).tanh().reshape(len(x), 6, 6).mean(dim=1)
        row = steps[:, 0]
        if self.kind == "twice":
            return self.second(self.first(self.first(row).tanh()))
        if self.kind == "in place":
            return self.second(self.first(row).relu_()).tanh_()
        return self.second(self.first(row).tanh())


ODD = ("over steps", "steps as rows", "twice", "in place", "tied", "frozen", "weight norm")
SOLVERS: dict[str, Callable[[], Classifier]] = {
    "linear": lambda: Module(lambda shape: nn.Flatten()),
    "mlp": lambda: MLP(hidden=(7, 5)),
    "cnn": lambda: CNN(channels=(2, 3), width=4),
    "noisy": lambda: Module(lambda shape: Noisy(shape).layers),
    "images": lambda: Module(lambda shape: Images(shape).layers),
}


def module(name: str) -> nn.Module:
    if name in ODD:
        torch.manual_seed(0)
        return nn.Sequential(Odd(name), nn.Linear(6, 5))
    classes = tuple(range(5))
    solver = SOLVERS[name]()
    spec = StreamSpec("test", "class", SHAPE, classes, (classes,), ("all",), (classes,))
    solver.build(spec, Randomness(0), CPU)
    return solver.module


def rows(n: int = 7) -> Batch:
    x = torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(1))
    return Batch(x, torch.arange(n) % 4, torch.zeros(n).long(), torch.full((n,), 1 / n))


def draw() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def estimate(net: nn.Module, kind: Any = "exact", groups: Tensor | None = None, size: int = 4) -> dict[str, Tensor]:
    whole = rows()
    parts = [Batch(x, y, y, y.float()) for x, y in zip(whole.x.split(size), whole.y.split(size), strict=True)]
    return fisher_diagonal(net, parts, groups, kind, draw())


def by_hand(net: nn.Module, kind: str, groups: Tensor | None) -> dict[str, Tensor]:
    """One row, one label, one backward pass at a time."""
    net = deepcopy(net).eval()
    weights = {name: weight for name, weight in net.named_parameters() if weight.requires_grad}
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    batch, generator = rows(), draw()
    for xs, ys in zip(batch.x.split(4), batch.y.split(4), strict=True):  # labels are drawn a chunk at a time
        inside = [torch.arange(5) if groups is None else (groups == groups[y]).nonzero().flatten() for y in ys]
        p = torch.zeros(len(ys), 5)
        for row, among in enumerate(inside):
            p[row, among] = net(xs[row : row + 1])[0, among].softmax(dim=0).detach()
        sampled = torch.multinomial(p, 1, generator=generator)[:, 0] if kind == "sampled" else None
        for row, among in enumerate(inside):
            label = {"exact": None, "sampled": sampled, "empirical": ys}[kind]
            asked = among.tolist() if label is None else [int(label[row])]
            for c in asked:
                log_p = net(xs[row : row + 1])[0, among].log_softmax(dim=0)[among.tolist().index(c)]
                share = p[row, c] if kind == "exact" else 1.0
                gradients = torch.autograd.grad(log_p, list(weights.values()), materialize_grads=True)
                for name, gradient in zip(weights, gradients, strict=True):
                    total[name] += share * gradient.square() / len(batch)
    return total


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(
            value, theirs[name], rtol=1e-4, atol=1e-8, msg=lambda text, name=name: f"{name}: {text}"
        )


# ---------------------------------------------------------------------------------------------- closed form


def test_exact_is_the_closed_form_of_a_linear_softmax() -> None:
    """F of weight (c, j) is the mean of p_c (1 - p_c) x_j^2."""
    net, batch = module("linear"), rows()
    p = net(batch.x).softmax(dim=1).detach()
    spread = p * (1 - p)
    found = estimate(net)
    torch.testing.assert_close(found["head.weight"], spread.T @ batch.x.flatten(1).square() / len(batch))
    torch.testing.assert_close(found["head.bias"], spread.mean(dim=0))


def test_empirical_is_the_closed_form_of_a_linear_softmax() -> None:
    """F of weight (c, j) is the mean of ([y = c] - p_c)^2 x_j^2."""
    net, batch = module("linear"), rows()
    error = torch.eye(5)[batch.y] - net(batch.x).softmax(dim=1).detach()
    torch.testing.assert_close(
        estimate(net, "empirical")["head.weight"], error.square().T @ batch.x.flatten(1).square() / len(batch)
    )


def test_sampled_is_exact_on_average() -> None:
    net, batch = module("linear"), rows(2)
    many = Batch(batch.x.repeat(4000, 1, 1, 1), batch.y.repeat(4000), batch.task, batch.weight)
    sampled = fisher_diagonal(net, [many], None, "sampled", draw())
    exact = fisher_diagonal(net, [batch], None, "exact", draw())
    torch.testing.assert_close(sampled["head.bias"], exact["head.bias"], rtol=0.05, atol=0)
    assert differing(sampled, fisher_diagonal(net, [many], None, "sampled", draw())) == []


# ---------------------------------------------------------------------------------------------- row by row


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SOLVERS)
def test_equals_a_loop_over_rows(name: str, kind: str, groups: Tensor | None) -> None:
    net = module(name)
    assert_same(estimate(net, kind, groups), by_hand(net, kind, groups))


@pytest.mark.parametrize("kind", ODD)
def test_networks_that_the_short_cut_does_not_suit(kind: str) -> None:
    net = module(kind)
    assert_same(estimate(net, groups=HEADS), by_hand(net, "exact", HEADS))


@pytest.mark.parametrize("name", ["mlp", "images"])
def test_the_short_cut_and_the_long_way_agree(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    net = module(name)
    short = estimate(net)
    real = fisher._watched
    monkeypatch.setattr(fisher, "_watched", lambda module, x: (real(module, x)[0], []))
    monkeypatch.setattr(fisher, "ROW_GRADIENT_BYTES", 1)  # a row at a time
    assert_same(estimate(net), short)


def test_the_short_cut_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the networks here, only batch norm and convolutions in groups or with their own padding go row by row."""
    asked: list[set[str]] = []
    real = fisher._row_by_row
    monkeypatch.setattr(fisher, "_row_by_row", lambda *args: asked.append(args[3]) or real(*args))
    estimate(module("mlp"))
    estimate(module("in place"))
    estimate(module("cnn"))
    assert asked == []
    estimate(module("images"), size=7)
    assert asked == [{f"encoder.0.{layer}.{kind}" for layer in (4, 6, 8) for kind in ("weight", "bias")}] * 5  # a label


def test_weights_outside_the_rows_softmax_get_nothing() -> None:
    found = estimate(module("mlp"), groups=HEADS)
    assert bool((found["head.weight"][:4] > 0).any(dim=1).all())
    assert bool((found["head.weight"][4] == 0).all())
    first = rows(2)  # labels 0 and 1: the other head is not trained by them
    alone = fisher_diagonal(module("mlp"), [first], HEADS, "exact", draw())
    assert bool((alone["head.bias"][2:] == 0).all())


# ---------------------------------------------------------------------------------------------- what it must not do


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_a_mean_however_the_rows_come(kind: str) -> None:
    net = module("mlp")
    if kind != "sampled":
        batch = rows()
        assert_same(fisher_diagonal(net, [batch, batch], None, kind, draw()), estimate(net, kind))  # type: ignore[arg-type]
    assert_same(estimate(net, kind, size=7), estimate(net, kind, size=2))


def test_it_is_taken_in_evaluation_mode_and_leaves_the_network_as_it_was() -> None:
    net = module("noisy")
    expected = by_hand(net, "exact", None)
    before = deepcopy(net.state_dict())
    net.train()
    assert_same(estimate(net), expected)  # with dropout alive or batch statistics it would not be this
    assert not net.training
    assert differing(before, net.state_dict()) == []
    assert all(weight.grad is None for weight in net.parameters())
    assert not any(layer._forward_hooks for layer in net.modules())


def test_rows_that_cannot_be_read_leave_no_hook_behind() -> None:
    net = module("mlp")
    bad = Batch(torch.zeros(2, 3), torch.zeros(2).long(), torch.zeros(2).long(), torch.ones(2) / 2)
    with pytest.raises(RuntimeError):
        fisher_diagonal(net, [bad], None, "exact", draw())
    assert not any(layer._forward_hooks for layer in net.modules())
