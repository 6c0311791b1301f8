"""Streaming linear discriminant analysis against scikit-learn's, which sees all rows at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from reverie.learners import StreamingLDA
from tests.learners.vectors import built, class_by_class, shuffled, spec_of, taught, teach, vectors


@pytest.mark.parametrize("shrinkage", [0.0, 0.3])
def test_equals_the_batch_method(shrinkage: float) -> None:
    """Classes are of one size here: scikit-learn adds the log of their shares, Deep SLDA does not."""
    x, y = vectors()
    reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage or None)
    reference.fit(x.double().numpy(), y.numpy())
    learner = taught(StreamingLDA(ridge=0.0, shrinkage=shrinkage), *shuffled(x, y), parts=13)
    weight, bias = learner.solve()
    assert np.allclose(weight, reference.coef_, rtol=1e-4, atol=1e-4)
    assert np.allclose(bias, reference.intercept_ - np.log(0.25), rtol=1e-4, atol=1e-3)
    assert np.array_equal(learner.predict(x).scores.argmax(dim=1), reference.predict(x.double().numpy()))


def test_the_ridge_is_a_share_of_the_identity() -> None:
    x, y = vectors()
    learner = taught(StreamingLDA(ridge=0.2), x, y)
    rows = x.double()
    means = torch.stack([rows[y == c].mean(dim=0) for c in range(4)])
    centred = rows - means[y]
    precision = torch.linalg.inv(0.8 * centred.T @ centred / len(y) + 0.2 * torch.eye(7))
    expected = rows @ precision @ means.T - 0.5 * ((means @ precision) * means).sum(dim=1)
    assert torch.allclose(learner.predict(x).scores, expected.float(), rtol=1e-4, atol=1e-4)


def test_order_and_batches_do_not_matter() -> None:
    x, y = vectors()
    once = taught(StreamingLDA(), x, y, parts=300)
    for rows, parts in ((shuffled(x, y), 64), (class_by_class(x, y), 7)):
        other = taught(StreamingLDA(), *rows, parts=parts)
        scale = float(once.moments.scatter.abs().max())
        assert torch.allclose(once.moments.scatter, other.moments.scatter, rtol=0, atol=1e-6 * scale)
        assert torch.allclose(once.predict(x).scores, other.predict(x).scores, rtol=1e-4, atol=1e-4)


def test_classes_join() -> None:
    x, y = vectors()
    early = y < 2
    learner = teach(built(StreamingLDA(), 7, 2), x[early], y[early])
    learner.extend(spec_of(7, 4))
    teach(learner, x[~early], y[~early])
    whole = taught(StreamingLDA(), x, y)
    assert torch.allclose(learner.predict(x).scores, whole.predict(x).scores, rtol=1e-4, atol=1e-4)


def test_more_dimensions_than_rows_and_constant_inputs() -> None:
    x, y = vectors(rows=12, width=40)
    x[:, :5] = 0.0
    learner = taught(StreamingLDA(), x, y)
    scores = learner.predict(x).scores
    assert bool(torch.isfinite(scores).all())
    assert torch.equal(scores.argmax(dim=1), y)
