"""Curves in pieces: what is learnt, where, with how much noise, and that it is one data set whatever the seed of the run."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from reverie.checks import OptionsError
from reverie.options import from_options, signature
from reverie.streams import STREAMS, ArrayStream, Regression1D
from reverie.streams.regression import CURVE_SETS
from reverie.types import Rows

# Of each task its interval, the deviation of its noise, and values of its curve written out.
CURVES = {
    "polynomials": [
        ((-4, -2), 0.05, {-4: -1, -3: 0, -2: 1, -2.5: 0.125}),
        ((-1, 1), 0.05, {-1: 1, 0: -1, 0.5: -0.5}),
        ((2, 4), 0.05, {2: 1, 3: 0, 4: -1, 3.5: -0.125}),
    ],
    "noisy-polynomials": [
        ((-4, -2), 0.1, {-4: -1, -3: 0, -2: 1}),
        ((-1, 1), 0.1, {-1: 1, 0: -1}),
        ((2, 4), 0.1, {2: 1, 3: 0, 4: -1}),
    ],
    "line-and-cubic": [
        ((-4, -2), 0.05, {-4: -1, -3.5: -0.5, -2: 1}),
        ((-1, 1), 0.05, {-1: 1, 0: -1}),
        ((2, 4), 0.05, {2: -1, 3: 0, 3.5: 0.125, 4: 1}),
    ],
    "cubic": [((-4, 4), 3.0, {-4: -64, -1: -1, 0: 0, 2: 8})],
}


def everything(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    batch = rows.take(torch.arange(len(rows)))
    assert batch.y is not None
    assert batch.x.shape == batch.y.shape == (len(rows), 1)
    assert batch.x.dtype == batch.y.dtype == torch.float32
    return batch.x[:, 0].numpy(), batch.y[:, 0].numpy()


def made(curves: str = "polynomials", seed: int = 0, **options: object) -> ArrayStream:
    return from_options(STREAMS, {"name": "regression-1d", "curves": curves, **options}).build("domain", seed)


def same(a: ArrayStream, b: ArrayStream) -> bool:
    rows = [[task.train for task in s] + [test.rows for test in s.tests] for s in (a, b)]
    return all(
        np.array_equal(left, right)
        for mine, other in zip(*rows, strict=True)
        for left, right in zip(everything(mine), everything(other), strict=True)
    )


def test_every_set_of_curves_is_written_out_here() -> None:
    assert set(CURVES) == set(CURVE_SETS)


@pytest.mark.parametrize("curves", CURVES)
def test_tests_are_the_curve_itself_equally_spaced_in_its_interval(curves: str) -> None:
    stream = made(curves, test_rows=129)  # whose steps are powers of two, so that the places above are among them
    assert len(stream) == len(stream.tests) == len(CURVES[curves])
    for test, ((low, high), _, values) in zip(stream.tests, CURVES[curves], strict=True):
        x, y = everything(test.rows)
        assert (len(x), x[0], x[-1]) == (129, low, high)
        assert np.diff(x) == pytest.approx((high - low) / 128)
        assert {place: float(y[x == place][0]) for place in values} == pytest.approx(values, abs=1e-6)


@pytest.mark.parametrize("curves", CURVES)
def test_training_rows_lie_about_the_curve_by_the_noise_that_a_learner_assumes(curves: str) -> None:
    stream = made(curves, rows=4000, test_rows=4000)
    assert (stream.spec.kind, stream.spec.noise_std) == ("regression", CURVES[curves][0][1])
    for task, ((low, high), noise, _) in zip(stream, CURVES[curves], strict=True):
        x, y = everything(task.train)
        assert low <= x.min() < low + 0.1 * (high - low)
        assert high >= x.max() > high - 0.1 * (high - low)
        apart = y - np.interp(x, *everything(stream.tests[task.index].rows))
        assert apart.std() == pytest.approx(noise, rel=0.05)
        assert abs(apart.mean()) < 0.1 * noise


def test_every_task_has_the_same_places_and_the_same_noise_in_its_own_interval() -> None:
    stream = made(rows=20)
    assert [len(task.train) for task in stream] == [20] * 3
    curves = [curve for _, curve, _ in CURVE_SETS["polynomials"].curves]
    found = [everything(task.train) for task in stream]
    for (x, _), (shifted, _) in pairwise(found):
        assert shifted - x == pytest.approx(3, abs=1e-6)
    noise = [y - curve(x.astype(np.float64)) for (x, y), curve in zip(found, curves, strict=True)]
    assert noise[0] == pytest.approx(noise[1], abs=1e-5)
    assert noise[0] == pytest.approx(noise[2], abs=1e-5)


def test_noisy_is_the_same_but_for_the_noise() -> None:
    quiet, noisy = (everything(made(name)[0].train) for name in ("polynomials", "noisy-polynomials"))
    assert np.array_equal(quiet[0], noisy[0])
    truth = (quiet[0].astype(np.float64) + 3) ** 3
    assert noisy[1] - truth == pytest.approx(2 * (quiet[1] - truth), abs=1e-5)


def test_one_data_set_for_every_seed_of_a_run_and_another_for_another_data_seed() -> None:
    stream = made(seed=0)
    assert same(stream, made(seed=7))
    assert stream.checksums == made(seed=7).checksums
    other = made(data_seed=43)
    assert not same(stream, other)
    assert stream.checksums != other.checksums
    assert same(other, made(seed=43, data_seed=None))


def test_the_noise_that_a_learner_assumes_does_not_change_the_data() -> None:
    told = made(noise_std=0.3)
    assert told.spec.noise_std == 0.3
    assert same(told, made())


def test_what_it_is_said_to_be() -> None:
    spec = made().spec
    assert (spec.name, spec.scenario, spec.input_shape, spec.classes) == ("regression-1d", "domain", (1,), ("y",))
    assert spec.task_names == ("(x + 3)^3 on [-4, -2]", "2 x^2 - 1 on [-1, 1]", "-(x - 3)^3 on [2, 4]")
    assert spec.heads == spec.task_classes == ((0,),) * 3
    assert Regression1D.scenarios == ("domain",)
    assert "scenarios" not in signature(Regression1D)  # it is nobody's choice


@pytest.mark.parametrize("options", [{"curves": "sine"}, {"rows": 1}, {"noise_std": 0}, {"data_seed": -1}])
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(OptionsError, match=next(iter(options))):
        Regression1D(**options)  # type: ignore[arg-type]
