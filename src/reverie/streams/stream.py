"""From pieces of data to a stream: scenario, labels, checks.

A *piece* is one task's data with the user's own labels, before any scenario. ``assemble`` turns pieces into a stream: it
decides which output each label gets in the task-, domain- and class-incremental scenario (van de Ven, Tuytelaars and Tolias,
Nature Machine Intelligence 2022) and checks everything that would otherwise go wrong an hour later.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from reverie.checks import DataError, Problems, nearest
from reverie.seeding import generator
from reverie.streams import folders
from reverie.streams.augmentation import PADDING
from reverie.streams.rows import DatasetRows, JoinedRows, TensorRows, item_array
from reverie.types import UNKNOWN, Augment, Label, Recommended, Rows, Scenario, StreamSpec, Task, TestSet

Transform = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Data:
    """Some rows of one data set. x: array or tensor (M, ...) uint8 or float, or a map-style data set; y: (M,) labels of any kind;
    index: the rows that are meant (all by default); targets: (M, outputs) float32, of regression, where all labels are 0; unlabelled: the label
    of rows whose class is not known, None where there are none."""

    x: Any
    y: np.ndarray
    index: np.ndarray | None = None
    targets: np.ndarray | None = None
    unlabelled: Label | None = None

    @property
    def labels(self) -> np.ndarray:
        return self.y if self.index is None else self.y[self.index]

    @property
    def classes(self) -> tuple[Label, ...]:
        """In sorted order, without that of rows whose class is not known."""
        return tuple(label for label in _distinct(self.labels) if label != self.unlabelled)

    @property
    def has_unlabelled(self) -> bool:
        return self.unlabelled is not None and self.unlabelled in _distinct(self.labels)

    @property
    def is_array(self) -> bool:
        return isinstance(self.x, np.ndarray | Tensor)


@dataclass(frozen=True)
class Piece:
    """One task's data. ``labels`` fixes the order of its classes; ``transform`` maps float batches (B, ...) row by row."""

    name: str
    train: Data
    test: Data
    labels: tuple[Label, ...]
    transform: Transform | None = None
    once: bool = False


@dataclass(frozen=True)
class Modes:
    """Round Gaussians that all rows of a stream are drawn from. centres: (tasks, classes of a task, d), in the order of ``TestSet.classes``."""

    centres: Tensor
    deviation: float


