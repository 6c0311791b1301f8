"""Synaptic intelligence: the path integral of a quadratic by hand, and what is done with it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reverie.device import CPU
from reverie.learners import SI
from reverie.nn.optimisers import SGD
from reverie.penalties import PathIntegralPenalty
from reverie.penalties.quadratic import weights_of
from reverie.seeding import Randomness
from reverie.solvers import MLP
from reverie.streams import TensorRows
from reverie.types import StreamSpec
from tests.tiny import differing, snapshot, tiny_stream, train

CURVATURE, GOAL, RATE, STEPS = torch.tensor([1.0, 4.0, 0.0]), torch.tensor([1.0, -2.0, 5.0]), 0.01, 50
SPEC = StreamSpec("test", "class", (5,), (0, 1, 2), ((0, 1, 2),), ("all",), ((0, 1, 2),))


class Toy(nn.Module):
    """Weights and nothing else; one is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([3.0, 0.5, 1.0]))
        self.idle = nn.Parameter(torch.ones(2))


def toy() -> Any:
    return SimpleNamespace(module=Toy())


def penalty(solver: Any, **options: Any) -> PathIntegralPenalty:
    made = PathIntegralPenalty(**options)
    made.build(SPEC, Randomness(0), CPU)
    made.begin(solver)
    return made


def loss(theta: Tensor, goal: Tensor = GOAL) -> Tensor:
    return (CURVATURE * (theta - goal).square()).sum() / 2


def descend(solver: Any, holding: PathIntegralPenalty, steps: int = STEPS, goal: Tensor = GOAL) -> None:
    """Plain gradient descent on the task's loss and the penalty."""
    theta = solver.module.theta
    for _ in range(steps):
        theta.grad = None
        extra = holding.loss(solver)
        total = loss(theta, goal) if extra is None else loss(theta, goal) + extra
        total.backward()
        with torch.no_grad():
            theta -= RATE * theta.grad
        holding.after_step(solver)


def finish(solver: Any, holding: PathIntegralPenalty, task: int = 0) -> None:
    holding.end_task(solver, TensorRows(torch.zeros(1, 5), torch.zeros(1).long()), task, None)


def test_the_path_integral_of_a_quadratic() -> None:
    """omega = eta a^2 d^2 (1 - r^2n) / (1 - r^2), r = 1 - eta a: a geometric series; d the distance at the start."""
    solver = toy()
    start = solver.module.theta.detach().clone()
    holding = penalty(solver)
    descend(solver, holding)
    distance, shrink = start - GOAL, 1 - RATE * CURVATURE
    series = sum(shrink ** (2 * step) for step in range(STEPS))
    omega = RATE * (CURVATURE * distance).square() * series
    torch.testing.assert_close(holding.path["theta"], omega)
    assert bool((holding.path["idle"] == 0).all())  # never had a gradient

    # To first order it is how far each weight brought the loss down: here exactly 1 / (1 - eta a / 2) of that.
    decrease = CURVATURE / 2 * distance.square() * (1 - shrink ** (2 * STEPS))
    torch.testing.assert_close(omega, decrease / (1 - RATE * CURVATURE / 2))
    assert float(holding.path["theta"].sum()) == pytest.approx(
        float(loss(start) - loss(solver.module.theta.detach())), rel=0.03
    )

    end = solver.module.theta.detach().clone()
    finish(solver, holding)
    torch.testing.assert_close(holding.kept.importance["theta"], omega / ((end - start).square() + 0.1))
    assert torch.equal(holding.kept.anchor["theta"], end)
    assert bool((holding.path["theta"] == 0).all())


def test_importances_of_tasks_add_up_and_the_anchor_follows() -> None:
    solver = toy()
    holding = penalty(solver, strength=2.0, damping=0.5)
    descend(solver, holding)
    finish(solver, holding)
    first, middle = holding.kept.importance["theta"].clone(), solver.module.theta.detach().clone()
    holding.begin(solver)
    descend(solver, holding, goal=-GOAL)
    second = holding.path["theta"].clone()
    finish(solver, holding, 1)
    end = solver.module.theta.detach()
    torch.testing.assert_close(
        holding.kept.importance["theta"], first + (second / ((end - middle).square() + 0.5)).clamp(min=-first)
    )
    with torch.no_grad():
        solver.module.theta += 1
    expected = 2 * holding.kept.importance["theta"].sum()
    torch.testing.assert_close(holding.loss(solver), expected)


def test_at_the_anchor_it_neither_costs_nor_pulls() -> None:
    solver = toy()
    holding = penalty(solver)
    descend(solver, holding)
    assert holding.loss(solver) is None
    finish(solver, holding)
    value = holding.loss(solver)
    assert value is not None
    assert value == 0
    (slope, _) = torch.autograd.grad(value, [solver.module.theta, solver.module.idle])
    assert bool((slope == 0).all())


