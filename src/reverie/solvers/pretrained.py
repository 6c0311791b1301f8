"""Weights trained elsewhere, with what they were trained on: one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from reverie.checks import OptionsError, StorageError
from reverie.storage import SCHEMA, check_schema
from reverie.streams.datasets import DATASETS
from reverie.types import StreamSpec

HEAD = "head."
# Other pictures of the same ten classes.
FAMILIES = dict.fromkeys(("digits", "digits-inverted", "mnist", "usps", "svhn"), "digits")


@dataclass(frozen=True)
class Pretrained:
    """path; weights by parameter name; about: ``solver`` (its options), ``stream``, ``classes``, ``data`` (checksums), ``accuracy``."""

    path: Path
    weights: Mapping[str, Tensor]
    about: Mapping[str, Any]

    def load_into(self, solver: Any, below: nn.Module | None = None) -> None:
        """Copies all weights but the output layer's, whose classes are others. Raises OptionsError where they do not fit.

        below: the part of the solver that will be frozen, where that is known: the file must have its weights, and may lack others,
        which then stay as they are.
        """
        module = solver.module
        mine = {name: value for name, value in module.state_dict().items() if not name.startswith(HEAD)}
        given = self._renamed(getattr(solver, "foreign", {}))
        needed = None if below is None else {id(tensor) for tensor in (*below.parameters(), *below.buffers())}
        tensors = dict(module.named_parameters()) | dict(module.named_buffers())
        wrong = [
            f"{name} is missing"
            for name in mine
            if name not in given and (needed is None or id(tensors[name]) in needed)
        ]
        wrong += [f"{name} belongs to no layer" for name in given if name not in mine]
        wrong += [
            f"{name} has shape {tuple(given[name].shape)}, the backbone needs {tuple(value.shape)}"
            for name, value in mine.items()
            if name in given and given[name].shape != value.shape
        ]
        if wrong:
            shown = "; ".join(wrong[:4]) + (f"; and {len(wrong) - 4} more" if len(wrong) > 4 else "")
            made = f" It was trained as {json.dumps(self.about['solver'])}." if "solver" in self.about else ""
            raise OptionsError(
                f"weights = {str(self.path)!r}: do not fit the backbone: {shown}.{made} Give the backbone the same options"
            )
        with torch.no_grad():
            for name in mine.keys() & given.keys():
                mine[name].copy_(given[name])

    def _renamed(self, foreign: Mapping[str, str]) -> dict[str, Tensor]:
        """By the names of our layers; of a file that another library wrote, the layers whose names ``foreign`` translates."""
        if self.about or not any(name.startswith(prefix) for prefix in foreign for name in self.weights):
            return {name: value for name, value in self.weights.items() if not name.startswith(HEAD)}
        return {
            ours + name.removeprefix(prefix): value
            for prefix, ours in foreign.items()
            for name, value in self.weights.items()
            if name.startswith(prefix)
        }

    def overlap(self, spec: StreamSpec, checksums: Mapping[str, str]) -> str | None:
        """A warning where the stream's classes are among those that the backbone was trained on, or may be: classes of the same name, which
        numbers are only in data sets of one family."""
        if not self.about:
            return (
                f"weights = {self.path.name!r}: the file does not say on which classes they were trained; if those of this stream are among "
                "them, accuracies are flattered"
            )
        before = self.about.get("data", {})
        alike = _families(before) & _families(checksums)
        words = {str(c) for c in self.about.get("classes", ()) if alike or (isinstance(c, str) and not c.isdigit())}
        shared = sorted(words & {str(c) for c in spec.classes})
        trained = self.about.get("stream", "unknown data")
        if set(before.values()) & set(checksums.values()):
            return (
                f"the backbone was pretrained on {trained}, the very data of this stream: it has seen classes before their task, so "
                "accuracies are not comparable with those of a backbone that has not"
            )
        if shared:
            names = ", ".join(shared[:5])
            return f"the backbone was pretrained on {trained}, which shares classes with this stream ({names}): accuracies are flattered"
        return None


def _families(data: Iterable[str]) -> set[str]:
    """Of those data sets that are in our table: what shows the same classes."""
    return {FAMILIES.get(name) or DATASETS[name].part_of or name for name in data if name in DATASETS}


def write_pretrained(path: Path, weights: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Raises StorageError; a file that was there stays until the new one is whole."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, partial, metadata={"reverie": json.dumps({"schema": SCHEMA, **about})})
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise StorageError(f"cannot write {path}: {error}") from error


def read_pretrained(path: Path) -> Pretrained:
    """Raises StorageError for a file that is missing or is no safetensors file; one of another program has an empty ``about``."""
    if not path.exists():
        raise StorageError(f"weights = {str(path)!r}: there is no such file; reverie pretrain makes one")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about = json.loads(metadata.get("reverie", "{}"))
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise StorageError(f"weights = {str(path)!r}: not a readable safetensors file ({error})") from error
    if about:
        check_schema(about.get("schema"), "the file of weights", path)
    return Pretrained(path, weights, about)
