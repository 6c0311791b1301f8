"""Bayes' rule with fitted densities, against scikit-learn's Gaussian discriminants and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis

from reverie.checks import OptionsError
from reverie.generators import VAE, Densities, Gaussian
from reverie.learners import GenerativeClassifier
from reverie.streams.rows import TensorRows
from reverie.types import Task
from tests.learners.vectors import built, shuffled, spec_of, vectors
from tests.tiny import tiny_stream, train

EXACT = Densities(density=Gaussian(shrinkage="none"), support="real")


def fitted(learner: GenerativeClassifier, *parts: tuple[torch.Tensor, torch.Tensor]) -> GenerativeClassifier:
    built(learner, parts[0][0].shape[1], 4)
    learner.extend(spec_of(parts[0][0].shape[1], 4, tasks=len(parts)))
    for index, (x, y) in enumerate(parts):
        task = Task(index, str(index), tuple(range(4)), TensorRows(x, y, index))
        learner.begin_task(task)
        learner.end_task(task)
    return learner


def test_equals_quadratic_discriminant_analysis() -> None:
    x, y = vectors(rows=400)
    keep = (y != 0) | (torch.arange(400) % 3 == 0)  # classes of unequal size, for the priors
    x, y = x[keep], y[keep]
    reference = QuadraticDiscriminantAnalysis().fit(x.double().numpy(), y.numpy())
    scores = fitted(GenerativeClassifier(generator=EXACT.clone()), (x, y)).predict(x).scores
    expected = reference.predict_log_proba(x.double().numpy())
    # scikit-learn divides by n - 1.
    assert np.allclose(scores.log_softmax(dim=1), expected, rtol=0.05, atol=0.1)
    assert (scores.argmax(dim=1).numpy() == reference.predict(x.double().numpy())).mean() > 0.99


def test_priors() -> None:
    x, y = vectors(rows=400)
    keep = (y != 0) | (torch.arange(400) < 40)
    by_counts = fitted(GenerativeClassifier(generator=EXACT.clone()), (x[keep], y[keep])).predict(x).scores
    uniform = (
        fitted(GenerativeClassifier(generator=EXACT.clone(), priors="uniform"), (x[keep], y[keep])).predict(x).scores
    )
    counts = y[keep].bincount()
    assert torch.allclose(by_counts - uniform, (counts / counts.sum()).log().expand(400, 4), atol=1e-3)


def test_classes_of_several_tasks() -> None:
    """Scope class: merged, as if all rows had come at once. Scope task-class: a mixture that keeps each task's mode."""
    x, y = shuffled(*vectors(rows=400))
    halves = tuple(zip(x.split(200), y.split(200), strict=True))
    one = Densities(density=Gaussian(shrinkage="none"), scope="class", support="real")
    merged = fitted(GenerativeClassifier(generator=one), *halves).predict(x).scores
    once = fitted(GenerativeClassifier(generator=one.clone()), (x, y)).predict(x).scores
    assert torch.allclose(merged, once, rtol=1e-3, atol=1e-2)
    mixed = fitted(GenerativeClassifier(generator=EXACT.clone()), *halves)
    (_x1, y1), (_x2, y2) = halves
    each = [
        fitted(GenerativeClassifier(generator=EXACT.clone(), priors="uniform"), half).predict(x).scores
        for half in halves
    ]
    shares = [(labels.bincount() / y.bincount()).log() for labels in (y1, y2)]
    expected = torch.logsumexp(torch.stack([each[0] + shares[0], each[1] + shares[1]]), dim=0)
    expected = expected + (y.bincount() / len(y)).log()
    assert torch.allclose(mixed.predict(x).scores, expected, rtol=1e-3, atol=1e-2)


def test_nothing_is_answered_that_was_never_fitted() -> None:
    x, y = vectors()
    learner = fitted(GenerativeClassifier(), (x[y < 2], y[y < 2]))
    scores = learner.predict(x).scores
    assert bool(torch.isfinite(scores).all())
    assert set(scores.argmax(dim=1).tolist()) == {0, 1}
    assert bool(torch.isfinite(built(GenerativeClassifier(), 7, 4).predict(x).scores).all())


def test_generators_that_cannot_compare_classes_are_refused() -> None:
    with pytest.raises(
        OptionsError, match=r"generator = VAE: has no density of single classes .*use generator = 'densities'"
    ):
        GenerativeClassifier(generator=VAE())
    with pytest.raises(OptionsError, match=r"generator.scope = 'task': does not tell classes apart"):
        GenerativeClassifier(generator=Densities(scope="task"))


def test_no_steps_and_bytes_of_the_densities() -> None:
    run = train(GenerativeClassifier(), tiny_stream("class", rows=60))
    assert run.result["cost"]["steps"] == 0
    assert run.result["summary"]["average_accuracy"] > 0.8
    assert run.result["memory"]["persistent"] == {"generator": 6 * 4 * (6 + 21 + 7)}
    assert run.result["memory"]["stores"] == "none"
