"""Trees of tensors and plain values on disk: safetensors and JSON, checksummed, replaced atomically, never pickle.

A *tree* is a dict, list or tuple of trees, ending in tensors, numbers, strings, booleans or None. ``write_tree`` puts one
into a folder; the folder is complete or absent, whatever moment the process dies at. The tree before it is
kept beside it (``NAME.previous``) and ``read_tree`` falls back on it, and says so, when the newest is damaged.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from reverie.checks import StorageError

SCHEMA = 1
FILES = ("tensors.safetensors", "tree.json")

Tree = Any


def write_text(path: Path, text: str) -> None:
    """Writes a text file so that a reader sees the old content or the new one, never a part."""
    temporary = path.with_name(path.name + ".partial")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}; what was there before is unchanged"
        ) from error


def write_json(path: Path, value: object) -> None:
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Reads a JSON object that carries a ``schema`` number; refuses one newer than this version knows."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StorageError(f"{what} not found: {path}") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise StorageError(f"{what} is not readable: {path} ({error})") from error
    if not isinstance(value, dict):
        raise StorageError(f"{what} is not a JSON object: {path}")
    check_schema(value.get("schema"), what, path)
    return value


def check_schema(schema: object, what: str, path: Path) -> None:
    if not isinstance(schema, int) or isinstance(schema, bool):
        raise StorageError(f"{what} has no schema number: {path}")
    if schema > SCHEMA:
        raise StorageError(
            f"{what} has schema {schema}, this version of Reverie reads up to {SCHEMA}: {path}; update Reverie"
        )


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(tensors: Mapping[str, torch.Tensor]) -> str:
    """A hash of names, types, shapes and bits: equal if and only if nothing was changed."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def write_tree(folder: Path, tree: Tree) -> None:
    """Replaces the tree in ``folder``; the one before it stays in ``NAME.previous``.

    Raises StorageError when the disk is full or not writable; the earlier tree is then untouched.
    """
    fresh, previous = _sibling(folder, "next"), _sibling(folder, "previous")
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        tensors: dict[str, torch.Tensor] = {}
        plain = _flatten(tree, "", tensors)
        _write_tensors(fresh / "tensors.safetensors", tensors)
        (fresh / "tree.json").write_text(json.dumps({"schema": SCHEMA, "tree": plain}), encoding="utf-8")
        files = sorted(fresh.iterdir())
        manifest = {"schema": SCHEMA, "sha256": {file.name: sha256(file) for file in files}}
        (fresh / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        for file in fresh.iterdir():
            _fsync(file)
        _fsync(fresh)
        if folder.exists():
            shutil.rmtree(previous, ignore_errors=True)
            os.replace(folder, previous)
        os.replace(fresh, folder)
        _fsync(folder.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise StorageError(f"cannot write {folder}: {error}; the state saved before it is unchanged") from error


def read_tree(folder: Path, warn: Callable[[str], None] = lambda message: None) -> Tree:
    """The newest undamaged tree; ``warn`` is told when that is not the newest one."""
    try:
        return _read_checked(folder)
    except StorageError as newest:
        # Whole but not in place yet, or the one before: a process may have died between two renames.
        for suffix in ("next", "previous"):
            try:
                tree = _read_checked(_sibling(folder, suffix))
            except StorageError:
                continue
            warn(f"{newest}; the state saved before it is used instead")
            return tree
        raise


def has_tree(folder: Path) -> bool:
    return any(place.exists() for place in (folder, _sibling(folder, "previous"), _sibling(folder, "next")))


def _read_checked(folder: Path) -> Tree:
    listing = folder / "manifest.json"
    digests = read_json(listing, "the list of checksums").get("sha256")
    if not isinstance(digests, dict) or set(digests) != set(FILES):
        raise StorageError(f"the list of checksums must name {' and '.join(FILES)}: {listing}")
    for name, digest in digests.items():
        file = folder / name
        if not file.exists():
            raise StorageError(f"{file} is missing")
        if sha256(file) != digest:
            raise StorageError(f"{file} is damaged: its checksum is not the one that was written")
    document = read_json(folder / "tree.json", "the saved state")
    try:
        return _unflatten(document["tree"], load_file(folder / "tensors.safetensors"))
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise StorageError(
            f"{folder} does not hold a saved tree: tensors.safetensors and tree.json ({error})"
        ) from error


def _sibling(folder: Path, suffix: str) -> Path:
    return folder.with_name(f"{folder.name}.{suffix}")


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    # safetensors refuses tensors that share memory; clones are cheap beside the disk.
    save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, path)


def _flatten(tree: Tree, path: str, tensors: dict[str, torch.Tensor]) -> Any:
    """The tree as JSON: tensors move to ``tensors`` and leave {"tensor": name}; other nodes say their kind."""
    if isinstance(tree, torch.Tensor):
        while path in tensors:  # a key with a dot in it can spell the path of a nested one
            path += "'"
        tensors[path] = tree
        return {"tensor": path}
    if isinstance(tree, dict):
        if not all(isinstance(key, str) for key in tree):
            raise TypeError(f"keys of a saved tree are strings, at {path or 'the root'}: {list(tree)[:3]}")
        return {
            "dict": {key: _flatten(value, f"{path}.{key}" if path else key, tensors) for key, value in tree.items()}
        }
    if isinstance(tree, list | tuple):
        kind = "list" if isinstance(tree, list) else "tuple"
        return {kind: [_flatten(value, f"{path}.{i}" if path else str(i), tensors) for i, value in enumerate(tree)]}
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    raise TypeError(f"cannot save a {type(tree).__name__} at {path or 'the root'}")


def _unflatten(plain: Any, tensors: dict[str, torch.Tensor]) -> Tree:
    if not isinstance(plain, dict):
        return plain
    ((kind, content),) = plain.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _unflatten(value, tensors) for key, value in content.items()}
    values = [_unflatten(value, tensors) for value in content]
    return values if kind == "list" else tuple(values)
