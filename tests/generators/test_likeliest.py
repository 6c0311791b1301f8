"""The choice among families: who wins, what a win keeps, what is left out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from reverie.checks import OptionsError
from reverie.device import CPU
from reverie.generators import (
    DENSITIES,
    Densities,
    Gaussian,
    GaussianCopula,
    GaussianMixture,
    KernelDensity,
    Likeliest,
    PrincipalComponents,
)
from reverie.options import from_options, to_options
from reverie.seeding import Randomness
from tests.tiny import differing, tiny_stream

DIAGONAL, LOW_RANK, FULL, MIXTURE = range(4)  # of the candidates that nobody chose


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(shape: str, n: int = 400, seed: int = 0) -> Tensor:
    """(n, 4): axes on their own, tied to each other, or in two clouds."""
    z = torch.randn(n, 4, generator=seeded(seed)) * torch.tensor([0.5, 1.0, 2.0, 4.0])
    if shape == "tied":
        return z @ torch.randn(4, 4, generator=seeded(7))
    return z + 40 * (torch.rand(n, 1, generator=seeded(seed + 1)) < 0.4) if shape == "clouds" else z


@pytest.mark.parametrize(("shape", "winner"), [("alone", 0), ("tied", 1), ("clouds", 2)])
def test_the_family_that_the_rows_come_from_wins_and_is_fitted_to_all_of_them(shape: str, winner: int) -> None:
    z = rows(shape)
    family = Likeliest(candidates=(Gaussian(covariance="diagonal"), Gaussian(), GaussianMixture()))
    fitted = family.fit(z, seeded())
    assert fitted.candidate == winner
    assert fitted.count == len(z)
    assert fitted.width == 4
    if winner != 2:
        assert differing(fitted.tensors(), family.candidates[winner].fit(z, seeded()).tensors()) == []


def test_the_winner_has_the_largest_likelihood_of_the_rows_held_out() -> None:
    """The split and the fits again, by hand."""
    z, family = rows("tied", 60), Likeliest()
    rng = seeded(3)
    seed = int(torch.randint(2**62, (), generator=rng))
    order = torch.randperm(60, generator=rng)
    scores = []
    for candidate in family.candidates:
        fitted = candidate.fit(z[order[12:]], seeded(seed))
        scores.append(float(sum(fitted.log_prob(row[None]).double() for row in z[order[:12]])))
    assert family.fit(z, seeded(3)).candidate == scores.index(max(scores))


def test_who_else_stands_for_choice_changes_nothing_of_a_fit() -> None:
    z = rows("clouds")
    alone = Likeliest(candidates=(GaussianMixture(),)).fit(z, seeded())
    among = Likeliest().fit(z, seeded())
    assert among.candidate == MIXTURE
    assert differing(alone.tensors(), among.tensors()) == []


def test_candidates_that_need_more_bytes_are_left_out() -> None:
    z = rows("tied")
    assert Likeliest(fit_bytes=4 * 8).fit(z, seeded()).candidate == DIAGONAL
    assert Likeliest(fit_bytes=4 * 19).fit(z, seeded()).candidate == FULL  # 4 + 10 numbers, and 5 for its shrinkage
    # How much a kernel density keeps is known once it is fitted.
    stored = Likeliest(candidates=(KernelDensity(), Gaussian()), fit_bytes=4 * 50)
    assert stored.fit(z, seeded()).candidate == 1
    with pytest.raises(
        OptionsError, match=r"fit_bytes = 31: the smallest of the candidates needs 32 bytes for rows of 4 numbers"
    ):
        Likeliest(fit_bytes=31).fit(z, seeded())
    with pytest.raises(OptionsError, match="the smallest of the candidates needs 8,000 bytes"):
        Likeliest(candidates=(KernelDensity(),), fit_bytes=31).fit(rows("tied", 624), seeded())


def test_too_few_bytes_are_said_before_anything_is_fitted() -> None:
    with pytest.raises(OptionsError, match="the smallest of the candidates needs 512 bytes for rows of 64 numbers"):
        Likeliest(fit_bytes=511).check_width(64)
    Likeliest(fit_bytes=512).check_width(64)
    Likeliest(candidates=(Gaussian(), KernelDensity()), fit_bytes=4).check_width(64)  # the rows decide
    densities = Densities(density=Likeliest(fit_bytes=4))
    with pytest.raises(OptionsError, match="fit_bytes = 4"):
        densities.build(tiny_stream("class").spec, Randomness(0), CPU)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_few_rows_have_the_smallest(n: int) -> None:
    fitted = Likeliest(candidates=(Gaussian(), Gaussian(covariance="isotropic"))).fit(rows("tied", n), seeded())
    assert fitted.candidate == 1
    assert fitted.sample(3, seeded()).shape == (3, 4)


def test_fits_of_one_candidate_merge_into_that_of_the_union() -> None:
    first, second = rows("tied", 200), rows("tied", 100, seed=5)
    family = Likeliest(candidates=(Gaussian(covariance="diagonal"), Gaussian()))
    a, b = family.fit(first, seeded()), family.fit(second, seeded())
    assert a.candidate == b.candidate == 1
    merged: Any = a.merge(b)
    union = Gaussian().fit(torch.cat([first, second]), seeded())
    assert (merged.candidate, merged.count) == (1, 300)
    for name, tensor in union.tensors().items():
        torch.testing.assert_close(merged.tensors()[name], tensor, rtol=1e-4, atol=1e-4)
    assert a.merge(family.fit(rows("alone"), seeded())) is None
    mixtures = Likeliest(candidates=(GaussianMixture(),))
    assert mixtures.fit(first, seeded()).merge(mixtures.fit(second, seeded())) is None


def test_a_candidate_without_a_density_for_these_rows_does_not_win() -> None:
    z = rows("tied").relu()
    assert Likeliest(candidates=(GaussianCopula(), Gaussian())).fit(z, seeded()).candidate == 1


def test_what_cannot_stand_for_choice_is_refused_at_once() -> None:
    with pytest.raises(OptionsError) as error:
        Likeliest(candidates=(Gaussian(covariance="shared"), PrincipalComponents(noise=False)))
    assert "candidates[0]: a covariance shared by all classes" in str(error.value)
    assert "candidates[1]" in str(error.value)
    assert "has no likelihood" in str(error.value)
    with pytest.raises(OptionsError, match="candidates"):
        Likeliest(candidates=())


def test_options_name_the_candidates() -> None:
    words = {"name": "likeliest", "candidates": ["gaussian", {"name": "gmm", "components": 2}], "fit_bytes": 4000}
    family = from_options(DENSITIES, words)
    again = from_options(DENSITIES, to_options(family))
    assert to_options(again) == to_options(family)
    assert [type(one) for one in again.candidates] == [Gaussian, GaussianMixture]
    assert not family.stores_real_samples
    assert Likeliest(candidates=(KernelDensity(),)).stores_real_samples
