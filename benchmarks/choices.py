"""Hyper-parameters are chosen on training rows held out, never on test rows: this repeats the choices that the pages tell of.

python -m benchmarks.choices CHOICE [--seeds 100 101 102], with CHOICE of ewc, si, fisher, ewc-rotated, ewc-permuted, posterior-digits, components,
backbone, support, normalise, align, align-fashion, align-cifar10, lgaa, lgaa-labels, lgaa-labels-digits, lgaa-split
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

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


def _adam(rate: float) -> dict[str, Any]:
    return {"name": "adam", "learning_rate": rate, "betas": [0.5, 0.9]}


def _autoencoder(**options: Any) -> dict[str, Any]:
    return {"autoencoder": {"name": "lgaa", **options}}


_THREE = {"replay_ratio": 3.0}

# How far answers are to stay alike, and how sure the snapshot is to be of a label of replay.
_FEW_LABELS = {
    f"radius {radius}, confidence {sure}": {"confidence": sure, **_autoencoder(virtual_adversarial=radius)}
    for radius in (0.0, 0.035, 0.07, 0.14)
    for sure in (0.9, 0.5, 0.0)
}


def _sampled(steps: int, dream: float, reconstructed: float = 0.0, **options: Any) -> dict[str, Any]:
    """An autoencoder as a generator whose replay is from the prior, and rehearsed where solver and request agree."""
    weights = {"reconstruction_weight": dream, "kl_weight": dream, "replay_temperature": 1.0}
    generator = {"name": "lgaa", "phase_steps": steps, **weights, **options}
    return {"generator": generator, "labels": "agreement", "reconstructed": reconstructed}


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
    "lgaa": (
        merged(
            TABLES["lgaa-two"].entries["lgaa"].override,
            {
                "stream": {"validation_fraction": 0.1},
                "scenario": "domain",
                "learner": {
                    "steps": 2000,
                    "replay_ratio": 1.0,
                    **_autoencoder(replay_temperature=1.0, conditioning="none"),
                },
            },
        ),
        {
            "as it was": {},
            "kl_weight 2": _autoencoder(kl_weight=2.0),
            "projection": _autoencoder(conditioning="projection"),
            "generator 1e-3": _autoencoder(generator_optimiser=_adam(1e-3)),
            "dream 2e-4": _autoencoder(dream_optimiser=_adam(2e-4)),
            "ratio 3": _THREE,
            "ratio 3, dream 1e-3": {**_THREE, **_autoencoder(dream_optimiser=_adam(1e-3))},
            "ratio 3, generator 5e-5": {**_THREE, **_autoencoder(generator_optimiser=_adam(5e-5))},
            "ratio 3, 3,000 steps": {**_THREE, "steps": 3000},
            "ratio 3, generator 1e-4, 3,000 steps": {
                **_THREE,
                "steps": 3000,
                **_autoencoder(generator_optimiser=_adam(1e-4)),
            },
            "ratio 3, labels 1e-3": {**_THREE, **_autoencoder(label_optimiser=_adam(1e-3))},
            "ratio 3, labels 1e-3, dream 3e-4": {
                **_THREE,
                **_autoencoder(label_optimiser=_adam(1e-3), dream_optimiser=_adam(3e-4)),
            },
            "ratio 4, labels 1e-3": {"replay_ratio": 4.0, **_autoencoder(label_optimiser=_adam(1e-3))},
            "ratio 3, wide 1.2": {**_THREE, **_autoencoder(replay_temperature=1.2)},
            **{
                f"ratio {ratio}, wide {wide}, 3,000 steps": {
                    "replay_ratio": float(ratio),
                    "steps": 3000,
                    **_autoencoder(replay_temperature=wide),
                }
                for ratio, wide in ((3, 1.3), (2, 1.3), (2, 1.5), (2, 2.0), (1, 1.5))
            },
            **{
                f"projection, ratio {ratio}, wide 1.5, {steps:,} steps{words}": {
                    "replay_ratio": float(ratio),
                    "steps": steps,
                    **_autoencoder(replay_temperature=1.5, conditioning="projection", mutual_information=weight),
                }
                for ratio, steps, weight, words in (
                    (2, 3000, 1.0, ""),
                    (2, 4500, 3.0, ", mutual information 3"),
                    (2, 6000, 1.0, ""),
                    (3, 6000, 1.0, ""),
                )
            },
        },
    ),
    "lgaa-labels": (
        merged(
            TABLES["lgaa-arms"].entries["labels-100"].override,
            {"stream": {"validation_fraction": 0.1}, "scenario": "domain"},
        ),
        _FEW_LABELS,
    ),
    "lgaa-labels-digits": (
        {
            "stream": {"name": "digits-inverted", "validation_fraction": 0.2},
            "scenario": "domain",
            "learner": {"name": "lgaa", "steps": 400, "labels_per_class": 5},
        },
        _FEW_LABELS,
    ),
    "lgaa-split": (
        merged(
            PRESETS["split-mnist-generative-replay"].options,
            {"stream": {"validation_fraction": 0.1}, "scenario": "class"},
        ),
        {
            "defaults, 300 steps": {"generator": {"name": "lgaa", "phase_steps": 300}},
            "prior, agreement, 2,000 steps": _sampled(2000, 1.0),
            "dream 0.1": _sampled(600, 0.1),
            "dream 0.1, generated inferred": _sampled(600, 0.1, infer_generated=True),
            "dream 0.1, generated inferred, half reconstructed": _sampled(600, 0.1, 0.5, infer_generated=True),
            "generated inferred, half reconstructed, 300 steps": _sampled(300, 1.0, 0.5, infer_generated=True),
            "generated inferred, half reconstructed, no mutual information": _sampled(
                600, 1.0, 0.5, infer_generated=True, mutual_information=0.0
            ),
        },
    ),
    "normalise": (LATENTS, {rule: merged(GAUSSIAN, {"normalise": rule}) for rule in ("none", "standardise")}),
}


def held_out(options: Mapping[str, Any], seed: int) -> Mapping[str, Any]:
    """The result of a run whose test sets are the tasks' validation rows."""
    stream = from_options(STREAMS, options["stream"]).build(options["scenario"], seed)
    held = zip(stream.tests, stream.validations, strict=True)
    stream = replace(stream, tests=tuple(replace(test, rows=rows) for test, rows in held))
    return reverie.run(stream, dict(options["learner"]), seed=seed).result


def first_and_last(result: Mapping[str, Any]) -> str:
    """What becomes of the first task, and how the last is learnt, of a run that reconstructs too."""
    if "reconstruction_mse" not in result["matrices"]:
        return ""
    accuracy, error = ([row[0] for row in result["matrices"][name]] for name in ("task_agnostic", "reconstruction_mse"))
    return (
        f"; first task {100 * accuracy[0]:.2f} -> {100 * accuracy[-1]:.2f}, its error times {error[-1] / error[0]:.3f}, "
        f"last task {100 * result['matrices']['task_agnostic'][-1][-1]:.2f}"
    )


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
        results = [held_out(merged(shared, {"learner": learner}), seed) for seed in words.seeds]
        values = [100 * result["summary"]["average_accuracy"] for result in results]
        print(
            name,
            f"{statistics.mean(values):.2f}",
            [round(value, 2) for value in values],
            *map(first_and_last, results),
            flush=True,
        )


if __name__ == "__main__":
    main()
