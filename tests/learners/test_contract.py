"""What every learner promises the engine, for every entry of the table in every scenario."""

from __future__ import annotations

import math
from collections import defaultdict
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from reverie.engine import Settings
from reverie.generators import GENERATORS
from reverie.learners import LEARNERS, LGAA, FrozenBackbone, GenerativeReplay
from reverie.learners.base import SolverLearner
from reverie.learners.coresets import Coreset
from reverie.options import Part, from_options, signature
from reverie.posteriors import POSTERIORS, Implicit
from reverie.seeding import Randomness
from reverie.solvers import MLP
from reverie.storage import read_tree, write_tree
from reverie.streams import ArrayStream
from tests.tiny import (
    Halt,
    Trained,
    differing,
    halt_after,
    make_loop,
    recommending,
    snapshot,
    tiny_generator,
    tiny_images,
    tiny_stream,
    train,
)

SCENARIOS = ("class", "task", "domain")
# Generative replay is as many methods as there are generators; with the VAE it is the table's own entry. Any method can be
# put behind a frozen backbone; those that train no network, or look at all rows of a task at once, are cases of their own.
CASES = [
    *LEARNERS.names(),
    *(f"generative-replay with {name}" for name in GENERATORS.names() if name != "vae"),
    *(f"posterior-replay with {name}" for name in ("dirac", "radial", "implicit", "adversarial")),
    *(f"vcl with {name}" for name in ("implicit", "adversarial")),
    "posterior-replay with coreset",
    "replay with distillation",
    *(f"frozen-backbone with {name}" for name in ("streaming-lda", "ranpac", "fetril", "generative-classifier")),
    "ewc with bayesian points",
    "ewc with bayesian samples",
]

# What is kept between tasks beside solver and backbone, by method.
KEPT = {
    "cumulative": {"kept rows"},
    "joint": {"rows of all tasks"},
    "replay": {"buffer"},
    "latent-replay": {"buffer"},
    "ewc": {"importances and anchors"},
    "ewc with bayesian points": {"importances and anchors"},
    "ewc with bayesian samples": {"importances and anchors"},
    "si": {"importances and anchors"},
    "nearest-class-mean": {"class means"},
    "streaming-lda": {"class statistics"},
    "ranpac": {"ridge sums"},
    "fecam": {"class statistics"},
    "fetril": {"class means"},
    "generative-classifier": {"generator"},
    "posterior-replay with coreset": {"coreset"},
}


def learner_of(case: str) -> Part:
    """A learner cut short: few rows a step where it adds up statistics, so that a task has several; a small backbone."""
    name, _, inside = case.partition(" with ")
    if name == "generative-replay" and inside:
        return GenerativeReplay(generator=tiny_generator(inside))
    part = from_options(LEARNERS, name)
    if case == "replay with distillation":
        return part.set_params(distill=1.0)
    if inside == "coreset":
        return part.set_params(coreset=Coreset(size=4))
    if name in ("posterior-replay", "vcl") and inside:
        posterior = Implicit(estimator="adversarial") if inside == "adversarial" else from_options(POSTERIORS, inside)
        return part.set_params(posterior=posterior)
    if name == "ewc" and inside:
        answers = "posterior" if inside == "bayesian samples" else "point"
        return part.set_params(mode="bayesian", strength=1.0, active_classes="current", answers=answers)
    if isinstance(part, FrozenBackbone):
        part.set_params(backbone=MLP(hidden=(12,)))
    if inside:
        part.set_params(method=from_options(LEARNERS, inside))
    method = method_of(part)
    short = {"rows_a_step": 8, "projection": 16} | ({"batch_size": 8} if isinstance(method, LGAA) else {})
    method.set_params(**{name: value for name, value in short.items() if name in signature(type(method))})
    return part


def method_of(part: Any) -> Any:
    """The learner itself, or the one behind a frozen backbone."""
    return part.method if isinstance(part, FrozenBackbone) else part


