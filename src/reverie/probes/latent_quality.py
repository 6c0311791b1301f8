"""How good generated latents are: class by class against held-out real ones, with an eye and with a classifier."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from reverie.metrics import class_frequency_kl, frechet_distance, overlap
from reverie.probes.replay_quality import old_heads
from reverie.seeding import Randomness
from reverie.types import Finding, Stream, StreamSpec, Task, TestSet

CLASS_ROWS = 1000  # real rows of a class, at most
ALL_ROWS = 10_000  # real rows of all classes of the stream, at most, unless that leaves a class fewer than LEAST
LEAST = 10
NEEDED = 6  # rows of a class that a 5th nearest neighbour needs
COMPONENTS = 64
BASIS_ROWS = 2000  # real rows that the principal components are computed from
PICTURED = 200  # rows of a class in the projection, real and generated each
CHUNK = 1000
FAR = 1e3  # the classifier sees coordinates up to this many standard deviations
ORIGINS = 10  # tasks that rows of a class are told apart by, at most

ALIKE = ("frechet", "precision", "recall", "density", "coverage")
MEASURES = (*ALIKE, "train_on_generated", "train_on_real")


class LatentQuality:
    """For learners with a generator of vectors, ``model``; what it draws is what the next task would rehearse.

    For each class seen so far, real test rows (at most 1000, evenly spaced) and as many generated ones: Frechet distance in the
    leading 64 principal components of the real rows (in all dimensions up to 64); precision and recall, density and coverage in all
    dimensions (see ``metrics.samples``). train_on_generated: accuracy on real rows of a classifier that learnt from generated ones alone,
    the classification accuracy score (Ravuri and Vinyals 2019, arXiv 1905.10887), for replay the fitting capacity of Lesort et al. 2018 (arXiv
    1806.10840); train_on_real: the reverse, whether generated rows are what they were meant to be. The classifier is logistic regression
    on the same components.

    numbers: ``classes``, the measures by class in that order, rows of each, and means over classes. A class with fewer than 6 real or
    generated rows is in none of the lists; one that is hardly generated counts as 0 in the means of recall, coverage and
    train_on_generated. class_kl: KL of the class shares among generated rows, as
    the classifier of real rows sees them, from those asked for (equal shares, of a generator that cannot be asked).
    Where classes are met in several tasks and the generator knows from which of them its rows are, the same rows are measured by class and
    task too (at most 10 tasks, evenly spaced): ``origin_tasks``, ``origin_classes``, ``origin_rows`` and ``origin_`` with the first five
    measures, in one order.

    arrays: the first two components of at most 200 real and 200 generated rows a class. Components are those of the test rows of the whole
    stream, so that the tasks of a run are shown and measured alike.

    A generator that cannot be asked for a class is drawn as often as there are real rows; a row's class is the label that it
    comes with, or the solver's most certain answer.
    """

    name = "latent-quality"

    def __call__(self, learner: Any, stream: Stream, task: Task, rng: Randomness) -> Finding:
        spec = stream.spec
        seen = spec.classes_until(task.index)
        each = min(max(ALL_ROWS // spec.outputs, LEAST), CLASS_ROWS)
        real, met = _held_out([test for test in stream.tests if test.since <= task.index], seen, each, rng.device)
        drawn, origins, broken = _drawn(learner, spec, task.index, {c: len(x) for c, x in real.items()}, rng)
        generated = {c: x[: len(real[c])] for c, x in drawn.items()}
        centre, directions = principal_components(_spread_rows(stream.tests, rng.device), COMPONENTS)

        def projected(rows: dict[int, Tensor]) -> dict[int, Tensor]:
            return {c: (x.double() - centre) @ directions for c, x in rows.items()}

        low, low_generated = projected(real), projected(generated)
        measured = [c for c in seen if min(len(real[c]), len(generated[c])) >= NEEDED]
        numbers: dict[str, list[float]] = {name: [] for name in MEASURES}
        seen_by_eye = (real, generated) if len(directions) <= COMPONENTS else (low, low_generated)

        def alike(c: int, mine: Tensor, theirs: Tensor) -> dict[str, float]:
            """Of some of the real and the generated rows of a class."""
            found = overlap(real[c][mine], generated[c][theirs])
            distance = frechet_distance(seen_by_eye[0][c][mine], seen_by_eye[1][c][theirs])
            return {"frechet": distance} | {name: getattr(found, name) for name in ALIKE[1:]}

        for c in measured:
            for name, value in alike(c, *(torch.arange(len(rows[c])) for rows in (real, generated))).items():
                numbers[name].append(value)
        by_origin: dict[str, list[float]] = {}
        for origin, c, mine, theirs in _cells(met, {c: origins[c][: len(real[c])] for c in seen}):
            found = {"tasks": origin, "classes": c, "rows": len(mine), **alike(c, mine, theirs)}
            for name, value in found.items():
                by_origin.setdefault(f"origin_{name}", []).append(float(value))
        lost = [c for c in seen if len(generated[c]) < NEEDED <= len(real[c])]
        means = {f"mean_{name}": _mean(numbers[name]) for name in MEASURES}
        for name in ("recall", "coverage"):
            means[f"mean_{name}"] = _mean([*numbers[name], *[0.0] * len(lost)])
        if taught := _accuracies(low_generated, low, low):
            numbers["train_on_generated"] = [taught[0][c] for c in measured]
            means["mean_train_on_generated"] = _mean(list(taught[0].values()))
        if judged := _accuracies(low, projected(drawn), low):
            numbers["train_on_real"] = [judged[0][c] for c in measured]
            means["mean_train_on_real"] = _mean(list(judged[0].values()))
            asked = torch.tensor(seen).repeat_interleave(torch.tensor([len(real[c]) for c in seen]))
            means["class_kl"] = class_frequency_kl(judged[1], asked)
        return Finding(
            numbers={
                "classes": [float(c) for c in measured],
                "real_rows": [float(len(real[c])) for c in measured],
                "generated_rows": [float(len(generated[c])) for c in measured],
                **numbers,
                **by_origin,
                **means,
            },
            arrays={**_pictured("real", low), **_pictured("generated", low_generated)},
            warnings=_warnings(spec, task, lost, broken),
        )


def principal_components(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean (d,) of rows (n, d) and at most ``count`` orthonormal directions (d, k) of largest variance, in descending order; each so that
    its largest entry is positive."""
    x = x.double()
    centre = x.mean(dim=0)
    centred = x - centre
    if len(x) > x.shape[1]:
        directions = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)[:, :count]
    else:  # fewer rows than dimensions: the same from the products of the rows, of which the last has no variance left
        values, vectors = torch.linalg.eigh(centred @ centred.T)
        there = values > values.max() * len(x) * torch.finfo(values.dtype).eps
        vectors = vectors[:, there].flip(1)[:, :count]
        directions = torch.linalg.qr(centred.T @ vectors).Q
    largest = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True))
    return centre, directions * largest.sign()