@dataclass(frozen=True)
class ArrayStream:
    """The stream that everything in this package makes: a spec, training rows a task, test sets."""

    spec: StreamSpec
    trains: tuple[Rows, ...]
    tests: tuple[TestSet, ...]
    validations: tuple[Rows | None, ...]
    checksums: Mapping[str, str] = field(default_factory=dict)
    modes: Modes | None = None  # where the distribution is known

    def __len__(self) -> int:
        return len(self.trains)

    def __getitem__(self, index: int) -> Task:
        if not -len(self) <= index < len(self):
            raise IndexError(f"task {index}: this stream has {len(self)} tasks")
        index %= len(self)
        spec = self.spec
        return Task(
            index, spec.task_names[index], spec.task_classes[index], self.trains[index], self.validations[index]
        )

    def __iter__(self) -> Iterator[Task]:
        return (self[index] for index in range(len(self)))

    def merged(self) -> ArrayStream:
        """All tasks as one, for joint training: as many steps in all, every test set kept as a column of its own."""
        spec = self.spec
        values = dict(spec.recommended.values)
        if "steps" in values:
            values["steps"] *= len(self)
        classes = spec.classes_until(len(self) - 1)
        merged_spec = replace(
            spec,
            task_classes=(classes,),
            task_names=("all tasks",),
            recommended=replace(spec.recommended, values=values),
        )
        validations = [rows for rows in self.validations if rows is not None]
        return replace(
            self,
            spec=merged_spec,
            trains=(JoinedRows(self.trains),),
            tests=tuple(replace(test, since=0) for test in self.tests),
            validations=(JoinedRows(validations) if validations else None,),
        )

    @staticmethod
    def from_arrays(
        tasks: Sequence[Sequence[Any]],
        scenario: Scenario = "class",
        *,
        names: Sequence[str] | None = None,
        test_fraction: float = 0.2,
        validation_fraction: float = 0.0,
        seed: int = 0,
        recommended: Recommended | None = None,
        name: str = "arrays",
        noise_std: float | None = None,
        augment: Augment = "none",
        unlabelled: Label | None = None,
    ) -> ArrayStream:
        """A stream from arrays. tasks: for each task (x, y) or (x, y, x_test, y_test).

        x: (N, ...) uint8, or floats; y: (N,) integers from any range, or strings. Where no test arrays are given, a
        ``test_fraction`` of the rows, drawn by ``seed`` within each class, is held out for evaluation.

        unlabelled: the label of training rows whose class is not known, such as -1, which is then no class; such rows are never held out. Few
        learners take them (lgaa with ``labels_per_class``).

        noise_std: makes it a stream of regression, in the domain-incremental scenario: y holds numbers, (N,) or (N, targets), and this is
        the deviation of the noise that is in them. augment: "flip-crop" changes images each time they are trained on (``streams.augmentation``).

        >>> import numpy as np
        >>> x, y = np.random.default_rng(0).random((20, 4), dtype=np.float32), np.repeat(["cat", "dog"], 10)
        >>> stream = ArrayStream.from_arrays([(x, y)])
        >>> stream.spec.classes, len(stream[0].train)
        (('cat', 'dog'), 16)

        Raises DataError with everything that is wrong.
        """
        pieces, problems = [], Problems()
        for number, (piece_name, arrays) in enumerate(zip(_names(names, len(tasks)), tasks, strict=True)):
            try:
                regression = noise_std is not None
                pieces.append(
                    _piece_from_arrays(piece_name, arrays, test_fraction, seed + number, regression, unlabelled)
                )
            except DataError as error:
                problems.add(str(error))
        _check_unlabelled(unlabelled, pieces, problems)
        problems.raise_as(DataError, "these data cannot be made into a stream")
        return assemble(
            name,
            pieces,
            scenario,
            validation_fraction,
            seed,
            recommended or recommend(pieces),
            checksums={piece.name: _checksum(piece) for piece in pieces},
            noise_std=noise_std,
            augment=augment,
        )

    @staticmethod
    def continued(
        spec: StreamSpec,
        arrays: Sequence[Any],
        *,
        name: str | None = None,
        test_fraction: float = 0.2,
        seed: int = 0,
        unlabelled: Label | None = None,
    ) -> ArrayStream:
        """One more task after those of ``spec``, whose data are gone. arrays: (x, y) or (x, y, x_test, y_test). unlabelled: as for
        ``from_arrays``.

        Labels known to ``spec`` keep their class (class- and domain-incremental), new ones are appended. Only the last task can be
        asked for. Raises DataError with everything that is wrong.
        """
        regression = spec.kind == "regression"
        piece = _piece_from_arrays(
            name or f"task {spec.tasks + 1}", arrays, test_fraction, seed, regression, unlabelled
        )
        problems = Problems()
        _check_unlabelled(unlabelled, [piece], problems)
        value_range = _check_pieces([piece], spec.scenario, problems)
        if regression:
            _check_regression([piece], spec.scenario, spec.noise_std or 1.0, problems)
        if len(piece.train.labels) and _shape(piece) != spec.input_shape:
            problems.add(f"inputs of shape {_shape(piece)}: the model was trained on {spec.input_shape}")
        if spec.value_range is not None and value_range is not None:
            (low, high), (new_low, new_high) = spec.value_range, value_range
            within = low >= 0 and high <= 1
            if within and (new_low < 0 or new_high > 1):
                problems.add(
                    f"values in [{new_low:g}, {new_high:g}]: the model was trained on [{low:g}, {high:g}]; scale them alike"
                )
            value_range = (min(low, new_low), max(high, new_high))
        width = _width(piece)
        if regression and width != spec.outputs:
            problems.add(f"targets of width {width}: the model answers with {spec.outputs}")
        unknown = [] if regression else [label for label in piece.labels if label not in spec.classes]
        alike = [label for label in unknown if str(label) in map(str, spec.classes)]
        if alike:
            problems.add(
                f"labels {alike}: are written like known ones but are of another type; known: {list(spec.classes)}"
            )
        if spec.scenario == "domain" and unknown:
            problems.add(
                f"labels {unknown}: a domain-incremental model answers with {list(spec.classes)} and takes on no new classes"
            )
        problems.raise_as(DataError, "these data cannot continue the stream")
        fresh = list(piece.labels) if spec.scenario == "task" else unknown
        classes = (*spec.classes, *fresh)
        known = {label: index for index, label in enumerate(spec.classes)} if spec.scenario != "task" else {}
        known |= {label: len(spec.classes) + place for place, label in enumerate(fresh)}
        outputs = tuple(range(spec.outputs)) if regression else tuple(known[label] for label in piece.labels)
        task = spec.tasks
        longer = replace(
            spec,
            classes=classes,
            task_classes=(*spec.task_classes, outputs),
            task_names=(*spec.task_names, piece.name),
            heads=(*spec.heads, outputs),
            value_range=value_range,
        )
        train, test = (_rows(data, piece, outputs, task) for data in (piece.train, piece.test))
        gone = TensorRows(torch.empty(0, *spec.input_shape), torch.empty(0, dtype=torch.int64))
        tests = (TestSet(piece.name, outputs, test, since=task, head=len(spec.heads)),)
        return ArrayStream(longer, (*[gone] * task, train), tests, (None,) * (task + 1), {piece.name: _checksum(piece)})

    @staticmethod
    def from_datasets(
        tasks: Sequence[tuple[Any, Any]],
        scenario: Scenario = "class",
        *,
        names: Sequence[str] | None = None,
        validation_fraction: float = 0.0,
        seed: int = 0,
        recommended: Recommended | None = None,
        name: str = "datasets",
        augment: Augment = "none",
        unlabelled: Label | None = None,
    ) -> ArrayStream:
        """A stream from map-style data sets. tasks: for each task (train, test), whose items are (x, label).

        Labels are read from ``targets`` or ``labels`` where a data set has one, else from its items once. Inputs are read when
        a batch needs them, so a data set may be larger than memory. unlabelled: as for ``from_arrays``. Raises DataError with everything that
        is wrong.
        """
        pieces = []
        for piece_name, (train, test) in zip(_names(names, len(tasks)), tasks, strict=True):
            parts = [
                Data(dataset, _dataset_labels(dataset, piece_name), unlabelled=unlabelled) for dataset in (train, test)
            ]
            pieces.append(Piece(piece_name, parts[0], parts[1], _known(*parts)))
        problems = Problems()
        _check_unlabelled(unlabelled, pieces, problems)
        problems.raise_as(DataError, "these data cannot be made into a stream")
        return assemble(
            name, pieces, scenario, validation_fraction, seed, recommended or recommend(pieces), augment=augment
        )

    @staticmethod
    def from_folder(path: str | Path, scenario: Scenario = "class", *, tasks: int = 1, **options: Any) -> ArrayStream:
        """A stream from files: one .npz a task (arrays x_train, y_train and, where they exist, x_test, y_test), in the order
        of their names; or images as ``train/<class>/*.png`` (and ``test/...``), their classes dealt out to ``tasks`` tasks.

        options: as for ``from_arrays``. Raises DataError with every file that is wrong.
        """
        names, arrays = folders.read(Path(path), tasks)
        return ArrayStream.from_arrays(arrays, scenario, names=names, **{"name": Path(path).name, **options})


