"""What a classifier of real rows sees in what a finished run generates; it ends up in ``judge.json`` of the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reverie.experiments.runs import Run
from reverie.probes.judge import BATCH, ROWS, STEPS, Judge, Judgement, judged
from reverie.storage import SCHEMA, write_json
from reverie.types import Stream

FILE = "judge.json"


@dataclass(frozen=True)
class Judged:
    """judge: that saw the images. found: by what was judged, "generated" and perhaps "replay". numbers: the contents of the file."""

    judge: Judge
    found: Mapping[str, Judgement]
    numbers: Mapping[str, Any]


def judge_run(
    run: Run,
    stream: Stream,
    *,
    judge: Judge | None = None,
    steps: int = STEPS,
    batch_size: int = BATCH,
    n: int = ROWS,
    seed: int = 0,
) -> Judged:
    """Judges a run with an ``AdversarialAutoencoder`` and, where it has a folder, writes the file. stream: that of the run, not merged; judge: one
    that was trained on it before, with these steps, batch size and seed, None: a new one. n: images of a domain."""
    if judge is None:
        judge = Judge(stream, steps=steps, batch_size=batch_size, seed=seed, device=run.device)
    found = judged(run.learner, judge, n, seed)
    numbers = {
        "schema": SCHEMA,
        "judge": {"steps": steps, "batch_size": batch_size, "seed": seed, "accuracy": judge.accuracy()},
        "pairs": judge.pairs.tolist(),
        **{name: judgement.numbers for name, judgement in found.items()},
    }
    if run.folder is not None:
        write_json(run.folder / FILE, numbers)
    return Judged(judge, found, numbers)
