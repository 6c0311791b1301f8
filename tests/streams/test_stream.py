"""From arrays to streams: labels to outputs, held-out rows, merged tasks, and everything that must be refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import Dataset

from reverie.checks import DataError
from reverie.streams import Stream
from reverie.streams.stream import stratified
from reverie.types import UNKNOWN, Recommended, Rows, Scenario

RNG = np.random.default_rng(0)


def arrays(labels: list[Any], n: int = 10, width: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """n rows of every label; the first number of a row tells its place, so that rows can be told apart."""
    x = RNG.random((n * len(labels), width), dtype=np.float32)
    return x, np.repeat(np.asarray(labels), n)


def everything(rows: Rows) -> Tensor:
    return torch.cat([chunk.x for chunk in rows.chunks(64)])


def keys(*parts: Rows) -> list[tuple[float, ...]]:
    return [tuple(row.flatten().tolist()) for part in parts for row in everything(part)]


# ------------------------------------------------------------------------------------ labels to outputs


def test_string_labels_and_labels_that_do_not_start_at_0() -> None:
    stream = Stream.from_arrays([arrays(["dog", "cat"]), arrays(["emu"])])
    assert stream.spec.classes == ("cat", "dog", "emu")
    assert stream.spec.task_classes == ((0, 1), (2,))
    assert sorted(stream[0].train.labels.tolist()) == [0] * 8 + [1] * 8
    stream = Stream.from_arrays([arrays([7, 5]), arrays([-3, 100])])
    assert stream.spec.classes == (5, 7, -3, 100)
    assert stream.tests[1].rows.labels.tolist() == [2, 2, 3, 3]


def test_every_row_keeps_its_own_label() -> None:
    x, y = arrays(["b", "a", "c"])
    order = RNG.permutation(len(x))
    stream = Stream.from_arrays([(x[order], y[order])], test_fraction=0.3)
    truth = {tuple(row.tolist()): label for row, label in zip(x, y, strict=True)}
    for rows in (stream[0].train, stream.tests[0].rows):
        names = [stream.spec.classes[c] for c in rows.labels.tolist()]
        assert [truth[key] for key in keys(rows)] == names


@pytest.mark.parametrize("kind", ["object", "bytes", "tensor", "uint8", "list"])
def test_labels_of_any_kind(kind: str) -> None:
    x, y = arrays([3, 1])
    given: Any = {
        "object": np.array([str(v) for v in y], dtype=object),
        "bytes": np.array([str(v).encode() for v in y]),
        "tensor": torch.as_tensor(y),
        "uint8": y.astype(np.uint8),
        "list": y.tolist(),
    }[kind]
    classes = Stream.from_arrays([(x, given)]).spec.classes
    assert classes == (("1", "3") if kind in ("object", "bytes") else (1, 3))
    assert all(type(c) in (int, str) for c in classes)


@pytest.mark.parametrize(
    "convert",
    [lambda x: x.astype(">f4"), lambda x: x[::-1], lambda x: np.asfortranarray(x), lambda x: torch.as_tensor(x), list],
    ids=["big-endian", "reversed", "fortran", "tensor", "list"],
)
def test_inputs_laid_out_in_any_way(convert: Any) -> None:
    x, y = arrays([0, 1])
    stream = Stream.from_arrays([(convert(x), y, convert(x), y)])
    assert torch.equal(everything(stream[0].train), torch.tensor(np.asarray(convert(x)).astype(np.float32)))


def test_the_task_incremental_scenario_has_outputs_for_every_task() -> None:
    stream = Stream.from_arrays([arrays([0, 1]), arrays([0, 1]), arrays([1, 2, 3])], "task")
    assert stream.spec.heads == stream.spec.task_classes == ((0, 1), (2, 3), (4, 5, 6))
    assert stream.spec.classes == (0, 1, 0, 1, 1, 2, 3)
    assert [test.head for test in stream.tests] == [0, 1, 2]
    assert set(stream[2].train.labels.tolist()) == {4, 5, 6}


def test_the_domain_incremental_scenario_shares_its_outputs() -> None:
    stream = Stream.from_arrays([arrays(["a", "b"]), arrays(["c", "d"])], "domain")
    assert stream.spec.classes == (0, 1)
    assert stream.spec.heads == ((0, 1), (0, 1))
    assert set(stream[1].train.labels.tolist()) == {0, 1}
    same = Stream.from_arrays([arrays(["a", "b"]), arrays(["a", "b"])], "domain")
    assert same.spec.classes == ("a", "b")


def test_the_class_incremental_scenario_appends_new_labels_and_knows_old_ones() -> None:
    stream = Stream.from_arrays([arrays([5, 6]), arrays([6, 1]), arrays([5])], "class")
    assert stream.spec.classes == (5, 6, 1)
    assert stream.spec.task_classes == ((0, 1), (2, 1), (0,))
    assert stream.spec.classes_until(0) == (0, 1)
    assert stream.spec.classes_until(2) == (0, 1, 2)


def test_one_new_class_a_task_works_in_the_class_incremental_scenario() -> None:
    stream = Stream.from_arrays([arrays([label]) for label in "abcd"], "class")
    assert stream.spec.task_classes == ((0,), (1,), (2,), (3,))
    assert stream.spec.tasks == 4


def test_a_stream_is_a_sequence_of_tasks() -> None:
    stream = Stream.from_arrays([arrays([0, 1]), arrays([2, 3])], names=["first", "second"])
    assert len(stream) == 2
    assert [task.name for task in stream] == ["first", "second"] == [test.name for test in stream.tests]
    assert [task.index for task in stream] == [0, 1]
    assert stream[-1].name == "second"
    assert not hasattr(stream[0], "test")
    with pytest.raises(IndexError, match="task 2: this stream has 2 tasks"):
        stream[2]


def test_tasks_of_one_name_are_numbered_and_each_has_its_checksum() -> None:
    stream = Stream.from_arrays([arrays([0, 1]), arrays([0, 1]), arrays([2, 3])], names=["a", "a", "a (2)"])
    assert stream.spec.task_names == ("a", "a (3)", "a (2)")
    assert tuple(stream.checksums) == stream.spec.task_names
    assert len(set(stream.checksums.values())) == 3


# ---------------------------------------------------------------------------------------- held-out rows


def test_test_rows_are_held_out_within_each_class() -> None:
    x, y = arrays([0, 1, 2], n=20)
    stream = Stream.from_arrays([(x, y)], test_fraction=0.25)
    train, test = stream[0].train, stream.tests[0].rows
    assert np.bincount(train.labels).tolist() == [15, 15, 15]
    assert np.bincount(test.labels).tolist() == [5, 5, 5]
    assert sorted(keys(train, test)) == sorted(tuple(row) for row in x.tolist())


def test_the_seed_decides_which_rows_are_held_out() -> None:
    data = [arrays([0, 1], n=20)]
    one, two, other = (keys(Stream.from_arrays(data, seed=seed).tests[0].rows) for seed in (1, 1, 2))
    assert one == two
    assert one != other


def test_given_test_rows_are_taken_as_they_are() -> None:
    (x, y), (x_test, y_test) = arrays([0, 1]), arrays([1, 0], n=3)
    stream = Stream.from_arrays([(x, y, x_test, y_test)])
    assert len(stream[0].train) == 20
    assert torch.equal(everything(stream.tests[0].rows), torch.from_numpy(x_test))
    assert stream.tests[0].rows.labels.tolist() == [1, 1, 1, 0, 0, 0]


def test_validation_rows_come_from_the_training_rows_of_every_class() -> None:
    data = [arrays([0, 1], n=20), arrays([2, 3], n=20)]
    plain, held = (Stream.from_arrays(data, validation_fraction=share) for share in (0.0, 0.25))
    for number in range(2):
        task = held[number]
        assert plain[number].validation is None
        assert task.validation is not None
        assert np.bincount(task.validation.labels)[-2:].tolist() == [4, 4]
        assert sorted(keys(task.train, task.validation)) == sorted(keys(plain[number].train))
        assert keys(held.tests[number].rows) == keys(plain.tests[number].rows)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.floats(0.01, 0.99), st.integers(0, 1000))
def test_stratified_splits_are_whole_disjoint_and_leave_every_class_a_row(
    labels: list[int], fraction: float, seed: int
) -> None:
    y = np.asarray(labels)
    kept, held = stratified(y, fraction, seed)
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(len(y)))
    for label in set(labels):
        size, out = int((y == label).sum()), int((y[held] == label).sum())
        assert size - out >= 1
        assert out >= (size > 1)
        assert abs(out - size * fraction) <= 1
    assert (kept.tolist(), held.tolist()) == tuple(part.tolist() for part in stratified(y, fraction, seed))


# --------------------------------------------------------------------------------- rows without label


@pytest.mark.parametrize(("marker", "labels"), [(-1, [0, 1, -1]), ("?", ["ant", "bee", "?"])])
def test_rows_without_label_are_of_no_class(marker: Any, labels: list[Any]) -> None:
    data = [arrays(labels), arrays(labels[:2])]
    stream = Stream.from_arrays(data, "domain", unlabelled=marker, validation_fraction=0.25)
    assert stream.spec.classes == tuple(labels[:2])
    first = stream[0].train
    assert torch.bincount(first.labels + 1).tolist() == [10, 6, 6]  # none of the ten is held out
    truth = {tuple(row.tolist()): label for row, label in zip(*data[0], strict=True)}
    assert {truth[key] for key, c in zip(keys(first), first.labels.tolist(), strict=True) if c == UNKNOWN} == {marker}
    for held in (stream.tests[0].rows, stream[0].validation):
        assert held is not None
        assert set(held.labels.tolist()) == {0, 1}
    batch = first.take(torch.arange(len(first)))
    assert batch.y is not None
    assert torch.equal(batch.y, first.labels)
    undeclared = Stream.from_arrays(data[:1], "domain")
    assert len(undeclared.spec.classes) == 3


def test_classes_of_rows_without_label_are_those_of_the_test_rows() -> None:
    stream = Stream.from_arrays([(*arrays([-1]), *arrays([4, 5]))], unlabelled=-1)
    assert stream.spec.classes == (4, 5)
    assert set(stream[0].train.labels.tolist()) == {UNKNOWN}
    assert set(stream.tests[0].rows.labels.tolist()) == {0, 1}


def test_data_sets_with_rows_without_label() -> None:
    def dataset(labels: list[int]) -> Any:
        return [(torch.rand(3), label) for label in labels]

    stream = Stream.from_datasets([(dataset([7, -1, 8]), dataset([7, 8]))], unlabelled=-1)
    assert stream[0].train.labels.tolist() == [0, UNKNOWN, 1]


def test_one_more_task_with_rows_without_label() -> None:
    first = Stream.from_arrays([arrays(["a", "b"])])
    longer = Stream.continued(first.spec, arrays(["b", "c", ""]), unlabelled="")
    assert longer.spec.classes == ("a", "b", "c")
    assert set(longer[1].train.labels.tolist()) == {1, 2, UNKNOWN}


@pytest.mark.parametrize(
    ("tasks", "marker", "message"),
    [
        ([arrays([0, -1])], "-1", r"unlabelled = '-1': no training row has this label \(a number is not the same as"),
        ([arrays([0, 1])], -1, r"unlabelled = -1: no training row has this label"),
        ([arrays([-1])], -1, r"task 'task 1': no row has a label; label some, or give labelled test rows"),
        ([(*arrays([0, -1]), *arrays([0, -1]))], -1, r"task 'task 1': test rows without label \(-1\)"),
    ],
)
def test_mistakes_with_rows_without_label(tasks: Any, marker: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Stream.from_arrays(tasks, unlabelled=marker)


# ------------------------------------------------------------------------------------------- merged


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_merged_is_one_task_with_every_test_set(scenario: Scenario) -> None:
    recommended = Recommended(values={"steps": 50, "batch_size": 8})
    stream = Stream.from_arrays(
        [arrays([0, 1]), arrays([2, 3])], scenario, validation_fraction=0.2, recommended=recommended
    )
    joint = stream.merged()
    assert len(joint) == joint.spec.tasks == 1
    assert joint.spec.recommended.values == {"steps": 100, "batch_size": 8}
    assert joint.spec.heads == stream.spec.heads
    assert joint.spec.outputs == stream.spec.outputs
    assert joint.spec.task_classes == ((0, 1) if scenario == "domain" else (0, 1, 2, 3),)
    assert keys(joint[0].train) == keys(stream[0].train, stream[1].train)
    assert joint[0].train.labels.tolist() == [*stream[0].train.labels, *stream[1].train.labels]
    assert joint[0].train.take(torch.tensor([0, 20])).task.tolist() == [0, 1]
    assert joint[0].validation is not None
    assert len(joint[0].validation) == 2 * len(stream[0].validation)  # type: ignore[arg-type]
    assert [(test.name, test.since, test.head) for test in joint.tests] == [("task 1", 0, 0), ("task 2", 0, 1)]


def test_small_inputs_get_small_networks_as_a_recommendation() -> None:
    small = Stream.from_arrays([arrays([0, 1])]).spec.recommended.values
    large = Stream.from_arrays([arrays([0, 1], width=400)]).spec.recommended.values
    assert (small["hidden"], large["hidden"]) == ((100, 100), (400, 400))


# ----------------------------------------------------------------------------------------- data sets


class Items(Dataset[Any]):
    def __init__(self, x: Any, y: Any, targets: str | None = None) -> None:
        self.x, self.y = x, y
        if targets:
            setattr(self, targets, y)
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Any:
        self.read.append(index)
        return self.x[index], self.y[index]


@pytest.mark.parametrize("targets", ["targets", "labels", None])
def test_map_style_data_sets_are_read_row_by_row(targets: str | None) -> None:
    (x, y), (x_test, y_test) = arrays([4, 2], n=5), arrays([2, 4], n=2)
    train, test = Items(torch.as_tensor(x), torch.as_tensor(y), targets), Items(x_test, y_test.tolist(), targets)
    stream = Stream.from_datasets([(train, test)], names=["only"])
    assert stream.spec.classes == (2, 4)
    assert stream.spec.input_shape == (3,)
    assert stream.spec.value_range is None  # nobody has looked at all values
    assert stream[0].train.labels.tolist() == [1] * 5 + [0] * 5
    assert stream.tests[0].rows.labels.tolist() == [0, 0, 1, 1]
    train.read.clear()
    batch = stream[0].train.take(torch.tensor([7, 0]))
    assert train.read == [7, 0]
    assert torch.equal(batch.x, torch.from_numpy(x[[7, 0]]))


def test_the_range_of_values_is_known_for_arrays() -> None:
    x = np.array([[-2.0, 3.0], [0.0, 1.0]], dtype=np.float32)
    assert Stream.from_arrays([(x, [0, 1], x, [0, 1])]).spec.value_range == (-2.0, 3.0)
    assert Stream.from_arrays([(x.clip(0, 1).astype(np.uint8), [0, 1], x, [0, 1])]).spec.value_range == (-2.0, 3.0)
    byte = x.clip(0, 1).astype(np.uint8)
    assert Stream.from_arrays([(byte, [0, 1], byte, [0, 1])]).spec.value_range == (0.0, 1.0)


# ----------------------------------------------------------------------------------------------- refused


def bad(value: float) -> tuple[np.ndarray, np.ndarray]:
    x, y = arrays([0, 1])
    x[13, 1] = value
    x[17, 2] = value
    return x, y


GOOD = arrays([0, 1])
SHORT = (GOOD[0], GOOD[1][:-1])
NONE = (np.zeros((0, 3), np.float32), np.zeros(0, np.int64))


@pytest.mark.parametrize(
    ("tasks", "scenario", "message"),
    [
        ([], "class", "a stream needs at least one task; got none"),
        ([bad(np.nan)], "class", r"task 'task 1', train: 2 rows hold NaN or infinite values, the first is row 13"),
        ([GOOD, bad(-np.inf)], "class", r"task 'task 2', train: 2 rows hold NaN or infinite"),
        ([(*GOOD, *bad(np.inf))], "class", r"task 'task 1', test: 2 rows hold NaN or infinite"),
        ([NONE], "class", r"task 'task 1', train: no rows; every task needs at least one"),
        ([GOOD, (*GOOD, *NONE)], "class", r"task 'task 2', test: no rows"),
        ([(GOOD[0][:1], GOOD[1][:1])], "class", r"task 'task 1', test: no rows"),  # one row cannot be split
        ([SHORT], "class", r"task 'task 1', train: 20 inputs but 19 labels; there must be one label for each input"),
        ([(*GOOD, *SHORT)], "class", r"task 'task 1', test: 20 inputs but 19 labels"),
        ([GOOD, arrays([2, 3], width=4)], "class", r"task 'task 2': inputs of shape \(4,\), the first task has \(3,\)"),
        ([(*GOOD, *arrays([0, 1], width=5))], "class", r"task 'task 1': test inputs of shape \(5,\), .* has \(3,\)"),
        (
            [(*GOOD, *arrays([0, 7]))],
            "class",
            r"task 'task 1': test rows of classes \[7\] that its training rows never",
        ),
        ([GOOD, arrays(["x"])], "task", r"task 'task 2': a single class \('x'\) in the task-incremental scenario"),
        ([GOOD, arrays([0, 1, 2])], "domain", r"classes a task = \{'task 1': 2, 'task 2': 3\}: .* the same number"),
        ([(GOOD[0].astype(np.int64), GOOD[1])], "class", r"dtype int64; inputs must be uint8 .* try x.astype"),
        ([(GOOD[0] > 0.5, GOOD[1])], "class", r"dtype bool; inputs must be uint8"),
        ([(GOOD[0], GOOD[1] + 0.5)], "class", r"task 1: labels of dtype float64; expected integers or strings"),
        ([(GOOD[0], np.array([None, 1] * 10))], "class", r"task 1: labels of dtype object; expected integers or"),
        ([(GOOD[0], np.eye(20))], "class", r"task 1: labels of shape \(20, 20\); expected one label a row"),
        ([(*GOOD, GOOD[0])], "class", r"task 1: 3 arrays; give \(x, y\) or \(x, y, x_test, y_test\)"),
        ([(["p", "q"] * 10, GOOD[1])], "class", r"task 1: inputs of dtype <U1; expected numbers: try np\.asarray"),
        ([(GOOD[0].astype(object), GOOD[1])], "class", r"task 1: inputs of dtype object; expected numbers"),
        ([(None, GOOD[1])], "class", r"task 1: inputs of dtype object; expected numbers"),
        ([([[1.0, 2.0], [3.0]], [0, 1])], "class", r"task 1: inputs are no array of numbers \(.*\); all rows need one"),
        ([(*GOOD, [np.zeros((2, 2)), np.zeros((3, 2))], [0, 1])], "class", r"task 1: inputs are no array of numbers"),
        (
            [(torch.zeros(2, 3, dtype=torch.bfloat16), [0, 1])],
            "class",
            r"task 1: inputs are no array of numbers \(.*BFloat",
        ),
        ([(0.5, GOOD[1])], "class", r"task 1: inputs of shape \(\); expected rows of at least one number"),
        ([(GOOD[0][:, :0], GOOD[1])], "class", r"task 1: inputs of shape \(20, 0\); expected rows of at least one"),
        ([(GOOD[0][:2], [[0], [0, 1]])], "class", r"task 1: labels are no array of integers or strings \(.*one a row"),
        ([GOOD], "classes", r"scenario = 'classes': no such scenario; did you mean 'class'\?"),
    ],
)
def test_bad_data_are_refused(tasks: Any, scenario: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Stream.from_arrays(tasks, scenario)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": ["one", "two"]}, r"names = \['one', 'two'\]: 2 names for 1 tasks; give one for each"),
        ({"test_fraction": 0.0}, "test_fraction = 0.0: must lie between 0 and 1"),
        ({"test_fraction": 1.0}, "test_fraction = 1.0: must lie between 0 and 1"),
        ({"validation_fraction": 1.0}, "validation_fraction = 1.0: must be at least 0 and less than 1"),
        ({"validation_fraction": -0.1}, "validation_fraction = -0.1"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Stream.from_arrays([GOOD], **options)


def test_everything_wrong_is_told_at_once() -> None:
    tasks = [
        GOOD,
        (*bad(np.nan), *arrays([0, 9])),
        (*arrays([0], width=4), *SHORT),
        (arrays([5, 6])[0].astype(int), arrays([5, 6])[1]),
    ]
    with pytest.raises(DataError) as caught:
        Stream.from_arrays(tasks, "task")
    lines = str(caught.value).splitlines()
    assert lines[0] == "these data cannot be made into a stream:"
    for text in (
        "task 'task 2', train: 2 rows hold NaN",
        "task 'task 2': test rows of classes [9]",
        "task 'task 3': inputs of shape (4,)",
        "task 'task 3': a single class (0)",
        "task 'task 3', test: 20 inputs but 19 labels",
        "task 'task 4', train: dtype int64",
    ):
        assert sum(text in line for line in lines) == 1, text
    with pytest.raises(DataError, match=r"(?s)task 1: labels of dtype float.*task 2: 3 arrays"):
        Stream.from_arrays([(GOOD[0], GOOD[1] * 1.0), (*GOOD, 1)])


def test_the_same_array_in_two_tasks_is_reported_once() -> None:
    x, y = bad(np.nan)
    with pytest.raises(DataError) as caught:
        Stream.from_arrays([(x, y, x, y), (x, y, x, y)])
    assert str(caught.value).count("NaN") == 1


def test_bad_data_sets_are_refused() -> None:
    (x, y), empty = arrays([0, 1]), Items([], [])
    good = Items(x, y.tolist())
    with pytest.raises(DataError, match=r"(?s)'task 1', train: no rows.*'task 2', test: no rows"):
        Stream.from_datasets([(empty, good), (good, empty)])
    with pytest.raises(DataError, match=r"task 'task 2': inputs of shape \(2,\), the first task has \(3,\)"):
        Stream.from_datasets([(good, good), (Items(x[:, :2], y.tolist()), good)])
    with pytest.raises(DataError, match=r"task 1: labels of dtype float64; expected integers or strings"):
        Stream.from_datasets([(Items(x, (y + 0.5).tolist()), good)])


# ------------------------------------------------------------------------------------ numbers to be predicted


def numbers(n: int = 20, targets: int | None = None, first: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Rows x and targets y, of which each tells the other: y[:, k] = x[:, 0] + k."""
    x = (first + np.arange(n, dtype=np.float32) / n)[:, None] + np.zeros(2, dtype=np.float32)
    y = x[:, :1] + np.arange(targets or 1)
    return x, y if targets else y[:, 0]