def assemble(
    name: str,
    pieces: Sequence[Piece],
    scenario: Scenario,
    validation_fraction: float,
    seed: int,
    recommended: Recommended,
    *,
    shared_labels: bool = True,
    checksums: Mapping[str, str] | None = None,
    noise_std: float | None = None,
    augment: Augment = "none",
) -> ArrayStream:
    """Checks the pieces and gives every label its output.

    shared_labels: in the class-incremental scenario, whether a label that comes back in a later piece is the same
    class again. noise_std: of regression, whose pieces have targets. Raises DataError with every problem of every piece.
    """
    problems = Problems()
    if not pieces:
        raise DataError("a stream needs at least one task; got none")
    names = numbered([piece.name for piece in pieces])
    pieces = [replace(piece, name=name) for piece, name in zip(pieces, names, strict=True)]
    scenarios = get_args(Scenario)
    problems.check(scenario in scenarios, f"scenario = {scenario!r}: no such scenario; {nearest(scenario, scenarios)}")
    problems.check(
        0 <= validation_fraction < 1, f"validation_fraction = {validation_fraction}: must be at least 0 and less than 1"
    )
    value_range = _check_pieces(pieces, scenario, problems)
    if noise_std is not None:
        _check_regression(pieces, scenario, noise_std, problems)
    if augment != "none":
        _check_augment(augment, _shape(pieces[0]), problems)
    problems.raise_as(DataError, "these data cannot be made into a stream")
    classes, outputs = _outputs(pieces, scenario, shared_labels)
    if noise_std is not None:
        width = _width(pieces[0])
        classes = ("y",) if width == 1 else tuple(f"y{k + 1}" for k in range(width))
        outputs = [list(range(width))] * len(pieces)

    trains: list[Rows] = []
    validations: list[Rows | None] = []
    tests = []
    for number, (piece, mine) in enumerate(zip(pieces, outputs, strict=True)):
        train, validation = _split_validation(piece.train, validation_fraction, seed, number)
        trains.append(_rows(train, piece, mine, number))
        validations.append(_rows(validation, piece, mine, number) if validation is not None else None)
        tests.append(
            TestSet(piece.name, tuple(mine), _rows(piece.test, piece, mine, number), since=number, head=number)
        )
    task_classes = tuple(tuple(mine) for mine in outputs)
    spec = StreamSpec(
        name=name,
        scenario=scenario,
        input_shape=_shape(pieces[0]),
        classes=classes,
        task_classes=task_classes,
        task_names=tuple(piece.name for piece in pieces),
        heads=task_classes,
        value_range=value_range,
        recommended=recommended,
        kind="classification" if noise_std is None else "regression",
        noise_std=noise_std,
        augment=augment,
    )
    return ArrayStream(spec, tuple(trains), tuple(tests), tuple(validations), dict(checksums or {}))


