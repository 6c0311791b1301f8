"""EWC's penalty: one bowl that is exactly the sum of many, the online recursion by hand, heads that grow, runs that break."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reverie.checks import OptionsError
from reverie.device import CPU
from reverie.learners import EWC, LEARNERS, SI, Naive
from reverie.options import from_options
from reverie.penalties import FisherPenalty, ewc
from reverie.penalties.quadratic import Quadratic, weights_of
from reverie.seeding import Randomness
from reverie.solvers import MLP
from reverie.streams import TensorRows
from reverie.types import Phase, StreamSpec
from tests.tiny import Halt, differing, make_loop, tiny_stream, train


def built(outputs: int = 3) -> MLP:
    classes = tuple(range(outputs))
    solver = MLP(hidden=(4,))
    solver.build(StreamSpec("test", "class", (5,), classes, (classes,), ("all",), (classes,)), Randomness(0), CPU)
    return solver


def rows(n: int = 12, outputs: int = 3, seed: int = 0) -> TensorRows:
    return TensorRows(torch.randn(n, 5, generator=torch.Generator().manual_seed(seed)), torch.arange(n) % outputs)


def penalty(solver: MLP, **options: Any) -> FisherPenalty:
    made = FisherPenalty(**options)
    made.build(StreamSpec("test", "class", (5,), (0,), ((0,),), ("all",), ((0,),)), Randomness(0), CPU)
    made.begin(solver)
    return made


def shaken(solver: MLP, seed: int) -> dict[str, Tensor]:
    """Moves every weight; returns a copy of where they are then."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in weights_of(solver).values():
            weight += 0.3 * torch.randn(weight.shape, generator=generator)
    return {name: weight.detach().clone() for name, weight in weights_of(solver).items()}


