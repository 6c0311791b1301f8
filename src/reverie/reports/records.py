"""Saved runs as values: what the reports know, read from run folders alone, whatever state the runs ended in."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pydantic
from PIL import Image
from pydantic import Field
from safetensors import SafetensorError
from safetensors.numpy import load_file

from reverie.checks import StorageError
from reverie.storage import read_json

GRID_DEPTH = 4  # folders of folders of runs that are looked into
SAMPLE_NAME = re.compile(r"task-(\d+)-(.+)\.png")

Row = list[float | None]


class Saved(pydantic.BaseModel):
    """Base of what is read from JSON: checked by type; keys that are not known are left alone."""

    model_config = pydantic.ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


SavedType = TypeVar("SavedType", bound=Saved)


class Memory(Saved):
    """Bytes by part; empty before the first evaluation."""

    persistent: dict[str, int] = Field(default_factory=dict)
    working: dict[str, int] = Field(default_factory=dict)
    persistent_bytes: int | None = None
    working_bytes: int | None = None
    stores: str | None = None


class Cost(Saved):
    """What the run took, resumes added up."""

    seconds: float
    train_seconds: float
    steps: int
    rows_per_second: float | None = None
    flops_estimate: float | None = None
    peak_memory_bytes: int | None = None


class FindingLine(Saved):
    """What a probe measured after a task (from 0)."""

    task: int
    probe: str
    numbers: dict[str, Any] = Field(default_factory=dict)

    def number(self, name: str) -> float | None:
        value = self.numbers.get(name)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

    def numbers_of(self, name: str) -> list[float]:
        value = self.numbers.get(name)
        return [float(entry) for entry in value if isinstance(entry, int | float)] if isinstance(value, list) else []


class Result(Saved):
    """``result.json``."""

    kind: Literal["classification", "regression"] = "classification"
    status: Literal["complete", "interrupted", "failed"]
    error: str | None = None
    stream: str
    scenario: str
    learner: str
    generator: str | None = None
    seed: int
    tasks: list[str]
    classes: list[Any] = Field(default_factory=list)
    accuracy: list[Row]
    mse: list[Row] = Field(default_factory=list)
    summary: dict[
        str, float | dict[str, float | None] | None
    ]  # by name; what is inferred of the task also by criterion
    memory: Memory
    cost: Cost
    findings: list[FindingLine] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)
    options: dict[str, Any]

    @property
    def matrix(self) -> list[Row]:
        """What was found on each test set after each task: accuracies, or, of regression, mean squared errors."""
        return self.mse if self.kind == "regression" else self.accuracy

    def by_criterion(self, name: str) -> Mapping[str, float | None]:
        """Of the summary; empty where the name does not stand for several."""
        value = self.summary.get(name)
        return value if isinstance(value, dict) else {}

    def number(self, name: str) -> float | None:
        """Of the summary; None where undefined, or where the name stands for several."""
        value = self.summary.get(name)
        return None if isinstance(value, dict) else value

    @pydantic.model_validator(mode="after")
    def _rectangular(self) -> Result:
        if any(len(row) != len(self.tasks) for row in self.matrix):
            raise ValueError(f"a row of the matrix of results has not {len(self.tasks)} columns, one a task")
        return self


class LossLine(Saved):
    """Mean losses of the steps up to ``step`` of a phase."""

    task: int
    phase: str
    step: int
    losses: dict[str, float]


class CurveLine(Saved):
    """Accuracies or mean squared errors between two tasks' ends, at ``step`` of a phase."""

    task: int
    phase: str
    step: int
    row: Row = Field(validation_alias=pydantic.AliasChoices("mse", "accuracy"))


LINES: Mapping[str, type[Saved]] = {"losses": LossLine, "curve": CurveLine}  # the others repeat what result.json says


@dataclass(frozen=True)
class Sample:
    """One saved grid of images. task: from 0; images: how many it shows, None where the run does not say."""

    task: int
    name: str
    path: Path
    images: int | None

    def data_uri(self) -> str:
        """The image as a ``data:`` address. Raises StorageError when the file is not a PNG."""
        _, data = _png(self.path)
        return f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"


@dataclass(frozen=True)
class RunRecord:
    """One run as its folder tells it."""

    folder: Path
    result: Result
    lines: tuple[LossLine | CurveLine, ...]  # in the order they were written
    environment: Mapping[str, Any]
    samples: tuple[Sample, ...]

    @property
    def complete(self) -> bool:
        return self.result.status == "complete"

    @property
    def merged(self) -> bool:
        """Whether all tasks were learnt as one (joint training): a single row of results, for all of them."""
        return self.complete and len(self.result.matrix) == 1 < len(self.result.tasks)

    def arrays(self, task: int, probe: str) -> dict[str, np.ndarray]:
        """What a probe saved after a task (from 0); empty where it saved nothing. Raises StorageError."""
        path = self.array_path(task, probe)
        if not path.exists():
            return {}
        try:
            arrays: dict[str, np.ndarray] = load_file(path)
        except (OSError, SafetensorError, ValueError) as error:
            raise StorageError(f"the saved arrays are not readable: {path} ({error})") from error
        return arrays

    def array_path(self, task: int, probe: str) -> Path:
        return self.folder / "arrays" / f"task-{task + 1}-{probe}.safetensors"


