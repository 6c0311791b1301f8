"""Kernel densities: against SciPy's and scikit-learn's, the rules for the bandwidth, what is kept, merging."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import KernelDensity as Reference
from torch import Tensor

from reverie.checks import OptionsError
from reverie.generators import KernelDensity, kde


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(n: int = 50, d: int = 3) -> Tensor:
    return torch.randn(n, d, generator=seeded(), dtype=torch.float64) * torch.tensor([1.0, 5.0, 0.2])[:d] + 3


@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_a_number_is_the_deviation_of_the_kernels(shift: float) -> None:
    z = rows() + shift
    fitted = KernelDensity(bandwidth=0.4).fit(z, seeded())
    expected = Reference(bandwidth=0.4).fit(z.numpy()).score_samples(z.numpy())
    np.testing.assert_allclose(fitted.log_prob(z), expected, atol=1e-6)


@pytest.mark.parametrize("rule", ["scott", "silverman"])
def test_rules_scale_every_axis(rule: str) -> None:
    z = rows()
    fitted = KernelDensity(bandwidth=rule).fit(z, seeded())
    share = 50 ** (-1 / 7) if rule == "scott" else (50 * 5 / 4) ** (-1 / 7)
    torch.testing.assert_close(fitted.bandwidth, share * z.std(0, correction=0))
    scaled = Reference(bandwidth=share).fit((z / z.std(0, correction=0)).numpy())
    expected = scaled.score_samples((z / z.std(0, correction=0)).numpy()) - float(z.std(0, correction=0).log().sum())
    np.testing.assert_allclose(fitted.log_prob(z), expected, atol=1e-6)


def test_leave_one_out_is_the_best_of_those_tried() -> None:
    """Two narrow clusters: Scott's rule, made for one cloud, blurs them together."""
    z = torch.cat(
        [torch.randn(60, 2, generator=seeded(1)) * 0.1 - 3, torch.randn(60, 2, generator=seeded(2)) * 0.1 + 3]
    )
    scott, chosen = (KernelDensity(bandwidth=rule).fit(z, seeded()) for rule in ("scott", "leave-one-out"))
    held = torch.randn(200, 2, generator=seeded(3)) * 0.1 - 3
    assert float(chosen.bandwidth.max()) < 0.3 * float(scott.bandwidth.min())
    assert float(chosen.log_prob(held).mean()) > float(scott.log_prob(held).mean()) + 0.5

    def left_out(bandwidth: Tensor) -> float:
        total = 0.0
        for i in range(len(z)):
            others = kde.FittedKernels(119, torch.cat([z[:i], z[i + 1 :]]), bandwidth, None)
            total += float(others.log_prob(z[i : i + 1]))
        return total

    values = {step: left_out(chosen.bandwidth * 2.0 ** (step / 2)) for step in (-1, 0, 1)}
    assert max(values, key=values.__getitem__) == 0


def test_it_keeps_real_rows_and_says_so() -> None:
    z = rows()
    assert KernelDensity().stores_real_samples
    assert torch.equal(KernelDensity().fit(z, seeded()).rows, z)
    fitted = KernelDensity(most=10).fit(z, seeded())
    assert fitted.rows.shape == (10, 3)
    assert fitted.count == 50
    assert all(any(torch.equal(row, one) for one in z) for row in fitted.rows)
    assert not torch.equal(fitted.rows, KernelDensity(most=10).fit(z, seeded(1)).rows)
    assert torch.equal(KernelDensity(most=80).fit(z, seeded()).rows, z)


def test_kept_rows_are_copies() -> None:
    z = rows()
    fitted = KernelDensity().fit(z, seeded())
    before = fitted.rows.clone()
    z += 1
    assert torch.equal(fitted.rows, before)


def test_samples_are_rows_with_noise() -> None:
    z = rows()
    drawn = KernelDensity(bandwidth=1e-6).fit(z, seeded()).sample(300, seeded())
    distance = (drawn[:, None] - z[None]).abs().amax(dim=2).min(dim=1)
    assert float(distance.values.max()) < 1e-5
    assert len(distance.indices.unique()) > 40


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted, z = KernelDensity().fit(rows(), seeded()), rows(70)
    whole = fitted.log_prob(z)
    monkeypatch.setattr(kde, "ROWS", 9)
    torch.testing.assert_close(fitted.log_prob(z), whole)


@pytest.mark.parametrize(
    ("options", "merges"),
    [
        ({"bandwidth": 0.3}, True),
        ({"bandwidth": 0.3, "most": 100}, True),
        ({"bandwidth": 0.3, "most": 99}, False),
        ({"bandwidth": 0.3, "most": 20}, False),
        ({"bandwidth": "scott"}, False),
        ({"bandwidth": "leave-one-out"}, False),
    ],
)
def test_merge_is_the_union_where_that_is_exact(options: dict[str, object], merges: bool) -> None:
    part, z = KernelDensity(**options), rows(100)  # type: ignore[arg-type]
    union = part.fit(z[:40], seeded()).merge(part.fit(z[40:], seeded()))
    assert (union is not None) == merges
    if union is not None:
        whole = part.fit(z, seeded())
        assert union.count == whole.count
        assert torch.equal(union.rows, whole.rows)
        assert torch.equal(union.log_prob(z), whole.log_prob(z))


def test_bandwidths_that_differ_do_not_merge() -> None:
    first, second = (KernelDensity(bandwidth=h).fit(rows(), seeded()) for h in (0.3, 0.4))
    assert first.merge(second) is None


@pytest.mark.parametrize("bandwidth", [0.0, -1.0, "thumb"])
def test_options_that_cannot_be_used(bandwidth: float | str) -> None:
    with pytest.raises(OptionsError, match="bandwidth = "):
        KernelDensity(bandwidth=bandwidth)
