"""Experience replay with distillation: what the stored rows are to be answered with, and by how much that weighs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from reverie.checks import OptionsError
from reverie.device import CPU
from reverie.learners import Replay
from reverie.nn.optimisers import SGD
from reverie.options import Part
from reverie.replay import Buffer
from reverie.seeding import Randomness
from reverie.solvers import MLP
from reverie.storage import read_tree, write_tree
from tests.learners.test_posteriors import PHASE, STEPS, at_step, rows_of
from tests.learners.vectors import spec_of
from tests.tiny import Halt, differing, halt_after, make_loop, module_bits, tiny_stream, train

SLOW = MLP(hidden=(12,), optimiser=SGD(learning_rate=1e-3))
HEADS = {"all": [range(6)], "all-so-far": [range(4)], "current": [range(2), range(2, 4)]}
OLD_HEADS = {"all": [range(6)], "all-so-far": [range(2)], "current": [range(2)]}


def flat(network: Any) -> Tensor:
    return torch.cat([p.detach().flatten() for p in network.module.parameters()])


@pytest.mark.parametrize("stored_labels", [True, False])
@pytest.mark.parametrize("active", ["all", "all-so-far", "current"])
def test_a_step_is_drawn_to_the_answers_of_the_frozen_solver(active: Any, stored_labels: bool) -> None:
    """Gradient descent against a loss written out, in the second task; a third of it are new rows."""
    stream = tiny_stream()
    part = Replay(
        solver=SLOW, distill=5.0, temperature=3.0, stored_labels=stored_labels, active_classes=active, importance=0.3
    )
    learner = at_step(part, stream, STEPS + 5)
    batch = rows_of(stream, 1)
    past = learner.buffer.sample(8)
    assert batch.y is not None
    before, module = flat(learner.network), learner.network.frozen().module.requires_grad_()
    losses = learner.step(PHASE, batch)

    new, stored = module(batch.x), module(past.x)
    with torch.no_grad():
        taught = learner.past.scores(past.x)
    now, (old,) = HEADS[active], OLD_HEADS[active]
    labels = torch.tensor(0.0)
    for scores, y, r in ((new, batch.y, 0.3), (stored, past.y, 0.7 * stored_labels)):
        head = next(list(head) for head in now if int(y[0]) in head)
        labels = labels + r * cross_entropy(scores[:, head], y - head[0])
    goal = torch.zeros(8, 6)
    goal[:, list(old)] = torch.softmax(taught[:, list(old)] / 3, dim=1)
    head = list(now[0])
    distillation = 0.7 * 5.0 * 9 * cross_entropy(stored[:, head] / 3, goal[:, head])
    torch.testing.assert_close(losses["solver.cross-entropy"], labels.detach(), rtol=1e-5, atol=0)
    torch.testing.assert_close(losses["solver.distillation"], distillation.detach(), rtol=1e-5, atol=0)
    (labels + distillation).backward()
    gradient = torch.cat([p.grad.flatten() for p in module.parameters()])
    torch.testing.assert_close(flat(learner.network) - before, -1e-3 * gradient, rtol=1e-3, atol=1e-6)


def test_a_solver_that_has_not_moved_is_not_pulled() -> None:
    """With the same outputs in the softmax, the frozen solver's answers are its own."""
    stream = tiny_stream()
    weights = []
    for distill in (None, 50.0):
        solver = MLP(hidden=(12,), optimiser=SGD(learning_rate=0.05))
        learner = at_step(Replay(solver=solver, active_classes="all"), stream, STEPS)
        learner.set_params(distill=distill)
        learner.begin_task(stream[1])  # again, so that both meet it with the same weights
        for _ in range(2):
            learner.step(PHASE, rows_of(stream, 1))
            weights.append(flat(learner.network))
    torch.testing.assert_close(weights[0], weights[2], rtol=0, atol=2e-6)
    assert float((weights[1] - weights[3]).abs().max()) > 1e-4


def test_the_solver_is_frozen_as_the_task_finds_it() -> None:
    stream = tiny_stream()
    part = Replay(distill=1.0)
    assert at_step(part, stream, 3).past is None
    for task in (1, 2):
        early, late = (at_step(part, stream, task * STEPS + more) for more in (0, 6))
        assert module_bits(early.past) == module_bits(early.network) == module_bits(late.past)
        assert module_bits(late.network) != module_bits(late.past)
        assert late.memory().working["frozen solver"] == late.network.num_bytes()
        # The frozen one answers the stored rows: a forward pass of three.
        assert late.flops(PHASE, None) == late.network.flops(16) + late.network.flops(8, train=False)
    assert "frozen solver" not in at_step(Replay(), stream, STEPS + 2).memory().working


def test_without_distillation_nothing_has_changed() -> None:
    """The state of a run is as it was before there was the option."""
    assert set(train(Replay(), tiny_stream()).learner.state()) == {
        "task",
        "rows_before",
        "rows_now",
        "solver",
        "buffer",
    }


def test_more_of_it_keeps_more_of_what_was_learnt() -> None:
    """Stored rows without labels: what is remembered is what the frozen solver says of them."""
    stream = tiny_stream(steps=150)
    kept = []
    for distill in (1e-4, 3.0):
        part = Replay(distill=distill, stored_labels=False, active_classes="all-so-far", buffer=Buffer(budget=20))
        kept.append(sum(train(part, stream).accuracy[-1][:2]))  # type: ignore[arg-type]
    assert kept[1] > kept[0] + 0.5


@pytest.mark.parametrize("scenario", ["class", "task", "domain"])
@pytest.mark.parametrize("active", ["all", "all-so-far", "current"])
def test_a_run_broken_off_continues_bit_by_bit(scenario: Any, active: Any, tmp_path: Path) -> None:
    part: Part = Replay(distill=2.0, active_classes=active)
    whole = train(part, tiny_stream(scenario))
    broken = make_loop(part, tiny_stream(scenario), prepare=halt_after(2 * STEPS + 3))
    with pytest.raises(Halt):
        broken.run()
    write_tree(tmp_path / "state", broken.learner.state())
    state = read_tree(tmp_path / "state")
    fresh = make_loop(part, tiny_stream(scenario), prepare=lambda learner: learner.load(state))
    assert differing(fresh.learner.state(), state) == []
    fresh.cursor = broken.cursor
    fresh.record.load(broken.record.state(), torch.device("cpu"))
    fresh.run()
    assert differing(whole.learner.state(), fresh.learner.state()) == []


@pytest.mark.parametrize("options", [{"temperature": 4.0}, {"stored_labels": False}])
def test_options_of_a_distillation_that_there_is_none_of_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionsError, match="concern the distillation, which distill = None leaves out"):
        Replay(**options)
    assert Replay(distill=1.0, **options).distill == 1.0


def test_a_distillation_on_rows_without_weight_is_refused() -> None:
    with pytest.raises(OptionsError, match="stored rows have no weight, so nothing is distilled"):
        Replay(distill=1.0, importance=1.0)


def test_regression_is_refused() -> None:
    with pytest.raises(OptionsError, match=r"distill = 1.0: softens probabilities, and this is regression"):
        Replay(distill=1.0).build(replace(spec_of(2, 2), kind="regression"), Randomness(0), CPU)
