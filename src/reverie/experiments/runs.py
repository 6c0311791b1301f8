"""Making a run, continuing it, and using what it learnt."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reverie.checks import DataError, NotReadyError, OptionsError, Problems, StorageError
from reverie.device import Device
from reverie.engine import Cursor, Loop, Observer, Record, checkpoint_state, environment, restore
from reverie.experiments.config import RunConfig, differences, read_yaml, same_run
from reverie.learners import LEARNERS, with_recommended
from reverie.options import FROM_PYTHON, Part, from_options, to_options
from reverie.seeding import Position, Randomness
from reverie.storage import read_json, write_json
from reverie.streams import STREAMS, ArrayStream
from reverie.types import Generator, Label, Learner, Stream, StreamSpec

CHUNK = 2048


@dataclass(frozen=True)
class Run:
    """A finished run, or one on its way: its folder (if any), its result and the learner it left behind."""

    folder: Path | None
    result: Mapping[str, Any]
    learner: Any
    spec: StreamSpec
    device: Device
    config: Mapping[str, Any]
    rng: Randomness

    @property
    def accuracy(self) -> list[list[float | None]]:
        """Row i: accuracy on each test set after task i; no rows in regression, see ``mse``."""
        return list(self.result["accuracy"])

    @property
    def mse(self) -> list[list[float | None]]:
        """Row i: mean squared error on each test set after task i; no rows in classification."""
        return list(self.result.get("mse", ()))

    @property
    def summary(self) -> Mapping[str, float | None]:
        return self.result["summary"]

    def predict(self, x: np.ndarray | Tensor, task: int | None = None) -> np.ndarray:
        """The user's own labels (N,) for inputs (N, ...) like the training data: uint8, or floats in the same range. In regression the
        predicted targets (N, targets).

        task: the task number (from 0), which the task-incremental scenario needs. Raises DataError, NotReadyError.
        """
        if self.spec.kind == "regression":
            return self.scores(x, task).numpy()
        classes = np.asarray(self.spec.classes, dtype=object)
        return np.asarray(classes[self.scores(x, task).argmax(dim=1).numpy()].tolist())

    def scores(self, x: np.ndarray | Tensor, task: int | None = None) -> Tensor:
        """(N, classes) scores in the order of ``spec.classes``; -inf where a class does not come into question. In regression the targets."""
        rows = self._checked(x, task)
        parts = []
        for part in rows.split(CHUNK):
            part = part.to(self.device.torch_device)
            parts.append(self.learner.predict(part, task).scores.cpu())
        return torch.cat(parts)

    def sample(self, n: int, seed: int = 0, label: Any = None) -> np.ndarray:
        """n samples (n, ...) of the learner's generator; of one label where the generator is conditional."""
        model = getattr(self.learner, "model", None)
        model = model if isinstance(model, Generator) else None
        if model is None and getattr(getattr(self.learner, "inner", None), "model", None) is not None:
            raise NotReadyError(
                f"{self.result['learner']} generates latents, not inputs; run.learner.inner.model.sample draws them"
            )
        if model is None:
            raise NotReadyError(
                f"{self.result['learner']} keeps no generator, so there is nothing to sample; try generative-replay"
            )
        rng = Randomness(seed, self.device.torch_device)("sample")
        if model.conditional != (label is not None):
            rule = "needs a label to draw" if model.conditional else "cannot be asked for a label; it draws from all"
            raise DataError(f"label = {label!r}: this run's generator {rule}")
        classes = None
        if label is not None:
            if label not in self.spec.classes:
                raise DataError(f"label = {label!r}: not one of {list(self.spec.classes)}")
            classes = torch.full((n,), self.spec.classes.index(label), device=self.device.torch_device)
        return model.sample(n, rng, classes).x.cpu().numpy()

    def learn(
        self,
        x: np.ndarray | Tensor,
        y: Any,
        x_test: np.ndarray | Tensor | None = None,
        y_test: Any = None,
        *,
        name: str | None = None,
        unlabelled: Label | None = None,
        out: str | Path | None = None,
        observer: Observer | None = None,
    ) -> Run:
        """Learns one more task on top of what the run knows, and returns the run after it; this one is not to be used any more.

        x: (N, ...) like the earlier data; y: (N,) labels, old or new, or in regression targets; without test rows a fifth of the rows is held
        out. unlabelled: the label of rows whose class is not known. out: a new folder (the old one stays as it is). How much of the past
        survived shows in ``result["findings"]`` (agreement with the former solver on replay) and, where it is low, in ``result["warnings"]``.
        """
        arrays = (x, y) if x_test is None else (x, y, x_test, y_test)
        given = {"stream": {"name": self.spec.name, "given": "from Python"}, "learner": to_options(self.learner)}
        place = {"device": str(self.device), "precision": self.device.precision, "threads": torch.get_num_threads()}
        config = RunConfig(**{**self.config, **given, **place})
        stream = ArrayStream.continued(self.spec, arrays, name=name, seed=config.seed, unlabelled=unlabelled)
        _check_labels(self.learner, stream)
        self.learner.extend(stream.spec)
        loop = _loop(self.learner, stream, self.rng, self.device, config, observer)
        return _trained(loop, config, Path(out) if out is not None else None, False, Cursor(self.spec.tasks))

    def _checked(self, x: np.ndarray | Tensor, task: int | None) -> Tensor:
        spec, rows = self.spec, checked_inputs(x, self.spec)
        if spec.scenario == "task" and task is None:
            raise NotReadyError(
                f"a task-incremental solver must be told the task: pass task = 0 to {len(spec.heads) - 1} (--task on the command line)"
            )
        if task is not None and not 0 <= task < len(spec.heads):
            raise DataError(f"task = {task}: this run has tasks 0 to {len(spec.heads) - 1}")
        return rows


