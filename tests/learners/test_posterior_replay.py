"""Posterior replay: how far posteriors of earlier tasks have moved, against slow loops; what that holds, and what it leaves free."""

from __future__ import annotations

import math
from collections import Counter
from copy import deepcopy
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from reverie.checks import OptionsError
from reverie.learners import EWC, VCL, PosteriorReplay, SeparatePosteriors, posteriors
from reverie.nn.hypernetworks import Chunked, Full, Separate, Single, Structured
from reverie.nn.optimisers import SGD, Adam
from reverie.options import Part, resolved
from reverie.posteriors import Dirac, Implicit, MeanField, Radial
from reverie.seeding import Position
from reverie.solvers import MLP, ConvStack
from reverie.storage import read_tree, write_tree
from reverie.streams import ArrayStream
from tests.learners.test_posteriors import CLASSES, PHASE, STEPS, at_step, inputs, of_mlp, rows_of
from tests.tiny import Halt, bits, differing, halt_after, make_loop, recommending, tiny_stream, train

BODY, ROW = 6 * 12 + 12, 12 + 1  # of the tiny network: parameters before its head, and of an output of it
CHUNKED = Chunked(chunk_size=30, task_dim=4, chunk_dim=4)
FULL = Full(task_dim=4, init="xavier")
DIVERGENCES = ("squared", "forward-kl", "reverse-kl", "wasserstein")

every_divergence = pytest.mark.parametrize("divergence", DIVERGENCES)
every_target = pytest.mark.parametrize("targets", ["stored", "recomputed"])
every_hypernetwork = pytest.mark.parametrize("hypernetwork", [CHUNKED, FULL], ids=["chunked", "full"])


def made_for(learner: Any, *tasks: int) -> Tensor:
    """(K, parts, numel) as the hypernetwork is now."""
    with torch.no_grad():
        found: Tensor = learner.model.hypernet(tasks).clone()
    return found


def embedding(learner: Any, task: int) -> Any:
    return learner.model.hypernet.of(task)["embedding"]


# ------------------------------------------------------------------------------- the regulariser


@every_divergence
@every_target
@every_hypernetwork
def test_nothing_has_moved_at_the_first_step_of_a_task(divergence: Any, targets: Any, hypernetwork: Any) -> None:
    """Not by a rounding error either, of which Adam would make a whole step."""
    stream = tiny_stream()
    part = PosteriorReplay(divergence=divergence, targets=targets, hypernetwork=hypernetwork)
    for task in (1, 2):
        learner = at_step(part, stream, task * STEPS)
        first, second = (learner.step(PHASE, rows_of(stream, task))["solver.regulariser"] for _ in range(2))
        assert first == 0 < second


def test_the_first_task_has_nothing_to_rehearse() -> None:
    stream = tiny_stream()
    learner = at_step(PosteriorReplay(), stream, 3)
    assert learner.model.kept is None
    assert "solver.regulariser" not in learner.step(PHASE, rows_of(stream, 0))


@every_divergence
@every_hypernetwork
def test_the_regulariser_gives_the_new_embedding_no_gradient(divergence: Any, hypernetwork: Any) -> None:
    learner = at_step(PosteriorReplay(divergence=divergence, hypernetwork=hypernetwork), tiny_stream(), 2 * STEPS + 3)
    made = learner.model.hypernet([2, 0, 1])
    regulariser = learner.regulariser(made[1:], [0, 1])
    assert regulariser > 0
    shared = next(p for name, p in learner.model.hypernet.named_parameters() if not name.startswith("own."))
    new, *others = torch.autograd.grad(
        regulariser, [embedding(learner, 2), *(embedding(learner, t) for t in (0, 1)), shared]
    )
    assert bool((new == 0).all())
    assert all(bool((other != 0).any()) for other in others)


def gaussian(theta: Tensor) -> list[tuple[float, float]]:
    """Mean and deviation of each weight, from (2, numel)."""
    return [(float(m), math.log1p(math.exp(float(rho) - 2.5))) for m, rho in zip(*theta.double(), strict=True)]