def recommend(pieces: Sequence[Piece]) -> Recommended:
    """Settings that suit data of this shape and range, for streams that bring no recommendation of their own."""
    numbers = int(np.prod(_shape(pieces[0]))) if pieces else 784
    small = numbers <= 256
    width = 100 if small else 400
    values: dict[str, Any] = {
        "hidden": (width, width),
        "latent_dim": 32 if small else 100,
        "steps": 1000,
        "batch_size": 128,
        # With few inputs the reconstruction term is small beside the KL term, and samples blur (chosen on split digits).
        "kl_weight": 0.25 if small else 1.0,
    }
    unit = all(_in_unit_range(piece.train.x if piece.train.is_array else _some_items(piece.train)) for piece in pieces)
    likelihood = "bernoulli" if unit else "gaussian"
    shape = _shape(pieces[0]) if pieces else ()
    image = len(shape) == 3 and min(shape[1:]) >= 8
    backbone = {"name": "cnn", "channels": (32, 64, 64)} if image else {"name": "mlp"}
    generator = {"name": "vae", "likelihood": likelihood}
    return Recommended(solver={"name": "mlp"}, generator=generator, values=values, backbone=backbone)


def _some_items(data: Data) -> Tensor:
    """Some inputs of a map-style data set, spread over it."""
    places = np.unique(np.linspace(0, len(data.x) - 1, min(len(data.x), 64)).astype(int))
    return torch.stack([item_array(data.x[int(place)]) for place in places]) if len(places) else torch.empty(0)


