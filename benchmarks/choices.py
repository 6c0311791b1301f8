"""Hyper-parameters are chosen on training rows held out, never on test rows: this repeats the choices that the pages tell of.

python -m benchmarks.choices CHOICE [--seeds 100 101 102], with CHOICE of ewc, si, fisher, ewc-rotated, ewc-permuted, posterior-digits, components,
backbone, support, normalise, align, align-fashion, align-cifar10
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping
from typing import Any

import torch

import reverie
from reverie.experiments.presets import PRESETS
from reverie.experiments.published import TABLES
from reverie.options import from_options, merged
from reverie.streams import STREAMS

DIGITS = {"stream": {"name": "split", "dataset": "digits", "tasks": 5, "validation_fraction": 0.2}, "scenario": "task"}
LATENTS = merged(PRESETS["glr-recommended"].options, {"stream": {"validation_fraction": 0.1}})
GAUSSIAN = {"method": {"generator": {"density": {"name": "gaussian", "covariance": "full"}}}}


# Each task of the same length: of its steps the last may be the head's on generated rows of all classes.
ALIGNED = {f"{1000 - k} + {k}": {"method": {"steps": 1000 - k, "align_steps": k}} for k in (0, 200, 500)}


def _domains(stream: str) -> Mapping[str, Any]:
    """A whole network on a stream of the ablations."""
    options = TABLES["glr-generators"].entries[f"{stream}-ewc"].override
    return merged(
        PRESETS["glr-recommended"].options,
        {**options, "stream": {**options["stream"], "validation_fraction": 0.1}, "scenario": "domain"},
    )


def _points(rate: float, init: str) -> dict[str, Any]:
    """Posterior replay of the table pmr-digits, with points."""
    learner = dict(TABLES["pmr-digits"].entries["pr-dirac"].override["learner"])
    optimiser = {"name": "adam", "learning_rate": rate}
    return {
        **learner,
        "solver": {**learner["solver"], "optimiser": optimiser},
        "hypernetwork": {"name": "full", "init": init},
    }


# name: what is shared by all candidates, and what each sets in the learner
CHOICES: dict[str, tuple[Mapping[str, Any], dict[str, dict[str, Any]]]] = {
    "ewc": (DIGITS, {f"{10.0**k:g}": {"name": "ewc", "strength": 10.0**k} for k in range(8)}),
    "si": (DIGITS, {f"{10.0**k:g}": {"name": "si", "strength": 10.0**k} for k in range(6)}),
    "fisher": (
        DIGITS,
        {rule: {"name": "ewc", "strength": 1e6, "fisher": rule} for rule in ("exact", "sampled", "empirical")},
    ),
    **{
        f"ewc-{stream}": (_domains(stream), {f"{10.0**k:g}": {"strength": 10.0**k} for k in range(5)})
        for stream in ("rotated", "permuted")
    },
    "posterior-digits": (
        merged(DIGITS, {"scenario": "class"}),
        {f"{init}, {rate:g}": _points(rate, init) for init in ("main", "xavier") for rate in (1e-3, 1e-4)},
    ),
    "components": (
        LATENTS,
        {str(k): {"method": {"generator": {"density": {"components": k}}}} for k in (1, 20, 60, 150)},
    ),
    "backbone": (
        LATENTS,
        {f"{a}, {b}": {"backbone": {"channels": [a, b]}} for a, b in ((16, 32), (32, 32), (32, 64))},
    ),
    "support": (
        LATENTS,
        {
            rule: {**merged(GAUSSIAN, {"method": {"generator": {"support": rule}}}), "normalise": "none"}
            for rule in ("real", "nonnegative")
        },
    ),
    "align": (LATENTS, ALIGNED),
    "align-fashion": (merged(LATENTS, {"stream": {"dataset": "fashion-mnist"}}), ALIGNED),
    # Behind a backbone that was trained on other data; the page of results says with which command.
    "align-cifar10": (
        merged(
            LATENTS,
            {
                "stream": {"dataset": "cifar10"},
                "learner": {
                    "backbone": {"channels": [32, 64]},
                    "weights": "runs/pretrained/cifar100-subset.safetensors",
                    "frozen": "from-start",
                    "steps": None,
                },
            },
        ),
        ALIGNED,
    ),
    "normalise": (LATENTS, {rule: merged(GAUSSIAN, {"normalise": rule}) for rule in ("none", "standardise")}),
}


def held_out(options: Mapping[str, Any], seed: int) -> float:
    """Average accuracy in % over the tasks' validation rows, after the last task."""
    stream = from_options(STREAMS, options["stream"]).build(options["scenario"], seed)
    run = reverie.run(stream, dict(options["learner"]), seed=seed)
    found = []
    for task in stream:
        head = task.index if options["scenario"] == "task" else None
        batch = task.validation.take(torch.arange(len(task.validation)))
        found.append(float((run.learner.predict(batch.x, head).scores.argmax(dim=1) == batch.y).float().mean()))
    return 100 * statistics.mean(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("choice", choices=CHOICES)
    parser.add_argument("--only", nargs="+", help="some of the candidates")
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101, 102])
    words = parser.parse_args()
    shared, candidates = CHOICES[words.choice]
    for name, learner in candidates.items():
        if words.only and name not in words.only:
            continue
        values = [held_out(merged(shared, {"learner": learner}), seed) for seed in words.seeds]
        print(name, f"{statistics.mean(values):.2f}", [round(value, 2) for value in values], flush=True)


if __name__ == "__main__":
    main()
