"""Measures of inferred codes against brute force and against their definitions, term by term."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from torch import Tensor

from reverie.checks import DataError
from reverie.metrics import clustering_accuracy, hsic, normalized_mutual_information


def best_match(labels: Tensor, clusters: Tensor) -> float:
    """Over all ways to name three clusters."""
    return max(float((torch.tensor(names)[clusters] == labels).float().mean()) for names in permutations(range(3)))


@pytest.mark.parametrize("seed", range(5))
def test_clustering_accuracy_is_the_best_match(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (40,), generator=rng)
    noise = torch.randint(3, (40,), generator=rng)
    clusters = torch.where(torch.rand(40, generator=rng) < 0.6, (labels + 1) % 3, noise)
    assert clustering_accuracy(labels, clusters) == pytest.approx(best_match(labels, clusters))


def test_a_cluster_stands_for_one_label_alone() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    assert clustering_accuracy(labels, torch.zeros(4, dtype=torch.int64)) == 0.5
    assert clustering_accuracy(labels, torch.arange(4)) == 0.5
    assert clustering_accuracy(labels, 5 - labels) == 1.0


def test_mutual_information_of_labels_and_themselves_renamed() -> None:
    labels = torch.tensor([0, 0, 1, 1, 2])
    assert normalized_mutual_information(labels, 9 - labels) == pytest.approx(1)
    assert normalized_mutual_information(labels, torch.zeros(5)) == 0


def slow_hsic(x: Tensor, y: Tensor) -> float:
    n = len(x)

    def kernel(rows: Tensor) -> Tensor:
        distances = [[float((a - b).norm()) for b in rows] for a in rows]
        apart = sorted(distances[i][j] for i in range(n) for j in range(i) if distances[i][j] > 0)
        median = apart[(len(apart) - 1) // 2]
        return torch.tensor([[math.exp(-(d**2) / (2 * median**2)) for d in row] for row in distances]).double()

    H = torch.eye(n).double() - 1 / n
    return float((kernel(x) @ H @ kernel(y) @ H).trace()) / (n - 1) ** 2


def test_hsic_against_its_definition() -> None:
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(23, 3, generator=rng), torch.randn(23, 2, generator=rng)
    y[:, 0] += x[:, 0]
    domain = torch.nn.functional.one_hot((x[:, 0] > 0).long()).float()
    assert hsic(x, y) == pytest.approx(slow_hsic(x, y), rel=1e-5)
    assert hsic(x, domain) == pytest.approx(slow_hsic(x, domain), rel=1e-5)


def test_hsic_tells_dependent_from_independent() -> None:
    rng = torch.Generator().manual_seed(1)
    x, y = torch.randn(400, 2, generator=rng), torch.randn(400, 2, generator=rng)
    independent, dependent = hsic(x, y), hsic(x, x.square())
    assert independent < 2e-3
    assert dependent > 5 * independent
    assert hsic(x, torch.zeros(400, 1)) == 0


@pytest.mark.parametrize(("n", "m"), [(1, 1), (3, 4)])
def test_hsic_needs_pairs(n: int, m: int) -> None:
    with pytest.raises(DataError, match=f"{n} and {m} rows"):
        hsic(torch.zeros(n, 2), torch.zeros(m, 2))


def test_labels_and_clusters_must_pair_up() -> None:
    with pytest.raises(DataError, match=r"expected \(n,\) of both"):
        clustering_accuracy(torch.zeros(3), torch.zeros(4))