def find_runs(paths: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Run folders at or inside the given ones, each once, and those in grids that started but hold no result yet.

    Raises StorageError when a path is missing or holds no run.
    """
    runs: dict[Path, Path] = {}
    waiting: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            raise StorageError(f"run folder not found: {path}")
        inside = list(_inside(path, GRID_DEPTH))
        finished = [folder for folder in inside if (folder / "result.json").exists()]
        if not finished:
            reason = "its run has no result yet" if inside else "it holds no run (no result.json in it or its folders)"
            raise StorageError(f"nothing to report from {path}: {reason}")
        for folder in inside:
            (runs if folder in finished else waiting).setdefault(folder.resolve(), folder)
    return list(runs.values()), list(waiting.values())


def read_runs(paths: Iterable[Path]) -> list[RunRecord]:
    """Every run at or inside the given folders. Raises StorageError."""
    return [read_run(folder) for folder in find_runs(paths)[0]]


def read_run(folder: Path) -> RunRecord:
    """One run folder. Raises StorageError when a file is missing, damaged or of a newer schema."""
    path = folder / "result.json"
    result = _checked(Result, read_json(path, "the result"), f"the result is not as expected: {path}")
    environment = read_json(folder / "environment.json", "the description of the environment")
    lines = tuple(_lines(folder / "metrics.jsonl", required=result.status == "complete"))
    return RunRecord(folder, result, lines, environment, tuple(_samples(folder)))


def _inside(path: Path, depth: int) -> Iterable[Path]:
    if any((path / name).exists() for name in ("result.json", "config.yaml")):
        yield path
    elif depth:
        for entry in sorted(path.iterdir()):
            if entry.is_dir() and not entry.is_symlink():
                yield from _inside(entry, depth - 1)


def _checked(kind: type[SavedType], value: Any, headline: str) -> SavedType:
    try:
        return kind.model_validate(value)
    except pydantic.ValidationError as error:
        mistakes = [f"{'.'.join(map(str, mistake['loc'])) or 'all'}: {mistake['msg']}" for mistake in error.errors()]
        more = f" and {len(mistakes) - 3} more" if len(mistakes) > 3 else ""
        raise StorageError(f"{headline} ({'; '.join(mistakes[:3])}{more})") from error


def _lines(path: Path, required: bool) -> Iterable[LossLine | CurveLine]:
    if not path.exists() and not required:
        return  # a run that failed before its first line
    try:
        texts = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise StorageError(f"the losses are missing: {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"the losses are not readable: {path} ({error})") from error
    for number, text in enumerate(texts, start=1):
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            if number == len(texts):
                return  # the process died while it wrote the last line
            raise StorageError(f"line {number} is not readable: {path} ({error})") from error
        if not isinstance(value, dict):
            raise StorageError(f"line {number} is not a JSON object: {path}")
        if kind := LINES.get(str(value.get("kind"))):
            yield _checked(kind, value, f"line {number} is not as expected: {path}")  # type: ignore[misc]


def _samples(folder: Path) -> Iterable[Sample]:
    shape = _input_shape(folder / "stream.json")
    found = [
        (match, path) for path in (folder / "samples").glob("*.png") if (match := SAMPLE_NAME.fullmatch(path.name))
    ]
    for match, path in sorted(found, key=lambda pair: (int(pair[0][1]), pair[0][2])):
        (width, height), _ = _png(path)
        count = None
        if shape is not None:  # images stand a pixel apart
            count = ((width + 1) // (shape[1] + 1)) * ((height + 1) // (shape[0] + 1))
        yield Sample(int(match[1]) - 1, match[2].replace("-", " "), path, count)


def _input_shape(path: Path) -> Sequence[int] | None:
    """(height, width) of one image, where the stream says so."""
    if not path.exists():
        return None
    shape = read_json(path, "the stream's description").get("input_shape")
    return shape[1:] if isinstance(shape, list) and len(shape) == 3 else None


def _png(path: Path) -> tuple[tuple[int, int], bytes]:
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            size = image.size
            image.verify()
    except (OSError, SyntaxError, ValueError) as error:
        raise StorageError(f"the saved samples are not readable: {path} ({error})") from error
    return size, data
