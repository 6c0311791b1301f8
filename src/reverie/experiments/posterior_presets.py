"""Posterior meta-replay and what it is compared with, as its authors ran them: the hyper-parameters of their public scripts, row by row.

Class-incremental, with a head a task and the task inferred ("split head"). 100 weight samples answer. Where they list several runs of a kind, a
letter at the end of a name tells which.

What their code does and their strengths belong to is asked for by name: ``normalise: published`` between Gaussians; ``fresh_heads: false`` in
prior-focused classification, where heads that were never trained are held like all others; ``clip_score: false``; ``fisher_prior: published``. The
sign of the prior's score in PF-SSGE is mended, theirs is ``prior_sign: published``.

Their ``keep_orig_init`` has no effect with a hypernetwork, but together with ``hyper_gauss_init`` it is ``init: hyperfan`` here; without a
hypernetwork it is ``start: main`` of a network with ``init: xavier``. A generator that no hypernetwork makes starts as hyperfan-in says, theirs
does with ``hyper_fan_init`` alone. ``kl_samples`` is theirs; by Stein they take the score at the samples of the step and only the term of the
prior from these, here both are of one number, the larger. A largest gradient that they set for each number is one for the norm here.

CIFAR-10 and CIFAR-100 differ from theirs in three things: pixels lie in [0, 1], where they subtract ImageNet's means and divide by its deviations;
learning rates are constant, where theirs fall in most runs on CIFAR-100, on a schedule or with the accuracy on validation rows; and EWC and replay
have one set of batch norm statistics, where they keep one a task.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PAPER = "Henning, Cervera et al. 2021, arXiv 2103.01133, settings of the authors' public code"

CURVES: Mapping[str, Any] = {"name": "regression-1d"}
MODES: Mapping[str, Any] = {"name": "gaussian-modes"}
MNIST: Mapping[str, Any] = {"name": "split", "dataset": "mnist", "tasks": 5, "class_order": "natural"}
PERMUTED: Mapping[str, Any] = {"name": "permuted", "dataset": "mnist", "tasks": 10, "first_permuted": False}
PADDED: Mapping[str, Any] = {**PERMUTED, "pad": 2}
HUNDRED: Mapping[str, Any] = {**PADDED, "tasks": 100}
_IMAGES: Mapping[str, Any] = {"name": "split", "class_order": "natural", "augment": "flip-crop"}
CIFAR10: Mapping[str, Any] = {**_IMAGES, "dataset": "cifar10", "tasks": 5}
CIFAR100: Mapping[str, Any] = {**_IMAGES, "dataset": "cifar100", "tasks": 10, "validation_fraction": 0.02}
ROWS_A_TASK = {"cifar10": 10_000, "cifar100": 4_900}

NETWORKS: Mapping[str, Mapping[str, Any]] = {
    "tiny": {"name": "mlp", "hidden": [10, 10]},
    "sigmoid": {"name": "mlp", "hidden": [10, 10], "activation": "sigmoid"},
    "small": {"name": "mlp", "hidden": [100, 100]},
    "default": {"name": "mlp", "hidden": [400, 400]},
    "large": {"name": "mlp", "hidden": [1000, 1000]},
    "lenet": {"name": "cnn", "channels": [20, 50], "kernel": 5, "halving": "max-pool", "width": 500},
    "resnet-32": {"name": "resnet"},
    "resnet-18": {"name": "resnet-18"},
    "wrn-28-10": {"name": "wide-resnet"},
}

XAVIER = (
    "tiny",
    "sigmoid",
    "small",
    "default",
    "large",
    "lenet",
)  # these start so wherever nothing else makes their weights

Options = dict[str, Any]
Row = tuple[Options, str]  # and cost

# ---------------------------------------------------------------------------------------------- parts

_GAUSSIAN = {"name": "gaussian"}
_LOCAL = {"name": "gaussian", "local": True}
_RADIAL = {"name": "radial"}
_SINGLE = {"name": "single"}
_SIGN = "the sign mended"


def _full(*hidden: int, init: str = "xavier", **options: Any) -> Options:
    """For networks so small that it may be as much larger as it likes."""
    return {"name": "full", "hidden": list(hidden), "init": init, "compression": None, **options}


def _chunked(size: int, *hidden: int, **options: Any) -> Options:
    return {"name": "chunked", "chunk_size": size, "hidden": list(hidden), **options}


def _generator(latent: int | None, *hidden: int, **options: Any) -> Options:
    return {"name": "implicit", "latent_dim": latent, "hidden": list(hidden), "perturbation": 0.02, **options}


def _by_stein(generator: Options, samples: int, keep: float = 1.0, width: float | str = 1.0) -> Options:
    return {**generator, "stein_samples": samples, "keep": keep, "bandwidth": width}


def _by_discriminator(
    generator: Options, *hidden: int, activation: str = "relu", steps: int = 1, batch: int = 32, stats: bool = False
) -> Options:
    """stats: whether it sees the mean of its samples too."""
    return {
        **generator,
        "estimator": "adversarial",
        "discriminator": list(hidden),
        "discriminator_activation": activation,
        "discriminator_steps": steps,
        "discriminator_batch": batch,
        "batch_stats": stats,
    }


# ---------------------------------------------------------------------------------------------- rows
# place: stream, network, steps a task (on CIFAR epochs), batch size, learning rate


def _row(
    learner: str,
    *place: Any,
    scenario: str | None = None,
    pflop: float | None = None,
    note: str = "",
    **options: Any,
) -> Row:
    """pflop: computed, where a GPU is wanted."""
    stream, network, length, batch, rate = place
    on_images = stream.get("dataset") in ROWS_A_TASK
    optimiser = {"name": "adam", "learning_rate": rate}
    shared: Options = {"solver": {**NETWORKS[network], "optimiser": optimiser}, "batch_size": batch}
    shared["epochs" if on_images else "steps"] = length
    if network in XAVIER and _starts_itself(learner, options):
        shared["solver"]["init"] = "xavier"
    if options.get("clip") and "stein_samples" in options["posterior"]:
        options["posterior"] = {**options["posterior"], "clip_score": False}
    point = learner in ("ewc", "replay") or options["posterior"] == {"name": "dirac"}
    answers = {} if point else {"test_samples": 100}
    made = {
        "stream": stream,
        "scenario": scenario or ("domain" if stream is CURVES else "class"),
        "learner": {"name": learner, **shared, **answers, **options},
    }
    coreset = options.get("coreset") or {}
    steps = length * ((ROWS_A_TASK[stream["dataset"]] - coreset.get("size", 0)) // batch) if on_images else length
    total = steps * stream.get("tasks", 3) + (coreset.get("steps", steps) if coreset else 0)
    cost = f"{total:,} steps" + (f", {pflop:g} PFLOP; wants a GPU" if pflop else "") + (f"; {note}" if note else "")
    return made, cost


def _starts_itself(learner: str, options: Mapping[str, Any]) -> bool:
    """Whether the main network's own start is where its weights start: no hypernetwork makes them, no generator, no Gaussian start."""
    if learner in ("ewc", "replay") or options.get("hypernetwork") == _SINGLE:
        return True
    made = "hypernetwork" in options or options["posterior"]["name"] == "implicit"
    return not made and options.get("start", "main") == "main"


