"""The tables of the lifelong generative adversarial autoencoder that ``reverie reproduce`` fills, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from reverie.experiments.conditions import Condition
from reverie.experiments.tables import DOMAINS, Entry, PublishedTable

_TWO: Mapping[str, Any] = {
    "name": "sequence",
    "datasets": ["mnist", "fashion-mnist"],
    "shared_labels": True,
    "train_rows": None,
}
_FEW: Mapping[str, Any] = {**_TWO, "train_rows": 10_000}
_FOUR: Mapping[str, Any] = {
    "name": "sequence",
    "datasets": ["mnist", "kmnist-7000", "usps", "fashion-mnist"],
    "shared_labels": True,
    "train_rows": None,
}


def _entry(title: str, stream: Mapping[str, Any], learner: Mapping[str, Any]) -> Entry:
    # Any preset serves: stream and learner are replaced.
    override = {"stream": stream, "learner": {"batch_size": 64, **learner}}
    return Entry(title, "lgaa-tiny", override, ("domain",))


def _lgaa(title: str, stream: Mapping[str, Any], **options: Any) -> Entry:
    return _entry(title, stream, {"name": "lgaa", **options})


# What is rehearsed drawn from the prior itself.
_NEAR: Mapping[str, Any] = {"name": "lgaa", "replay_temperature": 1.0}

# The critic is told neither class nor domain.
_BLIND: Mapping[str, Any] = {"name": "lgaa", "conditioning": "none"}

_REPLAY: Mapping[str, Any] = {
    "name": "generative-replay",
    "epochs": 10,
    "solver": {"name": "mlp", "hidden": [400, 400]},
}

LGAA_TABLES: Mapping[str, PublishedTable] = {
    "lgaa-two": PublishedTable(
        title="MNIST, then Fashion-MNIST: the lifelong autoencoder",
        source="none could be established",
        note=(
            "All training rows, ten classes that both share, 6,000 steps a task of 64 rows, of which replay is two in three, networks of size tiny "
            "(1.5 million weights). The last row was run first. Because it missed two of the bounds below, share, steps, the spread of what is "
            "rehearsed and what the critic sees were chosen anew, on a validation split (python -m benchmarks.choices lgaa). Two choices in between, "
            "of a critic that sees no class, came to 85.2 % of the second data set (replay three in four, 2,000 steps, two seeds) and to 86.0 % with "
            "clothes of which a judge saw a third as asked (two in three, 3,000 steps, two seeds)."
        ),
        seeds=(1, 2, 3),
        entries={
            "lgaa": _lgaa("lgaa", _TWO, steps=6000, epochs=None, replay_ratio=2.0),
            "fine-tuning": _lgaa("fine-tuning", _TWO, steps=6000, epochs=None, replay=False),
            "lgaa-long": replace(
                _lgaa(
                    *("lgaa, half of the rows replay from the prior, a critic that sees no class", _TWO),
                    steps=6000,
                    epochs=None,
                    autoencoder={**_NEAR, **_BLIND},
                ),
                seeds=1,
            ),
        },
        conditions=(
            Condition("lgaa", "first", 95),
            Condition("lgaa", "first", -3, minus="lgaa", other="learnt"),
            Condition("lgaa", "last", 86),
            Condition("lgaa", "domain", 98),
            Condition("lgaa", "error", high=1.15, over="lgaa", other="error learnt"),
            Condition("lgaa", "first", 40, minus="fine-tuning"),
            Condition("lgaa", "class asked", 85),
            Condition("lgaa", "domain asked", 90),
            Condition("lgaa", "judge", 98),
            Condition("lgaa", "seconds", high=2400),
        ),
        layout=replace(
            DOMAINS,
            columns=(*DOMAINS.columns, "class asked", "domain asked", "judge"),
            about=f"{DOMAINS.about} As asked: share of what the last task rehearsed in which a classifier of all real rows sees the class, the data "
            "set, that was asked for; judge: how often it is right on test rows of the first data set.",
        ),
        judged=("lgaa", "lgaa-long"),
    ),
    "lgaa-arms": PublishedTable(
        title="MNIST, then Fashion-MNIST: the lifelong autoencoder and its controls",
        source="none could be established",
        note=(
            "10,000 training rows a domain, ten classes that both share, 10 epochs of batches of 64 (lgaa: over new rows and replay). The generators "
            "of generative replay stand beside a solver of their own, an MLP 784-400-400-10; that of WGAN-GP has a phase of its own of 2,000 critic "
            "steps of 64 new rows, 12.8 epochs. With no labels, classes are categories of the model's own: accuracies say nothing, but what share of "
            "rows they match by the best one-to-one assignment in the end."
        ),
        seeds=(1, 2, 3),
        entries={
            "lgaa": _lgaa("lgaa", _FEW, epochs=10),
            "lgaa-plain": _lgaa(
                *("lgaa without the term of mutual information", _FEW),
                epochs=10,
                autoencoder={"name": "lgaa", "mutual_information": 0.0},
            ),
            "lgaa-blind": _lgaa("lgaa, a critic that sees no class", _FEW, epochs=10, autoencoder=_BLIND),
            "lgaa-near": _lgaa("lgaa, replay from the prior", _FEW, epochs=10, autoencoder=_NEAR),
            "fine-tuning": _lgaa("fine-tuning", _FEW, epochs=10, replay=False),
            "joint": _lgaa("joint", _FEW, epochs=10, joint=True),
            "labels-100": _lgaa("lgaa, 100 labels a class", _FEW, epochs=10, labels_per_class=100),
            "unlabelled": _lgaa(
                *("lgaa, no labels", _FEW),
                epochs=10,
                labels_per_class=0,
                autoencoder={**_BLIND, "shape_inference": True, "code_kl_weight": 1.0},
            ),
            "vae": _entry("generative replay, VAE", _FEW, {**_REPLAY, "generator": {"name": "vae"}}),
            "wgan-gp": _entry("generative replay, WGAN-GP", _FEW, {**_REPLAY, "generator": {"name": "wgan-gp"}}),
        },
        conditions=(Condition("labels-100", "first", -5, minus="lgaa"),),
        layout=replace(
            DOMAINS,
            columns=(*DOMAINS.columns, "class drawn", "domain drawn", "judge", "first clusters", "last clusters"),
            about=f"{DOMAINS.about} Generated, as asked: share of samples of both data sets, drawn from the prior and never drawn again, in which a "
            "classifier of the real rows sees the class, the data set, that was asked for; judge: how often it is right on test rows of the first "
            "data set.",
        ),
        judged=("lgaa", "lgaa-plain", "lgaa-blind", "lgaa-near"),
    ),
    "lgaa-four": PublishedTable(
        title="Four domains in a row: the lifelong autoencoder",
        source="none could be established",
        note=(
            "MNIST, 7,000 rows of KMNIST, USPS and Fashion-MNIST at 28 x 28, ten classes that all share, 2,000 steps a task of 64 rows, networks of "
            "size tiny."
        ),
        seeds=(1, 2, 3),
        entries={
            "lgaa": _lgaa("lgaa", _FOUR, steps=2000, epochs=None),
            "lgaa-near": replace(
                _lgaa("lgaa, replay from the prior", _FOUR, steps=2000, epochs=None, autoencoder=_NEAR), seeds=1
            ),
            "fine-tuning": _lgaa("fine-tuning", _FOUR, steps=2000, epochs=None, replay=False),
            "joint": _lgaa("joint", _FOUR, steps=8000, epochs=None, joint=True),
        },
        conditions=(
            Condition("lgaa", "average", 0.85, over="joint"),
            Condition("lgaa", "earlier", 20, minus="fine-tuning"),
        ),
        layout=replace(DOMAINS, columns=("earlier", *DOMAINS.columns)),
    ),
}
