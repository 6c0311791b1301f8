"""Counts, means and scatter do not depend on order, batches or shards."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from reverie.checks import OptionsError
from reverie.solvers.moments import Moments, packed, unpacked
from tests.learners.vectors import class_by_class, shuffled, vectors

KINDS = ("none", "pooled", "each")


def added(kind: str, x: Tensor, y: Tensor, sizes: list[int] | int, outputs: int = 4) -> Moments:
    moments = Moments(x.shape[1], outputs, kind)  # type: ignore[arg-type]
    for some_x, some_y in zip(x.split(sizes), y.split(sizes), strict=True):
        moments.add(some_x, some_y)
    return moments


def same(a: Moments, b: Moments, tolerance: float = 1e-6) -> None:
    assert torch.equal(a.counts, b.counts)
    for left, right in ((a.means, b.means), (a.scatter, b.scatter)):
        scale = float(right.abs().max()) if right.numel() else 1.0
        assert torch.allclose(left, right, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("kind", KINDS)
def test_the_definition(kind: str) -> None:
    x, y = vectors()
    moments = added(kind, x, y, 50)
    rows, labels = x.double().numpy(), y.numpy()
    each = np.stack([np.cov(rows[labels == c].T, bias=True) * (labels == c).sum() for c in range(4)])
    assert np.allclose(moments.means, [rows[labels == c].mean(axis=0) for c in range(4)], atol=1e-6)
    expected = {"none": np.zeros(0), "pooled": each.sum(axis=0), "each": each}[kind]
    assert np.allclose(moments.scatter, expected, rtol=1e-6, atol=1e-4)
    if kind == "each":
        assert np.allclose(moments.covariance(correction=1)[2], np.cov(rows[labels == 2].T), atol=1e-6)
    if kind == "pooled":
        assert np.allclose(moments.covariance(), each.sum(axis=0) / len(rows), atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from(KINDS), sizes=st.lists(st.integers(1, 60), min_size=1, max_size=12), seed=st.integers(0, 99)
)
def test_any_order_and_any_batches_equal_one_pass(kind: str, sizes: list[int], seed: int) -> None:
    x, y = vectors(rows=sum(sizes))
    once = added(kind, x, y, len(y))
    same(added(kind, *shuffled(x, y, seed), sizes), once)
    same(added(kind, *class_by_class(x, y), sizes), once)


@settings(max_examples=30, deadline=None)
@given(kind=st.sampled_from(KINDS), shards=st.lists(st.integers(1, 80), min_size=2, max_size=5))
def test_shards_merge_into_the_union(kind: str, shards: list[int]) -> None:
    x, y = vectors(rows=sum(shards))
    x, y = class_by_class(x, y)  # some shards lack some classes
    first, *rest = (added(kind, *part, 32) for part in zip(x.split(shards), y.split(shards), strict=True))
    for shard in rest:
        first.merge(shard)
    same(first, added(kind, x, y, len(y)))


@pytest.mark.parametrize("kind", KINDS[1:])
def test_means_far_from_zero_cost_no_digits(kind: str) -> None:
    x, y = vectors()
    far, near = added(kind, x + 1000, y, 16), added(kind, (x + 1000) - 1000, y, 16)
    far.means -= 1000
    same(far, near, 1e-5)


def test_others_are_refused_with_what_they_are() -> None:
    with pytest.raises(
        OptionsError, match=r"scatter pooled, 4 classes, width 7 and scatter pooled, 4 classes, width 9"
    ):
        Moments(7, 4, "pooled").merge(Moments(9, 4, "pooled"))
    with pytest.raises(OptionsError, match=r"3 classes, width 7; fit both on latents of one cut"):
        Moments(7, 4, "pooled").merge(Moments(7, 3, "pooled"))
    with pytest.raises(OptionsError, match=r"scatter each.*scatter none"):
        Moments(7, 4, "each").merge(Moments(7, 4, "none"))


@pytest.mark.parametrize("kind", KINDS)
def test_classes_that_join_later_change_nothing_before(kind: str) -> None:
    x, y = vectors()
    early = y < 2
    grown = added(kind, x[early], y[early], 16, outputs=2)
    grown.grow(4)
    grown.grow(3)  # never smaller
    for some_x, some_y in zip(x[~early].split(16), y[~early].split(16), strict=True):
        grown.add(some_x, some_y)
    same(grown, added(kind, x, y, len(y)))


@pytest.mark.parametrize("kind", KINDS)
def test_state_and_bytes(kind: str) -> None:
    x, y = vectors()
    moments = added(kind, x, y, 50)
    copy = Moments(7, 4, kind)  # type: ignore[arg-type]
    copy.load(moments.state())
    for saved, again in zip(moments.state().values(), copy.state().values(), strict=True):
        assert torch.equal(saved, again)
    same(copy, moments)
    old = {**moments.state(), "scatter": moments.scatter}  # as folders from before triangles were saved have it
    copy.load(old)
    same(copy, moments, 0)
    copy.add(x, y)
    assert float(moments.counts.sum()) == len(y)  # the copy has its own
    assert moments.num_bytes() == 8 * (4 + 28 + {"none": 0, "pooled": 28, "each": 4 * 28}[kind])
    assert moments.num_bytes() == sum(tensor.numel() * tensor.element_size() for tensor in moments.state().values())


@pytest.mark.parametrize("kind", KINDS)
def test_classes_at_other_places(kind: str) -> None:
    x, y = vectors()
    places = torch.tensor([2, 5, 0, 1])
    same(added(kind, x, y, 50).placed(places, 6), added(kind, x, places[y], 50, outputs=6))


@pytest.mark.parametrize("shape", [(5, 5), (3, 4, 4), (1, 1)])
def test_a_triangle_holds_a_symmetric_matrix(shape: tuple[int, ...]) -> None:
    symmetric = torch.randn(shape, dtype=torch.float64)
    symmetric = symmetric + symmetric.mT
    triangle = packed(symmetric)
    assert triangle.shape == (*shape[:-2], shape[-1] * (shape[-1] + 1) // 2)
    assert torch.equal(triangle, symmetric[(..., *torch.tril_indices(shape[-1], shape[-1]))])
    assert torch.equal(unpacked(triangle, shape[-1]), symmetric)