def between(divergence: str, new: Tensor, old: Tensor) -> float:
    """Weight by weight, of two posteriors (2, numel)."""
    total = 0.0
    for (m, s), (m_old, s_old) in zip(gaussian(new), gaussian(old), strict=True):
        if divergence == "wasserstein":
            total += (m - m_old) ** 2 + (s - s_old) ** 2
            continue
        if divergence == "forward-kl":  # from the old one to the new one, which is KL(old || new)
            (m, s), (m_old, s_old) = (m_old, s_old), (m, s)
        total += 0.5 * ((s**2 + (m_old - m) ** 2) / s_old**2 - 1 + 2 * math.log(s_old) - 2 * math.log(s))
    return total


@pytest.mark.parametrize("tasks", [(0, 1), (1,)], ids=["both", "one of two"])
@pytest.mark.parametrize("normalise", ["mean", "published"])
@pytest.mark.parametrize("divergence", ["forward-kl", "reverse-kl", "wasserstein"])
def test_divergences_of_gaussians_are_what_a_loop_over_weights_finds(
    divergence: Any, normalise: Any, tasks: tuple[int, ...]
) -> None:
    solver = MLP(hidden=(12,), optimiser=Adam(learning_rate=0.02))
    part = PosteriorReplay(divergence=divergence, normalise=normalise, strength=0.3, hypernetwork=FULL, solver=solver)
    stream = tiny_stream()
    old = made_for(at_step(part, stream, 2 * STEPS), 0, 1)
    learner = at_step(part, stream, 2 * STEPS + 5)
    new = made_for(learner, 0, 1)
    expected = 0.3 * sum(between(divergence, new[t], old[t]) for t in tasks) / len(tasks)
    if normalise == "published":
        expected /= 2  # however few are rehearsed
    found = float(learner.regulariser(new[list(tasks)], tasks))
    assert found == pytest.approx(expected, rel=1e-3)
    # Far enough apart that one divergence is not taken for another.
    values = [between(name, new[0], old[0]) for name in ("forward-kl", "reverse-kl", "wasserstein")]
    assert all(abs(a / b - 1) > 0.02 for a, b in combinations(values, 2))


@pytest.mark.parametrize("tasks", [(0, 1), (1,)], ids=["both", "one of two"])
@pytest.mark.parametrize("mask_heads", [True, False])
@pytest.mark.parametrize("scenario", ["class", "domain"])
@pytest.mark.parametrize("posterior", [Dirac(), MeanField()], ids=["point", "gaussian"])
def test_squared_distances_leave_out_the_heads_of_other_tasks(
    posterior: Any, scenario: Any, mask_heads: bool, tasks: tuple[int, ...]
) -> None:
    part = PosteriorReplay(posterior=posterior, mask_heads=mask_heads, strength=0.3, hypernetwork=FULL)
    stream = tiny_stream(scenario)
    old = made_for(at_step(part, stream, 2 * STEPS), 0, 1)
    learner = at_step(part, stream, 2 * STEPS + 5)
    new = made_for(learner, 0, 1)
    expected, free = 0.0, []
    for task in tasks:
        for place in range(new.shape[2]):
            output = (place - BODY) // ROW if place >= BODY else None
            if mask_heads and scenario == "class" and output is not None and output not in CLASSES[task]:
                free.append((task, place))
                continue
            expected += sum(float(new[task, part, place] - old[task, part, place]) ** 2 for part in range(len(old[0])))
    found = learner.regulariser(new.requires_grad_()[list(tasks)], tasks)
    assert found.item() == pytest.approx(0.3 * expected / len(tasks), rel=1e-4)
    (gradient,) = torch.autograd.grad(found, new)
    zero = [(task, place) for task, place in np.argwhere((gradient == 0).all(dim=1).numpy()).tolist() if task in tasks]
    assert zero == free
    assert len(free) == (len(tasks) * 4 * ROW if mask_heads and scenario == "class" else 0)