def stream_of(case: str, scenario: Any = "class", **options: Any) -> ArrayStream:
    """Rows that the method can learn: the adversarial autoencoder learns images alone."""
    return tiny_images(scenario, **options) if "lgaa" in case else tiny_stream(scenario, **options)


def is_frozen(case: str) -> bool:
    return isinstance(learner_of(case), FrozenBackbone)


def trains_solver(case: str) -> bool:
    """Whether the method itself trains a network; the others add up statistics, or fit densities when a task ends."""
    return isinstance(method_of(learner_of(case)), SolverLearner)


def trains_autoencoder(case: str) -> bool:
    """Whether all networks are those of the adversarial autoencoder."""
    return isinstance(method_of(learner_of(case)), LGAA)


def has_losses(case: str, phase: str) -> bool:
    """Statistics are added up, they have no loss; the backbone that they are taken behind is trained by one."""
    return trains_solver(case) or trains_autoencoder(case) or phase == "backbone"


def takes_steps(case: str) -> bool:
    """All but a learner that only fits its model when a task ends."""
    return case != "generative-classifier"


def steps_by_phase(run: Trained) -> dict[str, int]:
    learner, stream = run.learner, run.loop.stream
    steps: dict[str, int] = defaultdict(int)
    for task in (*stream, None):
        for phase in learner.phases(task):
            steps[phase.name] += phase.length(len(learner.rows(phase, task)))
    return steps


def breaking_off(case: str, at: int, task: int) -> Any:
    """Dies in step ``at``; a learner that takes none, when ``task`` ends."""
    if takes_steps(case):
        return halt_after(at)

    def prepare(learner: Any) -> None:
        real = learner.end_task

        def end_task(ended: Any) -> None:
            if ended.index == task:
                raise Halt
            real(ended)

        learner.end_task = end_task

    return prepare


@cache
def trained(case: str, scenario: str) -> Trained:
    """Shared by the checks that only look."""
    return train(learner_of(case), stream_of(case, scenario))


every_learner = pytest.mark.parametrize("case", CASES)
every_scenario = pytest.mark.parametrize("scenario", SCENARIOS)


@every_learner
@every_scenario
def test_runs_to_the_end(case: str, scenario: str) -> None:
    run = trained(case, scenario)
    assert run.result["status"] == "complete"
    rows = 1 if run.learner.on_merged_stream else 3
    assert [len(row) for row in run.accuracy] == [3] * rows
    assert all(0 <= value <= 1 for value in run.accuracy[-1])
    check_steps(case, run)


def check_steps(case: str, run: Trained) -> None:
    """The steps that phases announce are taken, and those that have losses are in the lines."""
    steps = steps_by_phase(run)
    assert run.result["cost"]["steps"] == sum(steps.values())
    assert bool(run.result["cost"]["steps"]) == takes_steps(case)
    for name, count in steps.items():
        written = [line["step"] for line in run.lines if line["kind"] == "losses" and line["phase"] == name]
        assert sum(written) == (count if has_losses(case, name) else 0)


@every_learner
@every_scenario
def test_same_seed_same_bits_and_another_seed_others(case: str, scenario: str) -> None:
    first, again = trained(case, scenario), train(learner_of(case), stream_of(case, scenario))
    assert differing(first.learner.state(), again.learner.state()) == []
    assert first.result["matrices"] == again.result["matrices"]
    assert first.result["findings"] == again.result["findings"]
    other = train(learner_of(case), stream_of(case, scenario), seed=1)
    mine, others = first.learner.state(), other.learner.state()
    # Sums over all rows are the same in any order: where nothing is drawn but that, the seed is not seen but for rounding.
    if trains_solver(case) or trains_autoencoder(case) or is_frozen(case) or case == "ranpac":
        weights = [network_weights(case, state) for state in (mine, others)]
        assert weights[0]
        assert all(differing(a, b) for a, b in zip(*weights, strict=True))
    else:
        for a, b in zip(leaves(mine), leaves(others), strict=True):
            assert torch.allclose(a, b, rtol=1e-5, atol=1e-5)