def _in_unit_range(x: Any) -> bool:
    array = x.numpy() if isinstance(x, Tensor) else x
    return array.dtype == np.uint8 or (array.size > 0 and bool(array.min() >= 0) and bool(array.max() <= 1))


def _outputs(
    pieces: Sequence[Piece], scenario: Scenario, shared_labels: bool
) -> tuple[tuple[Label, ...], list[list[int]]]:
    """The label list of the whole stream and, for each piece, the output of each of its labels in order."""
    if scenario == "domain":
        same = all(piece.labels == pieces[0].labels for piece in pieces)
        longest = max(len(piece.labels) for piece in pieces)
        classes = pieces[0].labels if same else tuple(range(longest))
        return classes, [list(range(len(piece.labels))) for piece in pieces]
    found: dict[Any, int] = {}
    outputs = []
    for number, piece in enumerate(pieces):
        # In the task-incremental scenario each task has outputs of its own, whatever its labels are called.
        separate = scenario == "task" or not shared_labels
        keys = [(number, label) if separate else label for label in piece.labels]
        outputs.append([found.setdefault(key, len(found)) for key in keys])
    if scenario == "class" and not shared_labels:
        return tuple(f"{pieces[number].name}: {label}" for number, label in found), outputs
    return tuple(key[1] if isinstance(key, tuple) else key for key in found), outputs


def _rows(part: Data, piece: Piece, outputs: Sequence[int], task: int) -> Rows:
    labels = part.labels
    y = torch.zeros(len(labels), dtype=torch.int64)
    if part.targets is None:
        lookup: dict[Label | None, int] = {part.unlabelled: UNKNOWN}
        lookup |= zip(piece.labels, outputs, strict=True)
        distinct, inverse = np.unique(labels, return_inverse=True)
        y = torch.tensor([lookup[_plain(label)] for label in distinct], dtype=torch.int64)[torch.from_numpy(inverse)]
    if not part.is_array:
        return DatasetRows(part.x, y, task, None if part.index is None else part.index.tolist())
    x = part.x if isinstance(part.x, Tensor) else _tensor(part.x)
    index = None if part.index is None else torch.from_numpy(np.asarray(part.index, dtype=np.int64))
    targets = None
    if part.targets is not None:
        targets = torch.from_numpy(part.targets if part.index is None else part.targets[part.index])
    return TensorRows(x, y, task, index, piece.transform, piece.once, targets)


