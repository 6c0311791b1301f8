"""FeTrIL: which rows an old class is given, and that only means are kept."""

from __future__ import annotations

import pytest
import torch

from reverie.device import CPU
from reverie.learners import FeTrIL
from reverie.learners.fetril import MovedRows
from reverie.seeding import Randomness
from reverie.solvers import MLP
from reverie.streams.rows import TensorRows
from reverie.types import StreamSpec, Task
from tests.learners.vectors import vectors
from tests.tiny import tiny_stream, train


def started(classes: tuple[tuple[int, ...], ...], scenario: str = "class", **options: object) -> FeTrIL:
    learner = FeTrIL(solver=MLP(hidden=(8,)), **options)  # type: ignore[arg-type]
    outputs = tuple(range(max(map(max, classes)) + 1))
    names = tuple(map(str, range(len(classes))))
    learner.build(StreamSpec("vectors", scenario, (2, 3), outputs, classes, names, classes), Randomness(0), CPU)  # type: ignore[arg-type]
    return learner


def task_of(index: int, x: torch.Tensor, y: torch.Tensor) -> Task:
    return Task(index, str(index), tuple(sorted(set(y.tolist()))), TensorRows(x.reshape(-1, 2, 3), y, index))


def test_old_classes_are_new_ones_moved_and_all_are_equally_many() -> None:
    x, y = vectors(rows=120, width=6)
    new_y = torch.where(torch.arange(90) % 9 < 6, 4, 5)  # classes 4 and 5 with 60 and 30 rows
    new_x = vectors(rows=90, width=6, seed=8)[0]
    learner = started(((0, 1, 2, 3), (4, 5)))
    first, second = task_of(0, x, y), task_of(1, new_x, new_y)
    for task in (first, second):
        learner.begin_task(task)
        rows = learner.rows(learner.phases(task)[0], task)
        if task is first:
            assert rows is task.train
            learner.end_task(task)
    assert isinstance(rows, MovedRows)
    assert rows.labels.bincount().tolist() == [60] * 6
    batch = rows.take(torch.arange(len(rows)))
    assert torch.equal(batch.y, rows.labels)
    assert batch.task.tolist() == [0 if c < 4 else 1 for c in batch.y.tolist()]
    assert batch.x.shape == (360, 2, 3)
    flat = batch.x.flatten(1)
    new_means = {c: new_x[new_y == c].mean(dim=0) for c in (4, 5)}
    for c in range(4):
        mean = x[y == c].mean(dim=0)
        nearest = min(new_means, key=lambda n: float((new_means[n] - mean).norm()))
        expected = new_x[new_y == nearest] - new_means[nearest] + mean
        mine = flat[rows.labels == c]
        assert torch.allclose(mine[: len(expected)], expected, atol=1e-5)
        assert torch.allclose(mine.mean(dim=0), mean, atol=1e-5)
    for c in (4, 5):  # every new row is there, unmoved
        mine = flat[rows.labels == c]
        assert torch.equal(mine[: int((new_y == c).sum())], new_x[new_y == c])
    chunks = list(rows.chunks(100))
    assert torch.equal(torch.cat([chunk.x for chunk in chunks]), batch.x)


def test_nearest_by_cosine() -> None:
    x = torch.tensor([[9.0, 1, 0, 0, 0, 0]])
    new_x = torch.tensor([[1.0, 0, 0, 0, 0, 0], [7.0, 7, 0, 0, 0, 0]])
    picks = {}
    for nearest in ("euclidean", "cosine"):
        learner = started(((0,), (1, 2)), nearest=nearest)
        learner.end_task(task_of(0, x, torch.tensor([0])))
        task = task_of(1, new_x, torch.tensor([1, 2]))
        picks[nearest] = int(learner._origins(learner._means_of(task))[0])
    assert picks == {"euclidean": 1, "cosine": 0}


def test_a_class_that_comes_back_is_moved_from_itself() -> None:
    """Domain-incremental: one mean for each class of each task."""
    x, y = vectors(rows=40, width=6, classes=2)
    learner = started(((0, 1), (0, 1)), scenario="domain")
    learner.end_task(task_of(0, x, y))
    moved = x.flip(1) + 3
    task = task_of(1, moved, y)
    learner.begin_task(task)
    batch = learner.rows(learner.phases(task)[0], task).take(torch.arange(80))
    old = batch.task == 0
    for c in (0, 1):
        mine = batch.x.flatten(1)[old & (batch.y == c)]
        assert torch.allclose(mine, moved[y == c] - moved[y == c].mean(dim=0) + x[y == c].mean(dim=0), atol=1e-5)
    learner.end_task(task)
    assert learner.means.classes.tolist() == [0, 1, 0, 1]
    assert learner.means.tasks.tolist() == [0, 0, 1, 1]


def test_it_keeps_means_alone_and_remembers() -> None:
    stream = tiny_stream("class", rows=60, steps=150, learning_rate=0.01)
    run, naive = train(FeTrIL(), stream), train("naive", stream)
    memory = run.learner.memory()
    assert memory.stores == "none"
    assert memory.persistent["class means"] == 6 * (6 * 4 + 16)
    accuracies = [each.result["summary"]["average_accuracy"] for each in (run, naive)]
    assert accuracies[0] > accuracies[1] + 0.2


@pytest.mark.parametrize("scenario", ["class", "task", "domain"])
def test_rows_are_the_same_when_asked_again(scenario: str) -> None:
    stream = tiny_stream(scenario)  # type: ignore[arg-type]
    learner = train(FeTrIL(), stream).learner
    phase = learner.phases(stream[2])[0]
    first, again = (learner.rows(phase, stream[2]).take(torch.arange(20, 60)) for _ in range(2))
    assert torch.equal(first.x, again.x)
    assert torch.equal(first.y, again.y)
