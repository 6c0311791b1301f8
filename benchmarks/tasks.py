"""Does a step cost more in the fiftieth task than in the fifth? Time a step and bytes against the number of tasks, permuted digits.

python -m benchmarks.tasks [--tasks 50] [--steps 200] [--json] [--page docs/results.md]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from reverie.device import CPU
from reverie.engine import Loop, Record, Settings
from reverie.engine.record import peak_memory_bytes, processor
from reverie.experiments.tables import write_section
from reverie.generators import VAE
from reverie.learners import GenerativeReplay
from reverie.seeding import Randomness
from reverie.solvers import MLP
from reverie.streams import Permuted


class Windows:
    """Observer: milliseconds a step of each task, without the first window, which holds the warm-up."""

    def __init__(self) -> None:
        self.by_task: dict[int, list[float]] = {}
        self.task, self.last, self.step = 0, 0.0, 0

    def phase_started(self, task: int, tasks: int, name: str, phase: str, steps: int, done: int) -> None:
        self.task, self.last, self.step = task, 0.0, 0

    def progress(self, step: int, losses: dict[str, float]) -> None:
        now = time.perf_counter()
        if self.last:
            self.by_task.setdefault(self.task, []).append(1000 * (now - self.last) / (step - self.step))
        self.last, self.step = now, step

    def evaluated(self, task: int, measure: str, values: tuple[float | None, ...]) -> None: ...

    def warned(self, message: str) -> None: ...


def measure(tasks: int, steps: int) -> list[dict[str, float]]:
    stream = Permuted("digits", tasks=tasks).build("domain", seed=0)
    learner = GenerativeReplay(
        solver=MLP((200, 200)), generator=VAE((200, 200), latent_dim=32), steps=steps, batch_size=64
    )
    rng = Randomness(0)
    learner.build(stream.spec, rng, CPU)
    record = Record(None, {"learner": "generative-replay", "generator": "vae", "seed": 0, "options": {}})
    learner.probes = lambda: ()  # type: ignore[method-assign]
    watch = Windows()
    Loop(learner, stream, rng, CPU, record, Settings(), watch).run()
    memory = [line["memory"] for line in record.lines if line["kind"] == "evaluation"]
    return [
        {
            "task": task + 1,
            "step_ms": statistics.median(watch.by_task[task]),
            "persistent_bytes": memory[task]["persistent_bytes"],
            "working_bytes": memory[task]["working_bytes"],
        }
        for task in sorted(watch.by_task)
    ]


def markdown(rows: list[dict[str, float]], options: argparse.Namespace) -> str:
    lines = [
        f"## Many tasks: permuted digits, {options.tasks} of them",
        "",
        f"Generative replay, {options.steps} steps a task, {options.threads} thread(s), {processor()}. "
        "Command: `python -m benchmarks.tasks`.",
        "",
        "| tasks | ms a step, median | persistent bytes | working bytes |",
        "|---|---|---|---|",
    ]
    for first, last in ((2, 5), (max(options.tasks - 4, 2), options.tasks)):
        group = [row for row in rows if first <= row["task"] <= last]
        step = statistics.median(row["step_ms"] for row in group)
        end = group[-1]
        lines.append(f"| {first} to {last} | {step:.3f} | {end['persistent_bytes']:,} | {end['working_bytes']:,} |")
    return "\n".join([*lines, "", f"Peak memory of the process: {peak_memory_bytes() / 2**20:.0f} MiB."]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=50)
    parser.add_argument("--steps", type=int, default=200, help="steps a task")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--page", type=Path, help="a Markdown page whose section on scale is rewritten")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = measure(options.tasks, options.steps)
    if options.json:
        print(json.dumps({"rows": rows, "peak_memory_bytes": peak_memory_bytes()}, indent=2))
        return
    text = markdown(rows, options)
    if options.page:
        write_section(options.page, "scale", text)
    print(text)


if __name__ == "__main__":
    main()
