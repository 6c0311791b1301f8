"""Named streams: options in, stream out. Data are read in ``build``, never before."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from reverie.checks import OptionsError, Problems
from reverie.options import Part
from reverie.seeding import generator
from reverie.streams.augmentation import AugmentOption
from reverie.streams.datasets import Dataset, load
from reverie.streams.stream import ArrayStream, Data, Modes, Piece, assemble
from reverie.types import Recommended, Scenario

Order = Literal["seed", "natural"]
Tasks = Annotated[int, Field(ge=1, description="number of tasks")]
DataSeed = Annotated[
    int | None,
    Field(ge=0, description="that the rows are drawn with, whatever the run's seed; None: with the run's seed"),
]
ValidationFraction = Annotated[
    float, Field(ge=0, lt=1, description="share of the training rows held out for validation")
]


@runtime_checkable
class StreamSource(Protocol):
    """Options of a stream. ``scenarios``: those that make sense for it, the usual one first."""

    scenarios: tuple[Scenario, ...]

    def build(self, scenario: Scenario, seed: int, data_dir: str | None = None) -> ArrayStream: ...


def protocol(name: str) -> Recommended:
    """The published settings for a data set (van de Ven et al. 2022, Methods), ours where there are none."""
    if name == "digits":
        values: dict[str, Any] = {
            "hidden": (200, 200),
            "latent_dim": 32,
            "steps": 600,
            "batch_size": 64,
            "learning_rate": 1e-3,
            "kl_weight": 0.25,  # 64 pixels: chosen on validation rows, seeds 100 to 102
        }
    elif name.startswith("cifar"):
        values = {"hidden": (2000, 2000), "latent_dim": 100, "steps": 5000, "batch_size": 256}
    else:
        values = {"hidden": (400, 400), "latent_dim": 100, "steps": 2000, "batch_size": 128}
    backbone: dict[str, Any] = {"name": "cnn", "channels": (32, 64)}
    backbone |= {"width": 128} if name in ("digits", "usps") else {"kernel": 5, "halving": "max-pool"}
    return Recommended(solver={"name": "mlp"}, generator={"name": "vae"}, values=values, backbone=backbone)


@dataclass(eq=False, repr=False)
class Split(Part):
    """One data set, its classes dealt out to tasks.

    Source: the split protocols of van de Ven, Tuytelaars and Tolias, "Three types of incremental learning" (2022).
    """

    dataset: Annotated[str, Field(description="name of a data set: digits, mnist, fashion-mnist ...")] = "digits"
    tasks: Tasks = 5
    class_order: Annotated[
        Order | tuple[int, ...], Field(description="by seed, natural, or the class indices in order")
    ] = "seed"
    validation_fraction: ValidationFraction = 0.0
    augment: AugmentOption = "none"

    scenarios = ("class", "task", "domain")

    def build(self, scenario: Scenario, seed: int, data_dir: str | None = None) -> ArrayStream:
        data = load(self.dataset, data_dir)
        pieces = split_pieces(data, self.tasks, _class_order(self.class_order, len(data.classes), seed))
        return assemble(
            f"split-{self.dataset}",
            pieces,
            scenario,
            self.validation_fraction,
            seed,
            protocol(self.dataset),
            checksums={data.name: data.checksum},
            augment=self.augment,
        )


@dataclass(eq=False, repr=False)
class Permuted(Part):
    """One data set, its pixels shuffled in another way in every task; all classes in every task.

    Source: Goodfellow et al. 2013 (arXiv 1312.6211); sizes as in van de Ven et al. 2022.
    """

    dataset: Annotated[str, Field(description="name of a data set")] = "digits"
    tasks: Tasks = 10
    pad: Annotated[int, Field(ge=0, le=64, description="zero pixels added on every side before shuffling")] = 0
    first_permuted: Annotated[bool, Field(description="whether the first task is shuffled too")] = True
    validation_fraction: ValidationFraction = 0.0

    scenarios = ("domain", "task", "class")

    def build(self, scenario: Scenario, seed: int, data_dir: str | None = None) -> ArrayStream:
        data = load(self.dataset, data_dir)
        _, height, width = data.x_train.shape[1:]
        pixels = (height + 2 * self.pad) * (width + 2 * self.pad)
        pieces = []
        for task in range(self.tasks):
            order = torch.randperm(pixels, generator=generator(seed, "permutation", task))
            if task == 0 and not self.first_permuted:
                order = torch.arange(pixels)
            pieces.append(_whole(f"permutation {task + 1}", data, permute_pixels(order, self.pad)))
        return _assemble_whole(self, f"permuted-{self.dataset}", pieces, scenario, seed, [data])


@dataclass(eq=False, repr=False)
class Rotated(Part):
    """One data set, turned by another angle in every task; all classes in every task.

    Source: Lopez-Paz and Ranzato 2017 (arXiv 1706.08840), with evenly spaced angles unless ``angles`` are given.
    """

    dataset: Annotated[str, Field(description="name of a data set")] = "digits"
    tasks: Tasks = 5
    max_angle: Annotated[
        float, Field(gt=0, le=360, description="degrees; task i of n is turned by i * max_angle / n")
    ] = 180.0
    angles: Annotated[tuple[float, ...] | None, Field(description="degrees a task, instead of evenly spaced ones")] = (
        None
    )
    validation_fraction: ValidationFraction = 0.0

    scenarios = ("domain", "task", "class")

    def check(self, problems: Problems) -> None:
        if self.angles is not None:
            problems.check(
                len(self.angles) == self.tasks,
                f"angles = {self.angles}: {len(self.angles)} angles for {self.tasks} tasks",
            )
            wrong = [angle for angle in self.angles if not -360 <= angle <= 360]
            problems.check(not wrong, f"angles = {wrong}: must lie between -360 and 360 degrees")
            problems.check(
                self.max_angle == 180,
                f"max_angle = {self.max_angle:g}: has no effect where angles are given; give one of the two",
            )

    def build(self, scenario: Scenario, seed: int, data_dir: str | None = None) -> ArrayStream:
        data = load(self.dataset, data_dir)
        angles = self.angles or [task * self.max_angle / self.tasks for task in range(self.tasks)]
        pieces = [_whole(f"{angle:g} degrees", data, rotate(angle), once=True) for angle in angles]
        return _assemble_whole(self, f"rotated-{self.dataset}", pieces, scenario, seed, [data])


@dataclass(eq=False, repr=False)
class Sequence(Part):
    """One data set after another, with shared labels (class k is class k everywhere) or disjoint ones."""

    datasets: Annotated[tuple[str, ...], Field(min_length=1, description="names of data sets, in order")] = (
        "mnist",
        "fashion-mnist",
    )
    shared_labels: Annotated[bool, Field(description="whether the k-th class of every data set is one class")] = False
    size: Annotated[
        int | None, Field(gt=0, description="height and width that all images are brought to; None: the first one's")
    ] = None
    channels: Annotated[
        int | None,
        Field(gt=0, description="of all images, grey ones are copied to them; None: the most that a data set has"),
    ] = None
    train_rows: Annotated[
        int | None,
        Field(gt=0, description="training rows of each data set, spread evenly over its classes; None: all it has"),
    ] = None
    validation_fraction: ValidationFraction = 0.0
    augment: AugmentOption = "none"

    scenarios = ("class", "domain", "task")

    def build(self, scenario: Scenario, seed: int, data_dir: str | None = None) -> ArrayStream:
        loaded = [load(name, data_dir) for name in self.datasets]
        size = self.size or loaded[0].x_train.shape[-1]
        channels = self.channels or max(data.x_train.shape[1] for data in loaded)
        problems = Problems()
        for data in loaded:
            have = data.x_train.shape[1]
            problems.check(
                have in (1, channels),
                f"channels = {channels}: {data.name} has {have}, and only grey images can be given others; leave it out",
            )
        problems.raise_as(OptionsError, "these images cannot be brought together")
        pieces = []
        for data in loaded:
            fits = data.x_train.shape[1:] == (channels, size, size)
            piece = _whole(data.name, data, None if fits else resize(channels, size), once=True)
            if self.shared_labels:
                piece = _numbered(piece, data)
            if self.train_rows is not None and self.train_rows < len(data.y_train):
                index = _evenly(data.y_train, self.train_rows, seed)
                piece = replace(piece, train=replace(piece.train, index=index))
            pieces.append(piece)
        if self.shared_labels and len({len(piece.labels) for piece in pieces}) > 1:
            raise OptionsError("shared_labels = True: the data sets have different numbers of classes")
        return assemble(
            "+".join(self.datasets),
            pieces,
            scenario,
            self.validation_fraction,
            seed,
            protocol(self.datasets[0]),
            shared_labels=self.shared_labels,
            checksums={data.name: data.checksum for data in loaded},
            augment=self.augment,
        )


@dataclass(eq=False, repr=False)
class Blobs(Part):
    """A toy stream: every class is a Gaussian cloud around a corner of the unit cube, values clipped to [0, 1]."""

    tasks: Tasks = 3
    classes_per_task: Annotated[int, Field(ge=1, description="classes in every task")] = 2
    dimensions: Annotated[int, Field(ge=2, description="numbers a row")] = 8
    rows_per_class: Annotated[
        int, Field(ge=2, description="training rows of a class; a quarter as many for testing")
    ] = 200
    spread: Annotated[float, Field(gt=0, description="standard deviation of a cloud")] = 0.1
    validation_fraction: ValidationFraction = 0.0

    scenarios = ("class", "task", "domain")

    def build(self, scenario: Scenario, seed: int, data_dir: str | None = None) -> ArrayStream:
        pieces = []
        for task in range(self.tasks):
            labels = tuple(range(task * self.classes_per_task, (task + 1) * self.classes_per_task))
            parts = [self._cloud(labels, seed, kind) for kind in ("train", "test")]
            pieces.append(Piece(f"clouds {task + 1}", parts[0], parts[1], labels))
        recommended = Recommended(
            solver={"name": "mlp"},
            generator={"name": "vae"},
            values={"hidden": (32, 32), "latent_dim": 4, "steps": 100, "batch_size": 32},
            backbone={"name": "mlp"},
        )
        return assemble("blobs", pieces, scenario, self.validation_fraction, seed, recommended)

    def _cloud(self, labels: tuple[int, ...], seed: int, kind: str) -> Data:
        n = self.rows_per_class if kind == "train" else max(self.rows_per_class // 4, 1)
        clouds = []
        for label in labels:
            center = torch.rand(self.dimensions, generator=generator(seed, "blob", label)).round() * 0.6 + 0.2
            noise = torch.randn(n, self.dimensions, generator=generator(seed, "blob", label, kind))
            clouds.append((center + self.spread * noise).clamp(0, 1))
        return Data(torch.cat(clouds).numpy(), np.repeat(np.asarray(labels), n))


@dataclass(eq=False, repr=False)
class GaussianModes(Part):
    """A toy stream in the plane: modes on a circle, mode i at the angle 2 pi (i + 1/2) / modes from the vertical; each task tells two
    neighbours apart (Henning et al. 2021, arXiv 2103.01133, section 4). One data set, whatever the seed of the run, unless data_seed is None.
    """

    tasks: Tasks = 3
    radius: Annotated[float, Field(gt=0, description="of the circle")] = 5.0
    deviation: Annotated[float, Field(gt=0, description="of a mode, on each axis")] = 0.2
    rows: Annotated[int, Field(gt=0, description="training rows of a mode")] = 10
    test_rows: Annotated[int, Field(gt=0, description="test rows of a mode")] = 100
    data_seed: DataSeed = 42
    validation_fraction: ValidationFraction = 0.0

    scenarios = ("class", "task", "domain")

    def centres(self) -> Tensor:
        """(2 tasks, 2) of the modes, in order."""
        angle = 2 * math.pi * (torch.arange(2 * self.tasks) + 0.5) / (2 * self.tasks)
        return self.radius * torch.stack([angle.sin(), angle.cos()], dim=1)

    def build(self, scenario: Scenario, seed: int, data_dir: str | None = None) -> ArrayStream:
        pieces = []
        for task in range(self.tasks):
            labels = (2 * task, 2 * task + 1)
            train, test = (
                self._drawn(labels, n, kind, seed) for n, kind in ((self.rows, "train"), (self.test_rows, "test"))
            )
            pieces.append(Piece(f"modes {labels[0] + 1} and {labels[1] + 1}", train, test, labels))
        recommended = Recommended(
            solver={"name": "mlp"},
            generator={"name": "vae", "likelihood": "gaussian"},
            values={"hidden": (10, 10), "latent_dim": 2, "steps": 2000, "batch_size": 32, "learning_rate": 1e-3},
            backbone={"name": "mlp"},
        )
        stream = assemble("gaussian-modes", pieces, scenario, self.validation_fraction, seed, recommended)
        return replace(stream, modes=Modes(self.centres().view(self.tasks, 2, 2), self.deviation))

    def _drawn(self, labels: tuple[int, ...], n: int, kind: str, seed: int) -> Data:
        centres, drawn = self.centres(), seed if self.data_seed is None else self.data_seed
        rows = [
            centres[mode] + self.deviation * torch.randn(n, 2, generator=generator(drawn, "mode", mode, kind))
            for mode in labels
        ]
        return Data(torch.cat(rows).numpy(), np.repeat(np.asarray(labels), n))


@dataclass(eq=False, repr=False)
class Folder(Part):
    """The user's own files: one .npz a task (arrays x_train, y_train and, where they exist, x_test, y_test), in the order of their
    names; or images as ``train/<class>/*.png`` (and ``test/...``), their classes dealt out to ``tasks`` tasks."""

    path: Annotated[str, Field(description="the folder")]
    tasks: Annotated[
        int, Field(ge=1, description="number of tasks that image classes are dealt out to; an .npz is a task by itself")
    ] = 1
    test_fraction: Annotated[
        float, Field(gt=0, lt=1, description="share of rows held out where no test rows are given")
    ] = 0.2
    validation_fraction: ValidationFraction = 0.0
    noise_std: Annotated[
        float | None,
        Field(
            gt=0, description="deviation of the noise of numbers that are to be predicted (regression); None: labels"
        ),
    ] = None
    unlabelled: Annotated[
        int | str | None,
        Field(description="the label of training rows whose class is not known, such as -1; None: all have a class"),
    ] = None
    augment: AugmentOption = "none"

    scenarios = ("class", "task", "domain")

    def build(self, scenario: Scenario, seed: int, data_dir: str | None = None) -> ArrayStream:
        return ArrayStream.from_folder(
            self.path,
            scenario,
            tasks=self.tasks,
            test_fraction=self.test_fraction,
            validation_fraction=self.validation_fraction,
            seed=seed,
            noise_std=self.noise_std,
            augment=self.augment,
            unlabelled=self.unlabelled,
        )


def split_pieces(data: Dataset, tasks: int, order: list[int]) -> list[Piece]:
    """Deals the classes of a data set, in the given order, out to tasks as evenly as possible."""
    if tasks > len(order):
        raise OptionsError(f"tasks = {tasks}: {data.name} has {len(order)} classes, so at most {len(order)} tasks")
    pieces = []
    for classes in np.array_split(np.asarray(order), tasks):
        labels = tuple(data.classes[c] for c in classes)
        parts = []
        for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
            names = np.asarray(data.classes)[y]
            parts.append(Data(x, names, np.flatnonzero(np.isin(y, classes))))
        pieces.append(Piece(", ".join(labels), parts[0], parts[1], labels))
    return pieces


def permute_pixels(order: Tensor, pad: int) -> Callable[[Tensor], Tensor]:
    """Shuffles pixel positions, in the same way in every channel; x: (B, C, H, W)."""

    def transform(x: Tensor) -> Tensor:
        if pad:
            x = functional.pad(x, (pad, pad, pad, pad))
        return x.flatten(2).index_select(2, order.to(x.device)).reshape(x.shape)

    return transform


def rotate(degrees: float) -> Callable[[Tensor], Tensor]:
    """Turns images counter-clockwise about their centre, bilinear, zero outside; x: (B, C, H, W)."""
    angle = torch.tensor(degrees * torch.pi / 180)
    cos, sin = torch.cos(angle), torch.sin(angle)

    def transform(x: Tensor) -> Tensor:
        if degrees % 360 == 0:
            return x
        # affine_grid works in [-1, 1] on both axes; the ratio keeps angles right for images that are not square.
        ratio = x.shape[-2] / x.shape[-1]
        matrix = torch.stack([torch.stack([cos, -sin * ratio, cos * 0]), torch.stack([sin / ratio, cos, cos * 0])])
        grid = functional.affine_grid(matrix.expand(len(x), 2, 3).to(x), list(x.shape), align_corners=False)
        return functional.grid_sample(x, grid, align_corners=False)

    return transform


def resize(channels: int, size: int) -> Callable[[Tensor], Tensor]:
    """Brings images to (channels, size, size), bilinear; grey images are repeated over the channels."""

    def transform(x: Tensor) -> Tensor:
        if x.shape[-2:] != (size, size):
            x = functional.interpolate(
                x, size=(size, size), mode="bilinear", align_corners=False, antialias=True
            ).clamp(0, 1)
        return x.expand(-1, channels, -1, -1).contiguous()

    return transform


def _evenly(y: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Places of ``count`` rows in ascending order, of each class as many as of the others while it has them."""
    places = [np.flatnonzero(y == label) for label in np.unique(y)]
    order = [
        mine[torch.randperm(len(mine), generator=generator(seed, "train rows", k)).numpy()]
        for k, mine in enumerate(places)
    ]
    rank = np.concatenate([np.arange(len(mine)) for mine in order])
    chosen = np.concatenate(order)[np.argsort(rank, kind="stable")[:count]]
    return np.sort(chosen)


def _whole(name: str, data: Dataset, transform: Callable[[Tensor], Tensor] | None, once: bool = False) -> Piece:
    names = np.asarray(data.classes)
    train = Data(data.x_train, names[data.y_train])
    test = Data(data.x_test, names[data.y_test])
    return Piece(name, train, test, tuple(data.classes), transform, once)


def _numbered(piece: Piece, data: Dataset) -> Piece:
    """The piece with class numbers for labels, so that class k of one data set and class k of another are one."""
    train, test = Data(data.x_train, data.y_train), Data(data.x_test, data.y_test)
    return replace(piece, train=train, test=test, labels=tuple(range(len(data.classes))))


def _assemble_whole(
    source: Permuted | Rotated, name: str, pieces: list[Piece], scenario: Scenario, seed: int, loaded: list[Dataset]
) -> ArrayStream:
    return assemble(
        name,
        pieces,
        scenario,
        source.validation_fraction,
        seed,
        protocol(source.dataset),
        shared_labels=False,
        checksums={data.name: data.checksum for data in loaded},
    )


def _class_order(order: Order | tuple[int, ...], classes: int, seed: int) -> list[int]:
    if order == "natural":
        return list(range(classes))
    if order == "seed":
        return torch.randperm(classes, generator=generator(seed, "class order")).tolist()
    if sorted(order) != list(range(classes)):
        raise OptionsError(f"class_order = {order}: must name every class index from 0 to {classes - 1} once")
    return [int(c) for c in order]