def _tensor(array: np.ndarray) -> Tensor:
    """A tensor over the same memory; rows only read it, so an array marked read-only stays shared."""
    if not array.dtype.isnative or min(array.strides, default=0) < 0:  # which torch cannot look at
        array = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def _check_pieces(pieces: Sequence[Piece], scenario: Scenario, problems: Problems) -> tuple[float, float] | None:
    """Adds every problem; returns the range of the training values where they are arrays."""
    shape = _shape(pieces[0])
    checked: dict[int, tuple[float, float] | None] = {}
    for piece in pieces:
        for kind, part in (("train", piece.train), ("test", piece.test)):
            where = f"task {piece.name!r}, {kind}"
            if len(part.labels) == 0:
                problems.add(f"{where}: no rows; every task needs at least one")
                continue
            if len(part.y) != len(part.x):
                what = "label" if part.targets is None else "target row"
                problems.add(
                    f"{where}: {len(part.x)} inputs but {len(part.y)} {what}s; there must be one {what} for each input"
                )
                continue
            if part.is_array and id(part.x) not in checked:
                checked[id(part.x)] = _check_values(part.x, where, problems)
        for kind, part in (("", piece.train), (" test", piece.test)):
            got = _shape(replace(piece, train=part)) if len(part.labels) and len(part.x) else shape
            if got != shape:
                problems.add(
                    f"task {piece.name!r}:{kind} inputs of shape {got}, the first task has {shape}; all need one shape"
                )
        taught = set(piece.labels if piece.train.has_unlabelled else piece.train.classes)
        for label in piece.labels:
            if len(piece.train.labels) and label not in taught:
                problems.add(
                    f"task {piece.name!r}: class {label!r} has no training row; every class needs at least one"
                )
        if piece.train.has_unlabelled and not piece.labels:
            problems.add(f"task {piece.name!r}: no row has a label; label some, or give labelled test rows")
        elif piece.test.has_unlabelled:
            problems.add(
                f"task {piece.name!r}: test rows without label ({piece.test.unlabelled!r}); only labelled rows can be tested on: remove them"
            )
        unknown = [label for label in piece.test.classes if label not in taught]
        if unknown and taught:
            problems.add(
                f"task {piece.name!r}: test rows of classes {unknown} that its training rows never show; remove them or add training rows"
            )
        if scenario == "task" and len(piece.labels) == 1 and piece.train.targets is None:
            problems.add(
                f"task {piece.name!r}: a single class ({piece.labels[0]!r}) in the task-incremental scenario, where the task is given and nothing "
                "is left to tell apart; use the class-incremental scenario or put at least two classes in a task"
            )
    if scenario == "domain" and len({len(piece.labels) for piece in pieces}) > 1:
        counts = {piece.name: len(piece.labels) for piece in pieces}
        problems.add(f"classes a task = {counts}: the domain-incremental scenario needs the same number in every task")
    ranges = [found for found in checked.values() if found is not None]
    if len(ranges) < len(checked) or not ranges or not all(piece.train.is_array for piece in pieces):
        return None
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def _check_unlabelled(unlabelled: Label | None, pieces: Sequence[Piece], problems: Problems) -> None:
    problems.check(
        unlabelled is None or not pieces or any(piece.train.has_unlabelled for piece in pieces),
        f"unlabelled = {unlabelled!r}: no training row has this label (a number is not the same as its digits in quotes); leave it out",
    )


def _check_regression(pieces: Sequence[Piece], scenario: Scenario, noise_std: float, problems: Problems) -> None:
    problems.check(
        scenario == "domain",
        f"scenario = {scenario!r}: regression has no classes to tell apart; use scenario = 'domain'",
    )
    problems.check(
        0 < noise_std < math.inf,
        f"noise_std = {noise_std}: must be more than 0, and finite; it is the deviation of the noise of the targets",
    )
    for piece in pieces:
        for kind, part in (("train", piece.train), ("test", piece.test)):
            where = f"task {piece.name!r}, {kind}"
            assert part.targets is not None
            bad = ~np.isfinite(part.targets).all(axis=1)
            if bad.any():
                problems.add(
                    f"{where}: {int(bad.sum())} targets are NaN or infinite, the first is that of row {int(bad.argmax())}; remove or repair them"
                )
            if part.targets.shape[1] != _width(pieces[0]):
                problems.add(
                    f"{where}: targets of width {part.targets.shape[1]}, the first task has {_width(pieces[0])}"
                )


def _check_augment(augment: Augment, shape: tuple[int, ...], problems: Problems) -> None:
    known = get_args(Augment)
    problems.check(augment in known, f"augment = {augment!r}: no such augmentation; {nearest(augment, known)}")
    problems.check(
        len(shape) == 3 and min(shape[1:]) > PADDING,
        f"augment = {augment!r}: is for images, of shape (channels, height, width) and more than {PADDING} pixels a side, and inputs here have "
        f"shape {shape}; leave it out",
    )


def _width(piece: Piece) -> int:
    """Targets of a row."""
    return 0 if piece.train.targets is None else int(piece.train.targets.shape[1])


def _check_values(x: Any, where: str, problems: Problems) -> tuple[float, float] | None:
    array = x.numpy() if isinstance(x, Tensor) else x
    if array.dtype == np.uint8:
        return (0.0, 1.0)
    if array.dtype.kind != "f":
        problems.add(
            f"{where}: dtype {array.dtype}; inputs must be uint8 (0 to 255) or floating point: try x.astype('float32')"
        )
        return None
    low, high = float(array.min()), float(array.max())  # not finite if any value is not
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = ~np.isfinite(array.reshape(len(array), -1)).all(axis=1)
        first = int(bad.argmax())
        problems.add(
            f"{where}: {int(bad.sum())} rows hold NaN or infinite values, the first is row {first}; remove or repair them"
        )
        return None
    return low, high