def drawn(like: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Importances of all sizes, zeros among them."""
    generator = torch.Generator().manual_seed(seed)
    draws = {name: torch.rand(weight.shape, generator=generator) for name, weight in like.items()}
    return {name: torch.where(draw < 0.3, 0.0, 10 ** (8 * draw - 7)) for name, draw in draws.items()}


def with_slopes(value: Tensor, solver: MLP) -> tuple[Tensor, list[Tensor]]:
    return value.detach(), list(torch.autograd.grad(value, list(weights_of(solver).values())))


def explicit(terms: list[tuple[dict[str, Tensor], dict[str, Tensor]]], solver: MLP) -> Tensor:
    """sum over terms of sum_i F_i (theta_i - theta_ki)^2, every term kept."""
    total = torch.zeros(())
    for importance, at in terms:
        for name, weight in weights_of(solver).items():
            total = total + (importance[name] * (weight - at[name]).square()).sum()
    return total


# ---------------------------------------------------------------------------------------------- one bowl


@pytest.mark.parametrize("tasks", [1, 2, 5, 40])
def test_the_compact_sum_is_the_sum_of_all_terms(tasks: int) -> None:
    solver, bowl, terms = built(), Quadratic(), []
    bowl.grow(weights_of(solver))
    size = bowl.num_bytes()
    for task in range(tasks):
        at = shaken(solver, task)
        terms.append((drawn(at, task), at))
        bowl.add(*terms[-1])
    shaken(solver, 99)
    value, slopes = with_slopes(bowl.value(weights_of(solver)), solver)
    expected, true_slopes = with_slopes(explicit(terms, solver), solver)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=0)
    for slope, true in zip(slopes, true_slopes, strict=True):
        torch.testing.assert_close(slope, true, rtol=1e-4, atol=1e-5 * float(true.abs().max()))
    assert bowl.num_bytes() == size == 2 * solver.num_bytes() + 4


def test_a_head_that_grows_brings_weights_that_are_free() -> None:
    solver = built(2)
    holding = penalty(solver)
    holding.end_task(solver, rows(outputs=2), 0, None)
    before = {name: value.clone() for name, value in holding.kept.importance.items()}
    shaken(solver, 1)
    loss = holding.loss(solver)
    solver.grow(4)
    holding.begin(solver)
    assert loss is not None
    torch.testing.assert_close(holding.loss(solver), loss)
    head = holding.kept.importance["head.weight"]
    assert torch.equal(head[:2], before["head.weight"])
    assert bool((head[2:] == 0).all())
    assert torch.equal(holding.kept.anchor["head.weight"][2:], solver.module.head.weight[2:])
    holding.begin(solver)  # as after loading: nothing is new
    assert torch.equal(holding.kept.importance["head.weight"], head)
    holding.end_task(solver, rows(outputs=4), 1, None)
    assert bool((holding.kept.importance["head.weight"][2:] > 0).any())


# ---------------------------------------------------------------------------------------------- the penalty


@pytest.mark.parametrize("mode", ["separate", "online"])
def test_at_the_anchor_it_neither_costs_nor_pulls(mode: Any) -> None:
    solver = built()
    holding = penalty(solver, mode=mode)
    assert holding.loss(solver) is None
    holding.end_task(solver, rows(), 0, None)
    value, slopes = with_slopes(holding.loss(solver), solver)  # type: ignore[arg-type]
    assert value == 0
    assert all(bool((slope == 0).all()) for slope in slopes)
    shaken(solver, 0)
    value, slopes = with_slopes(holding.loss(solver), solver)  # type: ignore[arg-type]
    assert value > 0
    assert any(bool((slope != 0).any()) for slope in slopes)


def three_tasks(holding: FisherPenalty, solver: MLP, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Any], list[Any]]:
    """Fisher informations and weights of three tasks, the former invented."""
    informations, places = [], []
    monkeypatch.setattr(ewc, "fisher_diagonal", lambda *args: informations[-1])
    for task in range(3):
        places.append(shaken(solver, task))
        informations.append(drawn(places[-1], task))
        holding.end_task(solver, rows(), task, None)
    shaken(solver, 99)
    return informations, places


def test_separate_is_half_lambda_times_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    solver = built()
    holding = penalty(solver, strength=30.0)
    informations, places = three_tasks(holding, solver, monkeypatch)
    expected = 15 * explicit(list(zip(informations, places, strict=True)), solver)
    torch.testing.assert_close(holding.loss(solver), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("gamma", [1.0, 0.5])
def test_the_online_recursion_by_hand(gamma: float, monkeypatch: pytest.MonkeyPatch) -> None:
    solver = built()
    holding = penalty(solver, strength=30.0, mode="online", gamma=gamma)
    (f0, f1, f2), (_, _, last) = three_tasks(holding, solver, monkeypatch)
    summed = {name: gamma**2 * f0[name] + gamma * f1[name] + f2[name] for name in f0}
    for name, value in holding.kept.importance.items():
        torch.testing.assert_close(value, summed[name])
    expected = 15 * explicit([({name: gamma * value for name, value in summed.items()}, last)], solver)
    torch.testing.assert_close(holding.loss(solver), expected, rtol=1e-5, atol=0)


def test_the_rows_of_the_fisher_information(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def spy(module: nn.Module, batches: Any, *others: Any) -> dict[str, Tensor]:
        seen.append(torch.cat([batch.x for batch in batches]))
        return {name: torch.zeros_like(weight) for name, weight in module.named_parameters()}

    monkeypatch.setattr(ewc, "fisher_diagonal", spy)
    monkeypatch.setattr(ewc, "CHUNK", 4)
    solver, data = built(), rows(10)
    everything = data.take(torch.arange(10)).x
    for count in (None, 10, 11):
        penalty(solver, fisher_rows=count).end_task(solver, data, 0, None)
        assert torch.equal(seen.pop(), everything)
    for task in (0, 0, 1):
        penalty(solver, fisher_rows=6).end_task(solver, data, task, None)
    first, again, other = seen
    assert len({row.numpy().tobytes() for row in first}) == 6
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# ---------------------------------------------------------------------------------------------- the learner


def test_the_learner_and_its_penalty_have_the_same_options() -> None:
    assert EWC().make_penalty().get_params() == FisherPenalty().get_params()  # type: ignore[attr-defined]
    given = {"strength": 3.0, "mode": "online", "gamma": 0.5, "fisher": "sampled", "fisher_rows": 7}
    assert EWC(**given).make_penalty().get_params() == given  # type: ignore[arg-type, attr-defined]


@pytest.mark.parametrize("learner", [EWC(), EWC(mode="online"), SI()], ids=["separate", "online", "si"])
def test_the_first_task_is_naive_and_the_second_is_not(learner: Any) -> None:
    for tasks in (1, 2):
        naive, other = (train(part, tiny_stream(tasks=tasks)) for part in (Naive(), learner))
        same = differing(naive.learner.network.state(), other.learner.network.state()) == []
        assert same == (tasks == 1)


@pytest.mark.parametrize("learner", [EWC(strength=0.0), EWC(mode="online", gamma=0.0), SI(strength=0.0)], ids=repr)
@pytest.mark.parametrize("scenario", ["class", "task", "domain"])
def test_without_strength_it_is_naive(learner: Any, scenario: Any) -> None:
    naive, other = train(Naive(), tiny_stream(scenario)), train(learner, tiny_stream(scenario))
    assert differing(naive.learner.network.state(), other.learner.network.state()) == []


@pytest.mark.parametrize("learner", [EWC(strength=1e4), EWC(strength=1e4, mode="online"), SI(strength=1e4)], ids=repr)
def test_what_mattered_moves_less_than_in_naive(learner: Any) -> None:
    """The distance from the first task's weights, weighted by what the penalty held them with in the second."""
    bowls: list[Quadratic] = []

    def spy(made: Any) -> None:
        real = made.end_task

        def end(task: Any) -> None:
            real(task)
            bowls.append(deepcopy(made.penalty.kept))

        made.end_task = end

    stream = tiny_stream("task", tasks=2, steps=40)
    held, naive = train(learner, stream, prepare=spy), train(Naive(), stream)
    with torch.no_grad():
        moved = [float(bowls[0].value(weights_of(run.learner.network))) for run in (held, naive)]
    assert 0 < moved[0] < 0.5 * moved[1]


@pytest.mark.parametrize(
    "learner",
    [
        EWC(),
        EWC(mode="online", gamma=0.9, fisher="sampled"),
        EWC(mode="bayesian", strength=1.0, answers="posterior"),
        SI(),
    ],
    ids=repr,
)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_process_that_dies_while_a_task_ends(learner: Any, after: bool, tmp_path: Path) -> None:
    """The end of the task is repeated whole, whether or not the penalty had taken it in already."""
    stream = tiny_stream("task")
    whole = train(learner, stream)

    def die_in_the_second(made: Any) -> None:
        real = made.end_task

        def end(task: Any) -> None:
            if after or task.index < 1:
                real(task)
            if task.index == 1:
                raise Halt

        made.end_task = end

    with pytest.raises(Halt):
        make_loop(learner, stream, folder=tmp_path, prepare=die_in_the_second).run()
    resumed = make_loop(learner, stream, folder=tmp_path)
    result = resumed.run()
    assert differing(whole.learner.state(), resumed.learner.state()) == []
    assert result["matrices"] == whole.result["matrices"]


def test_the_cost_of_the_fisher_information_is_spread_over_the_steps() -> None:
    phase = Phase("train", 8, steps=10)
    made = train(EWC(fisher="empirical"), tiny_stream("class")).learner  # 48 rows a task, 6 outputs
    step, forward = made.network.flops(8), made.network.flops(48, train=False)
    backward = made.network.flops(48) - forward
    assert made.flops(phase, None) == pytest.approx(step + (forward + backward) / 10)
    made.fisher = "exact"
    assert made.flops(phase, None) == pytest.approx(step + (forward + 6 * backward) / 10)
    heads = train(EWC(fisher_rows=24), tiny_stream("task")).learner  # two outputs a head
    assert heads.flops(phase, None) == pytest.approx(step + (forward + 2 * backward) / 2 / 10)


def test_memory_does_not_grow_with_tasks() -> None:
    kept = [train("ewc", tiny_stream("domain", tasks=tasks)).learner.memory().persistent for tasks in (1, 4)]
    assert kept[0] == kept[1]
    assert kept[0]["importances and anchors"] == 2 * kept[0]["solver"] + 4


def test_contradictions_are_refused() -> None:
    message = r"gamma = 0.5: fades the past in mode 'online' alone; mode = 'separate' keeps each task's term whole"
    with pytest.raises(OptionsError, match=message):
        from_options(LEARNERS, {"name": "ewc", "gamma": 0.5})
    with pytest.raises(OptionsError, match=message):
        FisherPenalty(gamma=0.5)
    with pytest.raises(OptionsError, match="steps = 5 and epochs = 2"):
        EWC(steps=5, epochs=2)
    with pytest.raises(OptionsError, match="strength = -1"):
        EWC(strength=-1.0)
