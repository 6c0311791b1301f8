"""Time a step of posterior replay against the number of earlier tasks, weight samples, and its own matrix products.

The shapes are those of the presets for Split MNIST with the small network, 784-100-100-10; inputs are random: the
time does not depend on them. What a table compares is timed in turns in one run, so that its ratios hold on a machine
whose speed drifts.

    python -m benchmarks.posteriors [--parts tasks samples products] [--steps 20] [--threads 1] [--json]
        [--page docs/results.md]
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.step import ROUNDS, product_seconds
from reverie.device import CPU
from reverie.engine.record import peak_memory_bytes, processor
from reverie.experiments.presets import PRESETS
from reverie.experiments.tables import write_section
from reverie.learners import LEARNERS
from reverie.options import from_options, merged
from reverie.seeding import Position, Randomness
from reverie.streams import Stream
from reverie.types import Scenario

DIRAC, GAUSSIAN = "pr-dirac-split-mnist-small", "pr-bbb-split-mnist-small"
PIXELS, TASKS, ROWS = 784, 5, 200
OLD_TASKS = (0, 1, 4, 9, 19)
SAMPLES = (1, 2, 5, 10, 20)
REHEARSED: Mapping[str, Mapping[str, Any]] = {
    "all, stored": {},
    "all, recomputed": {"targets": "recomputed"},
    "one a step, stored": {"old_tasks": 1},
    "one a step, recomputed": {"old_tasks": 1, "targets": "recomputed"},
}


class Stepper:
    """A preset's learner in the task after so many others, none of them trained, and a batch for all its steps."""

    def __init__(self, preset: str, old_tasks: int, changes: Mapping[str, Any], scenario: Scenario = "class") -> None:
        """changes: of the learner's options.

        scenario: "class", two classes a task; "domain", ten, and so one size of network however many tasks there are.
        """
        rng = torch.Generator().manual_seed(0)
        classes = 2 if scenario == "class" else 10
        tasks = []
        for number in range(old_tasks + 1):
            x = torch.rand(ROWS, PIXELS, generator=rng)
            y = torch.randint(classes, (ROWS,), generator=rng) + (classes * number if scenario == "class" else 0)
            tasks.append((x, y, x[:1], y[:1]))
        stream = Stream.from_arrays(tasks, scenario)
        options = merged(PRESETS[preset].options["learner"], changes)
        self.learner: Any = from_options(LEARNERS, options)
        self.rng = Randomness(0)
        self.learner.build(stream.spec, self.rng, CPU)
        for task in stream:
            self.rng.position = Position(task.index)
            self.learner.begin_task(task)
            self.phase = self.learner.phase("train")
            if task.index < old_tasks:
                self.learner.end_task(task)
        rows = self.learner.rows(self.phase, stream[old_tasks])
        self.batch = rows.take(torch.arange(self.phase.batch_size))
        self.taken = 0
        self.run(2)

    def run(self, steps: int) -> float:
        """Milliseconds a step."""
        began = time.perf_counter()
        for _ in range(steps):
            self.taken += 1
            self.rng.position = replace(self.rng.position, step=self.taken)
            self.learner.step(self.phase, self.batch)
        return 1000 * (time.perf_counter() - began) / steps

    def megabytes(self) -> float:
        """MiB that the learner holds while it learns this task."""
        memory = self.learner.memory()
        return float(sum([*memory.persistent.values(), *memory.working.values()])) / 2**20


def in_turns(steppers: Mapping[str, Stepper], steps: int) -> dict[str, float]:
    """Median milliseconds a step of each, of windows in turns: the machine's speed may drift."""
    windows = [{name: stepper.run(steps) for name, stepper in steppers.items()} for _ in range(ROUNDS)]
    return {name: statistics.median(window[name] for window in windows) for name in steppers}


# ------------------------------------------------------------------------------- against the number of earlier tasks


def of_tasks(steps: int) -> list[dict[str, Any]]:
    """Ten classes a task, so that the main network stays as it is. ratio: to a step with one earlier task."""
    found: list[dict[str, Any]] = []
    for preset in (DIRAC, GAUSSIAN):
        steppers = {
            f"{how} {old}": Stepper(preset, old, changes, "domain")
            for how, changes in REHEARSED.items()
            for old in OLD_TASKS
        }
        times = in_turns(steppers, steps)
        for how in REHEARSED:
            for old in OLD_TASKS:
                name = f"{how} {old}"
                ratio = times[name] / times[f"{how} 1"]
                row = {"old_tasks": old, "ms": times[name], "ratio": ratio, "mib": steppers[name].megabytes()}
                found.append({"preset": preset, "rehearsed": how, **row})
    return found


def tasks_markdown(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "A step against the number of earlier tasks (ten classes each): ms (times that with one, MiB of weights, "
        "optimiser and targets).",
        "",
        "| preset | rehearsed | " + " | ".join(str(old) for old in OLD_TASKS) + " |",
        "|---|---" + "|---" * len(OLD_TASKS) + "|",
    ]
    for preset in (DIRAC, GAUSSIAN):
        for how in REHEARSED:
            mine = [row for row in rows if (row["preset"], row["rehearsed"]) == (preset, how)]
            cells = [f"{row['ms']:.2f} ({row['ratio']:.2f} x, {row['mib']:.1f})" for row in mine]
            lines.append(f"| {preset} | {how} | " + " | ".join(cells) + " |")
    return lines