@pytest.mark.parametrize("mask_heads", [True, False])
def test_squared_distances_and_their_gradients_are_those_of_masked_differences_to_the_last_bit(
    mask_heads: bool,
) -> None:
    learner = at_step(PosteriorReplay(mask_heads=mask_heads, strength=0.3), tiny_stream(), 2 * STEPS + 5)
    made, layout = made_for(learner, 0, 1).requires_grad_(), learner.model.layout
    free = torch.stack([~layout.mask(learner.outputs_of(task)) for task in (0, 1)])[:, None]
    apart = (made - learner.model.kept).masked_fill(free & mask_heads, 0.0)
    plain, found = 0.3 * apart.square().sum() / 2, learner.regulariser(made, (0, 1))
    assert found > 0
    assert torch.equal(found, plain)
    assert torch.equal(torch.autograd.grad(found, made)[0], torch.autograd.grad(plain, made)[0])


@pytest.mark.parametrize("divergence", ["squared", "reverse-kl"])
@every_hypernetwork
def test_stored_and_recomputed_targets_train_the_same_weights(divergence: Any, hypernetwork: Any) -> None:
    """To the last bit; where a step draws some of the tasks, but for the rounding of larger products."""
    part = PosteriorReplay(divergence=divergence, hypernetwork=hypernetwork)
    stream = tiny_stream(tasks=4)
    stored, recomputed = (train(part.clone().set_params(targets=how), stream) for how in ("stored", "recomputed"))
    assert stored.result["matrices"] == recomputed.result["matrices"]
    weights = [dict(run.learner.model.hypernet.state_dict()) for run in (stored, recomputed)]
    assert differing(*weights) == []


def test_what_is_kept_grows_with_the_tasks_where_targets_are_stored_alone() -> None:
    stream = tiny_stream(tasks=4)
    numel = BODY + 8 * ROW
    for targets in ("stored", "recomputed"):
        bytes_kept = []
        for task in range(4):
            learner = at_step(PosteriorReplay(targets=targets, hypernetwork=FULL), stream, task * STEPS + 1)
            bytes_kept.append(learner.model.working_bytes() - learner.model.network.working_bytes())
        hypernetwork = 4 * 2 * numel * 5  # a bias and four weights for each number
        embeddings = 4 * 4
        if targets == "stored":
            assert bytes_kept == [4 * 2 * numel * task for task in range(4)]
        else:  # with the embedding of the new task, which is there when the copy is made
            assert bytes_kept == [0, *(hypernetwork + embeddings * (task + 1) for task in range(1, 4))]
        assert train(PosteriorReplay(targets=targets), tiny_stream()).learner.model.kept is None


# ------------------------------------------------------------------------------- a few old tasks a step


def rehearsals(part: Part, stream: ArrayStream, prepare: Any = lambda learner: None) -> tuple[Any, list[Any]]:
    """A loop that is not run yet, and by (task, step) the tasks that the regulariser will look at."""
    seen: list[Any] = []

    def spy(learner: Any) -> None:
        real = learner.regulariser

        def regulariser(made: Tensor, tasks: Any) -> Tensor:
            assert len(made) == len(tasks)
            seen.append((learner.task, learner.rng.position.step, tuple(tasks)))
            found: Tensor = real(made, tasks)
            return found

        learner.regulariser = regulariser
        prepare(learner)

    return make_loop(part, stream, prepare=spy), seen


def test_each_step_rehearses_a_few_old_tasks_drawn_anew() -> None:
    loop, seen = rehearsals(PosteriorReplay(old_tasks=2), tiny_stream(tasks=5))
    loop.run()
    assert [(task, step) for task, step, _ in seen] == [(task, step) for task in range(1, 5) for step in range(STEPS)]
    for task, _, tasks in seen:
        assert len(set(tasks)) == len(tasks) == min(task, 2)
        assert set(tasks) <= set(range(task))
    last = [tasks for task, _, tasks in seen if task == 4]
    assert len(set(last)) > 2
    assert {t for tasks in last for t in tasks} == {0, 1, 2, 3}


