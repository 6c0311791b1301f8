"""The named streams, on the digits that are always there: splits, permutations, rotations, sequences, folders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from reverie.checks import DataError, OptionsError
from reverie.options import from_options
from reverie.streams import (
    STREAMS,
    ArrayStream,
    Blobs,
    Folder,
    GaussianModes,
    Permuted,
    Rotated,
    Sequence,
    Split,
    Stream,
)
from reverie.streams.datasets import load
from reverie.streams.sources import permute_pixels, resize, rotate
from reverie.types import Rows, Scenario


def everything(rows: Rows) -> Tensor:
    return torch.cat([chunk.x for chunk in rows.chunks(512)])


def digests(rows: Rows) -> list[bytes]:
    return [row.numpy().tobytes() for row in everything(rows)]


SMALL: dict[str, Any] = {
    "split": Split(tasks=3),
    "permuted": Permuted(tasks=2),
    "rotated": Rotated(tasks=2),
    "sequence": Sequence(datasets=("digits", "digits"), size=6),
    "blobs": Blobs(rows_per_class=20),
}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_every_source_in_every_scenario(name: str, scenario: Scenario) -> None:
    source = SMALL[name]
    assert scenario in source.scenarios
    if name == "split" and scenario == "domain":
        source = Split(tasks=5)  # the same number of classes in every task
    stream = source.build(scenario, seed=3)
    spec = stream.spec
    assert spec.scenario == scenario
    assert len(stream) == spec.tasks == len(stream.tests) == len(spec.heads)
    assert set(spec.classes_until(spec.tasks - 1)) == set(range(spec.outputs))  # no class is lost
    for task, test in zip(stream, stream.tests, strict=True):
        batch = task.train.take(torch.arange(4))
        assert batch.x.shape == (4, *spec.input_shape)
        assert batch.x.dtype == torch.float32
        assert 0 <= float(batch.x.min()) <= float(batch.x.max()) <= 1
        assert set(task.train.labels.tolist()) == set(test.rows.labels.tolist()) == set(task.classes)
        assert batch.task.tolist() == [task.index] * 4
    if scenario == "task":
        assert len({c for head in spec.heads for c in head}) == sum(map(len, spec.heads))
    if scenario == "domain":
        assert len(set(spec.heads)) == 1


@pytest.mark.parametrize("name", SMALL)
def test_no_test_row_is_a_training_or_validation_row(name: str) -> None:
    """By content, pixel for pixel, and not by index alone."""
    source = SMALL[name].clone().set_params(validation_fraction=0.2)
    stream = source.build(source.scenarios[0], seed=0)
    for task, test in zip(stream, stream.tests, strict=True):
        assert task.validation is not None
        parts = [digests(rows) for rows in (task.train, task.validation, test.rows)]
        assert not set(parts[0]) & set(parts[2])
        assert not set(parts[1]) & set(parts[2])
        assert not set(parts[0]) & set(parts[1])
        assert len(task.validation) / (len(task.train) + len(task.validation)) == pytest.approx(0.2, abs=0.03)


def test_the_splits_together_are_the_data_set() -> None:
    data, stream = load("digits"), Split(tasks=4).build("class", 5)
    assert sum(len(task.train) for task in stream) == len(data.y_train)
    assert sum(len(test.rows) for test in stream.tests) == len(data.y_test)
    assert [len(task.classes) for task in stream] == [3, 3, 2, 2]
    x = torch.cat([everything(task.train) for task in stream])
    assert sorted(row.numpy().tobytes() for row in x) == sorted(row.tobytes() for row in data.x_train)
    assert stream.checksums == {"digits": data.checksum}


def digit(stream: ArrayStream, task: int) -> list[str]:
    return [str(stream.spec.classes[c]) for c in stream.spec.task_classes[task]]


def test_every_image_keeps_its_digit() -> None:
    data = load("digits")
    truth = {row.tobytes(): str(label) for row, label in zip(data.x_train, data.y_train, strict=True)}
    stream = Split().build("class", 2)
    for task in stream:
        names = [stream.spec.classes[c] for c in task.train.labels.tolist()]
        assert [truth[key] for key in digests(task.train)] == names


def test_class_order_natural_by_seed_or_given() -> None:
    natural = Split(class_order="natural").build("class", 7)
    assert natural.spec.classes == tuple("0123456789")
    given = Split(class_order=(9, 8, 7, 6, 5, 4, 3, 2, 1, 0)).build("class", 7)
    assert given.spec.classes == tuple("9876543210")
    assert digit(given, 1) == ["7", "6"]
    orders = [Split().build("class", seed).spec.classes for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(map(str, orders[2])) == list("0123456789")


def test_one_class_a_task() -> None:
    stream = Split(tasks=10, class_order="natural").build("class", 0)
    assert stream.spec.task_classes == tuple((c,) for c in range(10))
    with pytest.raises(DataError, match=r"(?s)a single class \('0'\) in the task-incremental scenario.*\('9'\)"):
        Split(tasks=10, class_order="natural").build("task", 0)


@pytest.mark.parametrize(
    ("source", "scenario", "message"),
    [
        (Split(tasks=11), "class", "tasks = 11: digits has 10 classes, so at most 10 tasks"),
        (Split(class_order=(0, 1, 2)), "class", r"class_order = \(0, 1, 2\): must name every class index from 0 to 9"),
        (Split(class_order=(0,) * 10), "class", "class_order = .*once"),
        (Split(tasks=3), "domain", r"the domain-incremental scenario needs the same number in every task"),
        (Split(dataset="digit"), "class", "no data set 'digit': did you mean 'digits'"),
        (Folder(path="/no/such/folder"), "class", "folder not found: /no/such/folder"),
    ],
    ids=repr,
)
def test_streams_that_cannot_be_built(source: Any, scenario: Scenario, message: str) -> None:
    with pytest.raises((DataError, OptionsError), match=message):
        source.build(scenario, 0)


# ------------------------------------------------------------------------------- permuted and rotated


def test_permutations_are_fixed_by_the_seed_and_different_in_every_task() -> None:
    index = torch.arange(3)
    one, two, other = (Permuted(tasks=3).build("domain", seed) for seed in (4, 4, 5))
    plain = torch.from_numpy(load("digits").x_train[:3].copy())
    for a, b, c in zip(one, two, other, strict=True):
        assert torch.equal(a.train.take(index).x, b.train.take(index).x)
        assert not torch.equal(a.train.take(index).x, c.train.take(index).x)
        assert not torch.equal(a.train.take(index).x, plain)
        # Pixels are moved, not changed.
        assert torch.equal(a.train.take(index).x.flatten(1).sort().values, plain.flatten(1).sort().values)
    tasks = [task.train.take(index).x for task in one]
    assert all(not torch.equal(tasks[i], tasks[j]) for i in range(3) for j in range(i))


def test_train_and_test_rows_of_a_task_are_permuted_alike() -> None:
    data, stream = load("digits"), Permuted(tasks=2).build("domain", 0)
    for task, test in zip(stream, stream.tests, strict=True):
        places = torch.arange(64.0).reshape(1, 1, 8, 8)
        order = task.train._transform(places).flatten().long()  # type: ignore[attr-defined]
        for rows, x in ((task.train, data.x_train), (test.rows, data.x_test)):
            expected = torch.from_numpy(x[:5].copy()).flatten(1)[:, order]
            assert torch.equal(rows.take(torch.arange(5)).x.flatten(1), expected)


def test_padding_and_an_unpermuted_first_task() -> None:
    stream = Permuted(tasks=2, pad=2, first_permuted=False).build("domain", 0)
    assert stream.spec.input_shape == (1, 12, 12)
    first = stream[0].train.take(torch.arange(2)).x
    assert torch.equal(first[:, :, 2:-2, 2:-2], torch.from_numpy(load("digits").x_train[:2].copy()))
    assert first[:, :, :2].sum() == first[:, :, :, -2:].sum() == 0


def test_pixels_move_alike_in_every_channel() -> None:
    x = torch.arange(12.0).reshape(1, 1, 3, 4).expand(1, 3, 3, 4)
    y = permute_pixels(torch.randperm(12), 0)(x)
    assert torch.equal(y[:, 0], y[:, 1])
    assert torch.equal(y[:, 0], y[:, 2])


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (1, 3, 5, 5)])
@pytest.mark.parametrize(("degrees", "turns"), [(0, 0), (90, 1), (180, 2), (270, 3), (-90, 3), (360, 0), (-180, 2)])
def test_right_angles_turn_counter_clockwise_without_loss(shape: tuple[int, ...], degrees: float, turns: int) -> None:
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(rotate(degrees)(x), torch.rot90(x, turns, (-2, -1)), rtol=1e-4, atol=1e-4)


def test_turning_half_way_round_works_for_images_that_are_not_square() -> None:
    x = torch.rand(1, 1, 4, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(rotate(180)(x), x.flip(-1, -2), rtol=1e-4, atol=1e-4)


def test_a_quarter_turn_of_an_oblong_image_keeps_its_proportions() -> None:
    x = torch.zeros(1, 1, 5, 9)
    x[0, 0, 2, 3:6] = 1  # a lying bar of three pixels in the middle
    expected = torch.zeros(1, 1, 5, 9)
    expected[0, 0, 1:4, 4] = 1
    torch.testing.assert_close(rotate(90)(x), expected, rtol=1e-4, atol=1e-4)


def test_a_small_turn_there_and_back_is_nearly_nothing() -> None:
    grid = torch.linspace(-1, 1, 17)
    blob = torch.exp(-4 * (grid[:, None] - 0.2) ** 2 - 4 * grid[None] ** 2)[None, None]
    assert (rotate(-30)(rotate(30)(blob)) - blob)[..., 4:-4, 4:-4].abs().max() < 0.05
    assert (rotate(30)(blob) - blob).abs().max() > 0.1


def test_angles_are_evenly_spaced_or_given() -> None:
    assert Rotated(tasks=4).build("domain", 0).spec.task_names == (
        "0 degrees",
        "45 degrees",
        "90 degrees",
        "135 degrees",
    )
    stream = Rotated(tasks=3, angles=(0.0, 90.0, 180.0)).build("domain", 0)
    plain = torch.from_numpy(load("digits").x_train[:4].copy())
    for task, turns in zip(stream, range(3), strict=True):
        torch.testing.assert_close(
            task.train.take(torch.arange(4)).x, torch.rot90(plain, turns, (-2, -1)), rtol=1e-4, atol=1e-4
        )


def test_the_same_angle_twice_is_two_tasks_with_classes_of_their_own() -> None:
    spec = Rotated(tasks=3, angles=(0.0, 90.0, 0.0)).build("class", 0).spec
    assert spec.task_names == ("0 degrees", "90 degrees", "0 degrees (2)")
    assert len(set(spec.classes)) == spec.outputs == 30


# --------------------------------------------------------------------------------- sequences and blobs


def test_a_sequence_with_disjoint_and_with_shared_labels() -> None:
    pair = ("digits", "digits")
    apart = Sequence(datasets=pair).build("class", 0)
    assert apart.spec.outputs == 20
    assert (apart.spec.classes[0], apart.spec.classes[10]) == ("digits: 0", "digits (2): 0")
    assert len(set(apart.spec.classes)) == 20
    assert apart.spec.task_names == ("digits", "digits (2)")
    assert set(apart[1].train.labels.tolist()) == set(range(10, 20))
    together = Sequence(datasets=pair, shared_labels=True).build("class", 0)
    assert together.spec.classes == tuple(range(10))
    assert together.spec.task_classes == (tuple(range(10)),) * 2
    assert torch.equal(together[1].train.labels, torch.from_numpy(load("digits").y_train.copy()))


def test_images_of_a_sequence_are_brought_to_one_size() -> None:
    stream = Sequence(datasets=("digits", "digits"), size=12).build("class", 0)
    assert stream.spec.input_shape == (1, 12, 12)
    assert stream[1].train.take(torch.arange(3)).x.shape == (3, 1, 12, 12)


def test_grey_images_are_copied_to_as_many_channels_as_are_asked_for() -> None:
    plain, wide = (Sequence(datasets=("digits",), channels=count).build("class", 0) for count in (None, 3))
    assert (plain.spec.input_shape, wide.spec.input_shape) == ((1, 8, 8), (3, 8, 8))
    assert torch.equal(everything(wide[0].train), everything(plain[0].train).expand(-1, 3, -1, -1))


def test_colour_images_keep_their_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = load("digits")
    colour = replace(digits, x_train=digits.x_train.repeat(3, 1), x_test=digits.x_test.repeat(3, 1))
    monkeypatch.setattr("reverie.streams.sources.load", lambda name, data_dir: colour)
    with pytest.raises(OptionsError, match=r"channels = 1: digits has 3, and only grey images can be given others"):
        Sequence(datasets=("digits",), channels=1).build("class", 0)
    assert Sequence(datasets=("digits",), channels=3).build("class", 0).spec.input_shape == (3, 8, 8)


def test_resizing() -> None:
    flat = torch.full((2, 1, 8, 8), 0.25)
    torch.testing.assert_close(resize(3, 5)(flat), torch.full((2, 3, 5, 5), 0.25))
    image = torch.rand(1, 3, 4, 4)
    assert torch.equal(resize(3, 4)(image), image)
    assert resize(1, 9)(torch.eye(8)[None, None]).max() <= 1


def test_blobs_are_told_apart_by_their_nearest_mean() -> None:
    stream = Blobs(tasks=2, rows_per_class=40, dimensions=12).build("class", 0)
    means = torch.stack(
        [everything(task.train)[task.train.labels == c].mean(0) for task in stream for c in task.classes]
    )
    right = [
        (torch.cdist(everything(test.rows), means).argmin(1) == test.rows.labels).float().mean()
        for test in stream.tests
    ]
    assert min(right) > 0.9
    assert len(stream[0].train) == 80
    assert len(stream.tests[0].rows) == 20


def test_the_same_seed_makes_the_same_stream() -> None:
    for source in SMALL.values():
        one, two = (source.build(source.scenarios[0], 3) for _ in range(2))
        assert one.spec == two.spec
        assert digests(one[1].train) == digests(two[1].train)


def test_published_names_stand_for_their_protocols() -> None:
    assert from_options(STREAMS, "permuted-mnist").pad == 2
    spec = from_options(STREAMS, "split-digits").build("class", 0).spec
    assert spec.name == "split-digits"
    assert spec.recommended.values["batch_size"] == 64
    assert spec.value_range == (0.0, 1.0)


# ------------------------------------------------------------------------------------------- folders


def write_tasks(folder: Path) -> list[np.ndarray]:
    rng, arrays = np.random.default_rng(0), []
    for number, labels in enumerate((["cat", "dog"], ["emu", "fox"])):
        x = rng.random((10, 4), dtype=np.float32)
        content = {"x_train": x, "y_train": np.repeat(labels, 5)}
        if number:
            content |= {"x_test": x[:4] / 2, "y_test": np.array(labels * 2)}
        np.savez(folder / f"{number}-task.npz", **content)
        arrays.append(x)
    return arrays


def test_a_folder_of_arrays(tmp_path: Path) -> None:
    arrays = write_tasks(tmp_path)
    stream = Folder(path=str(tmp_path)).build("class", 0)
    assert stream.spec.classes == ("cat", "dog", "emu", "fox")
    assert stream.spec.task_names == ("0-task", "1-task")
    assert stream.spec.name == tmp_path.name
    assert torch.equal(everything(stream[1].train), torch.from_numpy(arrays[1]))
    assert torch.equal(everything(stream.tests[1].rows), torch.from_numpy(arrays[1][:4] / 2))
    assert (len(stream[0].train), len(stream.tests[0].rows)) == (8, 2)
    same = Stream.from_folder(tmp_path)
    assert same.spec == stream.spec
    assert digests(same[0].train) == digests(stream[0].train)


def test_a_folder_of_arrays_whose_numbers_are_to_be_predicted(tmp_path: Path) -> None:
    x = np.linspace(0, 1, 20, dtype=np.float32)[:, None]
    np.savez(tmp_path / "a.npz", x_train=x, y_train=3 * x - 1)
    np.savez(tmp_path / "b.npz", x_train=x, y_train=-x[:, 0], x_test=x[:4], y_test=-x[:4, 0])
    stream = Folder(path=str(tmp_path), noise_std=0.2).build("domain", 0)
    assert (stream.spec.kind, stream.spec.noise_std, stream.spec.classes) == ("regression", 0.2, ("y",))
    assert stream.spec.task_names == ("a", "b")
    assert [(len(task.train), len(test.rows)) for task, test in zip(stream, stream.tests, strict=True)] == [
        (16, 4),
        (20, 4),
    ]
    for task, slope, height in ((0, 3, -1), (1, -1, 0)):
        for rows in (stream[task].train, stream.tests[task].rows):
            batch = rows.take(torch.arange(4))
            torch.testing.assert_close(batch.y, slope * batch.x + height)
    same = Stream.from_folder(tmp_path, "domain", noise_std=0.2)
    assert (same.spec, same.checksums) == (stream.spec, stream.checksums)
    with pytest.raises(DataError, match="scenario = 'class': regression has no classes"):
        Folder(path=str(tmp_path), noise_std=0.2).build("class", 0)


def test_names_of_folders_are_no_numbers(tmp_path: Path) -> None:
    write_images(tmp_path)
    with pytest.raises(DataError, match=r"targets of dtype <U3; expected numbers, since noise_std makes it regression"):
        Folder(path=str(tmp_path), noise_std=0.2).build("domain", 0)


def test_arrays_are_tasks_by_themselves(tmp_path: Path) -> None:
    write_tasks(tmp_path)
    with pytest.raises(
        DataError, match=r"tasks = 2: has no effect, for each of the 2 \.npz files is a task; leave it out"
    ):
        Folder(path=str(tmp_path), tasks=2).build("class", 0)


def write_images(folder: Path, size: int = 3) -> None:
    for kind in ("train", "test"):
        for value, name in enumerate(("ant", "bee", "cow")):
            (folder / kind / name).mkdir(parents=True)
            for number in range(2):
                Image.new("L", (size, 2), 51 * value + number).save(folder / kind / name / f"{number}.png")


def test_a_folder_of_images(tmp_path: Path) -> None:
    write_images(tmp_path)
    (tmp_path / "train" / "ant" / "notes.txt").write_text("not an image")
    stream = Folder(path=str(tmp_path), tasks=2).build("class", 0)
    assert stream.spec.classes == ("ant", "bee", "cow")
    assert stream.spec.task_names == ("ant, bee", "cow")
    assert stream.spec.input_shape == (1, 2, 3)
    batch = stream[0].train.take(torch.tensor([0, 3]))
    assert batch.y.tolist() == [0, 1]  # type: ignore[union-attr]
    torch.testing.assert_close(batch.x[:, 0, 0, 0], torch.tensor([0.0, 52 / 255]))
    assert len(stream.tests[1].rows) == 2


def test_images_without_test_folders_are_held_out(tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (2, 2), (number, 0, 0)).save(tmp_path / "train" / name / f"{number}.png")
    stream = Folder(path=str(tmp_path), test_fraction=0.25).build("class", 0)
    assert (len(stream[0].train), len(stream.tests[0].rows)) == (6, 2)
    assert stream.spec.input_shape == (3, 2, 2)


def test_every_damaged_file_is_told(tmp_path: Path) -> None:
    write_tasks(tmp_path)
    whole = (tmp_path / "0-task.npz").read_bytes()
    (tmp_path / "0-task.npz").write_bytes(whole[:-40])
    np.savez(tmp_path / "2-task.npz", x_train=np.zeros(3), x_test=np.zeros(3))
    np.savez(tmp_path / "3-task.npz", x_train=np.zeros(3), y_train=np.array([{}, 1, 2], dtype=object))
    with pytest.raises(DataError) as caught:
        Folder(path=str(tmp_path)).build("class", 0)
    text = str(caught.value)
    assert "0-task.npz: not a readable .npz of plain arrays" in text
    assert "2-task.npz: has arrays ['x_test', 'x_train'], lacks ['y_train', 'y_test']" in text
    assert "3-task.npz: not a readable .npz of plain arrays (Object arrays cannot be loaded" in text
    assert "1-task.npz" not in text


def test_every_damaged_image_is_told(tmp_path: Path) -> None:
    write_images(tmp_path)
    (tmp_path / "train" / "ant" / "0.png").write_bytes(b"\x89PNG\r\n")
    (tmp_path / "test" / "bee" / "1.png").unlink()
    (tmp_path / "test" / "bee" / "0.png").unlink()
    Image.new("L", (9, 9)).save(tmp_path / "train" / "cow" / "0.png")
    with pytest.raises(DataError) as caught:
        Folder(path=str(tmp_path)).build("class", 0)
    text = str(caught.value)
    for part in ("ant/0.png: not a readable image", "test/bee: no images (.png", "images of several sizes"):
        assert part in text


def test_folders_that_hold_nothing_usable(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds neither \.npz files \(one a task\) nor images as train/<class>/"):
        Folder(path=str(tmp_path)).build("class", 0)
    write_images(tmp_path)
    with pytest.raises(DataError, match=r"tasks = 4: .*train holds 3 class folders, so 1 to 3 tasks"):
        Folder(path=str(tmp_path), tasks=4).build("class", 0)


@pytest.mark.parametrize("count", [10, 95, 1442])
def test_a_sequence_of_fewer_rows_keeps_classes_even(count: int) -> None:
    source = Sequence(datasets=("digits", "digits-inverted"), train_rows=count)
    stream = source.build("domain", seed=1)
    for task in stream:
        assert len(task.train) == count
        rows = torch.bincount(task.train.labels, minlength=10)
        assert int(rows.max() - rows.min()) <= (1 if count < 1000 else 10)
    assert [len(test.rows) for test in stream.tests] == [355, 355]
    again, other = source.build("domain", seed=1), source.build("domain", seed=2)
    first = [next(iter(made[0].train.chunks(count))).x for made in (stream, again, other)]
    assert torch.equal(first[0], first[1])
    assert torch.equal(first[0], first[2]) == (count == 1442)


def test_modes_lie_where_they_are_said_to_and_are_drawn_anew_only_where_asked() -> None:
    modes = GaussianModes(rows=400)
    stream = modes.build("class", seed=1)
    for task, centres in zip(stream, modes.centres().view(3, 2, 2), strict=True):
        (rows,) = task.train.chunks(4096)
        for label, centre in zip(rows.y.unique(), centres, strict=True):
            assert torch.allclose(rows.x[rows.y == label].mean(dim=0), centre, atol=0.05)
    first = digests(stream[0].train)
    assert digests(modes.build("class", seed=2)[0].train) == first
    anew = replace(modes, data_seed=None)
    assert digests(anew.build("class", seed=42)[0].train) == first
    assert digests(anew.build("class", seed=2)[0].train) != first