def checked_inputs(x: np.ndarray | Tensor, spec: StreamSpec) -> Tensor:
    """Inputs (N, ...) of a user as float32; bytes are divided by 255. Raises DataError where they are not like those of the stream."""
    try:
        rows = torch.as_tensor(np.array(x) if isinstance(x, np.ndarray) else x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"inputs are no array of numbers ({error})") from error
    if rows.dtype == torch.uint8:
        rows = rows.float() / 255
    if not rows.dtype.is_floating_point:
        raise DataError(f"inputs of dtype {rows.dtype}: expected uint8 (0 to 255) or floating point")
    rows = rows.float()
    if tuple(rows.shape[1:]) != spec.input_shape:
        raise DataError(f"inputs of shape {tuple(rows.shape)}: expected (N, {', '.join(map(str, spec.input_shape))})")
    if not bool(torch.isfinite(rows).all()):
        raise DataError("inputs hold NaN or infinite values; remove or repair them")
    return rows


def run(
    stream: Any,
    learner: Any,
    *,
    scenario: str | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    overwrite: bool = False,
    observer: Observer | None = None,
    **settings: Any,
) -> Run:
    """Trains a learner on a stream and returns the run.

    stream: a stream source such as ``Split("mnist")``, its name or options, or a made ``Stream``. learner: a learner, its name or options.
    out: the run folder; what it already holds of the same run is continued or, if complete, returned. settings: the other options of
    ``RunConfig`` (device, precision, threads, evaluate ...).

    Raises OptionsError, DataError before work starts; TrainingError, StorageError, Interrupted later.
    """
    made = stream if isinstance(stream, ArrayStream) else None
    if made is not None and scenario not in (None, made.spec.scenario):
        raise OptionsError(
            f"scenario = {scenario!r}: this stream was made for {made.spec.scenario!r}; make it for the other"
        )
    values: dict[str, Any] = {"seed": seed, **settings}
    values["learner"] = to_options(learner) if isinstance(learner, Part) else learner
    if made is None:
        values["stream"] = to_options(stream) if isinstance(stream, Part) else stream
        values["scenario"] = scenario
    part = learner if isinstance(learner, Part) else None
    if part is not None:
        values["learner"] = "naive"  # checked by its own constructor; its options are written once resolved
    config = RunConfig.from_dict({key: value for key, value in values.items() if value is not None})
    return run_config(config, out, overwrite=overwrite, observer=observer, made=made, part=part)


