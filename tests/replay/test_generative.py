"""The scholar: chunks that change no draw, labels from the frozen solver, weights that stay weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from reverie.checks import NotReadyError
from reverie.device import CPU
from reverie.generators import VAE, Densities, Gaussian
from reverie.replay import Labelling, Scholar
from reverie.replay.labels import targets
from reverie.replay.selection import certainty, interference
from reverie.seeding import Position, Randomness
from reverie.solvers import MLP
from reverie.streams import TensorRows
from reverie.types import Batch, StreamSpec

CLASSES = (0, 1, 2, 3)
SPEC = StreamSpec("test", "class", (6,), CLASSES, ((0, 1), (2, 3)), ("a", "b"), ((0, 1), (2, 3)), (0.0, 1.0))
SEEN = torch.tensor([0, 1])
Rule = Callable[[Tensor], Tensor]


def batch(n: int = 8) -> Batch:
    x = torch.rand(n, 6, generator=torch.Generator().manual_seed(0))
    return Batch(x, torch.arange(n) % 4, torch.zeros(n).long(), torch.full((n,), 1 / n))


def answer(form: str) -> Rule:
    mask = torch.tensor([True, True, False, False])
    return lambda scores: targets(scores, None, mask, form, 2.0)  # type: ignore[arg-type]


def scholar(chunk: int = 4, source: str = "solver", form: str = "hard", conditional: bool = False) -> Scholar:
    rng = Randomness(0)
    solver, vae = MLP(hidden=(5,)), VAE(hidden=(5,), latent_dim=3, conditional=conditional)
    solver.build(SPEC, rng, CPU)
    vae.build(SPEC, rng, CPU)
    vae.step(batch())
    made = Scholar(solver, vae, rng, chunk)
    rivals = torch.zeros(4, dtype=torch.bool).index_fill(0, SEEN, True).expand(4, -1)
    made.begin_task(Labelling(source, SEEN, answer(form), 2.0 if form == "soft" else None, rivals))  # type: ignore[arg-type]
    return made


def at(made: Scholar, step: int, n: int = 5, task: int = 1) -> Batch:
    made.rng.position = Position(task, 0, step)
    return made.sample(n)


def same(left: Batch, right: Batch) -> bool:
    pairs = zip(vars(left).values(), vars(right).values(), strict=True)
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)


@pytest.mark.parametrize("form", ["hard", "soft"])
def test_the_rows_of_a_step_are_its_slice_of_the_chunk(form: str) -> None:
    made = scholar(chunk=4, form=form)
    for first in (0, 4):
        whole = made.draw(20, made.rng.at("replay", 1, 0, first))
        for step in range(4):
            rows = at(made, first + step)
            assert torch.equal(rows.x, whole.x[5 * step : 5 * step + 5])
            assert torch.equal(rows.y, whole.y[5 * step : 5 * step + 5])  # type: ignore[index, arg-type]
            assert len(rows) == 5


def test_whatever_was_drawn_before_the_same_step_gives_the_same_rows() -> None:
    made = scholar()
    straight = [at(made, step) for step in range(11)]
    for order in ([10, 3, 4, 0, 7, 9], [6]):  # going back, and resuming in the middle of a chunk
        fresh = scholar()
        assert all(same(at(fresh, step), straight[step]) for step in order)
    jumpy = scholar()
    at(jumpy, 9, n=3), at(jumpy, 9, task=2)
    assert same(at(jumpy, 2), straight[2])


def test_steps_tasks_and_chunks_differ() -> None:
    made = scholar()
    drawn = [at(made, 0), at(made, 1), at(made, 4), at(made, 0, task=2)]
    assert all(not torch.equal(a.x, b.x) for i, a in enumerate(drawn) for b in drawn[:i])


def test_one_pass_serves_a_chunk() -> None:
    made, calls = scholar(chunk=4), []
    sample = made.generator.sample
    made.generator.sample = lambda n, rng, classes=None: (calls.append(n), sample(n, rng, classes))[1]  # type: ignore[method-assign]
    for step in range(9):
        at(made, step)
    assert calls == [20, 20, 20]


def test_training_on_does_not_move_the_scholar() -> None:
    """Labels and samples are those of the frozen pair, whatever the live networks have become (spec 1.7, points 1 and 2)."""
    rng = Randomness(0)
    solver, vae = MLP(hidden=(5,)), VAE(hidden=(5,), latent_dim=3)
    solver.build(SPEC, rng, CPU)
    vae.build(SPEC, rng, CPU)
    vae.step(batch())
    made = Scholar(solver, vae, rng, 1)
    made.begin_task(Labelling("solver", SEEN, answer("soft"), 2.0))
    before = at(made, 0)
    for _ in range(5):
        solver.step(batch())
        vae.step(batch())
    made.begin_task(Labelling("solver", SEEN, answer("soft"), 2.0))
    assert same(before, at(made, 0))
    live = Scholar(solver, vae, rng, 1)
    live.begin_task(Labelling("solver", SEEN, answer("soft"), 2.0))
    assert not torch.equal(before.x, at(live, 0).x)


def test_labels_are_the_frozen_solver_s_among_seen_classes() -> None:
    made = scholar()
    rows = at(made, 0, n=40)
    scores = made.solver.scores(rows.x)
    assert torch.equal(rows.y, scores[:, :2].argmax(1))  # type: ignore[arg-type]
    assert rows.temperature is None
    assert not rows.x.requires_grad


def test_soft_labels_carry_their_temperature() -> None:
    made = scholar(form="soft")
    rows = at(made, 0)
    torch.testing.assert_close(rows.y, (made.solver.scores(rows.x) / 2).softmax(1))
    assert rows.temperature is not None
    assert rows.temperature.tolist() == [2.0] * 5


def test_a_conditional_generator_is_asked_for_seen_classes_alike_often() -> None:
    rows = at(scholar(source="condition", conditional=True), 0, n=1000)
    counts = torch.bincount(rows.y, minlength=4)  # type: ignore[arg-type]
    assert not counts[2:].any()
    assert (counts[:2] / 1000 - 0.5).abs().max() < 5 * (0.25 / 1000) ** 0.5


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1 / 3, 1 / 3, 1 / 3]),
        ({"allocation": "recency", "class_balanced": False}, [1 / 6, 1 / 6, 2 / 3]),
        ({"allocation": "proportional", "class_balanced": False}, [0.5, 0.25, 0.25]),
        ({"window": 1}, [0.0, 0.0, 1.0]),
    ],
)
def test_classes_are_asked_for_as_often_as_the_densities_say(options: dict[str, Any], expected: list[float]) -> None:
    """Classes 0 and 1 are of the first task, class 2 of the second."""
    rng = Randomness(0)
    solver, model = MLP(hidden=(5,)), Densities(Gaussian("diagonal"), **options)
    solver.build(SPEC, rng, CPU)
    model.build(SPEC, rng, CPU)
    for task, y in ((0, torch.tensor([0, 0, 1]).repeat(10)), (1, torch.full((10,), 2))):
        x = torch.rand(len(y), 6, generator=torch.Generator().manual_seed(0))
        model.fit(TensorRows(x, y, torch.full_like(y, task)))
    made = Scholar(solver, model, rng, 4)
    made.begin_task(Labelling("condition", torch.arange(3), answer("hard")))
    drawn = made.draw(600, torch.Generator().manual_seed(1)).y
    assert drawn is not None
    torch.testing.assert_close(torch.bincount(drawn, minlength=3) / 600, torch.tensor(expected), atol=0.05, rtol=0)


@pytest.mark.parametrize("source", ["solver", "condition", "agreement"])
def test_weights_sum_to_one(source: str) -> None:
    made = scholar(source=source, conditional=True)
    for step in range(6):
        assert float(at(made, step, n=30).weight.sum()) == pytest.approx(1, abs=1e-5)


def test_rows_on_which_class_and_solver_disagree_weigh_nothing() -> None:
    made = scholar(source="agreement", conditional=True)
    asked: list[Tensor] = []
    sample = made.generator.sample

    def spied(n: int, rng: torch.Generator, classes: Any = None) -> Batch:
        asked.append(classes)
        return sample(n, rng, classes)

    made.generator.sample = spied  # type: ignore[method-assign]
    made.solver.scores = lambda x: torch.eye(4)[(x[:, 0] > x[:, 0].median()).long()]  # type: ignore[method-assign]
    rows = at(made, 0, n=40)
    agree = rows.y == asked[0][:40]
    assert 0 < int(agree.sum()) < 40
    assert not rows.weight[~agree].any()
    torch.testing.assert_close(rows.weight[agree], torch.full((int(agree.sum()),), 1 / int(agree.sum())))


def test_if_none_agree_the_batch_weighs_nothing_and_stays_finite() -> None:
    made = scholar(source="agreement", conditional=True)
    taught, other = int(SEEN[0]), int(SEEN[1])
    assert made._labelling is not None
    made.begin_task(replace(made._labelling, seen=torch.tensor([taught])))  # asked for one class, answered with another
    made.solver.scores = lambda x: torch.eye(4)[other].expand(len(x), 4)  # type: ignore[method-assign]
    rows = at(made, 0)
    assert torch.equal(rows.weight, torch.zeros(5))


def test_agreement_is_among_the_classes_taught() -> None:
    made = scholar(source="agreement", conditional=True)
    unseen = next(c for c in range(4) if c not in SEEN.tolist())
    asked = int(SEEN[0])
    assert made._labelling is not None
    made.begin_task(replace(made._labelling, seen=torch.tensor([asked])))
    scores = torch.zeros(4)
    scores[unseen], scores[asked] = 9.0, 1.0  # an output that was never taught may be the largest of all
    made.solver.scores = lambda x: scores.expand(len(x), 4)  # type: ignore[method-assign]
    rows = at(made, 0)
    torch.testing.assert_close(rows.weight, torch.full((5,), 0.2))
    assert rows.asked is not None
    assert rows.asked.tolist() == [asked] * 5


def test_a_scholar_without_a_rule_and_one_without_training() -> None:
    made = scholar()
    made._labelling = None
    with pytest.raises(NotReadyError, match="not told how to label its replay; call begin_task first"):
        at(made, 0)
    rng = Randomness(0)
    solver, vae = MLP(hidden=(5,)), VAE(hidden=(5,), latent_dim=3)
    solver.build(SPEC, rng, CPU), vae.build(SPEC, rng, CPU)
    fresh = Scholar(solver, vae, rng, 1)
    fresh.begin_task(Labelling("solver", SEEN, answer("hard")))
    with pytest.raises(NotReadyError, match="the generator was never trained, so it has nothing to replay"):
        at(fresh, 0)


def test_a_loaded_scholar_replays_the_same() -> None:
    made = scholar()
    expected = at(made, 3)
    saved = made.state()
    other = scholar()
    for network in (other.solver.network, other.generator.network):  # type: ignore[attr-defined]
        for parameter in network.module.parameters():
            parameter.zero_()
    other._drawn = None
    assert not torch.equal(at(other, 3).x, expected.x)
    other.load(saved)
    assert same(at(other, 3), expected)


def test_bytes_are_those_of_both_networks() -> None:
    made = scholar(chunk=4)
    weights = 4 * (6 * 5 + 5 + 5 * 4 + 4) + 4 * (6 * 5 + 5 + 5 * 3 + 3 + 5 * 3 + 3 * 5 + 5 + 5 * 6 + 6)
    assert made.num_bytes() == weights


def test_the_whole_chunk_is_labelled_whatever_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reverie.replay.generative.LABEL_ROWS", 7)
    split = at(scholar(form="soft"), 2)
    monkeypatch.undo()
    whole = at(scholar(form="soft"), 2)
    torch.testing.assert_close(split.y, whole.y)
    assert same(replace(split, y=None), replace(whole, y=None))


def test_a_pool_is_generated_once_a_phase_and_drawn_from_at_every_step() -> None:
    made = scholar()
    made.pool = 7
    drawn: list[int] = []
    real = made.draw

    def draw(n: int, rng: torch.Generator) -> Batch:
        drawn.append(n)
        return real(n, rng)

    made.draw = draw  # type: ignore[method-assign]
    batches = [at(made, step, n=40) for step in range(6)]
    assert drawn == [7]
    assert len(torch.cat([b.x for b in batches]).unique(dim=0)) == 7
    assert not torch.equal(batches[0].x, batches[1].x)
    assert all(float(b.weight.sum()) == pytest.approx(1) for b in batches)
    known = {tuple(x.tolist()): int(y) for x, y in zip(batches[0].x, batches[0].y, strict=True)}  # type: ignore[arg-type]
    assert all(known[tuple(x.tolist())] == int(y) for b in batches for x, y in zip(b.x, b.y, strict=True))  # type: ignore[arg-type]
    # The same after a resume, and others in the next task.
    again = scholar()
    again.pool = 7
    assert same(at(again, 3, n=40), batches[3])
    other = at(made, 0, n=40, task=2)
    assert drawn == [7, 7]
    assert tuple(other.x[0].tolist()) not in known


@pytest.mark.parametrize("selection", ["confidence", "entropy", "margin", "likelihood"])
def test_each_row_is_the_best_of_its_candidates_and_classes_keep_their_shares(selection: Any) -> None:
    rng = Randomness(0)
    solver, model = MLP(hidden=(5,)), Densities(Gaussian("diagonal"))
    solver.build(SPEC, rng, CPU)
    model.build(SPEC, rng, CPU)
    x = torch.rand(60, 6, generator=torch.Generator().manual_seed(0))
    model.fit(TensorRows(x, torch.arange(60) % 2))
    merits = {}
    for rule, candidates in (("none", 1), (selection, 8)):
        made = Scholar(solver, model, rng, 4, selection=rule, candidates=candidates)
        made.begin_task(Labelling("condition", SEEN, answer("hard")))
        rows = made.draw(400, torch.Generator().manual_seed(1))
        assert len(rows) == 400
        assert float(rows.weight.sum()) == pytest.approx(1)
        assert rows.y is not None
        assert 150 < int((rows.y == 0).sum()) < 250
        if selection == "likelihood":
            log_prob = model.log_prob(rows.x, rows.y)
            merits[rule] = -float(log_prob.std())
        else:
            scores = solver.scores(rows.x).detach()
            merits[rule] = float(certainty(scores[:, SEEN], selection).mean())
    assert merits[selection] > merits["none"] + (0.1 if selection == "likelihood" else 0.002)


def test_selection_under_agreement_never_takes_a_row_that_disagrees_where_one_agrees() -> None:
    made = scholar(source="agreement", conditional=True)
    before = made.draw(300, torch.Generator().manual_seed(1))
    made.selection, made.candidates = "confidence", 8
    after = made.draw(300, torch.Generator().manual_seed(1))
    share = [float((rows.weight > 0).float().mean()) for rows in (before, after)]
    assert share[1] >= share[0]
    assert float(after.weight.sum()) == pytest.approx(1)


def test_a_pool_is_new_in_each_epoch_and_one_within_it() -> None:
    def rows_of(made: Scholar, step: int, epoch: int, task: int = 1) -> set[tuple[float, ...]]:
        made.rng.position = Position(task, 0, step)
        return {tuple(x.tolist()) for x in made.sample(200, epoch=epoch).x}

    def pooled() -> Scholar:
        made = scholar()
        made.pool = 9
        return made

    made = pooled()
    pools = [rows_of(made, step, epoch) for step, epoch in ((0, 0), (1, 0), (2, 1), (3, 1), (4, 2))]
    assert [len(pool) for pool in pools] == [9] * 5
    assert pools[0] == pools[1]
    assert pools[2] == pools[3]
    assert all(a.isdisjoint(b) for a, b in ((pools[0], pools[2]), (pools[2], pools[4]), (pools[0], pools[4])))
    again = pooled()  # from the middle, and back
    assert rows_of(again, 3, 1) == pools[3]
    assert rows_of(again, 0, 0) == pools[0]
    assert rows_of(again, 3, 1, task=2).isdisjoint(pools[3])


# ---------------------------------------------------------------------------- diversity and interference


def selecting(selection: Any, source: str = "condition", pool: int | None = None, chunk: int = 3) -> Scholar:
    """Four rows a step of twenty candidates; three steps a chunk."""
    made = scholar(chunk=chunk, source=source, conditional=True)
    made.selection, made.candidates, made.pool = selection, 1 if selection == "none" else 5, pool
    return made


def spied_on(made: Scholar) -> list[Batch]:
    """What its generator draws from now on."""
    drawn: list[Batch] = []
    sample = made.generator.sample

    def spied(n: int, rng: torch.Generator, classes: Any = None) -> Batch:
        drawn.append(sample(n, rng, classes))
        return drawn[-1]

    made.generator.sample = spied  # type: ignore[method-assign]
    return drawn


def farthest_first(features: Tensor, count: int) -> list[int]:
    """By its definition: the row nearest to the mean, then always the one whose nearest chosen row is farthest away."""
    chosen = [int((features - features.mean(dim=0)).norm(dim=1).argmin())]
    while len(chosen) < count:
        free = [i for i in range(len(features)) if i not in chosen]
        chosen.append(max(free, key=lambda i: min(float((features[i] - features[j]).norm()) for j in chosen)))
    return chosen


def test_diversity_is_k_centre_over_all_candidates_of_a_step() -> None:
    made = selecting("diversity")
    drawn = spied_on(made)
    for step in range(3):
        rows = at(made, step, n=4)
        offered = drawn[0].x[20 * step : 20 * step + 20]
        features = functional.normalize(made.solver.encode(offered), dim=1)
        assert torch.equal(rows.x, offered[farthest_first(features, 4)])
        torch.testing.assert_close(rows.weight, torch.full((4,), 0.25))
    assert len(drawn) == 1  # for all three steps


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_diversity_under_agreement_takes_rows_that_disagree_only_where_too_few_agree(share: float) -> None:
    made = selecting("diversity", source="agreement")
    made.solver.scores = lambda x: torch.eye(4)[(x[:, 0] > x[:, 0].quantile(share)).long()]  # type: ignore[method-assign]
    drawn = spied_on(made)
    rows = made.draw(12, torch.Generator().manual_seed(1))
    asked = drawn[0].y
    assert asked is not None
    agree = int((made.solver.scores(drawn[0].x).argmax(dim=1) == asked).sum())
    assert int((rows.weight > 0).sum()) == min(agree, 12) > 0
    few = made.draw(1, torch.Generator().manual_seed(1), steps=40)
    assert len(few) == 40
    assert float(few.weight.sum()) == pytest.approx(1)


def live_solver() -> MLP:
    """As it is after some steps on new rows."""
    live = MLP(hidden=(5,))
    live.build(SPEC, Randomness(3), CPU)
    for _ in range(3):
        live.step(batch())
    return live


@pytest.mark.parametrize("pool", [None, 50])
def test_interference_keeps_the_candidates_whose_loss_grows_most(pool: int | None) -> None:
    made, every, live = selecting("interference", pool=pool), selecting("none", pool=pool), live_solver()
    drawn = spied_on(made)
    for step in range(6):
        made.rng.position = every.rng.position = Position(1, 0, step)
        offered = every.sample(20)
        growth = interference(offered, batch(), live, 0.1)
        kept = made.sample(4, batch(), live, 0.1)
        if pool is None:
            assert torch.equal(kept.x, offered.x[growth.argsort(descending=True)[:4]])
        least = interference(kept, batch(), live, 0.1).min()
        assert int((growth > least + 1e-6).sum()) < 4  # in a pool rows may be drawn twice
        torch.testing.assert_close(kept.weight, torch.full((4,), 0.25))
    assert [len(rows.x) for rows in drawn] == ([50] if pool else [60, 60])  # candidates of three steps in one pass


def test_interference_follows_the_live_solver_and_the_current_rows() -> None:
    made, live, other = selecting("interference"), live_solver(), live_solver()
    for _ in range(20):
        other.step(batch())
    made.rng.position = Position(1, 0, 0)
    first = made.sample(4, batch(), live, 0.1)
    assert same(first, made.sample(4, batch(), live, 0.1))
    current = replace(batch(), y=(batch().y + 1) % 4)  # type: ignore[operator]
    assert not torch.equal(first.x, made.sample(4, current, live, 0.1).x)
    assert not torch.equal(first.x, made.sample(4, batch(), other, 0.1).x)


def test_interference_needs_something_to_look_at() -> None:
    made = selecting("interference")
    with pytest.raises(ValueError, match="needs the current rows and the live solver"):
        at(made, 0)
    assert len(made.draw(30, torch.Generator())) == 30  # unselected, for whoever looks at what is generated


def test_interference_under_agreement_leaves_rows_that_disagree_for_last() -> None:
    made = selecting("interference", source="agreement")
    made.solver.scores = lambda x: torch.eye(4)[(x[:, 0] > x[:, 0].median()).long()]  # type: ignore[method-assign]
    for step in range(6):
        made.rng.position = Position(1, 0, step)
        assert bool((made.sample(3, batch(), live_solver(), 0.1).weight > 0).all())