def network_weights(case: str, state: Any) -> list[Any]:
    """Of solver and backbone, where there are any; of RanPAC, what stands for the weights that it never keeps."""
    found = [{"projection": state["projection"]}] if case == "ranpac" else []
    if is_frozen(case):
        found.append(state["below"]["weights"])
        state = state["inner"]
    if trains_solver(case):
        found.append(state["solver"]["weights"])
    if trains_autoencoder(case):
        found.append(state["model"]["networks"])
    return found


@every_learner
@every_scenario
def test_predict_and_probes_change_nothing(case: str, scenario: str) -> None:
    run = trained(case, scenario)
    learner, stream = run.learner, run.loop.stream
    before = snapshot(learner)
    position = run.loop.rng.position
    for test in stream.tests:
        x = test.rows.take(torch.arange(len(test.rows))).x
        first = learner.predict(x, test.head).scores
        learner.predict(x)
        assert torch.equal(first, learner.predict(x, test.head).scores)
    with torch.no_grad():
        for probe in learner.probes():
            probe(learner, stream, stream[len(stream) - 1], Randomness(5))
    learner.memory()
    for phase in learner.phases(stream[0]):
        learner.flops(phase, stream[0])
    assert differing(before, learner.state()) == []
    assert run.loop.rng.position == position


@every_learner
@every_scenario
def test_evaluation_and_checkpoints_do_not_move_training(case: str, scenario: str, tmp_path: Path) -> None:
    busy = Settings(evaluate="all", evaluate_every=3, checkpoint_steps=5)
    watched = train(learner_of(case), stream_of(case, scenario), folder=tmp_path, settings=busy)
    assert differing(trained(case, scenario).learner.state(), watched.learner.state()) == []


@every_learner
@every_scenario
def test_state_loaded_in_the_middle_continues_bit_by_bit(case: str, scenario: str, tmp_path: Path) -> None:
    whole = trained(case, scenario)
    at = 2 * whole.result["cost"]["steps"] // 3 + 1  # inside a phase, past the first task where there are more
    broken = make_loop(learner_of(case), stream_of(case, scenario), prepare=breaking_off(case, at, task=1))
    with pytest.raises(Halt):
        broken.run()
    write_tree(tmp_path / "state", broken.learner.state())
    state, record = read_tree(tmp_path / "state"), deepcopy(broken.record.state())

    def load(learner: Any) -> None:
        learner.load(state)
        assert differing(learner.state(), state) == []

    fresh = make_loop(learner_of(case), stream_of(case, scenario), prepare=load)
    fresh.record.load(record, torch.device("cpu"))
    fresh.cursor = broken.cursor
    result = fresh.run()
    assert differing(whole.learner.state(), fresh.learner.state()) == []
    assert result["matrices"] == whole.result["matrices"]


@every_learner
@every_scenario
def test_memory_says_what_is_kept(case: str, scenario: str) -> None:
    learner = trained(case, scenario).learner
    memory = learner.memory()
    assert all(value >= 0 for value in (*memory.persistent.values(), *memory.working.values()))
    keeps_rows = any(part in case for part in ("cumulative", "oracle", "coreset")) or case.partition(" with ")[0] in (
        "replay",
        "joint",
    )
    stores = "latents" if case == "latent-replay" else "none"
    assert memory.stores == ("raw" if keeps_rows else stores)
    parts = {"backbone": is_frozen, "solver": trains_solver, "autoencoder": trains_autoencoder}
    networks = {name for name, kept in parts.items() if kept(case)}
    method = case.rpartition(" with ")[2] if is_frozen(case) else case.partition(" with ")[0]
    kept = KEPT.get(case) or KEPT.get(method, {"generator"} if case.startswith("generative") else set())
    assert set(memory.persistent) == networks | kept
    assert all(value > 0 for value in memory.persistent.values())
    if networks:
        floats = [leaf.numel() for leaf in leaves(network_weights(case, learner.state()))]
        assert sum(memory.persistent[name] for name in networks) == 4 * sum(floats)


