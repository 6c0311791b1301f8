"""Run folders written by hand: what a report sees, without training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reverie import metrics

Write = Callable[..., Path]


def matrix(final: list[float]) -> list[list[float | None]]:
    """Each task learnt to 1.0, and straight at its final accuracy afterwards."""
    tasks = len(final)
    return [[1.0 if j == i else final[j] if j < i else None for j in range(tasks)] for i in range(tasks - 1)] + [final]


@pytest.fixture
def write_run(tmp_path: Path) -> Write:
    """Writes a run folder; keywords replace keys of its ``result.json``."""

    def write(name: str, learner: str = "naive", seed: int = 0, **changes: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        accuracy = changes.pop("accuracy", matrix([0.2, 1.0]))
        learner_options = changes.pop("learner_options", {})
        tasks = len(accuracy[0]) if accuracy else 2
        result = {
            "schema": 1,
            "status": "complete",
            "stream": "split-toy",
            "scenario": "class",
            "learner": learner,
            "generator": None,
            "seed": seed,
            "tasks": [f"task {k + 1}" for k in range(tasks)],
            "classes": ["cat", "dog", "owl", "fox"],
            "accuracy": accuracy,
            "summary": metrics.summary(metrics.as_matrix(accuracy) if accuracy else np.empty((0, 2)), None, "class"),
            "memory": {
                "persistent": {"solver": 2048},
                "working": {"training": 4096},
                "persistent_bytes": 2048,
                "working_bytes": 4096,
                "stores": "none",
                "stores_raw_data": False,
            },
            "cost": {
                "seconds": 10.0 + seed,
                "train_seconds": 8.0 + seed,
                "steps": 200,
                "rows_per_second": 1000.0,
                "flops_estimate": 2e9,
                "peak_memory_bytes": 2**28,
            },
            "findings": [],
            "warnings": [],
            "options": {
                "schema": 1,
                "stream": {"name": "split", "tasks": tasks},
                "learner": {"name": learner, "steps": 100, **learner_options},
                "scenario": "class",
                "seed": seed,
                "data_dir": None,
            },
            **changes,
        }
        write_json(folder / "result.json", result)
        write_json(folder / "environment.json", {"schema": 1, "python": "3.11.7", "machine": {"cores": 2}, "git": None})
        lines = [
            {"kind": kind, "task": task, "phase": "train", "step": step, **content}
            for task in range(tasks)
            for step in (50, 100)
            for kind, content in (
                ("losses", {"losses": {"solver.cross-entropy": 1.0 / step}}),
                ("curve", {"accuracy": [0.5 if j <= task else None for j in range(tasks)]}),
            )
        ]
        text = "".join(json.dumps(line) + "\n" for line in [*lines, {"kind": "something newer", "task": 0}])
        (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
        return folder

    return write


@pytest.fixture
def write_replay_run(write_run: Write) -> Write:
    """A run of generative replay, with findings and samples."""

    def write(name: str, seed: int = 0, **changes: Any) -> Path:
        numbers = {"solver_agreement": 0.9, "label_agreement": 0.75, "histogram": [0.6, 0.4, 0.0, 0.0]}
        findings = [
            {"task": 0, "probe": "replay-quality", "numbers": {}},
            {"task": 1, "probe": "replay-quality", "numbers": numbers},
        ]
        accuracy = matrix([0.8 + 0.1 * seed, 1.0])
        given = {"learner": "generative-replay", "generator": "vae", "findings": findings, "accuracy": accuracy}
        folder = write_run(name, seed=seed, **{**given, **changes})
        (folder / "samples").mkdir()
        for task in (1, 2):  # two rows of three images of 4 x 4, a pixel apart
            image = Image.fromarray(np.zeros((9, 14), dtype=np.uint8))
            image.save(folder / "samples" / f"task-{task}-generated-samples.png")
        write_json(folder / "stream.json", {"schema": 1, "input_shape": [1, 4, 4]})
        return folder

    return write


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
