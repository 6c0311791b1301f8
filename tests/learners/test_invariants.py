"""What must hold exactly for rehearsal to be rehearsal (spec, section 1.8)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from reverie.checks import OptionsError
from reverie.generators import GENERATORS, Oracle
from reverie.learners import GenerativeReplay, LearningWithoutForgetting, Naive, Replay
from reverie.replay import Buffer, Scholar
from reverie.streams import ArrayStream
from reverie.types import Batch, Rows
from tests.tiny import Trained, bits, differing, module_bits, recommending, tiny_generator, tiny_stream, train

SCENARIOS = ("class", "task", "domain")


def frozen_parts(learner: Any) -> list[Any]:
    if isinstance(learner, LearningWithoutForgetting):
        return [] if learner.past is None else [learner.past]
    return [] if learner.scholar is None else [learner.scholar.solver, learner.scholar.generator]


def modules(parts: list[Any]) -> list[Any]:
    """The torch modules of solvers and generators, which keep one network or several."""
    networks = [part.networks.values() if hasattr(part, "networks") else [part.network] for part in parts]
    return [network.module for group in networks for network in group]


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize(
    "learner",
    [
        GenerativeReplay(),
        GenerativeReplay(distill=True),
        GenerativeReplay(generator=GENERATORS["vae"](conditional=True), labels="agreement"),
        GenerativeReplay(generator=tiny_generator("wgan-gp")),
        LearningWithoutForgetting(),
    ],
    ids=["hard", "distilled", "agreement", "wgan-gp", "without-forgetting"],
)
def test_a_frozen_scholar_is_the_same_at_the_end_of_a_task(learner: Any, scenario: str) -> None:
    looked = []

    def spy(made: Any) -> None:
        real_begin, real_step, real_end = made.begin_task, made.step, made.end_task
        before: list[Any] = []

        def refuse(mode: bool = True) -> None:
            raise AssertionError("a frozen network was switched to another mode")

        def begin(task: Any) -> None:
            # What is frozen equals what was live before the task: nothing of the task has touched it.
            live = [module_bits(made.network)]
            if hasattr(made, "model"):
                live.append(bits(made.model.frozen().state()))
            real_begin(task)
            parts = frozen_parts(made)
            before[:] = [bits(part.state()) for part in parts]
            if parts:
                assert module_bits(parts[0]) == live[0]
                assert before[1:] == live[1:]
            for module in modules(parts):
                module.train = refuse

        def step(phase: Any, batch: Batch) -> Any:
            result = real_step(phase, batch)
            for module in modules(frozen_parts(made)):
                assert not any(p.requires_grad or p.grad is not None for p in module.parameters())
                assert not any(inner.training for inner in module.modules())
            return result

        def end(task: Any) -> None:
            real_end(task)
            looked.append(len(frozen_parts(made)))
            assert [bits(part.state()) for part in frozen_parts(made)] == before

        made.begin_task, made.step, made.end_task = begin, step, end

    run = train(learner, tiny_stream(scenario), prepare=spy)
    parts = 1 if isinstance(learner, LearningWithoutForgetting) else 2
    assert looked == [0, parts, parts]
    # The live ones did move meanwhile, or the comparison above would say nothing.
    assert module_bits(run.learner.network) != module_bits(frozen_parts(run.learner)[0])


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize(
    "learner",
    [
        Replay(importance=1.0),
        GenerativeReplay(importance=1.0),
        GenerativeReplay(importance=1.0, distill=True),
        GenerativeReplay(importance=1.0, generator=tiny_generator("wgan-gp")),
        LearningWithoutForgetting(importance=1.0),
    ],
    ids=["replay", "generative", "distilled", "wgan-gp", "without-forgetting"],
)
def test_r_of_one_draws_no_replay_and_is_naive(learner: Any, scenario: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("replay was drawn")

    monkeypatch.setattr(Scholar, "sample", refuse)
    monkeypatch.setattr(Buffer, "sample", refuse)
    naive, other = train(Naive(), tiny_stream(scenario)), train(learner, tiny_stream(scenario))
    if not (isinstance(learner, GenerativeReplay) and learner.generator is not None):
        assert differing(naive.learner.network.state(), other.learner.network.state()) == []
        assert naive.result["matrices"] == other.result["matrices"]
    else:
        # With a phase before it the solver's phase is another position, so it sees its rows in another order.
        assert differing(naive.learner.network.state(), other.learner.network.state())


def test_replay_below_one_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusals above are reached by a learner that does rehearse."""
    drawn = []
    real = Scholar.sample
    monkeypatch.setattr(Scholar, "sample", lambda self, n, **k: drawn.append(n) or real(self, n, **k))
    train(GenerativeReplay(importance=0.5, replay_size="linear"), tiny_stream())
    assert drawn == [8] * 8 + [16] * 8


# ---------------------------------------------------------------------------------------------- oracle = replay


