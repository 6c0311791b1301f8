"""Nearest class mean: the definition, whatever the order; and classes that have no mean yet."""

from __future__ import annotations

import pytest
import torch

from reverie.checks import OptionsError
from reverie.learners import NearestClassMean
from tests.learners.vectors import built, class_by_class, shuffled, spec_of, taught, teach, vectors


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_the_definition_in_any_order(distance: str) -> None:
    x, y = vectors()
    new, _ = vectors(seed=5)
    means = torch.stack([x[y == c].mean(dim=0) for c in range(4)])
    if distance == "cosine":
        expected = torch.nn.functional.cosine_similarity(new[:, None], means, dim=2).argmax(dim=1)
    else:
        expected = torch.cdist(new, means).argmin(dim=1)
    for rows, parts in (((x, y), 300), (shuffled(x, y), 64), (class_by_class(x, y), 7)):
        learner = taught(NearestClassMean(distance=distance), *rows, parts=parts)
        assert torch.equal(learner.predict(new).scores.argmax(dim=1), expected)


def test_order_moves_scores_by_rounding_alone() -> None:
    x, y = vectors()
    once = taught(NearestClassMean(), x, y, parts=300).predict(x).scores
    again = taught(NearestClassMean(), *shuffled(x, y), parts=1).predict(x).scores
    assert torch.allclose(once, again, rtol=1e-6, atol=1e-5)


def test_a_class_without_rows_is_never_preferred() -> None:
    """Its mean would be 0, which may well be the nearest."""
    learner = taught(NearestClassMean(), torch.tensor([[9.0, 9.0], [7.0, 9.0]]), torch.tensor([0, 1]), classes=3)
    scores = learner.predict(torch.zeros(1, 2)).scores
    assert bool(torch.isfinite(scores).all())
    assert int(scores.argmax()) == 1


def test_classes_join() -> None:
    x, y = vectors()
    early = y < 2
    learner = teach(built(NearestClassMean(), 7, 2), x[early], y[early])
    learner.extend(spec_of(7, 4))
    teach(learner, x[~early], y[~early])
    whole = taught(NearestClassMean(), x, y)
    assert torch.allclose(learner.predict(x).scores, whole.predict(x).scores, rtol=1e-5, atol=1e-5)


def test_statistics_of_other_widths_are_refused() -> None:
    here, there = taught(NearestClassMean(), *vectors()), taught(NearestClassMean(), *vectors(width=5))
    with pytest.raises(OptionsError, match=r"width 7 and .* width 5; fit both on latents of one cut"):
        here.moments.merge(there.moments)
