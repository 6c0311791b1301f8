"""What every family of densities promises, for every entry of the table."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from reverie.checks import NotReadyError
from reverie.generators import (
    DENSITIES,
    Gaussian,
    GaussianCopula,
    GaussianMixture,
    KernelDensity,
    KMeansCodebook,
    Likeliest,
    MixtureOfFactorAnalysers,
    PrincipalComponents,
)
from reverie.options import from_options, signature, to_options
from reverie.storage import read_tree, write_tree
from reverie.types import Density
from tests.tiny import differing

FAMILIES: dict[str, Any] = {
    **{f"gaussian {kind}": Gaussian(covariance=kind) for kind in ("isotropic", "diagonal", "full", "shared")},
    **{f"gaussian full {rule}": Gaussian(shrinkage=rule) for rule in ("none", "oas", 0.1)},
    "gaussian low-rank": Gaussian(covariance="low-rank", rank=1),
    **{
        f"gmm {kind}": GaussianMixture(covariance=kind, components=3)
        for kind in ("spherical", "diagonal", "tied", "full")
    },
    "gmm bic": GaussianMixture(choose="bic", most=3),
    "gmm held-out": GaussianMixture(choose="held-out", most=3),
    "mixture-of-factor-analysers": MixtureOfFactorAnalysers(rank=1, floor=1e-3),
    **{f"kde {rule}": KernelDensity(bandwidth=rule) for rule in ("scott", "silverman", "leave-one-out", 0.3)},
    "kde most": KernelDensity(most=40),
    "k-means": KMeansCodebook(components=6),
    "principal-components": PrincipalComponents(dimensions=1),
    "principal-components share": PrincipalComponents(density=GaussianMixture(components=2), dimensions=0.6),
    "principal-components no noise": PrincipalComponents(dimensions=1, noise=False),
    "copula": GaussianCopula(),
    "likeliest": Likeliest(),
}
WITHOUT_DENSITY = ("principal-components no noise",)

every_family = pytest.mark.parametrize("family", FAMILIES)
every_density = pytest.mark.parametrize("family", [name for name in FAMILIES if name not in WITHOUT_DENSITY])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(n: int = 300, d: int = 2, seed: int = 0) -> Tensor:
    """Of a Gaussian with correlated axes of different widths, away from 0."""
    root = torch.randn(d, d, generator=seeded(9)).tril() * 0.3 + torch.diag(torch.linspace(1.0, 0.6, d))
    return torch.randn(n, d, generator=seeded(seed)) @ root.T + torch.linspace(-1.0, 2.0, d)


def test_every_entry_of_the_table_is_tried() -> None:
    assert {type(family) for family in FAMILIES.values()} == set(DENSITIES.values())
    assert all(isinstance(family, Density) for family in FAMILIES.values())


@every_family
def test_a_fit_and_its_samples_are_a_function_of_rows_and_seed(family: str) -> None:
    z = rows(60, 3)
    kept = z.clone()
    first, again = (FAMILIES[family].fit(z, seeded(1)) for _ in range(2))
    assert differing(first.tensors(), again.tensors()) == []
    assert first.count == 60
    assert torch.equal(z, kept)
    drawn = first.sample(9, seeded(2))
    assert torch.equal(drawn, again.sample(9, seeded(2)))
    assert not torch.equal(drawn, first.sample(9, seeded(3)))
    assert torch.equal(drawn, first.sample(9, seeded(2)))
    assert differing(first.tensors(), FAMILIES[family].fit(z, seeded(1)).tensors()) == []  # sampling changed nothing


@every_family
@pytest.mark.parametrize("d", [1, 2, 5])
def test_samples_have_shape_type_and_no_nan(family: str, d: int) -> None:
    fitted = FAMILIES[family].fit(rows(40, d), seeded())
    drawn = fitted.sample(17, seeded())
    assert drawn.shape == (17, d)
    assert drawn.dtype == torch.float32
    assert bool(torch.isfinite(drawn).all())
    assert fitted.sample(0, seeded()).shape == (0, d)
    for tensor in fitted.tensors().values():
        assert tensor.dtype == torch.float32
        assert tensor.is_contiguous()  # as it is once saved and loaded, so that products have the same bits
        assert bool(torch.isfinite(tensor).all())


@every_family
def test_moments_are_those_of_the_rows_within_sampling_error(family: str) -> None:
    z = rows(400)
    drawn = FAMILIES[family].fit(z, seeded()).sample(20_000, seeded())
    error = 4 / math.sqrt(20_000) + (4 / math.sqrt(40) if family == "kde most" else 0)
    assert float((drawn.mean(0) - z.mean(0)).abs().max()) < error * float(z.std(0).max())
    if family.startswith("kde"):
        assert bool((drawn.std(0) > (0.8 if "most" in family else 0.97) * z.std(0)).all())
        assert bool(
            (drawn.std(0) < (1.5 if "most" in family else 1.25) * z.std(0)).all()
        )  # a kernel adds its own variance
    elif family == "gaussian isotropic":
        torch.testing.assert_close(drawn.var(0).mean(), z.var(0).mean(), rtol=0.05, atol=0)
    elif family == "gmm held-out":
        torch.testing.assert_close(drawn.var(0), z.var(0), rtol=0.15, atol=0)
    elif family not in WITHOUT_DENSITY:  # what is left out is missing there
        torch.testing.assert_close(drawn.var(0), z.var(0), rtol=0.06, atol=0)


@every_density
@pytest.mark.parametrize("d", [1, 2])
def test_density_integrates_to_one(family: str, d: int) -> None:
    # The copula's density has steps, and a fine one more than this grid can see.
    part = GaussianCopula(grid=9) if family == "copula" else FAMILIES[family]
    fitted = part.fit(rows(80, d), seeded())
    points = 4001 if d == 1 else 241
    axis = torch.linspace(-7, 8, points)
    grid = torch.cartesian_prod(*[axis] * d).reshape(-1, d)
    total = fitted.log_prob(grid).double().exp().sum() * (15 / (points - 1)) ** d
    assert abs(float(total) - 1) < (0.03 if family == "copula" else 0.005)


@every_density
def test_log_prob_is_that_of_one_row_at_a_time(family: str) -> None:
    z = rows(50, 3)
    fitted = FAMILIES[family].fit(z, seeded())
    values = fitted.log_prob(z)
    assert values.shape == (50,)
    assert bool(torch.isfinite(values).all())
    single = torch.cat([fitted.log_prob(z[i : i + 1]) for i in range(8)])
    torch.testing.assert_close(values[:8], single, rtol=1e-4, atol=1e-4)


@every_family
def test_fitted_to_its_own_samples_it_stays_where_it_is(family: str) -> None:
    z = rows(500)
    part = FAMILIES[family]
    drawn = z
    for step in range(3):
        drawn = part.fit(drawn, seeded(step)).sample(1000, seeded(10 + step))
    assert float(((drawn.mean(0) - z.mean(0)) / z.std(0)).abs().max()) < (0.8 if family == "kde most" else 0.25)
    if not family.startswith(("kde", "gaussian isotropic", *WITHOUT_DENSITY)):
        assert float((drawn.std(0) / z.std(0) - 1).abs().max()) < 0.2


@every_family
def test_saved_and_restored_it_draws_the_same_bits(family: str, tmp_path: Path) -> None:
    part = FAMILIES[family]
    fitted = part.fit(rows(60, 4), seeded())
    assert not {*fitted.tensors()} & {*fitted.settings()}
    write_tree(tmp_path / "density", {**fitted.tensors(), **fitted.settings()})
    restored = part.clone().restore(read_tree(tmp_path / "density"))
    assert restored.count == fitted.count
    assert restored.settings() == fitted.settings()
    assert differing(restored.tensors(), fitted.tensors()) == []
    assert torch.equal(restored.sample(30, seeded(4)), fitted.sample(30, seeded(4)))
    if family not in WITHOUT_DENSITY:
        z = rows(20, 4, seed=5)
        assert torch.equal(restored.log_prob(z), fitted.log_prob(z))


@every_family
def test_options_there_and_back(family: str) -> None:
    part = FAMILIES[family]
    again = from_options(DENSITIES, to_options(part))
    assert to_options(again) == to_options(part)
    assert all(option.description for option in signature(type(part)).values())


@every_family
@pytest.mark.parametrize(
    ("case", "z"),
    [
        ("one row", torch.tensor([[1.0, -2.0, 0.5]])),
        ("two equal rows", torch.tensor([[1.0, -2.0, 0.5]] * 2)),
        ("all rows equal", torch.full((30, 3), 7.0)),
        ("all zero", torch.zeros(30, 3)),
        ("a constant feature", torch.cat([rows(30, 2), torch.full((30, 1), 3.0)], dim=1)),
        ("fewer rows than dimensions", rows(4, 12)),
        ("far from zero", rows(30, 3) + 1e4),
        ("tiny", rows(30, 3) * 1e-4),
        ("an outlier", torch.cat([rows(30, 3), torch.full((1, 3), 1e4)])),
    ],
)
def test_degenerate_rows(family: str, case: str, z: Tensor) -> None:
    """Samples stay with the rows: finite, and not farther out than a few of their widths."""
    part = FAMILIES[family]
    fitted = part.fit(z, seeded())
    drawn = fitted.sample(200, seeded())
    assert bool(torch.isfinite(drawn).all())
    assert fitted.count == len(z)
    if getattr(part, "bandwidth", None) != 0.3:
        width = (z.max(0).values - z.min(0).values).max().clamp(min=0.01)
        # The mean variance of an isotropic density lies on narrow axes too.
        assert bool((drawn > z.min(0).values - 2 * width).all())
        assert bool((drawn < z.max(0).values + 2 * width).all())
    no_density = (NotImplementedError,) if family in (*WITHOUT_DENSITY, "copula") else ()
    with suppress(*no_density):
        assert not bool(torch.isnan(fitted.log_prob(z)).any())


@every_family
def test_float64_rows_stay_float64(family: str) -> None:
    z = rows(40, 2).double()
    fitted = FAMILIES[family].fit(z, seeded())
    assert fitted.sample(3, seeded()).dtype == torch.float64
    if family not in WITHOUT_DENSITY:
        assert fitted.log_prob(z).dtype == torch.float64


@every_family
def test_merge_gives_the_fit_of_the_union_or_nothing(family: str) -> None:
    part = FAMILIES[family].clone()
    if family == "gaussian shared":  # what it pools was shrunk class by class before
        part.set_params(shrinkage="none")
    z, other = rows(40, 3), rows(70, 3, seed=1) * 2 + 1
    first, second = part.fit(z, seeded()), part.fit(other, seeded())
    union = first.merge(second)
    if union is None:
        return
    expected = part.fit(torch.cat([z, other]), seeded())
    assert union.count == expected.count == 110
    for name, tensor in expected.tensors().items():
        torch.testing.assert_close(union.tensors()[name], tensor, rtol=1e-5, atol=1e-5)
    if family.startswith("gaussian"):
        torch.testing.assert_close(union.covariance(), expected.covariance(), rtol=1e-5, atol=1e-5)
    assert differing(first.tensors(), part.fit(z, seeded()).tensors()) == []


def test_what_merges() -> None:
    z = rows(30)
    merging = {
        name for name, part in FAMILIES.items() if part.fit(z, seeded()).merge(part.fit(z, seeded())) is not None
    }
    by_rows = {"kde 0.3", "likeliest"}  # which ones these keep, or choose, decides
    merge = {name for name in FAMILIES if name.startswith("gaussian") and name != "gaussian low-rank"} | by_rows
    assert merging == merge == {name for name, part in FAMILIES.items() if part.merges} | by_rows


@every_family
def test_fits_to_rows_of_other_widths_cannot_be_merged(family: str) -> None:
    part = FAMILIES[family]
    narrow, wide = part.fit(rows(30, 3), seeded()), part.fit(rows(30, 4), seeded())
    assert (narrow.width, wide.width) == (3, 4)
    with pytest.raises(
        NotReadyError,
        match="a density of 3 latents cannot be merged with one of 4; fit both to latents of the same cut",
    ):
        narrow.merge(wide)


def test_what_keeps_real_rows_says_so() -> None:
    z = rows(30, 3)
    for name, part in FAMILIES.items():
        assert part.stores_real_samples == name.startswith("kde"), name
        if name.startswith("kde"):
            assert torch.isin(part.fit(z, seeded()).rows, z).all()
    assert PrincipalComponents(density=KernelDensity()).stores_real_samples
    assert not PrincipalComponents().stores_real_samples
