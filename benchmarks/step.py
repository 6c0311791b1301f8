"""Time a step of deep generative replay at the sizes of the Split MNIST protocol.

Reverie's loop, a bare loop of the same arithmetic and the bound given by the measured rate of the very same matrix products are timed
in turns in one run, so that their ratios hold on a machine whose speed drifts. Inputs are random: the time does not depend on them.

    python -m benchmarks.step [--windows 6] [--threads 2] [--json] [--page docs/results.md]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from reverie.device import Device
from reverie.engine import Loop, Record, Settings
from reverie.engine.record import LOSS_WINDOW, peak_memory_bytes, processor
from reverie.experiments.tables import write_section
from reverie.generators import VAE
from reverie.learners import GenerativeReplay
from reverie.nn import networks
from reverie.nn.losses import bernoulli_nll
from reverie.nn.matmul import _product, linear
from reverie.nn.optimisers import Adam
from reverie.seeding import Randomness
from reverie.solvers import MLP
from reverie.streams import Stream

BATCH, HIDDEN, LATENT, CLASSES, PIXELS, CHUNK = 128, 400, 100, 10, 784, 25


# ------------------------------------------------------------------------------------ Reverie's loop


ROUNDS = 5


class Windows:
    """Observer that notes the seconds of each window of steps in the second task, when replay is on."""

    def __init__(self) -> None:
        self.task, self.last = 0, 0.0
        self.seconds: list[float] = []

    def phase_started(self, task: int, tasks: int, name: str, phase: str, steps: int, done: int) -> None:
        self.task, self.last = task, 0.0

    def progress(self, step: int, losses: dict[str, float]) -> None:
        now = time.perf_counter()
        if self.task == 1 and self.last:
            self.seconds.append(now - self.last)
        self.last = now

    def evaluated(self, task: int, measure: str, values: tuple[float | None, ...]) -> None: ...

    def warned(self, message: str) -> None: ...


def reverie_windows(precision: Any, windows: int) -> tuple[list[float], float]:
    """Milliseconds a step of each window of 50 steps, and FLOP a step."""
    generator = torch.Generator().manual_seed(0)
    tasks = []
    for task in range(2):
        x = torch.rand(2000, 1, 28, 28, generator=generator)
        y = torch.randint(5 * task, 5 * task + 5, (2000,), generator=generator)
        tasks.append((x, y, x[:100], y[:100]))
    stream = Stream.from_arrays(tasks)
    learner = GenerativeReplay(
        solver=MLP(hidden=(HIDDEN, HIDDEN), optimiser=Adam(1e-3)),
        generator=VAE(hidden=(HIDDEN, HIDDEN), latent_dim=LATENT, optimiser=Adam(1e-3)),
        steps=LOSS_WINDOW * (windows + 1),
        batch_size=BATCH,
        chunk=CHUNK,
    )
    device = Device.named("cpu", precision)
    rng = Randomness(0)
    learner.build(stream.spec, rng, device)
    watch = Windows()
    record = Record(None, {"learner": "generative-replay", "generator": "vae", "seed": 0, "options": {}})
    learner.probes = lambda: ()  # type: ignore[method-assign]
    Loop(learner, stream, rng, device, record, Settings(), watch).run()
    flops = learner.flops(learner.phase("train"), stream[1])
    return [1000 * seconds / LOSS_WINDOW for seconds in watch.seconds], flops


# -------------------------------------------------------------------------------------- a bare loop


class Bare:
    """The same step written out by hand: no streams, no records, no options."""

    def __init__(self, precision: str, layer: type[nn.Linear]) -> None:
        self.bf16 = precision == "bf16"
        mlp = lambda *sizes: self._mlp(layer, *sizes)  # noqa: E731
        self.solver = mlp(PIXELS, HIDDEN, HIDDEN, CLASSES)
        self.trunk = nn.Sequential(mlp(PIXELS, HIDDEN, HIDDEN), nn.ReLU())
        self.mean, self.log_variance = layer(HIDDEN, LATENT), layer(HIDDEN, LATENT, bias=False)
        self.decoder = mlp(LATENT, HIDDEN, HIDDEN, PIXELS)
        vae = [
            *self.trunk.parameters(),
            *self.mean.parameters(),
            *self.log_variance.parameters(),
            *self.decoder.parameters(),
        ]
        self.solver_adam = torch.optim.Adam(self.solver.parameters(), 1e-3, fused=True)
        self.vae_adam = torch.optim.Adam(vae, 1e-3, fused=True)
        self.old_solver, self.old_decoder = mlp(PIXELS, HIDDEN, HIDDEN, CLASSES), mlp(LATENT, HIDDEN, HIDDEN, PIXELS)
        self.x, self.y = torch.rand(4000, PIXELS), torch.randint(CLASSES, (4000,))
        self.weight = torch.full((2 * BATCH,), 1 / (2 * BATCH))

    @staticmethod
    def _mlp(layer: type[nn.Linear], *sizes: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [layer(inputs, outputs), nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    def run(self, steps: int) -> float:
        """Milliseconds a step."""
        began = time.perf_counter()
        for step in range(steps):
            with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
                if step % CHUNK == 0:
                    with torch.no_grad():
                        replay = torch.sigmoid(self.old_decoder(torch.randn(CHUNK * BATCH, LATENT)).float())
                        labels = self.old_solver(replay).float().argmax(1)
                index = torch.randint(len(self.x), (BATCH,))
                part = slice((step % CHUNK) * BATCH, (step % CHUNK + 1) * BATCH)
                x = torch.cat([self.x[index], replay[part]])
                y = torch.cat([self.y[index], labels[part]])
                scores = self.solver(x)
            loss = (functional.cross_entropy(scores.float(), y, reduction="none") * self.weight).sum()
            self._update(self.solver_adam, loss)
            with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
                features = self.trunk(x)
                mean, log_variance = self.mean(features), self.log_variance(features)
                z = mean + torch.exp(0.5 * log_variance) * torch.randn(2 * BATCH, LATENT)
                decoded = self.decoder(z)
            mean, log_variance = mean.float(), log_variance.float()
            bce = bernoulli_nll(decoded.float(), x)
            kl = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1)
            self._update(self.vae_adam, ((bce + kl) * self.weight).sum() / PIXELS)
        return 1000 * (time.perf_counter() - began) / steps

    @staticmethod
    def _update(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()


# --------------------------------------------------------------------------- the matrix-product bound


def products() -> list[tuple[int, int, int, float]]:
    """(m, k, n, times a step) of every product a @ b, a (m, k), b (k, n), in one step with replay."""
    rows = 2 * BATCH
    solver = [(PIXELS, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, CLASSES)]
    encoder = [(PIXELS, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, LATENT), (HIDDEN, LATENT)]
    decoder = [(LATENT, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, PIXELS)]
    found: list[tuple[int, int, int, float]] = []
    for layers in (solver, encoder + decoder):
        for number, (inputs, outputs) in enumerate(layers):
            found += [(rows, inputs, outputs, 1.0), (outputs, rows, inputs, 1.0)]  # forward, weight gradient
            if number > 0:
                found.append((rows, outputs, inputs, 1.0))  # input gradient
    found += [(CHUNK * BATCH, inputs, outputs, 1 / CHUNK) for inputs, outputs in decoder + solver]
    return found


def bound(precision: str) -> tuple[float, float]:
    """Milliseconds that the step's products alone take, each by the fastest routine here, and their rate in GFLOP/s."""
    total, flop = 0.0, 0.0
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    for m, k, n, times in products():
        total += times * product_seconds(m, k, n, dtype)
        flop += times * 2.0 * m * k * n
    return 1000 * total, flop / total / 1e9