# ------------------------------------------------------------------------------- against weight samples


def of_samples(steps: int) -> list[dict[str, Any]]:
    steppers = {str(n): Stepper(GAUSSIAN, TASKS - 1, {"samples": n}) for n in SAMPLES}
    times = in_turns(steppers, steps)
    return [{"samples": n, "ms": times[str(n)], "ratio": times[str(n)] / times["1"]} for n in SAMPLES]


def samples_markdown(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"A step of {GAUSSIAN}, fifth task, against weight samples.",
        "",
        "| weight samples | " + " | ".join(str(row["samples"]) for row in rows) + " |",
        "|---" * (1 + len(rows)) + "|",
        "| ms a step | " + " | ".join(f"{row['ms']:.2f}" for row in rows) + " |",
        "| times that with one | " + " | ".join(f"{row['ratio']:.2f}" for row in rows) + " |",
    ]


# ------------------------------------------------------------------------------- against the step's own products


class Products(TorchDispatchMode):
    """Counts the matrix products (m, k) @ (k, n) that run inside, those of a batch one by one, forwards and back."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[tuple[int, int, int]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        first = {"aten::mm": 0, "aten::bmm": 0, "aten::addmm": 1, "aten::baddbmm": 1, "mkldnn::_linear_pointwise": 0}
        if func.name().split(".")[0] in first:
            a = args[first[func.name().split(".")[0]]]
            *batch, m, k = a.shape
            self.counts[m, k, found.shape[-1]] += math.prod(batch)
        return found


def of_products(steps: int) -> list[dict[str, Any]]:
    found = []
    for preset in (DIRAC, GAUSSIAN):
        stepper = Stepper(preset, TASKS - 1, {})
        with Products() as products:
            stepper.run(1)
        flop = sum(2.0 * m * k * n * times for (m, k, n), times in products.counts.items())
        ours, bounds = [], []
        for _ in range(ROUNDS):  # in turns: the machine's speed may drift
            ours.append(stepper.run(steps))
            bounds.append(1000 * sum(times * product_seconds(*shape) for shape, times in products.counts.items()))
        step, bound = statistics.median(ours), statistics.median(bounds)
        share = statistics.median(best / ms for ms, best in zip(ours, bounds, strict=True))
        memory = stepper.learner.memory()
        found.append(
            {
                "preset": preset,
                "step_ms": step,
                "gflop_a_step": flop / 1e9,
                "products_alone_ms": bound,
                "products_gflops": flop / bound / 1e6,
                "share_of_product_peak": share,
                "persistent_mib": memory.persistent_bytes / 2**20,
                "working_mib": memory.working_bytes / 2**20,
            }
        )
    return found


WORDS = {
    "step_ms": "ms a step, median",
    "gflop_a_step": "GFLOP a step, of the products that run",
    "products_alone_ms": "ms of the step's matrix products alone, each by the fastest routine here",
    "products_gflops": "GFLOP/s of those products",
    "share_of_product_peak": "share of that peak reached by the whole step",
    "persistent_mib": "persistent MiB",
    "working_mib": "working MiB",
}


def products_markdown(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "A step in the fifth task, and its products alone.",
        "",
        "| measure | " + " | ".join(row["preset"] for row in rows) + " |",
        "|---" * (1 + len(rows)) + "|",
    ]
    for name, words in WORDS.items():
        share = name == "share_of_product_peak"
        lines.append(
            f"| {words} | " + " | ".join(f"{100 * r[name]:.1f} %" if share else f"{r[name]:.2f}" for r in rows) + " |"
        )
    return lines


# ------------------------------------------------------------------------------------------- report


PARTS: Mapping[
    str, tuple[Callable[[int], list[dict[str, Any]]], Callable[[Sequence[Mapping[str, Any]]], list[str]]]
] = {
    "tasks": (of_tasks, tasks_markdown),
    "samples": (of_samples, samples_markdown),
    "products": (of_products, products_markdown),
}


def markdown(results: Mapping[str, list[dict[str, Any]]], threads: int) -> str:
    lines = [
        "## Time a step of posterior replay",
        "",
        f"784-100-100-10, {threads} thread(s), {processor()}, torch {torch.__version__}. "
        "Command: `python -m benchmarks.posteriors`.",
    ]
    for name, rows in results.items():
        lines += ["", *PARTS[name][1](rows)]
    return "\n".join([*lines, "", f"Peak memory of the process: {peak_memory_bytes() / 2**20:.0f} MiB."]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="what to time")
    parser.add_argument("--steps", type=int, default=20, help=f"steps a window; there are {ROUNDS} windows of each")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--page", type=Path, help="a Markdown page whose section on posteriors is rewritten")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = {name: PARTS[name][0](options.steps) for name in options.parts}
    if options.json:
        print(json.dumps({"threads": options.threads, "peak_memory_bytes": peak_memory_bytes(), **results}, indent=2))
        return
    text = markdown(results, options.threads)
    if options.page:
        write_section(options.page, "posteriors", text)
    print(text)


if __name__ == "__main__":
    main()
