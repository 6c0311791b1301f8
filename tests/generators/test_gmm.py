"""Expectation maximisation against scikit-learn's, its monotone likelihood, the number of components, starts and empty components."""

from __future__ import annotations

import warnings
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import mixture as reference
from torch import Tensor

from reverie.checks import OptionsError
from reverie.generators import GaussianMixture, clustering, gmm
from reverie.generators.clustering import k_means
from reverie.generators.gmm import Mixture, absolute_floor, bic, expectation_maximisation, hard_mixture

FORMS = ("spherical", "diagonal", "tied", "full")
every_form = pytest.mark.parametrize("form", FORMS)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clusters(k: int = 3, n: int = 60, d: int = 4, apart: float = 3.0, seed: int = 0) -> Tensor:
    """k Gaussian clouds of n rows of their own widths, float64."""
    rng = seeded(seed)
    means = apart * torch.randn(k, 1, d, generator=rng, dtype=torch.float64)
    widths = 0.3 + torch.rand(k, 1, d, generator=rng, dtype=torch.float64)
    return (means + widths * torch.randn(k, n, d, generator=rng, dtype=torch.float64)).flatten(0, 1)


def start_of(z: Tensor, k: int, form: Any, floor: float) -> Mixture:
    label = torch.arange(len(z)) % k
    label[: len(z) // 2] = 0  # unequal weights and covariances from the start
    return hard_mixture(z, label, form, floor)


def sklearn_from(start: Mixture, floor: float, iterations: int) -> reference.GaussianMixture:
    precisions = 1 / start.covariance if start.form in ("spherical", "diagonal") else torch.linalg.inv(start.covariance)
    return reference.GaussianMixture(
        len(start.weights),
        covariance_type={"diagonal": "diag"}.get(start.form, start.form),
        reg_covar=floor,
        tol=0.0,
        max_iter=iterations,
        weights_init=start.weights.numpy(),
        means_init=start.means.numpy(),
        precisions_init=precisions.numpy(),
    )


# ---------------------------------------------------------------------------------- against scikit-learn


@every_form
@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_equals_scikit_learn_from_the_same_start(form: str, shift: float) -> None:
    z = clusters(apart=1.0) + shift
    floor = absolute_floor(z, 1e-3)
    start = start_of(z, 3, form, floor)
    theirs = sklearn_from(start, floor, 12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that twelve iterations are not convergence
        theirs.fit(z.numpy())
    ours, trace = expectation_maximisation(z, start, floor, 0.0, 12)
    np.testing.assert_allclose(ours.weights, theirs.weights_, atol=1e-6)
    np.testing.assert_allclose(ours.means, theirs.means_, atol=1e-6)
    np.testing.assert_allclose(ours.covariance, theirs.covariances_, atol=1e-6)
    log_prob = ours.log_joint(z).logsumexp(dim=1)
    np.testing.assert_allclose(log_prob, theirs.score_samples(z.numpy()), atol=1e-6 * max(shift, 1))
    np.testing.assert_allclose(bic(ours, z), theirs.bic(z.numpy()), rtol=1e-9 * max(shift, 1))
    assert ours.parameters() == theirs._n_parameters()
    assert len(trace) == 13


@every_form
def test_chunks_change_nothing(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    z = clusters()
    whole = GaussianMixture(covariance=form, components=3).fit(z, seeded())
    monkeypatch.setattr(gmm, "ROWS", 7)
    parts = GaussianMixture(covariance=form, components=3).fit(z, seeded())
    for name, tensor in whole.tensors().items():
        torch.testing.assert_close(parts.tensors()[name], tensor)


# ---------------------------------------------------------------------------------- the climb


@every_form
def test_log_likelihood_never_falls(form: str) -> None:
    z = clusters(4, apart=1.0)
    start = start_of(z, 5, form, 1e-9)
    _, trace = expectation_maximisation(z, start, 1e-9, 0.0, 40)
    assert len(trace) > 10
    assert all(after >= before - 1e-9 for before, after in pairwise(trace))


@every_form
def test_the_best_mixture_met_is_kept(form: str) -> None:
    """A large floor is no maximum of the likelihood: after a start without it, the first step falls."""
    z = clusters(2)
    start = hard_mixture(z, torch.arange(len(z)) // 60, form, 1e-9)
    best, trace = expectation_maximisation(z, start, 5.0, 1e-6, 20)
    assert trace[1] < trace[0]
    assert len(trace) == 2
    assert best.means is start.means


def test_it_stops_where_it_gains_too_little() -> None:
    z = clusters()
    start = start_of(z, 3, "full", 1e-6)
    _, short = expectation_maximisation(z, start, 1e-6, 0.1, 100)
    _, long = expectation_maximisation(z, start, 1e-6, 1e-8, 100)
    assert len(short) < len(long) < 101
    assert short[-1] - short[-2] < 0.1 <= short[-2] - short[-3]


@every_form
def test_an_empty_component_is_put_on_the_worst_row(form: str) -> None:
    z = torch.cat([clusters(2), torch.full((5, 4), 40.0, dtype=torch.float64) + clusters(1, 5)])
    # One component lies where there is nothing: no row is its own.
    start = hard_mixture(z[:120], torch.arange(120) // 60, form, 1e-3)
    covariance = start.covariance if form == "tied" else start.covariance[[0, 1, 1]]
    far = torch.full((1, 4), -1e4, dtype=torch.float64)
    start = Mixture(form, torch.tensor([0.4, 0.4, 0.2]).double(), torch.cat([start.means, far]), covariance)
    best, trace = expectation_maximisation(z, start, 1e-3, 1e-6, 50)
    assert len(best.weights) == 3
    assert float((best.means - z[-5:].mean(0)).norm(dim=1).min()) < 0.5
    assert trace[-1] > trace[0]


def test_components_that_stay_empty_are_dropped() -> None:
    """Rows that are all the same need one component; the others may never divide by nothing."""
    z = torch.cat([torch.zeros(20, 2), torch.ones(20, 2)]).double()
    start = Mixture(
        "diagonal",
        torch.full((4,), 0.25).double(),
        torch.tensor([[0.0, 0], [1, 1], [500, 500], [900, 900]]).double(),
        torch.full((4, 2), 1e-4).double(),
    )
    best, _ = expectation_maximisation(z, start, 1e-4, 0.0, 60)
    assert bool(torch.isfinite(best.means).all())
    assert set(best.means.round(decimals=3).flatten().tolist()) <= {0.0, 1.0}


# ---------------------------------------------------------------------------------- number of components


@every_form
@pytest.mark.parametrize("choose", ["bic", "held-out"])
def test_the_true_number_of_separated_clusters_is_found(form: str, choose: str) -> None:
    rng = seeded(3)
    centres = torch.tensor([[0.0, 0.0], [12.0, 0.0], [0.0, 12.0]])
    z = torch.cat([centre + torch.randn(120, 2, generator=rng) for centre in centres])
    fitted = GaussianMixture(covariance=form, choose=choose, most=5, tolerance=1e-4).fit(z, seeded())
    found = len(fitted.weights)
    # Held-out likelihood punishes a component too many only a little.
    assert found == 3 if choose == "bic" else found in (3, 4, 5)
    distance = torch.cdist(centres.double(), fitted.means.double()).min(1).values.square()
    assert float(distance.max()) < 0.5


@pytest.mark.parametrize("choose", ["fixed", "bic", "held-out"])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_never_more_components_than_rows(choose: str, n: int) -> None:
    part = GaussianMixture(components=5) if choose == "fixed" else GaussianMixture(choose=choose, most=5)
    fitted = part.fit(clusters()[:n], seeded())
    assert 1 <= len(fitted.weights) <= n


@pytest.mark.parametrize(
    ("form", "expected"),
    [("spherical", 3 * (5 + 2) - 1), ("diagonal", 3 * 11 - 1), ("tied", 15 + 15 + 2), ("full", 3 * (5 + 15 + 1) - 1)],
)
def test_parameters_are_counted(form: str, expected: int) -> None:
    z = clusters(d=5)
    assert start_of(z, 3, form, 1e-3).parameters() == expected


@pytest.mark.parametrize(
    ("form", "numbers"),
    [("spherical", 2 + 12 + 2), ("diagonal", 2 + 12 + 12), ("tied", 2 + 12 + 21), ("full", 2 + 12 + 42)],
)
def test_covariances_are_kept_packed(form: str, numbers: int) -> None:
    fitted = GaussianMixture(covariance=form, components=2).fit(clusters(d=6), seeded())
    assert sum(tensor.numel() for tensor in fitted.tensors().values()) == numbers


# ---------------------------------------------------------------------------------- sampling


@every_form
def test_samples_are_of_the_mixture(form: str) -> None:
    fitted = GaussianMixture(covariance=form, components=3).fit(clusters(), seeded())
    drawn = fitted.sample(4000, seeded())
    entropy = -float(fitted.log_prob(drawn).mean())
    again = -float(fitted.log_prob(fitted.sample(4000, seeded(1))).mean())
    assert abs(entropy - again) < 0.15
    parts = fitted.mixture().log_joint(drawn).softmax(dim=1).mean(dim=0)
    torch.testing.assert_close(parts, fitted.weights, atol=0.04, rtol=0)


def test_a_mixture_stores_no_rows_and_does_not_merge() -> None:
    part = GaussianMixture()
    first, second = (part.fit(clusters(seed=seed), seeded()) for seed in (0, 1))
    assert not part.stores_real_samples
    assert first.merge(second) is None


def test_options_that_cannot_be_used() -> None:
    with pytest.raises(OptionsError, match="covariance = 'diag'"):
        GaussianMixture(covariance="diag")
    with pytest.raises(OptionsError, match=r"components = 0.*\n.*floor = 0"):
        GaussianMixture(components=0, floor=0)
    with pytest.raises(OptionsError, match="most = 3: has no effect with choose = 'fixed'; give components instead"):
        GaussianMixture(most=3)
    with pytest.raises(OptionsError, match="components = 30: has no effect with choose = 'bic'; give most instead"):
        GaussianMixture(choose="bic", components=30)


# ---------------------------------------------------------------------------------- k-means


def test_k_means_finds_separated_clusters_and_is_seeded() -> None:
    z = clusters(4, 30, apart=20.0)
    centres, label = k_means(z, 4, seeded())
    assert torch.bincount(label).tolist() == [30] * 4
    for k in range(4):
        torch.testing.assert_close(centres[k], z[label == k].mean(0))
    again = k_means(z, 4, seeded())
    assert torch.equal(centres, again[0])
    assert torch.equal(label, again[1])


def test_k_means_gives_no_empty_centre() -> None:
    z = torch.tensor([[0.0], [0.0], [0.0], [1.0]])
    centres, label = k_means(z, 3, seeded())
    assert sorted(centres.flatten().tolist()) == [0.0, 1.0]
    assert bool((torch.bincount(label) > 0).all())
    for seed in range(20):
        centres, label = k_means(clusters(3, 5, apart=5.0, seed=seed), 10, seeded(seed))
        assert bool((torch.bincount(label, minlength=len(centres)) > 0).all())


def test_lloyd_s_steps_lower_the_distance() -> None:
    z = clusters(5, 40, apart=1.0)
    means = [
        float(torch.cdist(z.double(), k_means(z, 5, seeded(), steps)[0]).min(1).values.square().mean())
        for steps in (1, 3, 20)
    ]
    assert means[0] >= means[1] >= means[2]


def plus_plus(x: Tensor, k: int, rng: torch.Generator) -> Tensor:
    """One centre after the other, by the definition."""
    chosen = [int(torch.randint(len(x), (1,), generator=rng))]
    while len(chosen) < k:
        distance = torch.cdist(x, x[chosen]).square().amin(dim=1)
        distance[distance < 1e-10] = 0
        if not distance.any():
            break
        chosen.append(int(torch.multinomial(distance, 1, generator=rng)))
    return x[chosen]


@pytest.mark.parametrize("d", [1, 40])
@pytest.mark.parametrize("n", [30, 500])
def test_centres_that_are_looked_for_many_at_a_time_are_those_of_one_after_the_other(n: int, d: int) -> None:
    for seed in range(5):
        x = torch.randn(n, d, generator=seeded(seed), dtype=torch.float64) * (1 + seed)
        length = x.square().sum(dim=1)
        for k in (1, 2, 29):
            assert torch.equal(clustering._plus_plus(x, length, k, seeded(seed)), plus_plus(x, k, seeded(seed)))


def test_no_row_is_a_centre_twice_nor_one_that_equals_it() -> None:
    x = torch.randn(40, 3, generator=seeded()).repeat(3, 1)
    found = clustering._plus_plus(x, x.square().sum(dim=1), 100, seeded())
    assert len(found) == len(found.unique(dim=0)) == 40


def test_products_of_one_half_are_the_whole() -> None:
    x = torch.randn(70, 600, generator=seeded(), dtype=torch.float64)
    product = clustering.gram(x)
    torch.testing.assert_close(product, x.T @ x)
    assert torch.equal(product, product.T)
