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
from reverie.learners import LEARNERS, GenerativeReplay
from reverie.options import Part, from_options
from reverie.seeding import Randomness
from reverie.storage import read_tree, write_tree
from tests.tiny import (
    Halt,
    Trained,
    differing,
    halt_after,
    make_loop,
    recommending,
    snapshot,
    tiny_generator,
    tiny_stream,
    train,
)

SCENARIOS = ("class", "task", "domain")
# Generative replay is as many methods as there are generators; with the VAE it is the table's own entry.
CASES = [*LEARNERS.names(), *(f"generative-replay with {name}" for name in GENERATORS.names() if name != "vae")]


def learner_of(case: str) -> Part | str:
    name, _, generator = case.partition(" with ")
    return GenerativeReplay(generator=tiny_generator(generator)) if generator else name


@cache
def trained(case: str, scenario: str) -> Trained:
    """Shared by the checks that only look."""
    return train(learner_of(case), tiny_stream(scenario))


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
    assert run.result["cost"]["steps"] == sum(line["step"] for line in run.lines if line["kind"] == "losses")


@every_learner
@every_scenario
def test_same_seed_same_bits_and_another_seed_others(case: str, scenario: str) -> None:
    first, again = trained(case, scenario), train(learner_of(case), tiny_stream(scenario))
    assert differing(first.learner.state(), again.learner.state()) == []
    assert first.result["matrices"] == again.result["matrices"]
    assert first.result["findings"] == again.result["findings"]
    other = train(learner_of(case), tiny_stream(scenario), seed=1)
    assert differing(first.learner.state()["solver"]["weights"], other.learner.state()["solver"]["weights"])


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
    learner.flops(learner.phases(stream[0])[0], stream[0])
    assert differing(before, learner.state()) == []
    assert run.loop.rng.position == position


@every_learner
@every_scenario
def test_evaluation_and_checkpoints_do_not_move_training(case: str, scenario: str, tmp_path: Path) -> None:
    busy = Settings(evaluate="all", evaluate_every=3, checkpoint_steps=5)
    watched = train(learner_of(case), tiny_stream(scenario), folder=tmp_path, settings=busy)
    assert differing(trained(case, scenario).learner.state(), watched.learner.state()) == []


@every_learner
@every_scenario
def test_state_loaded_in_the_middle_continues_bit_by_bit(case: str, scenario: str, tmp_path: Path) -> None:
    whole = trained(case, scenario)
    at = 2 * whole.result["cost"]["steps"] // 3 + 1  # inside a phase, past the first task where there are more
    broken = make_loop(learner_of(case), tiny_stream(scenario), prepare=halt_after(at))
    with pytest.raises(Halt):
        broken.run()
    write_tree(tmp_path / "state", broken.learner.state())
    state, record = read_tree(tmp_path / "state"), deepcopy(broken.record.state())

    def load(learner: Any) -> None:
        learner.load(state)
        assert differing(learner.state(), state) == []

    fresh = make_loop(learner_of(case), tiny_stream(scenario), prepare=load)
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
    assert memory.persistent["solver"] > 0
    assert all(value >= 0 for value in (*memory.persistent.values(), *memory.working.values()))
    keeps_rows = any(part in case for part in ("cumulative", "oracle")) or case in ("replay", "joint")
    assert memory.stores == ("raw" if keeps_rows else "none")
    floats = [leaf.numel() for leaf in leaves(learner.state()["solver"]["weights"])]
    assert memory.persistent["solver"] == 4 * sum(floats)
    beside = set(memory.persistent) - {"solver"}
    expected = {"cumulative": {"kept rows"}, "replay": {"buffer"}, "joint": {"rows of all tasks"}}
    assert beside == expected.get(case, {"generator"} if case.startswith("generative") else set())
    assert all(memory.persistent[part] > 0 for part in beside)


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

    train(learner_of(case), tiny_stream(scenario), prepare=spy)
    assert all(math.isfinite(cost) and cost > 0 for cost in costs)
    for named in seen.values():
        assert {tuple(losses) for losses in named} == {tuple(named[0])}
        assert named[0]
        values = [value for losses in named for value in losses.values()]
        assert not any(value.requires_grad for value in values)
        assert all(value.dim() == 0 and bool(torch.isfinite(value)) for value in values)


@every_learner
def test_one_new_class_a_task(case: str) -> None:
    stream = tiny_stream("class", classes_per_task=1, tasks=4)
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
    stream = tiny_stream("class")
    loop = make_loop(learner_of(case), stream, prepare=halt_after(3))
    with pytest.raises(Halt):
        loop.run()
    x = stream.tests[2].rows.take(torch.arange(3)).x
    taught = loop.stream.spec.classes_until(0)
    scores = loop.learner.predict(x).scores
    assert torch.isfinite(scores).all(dim=0).nonzero().flatten().tolist() == sorted(taught)


@every_learner
def test_a_task_smaller_than_one_batch(case: str) -> None:
    stream = recommending(tiny_stream("class", rows=3), batch_size=64, steps=4)
    run = train(learner_of(case), stream)
    assert run.result["status"] == "complete"
    assert run.result["cost"]["steps"] == sum(line["step"] for line in run.lines if line["kind"] == "losses") > 0


@every_learner
def test_epochs_instead_of_steps(case: str) -> None:
    learner = learner_of(case)
    part = from_options(LEARNERS, learner) if isinstance(learner, str) else learner.clone()
    loop = make_loop(part.set_params(epochs=2), tiny_stream("class"))
    phase = loop.learner.phases(loop.stream[0])[-1]
    assert (phase.steps, phase.epochs) == (None, 2)
    assert loop.run()["status"] == "complete"


def leaves(tree: Any) -> list[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        return [tree]
    return [leaf for value in (tree.values() if isinstance(tree, dict) else ()) for leaf in leaves(value)]