def run_config(
    config: RunConfig,
    out: str | Path | None = None,
    *,
    overwrite: bool = False,
    observer: Observer | None = None,
    made: ArrayStream | None = None,
    part: Part | None = None,
) -> Run:
    """As ``run``, from a config; ``made`` and ``part`` stand in for a stream and learner that no file can describe."""
    with _threads(config.threads):
        loop, config = _made(config, observer, made, part)
        return _trained(loop, config, Path(out) if out is not None else None, overwrite)


def check_config(config: RunConfig, out: str | Path, *, overwrite: bool = False) -> None:
    """Raises what ``run_config`` would before it trains: for options, data, or another run in the folder. Writes nothing."""
    with _threads(config.threads):
        loop, config = _made(config)
        _holds(Path(out), config, loop.stream, overwrite)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)


def _made(
    config: RunConfig,
    observer: Observer | None = None,
    made: ArrayStream | None = None,
    part: Part | None = None,
) -> tuple[Loop, RunConfig]:
    """Everything that a run needs, ready to train, and the config with all options resolved."""
    device = Device.named(config.device, config.precision)
    config = replace(config, threads=torch.get_num_threads(), device=str(device))
    stream, config = _stream(config, made)
    learner: Any = part.clone() if part is not None else from_options(LEARNERS, config.learner)
    if getattr(learner, "on_merged_stream", False):
        stream = stream.merged()
    kinds = getattr(learner, "kinds", ("classification",))
    if stream.spec.kind not in kinds:
        able = ", ".join(name for name, part in LEARNERS.items() if stream.spec.kind in getattr(part, "kinds", ()))
        raise OptionsError(
            f"learner = {to_options(learner)['name']!r}: learns {' and '.join(kinds)}, and {stream.spec.name} is a stream of "
            f"{stream.spec.kind}; try {able}"
        )
    _check_labels(learner, stream)
    learner = with_recommended(learner, stream.spec)
    config = replace(config, learner=to_options(learner))
    rng = Randomness(config.seed, device.torch_device)
    learner.build(stream.spec, rng, device)
    return _loop(learner, stream, rng, device, config, observer), config


def _loop(
    learner: Any, stream: ArrayStream, rng: Randomness, device: Device, config: RunConfig, observer: Observer | None
) -> Loop:
    from_files = not config.stream.get("given") and FROM_PYTHON not in str(config.learner)
    return Loop(
        learner,
        stream,
        rng,
        device,
        Record(None, {**_facts(config), "kind": stream.spec.kind}),
        config.settings(),
        observer,
        from_files,
    )


def _check_labels(learner: Any, stream: ArrayStream) -> None:
    """Raises DataError where rows have no label and the learner needs all of them."""
    if getattr(learner, "takes_unlabelled", False):
        return
    problems = Problems()
    for task in stream:
        missing = int((task.train.labels < 0).sum())
        problems.check(not missing, f"task {task.name!r}: {missing} of {len(task.train)} rows have no label")
    name = to_options(learner)["name"]
    problems.raise_as(
        DataError,
        f"learner = {name!r} needs a label for every row; label them, leave them out, or learn with lgaa and its option labels_per_class",
    )


def _trained(loop: Loop, config: RunConfig, folder: Path | None, overwrite: bool, start: Cursor | None = None) -> Run:
    """Runs the loop, in a folder if there is one; a finished run that the folder holds is only read."""
    spec, learner, device = loop.stream.spec, loop.learner, loop.device
    if folder is None:
        return Run(None, loop.run(start), learner, spec, device, vars(config), loop.rng)
    with _locked(folder):
        finished = _prepare(folder, config, loop.stream, device, overwrite)
        loop.record.folder = folder
        if finished is not None and not loop.resume():
            raise StorageError(f"{folder} holds a finished run whose checkpoint is gone; --overwrite trains it again")
        return Run(folder, finished or loop.run(start), learner, spec, device, vars(config), loop.rng)