def test_all_old_tasks_are_rehearsed_where_nothing_else_is_asked() -> None:
    for old_tasks in (None, 9):
        loop, seen = rehearsals(PosteriorReplay(old_tasks=old_tasks), tiny_stream(tasks=4))
        loop.run()
        assert {(task, tasks) for task, _, tasks in seen} == {(1, (0,)), (2, (0, 1)), (3, (0, 1, 2))}


def test_all_subsets_of_old_tasks_are_equally_likely() -> None:
    """3000 steps, six pairs of four tasks; chi squared with 5 degrees of freedom, 5 sigma."""
    learner = at_step(PosteriorReplay(old_tasks=2), tiny_stream(tasks=5, steps=1), 4)
    counts: Counter[tuple[int, ...]] = Counter()
    for step in range(3000):
        learner.rng.position = Position(4, 0, step)
        counts[tuple(learner.rehearsed())] += 1
    assert set(counts) == set(combinations(range(4), 2))
    assert sum((count - 500) ** 2 / 500 for count in counts.values()) < 5 + 5 * math.sqrt(10)


@every_target
@pytest.mark.parametrize("old_tasks", [None, 1])
def test_a_run_that_died_within_a_task_goes_on_as_if_it_had_not(targets: Any, old_tasks: Any, tmp_path: Path) -> None:
    part = PosteriorReplay(targets=targets, old_tasks=old_tasks, hypernetwork=CHUNKED)
    whole, expected = rehearsals(part, tiny_stream())
    result = whole.run()
    at = {1: STEPS + 3, 2: 2 * STEPS + 3}
    for task, steps in at.items():
        broken, before = rehearsals(part, tiny_stream(), halt_after(steps))
        with pytest.raises(Halt):
            broken.run()
        write_tree(tmp_path / f"state {task}", broken.learner.state())
        loop, after = rehearsals(part, tiny_stream())
        loop.learner.load(read_tree(tmp_path / f"state {task}"))
        assert isinstance(loop.learner.model.kept, Tensor) == (targets == "stored")
        loop.record.load(deepcopy(broken.record.state()), torch.device("cpu"))
        loop.cursor = broken.cursor
        assert loop.run()["matrices"] == result["matrices"]
        assert differing(whole.learner.state(), loop.learner.state()) == []
        assert before + after == expected


# ------------------------------------------------------------------------------- what is held


def test_without_strength_nothing_is_rehearsed_and_nothing_kept() -> None:
    stream = tiny_stream()
    loop, seen = rehearsals(PosteriorReplay(strength=0.0), stream)
    loop.run()
    assert seen == []
    learner = at_step(PosteriorReplay(strength=0.0), stream, STEPS + 3)
    assert learner.model.kept is None
    assert learner.rehearsed() == ()
    assert set(learner.step(PHASE, rows_of(stream, 1))) == {"solver.cross-entropy", "solver.kl"}


@every_hypernetwork
def test_embeddings_of_earlier_tasks_move_by_the_regulariser_alone(hypernetwork: Any) -> None:
    """By gradient descent each goes down the regulariser and nothing else; without strength not at all."""
    stream = tiny_stream()
    solver = MLP(hidden=(12,), optimiser=SGD(learning_rate=1e-4))
    part = PosteriorReplay(strength=50.0, hypernetwork=hypernetwork, solver=solver)
    learner = at_step(part, stream, 2 * STEPS + 3)
    old = [embedding(learner, task) for task in (0, 1)]
    gradients = torch.autograd.grad(learner.regulariser(learner.model.hypernet([0, 1]), (0, 1)), old)
    before = [e.detach().clone() for e in (*old, embedding(learner, 2))]
    learner.step(PHASE, rows_of(stream, 2))
    for e, gradient, was in zip(old, gradients, before, strict=False):
        assert gradient.abs().max() > 1e-3
        torch.testing.assert_close(e.detach() - was, -1e-4 * gradient, rtol=1e-2, atol=1e-6)
    assert bits(embedding(learner, 2)) != bits(before[2])

    free = part.clone().set_params(strength=0.0)
    early, late = at_step(free, stream, 2 * STEPS), at_step(free, stream, 3 * STEPS - 1)
    for task in (0, 1):
        assert bits(embedding(early, task)) == bits(embedding(late, task))
        assert bits(made_for(early, task)) != bits(made_for(late, task))  # by the weights that all tasks share