@every_learner
@every_scenario
def test_cost_and_losses(case: str, scenario: str) -> None:
    """Losses are named the same through a phase, cut from the graph and finite; the cost of a step is known beforehand."""
    seen: dict[tuple[int, str], list[dict[str, torch.Tensor]]] = defaultdict(list)
    costs = []

    def spy(learner: Any) -> None:
        real = learner.step

        def step(phase: Any, batch: Any) -> Any:
            result = real(phase, batch)
            seen[learner.task, phase.name].append(result)
            costs.append(learner.flops(phase, None))
            return result

        learner.step = step

    train(learner_of(case), stream_of(case, scenario), prepare=spy)
    assert all(math.isfinite(cost) and cost > 0 for cost in costs)
    assert bool(costs) == takes_steps(case)
    for (_, phase), named in seen.items():
        assert {tuple(losses) for losses in named} == {tuple(named[0])}
        assert bool(named[0]) == has_losses(case, phase)
        values = [value for losses in named for value in losses.values()]
        assert not any(value.requires_grad for value in values)
        assert all(value.dim() == 0 and bool(torch.isfinite(value)) for value in values)


@every_learner
def test_one_new_class_a_task(case: str) -> None:
    stream = stream_of(case, "class", classes_per_task=1, tasks=4)
    run = train(learner_of(case), stream)
    assert run.result["status"] == "complete"
    assert run.result["tasks"] == list(stream.spec.task_names)
    x = stream.tests[0].rows.take(torch.arange(3)).x
    assert run.learner.predict(x, 2).scores.argmax(dim=1).tolist() == [2, 2, 2]


@every_learner
@every_scenario
def test_scores_are_minus_infinity_outside_the_head(case: str, scenario: str) -> None:
    run = trained(case, scenario)
    spec = run.loop.stream.spec
    x = run.loop.stream.tests[0].rows.take(torch.arange(3)).x
    for head, classes in enumerate(spec.heads):
        scores = run.learner.predict(x, head).scores
        inside = torch.zeros(spec.outputs, dtype=torch.bool)
        inside[list(classes)] = True
        assert bool(torch.isfinite(scores[:, inside]).all())
        assert bool((scores[:, ~inside] == float("-inf")).all())
    assert bool(torch.isfinite(run.learner.predict(x).scores).all())  # all is taught


@every_learner
def test_classes_not_taught_yet_are_never_answered(case: str) -> None:
    stream = stream_of(case, "class")
    loop = make_loop(learner_of(case), stream, prepare=breaking_off(case, 3, task=0))
    with pytest.raises(Halt):
        loop.run()
    x = stream.tests[2].rows.take(torch.arange(3)).x
    taught = loop.stream.spec.classes_until(0)
    scores = loop.learner.predict(x).scores
    assert torch.isfinite(scores).all(dim=0).nonzero().flatten().tolist() == sorted(taught)


@every_learner
def test_a_task_smaller_than_one_batch(case: str) -> None:
    stream = recommending(stream_of(case, "class", rows=3), batch_size=64, steps=4)
    run = train(learner_of(case), stream)
    assert run.result["status"] == "complete"
    check_steps(case, run)


@every_learner
def test_epochs_instead_of_steps(case: str) -> None:
    part = learner_of(case)
    if "epochs" not in signature(type(part)):  # every row is added up once; there is no budget to choose
        phases = make_loop(part, stream_of(case, "class")).learner.phases(stream_of(case, "class")[0])
        assert {(phase.steps, phase.epochs) for phase in phases} <= {(None, 1)}
        assert "steps" not in signature(type(part))
        return
    loop = make_loop(part.set_params(epochs=2), stream_of(case, "class"))
    # A frozen backbone's own budget is that of its first phase; the method behind it has one of its own.
    phase = loop.learner.phases(loop.stream[0])[0 if is_frozen(case) else -1]
    assert (phase.steps, phase.epochs) == (None, 2)
    assert loop.run()["status"] == "complete"


def leaves(tree: Any) -> list[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        return [tree]
    values = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return [leaf for value in values for leaf in leaves(value)]