def product_seconds(m: int, k: int, n: int, dtype: torch.dtype = torch.float32) -> float:
    """Of one product (m, k) @ (k, n), by the fastest routine here."""
    a, b = torch.rand(m, k).to(dtype), torch.rand(k, n).to(dtype)
    routines: list[Callable[[], Tensor]] = [lambda: a @ b]
    if dtype == torch.float32:
        weight = b.t().contiguous()
        routines += [lambda: _product(a, b), lambda: linear(a, weight)]
    with torch.no_grad():
        return min(_best(routine) for routine in routines)


def _best(routine: Callable[[], Tensor], repeats: int = 15) -> float:
    """Median seconds of a call."""
    routine()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        routine()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


# ------------------------------------------------------------------------------------------- report


def measure(precision: str, windows: int) -> dict[str, float]:
    plain, same = Bare(precision, nn.Linear), Bare(precision, networks.Linear)
    for bare in (plain, same):
        bare.run(LOSS_WINDOW)
    ours: list[float] = []
    bares: dict[str, list[float]] = {"plain": [], "same": []}
    bounds = []
    ratios = []
    for _ in range(ROUNDS):  # in turns: the machine's speed may drift
        found, flops = reverie_windows(precision, windows)
        ours += found
        beside = [same.run(LOSS_WINDOW) for _ in range(windows)]
        ratios.append(statistics.median(found) / statistics.median(beside))
        bares["same"] += beside
        bares["plain"] += [plain.run(LOSS_WINDOW) for _ in range(windows)]
        bounds.append(bound(precision))
    step = statistics.median(ours)
    bare = statistics.median(bares["same"])
    best = statistics.median(ms for ms, _ in bounds)
    return {
        "step_ms": step,
        "step_ms_lowest": min(ours),
        "bare_loop_ms": bare,
        "bare_loop_stock_linear_ms": statistics.median(bares["plain"]),
        "library_cost": statistics.median(ratios) - 1,
        "gflop_a_step": flops / 1e9,
        "products_alone_ms": best,
        "products_gflops": statistics.median(rate for _, rate in bounds),
        "share_of_product_peak": best / step,
        "outside_products": 1 - best / step,
        "peak_memory_mb": peak_memory_bytes() / 2**20,
    }