def test_embeddings_of_earlier_tasks_wait_for_something_to_have_moved() -> None:
    """At the first step of a task the regulariser is at its minimum; what gradient there is, is rounding."""
    stream = tiny_stream()
    solver = MLP(hidden=(12,), optimiser=SGD(learning_rate=1e-3))
    learner = at_step(PosteriorReplay(solver=solver, hypernetwork=FULL), stream, STEPS)
    moved = []
    for _ in range(2):
        before = [embedding(learner, task).detach().clone() for task in (0, 1)]
        learner.step(PHASE, rows_of(stream, 1))
        moved.append([float((embedding(learner, task) - before[task]).detach().norm()) for task in (0, 1)])
    (old_first, new_first), (old_second, new_second) = moved
    assert old_first < 1e-4 * old_second
    assert min(new_first, new_second) > 0


def contradicting() -> ArrayStream:
    """Three tasks with the same two clouds, each of which turns the labels of the one before round."""
    rng = np.random.default_rng(0)
    y = np.arange(64) % 2
    x = (0.5 + 0.25 * (2 * y[:, None] - 1) + 0.05 * rng.standard_normal((64, 3))).astype("float32")
    labels = [y, 1 - y, y]
    return recommending(ArrayStream.from_arrays([(x, t, x, t) for t in labels], "domain"), steps=60, batch_size=16)


def test_a_strong_regulariser_keeps_what_is_lost_without_it() -> None:
    """How much is lost without it depends on how alike the embeddings happen to be: a mean over seeds."""
    part = PosteriorReplay(
        posterior=Dirac(),
        hypernetwork=Chunked(chunk_size=25, task_dim=4, chunk_dim=4, hidden=(6,)),
        kl_weight=0.0,
        solver=MLP(hidden=(12,), optimiser=Adam(learning_rate=0.03)),
    )
    strong, without = (
        [
            train(part.clone().set_params(strength=strength), contradicting(), seed=seed).result["summary"]
            for seed in range(3)
        ]
        for strength in (100.0, 0.0)
    )
    for summary in strong:
        assert summary["tgiven_during"] > 0.97
        assert abs(summary["tgiven_final"] - summary["tgiven_during"]) < 0.02
    during, final = (np.mean([summary[name] for summary in without]) for name in ("tgiven_during", "tgiven_final"))
    assert during > 0.9
    assert final < during - 0.1


@every_divergence
def test_the_stronger_the_regulariser_the_less_posteriors_move(divergence: Any) -> None:
    """Of the first task, over all that are learnt after it, whichever divergence holds them."""
    stream = contradicting()
    moved = []
    for strength in (0.0, 10.0, 1000.0):
        part = PosteriorReplay(
            divergence=divergence,
            hypernetwork=CHUNKED,
            strength=strength,
            solver=MLP(hidden=(12,), optimiser=Adam(learning_rate=0.01)),
            steps=20,
        )
        then, now = made_for(at_step(part, stream, 20), 0), made_for(train(part, stream).learner, 0)
        moved.append(between("wasserstein", now[0], then[0]))
    assert moved[0] > 3 * moved[1]
    assert moved[1] > 3 * moved[2]


# ------------------------------------------------------------------------------- options that are refused


def test_divergences_of_gaussians_are_refused_for_other_posteriors() -> None:
    for divergence in ("forward-kl", "reverse-kl", "wasserstein"):
        for posterior in (Dirac(), Radial()):
            with pytest.raises(OptionsError, match=f"divergence = '{divergence}': between Gaussians alone"):
                PosteriorReplay(posterior=posterior, divergence=divergence)
        assert PosteriorReplay(divergence=divergence).divergence == divergence
    assert PosteriorReplay(posterior=Radial()).divergence == "squared"


