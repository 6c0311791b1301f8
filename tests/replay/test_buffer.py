"""The buffer: which rows it keeps, never more than its budget, and what it gives back."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from reverie.checks import NotReadyError, OptionsError
from reverie.replay import Buffer
from reverie.replay.selection import herding
from reverie.seeding import Position, Randomness
from reverie.streams import TensorRows
from reverie.types import Scenario, StreamSpec

STRATEGIES = ["reservoir", "class-balanced", "greedy-balance", "herding", "ring", "k-centre"]
SHAPE = (1, 2, 2)


def spec(tasks: int = 3, scenario: Scenario = "class") -> StreamSpec:
    """Two classes a task."""
    heads = tuple((0, 1) if scenario == "domain" else (2 * task, 2 * task + 1) for task in range(tasks))
    classes = tuple(range(heads[-1][1] + 1))
    return StreamSpec("test", scenario, SHAPE, classes, heads, tuple(map(str, range(tasks))), heads, (0.0, 1.0))


def rows(task: int, n: int = 20, shared: bool = False, whole: bool = True, seed: int = 0) -> TensorRows:
    """Rows that can be told apart; ``whole``: their values are 255ths."""
    generator = torch.Generator().manual_seed(100 * seed + task)
    x = torch.randint(256, (n, *SHAPE), generator=generator) / 255
    x = x if whole else x + 1e-3
    return TensorRows(x, torch.arange(n) % 2 + (0 if shared else 2 * task), task)


class Solver:
    """Its features are the inputs."""

    def encode(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def buffer(seed: int = 0, tasks: int = 3, scenario: Scenario = "class", **options: Any) -> Buffer:
    made = Buffer(**options)
    made.build(spec(tasks, scenario), Randomness(seed))
    return made


def add(buffer: Buffer, task: int, data: TensorRows) -> None:
    buffer.add_task(data, task, Solver())  # type: ignore[arg-type]


def filled(tasks: int = 3, n: int = 20, **options: Any) -> Buffer:
    made = buffer(**options)
    for task in range(tasks):
        add(made, task, rows(task, n))
    return made


def held(buffer: Buffer) -> Counter[tuple[int, int]]:
    return Counter(zip(buffer.task.tolist(), buffer.y.tolist(), strict=True))


def floats(x: Tensor) -> Tensor:
    return x / 255 if x.dtype == torch.uint8 else x


# ----------------------------------------------------------------------------------------------- budgets


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_row_held_is_a_row_that_was_offered_once(strategy: Any) -> None:
    made = filled(strategy=strategy, budget=7)
    offered = {task: rows(task) for task in range(3)}
    found = set()
    for x, y, task in zip(floats(made.x), made.y.tolist(), made.task.tolist(), strict=True):
        data = offered[task].take(torch.arange(20))
        matches = [i for i in range(20) if torch.equal(data.x[i], x) and int(data.y[i]) == y]  # type: ignore[index]
        assert len(matches) == 1
        found.add((task, matches[0]))
    assert len(found) == len(made.x) == 3 * 2 * 7


@settings(max_examples=40, deadline=None)
@given(
    strategy=st.sampled_from(STRATEGIES),
    unit=st.sampled_from(["items-per-class", "items", "bytes"]),
    budget=st.integers(1, 60),
    sizes=st.lists(st.integers(2, 25), min_size=3, max_size=3),
    whole=st.lists(st.booleans(), min_size=3, max_size=3),
)
def test_the_budget_is_never_exceeded(
    strategy: Any, unit: Any, budget: int, sizes: list[int], whole: list[bool]
) -> None:
    """After every task, also when rows turn out to need four bytes a number instead of one."""
    if unit != "items-per-class":
        budget += 5  # six classes
    scale = 32 if unit == "bytes" else 1  # 4 floats, a label and a task number
    made = buffer(strategy=strategy, unit=unit, budget=budget * scale)
    for task, (n, bytes_suffice) in enumerate(zip(sizes, whole, strict=True)):
        add(made, task, rows(task, n, whole=bytes_suffice))
        offered = Counter({(t, 2 * t + k): (sizes[t] + 1 - k) // 2 for t in range(task + 1) for k in range(2)})
        count = held(made)
        assert count <= offered
        assert len(made.x) == len(made.y) == len(made.task) == sum(count.values())
        if unit == "bytes":
            assert made.num_bytes() <= budget * scale
            assert min(sum(sizes[: task + 1]), budget) <= len(made.x) or strategy != "reservoir"
            # Each class has its share but for rounding, or all of its rows.
            if strategy == "greedy-balance":
                least = made.capacity() // len(offered)  # type: ignore[operator]
                assert all(count[key] >= min(n, least) for key, n in offered.items())
        elif unit == "items":
            assert len(made.x) <= budget
            if strategy == "reservoir":
                assert len(made.x) == min(budget, sum(sizes[: task + 1]))
        elif strategy == "reservoir":
            assert len(made.x) == min(budget * 6, sum(sizes[: task + 1]))
        elif strategy == "greedy-balance":
            assert len(made.x) <= budget * 6
            assert all(count[key] >= min(n, budget) for key, n in offered.items())
        else:
            assert count == Counter({key: min(budget, n) for key, n in offered.items()})


@pytest.mark.parametrize("strategy", ["class-balanced", "greedy-balance", "herding", "ring", "k-centre"])
def test_a_budget_for_all_is_shared_equally_by_the_classes_so_far(strategy: Any) -> None:
    made = buffer(strategy=strategy, budget=12, unit="items")
    expected = [6, 3, 2]
    for task in range(3):
        add(made, task, rows(task))
        assert held(made) == Counter({(t, 2 * t + k): expected[task] for t in range(task + 1) for k in range(2)})


def test_no_budget_keeps_everything() -> None:
    assert len(filled(budget=None).x) == 60


@pytest.mark.parametrize(("name", "value"), [("unit", "bytes"), ("strategy", "reservoir"), ("strategy", "herding")])
def test_without_a_budget_there_is_nothing_to_count_or_to_choose(name: str, value: str) -> None:
    message = f"{name} = '{value}': has no effect where budget = None keeps everything; give a budget or leave it out"
    with pytest.raises(OptionsError, match=message):
        Buffer(budget=None, **{name: value})  # type: ignore[arg-type]


def test_in_the_domain_scenario_a_class_of_each_task_has_its_own_share() -> None:
    made = buffer(scenario="domain", budget=4)
    for task in range(3):
        add(made, task, rows(task, shared=True))
    assert held(made) == Counter({(t, k): 4 for t in range(3) for k in range(2)})


@pytest.mark.parametrize(("unit", "budget", "fits"), [("items", 5, 5), ("bytes", 5 * 20 + 19, 5), ("bytes", 10, 0)])
def test_a_budget_too_small_for_the_stream_is_refused(unit: Any, budget: int, fits: int) -> None:
    message = f"budget = {budget} {unit}: holds {fits} rows, fewer than the 6 classes of this stream; raise it"
    with pytest.raises(OptionsError, match=message):
        buffer(unit=unit, budget=budget)


@pytest.mark.parametrize("value_range", [(-math.inf, math.inf), (0.0, math.inf)])
def test_a_budget_for_latents_counts_floats_from_the_start(value_range: tuple[float, float]) -> None:
    """Latents are no bytes: 4 of 4 bytes each, a label and a task number are 32."""
    latents = replace(spec(), value_range=value_range)
    with pytest.raises(OptionsError, match=r"budget = 191 bytes: holds 5 rows, fewer than the 6 classes"):
        Buffer(unit="bytes", budget=191).build(latents, Randomness(0))
    made = Buffer(unit="bytes", budget=192)
    made.build(latents, Randomness(0))
    add(made, 0, rows(0))  # bytes after all
    assert made.x.dtype == torch.float32
    assert made.num_bytes() == 192
    Buffer(unit="bytes", budget=6 * 20).build(spec(), Randomness(0))
    Buffer(unit="bytes", budget=6 * 24, encoding="float16").build(latents, Randomness(0))


# -------------------------------------------------------------------------------------------- strategies


def test_a_smaller_budget_keeps_a_prefix_so_that_shrinking_is_selecting() -> None:
    for strategy in ("class-balanced", "herding", "ring", "k-centre"):
        many, few = (filled(1, strategy=strategy, budget=budget) for budget in (6, 2))
        for label in (0, 1):
            assert torch.equal(many.x[many.y == label][:2], few.x[few.y == label])


def test_herding_keeps_the_rows_that_the_solver_s_unit_features_choose() -> None:
    made = filled(1, strategy="herding", budget=4)
    data = rows(0).take(torch.arange(20))
    order = torch.randperm(20, generator=Randomness(0).at("buffer order", 0))
    for label in (0, 1):
        mine = data.x[[i for i in order.tolist() if i % 2 == label]]
        chosen = herding(torch.nn.functional.normalize(mine.flatten(1), dim=1), 4)
        torch.testing.assert_close(floats(made.x[made.y == label]), mine[chosen])


@pytest.mark.parametrize("strategy", ["reservoir", "class-balanced", "greedy-balance"])
def test_every_row_has_the_same_chance_to_stay(strategy: Any) -> None:
    """Over 300 seeds, the first task's rows and the last one's alike; bound: 5 deviations."""
    kept: Counter[tuple[int, int]] = Counter()
    x = torch.arange(12, dtype=torch.uint8).reshape(12, 1, 1, 1).expand(12, *SHAPE)
    tasks = [TensorRows(x + 20 * t, torch.arange(12) % 2 + 2 * t, t) for t in range(2)]
    for seed in range(300):
        made = buffer(seed, tasks=2, strategy=strategy, budget=8, unit="items")
        for task, data in enumerate(tasks):
            add(made, task, data)
        kept.update(zip(made.task.tolist(), made.x[:, 0, 0, 0].tolist(), strict=True))
    counts = torch.tensor([kept[t, i + 20 * t] for t in range(2) for i in range(12)]) / 300
    assert counts.sum() == pytest.approx(8)
    assert (counts - 1 / 3).abs().max() < 5 * (2 / 9 / 300) ** 0.5


def test_a_reservoir_whose_rows_grow_wider_stays_uniform() -> None:
    """A first task of bytes, a second of floats: the rows that have to go are drawn, not the latest."""
    kept = torch.zeros(12)
    x = torch.arange(12).reshape(12, 1, 1, 1).expand(12, *SHAPE) / 255
    for seed in range(300):
        made = buffer(seed, tasks=2, strategy="reservoir", budget=8 * 32, unit="bytes")
        add(made, 0, TensorRows(x, torch.arange(12) % 2, 0))
        assert len(made.x) == 12  # of 20 bytes each
        add(made, 1, TensorRows(x[:4] + 0.5003, torch.tensor([2, 3, 2, 3]), 1))
        assert len(made.x) == 8
        kept[(made.x[made.task == 0][:, 0, 0, 0] * 255).round().long()] += 1
    assert (kept / 300 - kept.mean() / 300).abs().max() < 5 * (1 / 4 / 300) ** 0.5
    assert kept.mean() / 300 == pytest.approx(0.5, abs=0.1)  # 8 of 16 rows


def test_greedy_balance_uses_the_room_of_classes_to_come() -> None:
    """A budget a class, for six of them: those of the first task have it all, and give it up."""
    greedy, balanced = (buffer(strategy=strategy, budget=5) for strategy in ("greedy-balance", "class-balanced"))
    found = []
    for task in range(3):
        for made in (greedy, balanced):
            add(made, task, rows(task, 40))
        found.append((sorted(held(greedy).values()), sorted(held(balanced).values())))
    assert found == [([15, 15], [5, 5]), ([7, 7, 8, 8], [5] * 4), ([5] * 6, [5] * 6)]


def test_greedy_balance_lets_large_classes_keep_what_small_ones_leave() -> None:
    greedy, balanced = (
        buffer(tasks=2, strategy=strategy, budget=20, unit="items") for strategy in ("greedy-balance", "class-balanced")
    )
    for made in (greedy, balanced):
        add(made, 0, rows(0, 40))
        add(made, 1, rows(1, 4))
    assert held(greedy) == Counter({(0, 0): 8, (0, 1): 8, (1, 2): 2, (1, 3): 2})
    assert held(balanced) == Counter({(0, 0): 5, (0, 1): 5, (1, 2): 2, (1, 3): 2})


def test_greedy_balance_keeps_the_rows_that_came_first() -> None:
    """Of a class of one task met in two pieces, the second piece finds no room; a reservoir would let it in."""
    made = buffer(tasks=1, strategy="greedy-balance", budget=4)
    add(made, 0, rows(0))
    first = made.x.clone()
    add(made, 0, rows(0, seed=1))
    assert torch.equal(made.x, first)


# --------------------------------------------------------------------------------------- bytes and draws


def test_images_of_bytes_are_kept_as_bytes_and_come_back_exactly() -> None:
    x = torch.arange(256, dtype=torch.uint8).repeat_interleave(4).reshape(256, *SHAPE)
    made = buffer(budget=None)
    add(made, 0, TensorRows(x, torch.arange(256) % 2))
    assert made.x.dtype == torch.uint8
    assert made.num_bytes() == 256 * (4 + 8 + 8)
    drawn = made.sample(500).x
    assert drawn.dtype == torch.float32
    assert all(bool((drawn.flatten(1) == value).all(1).any()) for value in torch.tensor([0.0, 1.0]))
    everything = floats(made.x).flatten().sort().values
    assert torch.equal(everything, (x.float() / 255).flatten().sort().values)


@pytest.mark.parametrize("bad", [0.5, -1 / 255, 256 / 255, 1e-9])
def test_other_numbers_are_kept_as_they_are(bad: float) -> None:
    x = torch.zeros(4, *SHAPE)
    x[0, 0, 0, 0] = bad
    made = buffer(budget=None)
    add(made, 0, TensorRows(x, torch.tensor([0, 1, 0, 1])))
    assert made.x.dtype == torch.float32
    assert bool((made.x == torch.tensor(bad)).any())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_bytes_already_held_survive_the_first_floats(strategy: Any) -> None:
    made = buffer(strategy=strategy, budget=1000)
    add(made, 0, rows(0))
    before = floats(made.x).clone()
    add(made, 1, rows(1, whole=False))
    assert made.x.dtype == torch.float32
    assert torch.equal(made.x[:20], before)


def test_draws_are_uniform_rows_with_their_labels() -> None:
    made = filled(budget=3)
    drawn = made.sample(4000)
    assert float(drawn.weight.sum()) == pytest.approx(1, abs=1e-5)
    own = {tuple(x.flatten().tolist()): (y, t) for x, y, t in zip(floats(made.x), made.y, made.task, strict=True)}
    counts: Counter[Any] = Counter()
    assert drawn.y is not None
    for x, y, task in zip(drawn.x, drawn.y, drawn.task, strict=True):
        key = tuple(x.flatten().tolist())
        assert own[key] == (y, task)
        counts[key] += 1
    share = torch.tensor([counts[key] / 4000 for key in own])
    assert (share - 1 / 18).abs().max() < 5 * (1 / 18 / 4000) ** 0.5


def test_a_draw_depends_on_the_position_alone() -> None:
    made = filled(budget=5)
    first = made.sample(6).x
    assert torch.equal(first, made.sample(6).x)
    made.rng.position = Position(step=1)
    assert not torch.equal(first, made.sample(6).x)
    made.rng.position = Position()
    assert torch.equal(first, made.sample(6).x)


def test_an_empty_buffer_is_an_error() -> None:
    with pytest.raises(NotReadyError, match="the replay buffer is empty; it is filled at the end of a task"):
        buffer().sample(3)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_loaded_buffer_goes_on_as_the_old_one(strategy: Any) -> None:
    old = filled(2, strategy=strategy, budget=20, unit="items")
    new = buffer(strategy=strategy, budget=20, unit="items")
    new.load(old.state())
    saved = old.x.clone()
    for made in (old, new):
        add(made, 2, rows(2))
    assert not torch.equal(old.x, saved)
    assert torch.equal(old.x, new.x)
    assert torch.equal(old.y, new.y)
    assert torch.equal(old.task, new.task)
    assert old.seen == new.seen


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_same_seed_same_rows(strategy: Any) -> None:
    one, two, other = (filled(seed=seed, strategy=strategy, budget=12, unit="items") for seed in (0, 0, 1))
    assert torch.equal(one.x, two.x)
    assert strategy in ("herding", "k-centre") or not torch.equal(one.x, other.x)


# ----------------------------------------------------------------------------------------------- targets of regression


def curve(task: int, n: int = 20, targets: int = 2) -> TensorRows:
    """Rows whose k-th target is their mean times k + 1."""
    x = rows(task, n, whole=False).take(torch.arange(n)).x
    y = x.flatten(1).mean(dim=1, keepdim=True) * torch.arange(1, targets + 1)
    return TensorRows(x, torch.zeros(n, dtype=torch.int64), task, targets=y)


def of_numbers(targets: int = 2, seed: int = 0, **options: Any) -> Buffer:
    made, head = Buffer(**options), tuple(range(targets))
    kind = {"kind": "regression", "noise_std": 0.1}
    made.build(
        StreamSpec("test", "domain", SHAPE, head, (head,) * 3, ("a", "b", "c"), (head,) * 3, **kind), Randomness(seed)
    )  # type: ignore[arg-type]
    return made


def agree(x: Tensor, y: Tensor) -> bool:
    return torch.allclose(y, x.flatten(1).mean(dim=1, keepdim=True) * torch.arange(1, y.shape[1] + 1))


@pytest.mark.parametrize("unit", ["items-per-class", "items", "bytes"])
@pytest.mark.parametrize("targets", [1, 3])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_targets_are_kept_and_drawn_with_their_rows(strategy: Any, targets: int, unit: Any) -> None:
    """A task is one class: seven rows of each, twenty-one in all, or so many bytes."""
    row = 4 * 4 + 4 * targets + 8
    made = of_numbers(targets, strategy=strategy, unit=unit, budget={"items": 21, "bytes": 21 * row}.get(unit, 7))
    for task in range(3):
        add(made, task, curve(task, targets=targets))
        assert made.y.shape == (len(made.x), targets)
        assert made.y.dtype == torch.float32
        assert agree(made.x, made.y)
        assert made.labels.tolist() == [0] * len(made.x)
        assert made.num_bytes() == len(made.x) * row
    held_by_task = torch.bincount(made.task, minlength=3).tolist()
    assert held_by_task == [7, 7, 7] or (strategy == "reservoir" and sum(held_by_task) == 21)
    batch = made.sample(50)
    assert batch.y is not None
    assert batch.y.shape == (50, targets)
    assert agree(batch.x, batch.y)
    offered = {tuple(x.flatten().tolist()): task for task in range(3) for x in curve(task).take(torch.arange(20)).x}
    assert [offered[tuple(x.flatten().tolist())] for x in batch.x] == batch.task.tolist()


def test_without_a_budget_every_row_is_kept_with_its_targets() -> None:
    made = of_numbers(budget=None)
    for task in range(3):
        add(made, task, curve(task))
    assert len(made.x) == 60
    assert agree(made.x, made.y)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_loaded_buffer_of_targets_goes_on_as_the_old_one(strategy: Any) -> None:
    first, again = (of_numbers(strategy=strategy, budget=5) for _ in range(2))
    add(first, 0, curve(0))
    again.load(first.state())
    for made in (first, again):
        add(made, 1, curve(1))
    assert torch.equal(first.y, again.y)
    assert torch.equal(first.x, again.x)
    assert torch.equal(first.sample(9).y, again.sample(9).y)  # type: ignore[arg-type]


def test_a_budget_too_small_for_the_tasks_is_refused() -> None:
    with pytest.raises(OptionsError, match="budget = 2 items: holds 2 rows, fewer than the 3 tasks of this stream"):
        of_numbers(budget=2, unit="items")
