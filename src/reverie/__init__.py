"""Reverie: continual learning by generative replay. Keep a model learning on new data, without keeping the old data."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Looked up on first use, so that ``reverie --help`` answers without loading torch.
_PUBLIC = {
    "run": "reverie.experiments.runs",
    "resume": "reverie.experiments.runs",
    "load": "reverie.experiments.runs",
    "Run": "reverie.experiments.runs",
    "Stream": "reverie.streams",
    "streams": "reverie.streams",
    "solvers": "reverie.solvers",
    "generators": "reverie.generators",
    "learners": "reverie.learners",
    "penalties": "reverie.penalties",
    "replay": "reverie.replay",
    "metrics": "reverie.metrics",
}

__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'reverie' has no attribute {name!r}")
    module = importlib.import_module(_PUBLIC[name])
    return module if _PUBLIC[name] == f"reverie.{name}" else getattr(module, name)
