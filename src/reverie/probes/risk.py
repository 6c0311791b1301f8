"""Why a model that rehearses forgets: its risk on the past itself, its risk on the replay of the past, and how far the two lie apart."""

from __future__ import annotations

import math
from typing import Any

import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from reverie.generators.lgaa import AdversarialAutoencoder
from reverie.metrics.accuracy import Matrix
from reverie.seeding import Randomness
from reverie.streams.rows import TensorRows
from reverie.types import Finding, Stream, Task, TestSet

ROWS = 1000  # of a domain, real and replayed, that are looked at
COMPONENTS = 50  # of the pixels, for the classifier that tells real rows from replay
CHUNK = 500


class Risk:
    """For the learner ``lgaa``. Lists have a number for each domain so far; those of the present one, which is not rehearsed, are None where
    replay is needed. Domains that replay holds no row of are None too.

    target_risk: share of test rows whose class is not found; target_mse: error of their reconstruction. source_risk, source_mse: the same of
    the replay set that the task was learnt with, its own labels taken for true. Forgetting is bounded by the source risk and how far
    replay lies from the past (the discrepancy distance of Mansour, Mohri and Rostamizadeh, COLT 2009), of which there are two estimates:
    discrepancy: | share of real rows on which the present class inference and that of the snapshot disagree - the same share of replay |;
    proxy_distance: 2 (1 - 2 error) of a linear classifier that tells real rows from replay, by the principal components of their pixels, on
    rows that it was not fitted to: 0 where they are alike, 2 where they are told apart. class_entropy: of the classes in replay, over the
    largest it could be.
    """

    name = "risk"

    def __call__(self, learner: Any, stream: Stream, task: Task, rng: Randomness) -> Finding:
        model, snapshot, pool = learner.model, learner.snapshot, learner.pool
        found: dict[str, list[float | None]] = {name: [] for name in NUMBERS}
        for test in stream.tests:
            if test.since > task.index or test.head >= model.domains:
                continue
            real = _real(test, rng.device)
            replay = None if pool is None or test.head >= task.index else _of_domain(pool, test.head, rng.device)
            values: dict[str, float | None] = dict.fromkeys(NUMBERS)
            values |= _risks("target", model, *real)
            if replay is not None:
                values |= _risks("source", model, *replay)
                values["discrepancy"] = _discrepancy(model, snapshot, real[0], replay[0])
                values["proxy_distance"] = proxy_distance(real[0], replay[0], rng.seed)
                values["class_entropy"] = class_entropy(replay[1])
            for name in NUMBERS:
                found[name].append(values[name])
        return Finding(numbers=found)  # type: ignore[arg-type]


NUMBERS = (
    "target_risk",
    "target_mse",
    "source_risk",
    "source_mse",
    "discrepancy",
    "proxy_distance",
    "class_entropy",
)


def proxy_distance(real: Tensor, replay: Tensor, seed: int) -> float | None:
    """2 (1 - 2 error), see ``Risk``; rows (n, ...) and (m, ...). None with fewer than 8 rows of either; not below 0."""
    rows = min(len(real), len(replay))
    if rows < 8:
        return None
    x = torch.cat([real[:rows], replay[:rows]]).flatten(1).cpu().numpy()
    if (x == x[0]).all():
        return 0.0
    y = torch.arange(2 * rows).numpy() // rows
    fitted = torch.arange(2 * rows).numpy() % 2 == 0  # every second row of either kind
    components = PCA(min(COMPONENTS, *x[fitted].shape), random_state=seed % (1 << 32)).fit(x[fitted])
    shown: tuple[Matrix, Matrix] = (components.transform(x[fitted]), components.transform(x[~fitted]))
    scale = shown[0].std() or 1.0
    told = LogisticRegression(max_iter=300).fit(shown[0] / scale, y[fitted])
    error = 1 - float(told.score(shown[1] / scale, y[~fitted]))
    return max(2 * (1 - 2 * error), 0.0)


def class_entropy(labels: Tensor) -> float:
    """Of the classes (n,) that are there, over that of as many equally frequent ones; 1 for a single class.

    >>> class_entropy(torch.tensor([0, 0, 1, 1]))
    1.0
    """
    counts = torch.bincount(labels[labels >= 0])
    share = counts[counts > 0].double() / counts.sum()
    return float(-(share * share.log()).sum()) / math.log(len(share)) if len(share) > 1 else 1.0


def _risks(kind: str, model: AdversarialAutoencoder, x: Tensor, y: Tensor) -> dict[str, float | None]:
    known = y >= 0
    wrong = (_classes(model, x) != y)[known].double().mean() if bool(known.any()) else None
    errors = [(model.reconstruct(part) - part).square().mean(dim=(1, 2, 3)) for part in x.split(CHUNK)]
    return {f"{kind}_risk": None if wrong is None else float(wrong), f"{kind}_mse": float(torch.cat(errors).mean())}


def _discrepancy(
    model: AdversarialAutoencoder, snapshot: AdversarialAutoencoder, real: Tensor, replay: Tensor
) -> float:
    apart = [(_classes(model, x) != _classes(snapshot, x)).double().mean() for x in (real, replay)]
    return abs(float(apart[0] - apart[1]))


def _classes(model: AdversarialAutoencoder, x: Tensor) -> Tensor:
    return torch.cat([model.class_logits(part).argmax(dim=1) for part in x.split(CHUNK)])


def _real(test: TestSet, device: torch.device) -> tuple[Tensor, Tensor]:
    index = torch.linspace(0, len(test.rows) - 1, min(ROWS, len(test.rows))).long()
    batch = test.rows.take(index)
    assert batch.y is not None
    return batch.x.to(device), batch.y.to(device)


def _of_domain(pool: TensorRows, domain: int, device: torch.device) -> tuple[Tensor, Tensor] | None:
    """Replayed rows that were taken for those of a domain."""
    where = torch.cat([part.task.cpu() for part in pool.chunks(4096)]) == domain
    index = where.nonzero().flatten()
    if not len(index):
        return None
    batch = pool.take(index[torch.linspace(0, len(index) - 1, min(ROWS, len(index))).long()])
    assert batch.y is not None
    return batch.x.to(device), batch.y.to(device)