def _replayed(*place: Any, hypernetwork: Options, strength: float, **options: Any) -> Row:
    if options.get("divergence") and place[0] is not CURVES:
        options["normalise"] = "published"
    return _row("posterior-replay", *place, hypernetwork=hypernetwork, strength=strength, **options)


def _dirac(*place: Any, hypernetwork: Options, strength: float, **options: Any) -> Row:
    point: Options = {"posterior": {"name": "dirac"}, "kl_weight": 0.0}
    return _replayed(*place, **point, hypernetwork=hypernetwork, strength=strength, **options)


def _fine_tuned(*place: Any, hypernetwork: Options = _SINGLE, **options: Any) -> Row:
    return _dirac(*place, hypernetwork=hypernetwork, strength=0.0, **options)


def _separate(*place: Any, posterior: Options, **options: Any) -> Row:
    """Without a hypernetwork a Gaussian starts as a Gaussian network does, unless ``start`` is given."""
    if posterior["name"] == "gaussian" and "hypernetwork" not in options:
        options = {"start": "gaussian", **options}
    return _row("separate-posteriors", *place, posterior=posterior, **options)


def _separate_dirac(*place: Any, **options: Any) -> Row:
    return _separate(*place, posterior={"name": "dirac"}, kl_weight=0.0, **options)


def _prior_focused(*place: Any, posterior: Options, **options: Any) -> Row:
    if posterior["name"] == "gaussian":
        options = {"start": "gaussian", **options}
    if place[0] is not CURVES:
        options["fresh_heads"] = False
    return _row("vcl", *place, posterior=posterior, **options)


def _ewc(
    *place: Any,
    heads: str,
    strength: float,
    rows: int | None = None,
    clip: float | None = None,
    samples: int | None = None,
    **options: Any,
) -> Row:
    """heads: active_classes. rows: of the Fisher information. samples: of the posterior, that answer; None: the point does.

    Here the objective is divided by the rows N of a task, and so is the authors' limit to each number of the gradient: ``clip`` is theirs / N.
    With fewer rows than all for the Fisher information their code counts the prior N / rows times.
    """
    bayesian: Options = {"mode": "bayesian", "fisher": "empirical", "strength": strength}
    if rows:
        bayesian.update(fisher_rows=rows, fisher_prior="published")
    answers: Options = {"answers": "posterior", "test_samples": samples} if samples else {}
    made, cost = _row("ewc", *place, **bayesian, **answers, active_classes=heads, **options)
    made["learner"]["solver"]["optimiser"].update(reset_each_task=True, clip_value=clip)
    return made, cost


def _experience(
    *place: Any, rows: int, distill: float, clip: float | None = None, pflop: float | None = None, **options: Any
) -> Row:
    """Experience replay of a head that grows: 50 rows a class, no labels for them but the frozen network's answers.

    The authors' loss is N times the cross-entropy of the new rows plus ``distill`` times that of the answers, N the ``rows`` of a task, and its
    gradient is at most ``clip`` long; here all of it is divided by N. Where so many rows of each old task are replayed, it is the mean over
    old tasks (importance 1 / 2); where so many of all, their sum (importance by task).
    """
    made, cost = _row("replay", *place, pflop=pflop, buffer={"name": "buffer", "budget": 50})
    made["learner"]["solver"]["optimiser"].update(
        reset_each_task=True, clip=None if clip is None else round(clip / rows, 4)
    )
    made["learner"].update(
        stored_labels=False, distill=round(distill / rows, 4), active_classes="all-so-far", **options
    )
    return made, cost


def _coreset(size: int, targets: str = "uniform", **options: Any) -> Options:
    return {"name": "coreset", "size": size, "targets": targets, **options}


# ---------------------------------------------------------------------------------------------- what several rows share

_OWN_CHUNKS: Options = {"chunks_per_task": True, "task_std": 0.1, "chunk_std": 0.1}
_SIGMOID_TEN: Options = {"activation": "sigmoid", "batch": 10}


def _gaussian_small(**options: Any) -> Row:
    shared: Options = {
        "posterior": _GAUSSIAN,
        "samples": 10,
        "kl_weight": 1e-4,
        "strength": 100.0,
        "divergence": "wasserstein",
    }
    hypernetwork = _chunked(2500, **_OWN_CHUNKS)
    return _replayed(MNIST, "small", 5000, 128, 1e-4, **shared, hypernetwork=hypernetwork, **options)


def _gaussian_default(**options: Any) -> Row:
    shared: Options = {
        "posterior": _GAUSSIAN,
        "samples": 10,
        "kl_weight": 1e-6,
        "strength": 0.1,
        "divergence": "forward-kl",
    }
    hypernetwork = _chunked(1350, 100, 250, 500, task_dim=64, chunks_per_task=True)
    return _replayed(MNIST, "default", 2000, 128, 1e-4, **shared, hypernetwork=hypernetwork, **options)


