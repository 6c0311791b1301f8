"""What a run leaves on disk: losses, evaluations, findings, and ``result.json``. The record reads the learner and never writes to it."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from reverie import metrics
from reverie.checks import StorageError, TrainingError
from reverie.engine.evaluation import Evaluation
from reverie.storage import SCHEMA, write_json
from reverie.types import Finding, Learner, Losses, StreamSpec, TestSet

LOSS_WINDOW = 50  # steps whose mean loss is one line of metrics.jsonl, and after which losses are read from the device

ALSO = {
    "domain_accuracy": "task_found_by_code",
    "reconstruction_mse": "reconstruction_mse",
}  # matrices with a name of their own


class Record:
    """The record of one run; ``folder`` None keeps it in memory alone."""

    def __init__(self, folder: Path | None, facts: Mapping[str, Any]) -> None:
        self.folder = folder
        self.facts = dict(facts)
        self.measure = "mse" if facts.get("kind") == "regression" else "accuracy"
        self.lines: list[dict[str, Any]] = []
        self.pending: list[Losses] = []
        self.rows: list[Evaluation] = []
        self.initial: Evaluation | None = None
        self.findings: list[dict[str, Any]] = []
        self.warnings: list[str] = []
        self.steps = 0
        self.flops = 0.0
        self.rows_seen = 0
        self.seconds_before = 0.0
        self.train_seconds = 0.0
        self.peak_memory = 0
        self.memory: dict[str, Any] = {}
        self.started = time.perf_counter()
        self._written = 0  # bytes of metrics.jsonl that belong to this record

    # ------------------------------------------------------------------ while training

    def add_step(self, losses: Losses, rows: int, flops: float) -> None:
        if losses:  # a streaming statistic has none
            self.pending.append(losses)
        self.steps += 1
        self.rows_seen += rows
        self.flops += flops

    def read_losses(self, task: int, task_name: str, phase: str, step: int) -> dict[str, float]:
        """Means over the steps since the last reading, written down. Raises TrainingError at the first non-finite one."""
        if not self.pending:
            return {}
        names = list(self.pending[0])
        values = torch.stack([torch.stack([losses[name].float() for name in names]) for losses in self.pending]).cpu()
        finite = torch.isfinite(values)
        if not bool(finite.all()):
            first = int((~finite).any(dim=1).nonzero()[0])
            bad = [names[k] for k in (~finite[first]).nonzero().flatten().tolist()]
            at = step - len(self.pending) + first
            self.pending = []
            raise TrainingError(
                f"the loss {' and '.join(bad)} stopped being finite at step {at} of phase {phase!r}, task {task} ({task_name}); "
                "try a smaller learning rate, and look at the inputs' range"
            )
        means = dict(zip(names, values.mean(dim=0).tolist(), strict=True))
        self.pending = []
        self._line({"kind": "losses", "task": task, "phase": phase, "step": step, "losses": means})
        return means

    def add_initial(self, found: Evaluation) -> None:
        self.initial = found
        self._line({"kind": "evaluation", "task": None, "step": 0, **self._fields(found)})

    def add_curve_point(self, task: int, phase: str, step: int, found: Evaluation) -> None:
        self._line({"kind": "curve", "task": task, "phase": phase, "step": step, **self._fields(found)})

    def add_row(self, task: int, found: Evaluation, learner: Learner) -> None:
        self.rows.append(found)
        memory = learner.memory()
        self.memory = {
            "persistent": dict(memory.persistent),
            "working": dict(memory.working),
            "persistent_bytes": memory.persistent_bytes,
            "working_bytes": memory.working_bytes,
            "stores": memory.stores,
            "stores_raw_data": memory.stores == "raw",
        }
        self._line(
            {
                "kind": "evaluation",
                "task": task,
                "step": self.steps,
                **self._fields(found),
                "memory": self.memory,
            }
        )

    def drop_row(self, task: int) -> None:
        """Forgets what was found after a task, which is about to be looked at again; the lines on disk stay."""
        self.rows = self.rows[: len(self.rows) - 1]
        self.findings = [found for found in self.findings if found["task"] != task]

    def add_finding(self, task: int, probe: str, finding: Finding) -> None:
        entry = {"task": task, "probe": probe, "numbers": dict(finding.numbers)}
        if finding.facts:
            entry["facts"] = dict(finding.facts)
        self.findings.append(entry)
        self._line({"kind": "finding", **entry})
        for message in finding.warnings:
            self.warn(message, task)
        if self.folder is None:
            return
        stem = f"task-{task + 1}-{probe}"
        try:
            if finding.arrays:
                (self.folder / "arrays").mkdir(exist_ok=True)
                arrays = {name: array.detach().cpu().contiguous() for name, array in finding.arrays.items()}
                save_file(arrays, self.folder / "arrays" / f"{stem}.safetensors")
            for name, images in finding.images.items():
                (self.folder / "samples").mkdir(exist_ok=True)
                save_grid(images, self.folder / "samples" / f"task-{task + 1}-{name.replace(' ', '-')}.png")
        except (OSError, SafetensorError) as error:
            raise StorageError(f"cannot write what probe {probe!r} found: {error}") from error

    def warn(self, message: str, task: int | None = None) -> None:
        if message in self.warnings:
            return
        self.warnings.append(message)
        self._line({"kind": "warning", "task": task, "message": message})

    # ------------------------------------------------------------------ the result

    @property
    def seconds(self) -> float:
        return self.seconds_before + time.perf_counter() - self.started

    def result(
        self, status: str, spec: StreamSpec, tests: tuple[TestSet, ...], error: str | None = None
    ) -> dict[str, Any]:
        """The contents of ``result.json``, a stable contract (see docs/run-folder.md)."""
        matrix = [list(row.prescribed) for row in self.rows]
        initial = None if self.initial is None else self.initial.prescribed
        matrices = {"task_agnostic": [list(row.task_agnostic) for row in self.rows]}
        if spec.scenario != "domain" or any(row.task_given is not None for row in self.rows):
            matrices["task_given"] = [list(row.task_given or ()) for row in self.rows]
        for name in dict.fromkeys(name for row in self.rows for name in row.more):
            matrices[name] = [list(row.more[name]) for row in self.rows]
        accuracies = matrix if self.measure == "accuracy" else []
        R = metrics.as_matrix(accuracies) if accuracies else np.empty((0, len(tests)))
        summary = {**metrics.summary(R, initial, spec.scenario), **metrics.task_summary(matrices)}
        if self.measure == "mse":
            summary = {**dict.fromkeys(summary), **metrics.regression_summary(matrices)}
            summary["task_inference_accuracy"] = metrics.task_summary(matrices)["task_inference_accuracy"]
        return {
            "schema": SCHEMA,
            "status": status,
            **({"error": error} if error else {}),
            "stream": spec.name,
            "scenario": spec.scenario,
            **{key: self.facts[key] for key in ("learner", "generator", "seed")},
            "tasks": [test.name for test in tests],
            "classes": list(spec.classes),
            "kind": spec.kind,
            "accuracy": accuracies,
            **({"mse": matrix} if self.measure == "mse" else {}),
            f"initial_{self.measure}": None if initial is None else list(initial),
            "matrices": matrices,
            **{key: matrices[name] for key, name in ALSO.items() if name in matrices},
            **_risk(self.findings),
            "summary": summary,
            "memory": self.memory,
            "cost": {
                "seconds": round(self.seconds, 3),
                "train_seconds": round(self.train_seconds, 3),
                "steps": self.steps,
                "rows_per_second": round(self.rows_seen / self.train_seconds, 1) if self.train_seconds else None,
                "flops_estimate": self.flops,
                "peak_memory_bytes": max(self.peak_memory, peak_memory_bytes()),
            },
            "findings": self.findings,
            "warnings": self.warnings,
            "options": self.facts["options"],
        }

    def write_result(
        self, status: str, spec: StreamSpec, tests: tuple[TestSet, ...], error: str | None = None
    ) -> dict[str, Any]:
        result = self.result(status, spec, tests, error)
        if self.folder is not None:
            write_json(self.folder / "result.json", result)
        return result

    # ------------------------------------------------------------------ state

    def state(self) -> dict[str, Any]:
        names = list(self.pending[0]) if self.pending else []
        return {
            "pending": {name: torch.stack([losses[name].cpu() for losses in self.pending]) for name in names},
            "rows": [self._fields(row) for row in self.rows],
            "initial": None if self.initial is None else self._fields(self.initial),
            "findings": self.findings,
            "warnings": self.warnings,
            "memory": self.memory,
            "steps": self.steps,
            "rows_seen": self.rows_seen,
            "flops": self.flops,
            "seconds": self.seconds,
            "train_seconds": self.train_seconds,
            "peak_memory": max(self.peak_memory, peak_memory_bytes()),
            "written": self._written,
        }

    def start_over(self) -> None:
        """Drops what a process wrote that died before its first checkpoint: it will be written again."""
        if self.folder is not None:
            try:
                (self.folder / "metrics.jsonl").unlink(missing_ok=True)
            except OSError as error:
                raise StorageError(f"cannot write {self.folder / 'metrics.jsonl'}: {error}") from error

    def load(self, state: dict[str, Any], device: torch.device) -> None:
        pending = {name: values.to(device) for name, values in state["pending"].items()}
        count = len(next(iter(pending.values()))) if pending else 0
        self.pending = [{name: values[k] for name, values in pending.items()} for k in range(count)]
        self.rows = [self._evaluation(fields) for fields in state["rows"]]
        self.initial = None if state["initial"] is None else self._evaluation(state["initial"])
        self.findings, self.warnings = list(state["findings"]), list(state["warnings"])
        self.memory = state["memory"]
        self.steps, self.rows_seen, self.flops = state["steps"], state["rows_seen"], state["flops"]
        self.seconds_before, self.train_seconds = state["seconds"], state["train_seconds"]
        self.peak_memory = state["peak_memory"]
        self._written = state["written"]
        self.started = time.perf_counter()
        if self.folder is not None:
            # Lines written after the checkpoint will be written again. A finished record is left untouched.
            path = self.folder / "metrics.jsonl"
            size = path.stat().st_size if path.exists() else 0
            if size > self._written:
                os.truncate(path, self._written)
            self._written = min(size, self._written)

    def _fields(self, row: Evaluation) -> dict[str, Any]:
        return {
            self.measure: list(row.prescribed),
            "task_agnostic": list(row.task_agnostic),
            "task_given": None if row.task_given is None else list(row.task_given),
            **({"more": {name: list(values) for name, values in row.more.items()}} if row.more else {}),
        }

    def _evaluation(self, fields: Mapping[str, Any]) -> Evaluation:
        given = fields["task_given"]
        return Evaluation(
            tuple(fields["task_agnostic"]),
            None if given is None else tuple(given),
            tuple(fields[self.measure]),
            {name: tuple(values) for name, values in fields.get("more", {}).items()},
        )

    def _line(self, fields: dict[str, Any]) -> None:
        self.lines.append(fields)
        if self.folder is None:
            return
        data = (json.dumps(fields, allow_nan=False) + "\n").encode()
        try:
            with open(self.folder / "metrics.jsonl", "ab") as file:
                file.write(data)
        except OSError as error:
            raise StorageError(f"cannot write {self.folder / 'metrics.jsonl'}: {error}") from error
        self._written += len(data)


def _risk(findings: list[dict[str, Any]]) -> dict[str, Any]:
    """Rows a task of what the probe "risk" found."""
    rows = [found["numbers"] for found in findings if found["probe"] == "risk"]
    if not rows:
        return {}
    risk = {kind: [row[f"{kind}_risk"] for row in rows] for kind in ("target", "source")}
    sums = [None if None in row else sum(row) for row in risk["target"]]
    errors = metrics.as_matrix(list(zip_longest(*(row["target_mse"] for row in rows)))).T
    forgotten = metrics.forgetting(-errors)  # how far above its lowest an error is in the end
    return {
        "risk": {**risk, "accumulated": sums, "reconstruction_forgetting": forgotten},
        "discrepancy": [row["discrepancy"] for row in rows],
    }


def save_grid(images: Tensor, path: Path, columns: int = 10) -> None:
    """images: (N, 1 or 3, H, W) in [0, 1], as one PNG of ``columns`` a row with a pixel between them."""
    n, channels, height, width = images.shape
    columns = min(columns, n)
    rows = -(-n // columns)
    grid = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, channels), 255, dtype=np.uint8)
    pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    for k in range(n):
        top, left = (k // columns) * (height + 1), (k % columns) * (width + 1)
        grid[top : top + height, left : left + width] = pixels[k]
    Image.fromarray(grid.squeeze(-1) if channels == 1 else grid).save(path)


def peak_memory_bytes() -> int:
    """Largest resident memory of this process so far, or of the accelerator where one was used, whichever is larger."""
    scale = 1 if sys.platform == "darwin" else 1024
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
    return max(host, torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0)


def environment(checksums: Mapping[str, str], device: str) -> dict[str, Any]:
    """What a run depends on besides its options."""

    versions: dict[str, str | None] = {}
    for package in ("reverie", "torch", "numpy", "scikit-learn"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "schema": SCHEMA,
        "python": platform.python_version(),
        "versions": versions,
        "machine": {
            "system": platform.platform(),
            "processor": processor(),
            "cores": os.cpu_count(),
            "device": device,
            "threads": torch.get_num_threads(),
        },
        "git": _git_state(),
        "data": dict(checksums),
    }


def processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor()


def _git_state() -> dict[str, Any] | None:
    """Commit of the folder the command runs in, and whether it has changes; None outside a repository."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
        changes = subprocess.run(
            ["git", "status", "--porcelain"], capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit.stdout.strip(), "changed": bool(changes.stdout.strip())}