def test_the_published_normalisation_of_squared_distances_is_refused() -> None:
    with pytest.raises(OptionsError, match="normalise = 'published': concerns the divergences between Gaussians"):
        PosteriorReplay(normalise="published")
    assert PosteriorReplay(normalise="published", divergence="wasserstein").normalise == "published"


@pytest.mark.parametrize("divergence", ["forward-kl", "reverse-kl", "wasserstein"])
def test_a_mask_that_a_divergence_does_not_use_is_refused(divergence: Any) -> None:
    with pytest.raises(
        OptionsError, match=f"mask_heads = False: divergence = '{divergence}' counts all outputs anyway"
    ):
        PosteriorReplay(divergence=divergence, mask_heads=False)
    assert not PosteriorReplay(mask_heads=False).mask_heads


def test_options_of_rehearsal_are_refused_where_nothing_is_rehearsed() -> None:
    with pytest.raises(
        OptionsError, match=r"(?s)old_tasks = 1: with strength = 0 .*targets = 'recomputed': with strength = 0"
    ):
        PosteriorReplay(strength=0.0, old_tasks=1, targets="recomputed")
    assert PosteriorReplay(old_tasks=1, targets="recomputed").old_tasks == 1


def test_nothing_moves_a_posterior_that_is_a_table_of_its_own_and_holding_it_is_refused() -> None:
    """Whereas one table for all tasks is held where it was."""
    with pytest.raises(OptionsError, match=r"strength = 5\.0: with hypernetwork = 'separate' no posterior ever moves"):
        PosteriorReplay(hypernetwork=Separate(), strength=5.0)
    part = PosteriorReplay(hypernetwork=Separate())
    assert resolved(part, {"strength": 1000.0}).strength is None
    assert resolved(PosteriorReplay(hypernetwork=Single()), {"strength": 1000.0}).strength == 1000.0
    stream = tiny_stream()
    free, held = (
        train(PosteriorReplay(hypernetwork=Single(), strength=s), stream).learner.model.hypernet for s in (0.0, 100.0)
    )
    assert bits(free.one) != bits(held.one)


# ------------------------------------------------------------------------------- which task, by a mixture of all


OWN_CHUNKS = Chunked(chunk_size=30, task_dim=4, chunk_dim=4, chunks_per_task=True)
STRUCTURED = Structured(task_dim=4, chunk_dim=4)
EMBEDDED = pytest.mark.parametrize("hypernetwork", [CHUNKED, OWN_CHUNKS, STRUCTURED, FULL])
GRADIENT: dict[str, Any] = {"criterion": "entropy-gradient", "posterior": Dirac()}


def entropies(learner: Any, x: Tensor, shares: Tensor) -> Tensor:
    """(B,) nats, of the network that is made from embeddings mixed by hand, over the outputs of all tasks so far."""
    twin = deepcopy(learner.model.hypernet)
    outputs = sorted({c for task in range(len(shares)) for c in learner.outputs_of(task)})
    with torch.no_grad():
        for name, parameter in twin.of(0).items():
            each = [learner.model.hypernet.of(task)[name] for task in range(len(shares))]
            parameter.copy_(sum(share * e for share, e in zip(shares, each, strict=True)))
        logs = torch.log_softmax(of_mlp(twin([0])[0, 0], x)[:, outputs], dim=1)
        return -(logs.exp() * logs).sum(dim=1)