def _gaussian_lenet(**options: Any) -> Row:
    shared: Options = {
        "posterior": _GAUSSIAN,
        "samples": 1,
        "kl_weight": 1e-3,
        "strength": 1.0,
        "divergence": "forward-kl",
    }
    hypernetwork = _chunked(78000, 10, 10, task_dim=64)
    return _replayed(MNIST, "lenet", 5000, 128, 1e-4, **shared, hypernetwork=hypernetwork, **options)


def _gaussian_cifar10(init: str, **options: Any) -> Row:
    shared: Options = {"posterior": _GAUSSIAN, "samples": 10, "kl_weight": 1e-4, "strength": 25.0}
    hypernetwork = _chunked(9000, 100, 100, task_dim=16, chunk_dim=16, chunk_std=0.01, init=init)
    return _replayed(CIFAR10, "resnet-32", 60, 32, 1e-3, **shared, hypernetwork=hypernetwork, **options)


# A table: rows as theirs, what is made (posterior, hypernetwork) on lines of its own.
# fmt: off
ROWS: Mapping[str, Row] = {
    # ------------------------------------------------------------------------------ curves of one variable
    "pr-bbb-curves": _replayed(
        CURVES, "tiny", 5001, 32, 5e-4, posterior=_LOCAL, samples=10, kl_weight=1.0, strength=10.0,
        divergence="forward-kl",
        hypernetwork=_full(10, 10, task_dim=8)),
    "pr-bbb-curves-b": _replayed(
        CURVES, "tiny", 5001, 32, 5e-4, posterior=_LOCAL, samples=10, kl_weight=1.0, clip=1.0, strength=1e-3,
        hypernetwork=_full(50, 50, task_dim=2, init="hyperfan")),
    "pr-radial-curves": _replayed(
        CURVES, "tiny", 5001, 32, 5e-4, posterior=_RADIAL, samples=100, kl_samples=1, kl_weight=1.0, clip=1.0,
        strength=0.1,
        hypernetwork=_full(100, 100, task_dim=32, task_std=0.1, init="hyperfan")),
    "pr-avb-curves": _replayed(  # the generator sees as many numbers as it makes
        CURVES, "tiny", 20001, 32, 1e-4, samples=10, kl_weight=1.0, clip=1.0, strength=1.0,
        posterior=_by_discriminator(_generator(None, 141, 141, perturbation=0.0), steps=5),
        hypernetwork=_full(100, 100, task_dim=32)),
    "pr-avb-curves-b": _replayed(
        CURVES, "tiny", 20001, 32, 1e-4, samples=10, kl_samples=1, kl_weight=1.0, clip=1.0, strength=0.5,
        posterior=_by_discriminator(_generator(2, 10, 10), 10, 10, stats=True),
        hypernetwork=_full(100, 100, task_dim=2, init="hyperfan")),
    "pr-avb-sigmoid-curves": _replayed(
        CURVES, "sigmoid", 10001, 32, 1e-4, samples=10, kl_weight=1.0, clip=1.0, strength=0.5,
        posterior=_by_discriminator(_generator(2, 10, 10, perturbation=2e-4), steps=5, stats=True),
        hypernetwork=_full(100, 100, task_dim=32, init="hyperfan")),
    "pf-avb-curves": _prior_focused(
        CURVES, "sigmoid", 20001, 8, 1e-3, samples=1, kl_weight=1000.0,
        posterior=_by_discriminator(_generator(32, 100, 100), steps=5)),
    "pf-avb-curves-b": _prior_focused(
        CURVES, "sigmoid", 5001, 8, 5e-4, samples=10, kl_samples=1, kl_weight=1e-3,
        posterior=_by_discriminator(_generator(32, 10, 10), 100, 100, batch=1)),
    "pr-ssge-curves": _replayed(
        CURVES, "tiny", 20001, 32, 1e-3, samples=10, kl_weight=1.0, strength=1.0,
        posterior=_by_stein(_generator(32, 10, 10, perturbation=2e-4), 10),
        hypernetwork=_full(100, 100, task_dim=2, activation="sigmoid", init="hyperfan")),
    "pr-ssge-curves-b": _replayed(
        CURVES, "tiny", 10001, 32, 5e-4, samples=10, kl_weight=1.0, strength=0.01,
        posterior=_by_stein(_generator(32, 100, 100, activation="sigmoid", perturbation=2e-4), 10, width="median"),
        hypernetwork=_full(100, 100, task_dim=32)),
    "pr-ssge-curves-c": _replayed(  # the generator sees as many numbers as it makes
        CURVES, "tiny", 20001, 32, 5e-4, samples=10, kl_weight=1.0, clip=1.0, strength=0.5,
        posterior=_by_stein(_generator(None, 141, 141, perturbation=0.0), 10, 0.9),
        hypernetwork=_full(100, 100, task_dim=2)),
    "pf-ssge-curves-a": _prior_focused(
        CURVES, "tiny", 5001, 32, 5e-4, samples=1, kl_samples=10, kl_weight=0.1, note=_SIGN,
        posterior=_by_stein(_generator(2, 100, 100), 10)),
    "pf-ssge-curves": _prior_focused(
        CURVES, "tiny", 20001, 8, 5e-4, samples=10, kl_weight=0.1, note=_SIGN,
        posterior=_by_stein(_generator(32, 10, 10), 100, 0.9, "median")),
    "pr-dirac-curves": _dirac(
        CURVES, "tiny", 10001, 32, 1e-3, strength=0.1, clip=1.0, hypernetwork=_full(50, 50, task_dim=8)),
    "vcl-curves": _prior_focused(
        CURVES, "tiny", 10001, 32, 1e-3, posterior=_GAUSSIAN, samples=100, kl_weight=1.0, clip=1.0, start="main"),
    "ewc-curves": _ewc(CURVES, "tiny", 10001, 32, 5e-4, heads="all", strength=1.0, samples=100),
    "sp-bbb-curves": _separate(
        CURVES, "tiny", 5001, 32, 1e-3, posterior=_LOCAL, samples=10, kl_weight=1.0, note="our settings"),
    "fine-tuning-curves": _fine_tuned(CURVES, "tiny", 5001, 32, 1e-3, note="our settings"),

    # ------------------------------------------------------------------------------ modes of Gaussians in the plane
    "pr-dirac-modes": _dirac(MODES, "tiny", 5001, 32, 1e-4, strength=0.01, hypernetwork=_full(10, 10, task_dim=2)),
    "pr-bbb-modes": _replayed(
        MODES, "tiny", 5001, 32, 5e-4, posterior=_LOCAL, samples=10, kl_weight=1.0, clip=1.0, strength=0.1,
        divergence="wasserstein",
        hypernetwork=_full(50, 50, activation="sigmoid", task_dim=32, init="gaussian")),
    "pr-radial-modes": _replayed(
        MODES, "tiny", 5001, 32, 1e-3, posterior=_RADIAL, samples=10, kl_samples=1, kl_weight=1.0, clip=1.0,
        strength=1.0,
        hypernetwork=_full(50, 50, task_dim=8, init="hyperfan")),
    "pr-avb-modes": _replayed(
        MODES, "tiny", 5001, 32, 1e-3, samples=100, kl_samples=10, kl_weight=1.0, strength=0.1,
        posterior=_by_discriminator(_generator(8, 100, 100), 10, 10, **_SIGMOID_TEN),
        hypernetwork=_full(100, 100, task_dim=2)),
    "pr-avb-modes-b": _replayed(
        MODES, "tiny", 20001, 32, 1e-4, samples=100, kl_samples=10, kl_weight=1.0, strength=0.01,
        posterior=_by_discriminator(_generator(8, 10, 10, activation="sigmoid"), 10, 10, **_SIGMOID_TEN),
        hypernetwork=_full(100, 100, task_dim=2)),
    "pf-avb-modes": _prior_focused(
        MODES, "tiny", 5001, 32, 5e-4, samples=1, kl_weight=0.01, clip=1.0,
        posterior=_by_discriminator(
            _generator(32, 10, 10, activation="sigmoid"), 100, 100, steps=5, batch=10, stats=True)),
    "pr-ssge-modes": _replayed(
        MODES, "tiny", 20001, 32, 1e-3, samples=10, kl_weight=1.0, clip=1.0, strength=0.1,
        posterior=_by_stein(_generator(32, 10, 10), 100, 0.9),
        hypernetwork=_full(100, 100, task_dim=32)),
    "pr-ssge-modes-b": _replayed(
        MODES, "tiny", 20001, 32, 1e-3, samples=100, kl_weight=1.0, strength=1.0,
        posterior=_by_stein(_generator(32, 10, 10), 100),
        hypernetwork=_full(100, 100, task_dim=8, init="hyperfan")),
    "pf-ssge-modes": _prior_focused(
        MODES, "tiny", 20001, 32, 1e-4, samples=1, kl_weight=1.0, note=_SIGN,
        posterior=_by_stein(_generator(32, 10, 10, activation="sigmoid"), 10)),
    "sp-dirac-modes": _separate_dirac(MODES, "tiny", 10001, 32, 1e-3, clip=1.0),
    "sp-bbb-modes": _separate(MODES, "tiny", 10001, 32, 1e-3, posterior=_LOCAL, samples=1, kl_weight=1.0, clip=1.0),
    "sp-bbb-single-modes": _separate(
        MODES, "tiny", 5001, 32, 1e-3, posterior=_LOCAL, samples=10, kl_weight=1.0, scenario="domain"),
    "sp-avb-modes": _separate(
        MODES, "tiny", 5001, 32, 1e-3, samples=10, kl_samples=1, kl_weight=1.0, clip=1.0,
        posterior=_by_discriminator(_generator(8, 10, 10), 100, 100, steps=5, stats=True, **_SIGMOID_TEN)),
    "sp-avb-single-modes": _separate(
        MODES, "tiny", 10001, 32, 5e-4, samples=10, kl_samples=1, kl_weight=1.0, clip=1.0, scenario="domain",
        posterior=_by_discriminator(_generator(32, 100, 100, activation="sigmoid"), 10, 10, steps=5, **_SIGMOID_TEN)),
    # 20 rows a task.
    "ewc-growing-modes": _ewc(MODES, "tiny", 10001, 32, 5e-4, heads="all-so-far", strength=1.0, clip=1 / 20),
    "ewc-full-modes": _ewc(MODES, "tiny", 2001, 32, 1e-4, heads="all", strength=10.0, clip=1 / 20),
    "vcl-modes": _prior_focused(MODES, "tiny", 10001, 32, 5e-4, posterior=_GAUSSIAN, samples=100, kl_weight=1.0),
    "fine-tuning-modes": _fine_tuned(MODES, "tiny", 2001, 32, 1e-3),
    "fine-tuning-hypernetwork-modes": _fine_tuned(
        MODES, "tiny", 10001, 32, 5e-4, clip=1.0, hypernetwork=_full(50, 50, task_dim=8)),

    # ------------------------------------------------------------------------------ Split MNIST
    "pr-dirac-split-mnist-small": _dirac(
        MNIST, "small", 5000, 32, 5e-4, strength=10.0, hypernetwork=_chunked(8000, 10, 10, 10, 10, chunk_std=0.1)),
    "pr-dirac-split-mnist": _dirac(
        MNIST, "default", 5000, 128, 1e-4, strength=2.0, hypernetwork=_chunked(4500, 100, 100, activation="sigmoid")),
    "pr-dirac-sr-split-mnist": _dirac(
        MNIST, "default", 5000, 128, 1e-4, strength=10.0, old_tasks=1,
        hypernetwork=_chunked(4500, 100, 100, activation="sigmoid")),
    "pr-dirac-supsup-split-mnist": _dirac(
        MNIST, "default", 5000, 128, 1e-4, strength=0.1, criterion="entropy-gradient", active_classes="all-so-far",
        hypernetwork=_chunked(4500, 100, 100)),
    "pr-dirac-split-mnist-lenet": _dirac(
        MNIST, "lenet", 5000, 128, 1e-3, strength=2.0, hypernetwork=_chunked(38000, 10, 10, chunk_dim=16)),
    "pr-bbb-split-mnist-small": _gaussian_small(),
    "pr-bbb-split-mnist": _gaussian_default(),
    "pr-bbb-sr-split-mnist": _gaussian_default(old_tasks=1),
    "pr-bbb-split-mnist-lenet": _gaussian_lenet(),
    "pr-bbb-cs-split-mnist-small": _gaussian_small(coreset=_coreset(100)),
    "pr-bbb-cs-500-split-mnist-small": _gaussian_small(coreset=_coreset(500)),
    **{f"pr-bbb-cs-{size}-split-mnist": _replayed(
        MNIST, "default", 5000, 128, 5e-5, posterior=_GAUSSIAN, samples=1, kl_weight=1e-5, strength=0.1,
        hypernetwork=_chunked(9000, 100, 100, chunks_per_task=True), coreset=_coreset(size, targets))
        for size, targets in ((100, "uniform"), (500, "random"))},
    **{f"pr-bbb-cs-{size}-split-mnist-lenet": _gaussian_lenet(coreset=_coreset(size, targets))
        for size, targets in ((50, "random"), (100, "uniform"), (500, "uniform"))},
    "pr-radial-split-mnist-small": _replayed(
        MNIST, "small", 2000, 32, 1e-4, posterior=_RADIAL, samples=1, kl_weight=1e-3, strength=1.0,
        hypernetwork=_chunked(2500, chunks_per_task=True, task_std=0.1)),
    "pr-radial-split-mnist": _replayed(
        MNIST, "default", 2000, 128, 1e-4, posterior=_RADIAL, samples=10, kl_samples=5, kl_weight=1e-4, strength=0.05,
        clip=1.0,
        hypernetwork=_chunked(9000, 100, 100, chunks_per_task=True, init="gaussian")),
    "pr-radial-split-mnist-lenet": _replayed(
        MNIST, "lenet", 2000, 128, 5e-5, posterior=_RADIAL, samples=1, kl_samples=20, kl_weight=1e-4, strength=1.0,
        hypernetwork=_chunked(78000, 10, 10, task_dim=64, chunk_dim=16)),
    "pr-ssge-split-mnist-small": _replayed(
        MNIST, "small", 5000, 128, 1e-3, samples=10, kl_weight=1e-4, strength=100.0, clip=100.0,
        posterior=_by_stein(_generator(32, chunk_size=1300, perturbation=2e-4), 10, width=0.01),
        hypernetwork=_chunked(650, 100, 100, activation="sigmoid", init="hyperfan")),
    "pr-ssge-split-mnist": _replayed(
        MNIST, "default", 5000, 128, 1e-3, samples=1, kl_samples=10, kl_weight=1e-5, strength=10.0,
        posterior=_by_stein(_generator(16, 10, 10, chunk_size=85000, chunk_dim=16, perturbation=0.01), 20, 0.95),
        hypernetwork=_chunked(42000, 10, 10, activation="sigmoid")),
    "pr-ssge-split-mnist-lenet": _replayed(
        MNIST, "lenet", 5000, 128, 1e-3, samples=1, kl_samples=20, kl_weight=1e-5, strength=0.1, clip=1.0,
        posterior=_by_stein(
            _generator(8, 100, 100, activation="sigmoid", chunk_size=3000, chunk_dim=16, perturbation=0.1), 20, 0.95,
            "median"),
        hypernetwork=_chunked(4000, 100, 100, activation="sigmoid")),
    "pf-ssge-split-mnist-small": _prior_focused(
        MNIST, "small", 2000, 128, 5e-4, samples=10, kl_weight=1e-5, note=_SIGN,
        posterior=_by_stein(_generator(8, latent_std=0.1, chunk_size=1300), 10, 0.9, "median")),
    "pf-ssge-split-mnist": _prior_focused(
        MNIST, "default", 2000, 128, 5e-5, samples=20, kl_samples=50, kl_weight=1e-4, note=_SIGN,
        posterior=_by_stein(_generator(16, chunk_size=9500, perturbation=0.0), 20)),
    "pf-ssge-split-mnist-lenet": _prior_focused(
        MNIST, "lenet", 2000, 128, 5e-5, samples=10, kl_weight=1e-4, clip=1.0, note=_SIGN,
        posterior=_by_stein(_generator(8, chunk_size=3000, perturbation=0.01), 10)),
    "vcl-split-mnist-small": _prior_focused(
        MNIST, "small", 2000, 128, 1e-4, posterior=_GAUSSIAN, samples=10, kl_weight=10.0, start="main"),
    "vcl-split-mnist": _prior_focused(
        MNIST, "default", 2000, 128, 1e-5, posterior=_GAUSSIAN, samples=1, kl_weight=1e-4, clip=1.0),
    "vcl-split-mnist-lenet": _prior_focused(
        MNIST, "lenet", 5000, 32, 1e-5, posterior=_GAUSSIAN, samples=10, kl_weight=1e-2, clip=1.0),
    "er-split-mnist-small": _experience(
        MNIST, "small", 1000, 8, 5e-4, rows=12_000, distill=100.0, replay_size=16, importance="by-task", clip=100.0),
    "er-split-mnist": _experience(
        MNIST, "default", 1000, 8, 1e-4, rows=12_000, distill=500.0, replay_size=16, importance="by-task", clip=100.0),
    "sp-bbb-split-mnist-small": _separate(
        MNIST, "small", 2000, 128, 1e-3, posterior=_GAUSSIAN, samples=50, kl_weight=0.01),
    "sp-bbb-split-mnist": _separate(MNIST, "default", 3000, 128, 5e-4, posterior=_LOCAL, samples=20, kl_weight=1e-3),
    "sp-bbb-split-mnist-lenet": _separate(
        MNIST, "lenet", 5000, 128, 1e-3, posterior=_GAUSSIAN, samples=10, kl_weight=0.01),
    "sp-bbb-hypernetwork-split-mnist": _separate(
        MNIST, "default", 2000, 32, 5e-5, posterior=_GAUSSIAN, samples=10, kl_weight=1e-5,
        hypernetwork=_chunked(9000, 100, 100, activation="sigmoid", chunk_dim=64, chunk_std=0.1, chunks_per_task=True)),
    "sp-bbb-hypernetwork-split-mnist-lenet": _separate(
        MNIST, "lenet", 5000, 128, 1e-4, posterior=_GAUSSIAN, samples=1, kl_weight=1e-3,
        hypernetwork=_chunked(78000, 10, 10, activation="sigmoid", task_dim=64)),
    "sp-dirac-split-mnist-small": _separate_dirac(MNIST, "small", 5000, 128, 5e-4),
    "sp-dirac-split-mnist": _separate_dirac(MNIST, "default", 5000, 128, 1e-4),
    "sp-dirac-split-mnist-lenet": _separate_dirac(MNIST, "lenet", 2000, 128, 1e-3),
    "sp-dirac-hypernetwork-split-mnist": _separate_dirac(
        MNIST, "default", 2000, 128, 1e-3, hypernetwork=_chunked(43000, 10, 10, activation="sigmoid")),
    "sp-dirac-hypernetwork-split-mnist-lenet": _separate_dirac(
        MNIST, "lenet", 5000, 128, 1e-4, hypernetwork=_chunked(38000, 10, 10, activation="sigmoid")),
    "sp-ssge-split-mnist": _separate(
        MNIST, "default", 5000, 128, 1e-4, samples=1, kl_samples=20, kl_weight=0.01,
        posterior=_by_stein(
            _generator(16, 50, 50, activation="sigmoid", latent_std=0.1, chunk_size=16000, perturbation=0.01), 20)),
    # Some 12,000 rows a task.
    "ewc-growing-split-mnist-small": _ewc(
        MNIST, "small", 2001, 32, 1e-3, heads="all-so-far", strength=1000.0, clip=1 / 12_000),
    "ewc-growing-split-mnist": _ewc(
        MNIST, "default", 2001, 32, 1e-3, heads="all-so-far", strength=1000.0, rows=200, clip=1 / 12_000),
    "ewc-growing-split-mnist-lenet": _ewc(MNIST, "lenet", 2001, 32, 1e-4, heads="all-so-far", strength=1e4, rows=200),
    "ewc-full-split-mnist-small": _ewc(MNIST, "small", 2001, 32, 1e-4, heads="all", strength=1000.0, rows=200),
    "ewc-full-split-mnist": _ewc(MNIST, "default", 2001, 32, 1e-4, heads="all", strength=1000.0, rows=200),
    "ewc-full-split-mnist-lenet": _ewc(MNIST, "lenet", 2001, 32, 1e-4, heads="all", strength=1000.0, rows=200),
    "ewc-multi-split-mnist-small": _ewc(MNIST, "small", 2001, 32, 5e-4, heads="current", strength=10.0, samples=100),
    "ewc-multi-split-mnist": _ewc(
        MNIST, "default", 5001, 32, 1e-3, heads="current", strength=1e-3, rows=200, samples=100),
    "ewc-multi-split-mnist-lenet": _ewc(
        MNIST, "lenet", 5001, 32, 5e-4, heads="current", strength=0.01, rows=200, samples=100),
    "ewc-multi-point-split-mnist-small": _ewc(
        MNIST, "small", 2001, 32, 5e-4, heads="current", strength=10.0,
        note="ours: the newest weights answer in place of samples"),

    # ------------------------------------------------------------------------------ Permuted MNIST, 10 tasks
    "fine-tuning-permuted-mnist-small": _fine_tuned(PERMUTED, "small", 5000, 128, 1e-3, clip=1.0),
    "fine-tuning-permuted-mnist": _fine_tuned(PADDED, "large", 5000, 128, 5e-4, clip=1.0),
    "pr-dirac-permuted-mnist-small": _dirac(
        PERMUTED, "small", 5000, 128, 5e-4, strength=250.0, clip=1.0,
        hypernetwork=_chunked(750, 100, 100, chunk_dim=16, chunk_std=0.1, chunks_per_task=True)),
    "pr-dirac-permuted-mnist": _dirac(
        PADDED, "large", 5000, 32, 5e-4, strength=100.0, clip=1.0,
        hypernetwork=_chunked(40000, 50, 50, task_dim=16, chunk_dim=16, chunk_std=0.1)),
    "pr-bbb-permuted-mnist-small": _replayed(
        PERMUTED, "small", 5000, 128, 1e-4, posterior=_GAUSSIAN, samples=1, kl_weight=1e-3, strength=50.0, clip=1.0,
        divergence="wasserstein",
        hypernetwork=_chunked(2900, **_OWN_CHUNKS)),
    "pr-bbb-permuted-mnist": _replayed(
        PADDED, "large", 5000, 128, 1e-5, posterior=_GAUSSIAN, samples=10, kl_weight=1e-4, strength=1.0,
        divergence="forward-kl", pflop=0.91,
        hypernetwork=_chunked(32000, task_dim=64, task_std=0.1, chunks_per_task=True)),
    "pr-radial-permuted-mnist-small": _replayed(
        PERMUTED, "small", 5000, 128, 5e-4, posterior=_RADIAL, samples=10, kl_samples=1, kl_weight=1.0, strength=500.0,
        clip=1.0,
        hypernetwork=_chunked(2900, task_dim=16, task_std=0.1, chunks_per_task=True, init="gaussian")),
    "pr-radial-permuted-mnist": _replayed(
        PADDED, "large", 5000, 128, 1e-4, posterior=_RADIAL, samples=1, kl_samples=10, kl_weight=1e-5, strength=1e4,
        clip=1.0, pflop=0.77,
        hypernetwork=_chunked(41000, 100, 100, task_dim=64, chunk_dim=16, chunk_std=0.1, chunks_per_task=True)),
    "pr-ssge-permuted-mnist-small": _replayed(
        PERMUTED, "small", 2500, 128, 1e-3, samples=1, kl_samples=10, kl_weight=1.0, strength=500.0, clip=100.0,
        posterior=_by_stein(
            _generator(8, 10, 10, 10, 10, chunk_size=8500, chunk_dim=16, perturbation=2e-4), 10, width=0.01),
        hypernetwork=_chunked(1400, task_dim=16, chunks_per_task=True, init="hyperfan")),
    "pr-ssge-permuted-mnist": _replayed(
        PADDED, "large", 5000, 128, 1e-4, samples=1, kl_samples=10, kl_weight=0.01, strength=10.0, clip=1.0,
        posterior=_by_stein(_generator(16, 20, 20, latent_std=0.1, chunk_size=70000, perturbation=0.01), 1),
        hypernetwork=_chunked(20000, 100, 100, chunk_dim=16, chunks_per_task=True)),
    "sp-bbb-permuted-mnist-small": _separate(
        PERMUTED, "small", 5000, 128, 1e-3, posterior=_GAUSSIAN, samples=50, kl_weight=0.1, clip=1.0),
    "sp-bbb-permuted-mnist": _separate(
        PADDED, "large", 5000, 128, 1e-4, posterior=_GAUSSIAN, samples=10, kl_weight=5e-5, clip=1.0, pflop=0.68),
    "sp-dirac-permuted-mnist-small": _separate_dirac(PERMUTED, "small", 2500, 64, 1e-3, clip=1.0),
    "sp-dirac-permuted-mnist": _separate_dirac(PADDED, "large", 5000, 128, 1e-3, clip=1.0),
    "vcl-permuted-mnist": _prior_focused(
        PADDED, "large", 2000, 128, 1e-4, posterior=_GAUSSIAN, samples=10, kl_weight=1e-5, prior_variance=0.1,
        clip=1.0),
    "ewc-multi-permuted-mnist": _ewc(
        PADDED, "large", 5001, 32, 1e-4, heads="current", strength=0.01, prior_variance=0.1, rows=200, samples=100,
        clip=100 / 60_000),

    # ------------------------------------------------------------------------------ Permuted MNIST, 100 tasks
    "pr-dirac-sr-permuted-mnist-100": _dirac(
        HUNDRED, "large", 5000, 128, 1e-4, strength=100.0, old_tasks=8, targets="recomputed", pflop=6.3,
        hypernetwork=_chunked(29000, 100, 100, task_dim=16, chunk_dim=16, chunk_std=0.1)),
    "pr-bbb-sr-permuted-mnist-100": _replayed(
        HUNDRED, "large", 5000, 128, 1e-4, posterior=_GAUSSIAN, samples=10, kl_weight=0.01, strength=1000.0, clip=100.0,
        divergence="reverse-kl", old_tasks=8, targets="recomputed", pflop=18,
        hypernetwork=_chunked(55000, 100, 100, activation="sigmoid")),

    # ------------------------------------------------------------------------------ Split CIFAR-10
    "fine-tuning-split-cifar10-resnet-32": _fine_tuned(CIFAR10, "resnet-32", 80, 32, 5e-4, pflop=1.6),
    "pr-dirac-split-cifar10-resnet-32": _dirac(
        CIFAR10, "resnet-32", 40, 32, 5e-4, strength=50.0, pflop=0.8,
        hypernetwork=_chunked(7000, task_dim=16, chunk_dim=16, task_std=0.01)),
    "pr-dirac-sr-split-cifar10-wrn-28-10": _dirac(
        CIFAR10, "wrn-28-10", 40, 128, 1e-4, strength=10.0, clip=1.0, old_tasks=1, targets="recomputed", pflop=63,
        hypernetwork=_chunked(700000, 50, 50, 50, 50, chunk_std=0.1, chunks_per_task=True)),
    "pr-bbb-split-cifar10-resnet-32": _gaussian_cifar10("gaussian", pflop=13),
    "pr-bbb-sr-split-cifar10-wrn-28-10": _replayed(
        CIFAR10, "wrn-28-10", 60, 32, 1e-3, posterior=_GAUSSIAN, samples=1, kl_weight=1e-5, strength=0.1,
        divergence="forward-kl", clip=1.0, old_tasks=1, targets="recomputed", pflop=169,
        hypernetwork=_chunked(50000, 250, 500, 1000, **_OWN_CHUNKS, init="hyperfan")),
    # Their epochs are of the rows of all coresets: 16 steps, or 79.
    "pr-bbb-cs-100-split-cifar10-resnet-32": _gaussian_cifar10(
        "gaussian", pflop=13, coreset=_coreset(100, own=0.5, steps=60 * 16)),
    "pr-bbb-cs-100-split-cifar10-resnet-32-b": _gaussian_cifar10(
        "hyperfan", pflop=13, coreset=_coreset(100, steps=60 * 16)),
    "pr-bbb-cs-500-split-cifar10-resnet-32-a": _gaussian_cifar10(
        "hyperfan", pflop=12, coreset=_coreset(500, "random", own=0.8, steps=10 * 79, kl_weight=1e-3)),
    "pr-bbb-cs-500-split-cifar10-resnet-32": _gaussian_cifar10(
        "hyperfan", pflop=15, coreset=_coreset(500, "random", steps=60 * 79)),
    "pr-radial-split-cifar10-resnet-32": _replayed(
        CIFAR10, "resnet-32", 60, 32, 1e-3, posterior=_RADIAL, samples=1, kl_weight=1e-4, strength=10.0, pflop=1.4,
        hypernetwork=_chunked(9000, 100, 100, task_std=0.01)),
    "pr-ssge-split-cifar10-resnet-32": _replayed(
        CIFAR10, "resnet-32", 20, 64, 5e-4, samples=10, kl_weight=1e-5, strength=100.0, clip=100.0, pflop=4.1,
        posterior=_by_stein(_generator(8, 10, 10, 10, 10, chunk_size=40000, perturbation=2e-4), 5),
        hypernetwork=_chunked(4000, 100, 100, task_std=0.1, chunk_std=0.1)),
    "vcl-split-cifar10-resnet-32": _prior_focused(
        CIFAR10, "resnet-32", 40, 32, 5e-3, posterior=_GAUSSIAN, samples=10, kl_weight=1e-4, clip=100.0, pflop=8.2),
    "vcl-growing-split-cifar10-resnet-32": _prior_focused(
        CIFAR10, "resnet-32", 80, 32, 5e-3, posterior=_GAUSSIAN, samples=1, kl_weight=0.01, clip=100.0, start="main",
        active_classes="all-so-far", pflop=1.6),
    "ewc-growing-split-cifar10-resnet-32": _ewc(
        CIFAR10, "resnet-32", 40, 32, 1e-3, heads="all-so-far", strength=0.01, clip=100 / 10_000, pflop=0.8),
    "ewc-multi-split-cifar10-resnet-32": _ewc(
        CIFAR10, "resnet-32", 40, 32, 1e-3, heads="current", strength=1000.0, rows=200, pflop=0.8),
    # Theirs replays 32 rows of each old task: here as many a step as these are on average.
    "er-split-cifar10-resnet-32-a": _experience(
        CIFAR10, "resnet-32", 80, 8, 1e-5, rows=10_000, distill=100.0, replay_size=80, importance=0.5, pflop=19),
    "er-split-cifar10-resnet-32": _experience(
        CIFAR10, "resnet-32", 40, 64, 5e-5, rows=10_000, distill=100.0, replay_size="linear", importance=0.5, pflop=3),
    "sp-bbb-split-cifar10-resnet-32": _separate(
        CIFAR10, "resnet-32", 80, 32, 1e-2, posterior=_GAUSSIAN, samples=10, kl_weight=0.01, start="main", pflop=16),
    "sp-dirac-split-cifar10-resnet-32": _separate_dirac(CIFAR10, "resnet-32", 40, 32, 5e-4, pflop=0.8),

    # ------------------------------------------------------------------------------ Split CIFAR-100
    "fine-tuning-split-cifar100-resnet-32": _fine_tuned(CIFAR100, "resnet-32", 200, 32, 5e-4, pflop=4),
    "fine-tuning-split-cifar100-resnet-18": _fine_tuned(CIFAR100, "resnet-18", 200, 32, 5e-4, clip=100.0, pflop=33),
    "pr-dirac-split-cifar100-resnet-32": _dirac(
        CIFAR100, "resnet-32", 200, 32, 5e-4, strength=10.0, clip=100.0, pflop=4,
        hypernetwork=_chunked(7000, chunk_dim=16, chunk_std=0.01)),
    "pr-dirac-big-split-cifar100-resnet-32": _dirac(
        CIFAR100, "resnet-32", 200, 32, 1e-4, strength=0.01, clip=100.0, pflop=9.2,
        hypernetwork=_chunked(10000, 250, 500, 1000, compression=None)),
    "pr-dirac-big-sr-split-cifar100-resnet-32": _dirac(
        CIFAR100, "resnet-32", 200, 64, 5e-4, strength=1.0, old_tasks=1, pflop=4,
        hypernetwork=_chunked(150000, task_dim=16, chunk_std=0.01, compression=None)),
    "pr-dirac-split-cifar100-resnet-18": _dirac(
        CIFAR100, "resnet-18", 200, 64, 5e-4, strength=100.0, pflop=33,
        hypernetwork=_chunked(150000, task_dim=16, chunk_dim=16, task_std=0.01, chunk_std=0.01)),
    "pr-dirac-sr-split-cifar100-resnet-18": _dirac(
        CIFAR100, "resnet-18", 200, 32, 5e-4, strength=50.0, old_tasks=1, pflop=33,
        hypernetwork=_chunked(150000, task_dim=16, chunk_dim=16, chunk_std=0.01)),
    "pr-bbb-big-sr-split-cifar100-resnet-32": _replayed(
        CIFAR100, "resnet-32", 200, 32, 5e-4, posterior=_GAUSSIAN, samples=10, kl_weight=0.005, strength=25.0,
        old_tasks=1, pflop=41,
        hypernetwork=_chunked(
            200000, 100, 100, 100, 100, activation="sigmoid", task_dim=16, chunk_std=0.01, init="gaussian",
            compression=None)),
    "pr-bbb-split-cifar100-resnet-18": _replayed(
        CIFAR100, "resnet-18", 120, 32, 5e-4, posterior=_GAUSSIAN, samples=10, kl_weight=1e-5, strength=50.0,
        divergence="wasserstein", pflop=196,
        hypernetwork=_chunked(300000, task_dim=16, chunk_std=0.01, init="hyperfan")),
    "pr-bbb-sr-split-cifar100-resnet-18": _replayed(
        CIFAR100, "resnet-18", 200, 64, 5e-4, posterior=_GAUSSIAN, samples=10, kl_weight=1e-6, strength=5.0,
        divergence="wasserstein", old_tasks=1, pflop=325,
        hypernetwork=_chunked(300000, init="gaussian")),
    "pr-bbb-sr-split-cifar100-resnet-18-b": _replayed(
        CIFAR100, "resnet-18", 200, 64, 5e-4, posterior=_GAUSSIAN, samples=10, kl_weight=1e-5, strength=10.0,
        divergence="wasserstein", old_tasks=1, clip=100.0, pflop=325,
        hypernetwork=_chunked(300000, task_dim=16, init="gaussian")),
    "ewc-multi-split-cifar100-resnet-32": _ewc(
        CIFAR100, "resnet-32", 200, 32, 5e-4, heads="current", strength=1000.0, rows=200, pflop=4),
    "ewc-multi-split-cifar100-resnet-18": _ewc(
        CIFAR100, "resnet-18", 80, 32, 5e-4, heads="current", strength=1e5, rows=200, pflop=13),
    "sp-bbb-split-cifar100-resnet-18": _separate(
        CIFAR100, "resnet-18", 200, 64, 5e-4, posterior=_GAUSSIAN, samples=10, kl_weight=1e-3, prior_variance=10.0,
        clip=100.0, start="main", pflop=324),
    "sp-dirac-split-cifar100-resnet-32": _separate_dirac(CIFAR100, "resnet-32", 200, 32, 5e-4, pflop=4),
    "sp-dirac-split-cifar100-resnet-18": _separate_dirac(CIFAR100, "resnet-18", 200, 32, 5e-4, pflop=33),
}
# fmt: on
