"""A user's own folder as arrays: one .npz a task, or images in a folder a class."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from reverie.checks import DataError, Problems

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


def read(path: Path, tasks: int) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Task names and their arrays (x, y) or (x, y, x_test, y_test). Raises DataError with every file that is wrong."""
    if not path.is_dir():
        raise DataError(f"folder not found: {path}")
    files = sorted(path.glob("*.npz"))
    if files:
        problems = Problems()
        problems.check(
            tasks == 1,
            f"tasks = {tasks}: has no effect, for each of the {len(files)} .npz files is a task; leave it out",
        )
        arrays = [_npz(file, problems) for file in files]
        problems.raise_as(DataError, f"{path} cannot be read")
        return [file.stem for file in files], arrays
    if (path / "train").is_dir():
        return _images(path, tasks)
    raise DataError(f"{path} holds neither .npz files (one a task) nor images as train/<class>/*.png")


def _npz(file: Path, problems: Problems) -> tuple[Any, ...]:
    try:
        # Opened here, since numpy leaves a damaged file open; a TypeError is a single array under the name of many.
        with open(file, "rb") as opened, np.load(opened, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
    except (OSError, ValueError, TypeError, zipfile.BadZipFile, EOFError) as error:
        problems.add(f"{file.name}: not a readable .npz of plain arrays ({error})")
        return ()
    names = ["x_train", "y_train"] + (["x_test", "y_test"] if "x_test" in arrays else [])
    missing = [name for name in names if name not in arrays]
    if missing:
        problems.add(f"{file.name}: has arrays {sorted(arrays)}, lacks {missing}")
        return ()
    return tuple(arrays[name] for name in names)


def _images(path: Path, tasks: int) -> tuple[list[str], list[tuple[Any, ...]]]:
    classes = sorted(folder.name for folder in (path / "train").iterdir() if folder.is_dir())
    if not 1 <= tasks <= len(classes):
        raise DataError(
            f"tasks = {tasks}: {path / 'train'} holds {len(classes)} class folders, so 1 to {len(classes)} tasks"
        )
    problems = Problems()
    if (path / "test").is_dir():
        unknown = sorted(
            folder.name for folder in (path / "test").iterdir() if folder.is_dir() and folder.name not in classes
        )
        problems.check(not unknown, f"{path / 'test'}: classes {unknown} that {path / 'train'} never shows")
    names, arrays = [], []
    for group in np.array_split(np.asarray(classes), tasks):
        parts = [
            _read_split(path / kind, group.tolist(), problems) for kind in ("train", "test") if (path / kind).is_dir()
        ]
        names.append(", ".join(group.tolist()))
        arrays.append(tuple(array for part in parts for array in part))
    problems.raise_as(DataError, f"{path} cannot be read")
    return names, arrays


def _read_split(folder: Path, classes: list[str], problems: Problems) -> tuple[Any, Any]:
    images, labels = [], []
    for name in classes:
        files = sorted(file for file in (folder / name).glob("*") if file.suffix.lower() in IMAGES)
        if not files:
            problems.add(f"{folder / name}: no images ({', '.join(IMAGES)})")
        for file in files:
            try:
                with Image.open(file) as image:
                    if image.mode.startswith(("I", "F")):
                        problems.add(f"{file}: pixels of more than 8 bits; save it with 8, or hand in floats as .npz")
                        continue
                    pixels = np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
            except (OSError, UnidentifiedImageError) as error:
                problems.add(f"{file}: not a readable image ({error})")
                continue
            images.append(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))
            labels.append(name)
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        problems.add(
            f"{folder}: images of several sizes {sorted(shapes)[:4]}; bring them to one size and one colour mode"
        )
        return np.empty((0,)), np.asarray([])
    return (np.stack(images) if images else np.empty((0,), np.uint8)), np.asarray(labels)