def regression(*tasks: Any, **options: Any) -> Any:
    return Stream.from_arrays(tasks, **{"scenario": "domain", "noise_std": 0.1, **options})


def pairs(rows: Rows) -> tuple[Tensor, Tensor]:
    batch = rows.take(torch.arange(len(rows)))
    assert batch.y is not None
    return batch.x, batch.y


@pytest.mark.parametrize(("targets", "names"), [(None, ("y",)), (1, ("y",)), (3, ("y1", "y2", "y3"))])
@pytest.mark.parametrize("given_tests", [False, True])
def test_targets_stay_with_their_rows(targets: int | None, names: tuple[str, ...], given_tests: bool) -> None:
    parts = [(*numbers(20, targets, 2 * t), *(numbers(6, targets, 2 * t) if given_tests else ())) for t in range(2)]
    stream = regression(*parts, validation_fraction=0.25)
    spec = stream.spec
    assert (spec.kind, spec.noise_std, spec.classes, spec.outputs) == ("regression", 0.1, names, len(names))
    assert spec.heads == spec.task_classes == (tuple(range(len(names))),) * 2
    assert [test.classes for test in stream.tests] == list(spec.heads)
    for task, test in zip(stream, stream.tests, strict=True):
        assert task.validation is not None
        shares = [len(rows) for rows in (task.train, task.validation, test.rows)]
        assert shares == ([15, 5, 6] if given_tests else [12, 4, 4])
        for rows in (task.train, task.validation, test.rows):
            x, y = pairs(rows)
            assert (y.dtype, y.shape) == (torch.float32, (len(rows), len(names)))
            torch.testing.assert_close(y, x[:, :1] + torch.arange(len(names)))
            assert rows.labels.tolist() == [0] * len(rows)
        if not given_tests:  # every row is in one place
            assert sorted(keys(task.train, task.validation, test.rows)) == sorted(map(tuple, parts[task.index][0]))