def _split_validation(part: Data, fraction: float, seed: int, number: int) -> tuple[Data, Data | None]:
    """Holds out a fraction of the training rows within each class."""
    if fraction == 0:
        return part, None
    index = np.arange(len(part.y)) if part.index is None else part.index
    kept, held = stratified(part.y[index], fraction, seed, "validation", number, unlabelled=part.unlabelled)
    return replace(part, index=index[kept]), replace(part, index=index[held])


def stratified(
    labels: np.ndarray, fraction: float, seed: int, *purpose: object, unlabelled: Label | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Positions kept and held out: ``fraction`` of every class, at least one row kept and one held out where it has two; of rows without label
    none is held out."""
    kept, held = [], []
    for label in _distinct(labels):
        where = np.flatnonzero(labels == label)
        if label == unlabelled:
            kept.append(where)
            continue
        shuffled = where[torch.randperm(len(where), generator=generator(seed, "stratified", *purpose, label)).numpy()]
        count = min(max(round(len(where) * fraction), 1), len(where) - 1)
        held.append(shuffled[:count])
        kept.append(shuffled[count:])
    return np.sort(np.concatenate(kept)), np.sort(np.concatenate(held))


def _piece_from_arrays(
    name: str,
    arrays: Sequence[Any],
    test_fraction: float,
    seed: int,
    regression: bool = False,
    unlabelled: Label | None = None,
) -> Piece:
    if len(arrays) not in (2, 4):
        raise DataError(f"{name}: {len(arrays)} arrays; give (x, y) or (x, y, x_test, y_test)")

    def data(x: Any, y: Any) -> Data:
        if not regression:
            return Data(_as_array(x, name), _as_labels(y, name), unlabelled=unlabelled)
        targets = _as_targets(y, name)
        return Data(_as_array(x, name), np.zeros(len(targets), dtype=np.int64), targets=targets)

    whole = data(*arrays[:2])
    if len(arrays) == 4:
        test = data(*arrays[2:])
        return Piece(name, whole, test, _known(whole, test))
    if not 0 < test_fraction < 1:
        raise DataError(
            f"test_fraction = {test_fraction}: must lie between 0 and 1, or give test arrays for every task"
        )
    if len(whole.x) != len(whole.y) or len(whole.y) == 0 or not whole.classes:
        return Piece(name, whole, whole, whole.classes)  # reported with the rest by assemble
    kept, held = stratified(whole.y, test_fraction, seed, "test", unlabelled=unlabelled)
    return Piece(name, replace(whole, index=kept), replace(whole, index=held), whole.classes)


def _known(train: Data, test: Data) -> tuple[Label, ...]:
    """Classes of a task: those of its labelled training rows, or, where others may be of any class, also those of its test rows."""
    if not train.has_unlabelled:
        return train.classes
    return tuple(label for label in _distinct(np.concatenate([train.labels, test.labels])) if label != train.unlabelled)


def _checksum(piece: Piece) -> str:
    """SHA-256 of the piece's inputs and labels, so that a folder of one data set is not taken for a run on another."""
    digest = hashlib.sha256()
    for data in (piece.train, piece.test):
        x = data.x.numpy() if isinstance(data.x, Tensor) else data.x
        digest.update(np.ascontiguousarray(x).data)
        digest.update("\x1f".join(map(str, data.labels.tolist())).encode())
        if data.targets is not None:
            digest.update(np.ascontiguousarray(data.targets).data)
    return digest.hexdigest()


def _as_array(x: Any, name: str) -> Any:
    """x as it can be looked at; which numbers are in it is checked with the rest. Raises DataError for anything but numbers."""
    try:
        made = x.detach().cpu() if isinstance(x, Tensor) else np.asarray(x)
        array = made.numpy() if isinstance(made, Tensor) else made
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{name}: inputs are no array of numbers ({error}); all rows need one shape and type"
        ) from error
    if array.dtype.kind not in "biufc":
        raise DataError(f"{name}: inputs of dtype {array.dtype}; expected numbers: try np.asarray(x, dtype='float32')")
    if array.ndim == 0 or array.size == 0 < len(array):
        raise DataError(f"{name}: inputs of shape {array.shape}; expected rows of at least one number, shape (N, ...)")
    return made


