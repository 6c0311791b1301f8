"""Time a step of the lifelong autoencoder: precisions, layouts of its convolutions, its share of the machine's matrix products.

Two domains of random images; the second is learnt with replay of the first. Variants are timed in turns in one run, so that
their ratios hold on a machine whose speed drifts.

    python -m benchmarks.lgaa [--size tiny] [--side 28] [--channels 1] [--batch 64] [--steps 5] [--threads 2] [--device cpu]
        [--json] [--page docs/results.md]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.step import ROUNDS, product_seconds
from reverie.device import Device, Precision
from reverie.engine.record import peak_memory_bytes, processor
from reverie.experiments.tables import write_section
from reverie.generators import AdversarialAutoencoder
from reverie.learners import LGAA
from reverie.seeding import Position, Randomness
from reverie.streams import Stream

ROWS, CLASSES = 256, 10
PEAK = 2048  # width of the square product that stands for the machine's peak


@dataclass(frozen=True)
class Variant:
    title: str
    precision: Precision
    contiguous: bool = False


VARIANTS = (
    Variant("float32", "float32"),
    Variant("float32, channels first", "float32", contiguous=True),
    Variant("bf16", "bf16"),
)


class Stepper:
    """The learner in the task after ``replayed`` others, and a batch for all its steps."""

    def __init__(self, variant: Variant, replayed: int, options: argparse.Namespace) -> None:
        rng = torch.Generator().manual_seed(0)
        shape = (options.channels, options.side, options.side)
        tasks = []
        for _ in range(replayed + 1):
            x = torch.rand(ROWS, *shape, generator=rng)
            y = torch.arange(ROWS) % CLASSES
            tasks.append((x, y, x[:CLASSES], y[:CLASSES]))
        stream = Stream.from_arrays(tasks, "domain")
        self.device = Device.named(options.device, variant.precision)
        self.rng = Randomness(0, self.device.torch_device)
        model = AdversarialAutoencoder(size=options.size)
        self.learner: Any = LGAA(autoencoder=model, batch_size=options.batch, steps=1000)
        self.learner.build(stream.spec, self.rng, self.device)
        if variant.contiguous:
            for network in self.learner.model.networks.values():
                network.to(memory_format=torch.contiguous_format)
        for task in stream:
            self.rng.position = Position(task.index)
            self.learner.begin_task(task)
            (self.phase,) = self.learner.phases(task)
            rows = self.learner.rows(self.phase, task)
            self.batch = rows.take(torch.arange(options.batch, device=self.device.torch_device))
            self.gflop = self.learner.flops(self.phase, task) / 1e9
            if task.index < replayed:
                self.learner.step(self.phase, self.batch)  # a domain that was never trained on has no samples
                self.learner.end_task(task)
        self.taken = 0
        self.run(2)

    def run(self, steps: int) -> float:
        """Milliseconds a step."""
        self._wait()
        began = time.perf_counter()
        for _ in range(steps):
            self.taken += 1
            self.rng.position = replace(self.rng.position, step=self.taken)
            self.learner.step(self.phase, self.batch)
        self._wait()
        return 1000 * (time.perf_counter() - began) / steps

    def _wait(self) -> None:
        if self.device.torch_device.type == "cuda":
            torch.cuda.synchronize()


def peak_gflops(precision: Precision, device: str) -> float:
    """GFLOP/s of one large product."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    if device == "cpu":
        return 2 * PEAK**3 / product_seconds(PEAK, PEAK, PEAK, dtype) / 1e9
    a = torch.rand(4 * PEAK, 4 * PEAK, device=device, dtype=dtype)
    torch.mm(a, a)
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(10):
        torch.mm(a, a)
    torch.cuda.synchronize()
    return 10 * 2 * (4 * PEAK) ** 3 / (time.perf_counter() - began) / 1e9


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    steppers = {(v, replayed): Stepper(v, replayed, options) for v in VARIANTS for replayed in (0, 1)}
    windows = [{key: stepper.run(options.steps) for key, stepper in steppers.items()} for _ in range(ROUNDS)]
    peaks = {precision: peak_gflops(precision, options.device) for precision in {v.precision for v in VARIANTS}}
    found = []
    for (variant, replayed), stepper in steppers.items():
        ms = statistics.median(window[variant, replayed] for window in windows)
        memory = stepper.learner.memory()
        found.append(
            {
                "variant": variant.title,
                "task": replayed + 1,
                "ms": ms,
                "ratio": statistics.median(w[variant, replayed] / w[VARIANTS[0], replayed] for w in windows),
                "gflop": stepper.gflop,
                "share_of_peak": stepper.gflop / (ms / 1000) / peaks[variant.precision],
                "peak_gflops": peaks[variant.precision],
                "mib": (memory.persistent_bytes + memory.working_bytes) / 2**20,
            }
        )
    return found


def markdown(rows: list[Mapping[str, Any]], options: argparse.Namespace) -> str:
    where = processor() if options.device == "cpu" else torch.cuda.get_device_name()
    shape = f"{options.channels} x {options.side} x {options.side}"
    lines = [
        "## Time a step of the lifelong autoencoder",
        "",
        f"Size {options.size}, images {shape}, {options.batch} rows a step, {options.threads} thread(s), {where}, torch "
        f"{torch.__version__}. All updates of a step: critic, its share of the generator's, autoencoder, class and domain inference. Peak: one "
        "large matrix product in the same precision. Command: `python -m benchmarks.lgaa`.",
        "",
        "| variant | task | ms a step | times float32 | GFLOP a step | GFLOP/s | share of the product peak | MiB held |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        speed = row["gflop"] / row["ms"] * 1000
        lines.append(
            f"| {row['variant']} | {row['task']} | {row['ms']:.1f} | {row['ratio']:.2f} | {row['gflop']:.2f} | {speed:.1f} | "
            f"{100 * row['share_of_peak']:.0f} % of {row['peak_gflops']:.0f} | {row['mib']:.1f} |"
        )
    return "\n".join([*lines, "", f"Peak memory of the process: {peak_memory_bytes() / 2**20:.0f} MiB."]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="tiny", help="size of the networks (reverie list generators lgaa)")
    parser.add_argument("--side", type=int, default=28, help="pixels a side")
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--batch", type=int, default=64, help="rows a step")
    parser.add_argument("--steps", type=int, default=5, help=f"steps a window; there are {ROUNDS} windows of each")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--page", type=Path, help="a Markdown page whose section on lgaa's steps is rewritten")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = measure(options)
    if options.json:
        print(json.dumps({"peak_memory_bytes": peak_memory_bytes(), "rows": rows}, indent=2))
        return
    text = markdown(rows, options)
    if options.page:
        write_section(options.page, "lgaa-step", text)
    print(text)


if __name__ == "__main__":
    main()