@pytest.mark.parametrize(
    "convert",
    [list, torch.as_tensor, lambda y: torch.as_tensor(y).requires_grad_(), lambda y: y.astype("float32"), np.flip],
    ids=["list", "tensor", "tensor with gradient", "float32", "flipped"],
)
def test_targets_laid_out_in_any_way(convert: Any) -> None:
    x, y = numbers()
    stream = regression((x, convert(y), x, y))
    assert pairs(stream[0].train)[1].flatten().tolist() == pytest.approx(
        np.asarray(convert(y).tolist() if isinstance(convert(y), Tensor) else convert(y))
    )


def test_whole_numbers_can_be_targets_and_are_classes_without_noise() -> None:
    x, y = numbers()
    whole = np.arange(20) % 3
    assert pairs(regression((x, whole, x, whole))[0].train)[1].flatten().tolist() == whole.tolist()
    assert Stream.from_arrays([(x, whole)], "domain").spec.kind == "classification"
    with pytest.raises(DataError, match=r"dtype float64; expected integers or strings .* give noise_std"):
        Stream.from_arrays([(x, y)], "domain")


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.zeros((20, 2, 2)), r"targets of shape \(20, 2, 2\); expected \(N,\) or \(N, targets\)"),
        (np.zeros((20, 0)), r"targets of shape \(20, 0\); expected"),
        (np.float32(3), r"targets of shape \(\); expected"),
        (["a"] * 20, r"targets of dtype <U1; expected numbers"),
        (np.zeros(20, dtype=complex), r"targets of dtype complex128; expected numbers"),
        ([[1.0], [1.0, 2.0]], r"targets are no array of numbers"),
        (np.zeros(19), r"20 inputs but 19 target rows; there must be one target row for each input"),
        (np.zeros((20, 2))[:0], r"no rows"),
        (np.zeros(0), r"no rows"),
        (np.full(20, 1e300), r"20 targets are NaN or infinite, the first is that of row 0"),
    ],
)
def test_targets_that_are_none(y: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"task 2.*{message}"):
        regression(numbers(), (numbers()[0], y))