# ------------------------------------------------------------------------------------------ rows


def _held_out(
    tests: Sequence[TestSet], classes: Sequence[int], each: int, device: torch.device
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """At most ``each`` test rows of every class, evenly spaced over all of them, and the tasks that teach them."""
    labels = torch.cat([test.rows.labels for test in tests])
    wanted = torch.cat([_spaced((labels == c).nonzero().flatten(), each) for c in classes])
    x, y, since = [], [], []
    start = 0
    for test in tests:
        inside = wanted[(wanted >= start) & (wanted < start + len(test.rows))] - start
        x.append(_taken(test, inside, device))
        y.append(test.rows.labels[inside])
        since.append(torch.full((len(inside),), test.since, device=device))
        start += len(test.rows)
    rows, found, tasks = torch.cat(x), torch.cat(y).to(device), torch.cat(since)
    return {c: rows[found == c] for c in classes}, {c: tasks[found == c] for c in classes}


def _cells(met: dict[int, Tensor], origins: dict[int, Tensor]) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """Where rows of a class are from several tasks: task, class, and places of equally many real and generated rows that are of both.

    met, origins: the tasks of the real and of the generated rows of each class.
    """
    shared = any(len(tasks.unique()) > 1 for tasks in met.values())
    if not shared or len(torch.cat(list(origins.values())).unique()) < 2:
        return
    for task in _spaced(torch.cat(list(met.values())).unique(), ORIGINS).tolist():
        for c, tasks in met.items():
            mine, theirs = ((where == task).nonzero().flatten() for where in (tasks, origins[c]))
            count = min(len(mine), len(theirs))
            if count >= NEEDED:
                yield task, c, _spaced(mine, count), theirs[:count]


def _spread_rows(tests: Sequence[TestSet], device: torch.device) -> Tensor:
    each = max(BASIS_ROWS // len(tests), 1)
    return torch.cat([_taken(test, _spaced(torch.arange(len(test.rows)), each), device) for test in tests])


def _taken(test: TestSet, index: Tensor, device: torch.device) -> Tensor:
    """(n, d) in pieces: a row may have to pass through a backbone first."""
    rows = test.rows.to(device)
    parts = [rows.take(piece).x.flatten(1) for piece in index.split(CHUNK)]
    return torch.cat(parts)


def _spaced(index: Tensor, count: int) -> Tensor:
    return index[torch.linspace(0, len(index) - 1, min(count, len(index))).long()]


def _drawn(
    learner: Any, spec: StreamSpec, task: int, counts: dict[int, int], rng: Randomness
) -> tuple[dict[int, Tensor], dict[int, Tensor], int]:
    """Generated rows of every class, as many as wanted (where classes cannot be asked for: in all), and the tasks that they are from, as far
    as the generator knows; how many rows were not finite."""
    x: list[Tensor] = []
    y: list[Tensor] = []
    origins: list[Tensor] = []
    if learner.model.conditional:
        for c, count in counts.items():
            classes = torch.full((count,), c, device=rng.device)
            batch = learner.model.sample(count, rng.at("draws", c), classes)
            x.append(batch.x)
            y.append(classes)
            origins.append(batch.task)
    else:
        for piece, index in enumerate(torch.arange(sum(counts.values())).split(CHUNK)):
            batch = learner.model.sample(len(index), rng.at("draws", piece))
            x.append(batch.x)
            y.append(_answers(learner, spec, task, batch.x) if batch.y is None else batch.y)
            origins.append(batch.task)
    rows, labels, tasks = torch.cat(x).flatten(1), torch.cat(y), torch.cat(origins)
    finite = torch.isfinite(rows).all(dim=1)
    places = {c: finite & (labels == c) for c in counts}
    return {c: rows[p] for c, p in places.items()}, {c: tasks[p] for c, p in places.items()}, int((~finite).sum())


def _answers(learner: Any, spec: StreamSpec, task: int, x: Tensor) -> Tensor:
    """(B,) the solver's class among those seen; of several heads, each with its own softmax, the most certain one answers."""
    scores = learner.network.scores(x)
    heads = old_heads(learner, spec, task + 1)
    best = [scores[:, head].softmax(dim=1).max(dim=1) for head in heads]
    answers = torch.stack([head[found.indices] for head, found in zip(heads, best, strict=True)])
    surest = torch.stack([found.values for found in best]).argmax(dim=0)
    return answers.gather(0, surest[None])[0]


# ------------------------------------------------------------------------------------------ measures


def _accuracies(
    train: dict[int, Tensor], test: dict[int, Tensor], scale: dict[int, Tensor]
) -> tuple[dict[int, float], Tensor] | None:
    """Of logistic regression that learnt from ``train``: accuracy on each class of ``test`` that has rows, and its answers there.

    Coordinates are divided by the standard deviation of all in ``scale``. None where fewer than two classes can be learnt.
    """
    unit = torch.cat(list(scale.values())).std(dim=0).square().mean().sqrt().clamp(min=1e-12)

    def table(rows: dict[int, Tensor]) -> tuple[np.ndarray, np.ndarray]:
        x = (torch.cat(list(rows.values())) / unit).clamp(-FAR, FAR).cpu().numpy()
        return x, np.repeat(list(rows), [len(part) for part in rows.values()])

    if sum(len(part) > 0 for part in train.values()) < 2 or not any(len(part) for part in test.values()):
        return None
    classifier = LogisticRegression(tol=1e-3, max_iter=200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 200 iterations do, and are the same ones every time
        classifier.fit(*table(train))
    x, y = table(test)
    answers = classifier.predict(x)
    return {c: float((answers[y == c] == c).mean()) for c in np.unique(y).tolist()}, torch.from_numpy(answers)


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _pictured(kind: str, rows: dict[int, Tensor]) -> dict[str, Tensor]:
    """Where there are two components: (n, 2) rows and (n,) classes."""
    if next(iter(rows.values())).shape[1] < 2:
        return {}
    some = {c: x[_spaced(torch.arange(len(x), device=x.device), PICTURED)] for c, x in rows.items() if len(x)}
    if not some:
        return {}
    classes = torch.cat([torch.full((len(x),), c) for c, x in some.items()])
    return {kind: torch.cat(list(some.values()))[:, :2].float().cpu(), f"{kind}_classes": classes}


def _warnings(spec: StreamSpec, task: Task, lost: Sequence[int], broken: int) -> tuple[str, ...]:
    found = []
    if broken:
        found.append(
            f"task {task.name!r}: {broken} generated rows hold NaN or infinite values; they are left out of latent-quality"
        )
    if lost:
        names = ", ".join(str(spec.classes[c]) for c in lost[:5]) + (" ..." if len(lost) > 5 else "")
        seen = len(spec.classes_until(task.index))
        found.append(f"task {task.name!r}: almost no generated row belongs to {len(lost)} of {seen} classes ({names})")
    return tuple(found)