def resume(folder: str | Path, observer: Observer | None = None, **changes: Any) -> Run:
    """Continues the run in ``folder``, or returns it if it is complete. changes: data_dir, checkpoint_seconds, checkpoint_steps."""
    folder = Path(folder)
    stream = read_yaml(folder / "config.yaml").get("stream")
    if isinstance(stream, Mapping) and "given" in stream:
        raise OptionsError(
            f"{folder}: its stream was made in Python, which no file can describe; call reverie.run with the same stream, learner and "
            "seed and out = this folder, which continues the run"
        )
    config = RunConfig.read(folder / "config.yaml")
    return run_config(replace(config, **changes), folder, observer=observer)


def load(
    folder: str | Path,
    device: str = "cpu",
    warn: Callable[[str], None] = warnings.warn,
    *,
    solver: Part | None = None,
) -> Run:
    """A saved run, ready to predict and sample; no training data are read.

    warn: is told when the newest state is damaged and the one before it is used. solver: stands in for the config's where no file
    can hold it, as a ``Module`` with the factory that the run was trained with. Raises StorageError when no state is whole.
    """
    folder = Path(folder)
    config = read_yaml(folder / "config.yaml")
    result = read_json(folder / "result.json", "the result")
    spec = spec_from_dict(read_json(folder / "stream.json", "the stream's description"))
    place = Device.named(device, config["precision"])
    given = {} if solver is None else {"solver": solver.clone()}
    learner: Any = from_options(LEARNERS, {**config["learner"], **given})
    rng = Randomness(config["seed"], place.torch_device)
    learner.build(spec, rng, place)
    state = checkpoint_state(folder, warn)
    restore(learner, state, {"learner": config["learner"], "seed": config["seed"]}, folder)
    rng.position = Position(spec.tasks)
    return Run(
        folder, result, learner, spec, place, {key: value for key, value in config.items() if key != "schema"}, rng
    )


# ------------------------------------------------------------------------------------------ parts


def stream_of(config: RunConfig) -> ArrayStream:
    """The stream that a config names. Raises OptionsError for one that was given from Python."""
    return _stream(config, None)[0]


def _stream(config: RunConfig, made: ArrayStream | None) -> tuple[ArrayStream, RunConfig]:
    if made is not None:
        return made, replace(
            config, stream={"name": made.spec.name, "given": "from Python"}, scenario=made.spec.scenario
        )
    if config.stream.get("given"):
        raise OptionsError(
            f"stream = {config.stream['name']!r}: was given from Python, so no file can make it again; "
            "call reverie.run with the same stream and folder to continue"
        )
    source = from_options(STREAMS, config.stream)
    scenario = config.scenario or source.scenarios[0]
    if scenario not in source.scenarios:
        raise OptionsError(f"scenario = {scenario!r}: {config.stream['name']} supports {', '.join(source.scenarios)}")
    return source.build(scenario, config.seed, config.data_dir), replace(config, scenario=scenario)


def _facts(config: RunConfig) -> dict[str, Any]:
    method = config.learner.get("method")  # what learns behind a frozen backbone
    generator = (method if isinstance(method, Mapping) else config.learner).get("generator")
    return {
        "learner": config.learner["name"],
        "generator": generator["name"] if isinstance(generator, Mapping) else None,
        "seed": config.seed,
        "options": config.to_dict(),
    }


def _prepare(folder: Path, config: RunConfig, stream: Stream, device: Device, overwrite: bool) -> dict[str, Any] | None:
    """Readies the folder; returns the result if it already holds this run, finished. Never touches another run unless told to."""
    if _holds(folder, config, stream, overwrite):
        _describe(folder, stream, device)
        return read_json(folder / "result.json", "the result") if _status(folder) == "complete" else None
    clear(folder)  # another run, or what one that died early, or lost its config, left behind
    _describe(folder, stream, device)
    config.write(folder / "config.yaml")  # last: a folder with a config has all the rest
    return None