def _names(names: Sequence[str] | None, tasks: int) -> Sequence[str]:
    if names is not None and len(names) != tasks:
        raise DataError(f"names = {list(names)}: {len(names)} names for {tasks} tasks; give one for each")
    return numbered(names or [f"task {number + 1}" for number in range(tasks)])


def numbered(names: Sequence[str]) -> list[str]:
    """The names, with a number behind each that was there before, so that no two are the same.

    >>> numbered(["mnist", "usps", "mnist"])
    ['mnist', 'usps', 'mnist (2)']
    """
    found: list[str] = []
    for name in names:
        unique, number = name, 1
        while unique in found or (number > 1 and unique in names):
            number += 1
            unique = f"{name} ({number})"
        found.append(unique)
    return found


def _as_labels(y: Any, name: str) -> np.ndarray:
    try:
        labels = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{name}: labels are no array of integers or strings ({error}); expected one a row") from error
    if labels.dtype.kind == "S" or (labels.dtype.kind == "O" and all(isinstance(label, str) for label in labels.flat)):
        labels = labels.astype(str)
    if labels.ndim != 1:
        raise DataError(f"{name}: labels of shape {labels.shape}; expected one label a row, shape (N,)")
    if labels.size and labels.dtype.kind not in "iuU":
        raise DataError(
            f"{name}: labels of dtype {labels.dtype}; expected integers or strings (numbers to be predicted are regression: give noise_std; rows "
            "whose class is not known get a label of their own: say which with unlabelled)"
        )
    return labels


def _as_targets(y: Any, name: str) -> np.ndarray:
    """(N, outputs) float32."""
    try:
        targets = np.asarray(y.detach().cpu() if isinstance(y, Tensor) else y)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{name}: targets are no array of numbers ({error}); expected (N,) or (N, targets)") from error
    if targets.dtype.kind not in "biuf":
        raise DataError(
            f"{name}: targets of dtype {targets.dtype}; expected numbers, since noise_std makes it regression"
        )
    if targets.ndim not in (1, 2) or 0 in targets.shape[1:]:
        raise DataError(f"{name}: targets of shape {targets.shape}; expected (N,) or (N, targets)")
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is reported
        targets = targets.astype(np.float32)
    return targets[:, None] if targets.ndim == 1 else targets


def _dataset_labels(dataset: Any, name: str) -> np.ndarray:
    for attribute in ("targets", "labels"):
        values = getattr(dataset, attribute, None)
        if values is not None and len(values) == len(dataset):
            return _as_labels(values, name)
    found = [dataset[i][1] for i in range(len(dataset))]
    return _as_labels([label.item() if isinstance(label, Tensor) else label for label in found], name)


def _distinct(labels: np.ndarray) -> tuple[Label, ...]:
    """The labels in sorted order, as Python values."""
    return tuple(_plain(label) for label in np.unique(labels))


def _plain(label: Any) -> Label:
    value = label.item() if isinstance(label, np.generic | Tensor) else label
    return value if isinstance(value, str) else int(value)


def _shape(piece: Piece) -> tuple[int, ...]:
    if piece.train.is_array:
        probe = piece.train.x[:1]
        if len(probe) and piece.transform is not None:
            first = _float_row(probe)
            return tuple(piece.transform(first).shape[1:])
        return tuple(piece.train.x.shape[1:])
    return tuple(item_array(piece.train.x[0]).shape) if len(piece.train.labels) else ()


def _float_row(x: Any) -> Tensor:
    return torch.as_tensor(np.array(x), dtype=torch.float32)