@EMBEDDED
@pytest.mark.parametrize("scenario", ["class", "domain"])
def test_the_entropy_gradient_is_what_differences_find_for_each_input(hypernetwork: Any, scenario: Any) -> None:
    stream = tiny_stream(scenario)
    learner = at_step(PosteriorReplay(hypernetwork=hypernetwork, **GRADIENT), stream, 2 * STEPS + 3)
    learner.model.hypernet.double()
    x, shares, step = inputs(stream).double(), torch.full((3,), 1 / 3, dtype=torch.float64), 1e-5
    found = learner.predict(x).task_scores["entropy-gradient"]
    assert found.shape == (13, 3)
    for task, one in enumerate(step * torch.eye(3, dtype=torch.float64)):
        moved = (entropies(learner, x, shares + one) - entropies(learner, x, shares - one)) / (2 * step)
        assert moved.abs().max() > 1e-4
        torch.testing.assert_close(found[:, task], -moved, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("at_once", [1, 5, 1000])
def test_the_entropy_gradient_of_a_row_does_not_depend_on_the_others(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = tiny_stream()
    learner = train(PosteriorReplay(hypernetwork=CHUNKED, **GRADIENT), stream).learner
    x = inputs(stream)
    whole = learner.predict(x)
    assert differing(vars(whole), vars(learner.predict(x))) == []
    monkeypatch.setattr(posteriors, "NETWORKS_AT_ONCE", at_once)
    parts = learner.predict(x).task_scores["entropy-gradient"]
    torch.testing.assert_close(parts, whole.task_scores["entropy-gradient"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("posterior", [Dirac(), MeanField(), Radial(), Implicit(latent_dim=2, hidden=(4,))])
@pytest.mark.parametrize("hypernetwork", [OWN_CHUNKS, STRUCTURED, Chunked(task_dim=4, chunk_dim=4, init="hyperfan")])
def test_the_entropy_gradient_is_asked_for_and_then_decides(posterior: Any, hypernetwork: Any) -> None:
    stream = tiny_stream()
    part = PosteriorReplay(
        hypernetwork=hypernetwork, posterior=posterior, test_samples=1 if posterior.deterministic else 3
    )
    usual = train(part, stream)
    asked = train(part.clone().set_params(criterion="entropy-gradient"), stream)
    x = inputs(stream)
    before, answer = usual.learner.predict(x), asked.learner.predict(x)
    assert set(answer.task_scores) - set(before.task_scores) == {"entropy-gradient"}
    assert bits(answer.by_task) == bits(before.by_task)
    chosen = answer.task_scores["entropy-gradient"].argmax(dim=1)
    for row, task in enumerate(chosen.tolist()):
        mine = list(asked.learner.outputs_of(task))
        assert bits(answer.scores[row, mine]) == bits(answer.by_task[row, task, mine])
    for how in ("inferred_by_entropy-gradient", "task_found_by_entropy-gradient_in_batches"):
        assert how in asked.result["matrices"]
        assert how not in usual.result["matrices"]


def test_the_entropy_gradient_goes_through_networks_of_other_kinds() -> None:
    """Convolutions with batch norms, whose statistics are mixed too: one mixture of equal tasks is each of them."""
    x = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = torch.arange(40) % 2
    stream = ArrayStream.from_arrays([(x.numpy(), y.numpy()), (x.numpy(), 2 + y.numpy())])
    solver = ConvStack(channels=(2, 2), hidden=(4,))
    for posterior in (Dirac(), MeanField()):
        part = PosteriorReplay(solver=solver, posterior=posterior, criterion="entropy-gradient", steps=3, batch_size=16)
        learner = train(part.set_params(test_samples=1 if posterior.deterministic else 2), stream).learner
        scores = learner.predict(x).task_scores["entropy-gradient"]
        assert bool(scores.isfinite().all())
        assert bool((scores[:, 0] != scores[:, 1]).all())


@pytest.mark.parametrize("hypernetwork", [Separate(), Single()])
def test_the_entropy_gradient_is_refused_where_there_are_no_embeddings(hypernetwork: Any) -> None:
    refused = pytest.raises(
        OptionsError, match="embeddings of all tasks in one hypernetwork, and there is none; use posterior-replay with"
    )
    with refused:
        PosteriorReplay(criterion="entropy-gradient", hypernetwork=hypernetwork)
    for method in (SeparatePosteriors, VCL):
        with refused:
            method(criterion="entropy-gradient")
    with pytest.raises(OptionsError, match="'entropy', 'confidence' or 'agreement'"):
        EWC(mode="bayesian", criterion="entropy-gradient")
