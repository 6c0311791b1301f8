"""Why a model that rehearses forgets: its risk on the past itself, its risk on the replay of the past, and how far the two lie apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from reverie.generators.lgaa import AdversarialAutoencoder
from reverie.metrics import clustering_accuracy, frechet_distance
from reverie.metrics.accuracy import Matrix
from reverie.seeding import Randomness
from reverie.streams.rows import TensorRows
from reverie.types import Finding, Stream, Task, TestSet

ROWS = 1000  # of a domain, real and replayed, that are looked at
FEWEST = 8  # rows of either that a distance needs
COMPONENTS = 50  # of the pixels, for the distances
CHUNK = 500


class Risk:
    """For the learner ``lgaa``. Lists have an entry for each domain so far; those of the present one, which is not rehearsed, are None where
    replay is needed. Domains that replay holds no row of are None too.

    target_risk: share of test rows whose class is not found, among the classes taught so far or, where the scenario gives the task, among the
    task's; None without labels. target_mse: error of their reconstruction. source_risk, source_mse: the same of the replay set that the
    task was learnt with, its own labels taken for true. Forgetting is bounded by the source risk and how far replay lies from the past
    (the discrepancy distance of Mansour, Mohri and Rostamizadeh, COLT 2009), of which there are three estimates:
    discrepancy: | share of real rows on which the present class inference and that of the snapshot disagree - the same share of replay |. The
    snapshot is the model before the present task, so this is the step from the last task to this one, not the sum over all since the
    domain was met. proxy_distance: 2 (1 - 2 error) of a linear classifier that tells real rows from replay, by the principal components
    of their pixels, on rows that it was not fitted to: 0 where they are alike, 2 where they are told apart. frechet_distance: of the
    Gaussians of real rows and replay, in the principal components of the domain's test rows, which are the same after every task.

    What the snapshot made when it was first asked, before anything was drawn again for balance: class_counts, the histogram of the classes
    that it finds in each domain; class_entropy, that of the classes that the domain taught, over its largest value, 0 where all but one
    are lost; label_noise, share of what was asked of the domain that it takes for another class or domain (its own judgement; that of a
    classifier of real rows is ``reverie dream RUN judge``).

    clustering_accuracy, where no row has a label: share of test rows whose category matches their class, by the best one-to-one match.
    """

    name = "risk"

    def __call__(self, learner: Any, stream: Stream, task: Task, rng: Randomness) -> Finding:
        model, snapshot, pool = learner.model, learner.snapshot, learner.replay_set()
        found: dict[str, list[Any]] = {name: [] for name in (*NUMBERS, *([MATCHED] if learner.unsupervised else []))}
        for test in stream.tests:
            if test.since > task.index or test.head >= model.domains:
                continue
            real = _real(test, rng.device)
            replay = None if pool is None or test.head >= task.index else _of_domain(pool, test.head, rng.device)
            given = test.head if stream.spec.scenario == "task" else None
            among = None if learner.unsupervised else _asked(model, given)
            values: dict[str, Any] = dict.fromkeys(found)
            values |= _risks("target", model, *real, among)
            if learner.unsupervised:
                values |= {"target_risk": None, MATCHED: clustering_accuracy(real[1], _classes(model, real[0], among))}
            if replay is not None:
                before = None if learner.unsupervised else _asked(snapshot, given)
                values |= _risks("source", model, *replay, among)
                values["discrepancy"] = discrepancy(
                    *(_classes(model, x, among) != _classes(snapshot, x, before) for x in (real[0], replay[0]))
                )
                values["proxy_distance"] = proxy_distance(real[0], replay[0], rng.seed)
                values["frechet_distance"] = component_distance(real[0], replay[0])
            if pool is not None and test.head < task.index:
                values |= _first_drawing(learner, test.head)
            for name, each in found.items():
                each.append(values[name])
        return Finding(numbers=found)


NUMBERS = (
    "target_risk",
    "target_mse",
    "source_risk",
    "source_mse",
    "discrepancy",
    "proxy_distance",
    "frechet_distance",
    "class_counts",
    "class_entropy",
    "label_noise",
)
MATCHED = "clustering_accuracy"


def discrepancy(real: Tensor, replay: Tensor) -> float:
    """| share of real rows on which two hypotheses disagree - that of replay |; (n,) and (m,) bool.

    >>> discrepancy(torch.tensor([True, False, False, False]), torch.tensor([True, True, True, False]))
    0.5
    """
    return abs(float(real.double().mean() - replay.double().mean()))


def proxy_distance(real: Tensor, replay: Tensor, seed: int) -> float | None:
    """2 (1 - 2 error), see ``Risk``; rows (n, ...) and (m, ...). None with fewer than 8 rows of either; not below 0."""
    rows = min(len(real), len(replay))
    if rows < FEWEST:
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


def component_distance(real: Tensor, replay: Tensor) -> float | None:
    """Frechet distance in the principal components of the real rows; rows (n, ...) and (m, ...). None with fewer than 8 rows of either."""
    if min(len(real), len(replay)) < FEWEST:
        return None
    fixed, other = (rows.flatten(1).double().cpu() for rows in (real, replay))
    centre = fixed.mean(dim=0)
    components = torch.linalg.svd(fixed - centre, full_matrices=False).Vh[:COMPONENTS]
    return frechet_distance(*((rows - centre) @ components.T for rows in (fixed, other)))


def class_entropy(counts: Tensor) -> float:
    """Of how often each of some classes was found, counts (K,), over ln K: 1 where all are equally frequent, or K is 1; 0 where all but one, or
    all, are missing.

    >>> class_entropy(torch.tensor([3, 3])), class_entropy(torch.tensor([6, 0]))
    (1.0, 0.0)
    """
    if len(counts) == 1:
        return 1.0
    share = counts.double() / counts.sum().clamp(min=1)
    return float(torch.special.entr(share).sum()) / math.log(len(counts))


def _first_drawing(learner: Any, domain: int) -> dict[str, Any]:
    """Of the replay set, before any of it was drawn again."""
    first = learner.first_drawn
    classes, domains = learner.asked(learner.snapshot, len(first.classes))
    counts = torch.bincount(first.classes[first.domains == domain], minlength=learner.snapshot.outputs)
    mine = domains == domain
    right = (first.classes == classes) & (first.domains == domains)
    return {
        "class_counts": counts.tolist(),
        "class_entropy": class_entropy(counts[learner.taught(learner.snapshot)[domain]]),
        "label_noise": float((~right[mine]).double().mean()) if bool(mine.any()) else None,
    }


def _asked(model: AdversarialAutoencoder, domain: int | None) -> Sequence[int]:
    """Classes that come into question: those of a domain, or all that were taught."""
    taught = model.taught()
    found: Sequence[int] = (taught.any(dim=0) if domain is None else taught[domain]).nonzero().flatten().tolist()
    return found


def _risks(
    kind: str, model: AdversarialAutoencoder, x: Tensor, y: Tensor, among: Sequence[int] | None
) -> dict[str, float | None]:
    known = y >= 0
    wrong = (_classes(model, x, among) != y)[known].double().mean() if bool(known.any()) else None
    errors = [(model.reconstruct(part) - part).square().mean(dim=(1, 2, 3)) for part in x.split(CHUNK)]
    return {f"{kind}_risk": None if wrong is None else float(wrong), f"{kind}_mse": float(torch.cat(errors).mean())}


def _classes(model: AdversarialAutoencoder, x: Tensor, among: Sequence[int] | None) -> Tensor:
    """(n,) the most probable of some classes; None: of all outputs."""
    logits = torch.cat([model.class_logits(part) for part in x.split(CHUNK)])
    if among is None:
        return logits.argmax(dim=1)
    return torch.tensor(among, device=x.device)[logits[:, list(among)].argmax(dim=1)]


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
