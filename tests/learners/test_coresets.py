"""Coresets: which rows are held out, what they are to be answered with, and what a phase on them does to the posteriors of all tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import cross_entropy, softplus

from reverie.checks import OptionsError
from reverie.learners import VCL, PosteriorReplay, SeparatePosteriors
from reverie.learners.coresets import CORESET, Coreset
from reverie.nn.hypernetworks import Full
from reverie.nn.optimisers import SGD, Adam
from reverie.options import Part
from reverie.posteriors import Dirac
from reverie.seeding import Position, Randomness
from reverie.solvers import MLP
from reverie.storage import read_tree, write_tree
from reverie.streams.rows import TensorRows
from reverie.types import Batch, Phase, Rows, Task
from tests.learners.test_posteriors import STEPS, at_step, inputs, of_mlp
from tests.learners.vectors import spec_of
from tests.tiny import Halt, bits, differing, halt_after, make_loop, tiny_stream, train

# ----------------------------------------------------------------------------------------------------------------------

HYPERNETWORK = Full(task_dim=4, init="xavier")
SIZE = 7
TUNE = Phase(CORESET, 8, steps=STEPS)
METHODS = [PosteriorReplay(hypernetwork=HYPERNETWORK), SeparatePosteriors(), VCL()]
every_method = pytest.mark.parametrize("part", METHODS, ids=["replay", "separate", "one for all"])


def with_coreset(part: Part, **options: Any) -> Any:
    return part.clone().set_params(coreset=Coreset(**{"size": SIZE, **options}))


def numbered(rows: int = 20) -> Task:
    """Rows that say which they are."""
    x = torch.arange(rows, dtype=torch.float32)[:, None].expand(-1, 2).clone()
    return Task(0, "numbers", (0, 1), TensorRows(x, torch.arange(rows) % 2))


def coreset_of(seed: int = 0, tasks: int = 1, **options: Any) -> Coreset:
    coreset = Coreset(**{"size": SIZE, **options})
    coreset.build(spec_of(2, 2, tasks), Randomness(seed))
    return coreset


def first_inputs(rows: Rows) -> list[float]:
    return rows.take(torch.arange(len(rows))).x[:, 0].tolist()


# ------------------------------------------------------------------------------- rows


def test_rows_held_out_are_not_trained_on_and_none_is_lost() -> None:
    task = numbered()
    chosen = []
    for seed in (0, 0, 1):
        coreset = coreset_of(seed)
        coreset.hold_out(task, MLP())
        held, rest = (first_inputs(rows) for rows in (coreset.rows(torch.device("cpu")), coreset.rest(task)))
        assert (len(held), len(rest), len(coreset)) == (SIZE, 20 - SIZE, SIZE)
        assert sorted([*held, *rest]) == list(range(20))
        assert coreset.rest(task).labels.tolist() == [int(x) % 2 for x in rest]
        chosen.append(held)
    assert chosen[0] == chosen[1] != chosen[2]


def test_every_row_is_held_out_equally_often() -> None:
    task, counts = numbered(), torch.zeros(20)
    for seed in range(600):
        coreset = coreset_of(seed)
        coreset.hold_out(task, MLP())
        counts[coreset.rows(torch.device("cpu")).take(torch.arange(SIZE)).x[:, 0].long()] += 1
    expected = 600 * SIZE / 20
    assert bool(((counts - expected).abs() < 4 * (expected * (1 - SIZE / 20)) ** 0.5).all())


def test_a_task_that_would_have_no_row_left_is_refused() -> None:
    with pytest.raises(OptionsError, match=r"coreset.size = 20: task 'numbers' has 20 rows, and none would be left"):
        coreset_of(size=20).hold_out(numbered(), MLP())


@every_method
def test_a_learner_trains_on_the_rest_and_counts_it(part: Part) -> None:
    stream = tiny_stream()
    learner = at_step(with_coreset(part), stream, 2 * STEPS + 3)
    assert (learner.rows_now, learner.rows_before) == (48 - SIZE, 2 * (48 - SIZE))
    for task in range(3):
        held = learner.coreset.kept.x[learner.coreset.kept.task == task]
        rest = learner.rows(learner.phase("train"), stream[task])
        assert (len(held), len(rest)) == (SIZE, 48 - SIZE)
        whole = stream[task].train.take(torch.arange(48)).x
        mine = torch.cat([learner.coreset.kept.decoded(held), rest.take(torch.arange(len(rest))).x])
        torch.testing.assert_close(mine.sort(dim=0).values, whole.sort(dim=0).values, rtol=0, atol=1e-6)
    assert learner.memory().stores == "raw"
    assert learner.memory().persistent["coreset"] == 3 * SIZE * (6 * 4 + 16)


# ------------------------------------------------------------------------------- targets


def test_rows_of_other_tasks_are_to_be_answered_by_all_outputs_alike() -> None:
    y, mine, outputs = torch.tensor([2, 3, 0, 5]), torch.tensor([True, True, False, False]), torch.tensor([2, 3])
    found = coreset_of().labels(y, mine, outputs, torch.Generator())
    assert found.tolist() == [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.5, 0.5]]


def test_or_by_one_of_them_at_random() -> None:
    y, mine, outputs = torch.zeros(3000, dtype=torch.int64), torch.arange(3000) < 1000, torch.tensor([0, 2, 4])
    coreset = coreset_of(targets="random")
    first, again, other = (coreset.labels(y, mine, outputs, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert bits(first) == bits(again) != bits(other)
    assert first[:1000].tolist() == [[1.0, 0.0, 0.0]] * 1000
    assert bool((first.sum(dim=1) == 1).all())
    torch.testing.assert_close(first[1000:].mean(dim=0), torch.full((3,), 1 / 3), rtol=0.1, atol=0)


def test_rows_of_the_task_have_the_share_that_is_asked_for() -> None:
    """On the mean over all rows of all coresets; by default the rows count as they come."""
    weight, task = torch.full((21,), 1 / 21), torch.arange(21) // SIZE
    for own in (None, 0.5, 0.9):
        coreset = coreset_of(own=own)
        coreset.kept.x, coreset.kept.task = torch.zeros(21, 2), task
        found = coreset.weights(weight, task == 1, 1)
        assert float(found[task == 1].sum()) == pytest.approx(own or 1 / 3, rel=1e-5)
        assert float(found.sum()) == pytest.approx(1, rel=1e-5)
        if own is None:
            assert bits(found) == bits(weight)


# ------------------------------------------------------------------------------- the phase


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (8, 5, None)),
        ({"coreset": Coreset(size=SIZE, steps=3)}, (8, 3, None)),
        ({"steps": None, "epochs": 2}, (8, None, 2)),
    ],
    ids=["as a task", "its own steps", "epochs"],
)
def test_the_phase_is_as_long_as_that_of_a_task_or_as_is_said(options: Any, expected: Any) -> None:
    given = {"batch_size": 8, "steps": 5, "coreset": Coreset(size=SIZE), **options}
    learner = make_loop(SeparatePosteriors(**given), tiny_stream()).learner
    (phase,) = learner.phases(None)
    assert (phase.batch_size, phase.steps, phase.epochs) == expected
    assert learner.set_params(coreset=None).phases(None) == ()


def at_end(part: Part, seed: int = 0, steps: int = 0) -> Any:
    """After the last task, and so many steps of the phase."""
    learner = at_step(part, tiny_stream(), 3 * STEPS + steps, seed)
    learner.rng.position = Position(3, 0, steps)
    return learner


def rows_of_coreset(learner: Any, index: Sequence[int] = (0, 3, 8, 11, 14, 16, 19, 20)) -> Batch:
    batch: Batch = learner.coreset.rows(torch.device("cpu")).take(torch.tensor(list(index)))
    return batch


@pytest.mark.parametrize(("own", "kl_weight"), [(None, None), (0.6, 0.7)])
@pytest.mark.parametrize("method", [SeparatePosteriors, VCL], ids=["separate", "one for all"])
def test_a_step_goes_down_the_sum_over_all_models(method: Any, own: float | None, kl_weight: float | None) -> None:
    """Gradient descent against a loss written model by model, sample by sample; the second step, where models have moved."""
    solver = MLP(hidden=(12,), optimiser=SGD(learning_rate=1e-4))
    coreset = Coreset(size=SIZE, own=own, kl_weight=kl_weight)
    learner = at_end(method(solver=solver, samples=2, kl_weight=0.3, coreset=coreset))
    batch = rows_of_coreset(learner)
    assert batch.y is not None
    start = learner.model.hypernet([0, 1, 2]).detach().clone()
    assert float(learner.step(TUNE, batch)["solver.kl"]) == 0
    assert bits(learner.model.kept) == bits(start)
    thetas = learner.model.hypernet([0, 1, 2]).detach().clone().requires_grad_()
    losses = learner.step(TUNE, batch)

    rng, total_ce, total_kl = learner.rng("weights"), torch.zeros(()), torch.zeros(())
    for task, classes in enumerate(((0, 1), (2, 3), (4, 5))):
        noise = learner.posterior.noise(2, learner.model.layout, rng)
        weights = learner.posterior.sample(thetas[task], learner.model.layout, noise)
        for one in weights:
            scores = of_mlp(one, batch.x)[:, list(classes)]
            for row in range(8):
                mine = int(batch.task[row]) == task
                goal = torch.eye(2)[batch.y[row] - classes[0]] if mine else torch.full((2,), 0.5)
                share = 1 / 8 if own is None else (3 * own if mine else 1.5 * (1 - own)) / 8
                total_ce = total_ce + share * cross_entropy(scores[row], goal) / 2
        now, before = (Normal(t[task, 0], softplus(t[task, 1] - 2.5)) for t in (thetas, start))
        total_kl = total_kl + kl_divergence(now, before).sum()
    torch.testing.assert_close(losses["solver.cross-entropy"], total_ce.detach(), rtol=1e-4, atol=0)
    torch.testing.assert_close(losses["solver.kl"], total_kl.detach(), rtol=1e-3, atol=1e-6)
    (3 * SIZE * total_ce + (kl_weight or 0.3) * total_kl).backward()
    assert thetas.grad is not None
    gradient = thetas.grad if method is SeparatePosteriors else thetas.grad.sum(dim=0).expand(3, -1, -1)
    moved = learner.model.hypernet([0, 1, 2]).detach() - thetas.detach()
    torch.testing.assert_close(moved, -1e-4 * gradient, rtol=1e-3, atol=2e-6)


@every_method
def test_the_phase_starts_with_a_new_optimiser_and_lets_go_of_what_it_kept(part: Part) -> None:
    learner = at_end(with_coreset(part))
    assert learner.model.kept is None
    learner.step(TUNE, rows_of_coreset(learner))
    steps = [float(slot["step"]) for slot in learner.model.network.optimiser.state.values()]
    assert set(steps) == {1.0}
    assert learner.model.kept.shape[0] == 3
    learner.end_phase(TUNE, None)
    assert learner.model.kept is None


@every_method
def test_models_become_unsure_of_rows_of_other_tasks_and_the_task_is_found(part: Part) -> None:
    stream = tiny_stream()
    fast = MLP(hidden=(12,), optimiser=Adam(learning_rate=0.02))
    options: dict[str, Any] = {"solver": fast, "steps": 60, "kl_weight": 1e-4, "samples": 2}
    before, after = (
        train(with_coreset(part, size=16, steps=steps).set_params(**options), stream).learner for steps in (1, 200)
    )
    x = torch.cat([test.rows.take(torch.arange(len(test.rows))).x for test in stream.tests])
    task = torch.cat([torch.full((len(test.rows),), test.head) for test in stream.tests])
    found, doubt = [], []
    for learner in (before, after):
        answer = learner.predict(x)
        found.append(float((answer.task_scores["entropy"].argmax(dim=1) == task).float().mean()))
        each = answer.by_task.exp()
        entropy = -(each * each.clamp(min=1e-9).log()).sum(dim=2) / torch.log(torch.tensor(2.0))
        doubt.append(float(entropy[torch.arange(3) != task[:, None]].mean()))
    assert doubt[1] > max(0.9, doubt[0] + 0.1)
    assert found[1] > max(0.9, found[0])


@every_method
def test_a_run_broken_off_in_the_phase_continues_bit_by_bit(part: Part, tmp_path: Path) -> None:
    whole = train(with_coreset(part), tiny_stream())
    assert whole.result["cost"]["steps"] == 4 * STEPS
    for at in (STEPS + 3, 3 * STEPS + 3):
        broken = make_loop(with_coreset(part), tiny_stream(), prepare=halt_after(at))
        with pytest.raises(Halt):
            broken.run()
        write_tree(tmp_path / f"state {at}", broken.learner.state())
        state = read_tree(tmp_path / f"state {at}")
        fresh = make_loop(with_coreset(part), tiny_stream(), prepare=lambda learner, state=state: learner.load(state))
        assert differing(fresh.learner.state(), state) == []
        fresh.cursor = broken.cursor
        fresh.record.load(broken.record.state(), torch.device("cpu"))
        fresh.run()
        assert differing(whole.learner.state(), fresh.learner.state()) == []


def test_answers_follow_the_weights_in_the_phase_too() -> None:
    learner = at_end(with_coreset(SeparatePosteriors()))
    x = inputs(tiny_stream())
    before = learner.predict(x)
    learner.step(TUNE, rows_of_coreset(learner))
    assert differing(vars(before), vars(learner.predict(x)))


def test_the_cost_of_a_step_is_that_of_all_models() -> None:
    separate = at_end(with_coreset(SeparatePosteriors()))
    assert separate.flops(TUNE, None) == 3 * separate.flops(Phase("train", 8, STEPS), None)


# ------------------------------------------------------------------------------- options that are refused


def test_a_prior_without_a_density_is_refused() -> None:
    with pytest.raises(OptionsError, match="coreset with posterior = Dirac: what a posterior was becomes a prior"):
        PosteriorReplay(posterior=Dirac(), coreset=Coreset())
    assert PosteriorReplay(posterior=Dirac(), coreset=Coreset(), kl_weight=0.0).kl_weight == 0
    assert PosteriorReplay(posterior=Dirac(), coreset=Coreset(kl_weight=0.0)).kl_weight > 0
    with pytest.raises(OptionsError, match=r"use posterior = 'gaussian', or coreset\.kl_weight = 0"):
        PosteriorReplay(posterior=Dirac(), coreset=Coreset(kl_weight=0.1), kl_weight=0.0)


def test_regression_is_refused() -> None:
    with pytest.raises(
        OptionsError, match="coreset: rows of other tasks have classes for targets, and this is regression"
    ):
        Coreset().build(replace(spec_of(2, 2), kind="regression"), Randomness(0))
