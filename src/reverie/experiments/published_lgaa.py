"""The tables of the lifelong generative adversarial autoencoder that ``reverie reproduce`` fills, as data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reverie.experiments.tables import Entry, PublishedTable

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


def _entry(
    title: str,
    stream: Mapping[str, Any],
    learner: Mapping[str, Any],
    expected: Mapping[str, tuple[float, float]] | None = None,
) -> Entry:
    # Any preset serves: stream and learner are replaced.
    override = {"stream": stream, "learner": {"batch_size": 64, **learner}}
    return Entry(title, "lgaa-tiny", override, ("domain",), expected=expected or {})


def _lgaa(title: str, stream: Mapping[str, Any], expected: Any = None, **options: Any) -> Entry:
    return _entry(title, stream, {"name": "lgaa", **options}, expected)


_REPLAY: Mapping[str, Any] = {
    "name": "generative-replay",
    "epochs": 10,
    "solver": {"name": "mlp", "hidden": [400, 400]},
}

LGAA_TABLES: Mapping[str, PublishedTable] = {
    "lgaa": PublishedTable(
        title="MNIST, then Fashion-MNIST: the lifelong autoencoder",
        source="none could be established",
        note="All training rows, ten classes that both share, 6,000 steps a task of 64 rows, networks of size tiny (1.5 million weights).",
        seeds=(1, 2, 3),
        entries={
            "lgaa": _lgaa(
                *("lgaa", _TWO),
                {"first": (95, 100), "drop": (-100, 3), "last": (86, 100), "domain": (98, 100), "error": (0, 1.15)},
                steps=6000,
                epochs=None,
            ),
            "fine-tuning": _lgaa("fine-tuning", _TWO, steps=6000, epochs=None, replay=False),
        },
        domains=True,
    ),
    "lgaa-arms": PublishedTable(
        title="MNIST, then Fashion-MNIST: the lifelong autoencoder and its controls",
        source="none could be established",
        note=(
            "10,000 training rows a domain, ten classes that both share, 10 epochs of batches of 64 (lgaa: over new rows and replay). The generators "
            "of generative replay stand beside a solver of their own, an MLP 784-400-400-10."
        ),
        seeds=(1, 2, 3),
        entries={
            "lgaa": _lgaa("lgaa", _FEW, epochs=10),
            "lgaa-plain": _lgaa(
                *("lgaa without the term of mutual information", _FEW),
                epochs=10,
                autoencoder={"name": "lgaa", "mutual_information": 0.0},
            ),
            "fine-tuning": _lgaa("fine-tuning", _FEW, epochs=10, replay=False),
            "joint": _lgaa("joint", _FEW, epochs=10, joint=True),
            "labels-100": _lgaa("lgaa, 100 labels a class", _FEW, epochs=10, labels_per_class=100),
            "vae": _entry("generative replay, VAE", _FEW, {**_REPLAY, "generator": {"name": "vae"}}),
            "wgan-gp": _entry("generative replay, WGAN-GP", _FEW, {**_REPLAY, "generator": {"name": "wgan-gp"}}),
        },
        domains=True,
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
            "fine-tuning": _lgaa("fine-tuning", _FOUR, steps=2000, epochs=None, replay=False),
            "joint": _lgaa("joint", _FOUR, steps=8000, epochs=None, joint=True),
        },
        domains=True,
    ),
}