def test_everything_wrong_with_targets_is_told_at_once() -> None:
    x, y = numbers()
    broken = y.copy()
    broken[[3, 5]] = np.nan, np.inf
    with pytest.raises(DataError) as caught:
        regression((x, y), (x, broken, x, y), (*numbers(20, 2), x, y), scenario="task", noise_std=-0.5)
    told = str(caught.value).splitlines()[1:]
    assert [line.strip(" -") for line in told] == [
        "scenario = 'task': regression has no classes to tell apart; use scenario = 'domain'",
        "noise_std = -0.5: must be more than 0, and finite; it is the deviation of the noise of the targets",
        "task 'task 2', train: 2 targets are NaN or infinite, the first is that of row 3; remove or repair them",
        "task 'task 3', train: targets of width 2, the first task has 1",
    ]


@pytest.mark.parametrize("noise_std", [0, 0.0, float("nan"), float("inf")])
def test_noise_that_is_none(noise_std: float) -> None:
    with pytest.raises(DataError, match=r"noise_std = .*: must be more than 0"):
        regression(numbers(), noise_std=noise_std)


@pytest.mark.parametrize("scenario", ["class", "task"])
def test_regression_knows_one_scenario(scenario: Scenario) -> None:
    with pytest.raises(DataError, match=f"scenario = '{scenario}': regression has no classes"):
        regression(numbers(), scenario=scenario)