@pytest.mark.parametrize("gradient", ["task", "total"])
def test_whose_gradient_is_integrated(gradient: Any) -> None:
    """One step of a second task, away from the anchor, where the penalty pulls too."""
    solver = toy()
    holding = penalty(solver, gradient=gradient, strength=3.0)
    descend(solver, holding)
    finish(solver, holding)
    with torch.no_grad():
        solver.module.theta += torch.tensor([0.5, -0.2, 0.1])
    holding.begin(solver)
    before = solver.module.theta.detach().clone()
    of_task = CURVATURE * (before + GOAL)
    of_penalty = 6 * holding.kept.importance["theta"] * (before - holding.kept.anchor["theta"])
    assert bool((of_penalty.abs() > 1e-3)[:2].all())
    descend(solver, holding, steps=1, goal=-GOAL)
    change = -RATE * (of_task + of_penalty)  # what moved the weights is both
    expected = -(of_task if gradient == "task" else of_task + of_penalty) * change
    torch.testing.assert_close(holding.path["theta"], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("clip", [True, False])
def test_negative_importances(clip: bool) -> None:
    solver = toy()
    holding = penalty(solver, clip=clip)
    holding.path["theta"] += torch.tensor([1.0, -1.0, 0.0])
    finish(solver, holding)
    torch.testing.assert_close(holding.kept.importance["theta"], torch.tensor([10.0, 0.0 if clip else -10.0, 0.0]))


def test_the_path_of_a_network_sums_to_its_loss_decrease() -> None:
    solver = MLP(hidden=(6,), optimiser=SGD(learning_rate=0.01))
    solver.build(SPEC, Randomness(0), CPU)
    holding = penalty(solver)
    x = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    batch = TensorRows(x, (x.sum(dim=1) > 0).long()).take(torch.arange(20))
    losses = []
    for _ in range(40):
        losses.append(float(solver.step(batch)["cross-entropy"]))
        holding.after_step(solver)
    decrease = losses[0] - float(solver.loss(batch)["cross-entropy"].detach())
    total = sum(float(path.sum()) for path in holding.path.values())
    assert total == pytest.approx(decrease, rel=0.02)


def test_a_head_that_grows_starts_its_path_where_it_is() -> None:
    solver = MLP(hidden=(4,), optimiser=SGD(learning_rate=0.1))
    classes = (0, 1)
    solver.build(StreamSpec("t", "class", (5,), classes, (classes,), ("all",), (classes,)), Randomness(0), CPU)
    holding = penalty(solver)
    data = TensorRows(torch.randn(8, 5, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 2)
    solver.step(data.take(torch.arange(8)))
    holding.after_step(solver)
    finish(solver, holding)
    held = holding.kept.importance["head.weight"].clone()
    solver.grow(4)
    holding.begin(solver)
    assert torch.equal(holding.kept.importance["head.weight"][:2], held)
    assert bool((holding.kept.importance["head.weight"][2:] == 0).all())
    assert holding.path["head.weight"].shape == (4, 4)
    assert torch.equal(holding.kept.anchor["head.weight"], solver.module.head.weight)
    solver.step(data.take(torch.arange(8)), penalty=holding.loss(solver))
    holding.after_step(solver)
    finish(solver, holding, 1)
    assert bool((holding.kept.importance["head.weight"][2:] > 0).any())


def test_beginning_again_after_loading_loses_nothing() -> None:
    solver = toy()
    holding = penalty(solver)
    descend(solver, holding)
    state, fresh = holding.state(), penalty(toy())
    fresh.load(state)
    fresh.begin(solver)
    assert differing(state, fresh.state()) == []
    assert weights_of(solver).keys() == fresh.previous.keys()
    assert torch.equal(fresh.previous["theta"], solver.module.theta)
    path = holding.path["theta"].clone()
    descend(solver, fresh, steps=1)
    assert torch.equal(holding.path["theta"], path)  # a copy was loaded


def test_the_learner_and_its_penalty_have_the_same_options() -> None:
    assert SI().make_penalty().get_params() == PathIntegralPenalty().get_params()  # type: ignore[attr-defined]
    given = {"strength": 3.0, "damping": 0.01, "gradient": "total", "clip": False}
    assert SI(**given).make_penalty().get_params() == given  # type: ignore[arg-type, attr-defined]


def test_what_it_keeps_and_what_it_works_with() -> None:
    run = train("si", tiny_stream("task"))
    memory, before = run.learner.memory(), snapshot(run.learner)
    assert memory.persistent["importances and anchors"] == 2 * memory.persistent["solver"] + 4
    assert memory.working["penalty training"] == 2 * memory.persistent["solver"]
    assert all(bool((path == 0).all()) for path in before["penalty"]["path"].values())
    assert all(bool((importance >= 0).all()) for importance in before["penalty"]["kept"]["importance"].values())
