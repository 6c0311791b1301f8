"""``reverie predict RUN FILE``."""

from __future__ import annotations

import json as json_format
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image, UnidentifiedImageError

from reverie.checks import DataError
from reverie.cli.arguments import make_app
from reverie.experiments.runs import load
from reverie.streams.folders import IMAGES


def prepare(words: Sequence[str]) -> list[str]:
    return list(words)


def predict(
    run: Annotated[Path, typer.Argument(help="the run folder")],
    file: Annotated[Path, typer.Argument(help=".npy or .npz (array x) of inputs, an image, or a folder of images")],
    task: Annotated[int | None, typer.Option(help="task number from 0, for task-incremental runs")] = None,
    json: Annotated[bool, typer.Option("--json", help="print labels as a JSON list")] = False,
) -> None:
    """Print one label a line, in the words of the training data; of regression the targets of a row."""
    trained = load(run, warn=lambda message: print(f"warning: {message}", file=sys.stderr))
    answers = trained.predict(read_inputs(file, trained.spec.input_shape), task)
    if json:
        print(json_format.dumps(answers.tolist()))
    else:
        print("\n".join(" ".join(map(str, row)) for row in answers.reshape(len(answers), -1)))


def read_inputs(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Inputs (N, *shape). A single row without the leading N is taken as one. Raises DataError."""
    if not file.exists():
        raise DataError(f"file not found: {file}")
    if file.is_dir():
        files = sorted(found for found in file.iterdir() if found.suffix.lower() in IMAGES)
        if not files:
            raise DataError(f"{file}: no images ({', '.join(IMAGES)})")
        return np.stack([_image(found, shape) for found in files])
    if file.suffix.lower() in IMAGES:
        return _image(file, shape)[None]
    try:
        content = np.load(file, allow_pickle=False)
        array = (
            content if isinstance(content, np.ndarray) else content["x" if "x" in content.files else content.files[0]]
        )
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, IndexError) as error:
        raise DataError(f"{file}: not a readable .npy or .npz of plain numbers ({error})") from error
    if array.shape == shape:
        array = array[None]
    if array.ndim == len(shape) and len(shape) == 3 and shape[0] == 1 and array.shape[1:] == shape[1:]:
        array = array[:, None]  # grey images without a channel axis
    return array


def _image(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    if len(shape) != 3:
        raise DataError(f"{file}: this run learnt from rows of shape {shape}, not from images")
    try:
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("L" if shape[0] == 1 else "RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise DataError(f"{file}: not a readable image ({error})") from error
    array = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    if array.shape != shape:
        raise DataError(f"{file}: image of shape {array.shape}, this run learnt from {shape}; resize it first")
    return array


app = make_app(predict)