def _holds(folder: Path, config: RunConfig, stream: Stream, overwrite: bool) -> bool:
    """Whether the folder holds this run already. Raises OptionsError where it holds something else that may not be replaced."""
    path = folder / "config.yaml"
    if not path.exists():
        if not overwrite and folder.is_dir() and any(entry.name != ".lock" for entry in folder.iterdir()):
            raise OptionsError(f"{folder} is not empty and holds no run; choose another folder")
        return False
    try:
        there = read_yaml(path)
    except StorageError as error:
        if overwrite:
            return False
        raise StorageError(f"{error}; choose another folder, or --overwrite to replace what is there") from error
    changes = [] if same_run(there, config.to_dict()) else differences(there, config.to_dict())[:6]
    if not changes:
        changes = _data_changes(folder, stream)
    if changes and not overwrite:
        changed = "; ".join(changes)
        raise OptionsError(
            f"{folder} holds another run ({changed}); choose another folder, or --overwrite to replace it"
        )
    return not changes


def _describe(folder: Path, stream: Stream, device: Device) -> None:
    """Writes what the run is about, where it is missing."""
    if not (folder / "stream.json").exists():
        write_json(folder / "stream.json", spec_to_dict(stream.spec))
    if not (folder / "environment.json").exists():
        write_json(folder / "environment.json", environment(stream.checksums, str(device)))


def _data_changes(folder: Path, stream: Stream) -> list[str]:
    """What tells this stream from the one that the folder's run was trained on, where their options agree."""
    try:
        before = read_json(folder / "stream.json", "the stream's description")
        data = read_json(folder / "environment.json", "the environment")["data"]
    except StorageError:
        return []  # the process died while these were first written; the run has not begun
    changes = differences(before, _plain(spec_to_dict(stream.spec)))[:3]
    return changes or [
        f"data {name!r}: other content" for name, digest in data.items() if stream.checksums.get(name) != digest
    ]


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """As it comes back from JSON."""
    result: dict[str, Any] = json.loads(json.dumps(value))
    return result


def _status(folder: Path) -> str | None:
    path = folder / "result.json"
    return read_json(path, "the result").get("status") if path.exists() else None


def clear(folder: Path) -> None:
    """Removes what a run wrote, and nothing else; the config last, so that the rest is never taken for another run's."""
    for name in ("checkpoint", "checkpoint.previous", "checkpoint.next", "arrays", "samples"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "judge.json").unlink(missing_ok=True)
    for name in ("result.json", "metrics.jsonl", "report.html", "stream.json", "environment.json", "config.yaml"):
        (folder / name).unlink(missing_ok=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process a run folder. Raises StorageError when it cannot be written or another process is at work in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR)
    except OSError as error:
        raise StorageError(
            f"cannot write to the run folder {folder}: {error.strerror or error}; choose another with --out"
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        raise StorageError(f"another process is working in {folder}; wait for it, or choose another folder") from None
    try:
        yield
    finally:
        os.close(file)


def spec_to_dict(spec: StreamSpec) -> dict[str, Any]:
    return {
        "schema": 1,
        "name": spec.name,
        "scenario": spec.scenario,
        "input_shape": list(spec.input_shape),
        "classes": list(spec.classes),
        "task_classes": [list(classes) for classes in spec.task_classes],
        "task_names": list(spec.task_names),
        "heads": [list(classes) for classes in spec.heads],
        "value_range": None if spec.value_range is None else list(spec.value_range),
        **({"kind": spec.kind, "noise_std": spec.noise_std} if spec.kind == "regression" else {}),
        **({"augment": spec.augment} if spec.augment != "none" else {}),
    }


def spec_from_dict(values: Mapping[str, Any]) -> StreamSpec:
    return StreamSpec(
        name=values["name"],
        scenario=values["scenario"],
        input_shape=tuple(values["input_shape"]),
        classes=tuple(values["classes"]),
        task_classes=_nested(values["task_classes"]),
        task_names=tuple(values["task_names"]),
        heads=_nested(values["heads"]),
        value_range=None if values["value_range"] is None else tuple(values["value_range"]),
        kind=values.get("kind", "classification"),
        noise_std=values.get("noise_std"),
        augment=values.get("augment", "none"),
    )


def _nested(lists: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(inner) for inner in lists)


__all__ = ["Learner", "Run", "load", "resume", "run", "run_config"]
