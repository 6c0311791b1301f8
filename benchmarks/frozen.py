"""Time of a whole run behind a frozen backbone: Split MNIST, class-incremental, from the start of Python to its end.

``reverie run --preset glr-recommended``, its variants, and a bare loop on stock layers are run in turns as processes, so that their ratios hold
on a machine whose speed drifts. The bare loop is the least that one would write by hand: two convolutions, 500 steps on the first task, the
latents of all images, a full Gaussian for each class, a head of 300 steps a task on 128 new and 128 drawn rows. It reads the same
files, keeps nothing and writes nothing.

    python -m benchmarks.frozen [--rounds 3] [--threads 2] [--json] [--page docs/results.md]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from reverie.engine.record import peak_memory_bytes, processor
from reverie.experiments.config import RunConfig
from reverie.experiments.presets import PRESETS
from reverie.experiments.runs import stream_of
from reverie.experiments.tables import write_section
from reverie.types import Rows

BATCH, LATENTS, BACKBONE_STEPS, HEAD_STEPS, SHRINK = 128, 1024, 500, 300, 0.01
REVERIE: Mapping[str, Sequence[str]] = {
    "glr-recommended": (),
    "glr-recommended, bf16": ("--precision", "bf16"),
    "glr-recommended without alignment": (
        "--learner.method.align_steps",
        "0",
        "--learner.method.steps",
        "1000",
    ),
    "streaming LDA": ("--learner.method", "streaming-lda"),
    "RanPAC, 2,000 random features": ("--learner.method", "ranpac"),
}
BARE = "bare loop, stock layers"


# -------------------------------------------------------------------------------------- a bare loop


def bare(seed: int) -> dict[str, float]:
    """Seconds of each part, and the accuracy in the end, %."""
    torch.manual_seed(seed)
    marks = [time.perf_counter()]
    options = PRESETS["glr-recommended"].options
    stream = stream_of(RunConfig(stream=options["stream"], scenario="class", learner=options["learner"], seed=seed))
    data = [(_whole(task.train), _whole(test.rows)) for task, test in zip(stream, stream.tests, strict=True)]
    marks.append(time.perf_counter())

    below = nn.Sequential(
        nn.Conv2d(1, 32, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
    )
    head = nn.Sequential(nn.Linear(LATENTS, 256), nn.ReLU(), nn.Linear(256, 10))
    adam = torch.optim.Adam([*below.parameters(), *head.parameters()], 1e-3, fused=True)
    x, y = data[0][0]
    for _ in range(BACKBONE_STEPS):
        rows = torch.randint(len(y), (BATCH,))
        _update(adam, functional.cross_entropy(head(below(x[rows])), y[rows]))
    marks.append(time.perf_counter())

    with torch.no_grad():
        latents = [[(torch.cat([below(part) for part in x.split(1000)]), y) for x, y in task] for task in data]
    marks.append(time.perf_counter())

    adam = torch.optim.Adam(head.parameters(), 1e-3, fused=True)
    gaussians: list[tuple[Tensor, Tensor]] = []
    for number, ((z, y), _) in enumerate(latents, 1):
        for _ in range(HEAD_STEPS):
            rows = torch.randint(len(y), (BATCH,))
            loss = functional.cross_entropy(head(z[rows]), y[rows]) / number
            if gaussians:
                drawn, classes = _drawn(gaussians)
                loss = loss + (1 - 1 / number) * functional.cross_entropy(head(drawn), classes)
            _update(adam, loss)
        gaussians += [_gaussian(z[y == label]) for label in y.unique()]
        with torch.no_grad():
            right = [float((head(zt).argmax(1) == yt).float().mean()) for _, (zt, yt) in latents[:number]]
    marks.append(time.perf_counter())
    parts = dict(zip(("data", "backbone", "latents", "head"), (b - a for a, b in pairwise(marks)), strict=True))
    return {**parts, "accuracy": 100 * statistics.mean(right), "peak": peak_memory_bytes()}


def _whole(rows: Rows) -> tuple[Tensor, Tensor]:
    batch = rows.take(torch.arange(len(rows)))
    assert batch.y is not None
    return batch.x, batch.y


def _update(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()


def _gaussian(z: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and Cholesky factor, the covariance shrunk a little towards a multiple of the identity."""
    covariance = torch.cov(z.T)
    scale = covariance.diagonal().mean()
    return z.mean(0), torch.linalg.cholesky((1 - SHRINK) * covariance + SHRINK * scale * torch.eye(z.shape[1]))


