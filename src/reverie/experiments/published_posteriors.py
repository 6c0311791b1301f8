"""The tables of posterior meta-replay that ``reverie reproduce`` fills, as data."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

from reverie.experiments.conditions import Condition
from reverie.experiments.posterior_presets import PAPER
from reverie.experiments.tables import ERRORS, TASKS, Entry, PublishedTable

_NETWORK: Mapping[str, Any] = {"name": "mlp", "hidden": [100, 100]}
_POINT: Mapping[str, Any] = {"posterior": {"name": "dirac"}, "kl_weight": 0.0}
_NUMBERS = (
    f"the authors' public result lists ({PAPER}), one number a run; TGiven: accuracy with the task given, TInfer: with the task inferred by the "
    "entropy (agreement where said); one head: accuracy of a single softmax over all classes"
)


def _entry(
    title: str, preset: str, published: Mapping[str, float] | None = None, seeds: int | None = None, **learner: Any
) -> Entry:
    return Entry(
        title,
        preset,
        {"learner": learner} if learner else {},
        ("class",),
        published={name: (value, None) for name, value in (published or {}).items()},
        seeds=seeds,
    )


def _digits(title: str, learner: str, rate: float, **options: Any) -> Entry:
    """Split digits: 1,000 steps a task of 64 rows, MLP 100-100."""
    solver = {**_NETWORK, "optimiser": {"name": "adam", "learning_rate": rate}}
    shared = {"name": learner, "solver": solver, "steps": 1000}
    answers = {} if options.get("posterior") == {"name": "dirac"} else {"test_samples": 100}
    return Entry(title, "demo", {"learner": {**shared, **answers, **options}}, ("class",))


def _curves(title: str, preset: str, seeds: int | None = None, **options: Any) -> Entry:
    return Entry(title, preset, {"learner": options} if options else {}, ("domain",), seeds=seeds)


def _as_published(entries: Mapping[str, Entry]) -> tuple[Condition, ...]:
    """With a model a task: at most 1 below what was published with the task given, 4 with the task inferred. One model for all: within 5."""
    found = []
    for key, entry in entries.items():
        for value, (published, _) in entry.published.items():
            if key.startswith(("pr-", "sp-")):
                low, high = published - (1 if value == "given" else 4), inf
            else:
                low, high = published - 5, min(published + 5, 100.0)
            found.append(Condition(key, value, low, high, reason=_REASONS.get((key, value), "")))
    return tuple(found)


_FULL = {"name": "full", "init": "xavier"}

_LOCAL_TITLE = "posterior replay, Gaussians, local reparametrisation (ours)"

_SPLIT_MNIST: Mapping[str, Entry] = {
    "pr-dirac": _entry(*("posterior replay, points", "pr-dirac-split-mnist-small"), {"given": 99.72, "entropy": 63.41}),
    "vcl": _entry(*("variational continual learning", "vcl-split-mnist-small"), {"given": 96.05, "entropy": 51.45}),
    "ewc-growing": _entry("EWC, Bayesian, growing head", "ewc-growing-split-mnist-small", {"one head": 28.15}),
    "ewc-full": _entry("EWC, Bayesian, full head", "ewc-full-split-mnist-small", {"one head": 29.67}),
    "ewc-multi": _entry(
        *("EWC, Bayesian, a head a task", "ewc-multi-split-mnist-small"), {"given": 97.79, "entropy": 46.61}
    ),
    "ewc-multi-point": _entry("EWC, Bayesian, a head a task, the point answers", "ewc-multi-point-split-mnist-small"),
    "sp-dirac": _entry("separate points", "sp-dirac-split-mnist-small", {"given": 99.77, "entropy": 67.89}),
    "pr-bbb": _entry(
        *("posterior replay, Gaussians", "pr-bbb-split-mnist-small"),
        {"given": 99.75, "entropy": 70.07, "agreement": 70.11},
    ),
    "pr-bbb-local": _entry(*(_LOCAL_TITLE, "pr-bbb-split-mnist-small"), posterior={"name": "gaussian", "local": True}),
    "pr-bbb-cs": _entry(
        *("posterior replay, Gaussians, 100 rows of each task kept", "pr-bbb-cs-split-mnist-small"),
        {"given": 98.70, "entropy": 90.42},
    ),
    "er": _entry("experience replay, distilled", "er-split-mnist-small", {"one head": 86.84}),
}
_POINT_ANSWERS = (
    "samples of a posterior whose precision is hardly above the prior's answer; the point's row shows what was learnt. With "
    "`--learner.fisher_rows 200 --learner.fisher_prior published`: 90.6 given, 33.1 inferred (seed 1)"
)
_REASONS = {
    **{("ewc-multi", value): _POINT_ANSWERS for value in ("given", "entropy")},
    ("ewc-growing", "one head"): (
        "not known. Without the limit to the gradient, with a plain prior for new outputs, with learning rate 1e-4, with "
        "`fisher_rows` 200 or with `strength` 1 or 1e4: 13.6 to 20.9; with `strength` 1e5: 24.6 (seed 1)"
    ),
}

_CONSTANT = "in two seeds of ten the third curve is fitted by a constant, in another one model is sure everywhere; neither with 50-50"
_ONE_SEED = "58 in one seed of ten, where one model is sure everywhere; 96.7 to 100 in the others"
_LOST_MODES = {
    "dirac": "one seed of ten loses one mode of an old task at the published `strength` of 0.01, and keeps it with 0.1",
    "radial": "published: 95. In two seeds of ten one task is never learnt whole; nothing is lost later",
}

POSTERIOR_TABLES: Mapping[str, PublishedTable] = {
    "pmr-digits": PublishedTable(
        title="Split digits: a posterior a task",
        source="ours; no published table",
        note=(
            "MLP 64-100-100-10, 1,000 steps a task of 64 rows, two outputs a task, the task inferred among the five models. Hypernetwork linear "
            "in an embedding of 8 numbers. Learning rates were chosen on a validation split (python -m benchmarks.choices posterior-digits)."
        ),
        seeds=(1, 2, 3, 4, 5),
        entries={
            "fine-tuning": _digits(
                *("fine-tuning", "posterior-replay", 1e-3), **_POINT, strength=0.0, hypernetwork={"name": "single"}
            ),
            "pr-dirac": _digits("posterior replay, points", "posterior-replay", 1e-4, **_POINT, hypernetwork=_FULL),
            "pr-gaussian": _digits(
                *("posterior replay, Gaussians", "posterior-replay", 1e-4),
                kl_weight=0.01,
                samples=5,
                hypernetwork=_FULL,
            ),
            "vcl": _digits("variational continual learning", "vcl", 1e-3, kl_weight=0.01, samples=5),
            "sp-dirac": _digits("separate points", "separate-posteriors", 1e-3, **_POINT),
            "sp-gaussian": _digits("separate Gaussians", "separate-posteriors", 1e-3, kl_weight=0.01, samples=5),
        },
        conditions=(
            Condition("pr-dirac", "given", -2, minus="sp-dirac"),
            Condition("pr-gaussian", "given", -2, minus="sp-gaussian"),
            Condition("pr-dirac", "given", 10, minus="vcl"),
            Condition("pr-gaussian", "given", 10, minus="vcl"),
            Condition("pr-dirac", "entropy", 5, minus="fine-tuning"),
            Condition("pr-dirac", "seconds", high=60),
            Condition("pr-gaussian", "seconds", high=60),
        ),
        layout=TASKS,
    ),
    "pmr-curves": PublishedTable(
        title="Curves of one variable: a posterior a task",
        source="figures alone, no table",
        note=(
            "Three cubics and parabolas, each on an interval of its own, 20 training rows with noise of deviation 0.05; the authors' settings. "
            "MLP 1-10-10-1, one head. 100 weight samples answer."
        ),
        seeds=tuple(range(1, 11)),
        entries={
            "pr-bbb": _curves("posterior replay, Gaussians", "pr-bbb-curves"),
            "pr-bbb-wide": _curves(
                *("posterior replay, Gaussians, hypernetwork of 50-50 (ours)", "pr-bbb-curves"),
                hypernetwork={"hidden": [50, 50]},
            ),
            "pr-bbb-anew": Entry(
                *("posterior replay, Gaussians, rows drawn anew for each seed", "pr-bbb-curves"),
                {"stream": {"data_seed": None}},
                ("domain",),
            ),
            "pr-dirac": _curves("posterior replay, points", "pr-dirac-curves", seeds=1),
            "vcl": _curves("variational continual learning", "vcl-curves"),
            "ewc": _curves("EWC, Bayesian", "ewc-curves", seeds=1),
            "sp-bbb": _curves("separate Gaussians", "sp-bbb-curves", seeds=1),
            "fine-tuning": _curves("fine-tuning", "fine-tuning-curves"),
            "pr-radial": _curves("posterior replay, radial", "pr-radial-curves", seeds=1),
            "pr-avb": _curves("posterior replay, implicit, adversarial", "pr-avb-curves-b"),
            "pr-ssge": _curves("posterior replay, implicit, Stein", "pr-ssge-curves"),
        },
        conditions=(
            *(
                condition
                for name, reason in (("pr-bbb", _CONSTANT), ("pr-bbb-wide", ""), ("pr-bbb-anew", _ONE_SEED))
                for condition in (
                    Condition(name, "mse final", high=0.03, reason=reason),
                    Condition(name, "found by agreement", 95, reason=reason),
                )
            ),
            Condition("vcl", "mse final", 0, minus="pr-bbb", errors=2),
            Condition(
                "fine-tuning",
                "mse final",
                0,
                minus="pr-bbb",
                errors=2,
                reason="errors are too far apart; see their median",
            ),
            Condition("fine-tuning", "mse final", 0.1, minus="pr-bbb", median=True),
            Condition("pr-avb", "mse final", high=0.05, median=True),
            Condition("pr-ssge", "mse final", high=0.05, median=True),
        ),
        layout=ERRORS,
    ),
    "pmr-modes": PublishedTable(
        title="Modes of Gaussians in the plane",
        source=_NUMBERS,
        note=(
            "Three tasks of two modes each, 20 training points a task, 200 test points. MLP 2-10-10-6. 100 weight samples answer. The spread over "
            "seeds is large: compare orders, not single values."
        ),
        seeds=tuple(range(1, 11)),
        entries={
            "pr-dirac": _entry("posterior replay, points", "pr-dirac-modes", {"given": 100, "entropy": 45}),
            "pr-bbb": _entry("posterior replay, Gaussians", "pr-bbb-modes", {"given": 100, "agreement": 90}),
            "pr-radial": _entry("posterior replay, radial", "pr-radial-modes", {"given": 95, "agreement": 76}),
            "pr-avb": _entry(
                "posterior replay, implicit, adversarial", "pr-avb-modes", {"given": 100, "entropy": 100}, seeds=5
            ),
            "pr-ssge": _entry(
                "posterior replay, implicit, Stein", "pr-ssge-modes", {"given": 100, "entropy": 100}, seeds=5
            ),
            "vcl": _entry("variational continual learning", "vcl-modes", {"given": 100, "entropy": 45.17}),
            "ewc-growing": _entry("EWC, Bayesian, growing head", "ewc-growing-modes", {"one head": 50.00}),
            "ewc-full": _entry("EWC, Bayesian, full head", "ewc-full-modes", {"one head": 66.97}),
            "pf-avb": _entry(
                "prior-focused, implicit, adversarial", "pf-avb-modes", {"given": 98, "entropy": 65}, seeds=5
            ),
            "pf-ssge": _entry(
                *("prior-focused, implicit, Stein, the sign mended", "pf-ssge-modes", {"given": 96, "entropy": 50}),
                seeds=5,
            ),
            "sp-bbb": _entry("separate Gaussians", "sp-bbb-modes", {"given": 100, "agreement": 88}),
            "sp-dirac": _entry("separate points", "sp-dirac-modes", {"given": 100, "entropy": 71}),
            "fine-tuning": _entry("fine-tuning", "fine-tuning-modes", {"given": 99.90, "entropy": 47.98}),
        },
        conditions=(
            *(
                Condition(f"pr-{name}", "given", 100, reason=_LOST_MODES.get(name, ""))
                for name in ("dirac", "bbb", "radial", "avb", "ssge")
            ),
            Condition("pr-bbb", "agreement", 0, minus="pr-dirac", other="entropy", errors=1),
            Condition("pr-bbb", "agreement", 0, minus="vcl", errors=1),
            Condition("pr-bbb", "agreement", 0, minus="fine-tuning", other="entropy", errors=1),
            Condition("pr-ssge", "entropy", 95, median=True),
            Condition("pr-avb", "entropy", 95, median=True),
        ),
        layout=TASKS,
    ),
    "pmr-split-mnist": PublishedTable(
        title="Split MNIST: a posterior a task",
        source=_NUMBERS,
        note=(
            "Five tasks of two digits in order, MLP 784-100-100-10, two outputs a task; the authors' settings and their whole budget. 100 weight "
            "samples answer."
        ),
        seeds=(1, 2, 3),
        entries=_SPLIT_MNIST,
        conditions=(*_as_published(_SPLIT_MNIST), Condition("pr-bbb", "batches", 95)),
        layout=TASKS,
    ),
    "pmr-permuted-mnist": PublishedTable(
        title="Permuted MNIST, ten tasks: a posterior a task",
        source=_NUMBERS,
        note=(
            "Ten tasks of ten digits, each with its own permutation of the pixels, the first with none, MLP 784-100-100-100, ten outputs a task; the "
            "authors' settings and their whole budget. 100 weight samples answer."
        ),
        seeds=(1,),
        entries={
            "pr-bbb": _entry(
                *("posterior replay, Gaussians", "pr-bbb-permuted-mnist-small"), {"given": 95.96, "entropy": 89.90}
            ),
            "pr-bbb-local": _entry(
                *(_LOCAL_TITLE, "pr-bbb-permuted-mnist-small"), posterior={"name": "gaussian", "local": True}
            ),
            "pr-bbb-mean": _entry(
                *("posterior replay, Gaussians, a mean over old tasks (ours)", "pr-bbb-permuted-mnist-small"),
                normalise="mean",
            ),
        },
        conditions=tuple(
            Condition(name, value, least, reason=reason)
            for name in ("pr-bbb", "pr-bbb-local", "pr-bbb-mean")
            for value, least, reason in (
                (
                    "given",
                    95,
                    "not known. A task is learnt to 95.4 to 96 % (during), and then loses about 1 to 1.5 points",
                ),
                ("entropy", 88, "not known"),
            )
        ),
        layout=TASKS,
    ),
}
