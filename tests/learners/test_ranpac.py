"""RanPAC: ridge regression in closed form, whatever the tasks; the projection from the seed; the choice of the ridge."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from reverie.checks import OptionsError, StorageError, TrainingError
from reverie.device import CPU
from reverie.learners import RanPAC
from reverie.learners.ranpac import GRID, HELD_OUT
from reverie.seeding import Randomness
from reverie.types import Phase
from tests.learners.vectors import built, class_by_class, shuffled, spec_of, taught, teach, vectors
from tests.tiny import Halt, differing, make_loop, tiny_stream, train


@pytest.mark.parametrize("projection", [None, 20])
def test_equals_the_closed_form(projection: int | None) -> None:
    x, y = vectors()
    learner = taught(RanPAC(projection=projection, ridge=3.0), *shuffled(x, y), parts=13)
    rows = x.double()
    if projection is not None:
        rows = torch.relu(rows @ learner.weight.double().T)
    targets = functional.one_hot(y).double()
    weights = torch.linalg.solve(rows.T @ rows + 3.0 * torch.eye(rows.shape[1]), rows.T @ targets)
    expected = (rows @ weights).float()
    assert torch.allclose(learner.predict(x).scores, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("ridge", [1e-2, 1.0, 100.0])
def test_the_split_into_tasks_does_not_matter(ridge: float) -> None:
    """One task of all classes, and one task a class, by single rows or all at once; a number for the ridge, since its choice looks at a task's
    rows. Wide enough for G to be all but singular, which float32 sums would answer for from the fourth digit on."""
    x, y = vectors(rows=250, width=30)
    once = taught(RanPAC(projection=300, ridge=ridge), x, y, parts=250)
    scores = once.predict(x).scores
    for rows, parts in ((shuffled(x, y), 64), (class_by_class(x, y), 75), (class_by_class(x, y), 1)):
        other = taught(RanPAC(projection=300, ridge=ridge), *rows, parts=parts)
        for a, b in ((once.sums.gram.tril(), other.sums.gram.tril()), (once.sums.sums, other.sums.sums)):
            assert torch.allclose(a, b, rtol=0, atol=1e-12 * float(a.abs().max()))
        assert torch.allclose(scores, other.predict(x).scores, rtol=0, atol=1e-6 * float(scores.abs().max()))


def test_shards_merge_into_the_union() -> None:
    x, y = class_by_class(*vectors())
    whole = taught(RanPAC(projection=40), x, y)
    first, *rest = (
        taught(RanPAC(projection=40), *part, classes=4) for part in zip(x.split(110), y.split(110), strict=True)
    )
    for shard in rest:
        first.sums.merge(shard.sums)
    assert torch.equal(first.sums.counts, whole.sums.counts)
    assert torch.allclose(first.sums.gram, whole.sums.gram, rtol=0, atol=1e-6 * float(whole.sums.gram.max()))
    with pytest.raises(
        OptionsError, match=r"4 classes, width 40 and 4 classes, width 30; fit both on latents of one cut"
    ):
        first.sums.merge(taught(RanPAC(projection=30), x, y).sums)


def test_wide_sums_in_blocks_equal_one_product(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = vectors()
    whole = taught(RanPAC(projection=50), x, y)
    monkeypatch.setattr("reverie.learners.ranpac.BLOCK", 16)
    blocks = taught(RanPAC(projection=50), x, y)
    scale = float(whole.sums.gram.max())
    assert torch.allclose(blocks.sums.gram.tril(), whole.sums.gram.tril(), rtol=0, atol=1e-6 * scale)
    assert torch.allclose(blocks.predict(x).scores, whole.predict(x).scores, atol=1e-4)


# ---------------------------------------------------------------------------------------------- projection


def test_the_projection_comes_from_the_seed_and_is_not_kept() -> None:
    x, y = vectors()
    learner = taught(RanPAC(projection=30), x, y)
    assert torch.equal(learner.weight, built(RanPAC(projection=30), 7, 4).weight)
    assert not torch.equal(learner.weight, built(RanPAC(projection=30), 7, 4, seed=1).weight)
    memory = learner.memory()
    assert memory.persistent == {"ridge sums": 8 * (30 * 31 // 2 + 4 * 30 + 4)}
    assert memory.working["random projection"] == 8 * 30 * 7
    kept = list(learner.state()["ridge sums"].values())
    assert all(tensor.shape[-1] != 7 for tensor in kept)
    assert sum(memory.persistent.values()) == sum(tensor.numel() * tensor.element_size() for tensor in kept)


def test_a_whole_matrix_in_float32_is_taken() -> None:
    """As folders from before triangles were saved have it."""
    x, y = vectors()
    learner = taught(RanPAC(projection=30, ridge=10.0), x, y)
    state, again = learner.state(), built(RanPAC(projection=30, ridge=10.0), 7, 4)
    state["ridge sums"] = {**state["ridge sums"], "gram": learner.sums.gram.float()}
    again.load(state)
    assert again.sums.gram.dtype == torch.float64
    assert torch.allclose(again.predict(x).scores, learner.predict(x).scores, atol=1e-4)


def test_sums_of_another_seed_are_refused() -> None:
    state = taught(RanPAC(projection=30), *vectors()).state()
    with pytest.raises(StorageError, match=r"projection of seed 1 is not the one that these statistics were made with"):
        built(RanPAC(projection=30), 7, 4, seed=1).load(state)
    with pytest.raises(StorageError, match="projection = 31"):
        built(RanPAC(projection=31), 7, 4).load(state)


# ---------------------------------------------------------------------------------------------- ridge


def test_a_ridge_too_small_says_what_to_try() -> None:
    x, y = vectors(rows=20, width=4)
    learner = taught(RanPAC(projection=200, ridge=1e-12), 1000 * x, y)
    with pytest.raises(
        TrainingError, match=r"ridge = 1e-12: too small .* try (\S+) or more, or ridge = 'held-out'"
    ) as caught:
        learner.predict(x)
    remedy = float(str(caught.value).split("; try ")[1].split()[0])
    assert bool(torch.isfinite(taught(RanPAC(projection=200, ridge=remedy), 1000 * x, y).predict(x).scores).all())


def test_the_choice_is_the_best_of_the_grid_and_every_row_is_added() -> None:
    stream = tiny_stream("class", tasks=2, classes_per_task=3, rows=60)
    seen: list[tuple[int, dict[int, float]]] = []

    def spy(learner: Any) -> None:
        real = learner._chosen

        def chosen(rows: Any) -> int:
            grid = range(GRID[0], GRID[1] + 1)
            errors = dict(zip(grid, learner._errors(rows, [10.0**e for e in grid]), strict=True))
            seen.append((real(rows), errors))
            return seen[-1][0]

        learner._chosen = chosen

    run = train(RanPAC(projection=200, rows_a_step=32), stream, prepare=spy)
    assert len(seen) == 2
    for choice, errors in seen:
        assert min(errors.values()) >= 0.99 * errors[choice]
        assert GRID[0] < choice < GRID[1]
    plain = train(RanPAC(projection=200, ridge=1.0), stream).learner
    assert torch.equal(run.learner.sums.counts, plain.sums.counts)
    scale = float(plain.sums.gram.abs().max())
    assert torch.allclose(run.learner.sums.gram, plain.sums.gram, rtol=0, atol=1e-6 * scale)


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ({2: 0.5, 1: 0.3, 0: 0.2, -1: 0.4}, 0),  # a valley
        ({2: 0.5, 1: 0.3, 0: 0.2, -1: 0.1995, -2: 0.1, -3: 0.0}, 0),  # a plateau is not entered
        ({1: 0.6, 2: 0.5, 3: 0.1, 4: 0.05, 5: 0.06}, 4),  # on the other side
    ],
)
def test_the_search_starts_at_the_mean_diagonal_whatever_was_chosen_before(errors: Any, expected: int) -> None:
    learner = built(RanPAC(projection=5), 7, 4)
    learner.sums.gram.diagonal().fill_(120.0)
    learner.exponent = -7
    learner._errors = lambda rows, ridges: [errors.get(round(math.log10(ridge)), 1.0) for ridge in ridges]
    assert learner._chosen(None) == expected


def test_held_out_rows_are_a_fifth_and_no_row_is_in_both() -> None:
    stream = tiny_stream("class")
    learner = make_loop(RanPAC(projection=10), stream).learner
    phases = learner.phases(stream[1])
    assert [phase.name for phase in phases] == ["statistics", HELD_OUT]
    parts = [learner.rows(phase, stream[1]) for phase in phases]
    assert [len(part) for part in parts] == [39, 9]
    rows = torch.cat([torch.cat([batch.x for batch in part.chunks(4)]) for part in parts])
    whole = stream[1].train.take(torch.arange(48)).x
    assert torch.equal(rows.unique(dim=0), whole.unique(dim=0))
    for part in parts:
        batch = part.take(torch.tensor([3, 1]))
        assert torch.equal(batch.y, part.labels[[3, 1]])


def test_a_task_too_small_to_hold_rows_out_keeps_the_last_choice() -> None:
    stream = tiny_stream("class", rows=2)
    run = train(RanPAC(projection=10), stream)
    assert run.learner.exponent is None
    assert [phase.name for phase in run.learner.phases(stream[0])] == ["statistics"]
    assert bool(torch.isfinite(run.learner.predict(stream.tests[0].rows.take(torch.arange(1)).x).scores).all())


def test_a_process_that_dies_while_it_chooses_repeats_the_choice(tmp_path: Path) -> None:
    stream, part = tiny_stream("class"), RanPAC(projection=30, rows_a_step=8)
    whole = train(part, stream)

    def die(learner: Any) -> None:
        real = learner.end_phase

        def end_phase(phase: Phase, task: Any) -> None:
            real(phase, task)
            if task is not None and task.index == 1 and phase.name != HELD_OUT:
                raise Halt

        learner.end_phase = end_phase

    with pytest.raises(Halt):
        make_loop(part, stream, folder=tmp_path, prepare=die).run()
    again = make_loop(part, stream, folder=tmp_path)
    result = again.run()
    assert differing(again.learner.state(), whole.learner.state()) == []
    assert result["matrices"] == whole.result["matrices"]


def test_classes_join() -> None:
    x, y = vectors()
    early = y < 2
    learner = teach(built(RanPAC(projection=30, ridge=1.0), 7, 2), x[early], y[early])
    learner.extend(spec_of(7, 4))
    teach(learner, x[~early], y[~early])
    whole = taught(RanPAC(projection=30, ridge=1.0), x, y)
    assert torch.allclose(learner.predict(x).scores, whole.predict(x).scores, atol=1e-4)


def test_before_any_row_it_answers_finite_scores() -> None:
    for part in (RanPAC(projection=10), RanPAC(projection=None), RanPAC(projection=10, ridge=1.0)):
        learner = part.clone()
        learner.build(spec_of(7, 4), Randomness(0), CPU)
        assert bool(torch.isfinite(learner.predict(torch.rand(3, 7)).scores).all())