def _drawn(gaussians: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """A batch, and its classes; classes come in the order in which the Gaussians were fitted."""
    classes = torch.randint(len(gaussians), (BATCH,)).sort().values
    counts = classes.bincount(minlength=len(gaussians)).tolist()
    drawn = [
        mean + torch.randn(count, LATENTS) @ factor.T for (mean, factor), count in zip(gaussians, counts, strict=True)
    ]
    return torch.cat(drawn), classes


# ----------------------------------------------------------------------------------------- in turns


def timed(command: Sequence[str], threads: int) -> tuple[float, str]:
    """Seconds of a process, and what it printed."""
    kept = {name: value for name, value in os.environ.items() if name != "REVERIE_LATENTS"}  # all latents are computed
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *command],
        env={**kept, "OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return time.perf_counter() - began, done.stdout


def measure(rounds: int, threads: int) -> dict[str, list[dict[str, float]]]:
    """Of each what a round found: seconds, accuracy (%), peak memory (bytes), and the parts of the bare loop."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in (BARE, *REVERIE)}
    for seed in range(1, rounds + 1):
        seconds, printed = timed(["-m", "benchmarks.frozen", "--bare", str(seed), "--threads", str(threads)], threads)
        found[BARE].append({"seconds": seconds, **json.loads(printed)})
        for name, options in REVERIE.items():
            with tempfile.TemporaryDirectory() as folder:
                command = ["-m", "reverie", "run", "--preset", "glr-recommended", *options]
                command += ["--seed", str(seed), "--threads", str(threads), "--out", folder, "--overwrite"]
                seconds, _ = timed(command, threads)
                result = json.loads(Path(folder, "result.json").read_text())
            accuracy = 100 * result["summary"]["average_accuracy"]
            found[name].append({"seconds": seconds, "accuracy": accuracy, "peak": result["cost"]["peak_memory_bytes"]})
    return found


def markdown(found: Mapping[str, Sequence[Mapping[str, float]]], threads: int) -> str:
    rounds = len(found[BARE])
    lines = [
        "## Time of a whole run behind a frozen backbone",
        "",
        f"Split MNIST, class-incremental, {threads} threads, {processor()}, torch {torch.__version__}; from the start of Python to its end, data, "
        f"backbone, all evaluations and the report included; medians of {rounds} rounds (seeds 1 to {rounds}), in turns. The bare loop, written by "
        f"hand on stock layers, has no report and saves nothing. Command: `python -m benchmarks.frozen --rounds {rounds}`.",
        "",
        "| run | seconds | times the bare loop's | accuracy, % | peak memory, MiB |",
        "|---|---|---|---|---|",
    ]
    for name, runs in found.items():
        ratios = [run["seconds"] / bare["seconds"] for run, bare in zip(runs, found[BARE], strict=True)]
        cells = [
            f"{_median(runs, 'seconds'):.1f}",
            f"{statistics.median(ratios):.2f}",
            f"{statistics.mean(run['accuracy'] for run in runs):.2f}",
            f"{max(run['peak'] for run in runs) / 2**20:.0f}",
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    parts = ", ".join(f"{part} {_median(found[BARE], part):.1f}" for part in ("data", "backbone", "latents", "head"))
    return "\n".join([*lines, "", f"Seconds of the bare loop's parts: {parts}."]) + "\n"


def _median(runs: Sequence[Mapping[str, float]], key: str) -> float:
    return statistics.median(run[key] for run in runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--page", type=Path, help="a Markdown page whose section on these runs is rewritten")
    parser.add_argument("--bare", type=int, metavar="SEED", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare is not None:
        torch.set_num_threads(options.threads)
        print(json.dumps(bare(options.bare)))
        return
    found: dict[str, Any] = measure(options.rounds, options.threads)
    if options.json:
        print(json.dumps({"threads": options.threads, "found": found}, indent=2))
        return
    text = markdown(found, options.threads)
    if options.page:
        write_section(options.page, "frozen", text)
    print(text)


if __name__ == "__main__":
    main()