WORDS = {
    "step_ms": "ms a step, median",
    "step_ms_lowest": "ms a step, fastest window of 50",
    "bare_loop_ms": "ms a step of a bare loop on the same products",
    "bare_loop_stock_linear_ms": "ms a step of a bare loop on torch.nn.Linear",
    "library_cost": "cost of the library around the bare loop",
    "gflop_a_step": "GFLOP a step, from layer shapes",
    "products_alone_ms": "ms of the step's matrix products alone, each by the fastest routine here",
    "products_gflops": "GFLOP/s of those products",
    "share_of_product_peak": "share of that peak reached by the whole step",
    "outside_products": "share of time outside matrix products",
    "peak_memory_mb": "peak memory of the process, MiB",
}


def markdown(results: dict[str, dict[str, float]], threads: int) -> str:
    lines = [
        "## Time a step",
        "",
        f"Deep generative replay at the sizes of the Split MNIST protocol ({BATCH} + {BATCH} rows a step), second task,",
        f"{threads} threads, {processor()}, torch {torch.__version__}. Command: `python -m benchmarks.step`.",
        "",
        "| measure | " + " | ".join(results) + " |",
        "|---" * (1 + len(results)) + "|",
    ]
    for name, words in WORDS.items():
        share = name in ("library_cost", "share_of_product_peak", "outside_products")
        values = [f"{100 * r[name]:.1f} %" if share else f"{r[name]:.2f}" for r in results.values()]
        lines.append(f"| {words} | " + " | ".join(values) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=6, help="windows of 50 steps a round; there are five rounds")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--page", type=Path, help="a Markdown page whose section on speed is rewritten")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = {precision: measure(precision, options.windows) for precision in ("float32", "bf16")}
    if options.json:
        print(json.dumps({"threads": options.threads, **results}, indent=2))
        return
    text = markdown(results, options.threads)
    if options.page:
        write_section(options.page, "speed", text)
    print(text)


if __name__ == "__main__":
    main()
