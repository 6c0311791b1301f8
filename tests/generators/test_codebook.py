"""The k-means codebook: centres, shares and spreads of the rows of each."""

from __future__ import annotations

import torch
from sklearn.cluster import KMeans
from torch import Tensor

from reverie.generators import KMeansCodebook


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clusters(k: int = 4, n: int = 40, d: int = 3) -> Tensor:
    centres = 20 * torch.randn(k, 1, d, generator=seeded(1), dtype=torch.float64)
    return (centres + torch.randn(k, n, d, generator=seeded(), dtype=torch.float64)).flatten(0, 1)


def test_each_centre_has_mean_variance_and_share_of_its_rows() -> None:
    z = torch.cat([clusters(), clusters()[:40] + 0.1])
    fitted = KMeansCodebook(components=4, floor=1e-9).fit(z, seeded())
    label = torch.cdist(z, fitted.means.double()).argmin(1)
    for k in range(4):
        mine = z[label == k]
        torch.testing.assert_close(fitted.means[k], mine.mean(0))
        torch.testing.assert_close(fitted.spread[k], mine.var(0, correction=0), rtol=1e-4, atol=1e-4)
        assert float(fitted.weights[k]) == len(mine) / len(z)


def test_centres_are_a_fixed_point_as_good_as_scikit_learn_s() -> None:
    z = torch.randn(200, 2, generator=seeded()).double()
    fitted = KMeansCodebook(components=8, steps=300).fit(z, seeded())
    distance, label = torch.cdist(z, fitted.means.double()).min(1)
    for k in range(8):
        torch.testing.assert_close(fitted.means[k], z[label == k].mean(0))
    assert float(distance.square().sum()) < 1.15 * KMeans(8, n_init=1, random_state=0).fit(z.numpy()).inertia_


def test_mean_and_variances_of_the_rows_are_kept() -> None:
    z = clusters().float()
    drawn = KMeansCodebook(components=5).fit(z, seeded()).sample(30_000, seeded())
    torch.testing.assert_close(drawn.mean(0), z.mean(0), atol=0.5, rtol=0)
    torch.testing.assert_close(drawn.var(0), z.var(0), atol=0, rtol=0.05)


def test_as_many_centres_as_rows_at_most() -> None:
    fitted = KMeansCodebook(components=16).fit(clusters()[:5], seeded())
    assert len(fitted.weights) <= 5
    assert len(KMeansCodebook().fit(torch.ones(30, 2), seeded()).weights) == 1


def test_numbers_kept() -> None:
    fitted = KMeansCodebook(components=4).fit(clusters(), seeded())
    assert sum(tensor.numel() for tensor in fitted.tensors().values()) == 4 * (2 * 3 + 1)
    assert fitted.merge(fitted) is None
