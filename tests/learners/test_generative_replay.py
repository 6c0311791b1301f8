"""Generative replay: which of the generated rows are rehearsed, and when they are made anew."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from reverie.checks import OptionsError
from reverie.engine import Settings
from reverie.generators import (
    Densities,
    GaussianCopula,
    GaussianMixture,
    MixtureOfFactorAnalysers,
    PrincipalComponents,
)
from reverie.learners import GenerativeReplay
from reverie.seeding import Position
from reverie.storage import read_tree, write_tree
from reverie.streams import ArrayStream
from reverie.types import Batch
from tests.tiny import (
    Halt,
    differing,
    halt_after,
    make_loop,
    recommending,
    tiny_generator,
    tiny_images,
    tiny_stream,
    train,
)

OPTIONS: dict[str, dict[str, Any]] = {
    "pool an epoch": {"pool": 20, "refresh": "epoch"},
    "diversity": {"selection": "diversity", "candidates": 3, "chunk": 2},
    "interference": {"selection": "interference", "candidates": 3, "chunk": 2},
    "interference from a pool": {"selection": "interference", "pool": 20, "refresh": "epoch"},
    "interference, soft labels": {"selection": "interference", "distill": True, "active_classes": "all-so-far"},
}
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


def learner_of(options: dict[str, Any], generator: str = "vae") -> GenerativeReplay:
    return GenerativeReplay(generator=tiny_generator(generator), **options)


@every_option
@pytest.mark.parametrize("scenario", ["class", "task", "domain"])
def test_a_resumed_run_equals_the_unbroken_one(options: dict[str, Any], scenario: Any, tmp_path: Path) -> None:
    """Broken off in the middle of an epoch and of a chunk."""
    stream = tiny_stream(scenario, rows=20, steps=13)  # 5 steps an epoch
    whole = train(learner_of(options), stream)
    broken = make_loop(learner_of(options), stream, prepare=halt_after(33))
    with pytest.raises(Halt):
        broken.run()
    assert broken.cursor.step == 7
    write_tree(tmp_path / "state", broken.learner.state())
    state, record = read_tree(tmp_path / "state"), deepcopy(broken.record.state())
    fresh = make_loop(learner_of(options), stream, prepare=lambda learner: learner.load(state))
    fresh.record.load(record, torch.device("cpu"))
    fresh.cursor = broken.cursor
    result = fresh.run()
    assert differing(whole.learner.state(), fresh.learner.state()) == []
    assert result["matrices"] == whole.result["matrices"]


DENSITIES = {
    "tied mixtures": Densities(GaussianMixture("tied", components=3, iterations=2), transforms=("whiten",)),
    "factor analysers in principal components": Densities(
        PrincipalComponents(MixtureOfFactorAnalysers(rank=2), dimensions=4), scope="class", support="hurdle"
    ),
}


@pytest.mark.parametrize("generator", DENSITIES.values(), ids=DENSITIES)
def test_resumed_in_the_middle_of_a_task_densities_replay_the_same_bits(generator: Densities, tmp_path: Path) -> None:
    learner, stream = GenerativeReplay(generator=generator, labels="condition"), tiny_stream("domain", steps=10)
    whole = make_loop(learner, stream)
    result = whole.run()
    broken = make_loop(learner, stream, folder=tmp_path, prepare=halt_after(24), settings=Settings(checkpoint_steps=1))
    with pytest.raises(Halt):
        broken.run()
    again = make_loop(learner, stream, folder=tmp_path)
    assert again.resume()
    assert again.cursor.task == 2
    assert again.cursor.step > 0
    resumed = again.run()
    assert differing(whole.learner.state(), again.learner.state()) == []
    assert resumed["matrices"] == result["matrices"]


@pytest.mark.parametrize("name", ["densities", "conditional-vae", "wgan-gp", "oracle"])
@pytest.mark.parametrize("selection", ["diversity", "interference"])
def test_every_kind_of_generator_can_be_selected_from(name: str, selection: Any) -> None:
    made = GenerativeReplay(generator=tiny_generator(name), selection=selection, candidates=2)
    assert train(made, tiny_stream("class")).result["status"] == "complete"


def rehearsed(options: dict[str, Any], **stream: Any) -> dict[tuple[int, int], set[tuple[float, ...]]]:
    """The rows replayed at each step, by task and step."""
    found: dict[tuple[int, int], set[tuple[float, ...]]] = {}

    def spy(learner: Any) -> None:
        real = learner.step

        def step(phase: Any, batch: Batch) -> Any:
            result = real(phase, batch)
            if learner.scholar is not None:
                here: Position = learner.rng.position
                rows = learner._replay(learner.scholar, phase, batch)
                found[here.task, here.step] = {tuple(x.tolist()) for x in rows.x}
            return result

        learner.step = step

    train(GenerativeReplay(generator=Densities(), labels="condition", **options), tiny_stream(**stream), prepare=spy)
    return found


def test_a_pool_lasts_an_epoch_or_the_task() -> None:
    """40 rows a task in batches of 8: an epoch is 5 steps."""
    shape: dict[str, Any] = {"rows": 20, "steps": 15, "replay_size": 60}
    pools: dict[str, list[list[set[tuple[float, ...]]]]] = {}
    for refresh in ("task", "epoch"):
        options = {"pool": 6, "refresh": refresh, "replay_size": shape["replay_size"]}
        rows = rehearsed(options, rows=shape["rows"], steps=shape["steps"])
        pools[refresh] = [
            [set().union(*(rows[task, step] for step in range(first, first + 5))) for first in (0, 5, 10)]
            for task in (1, 2)
        ]
    for once in pools["task"]:
        assert once[0] == once[1] == once[2]
        assert len(once[0]) == 6
    for anew in pools["epoch"]:
        assert [len(pool) for pool in anew] == [6, 6, 6]
        assert all(a.isdisjoint(b) for i, a in enumerate(anew) for b in anew[:i])
    # The first epoch's pool is that of a run that keeps it.
    assert pools["epoch"][0][0] == pools["task"][0][0]


def test_interference_looks_at_the_live_solver_within_its_groups_at_its_rate() -> None:
    seen: list[tuple[Any, ...]] = []

    def spy(learner: Any) -> None:
        begin = learner.begin_task

        def begin_task(task: Any) -> None:
            begin(task)
            if learner.scholar is None:
                return
            real = learner.scholar.sample

            def sample(n: int, current: Any, solver: Any, learning_rate: float, epoch: int) -> Batch:
                seen.append((n, len(current), current.groups, solver is learner.network, learning_rate, epoch))
                return real(n, current, solver, learning_rate, epoch)

            learner.scholar.sample = sample

        learner.begin_task = begin_task

    made = GenerativeReplay(selection="interference", active_classes="all-so-far")
    run = train(made, tiny_stream("class", learning_rate=0.02), prepare=spy)
    assert len(seen) == 16
    assert {(n, rows, live, rate, epoch) for n, rows, _, live, rate, epoch in seen} == {(8, 8, True, 0.02, 0)}
    assert torch.equal(seen[-1][2], run.learner.groups)


def test_interference_is_counted() -> None:
    stream = tiny_stream("class")
    plain, live = (
        train(GenerativeReplay(selection=selection, candidates=5), stream).learner
        for selection in ("entropy", "interference")
    )
    phase = plain.phase("train")
    # The labels of the candidates either way; their losses before and after, and the virtual update.
    extra = live.flops(phase, None) - plain.flops(phase, None)
    rows = 5 * phase.batch_size
    assert extra == 2 * live.network.flops(rows, train=False) + live.network.flops(phase.batch_size)
    assert live.memory().working["virtual update"] == 2 * live.network.num_bytes()
    assert "virtual update" not in plain.memory().working
    assert live.memory().working["replay chunk"] == 5 * plain.memory().working["replay chunk"]


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_solver_sees_a_share_of_the_new_rows_as_reconstructed(share: float) -> None:
    given: list[Batch] = []
    wanted: list[Tensor] = []
    seen: list[Batch] = []

    def spy(learner: Any) -> None:
        step, solve = learner.step, learner.network.step

        def outer(phase: Any, batch: Batch) -> Any:
            if phase.name == "solver":
                given.append(batch)
                wanted.append(learner.model.reconstruct(batch.x))
            return step(phase, batch)

        def inner(batch: Batch) -> Any:
            seen.append(batch)
            return solve(batch)

        learner.step, learner.network.step = outer, inner

    train(learner_of({"reconstructed": share}, "lgaa"), tiny_images(tasks=2, steps=3), prepare=spy)
    assert len(seen) == len(given) == 6
    for new, shown, learnt in zip(given, wanted, seen, strict=True):
        n, rows = round(share * len(new)), len(new)
        assert torch.allclose(learnt.x[:n], shown[:n], atol=1e-6)
        assert torch.equal(learnt.x[n:rows], new.x[n:])
        assert torch.equal(learnt.y[:rows], new.y)
    assert [len(batch) for batch in seen] == 3 * [len(given[0])] + 3 * [2 * len(given[0])]  # with replay, as it is


def test_reconstructions_are_counted_and_need_a_generator_that_makes_them() -> None:
    stream = tiny_images(tasks=2, steps=3)
    plain, half = (train(learner_of({"reconstructed": share}, "lgaa"), stream).learner for share in (0.0, 0.5))
    solver, generator = half.phase("solver"), half.model.phase("generator")
    extra = half.flops(solver, None) - plain.flops(solver, None)
    assert extra == half.model.rehearsal_flops(solver.batch_size // 2) > 0
    assert half.flops(generator, None) == plain.flops(generator, None)
    message = "reconstructed = 0.5: needs a generator that reconstructs and is trained before the solver, 'lgaa'"
    for name in ("vae", "wgan-gp", "densities"):
        with pytest.raises(OptionsError, match=message):
            learner_of({"reconstructed": 0.5}, name)
    with pytest.raises(OptionsError, match=message):  # the stream's generator is a VAE
        train(GenerativeReplay(reconstructed=0.5), stream)


def test_options_without_effect_are_refused() -> None:
    message = "refresh = 'epoch': has no effect where pool = None generates new rows at every step; give a pool or leave it out"
    with pytest.raises(OptionsError, match=message):
        GenerativeReplay(refresh="epoch")
    with pytest.raises(OptionsError, match="candidates = 7: has no effect where selection = 'none'"):
        GenerativeReplay(candidates=7)
    for selection in ("diversity", "interference"):
        GenerativeReplay(selection=selection, candidates=7, pool=10, refresh="epoch")  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------- likelihoods that are not there


def test_a_family_that_never_has_a_density_cannot_be_selected_from_by_likelihood() -> None:
    planes = Densities(PrincipalComponents(noise=False))
    with pytest.raises(
        OptionsError, match=r"noise=False\)\) can be sampled but has no likelihood; choose another selection"
    ):
        GenerativeReplay(generator=planes, labels="condition", selection="likelihood")
    GenerativeReplay(generator=planes, labels="condition", selection="confidence")


@pytest.mark.parametrize("silent", [False, True])
def test_a_density_that_turns_out_to_have_none_is_told_of_after_the_first_task(silent: bool) -> None:
    """A latent that is 0 in half of the rows of one class has a mass there."""
    stream, arrays = tiny_stream("class"), []
    for task in stream:
        batch = task.train.take(torch.arange(len(task.train)))
        x = batch.x + torch.rand(batch.x.shape, generator=torch.Generator().manual_seed(0)) * 1e-3
        x[:, 0] = torch.where((batch.y == 1) & (torch.arange(len(x)) % 4 < 2) & silent, 0.0, x[:, 0])
        arrays.append([x, batch.y, x, batch.y])
    learner = GenerativeReplay(generator=Densities(GaussianCopula()), labels="condition", selection="likelihood")
    made = make_loop(learner, recommending(ArrayStream.from_arrays(arrays, "class"), steps=8))
    if not silent:
        assert made.run()["status"] == "complete"
        return
    with pytest.raises(
        OptionsError,
        match=r"selection = 'likelihood': generator = Densities.density=GaussianCopula\(\)\) can be sampled .*some axis",
    ):
        made.run()
    assert (made.cursor.task, made.record.steps) == (0, 8)