def in_the_same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the oracle keep its rows in the order of a reservoir that never fills, and draw with the buffer's random numbers."""
    real = Oracle.fit
    built = Oracle.build

    def build(self: Oracle, spec: Any, rng: Any, device: Any) -> None:
        built(self, spec, rng, device)
        self.rng = rng

    def fit(self: Oracle, rows: Rows) -> None:
        order = torch.randperm(len(rows), generator=self.rng.at("buffer order", self.rng.position.task))
        real(self, Shuffled(rows, order))

    def sample(self: Scholar, n: int, **options: Any) -> Batch:
        return self.draw(n, self.rng("buffer draw"))

    monkeypatch.setattr(Oracle, "build", build)
    monkeypatch.setattr(Oracle, "fit", fit)
    monkeypatch.setattr(Scholar, "sample", sample)


class Shuffled:
    def __init__(self, rows: Rows, order: torch.Tensor) -> None:
        self.rows, self.order = rows, order

    def chunks(self, size: int) -> Any:
        return (self.rows.take(part) for part in self.order.split(size))


@pytest.mark.parametrize("importance", ["by-task", "by-count", 0.3])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_an_oracle_with_true_labels_is_replay_without_limit(
    scenario: str, importance: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, once both draw the same rows: they differ in nothing but the names of their random streams."""
    in_the_same_order(monkeypatch)
    stream = tiny_stream(scenario)
    generative = train(GenerativeReplay(generator=Oracle(), labels="condition", importance=importance), stream)
    stored = train(Replay(buffer=Buffer(budget=1000, strategy="reservoir"), importance=importance), stream)
    assert differing(generative.learner.network.state(), stored.learner.network.state()) == []
    assert generative.result["matrices"] == stored.result["matrices"]


def replayed(learner: Any, stream: ArrayStream) -> dict[tuple[Any, ...], list[int]]:
    """How often each past row, with its label, was replayed in each task; from the solver's own batches."""
    counts: dict[tuple[Any, ...], list[int]] = {}

    def spy(made: Any) -> None:
        real = made.network.step

        def step(batch: Batch, *more: Any) -> Any:
            assert batch.y is not None
            for x, y in zip(batch.x[8:], batch.y[8:], strict=True):
                counts.setdefault((x.numpy().tobytes(), int(y)), [0, 0, 0])[made.task] += 1
            return real(batch, *more)

        made.network.step = step

    train(learner, stream, prepare=spy)
    return counts


def test_an_oracle_draws_from_the_distribution_of_an_unlimited_buffer() -> None:
    """As shipped, the two draw other rows: the same set, each row equally often up to chance (chi squared, 5 sigma)."""
    stream = tiny_stream(rows=6, steps=40)
    sources = (
        GenerativeReplay(generator=Oracle(), labels="condition", replay_size=30),
        Replay(buffer=Buffer(budget=None), replay_size=30),
    )
    both = [replayed(learner, stream) for learner in sources]
    assert set(both[0]) == set(both[1])
    for task, rows in ((1, 12), (2, 24)):
        for counts in both:
            seen = np.array([count[task] for count in counts.values()])
            seen = seen[seen > 0]
            expected = 40 * 30 / rows
            assert len(seen) == rows  # every row of the past comes up, none of the present
            chi_squared = float(((seen - expected) ** 2 / expected).sum())
            assert chi_squared < (rows - 1) + 5 * np.sqrt(2 * (rows - 1))


# ---------------------------------------------------------------------------------------------- little new data


def mostly_past() -> ArrayStream:
    """A task of two clouds with 150 rows each, then one of two clouds with a single row each."""
    rng = np.random.default_rng(0)
    corners = np.array([[0.2, 0.2, 0.8], [0.8, 0.8, 0.2], [0.2, 0.8, 0.2], [0.8, 0.2, 0.8]])

    def cloud(classes: tuple[int, ...], n: int) -> tuple[np.ndarray, np.ndarray]:
        x = np.concatenate([corners[c] + 0.05 * rng.standard_normal((n, 3)) for c in classes])
        return x.clip(0, 1).astype("float32"), np.repeat(classes, n)

    tasks = [(*cloud((0, 1), 150), *cloud((0, 1), 50)), (*cloud((2, 3), 1), *cloud((2, 3), 50))]
    return recommending(
        ArrayStream.from_arrays(tasks), steps=120, batch_size=32, hidden=(32,), learning_rate=5e-3, kl_weight=0.1
    )


def old_accuracy(run: Trained) -> tuple[float, float]:
    (before, _), (after, _) = run.accuracy
    assert before is not None
    assert after is not None
    return before, after


@pytest.mark.parametrize("distill", [False, True])
def test_with_hardly_any_new_rows_the_scholar_keeps_its_accuracy(distill: bool) -> None:
    before, after = old_accuracy(train(GenerativeReplay(distill=distill), mostly_past()))
    assert before == 1.0
    assert after >= 0.97
    # Naive training on the same two rows forgets, so the rows do pull.
    assert old_accuracy(train(Naive(), mostly_past()))[1] < 0.1


def test_options_of_soft_labels_are_refused_where_labels_are_hard() -> None:
    with pytest.raises(
        OptionsError, match=r"temperature = 4.0, .*: shape soft labels, which distill = False does not use"
    ):
        GenerativeReplay(temperature=4.0)
    with pytest.raises(OptionsError, match="shape soft labels"):
        GenerativeReplay(temperature_squared=True)
    assert GenerativeReplay(distill=True, temperature=4.0).temperature == 4.0