@pytest.mark.parametrize("part", [1, 3])
def test_the_checksum_covers_targets(part: int) -> None:
    x, y = numbers()
    arrays, changed = [x, y, x, y.copy()], [x, y, x, y.copy()]
    changed[part] = changed[part] + 0.5
    before, after = (regression(found).checksums["task 1"] for found in (arrays, changed))
    assert before == regression(arrays).checksums["task 1"] != after


@pytest.mark.parametrize("targets", [None, 2])
def test_merged_tasks_of_regression(targets: int | None) -> None:
    stream = regression(*(numbers(10, targets, t) for t in range(3)), validation_fraction=0.25)
    merged = stream.merged()
    assert (merged.spec.kind, merged.spec.noise_std, merged.spec.outputs) == ("regression", 0.1, targets or 1)
    assert merged.spec.task_classes == (tuple(range(targets or 1)),)
    assert [test.since for test in merged.tests] == [0, 0, 0]
    for name in ("train", "validation"):
        x, y = pairs(getattr(merged[0], name))
        expected = [pairs(getattr(task, name)) for task in stream]
        assert torch.equal(x, torch.cat([part for part, _ in expected]))
        assert torch.equal(y, torch.cat([part for _, part in expected]))


@pytest.mark.parametrize("targets", [None, 2])
def test_one_more_task_of_regression(targets: int | None) -> None:
    spec = regression(*(numbers(10, targets, t) for t in range(2))).spec
    longer = Stream.continued(spec, numbers(10, targets, 2), name="more")
    width = targets or 1
    assert (longer.spec.kind, longer.spec.noise_std, longer.spec.classes) == ("regression", 0.1, spec.classes)
    assert longer.spec.heads == longer.spec.task_classes == (tuple(range(width)),) * 3
    assert longer.spec.task_names == ("task 1", "task 2", "more")
    assert [len(task.train) for task in longer] == [0, 0, 8]
    assert [(test.since, test.head, len(test.rows)) for test in longer.tests] == [(2, 2, 2)]
    x, y = pairs(longer[2].train)
    torch.testing.assert_close(y, x[:, :1] + torch.arange(width))


def test_everything_wrong_with_one_more_task_of_regression_is_told_at_once() -> None:
    spec = regression(numbers(10, 2)).spec
    x, y = numbers(10, 3)
    y[4, 1] = np.nan
    with pytest.raises(DataError) as caught:
        Stream.continued(spec, (x[:, :1], y, x[:, :1], y[:, :1]))
    told = str(caught.value)
    for message in (
        r"inputs of shape (1,): the model was trained on (2,)",
        "train: 1 targets are NaN or infinite, the first is that of row 4",
        "test: targets of width 1, the first task has 3",
        "targets of width 3: the model answers with 2",
    ):
        assert message in told
