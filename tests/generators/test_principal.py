"""Principal components: directions, what is kept and left out, the density, every family inside."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from reverie.checks import OptionsError
from reverie.generators import DENSITIES, Gaussian, GaussianMixture, PrincipalComponents
from reverie.generators.principal import principal_axes

PLAIN = Gaussian(shrinkage="none")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(n: int = 80, d: int = 6) -> Tensor:
    scale = torch.tensor([5.0, 3.0, 1.0, 0.5, 0.3, 0.2])[:d]
    turn = torch.linalg.qr(torch.randn(d, d, generator=seeded(4))).Q
    return (torch.randn(n, d, generator=seeded()) * scale @ turn + 1.0).double()


def test_with_a_gaussian_inside_it_is_probabilistic_pca() -> None:
    z = rows()
    fitted = PrincipalComponents(density=PLAIN, dimensions=2).fit(z, seeded())
    theirs = PCA(2).fit(z.numpy())
    basis = fitted.basis
    torch.testing.assert_close(basis.T @ basis, torch.eye(2).double(), atol=1e-6, rtol=0)
    plane = torch.from_numpy(theirs.components_)
    torch.testing.assert_close(basis @ basis.T, plane.T @ plane, atol=1e-6, rtol=0)
    assert float(fitted.noise) == pytest.approx(theirs.noise_variance_ * 79 / 80)  # scikit-learn divides by n - 1
    expected = torch.from_numpy(theirs.score_samples(z.numpy()))
    assert float(fitted.log_prob(z).mean()) == pytest.approx(float(expected.mean()), abs=0.05)


def test_samples_have_the_variance_of_the_rows_with_noise_and_less_without() -> None:
    z = rows()
    total = float(z.var(0, correction=0).sum())
    for noise in (True, False):
        part = PrincipalComponents(density=PLAIN, dimensions=1, noise=noise)
        drawn = part.fit(z, seeded()).sample(30_000, seeded())
        left = float(torch.linalg.eigvalsh(torch.cov(z.T, correction=0))[:-1].sum())
        expected = total if noise else total - left
        assert float(drawn.var(0).sum()) == pytest.approx(expected, rel=0.03)
        torch.testing.assert_close(drawn.mean(0), z.mean(0), atol=0.15, rtol=0)


@pytest.mark.parametrize(("share", "q"), [(0.5, 1), (0.9, 2), (0.97, 3), (0.999999, 6)])
def test_a_share_of_the_variance_chooses_the_number(share: float, q: int) -> None:
    z = rows()
    fitted = PrincipalComponents(dimensions=share).fit(z, seeded())
    assert fitted.basis.shape == (6, q)
    values = torch.linalg.eigvalsh(torch.cov(z.T, correction=0)).flip(0)
    kept = values.cumsum(0) / values.sum()
    assert float(kept[q - 1]) >= share > (float(kept[q - 2]) if q > 1 else 0)


@pytest.mark.parametrize(("n", "d"), [(80, 6), (4, 6), (1, 6), (6, 6)])
def test_axes_from_either_gram_matrix(n: int, d: int) -> None:
    z = rows(n, d)
    centred = z - z.mean(0)
    values, directions = principal_axes(centred)
    r = min(n, d)
    torch.testing.assert_close(directions.T @ directions, torch.eye(r).double(), atol=1e-8, rtol=0)
    torch.testing.assert_close(directions * values @ directions.T, centred.T @ centred / n, atol=1e-8, rtol=0)
    assert bool((values.diff() <= 0).all())


def test_never_more_directions_than_rows_or_dimensions() -> None:
    assert PrincipalComponents(dimensions=10).fit(rows(), seeded()).basis.shape == (6, 6)
    assert PrincipalComponents(dimensions=10).fit(rows(3), seeded()).basis.shape == (6, 3)


def test_all_directions_leave_the_density_as_it_is() -> None:
    z = rows()
    fitted = PrincipalComponents(density=PLAIN, dimensions=6).fit(z, seeded())
    torch.testing.assert_close(fitted.log_prob(z), PLAIN.fit(z, seeded()).log_prob(z), rtol=1e-4, atol=1e-4)


def test_without_noise_there_is_no_density_but_in_all_directions() -> None:
    z = rows()
    with pytest.raises(NotImplementedError, match="set noise = True"):
        PrincipalComponents(dimensions=2, noise=False).fit(z, seeded()).log_prob(z)
    full = PrincipalComponents(dimensions=6, noise=False).fit(z, seeded())
    assert bool(torch.isfinite(full.log_prob(z)).all())


@pytest.mark.parametrize("family", DENSITIES.values())
def test_any_family_inside(family: Any) -> None:
    part = PrincipalComponents(density=family(), dimensions=2)
    fitted = part.fit(rows(), seeded())
    drawn = fitted.sample(50, seeded())
    again = part.restore({**fitted.tensors(), **fitted.settings()})
    assert torch.equal(again.sample(50, seeded()), drawn)
    assert bool(torch.isfinite(drawn).all())
    assert fitted.merge(fitted) is None


def test_numbers_kept() -> None:
    fitted = PrincipalComponents(density=GaussianMixture(components=2), dimensions=2).fit(rows(), seeded())
    assert sum(tensor.numel() for tensor in fitted.tensors().values()) == 6 + 6 * 2 + 1 + 2 * (2 * 2 + 1)


@pytest.mark.parametrize("dimensions", [0, -1, 1.0, 0.0, 1.5, True])
def test_dimensions_are_a_number_or_a_share(dimensions: Any) -> None:
    with pytest.raises(OptionsError, match="dimensions = "):
        PrincipalComponents(dimensions=dimensions)


def test_a_shared_covariance_is_refused() -> None:
    with pytest.raises(OptionsError, match="a covariance shared by all classes cannot be taken inside"):
        PrincipalComponents(density=Gaussian(covariance="shared"))
