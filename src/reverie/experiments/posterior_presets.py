"""Posterior meta-replay and what it is compared with, as its authors ran them: the hyper-parameters of their public scripts, row by row.

``normalise: published`` belongs to the strengths of their divergences between Gaussians. Class-incremental, with a head a task and the
task inferred ("split head"). 100 weight samples answer.

CIFAR-10 and CIFAR-100 differ from theirs in three things: pixels lie in [0, 1], where they subtract ImageNet's means and divide by its deviations;
learning rates are constant, where theirs fall in most runs on CIFAR-100, on a schedule or with the accuracy on validation rows; and EWC and replay
have one set of batch norm statistics, where they keep one a task. Their ``keep_orig_init`` with a hypernetwork is ``init: hyperfan`` here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PAPER = "Henning, Cervera et al. 2021, arXiv 2103.01133, settings of the authors' public code"

CURVES: Mapping[str, Any] = {"name": "regression-1d"}
MODES: Mapping[str, Any] = {"name": "gaussian-modes"}
MNIST: Mapping[str, Any] = {"name": "split", "dataset": "mnist", "tasks": 5, "class_order": "natural"}
PERMUTED: Mapping[str, Any] = {"name": "permuted", "dataset": "mnist", "tasks": 10, "first_permuted": False}
_IMAGES: Mapping[str, Any] = {"name": "split", "class_order": "natural", "augment": "flip-crop"}
CIFAR10: Mapping[str, Any] = {**_IMAGES, "dataset": "cifar10", "tasks": 5}
CIFAR100: Mapping[str, Any] = {**_IMAGES, "dataset": "cifar100", "tasks": 10, "validation_fraction": 0.02}

NETWORKS: Mapping[str, Mapping[str, Any]] = {
    "modes": {"name": "mlp", "hidden": [10, 10]},  # and the curves
    "small": {"name": "mlp", "hidden": [100, 100]},
    "default": {"name": "mlp", "hidden": [400, 400]},
    "lenet": {"name": "cnn", "channels": [20, 50], "kernel": 5, "halving": "max-pool", "width": 500},
    "resnet-32": {"name": "resnet"},
    "resnet-18": {"name": "resnet-18"},
    "wrn-28-10": {"name": "wide-resnet"},
}

_GAUSSIAN = {"name": "gaussian"}
_LOCAL = {"name": "gaussian", "local": True}
_POINT = {"posterior": {"name": "dirac"}, "kl_weight": 0.0}


def _full(*hidden: int, **options: Any) -> dict[str, Any]:
    return {"name": "full", "hidden": list(hidden), **options}


def _chunked(size: int, *hidden: int, **options: Any) -> dict[str, Any]:
    return {"name": "chunked", "chunk_size": size, "hidden": list(hidden), **options}


def _row(*place: Any, **options: Any) -> dict[str, Any]:
    """place: stream, network, steps a task (on CIFAR epochs), batch size, learning rate, learner."""
    stream, network, length, batch, rate, learner = place
    unit = "epochs" if stream in (CIFAR10, CIFAR100) else "steps"
    optimiser = {"name": "adam", "learning_rate": rate}
    shared = {"solver": {**NETWORKS[network], "optimiser": optimiser}, unit: length, "batch_size": batch}
    point = learner in ("ewc", "replay") or options.get("posterior", {}).get("name") == "dirac"
    answers = {} if point else {"test_samples": 100}
    scenario = "domain" if stream is CURVES else "class"
    return {"stream": stream, "scenario": scenario, "learner": {"name": learner, **shared, **answers, **options}}


def _ewc(
    *place: Any, heads: str, strength: float, rows: int | None = None, clip: float | None = None, **options: Any
) -> dict[str, Any]:
    """place: stream, network, steps a task, batch size, learning rate. heads: active_classes. rows: of the Fisher information.

    Here the objective is divided by the rows N of a task, and so is the authors' largest gradient: ``clip`` is theirs / N. With fewer rows than
    all for the Fisher information their code also counts the prior N / rows times; here it counts once.
    """
    bayesian = {"mode": "bayesian", "fisher": "empirical", "fisher_rows": rows, "strength": strength}
    made = _row(*place, "ewc", **bayesian, active_classes=heads, **options)
    made["learner"]["solver"]["optimiser"].update(reset_each_task=True, clip=clip)
    return made


def _replay(
    *place: Any, rows: int, distill: float, replay_size: int | None = None, clip: float | None = 100.0
) -> dict[str, Any]:
    """Experience replay of a head that grows: 50 rows a class, no labels for them but the frozen network's answers. place: stream, network, steps a
    task, batch size, learning rate.

    The authors' loss is N times the cross-entropy of the new rows plus ``distill`` times that of each task's answers, N the ``rows`` of a task,
    and its gradient is at most ``clip`` long; here all of it is divided by N.
    """
    made = _row(*place, "replay", buffer={"name": "buffer", "budget": 50})
    made["learner"]["solver"]["optimiser"].update(
        reset_each_task=True, clip=None if clip is None else round(clip / rows, 4)
    )
    made["learner"].update(
        importance="by-task",
        replay_size=replay_size,
        stored_labels=False,
        distill=round(distill / rows, 4),
        active_classes="all-so-far",
    )
    return made


_PRIOR_FOCUSED = {
    "name": "implicit",
    "latent_dim": 32,
    "hidden": [10, 10],
    "activation": "sigmoid",
    "perturbation": 0.02,
}
_IMPLICIT = {"name": "implicit", "hidden": [10, 10], "perturbation": 0.02}
_SIGMOID_RATIO = {"estimator": "adversarial", "discriminator_activation": "sigmoid", "discriminator_batch": 10}
_OWN_CHUNKS = {"chunks_per_task": True, "task_std": 0.1, "chunk_std": 0.1}

# name: (options, cost)
ROWS: Mapping[str, tuple[dict[str, Any], str]] = {
    # ------------------------------------------------------------------------------ curves of one variable
    "pr-bbb-curves": (
        _row(
            *(CURVES, "modes", 5001, 32, 5e-4, "posterior-replay"),
            posterior=_LOCAL,
            samples=10,
            kl_weight=1.0,
            strength=10.0,
            divergence="forward-kl",
            hypernetwork=_full(10, 10, task_dim=8, init="xavier"),
        ),
        "15,000 steps",
    ),
    "pr-bbb-curves-b": (
        _row(
            *(CURVES, "modes", 5001, 32, 5e-4, "posterior-replay"),
            posterior=_LOCAL,
            samples=10,
            kl_weight=1.0,
            clip=1.0,
            strength=1e-3,
            hypernetwork=_full(50, 50, task_dim=2, init="gaussian"),
        ),
        "15,000 steps",
    ),
    "pr-radial-curves": (
        _row(
            *(CURVES, "modes", 5001, 32, 5e-4, "posterior-replay"),
            posterior={"name": "radial"},
            samples=100,
            kl_weight=1.0,
            clip=1.0,
            strength=0.1,
            hypernetwork=_full(100, 100, task_dim=32, task_std=0.1, init="main"),
        ),
        "15,000 steps",
    ),
    "pr-avb-curves": (
        _row(
            *(CURVES, "modes", 20001, 32, 1e-4, "posterior-replay"),
            samples=10,
            kl_weight=1.0,
            clip=1.0,
            strength=1.0,
            posterior={
                "name": "implicit",
                "latent_dim": None,
                "hidden": [141, 141],
                "perturbation": 0.0,
                "estimator": "adversarial",
                "discriminator": [],
                "discriminator_steps": 5,
            },
            hypernetwork=_full(100, 100, task_dim=32, init="xavier"),
        ),
        "60,000 steps",
    ),
    "pr-avb-curves-b": (
        _row(
            *(CURVES, "modes", 20001, 32, 1e-4, "posterior-replay"),
            samples=10,
            kl_weight=1.0,
            clip=1.0,
            strength=0.5,
            posterior={**_IMPLICIT, "latent_dim": 2, "estimator": "adversarial", "batch_stats": True},
            hypernetwork=_full(100, 100, task_dim=2, init="hyperfan"),
        ),
        "60,000 steps",
    ),
    "pr-ssge-curves": (
        _row(
            *(CURVES, "modes", 20001, 32, 1e-3, "posterior-replay"),
            samples=10,
            kl_weight=1.0,
            strength=1.0,
            posterior={
                **_IMPLICIT,
                "latent_dim": 32,
                "perturbation": 2e-4,
                "bandwidth": 1.0,
                "keep": 0.99,
                "stein_samples": 10,
            },
            hypernetwork=_full(100, 100, task_dim=2, activation="sigmoid", init="hyperfan"),
        ),
        "60,000 steps",
    ),
    "pr-ssge-curves-b": (
        _row(
            *(CURVES, "modes", 10001, 32, 5e-4, "posterior-replay"),
            samples=10,
            kl_weight=1.0,
            strength=0.01,
            posterior={
                **_IMPLICIT,
                "latent_dim": 32,
                "hidden": [100, 100],
                "activation": "sigmoid",
                "perturbation": 2e-4,
                "keep": 0.99,
                "stein_samples": 10,
            },
            hypernetwork=_full(100, 100, task_dim=32, init="xavier"),
        ),
        "30,000 steps",
    ),
    "pr-dirac-curves": (
        _row(
            *(CURVES, "modes", 10001, 32, 1e-3, "posterior-replay"),
            **{**_POINT, "strength": 0.1, "clip": 1.0, "hypernetwork": _full(50, 50, task_dim=8, init="xavier")},
        ),
        "30,000 steps",
    ),
    "vcl-curves": (
        _row(
            *(CURVES, "modes", 10001, 32, 1e-3, "vcl"),
            posterior=_GAUSSIAN,
            samples=100,
            kl_weight=1.0,
            clip=1.0,
            start="main",
        ),
        "30,000 steps",
    ),
    "ewc-curves": (
        _ewc(*(CURVES, "modes", 10001, 32, 5e-4), heads="all", strength=1.0, answers="posterior", test_samples=100),
        "30,000 steps",
    ),
    "pf-ssge-curves": (
        _row(
            *(CURVES, "modes", 20001, 32, 5e-4, "vcl"),
            samples=10,
            kl_weight=0.1,
            posterior={**_IMPLICIT, "latent_dim": 32, "keep": 0.9, "stein_samples": 100},
        ),
        "60,000 steps; the sign mended",
    ),
    "sp-bbb-curves": (
        _row(
            *(CURVES, "modes", 5001, 32, 1e-3, "separate-posteriors"),
            posterior=_LOCAL,
            samples=10,
            kl_weight=1.0,
            start="gaussian",
        ),
        "15,000 steps; our settings",
    ),
    "fine-tuning-curves": (
        _row(
            *(CURVES, "modes", 5001, 32, 1e-3, "posterior-replay"),
            **{**_POINT, "strength": 0.0, "hypernetwork": {"name": "single"}},
        ),
        "15,000 steps; our settings",
    ),
    # ------------------------------------------------------------------------------ modes of Gaussians in the plane
    "pr-dirac-modes": (
        _row(
            *(MODES, "modes", 5001, 32, 1e-4, "posterior-replay"),
            **{**_POINT, "strength": 0.01, "hypernetwork": _full(10, 10, task_dim=2, init="xavier")},
        ),
        "15,000 steps",
    ),
    "pr-bbb-modes": (
        _row(
            *(MODES, "modes", 5001, 32, 5e-4, "posterior-replay"),
            posterior=_LOCAL,
            samples=10,
            kl_weight=1.0,
            clip=1.0,
            strength=0.1,
            divergence="wasserstein",
            normalise="published",
            hypernetwork=_full(50, 50, activation="sigmoid", task_dim=32, init="gaussian"),
        ),
        "15,000 steps",
    ),
    "pr-radial-modes": (
        _row(
            *(MODES, "modes", 5001, 32, 1e-3, "posterior-replay"),
            posterior={"name": "radial"},
            samples=10,
            kl_weight=1.0,
            clip=1.0,
            strength=1.0,
            hypernetwork=_full(50, 50, task_dim=8, init="main"),
        ),
        "15,000 steps",
    ),
    "pr-ssge-modes": (
        _row(
            *(MODES, "modes", 20001, 32, 1e-3, "posterior-replay"),
            samples=10,
            kl_weight=1.0,
            clip=1.0,
            strength=0.1,
            posterior={**_IMPLICIT, "latent_dim": 32, "bandwidth": 1.0, "keep": 0.9, "stein_samples": 100},
            hypernetwork=_full(100, 100, task_dim=32, init="xavier"),
        ),
        "60,000 steps",
    ),
    "pr-avb-modes": (
        _row(
            *(MODES, "modes", 5001, 32, 1e-3, "posterior-replay"),
            samples=100,
            kl_weight=1.0,
            strength=0.1,
            posterior={**_IMPLICIT, **_SIGMOID_RATIO, "latent_dim": 8, "hidden": [100, 100]},
            hypernetwork=_full(100, 100, task_dim=2, init="xavier"),
        ),
        "15,000 steps",
    ),
    "pr-avb-modes-b": (
        _row(
            *(MODES, "modes", 20001, 32, 1e-4, "posterior-replay"),
            samples=100,
            kl_weight=1.0,
            strength=0.01,
            posterior={**_IMPLICIT, **_SIGMOID_RATIO, "latent_dim": 8, "activation": "sigmoid"},
            hypernetwork=_full(100, 100, task_dim=2, init="xavier"),
        ),
        "60,000 steps",
    ),
    "vcl-modes": (
        _row(
            *(MODES, "modes", 10001, 32, 5e-4, "vcl"), posterior=_GAUSSIAN, samples=100, kl_weight=1.0, start="gaussian"
        ),
        "30,000 steps",
    ),
    "pf-avb-modes": (
        _row(
            *(MODES, "modes", 5001, 32, 5e-4, "vcl"),
            samples=1,
            kl_weight=0.01,
            clip=1.0,
            posterior={
                **_PRIOR_FOCUSED,
                "estimator": "adversarial",
                "discriminator": [100, 100],
                "batch_stats": True,
                "discriminator_steps": 5,
            },
        ),
        "15,000 steps",
    ),
    "pf-ssge-modes": (
        _row(
            *(MODES, "modes", 20001, 32, 1e-4, "vcl"),
            samples=1,
            kl_weight=1.0,
            posterior={**_PRIOR_FOCUSED, "bandwidth": 1.0, "keep": 1.0, "stein_samples": 10},
        ),
        "60,000 steps; the sign mended",
    ),
    "sp-bbb-modes": (
        _row(
            *(MODES, "modes", 10001, 32, 1e-3, "separate-posteriors"),
            posterior=_LOCAL,
            samples=1,
            kl_weight=1.0,
            clip=1.0,
            start="gaussian",
        ),
        "30,000 steps",
    ),
    "sp-dirac-modes": (
        _row(*(MODES, "modes", 10001, 32, 1e-3, "separate-posteriors"), **_POINT, clip=1.0),
        "30,000 steps",
    ),
    "fine-tuning-modes": (
        _row(
            *(MODES, "modes", 2001, 32, 1e-3, "posterior-replay"),
            **{**_POINT, "strength": 0.0, "hypernetwork": {"name": "single"}},
        ),
        "6,000 steps",
    ),
    # 20 rows a task. The authors limit each number of the gradient of the sum to 1, here it is the norm.
    "ewc-growing-modes": (
        _ewc(*(MODES, "modes", 10001, 32, 5e-4), heads="all-so-far", strength=1.0, clip=1 / 20),
        "30,000 steps",
    ),
    "ewc-full-modes": (
        _ewc(*(MODES, "modes", 2001, 32, 1e-4), heads="all", strength=10.0, clip=1 / 20),
        "6,000 steps",
    ),
    # ------------------------------------------------------------------------------ Split MNIST
    "pr-dirac-split-mnist-small": (
        _row(
            *(MNIST, "small", 5000, 32, 5e-4, "posterior-replay"),
            **{**_POINT, "strength": 10.0, "hypernetwork": _chunked(8000, 10, 10, 10, 10, chunk_std=0.1)},
        ),
        "25,000 steps",
    ),
    "pr-dirac-split-mnist": (
        _row(
            *(MNIST, "default", 5000, 128, 1e-4, "posterior-replay"),
            **{**_POINT, "strength": 2.0, "hypernetwork": _chunked(4500, 100, 100, activation="sigmoid")},
        ),
        "25,000 steps",
    ),
    "pr-dirac-sr-split-mnist": (
        _row(
            *(MNIST, "default", 5000, 128, 1e-4, "posterior-replay"),
            **{
                **_POINT,
                "strength": 10.0,
                "old_tasks": 1,
                "hypernetwork": _chunked(4500, 100, 100, activation="sigmoid"),
            },
        ),
        "25,000 steps",
    ),
    "pr-dirac-supsup-split-mnist": (
        _row(
            *(MNIST, "default", 5000, 128, 1e-4, "posterior-replay"),
            **{
                **_POINT,
                "strength": 0.1,
                "criterion": "entropy-gradient",
                "active_classes": "all-so-far",
                "hypernetwork": _chunked(4500, 100, 100),
            },
        ),
        "25,000 steps",
    ),
    "pr-dirac-split-mnist-lenet": (
        _row(
            *(MNIST, "lenet", 5000, 128, 1e-3, "posterior-replay"),
            **{**_POINT, "strength": 2.0, "hypernetwork": _chunked(38000, 10, 10, chunk_dim=16)},
        ),
        "25,000 steps",
    ),
    "pr-bbb-split-mnist-small": (
        _row(
            *(MNIST, "small", 5000, 128, 1e-4, "posterior-replay"),
            posterior=_GAUSSIAN,
            samples=10,
            kl_weight=1e-4,
            strength=100.0,
            divergence="wasserstein",
            normalise="published",
            hypernetwork=_chunked(2500, **_OWN_CHUNKS),
        ),
        "25,000 steps",
    ),
    "pr-bbb-cs-split-mnist-small": (
        _row(
            *(MNIST, "small", 5000, 128, 1e-4, "posterior-replay"),
            posterior=_GAUSSIAN,
            samples=10,
            kl_weight=1e-4,
            strength=100.0,
            divergence="wasserstein",
            normalise="published",
            hypernetwork=_chunked(2500, **_OWN_CHUNKS),
            coreset={"name": "coreset", "size": 100},
        ),
        "30,000 steps",
    ),
    "pr-bbb-split-mnist": (
        _row(
            *(MNIST, "default", 2000, 128, 1e-4, "posterior-replay"),
            posterior=_GAUSSIAN,
            samples=10,
            kl_weight=1e-6,
            strength=0.1,
            divergence="forward-kl",
            normalise="published",
            hypernetwork=_chunked(1350, 100, 250, 500, task_dim=64, chunks_per_task=True),
        ),
        "10,000 steps",
    ),
    "pr-bbb-split-mnist-lenet": (
        _row(
            *(MNIST, "lenet", 5000, 128, 1e-4, "posterior-replay"),
            posterior=_GAUSSIAN,
            samples=1,
            kl_weight=1e-3,
            strength=1.0,
            divergence="forward-kl",
            normalise="published",
            hypernetwork=_chunked(78000, 10, 10, task_dim=64),
        ),
        "25,000 steps",
    ),
    "pr-radial-split-mnist-small": (
        _row(
            *(MNIST, "small", 2000, 32, 1e-4, "posterior-replay"),
            posterior={"name": "radial"},
            samples=1,
            kl_weight=1e-3,
            strength=1.0,
            hypernetwork=_chunked(2500, chunks_per_task=True, task_std=0.1),
        ),
        "10,000 steps",
    ),
    "vcl-split-mnist-small": (
        _row(*(MNIST, "small", 2000, 128, 1e-4, "vcl"), posterior=_GAUSSIAN, samples=10, kl_weight=10.0, start="main"),
        "10,000 steps",
    ),
    "vcl-split-mnist": (
        _row(
            *(MNIST, "default", 2000, 128, 1e-5, "vcl"),
            posterior=_GAUSSIAN,
            samples=1,
            kl_weight=1e-4,
            clip=1.0,
            start="gaussian",
        ),
        "10,000 steps",
    ),
    "sp-bbb-split-mnist-small": (
        _row(
            *(MNIST, "small", 2000, 128, 1e-3, "separate-posteriors"),
            posterior=_GAUSSIAN,
            samples=50,
            kl_weight=0.01,
            start="gaussian",
        ),
        "10,000 steps",
    ),
    "sp-dirac-split-mnist-small": (
        _row(*(MNIST, "small", 5000, 128, 5e-4, "separate-posteriors"), **_POINT),
        "25,000 steps",
    ),
    "ewc-multi-point-split-mnist-small": (  # ours: the same, and the newest weights answer in place of samples
        _ewc(*(MNIST, "small", 2001, 32, 5e-4), heads="current", strength=10.0),
        "10,000 steps",
    ),
    "ewc-growing-split-mnist-small": (  # some 12,000 rows a task
        _ewc(*(MNIST, "small", 2001, 32, 1e-3), heads="all-so-far", strength=1000.0, clip=1 / 12_000),
        "10,000 steps",
    ),
    "ewc-full-split-mnist-small": (
        _ewc(*(MNIST, "small", 2001, 32, 1e-4), heads="all", strength=1000.0, rows=200),
        "10,000 steps",
    ),
    "ewc-multi-split-mnist-small": (
        _ewc(*(MNIST, "small", 2001, 32, 5e-4), heads="current", strength=10.0, answers="posterior", test_samples=100),
        "10,000 steps",
    ),
    "er-split-mnist-small": (
        _replay(*(MNIST, "small", 1000, 8, 5e-4), rows=12_000, distill=100.0, replay_size=16),
        "5,000 steps",
    ),
    "er-split-mnist": (
        _replay(*(MNIST, "default", 1000, 8, 1e-4), rows=12_000, distill=500.0, replay_size=16),
        "5,000 steps",
    ),
    # ------------------------------------------------------------------------------ Permuted MNIST, 10 tasks
    "pr-dirac-permuted-mnist-small": (
        _row(
            *(PERMUTED, "small", 5000, 128, 5e-4, "posterior-replay"),
            **{**_POINT, "strength": 250.0, "clip": 1.0},
            hypernetwork=_chunked(750, 100, 100, chunk_dim=16, chunk_std=0.1, chunks_per_task=True),
        ),
        "50,000 steps",
    ),
    "pr-bbb-permuted-mnist-small": (
        _row(
            *(PERMUTED, "small", 5000, 128, 1e-4, "posterior-replay"),
            posterior=_GAUSSIAN,
            samples=1,
            kl_weight=1e-3,
            strength=50.0,
            clip=1.0,
            divergence="wasserstein",
            normalise="published",
            hypernetwork=_chunked(2900, **_OWN_CHUNKS),
        ),
        "50,000 steps",
    ),
    # ------------------------------------------------------------------------------ Split CIFAR-10
    "pr-dirac-split-cifar10-resnet-32": (
        _row(
            *(CIFAR10, "resnet-32", 40, 32, 5e-4, "posterior-replay"),
            **_POINT,
            strength=50.0,
            hypernetwork=_chunked(7000, task_dim=16, chunk_dim=16, task_std=0.01),
        ),
        "62,400 steps, 0.8 PFLOP; wants a GPU",
    ),
    "pr-dirac-sr-split-cifar10-wrn-28-10": (
        _row(
            *(CIFAR10, "wrn-28-10", 40, 128, 1e-4, "posterior-replay"),
            **_POINT,
            strength=10.0,
            clip=1.0,
            old_tasks=1,
            targets="recomputed",
            hypernetwork=_chunked(700000, 50, 50, 50, 50, chunk_std=0.1, chunks_per_task=True),
        ),
        "15,600 steps, 63 PFLOP; wants a GPU",
    ),
    "pr-bbb-split-cifar10-resnet-32": (
        _row(
            *(CIFAR10, "resnet-32", 60, 32, 1e-3, "posterior-replay"),
            posterior=_GAUSSIAN,
            samples=10,
            kl_weight=1e-4,
            strength=25.0,
            hypernetwork=_chunked(9000, 100, 100, task_dim=16, chunk_dim=16, chunk_std=0.01, init="gaussian"),
        ),
        "93,600 steps, 12 PFLOP; wants a GPU",
    ),
    "pr-bbb-sr-split-cifar10-wrn-28-10": (
        _row(
            *(CIFAR10, "wrn-28-10", 60, 32, 1e-3, "posterior-replay"),
            posterior=_GAUSSIAN,
            samples=1,
            kl_weight=1e-5,
            strength=0.1,
            divergence="forward-kl",
            normalise="published",
            clip=1.0,
            old_tasks=1,
            targets="recomputed",
            hypernetwork=_chunked(50000, 250, 500, 1000, **_OWN_CHUNKS, init="hyperfan"),
        ),
        "93,600 steps, 169 PFLOP; wants a GPU",
    ),
    "pr-bbb-cs-100-split-cifar10-resnet-32": (
        _row(
            *(CIFAR10, "resnet-32", 60, 32, 1e-3, "posterior-replay"),
            posterior=_GAUSSIAN,
            samples=10,
            kl_weight=1e-4,
            strength=25.0,
            hypernetwork=_chunked(9000, 100, 100, task_dim=16, chunk_dim=16, chunk_std=0.01, init="gaussian"),
            coreset={"name": "coreset", "size": 100, "steps": 18_540, "own": 0.5},
        ),
        "111,240 steps, 25 PFLOP; wants a GPU",
    ),
    "pr-bbb-cs-500-split-cifar10-resnet-32": (
        _row(
            *(CIFAR10, "resnet-32", 60, 32, 1e-3, "posterior-replay"),
            posterior=_GAUSSIAN,
            samples=10,
            kl_weight=1e-4,
            strength=25.0,
            hypernetwork=_chunked(9000, 100, 100, task_dim=16, chunk_dim=16, chunk_std=0.01, init="hyperfan"),
            coreset={"name": "coreset", "size": 500, "steps": 17_760, "targets": "random"},
        ),
        "106,560 steps, 24 PFLOP; wants a GPU",
    ),
    "pr-radial-split-cifar10-resnet-32": (
        _row(
            *(CIFAR10, "resnet-32", 60, 32, 1e-3, "posterior-replay"),
            posterior={"name": "radial"},
            samples=1,
            kl_weight=1e-4,
            strength=10.0,
            hypernetwork=_chunked(9000, 100, 100, task_std=0.01),
        ),
        "93,600 steps, 1.4 PFLOP; wants a GPU",
    ),
    "pr-ssge-split-cifar10-resnet-32": (
        _row(
            *(CIFAR10, "resnet-32", 20, 64, 5e-4, "posterior-replay"),
            samples=10,
            kl_weight=1e-5,
            strength=100.0,
            clip=100.0,
            posterior={
                **_IMPLICIT,
                "latent_dim": 8,
                "hidden": [10, 10, 10, 10],
                "chunk_size": 40_000,
                "perturbation": 2e-4,
                "bandwidth": 1.0,
                "keep": 1.0,
                "stein_samples": 5,
            },
            hypernetwork=_chunked(4000, 100, 100, task_std=0.1, chunk_std=0.1),
        ),
        "15,600 steps, 4.1 PFLOP; wants a GPU",
    ),
    "vcl-split-cifar10-resnet-32": (
        _row(
            *(CIFAR10, "resnet-32", 40, 32, 5e-3, "vcl"),
            posterior=_GAUSSIAN,
            samples=10,
            kl_weight=1e-4,
            clip=100.0,
            start="gaussian",
        ),
        "62,400 steps, 8.2 PFLOP; wants a GPU",
    ),
    "ewc-growing-split-cifar10-resnet-32": (
        _ewc(*(CIFAR10, "resnet-32", 40, 32, 1e-3), heads="all-so-far", strength=0.01, clip=100 / 10_000),
        "62,400 steps, 0.8 PFLOP; wants a GPU",
    ),
    "ewc-multi-split-cifar10-resnet-32": (
        _ewc(*(CIFAR10, "resnet-32", 40, 32, 1e-3), heads="current", strength=1000.0, rows=200),
        "62,400 steps, 0.8 PFLOP; wants a GPU",
    ),
    "er-split-cifar10-resnet-32": (
        _replay(*(CIFAR10, "resnet-32", 40, 64, 5e-5), rows=10_000, distill=100.0, clip=None),
        "31,200 steps, 1.5 PFLOP; wants a GPU",
    ),
    "sp-bbb-split-cifar10-resnet-32": (
        _row(
            *(CIFAR10, "resnet-32", 80, 32, 1e-2, "separate-posteriors"),
            posterior=_GAUSSIAN,
            samples=10,
            kl_weight=0.01,
            start="main",
        ),
        "124,800 steps, 16 PFLOP; wants a GPU",
    ),
    "sp-dirac-split-cifar10-resnet-32": (
        _row(
            *(CIFAR10, "resnet-32", 40, 32, 5e-4, "separate-posteriors"),
            **_POINT,
        ),
        "62,400 steps, 0.8 PFLOP; wants a GPU",
    ),
    "fine-tuning-split-cifar10-resnet-32": (
        _row(
            *(CIFAR10, "resnet-32", 80, 32, 5e-4, "posterior-replay"),
            **_POINT,
            strength=0.0,
            hypernetwork={"name": "single"},
        ),
        "124,800 steps, 1.6 PFLOP; wants a GPU",
    ),
    # ------------------------------------------------------------------------------ Split CIFAR-100
    "pr-dirac-split-cifar100-resnet-32": (
        _row(
            *(CIFAR100, "resnet-32", 200, 32, 5e-4, "posterior-replay"),
            **_POINT,
            strength=10.0,
            clip=100.0,
            hypernetwork=_chunked(7000, chunk_dim=16, chunk_std=0.01),
        ),
        "306,000 steps, 4.0 PFLOP; wants a GPU",
    ),
    "pr-dirac-big-split-cifar100-resnet-32": (
        _row(
            *(CIFAR100, "resnet-32", 200, 32, 1e-4, "posterior-replay"),
            **_POINT,
            strength=0.01,
            clip=100.0,
            hypernetwork=_chunked(10000, 250, 500, 1000, compression=None),
        ),
        "306,000 steps, 9.2 PFLOP; wants a GPU",
    ),
    "pr-dirac-big-sr-split-cifar100-resnet-32": (
        _row(
            *(CIFAR100, "resnet-32", 200, 64, 5e-4, "posterior-replay"),
            **_POINT,
            strength=1.0,
            old_tasks=1,
            hypernetwork=_chunked(150000, task_dim=16, chunk_std=0.01, compression=None),
        ),
        "152,000 steps, 4.0 PFLOP; wants a GPU",
    ),
    "pr-bbb-big-sr-split-cifar100-resnet-32": (
        _row(
            *(CIFAR100, "resnet-32", 200, 32, 5e-4, "posterior-replay"),
            posterior=_GAUSSIAN,
            samples=10,
            kl_weight=0.005,
            strength=25.0,
            old_tasks=1,
            hypernetwork=_chunked(
                200000,
                100,
                100,
                100,
                100,
                activation="sigmoid",
                task_dim=16,
                chunk_std=0.01,
                init="gaussian",
                compression=None,
            ),
        ),
        "306,000 steps, 41 PFLOP; wants a GPU",
    ),
    "ewc-multi-split-cifar100-resnet-32": (
        _ewc(*(CIFAR100, "resnet-32", 200, 32, 5e-4), heads="current", strength=1000.0, rows=200),
        "306,000 steps, 4.0 PFLOP; wants a GPU",
    ),
    "sp-dirac-split-cifar100-resnet-32": (
        _row(
            *(CIFAR100, "resnet-32", 200, 32, 5e-4, "separate-posteriors"),
            **_POINT,
        ),
        "306,000 steps, 4.0 PFLOP; wants a GPU",
    ),
    "fine-tuning-split-cifar100-resnet-32": (
        _row(
            *(CIFAR100, "resnet-32", 200, 32, 5e-4, "posterior-replay"),
            **_POINT,
            strength=0.0,
            hypernetwork={"name": "single"},
        ),
        "306,000 steps, 4.0 PFLOP; wants a GPU",
    ),
    "pr-dirac-split-cifar100-resnet-18": (
        _row(
            *(CIFAR100, "resnet-18", 200, 64, 5e-4, "posterior-replay"),
            **_POINT,
            strength=100.0,
            hypernetwork=_chunked(150000, task_dim=16, chunk_dim=16, task_std=0.01, chunk_std=0.01),
        ),
        "152,000 steps, 33 PFLOP; wants a GPU",
    ),
    "pr-dirac-sr-split-cifar100-resnet-18": (
        _row(
            *(CIFAR100, "resnet-18", 200, 32, 5e-4, "posterior-replay"),
            **_POINT,
            strength=50.0,
            old_tasks=1,
            hypernetwork=_chunked(150000, task_dim=16, chunk_dim=16, chunk_std=0.01),
        ),
        "306,000 steps, 33 PFLOP; wants a GPU",
    ),
    "pr-bbb-split-cifar100-resnet-18": (
        _row(
            *(CIFAR100, "resnet-18", 120, 32, 5e-4, "posterior-replay"),
            posterior=_GAUSSIAN,
            samples=10,
            kl_weight=1e-5,
            strength=50.0,
            divergence="wasserstein",
            normalise="published",
            hypernetwork=_chunked(300000, task_dim=16, chunk_std=0.01, init="hyperfan"),
        ),
        "183,600 steps, 196 PFLOP; wants a GPU",
    ),
    "pr-bbb-sr-split-cifar100-resnet-18": (
        _row(
            *(CIFAR100, "resnet-18", 200, 64, 5e-4, "posterior-replay"),
            posterior=_GAUSSIAN,
            samples=10,
            kl_weight=1e-6,
            strength=5.0,
            divergence="wasserstein",
            normalise="published",
            old_tasks=1,
            hypernetwork=_chunked(300000, init="gaussian"),
        ),
        "152,000 steps, 325 PFLOP; wants a GPU",
    ),
    "pr-bbb-sr-split-cifar100-resnet-18-b": (
        _row(
            *(CIFAR100, "resnet-18", 200, 64, 5e-4, "posterior-replay"),
            posterior=_GAUSSIAN,
            samples=10,
            kl_weight=1e-5,
            strength=10.0,
            divergence="wasserstein",
            normalise="published",
            old_tasks=1,
            clip=100.0,
            hypernetwork=_chunked(300000, task_dim=16, init="gaussian"),
        ),
        "152,000 steps, 325 PFLOP; wants a GPU",
    ),
    "ewc-multi-split-cifar100-resnet-18": (
        _ewc(*(CIFAR100, "resnet-18", 80, 32, 5e-4), heads="current", strength=100_000.0, rows=200),
        "122,400 steps, 13 PFLOP; wants a GPU",
    ),
    "sp-bbb-split-cifar100-resnet-18": (
        _row(
            *(CIFAR100, "resnet-18", 200, 64, 5e-4, "separate-posteriors"),
            posterior=_GAUSSIAN,
            samples=10,
            kl_weight=1e-3,
            prior_variance=10.0,
            clip=100.0,
            start="main",
        ),
        "152,000 steps, 324 PFLOP; wants a GPU",
    ),
    "sp-dirac-split-cifar100-resnet-18": (
        _row(
            *(CIFAR100, "resnet-18", 200, 32, 5e-4, "separate-posteriors"),
            **_POINT,
        ),
        "306,000 steps, 33 PFLOP; wants a GPU",
    ),
    "fine-tuning-split-cifar100-resnet-18": (
        _row(
            *(CIFAR100, "resnet-18", 200, 32, 5e-4, "posterior-replay"),
            **_POINT,
            strength=0.0,
            clip=100.0,
            hypernetwork={"name": "single"},
        ),
        "306,000 steps, 33 PFLOP; wants a GPU",
    ),
}
