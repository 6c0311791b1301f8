"""FeCAM against a version that goes row by row and class by class."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from reverie.checks import DataError, OptionsError
from reverie.device import CPU
from reverie.learners import FeCAM
from reverie.seeding import Randomness
from tests.learners.vectors import built, class_by_class, shuffled, spec_of, taught, teach, vectors


def slow_scores(
    new: Tensor, x: Tensor, y: Tensor, tukey: float | None, g: tuple[float, float], scaled: bool
) -> np.ndarray:
    power = 1.0 if tukey is None else tukey
    rows, labels, asked = x.double().numpy() ** power, y.numpy(), new.double().numpy() ** power
    d = rows.shape[1]
    scores = np.zeros((len(asked), labels.max() + 1))
    for c in range(labels.max() + 1):
        mine = rows[labels == c]
        covariance = np.cov(mine.T)
        own = covariance.trace() / d
        others = (covariance.sum() - covariance.trace()) / (d * (d - 1))
        covariance = covariance + g[0] * own * np.eye(d) + g[1] * others * (1 - np.eye(d))
        if scaled:
            deviation = np.sqrt(np.diag(covariance))
            covariance = covariance / np.outer(deviation, deviation)
        mean = mine.mean(axis=0)
        for i, row in enumerate(asked):
            apart = row / np.linalg.norm(row) - mean / np.linalg.norm(mean)
            scores[i, c] = -apart @ np.linalg.inv(covariance) @ apart
    return scores


@pytest.mark.parametrize(
    ("tukey", "shrinkage", "correlation"),
    [(0.5, (1.0, 1.0), True), (0.5, (1.0, 0.0), True), (None, (10.0, 10.0), True), (1.0, (1.0, 1.0), False)],
)
def test_equals_the_slow_version(tukey: float | None, shrinkage: tuple[float, float], correlation: bool) -> None:
    lowest = None if tukey is None else 0.0
    (x, y), (new, _) = vectors(lowest=lowest), vectors(seed=3, lowest=lowest)
    learner = taught(FeCAM(tukey=tukey, shrinkage=shrinkage, correlation=correlation), *shuffled(x, y), parts=17)
    expected = slow_scores(new, x, y, tukey, shrinkage, correlation)
    assert np.allclose(learner.predict(new).scores, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_a_class_that_comes_back_counts_by_its_rows() -> None:
    """Not by halves, as the authors' code averages: two visits are one class."""
    x, y = vectors(lowest=0.0)
    once = taught(FeCAM(), x, y, parts=300)
    for rows, parts in ((shuffled(x, y), 64), (class_by_class(x, y), 7), ((x, y), [290, 10])):
        other = taught(FeCAM(), *rows, parts=parts)
        assert torch.allclose(once.moments.scatter, other.moments.scatter, rtol=1e-5, atol=1e-5)
        assert torch.allclose(once.predict(x).scores, other.predict(x).scores, rtol=1e-3, atol=1e-5)


def test_inputs_below_zero_need_tukey_none() -> None:
    x, y = vectors()
    with pytest.raises(DataError, match=r"tukey = 0.5: the inputs hold values below 0, the lowest -.*use tukey = None"):
        taught(FeCAM(), x, y)
    learner = taught(FeCAM(), *vectors(lowest=0.0))
    with pytest.raises(DataError, match="below 0"):
        learner.predict(x)
    assert bool(torch.isfinite(taught(FeCAM(tukey=None), x, y).predict(x).scores).all())


def test_a_stream_below_zero_is_refused_before_training() -> None:
    spec = replace(spec_of(7, 4), value_range=(-1.0, 1.0))
    with pytest.raises(
        OptionsError, match=r"tukey = 0.5: the inputs of this stream go down to -1, .* use tukey = None"
    ):
        FeCAM().build(spec, Randomness(0), CPU)
    FeCAM(tukey=None).build(spec, Randomness(0), CPU)
    FeCAM().build(replace(spec, value_range=(0.0, 1.0)), Randomness(0), CPU)


def test_a_shrinkage_that_may_leave_no_inverse_is_refused() -> None:
    with pytest.raises(OptionsError, match=r"shrinkage = \(1.0, 10.0\): g2 is larger than g1"):
        FeCAM(shrinkage=(1.0, 10.0))


@pytest.mark.parametrize("correlation", [True, False])
def test_few_rows_and_inputs_that_never_vary(correlation: bool) -> None:
    x, y = vectors(rows=9, width=30, lowest=0.0)  # one class has three rows, the others two
    x[:, :4] = 0.0
    x[:, 4:6] = 2.0
    learner = taught(FeCAM(shrinkage=(1.0, 0.0), correlation=correlation), x, y)
    scores = learner.predict(x).scores
    assert bool(torch.isfinite(scores).all())
    assert torch.equal(scores.argmax(dim=1), y)


def test_a_class_of_one_row() -> None:
    x, y = vectors(rows=40, lowest=0.0)
    keep = (y != 3) | (torch.arange(40) == 3)
    scores = taught(FeCAM(), x[keep], y[keep]).predict(x).scores
    assert bool(torch.isfinite(scores).all())
    assert int(scores[3].argmax()) == 3


def test_classes_join_and_those_without_rows_are_not_answered() -> None:
    x, y = vectors(lowest=0.0)
    early = y < 2
    learner = teach(built(FeCAM(), 7, 2), x[early], y[early])
    learner.extend(spec_of(7, 4))
    assert set(learner.predict(x).scores.argmax(dim=1).tolist()) <= {0, 1}
    teach(learner, x[~early], y[~early])
    whole = taught(FeCAM(), x, y)
    assert torch.allclose(learner.predict(x).scores, whole.predict(x).scores, rtol=1e-3, atol=1e-5)


def test_bytes() -> None:
    learner = taught(FeCAM(), *vectors(lowest=0.0))
    memory = learner.memory()
    assert memory.persistent == {"class statistics": 8 * (4 + 4 * 7 + 4 * 28)}
    assert memory.working == {"factors of covariances": 4 * 4 * 49}
    assert memory.stores == "none"
