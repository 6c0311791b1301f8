"""The probe of generated latents on made-up generators whose samples are known, and on real learners."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from reverie.checks import OptionsError
from reverie.device import CPU
from reverie.generators import VAE, Densities
from reverie.learners import GenerativeReplay
from reverie.learners.frozen_backbone import GenerativeLatentReplay
from reverie.metrics import frechet_distance, overlap
from reverie.probes import latent_quality
from reverie.probes.latent_quality import LatentQuality, principal_components
from reverie.seeding import Randomness
from reverie.streams import ArrayStream
from reverie.types import Batch, Finding
from tests.tiny import differing, make_loop, recommending, snapshot, tiny_stream, train

Change = Callable[[Tensor, Tensor], Tensor]


def real_rows(stream: ArrayStream, task: int) -> tuple[Tensor, Tensor]:
    tests = [test.rows.take(torch.arange(len(test.rows))) for test in stream.tests if test.since <= task]
    return torch.cat([batch.x for batch in tests]), torch.cat([batch.y for batch in tests])


def copying(stream: ArrayStream, task: int, change: Change = lambda x, y: x, conditional: bool = True) -> Any:
    """A learner whose generator gives the test rows themselves in turn, ``change(x, y)``d; its solver knows the truth."""
    x, y = real_rows(stream, task)

    def sample(n: int, rng: torch.Generator, classes: Tensor | None = None) -> Batch:
        assert (classes is not None) == conditional
        index = torch.arange(n) % len(x)
        if classes is not None:
            places = [(y == c).nonzero().flatten() for c in range(stream.spec.outputs)]
            index = torch.stack([places[c][k % len(places[c])] for k, c in enumerate(classes.tolist())])
        return Batch(change(x[index], y[index]), classes, torch.zeros(n, dtype=torch.int64), torch.full((n,), 1 / n))

    def scores(rows: Tensor) -> Tensor:
        nearest = torch.cdist(rows, x).argmin(dim=1)
        return torch.nn.functional.one_hot(y[nearest], stream.spec.outputs).float()

    model = SimpleNamespace(conditional=conditional, sample=sample)
    return SimpleNamespace(model=model, network=SimpleNamespace(scores=scores), active_classes="all", device=CPU)


def look(stream: ArrayStream, task: int, *arguments: Any, seed: int = 0, **options: Any) -> Finding:
    return LatentQuality()(copying(stream, task, *arguments, **options), stream, stream[task], Randomness(seed))


@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("scenario", ["class", "domain", "task"])
def test_copies_of_the_real_rows_have_full_marks(scenario: Any, conditional: bool) -> None:
    stream = tiny_stream(scenario, rows=40)
    numbers = look(stream, 1, conditional=conditional).numbers
    count = 2 if scenario == "domain" else 4
    assert numbers["classes"] == list(range(count))
    assert numbers["real_rows"] == numbers["generated_rows"]
    for name in ("precision", "recall", "coverage"):
        assert numbers[name] == [1.0] * count
        assert numbers[f"mean_{name}"] == 1.0
    assert numbers["mean_frechet"] == pytest.approx(0, abs=1e-6)
    assert numbers["class_kl"] == pytest.approx(0, abs=1e-12 if scenario != "domain" else 0.1)
    assert numbers["mean_train_on_generated"] == numbers["mean_train_on_real"]  # both learn and answer the same rows
    if scenario == "class":
        assert numbers["train_on_generated"] == [1.0] * 4


def test_the_measures_are_those_of_the_metrics() -> None:
    stream = tiny_stream(rows=40)
    numbers = look(stream, 2, lambda x, y: 0.7 * x + 0.05 * y[:, None]).numbers
    x, y = real_rows(stream, 2)
    for k, c in enumerate(numbers["classes"]):  # type: ignore[arg-type]
        real = x[y == c]
        found = overlap(real, 0.7 * real + 0.05 * c)
        expected = {"precision": found.precision, "density": found.density, "coverage": found.coverage}
        expected |= {"recall": found.recall, "frechet": frechet_distance(real, 0.7 * real + 0.05 * c)}
        assert {name: numbers[name][k] for name in expected} == pytest.approx(expected)  # type: ignore[index]


def test_two_classes_exchanged_show_in_the_classifiers() -> None:
    stream = tiny_stream(rows=40)
    x, y = real_rows(stream, 1)
    centres = torch.stack([x[y == c].mean(dim=0) for c in range(4)])

    def exchange(rows: Tensor, classes: Tensor) -> Tensor:
        return rows - centres[classes] + centres[torch.tensor([1, 0, 2, 3])[classes]]

    numbers = look(stream, 1, exchange).numbers
    assert numbers["train_on_generated"] == [0.0, 0.0, 1.0, 1.0]
    assert numbers["train_on_real"] == [0.0, 0.0, 1.0, 1.0]
    assert (numbers["mean_train_on_generated"], numbers["mean_train_on_real"]) == (0.5, 0.5)
    assert numbers["class_kl"] == 0  # each class is there as often as it should be
    assert numbers["precision"][0] == numbers["recall"][1] == 0  # type: ignore[index]


def test_a_class_that_is_not_generated_is_said_and_counts_as_nothing() -> None:
    stream = tiny_stream(rows=40)
    x, y = real_rows(stream, 1)

    def forget(rows: Tensor, classes: Tensor) -> Tensor:
        return torch.where((classes == 3)[:, None], x[y == 2][:1], rows)

    finding = look(stream, 1, forget, conditional=False)
    numbers = finding.numbers
    assert numbers["classes"] == [0, 1, 2]
    assert len(numbers["recall"]) == len(numbers["train_on_real"]) == 3  # type: ignore[arg-type]
    assert numbers["mean_recall"] == numbers["mean_coverage"] == 0.75
    assert numbers["mean_train_on_generated"] == 0.75
    assert numbers["mean_precision"] == 1.0
    assert numbers["class_kl"] == pytest.approx(0.5 * np.log(2))  # shares 1/4, 1/4, 1/2 and 0
    assert finding.warnings == ("task 'clouds 2': almost no generated row belongs to 1 of 4 classes (3)",)
    assert 3 not in finding.arrays["generated_classes"]
    assert 3 in finding.arrays["real_classes"]


def test_a_single_class_and_rows_that_are_not_finite() -> None:
    stream = tiny_stream(rows=40)

    def break_zero(x: Tensor, y: Tensor) -> Tensor:
        return torch.where((y == 0)[:, None], torch.nan, x)

    finding = look(stream, 0, break_zero)
    count = int(finding.numbers["real_rows"][0])  # type: ignore[index]
    assert finding.numbers["classes"] == [1]
    assert f"{count} generated rows hold NaN or infinite values" in finding.warnings[0]
    assert finding.numbers["mean_train_on_generated"] is None  # nothing to tell the class from
    assert finding.numbers["mean_train_on_real"] is not None
    assert all(bool(torch.isfinite(array).all()) for array in finding.arrays.values())
    nothing = look(stream, 0, lambda x, y: x * torch.nan)
    assert nothing.numbers["classes"] == []
    assert nothing.numbers["mean_frechet"] is None
    assert nothing.numbers["mean_recall"] == 0
    assert "generated" not in nothing.arrays


def test_enormous_rows_are_measured_too() -> None:
    numbers = look(tiny_stream(rows=40), 1, lambda x, y: 1e18 * x).numbers
    assert numbers["mean_precision"] == 0
    assert np.isfinite(numbers["mean_frechet"])  # type: ignore[arg-type]


def test_rows_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent_quality, "CLASS_ROWS", 7)
    monkeypatch.setattr(latent_quality, "PICTURED", 5)
    monkeypatch.setattr(latent_quality, "CHUNK", 3)
    finding = look(tiny_stream(rows=200), 1)
    assert finding.numbers["real_rows"] == finding.numbers["generated_rows"] == [7.0] * 4
    assert torch.bincount(finding.arrays["real_classes"]).tolist() == [5] * 4
    assert torch.bincount(finding.arrays["generated_classes"]).tolist() == [5] * 4
    monkeypatch.setattr(latent_quality, "ALL_ROWS", 60)  # ten for each of the six classes
    monkeypatch.setattr(latent_quality, "CLASS_ROWS", 1000)
    assert look(tiny_stream(rows=200), 1).numbers["real_rows"] == [10.0] * 4


def test_the_projection_keeps_its_axes_over_the_tasks() -> None:
    stream = tiny_stream(rows=40)
    first, later = look(stream, 0), look(stream, 2)
    assert torch.allclose(first.arrays["real"], later.arrays["real"][: len(first.arrays["real"])], atol=1e-6)
    assert first.arrays["real"].dtype == torch.float32
    assert torch.equal(first.arrays["real_classes"].unique(), torch.tensor([0, 1]))


def test_wide_rows_have_their_frechet_distance_in_the_leading_components() -> None:
    rng = np.random.default_rng(0)
    scales = np.linspace(2, 0.1, 90, dtype=np.float32)
    arrays = [
        (rng.normal(size=(120, 90)).astype(np.float32) * scales + 9 * t, np.repeat([2 * t, 2 * t + 1], 60))
        for t in range(2)
    ]
    stream = ArrayStream.from_arrays(arrays)
    x, y = real_rows(stream, 1)
    numbers = look(stream, 1, lambda x, y: 1.1 * x).numbers
    centre, directions = principal_components(x, 64)
    assert directions.shape == (90, 64 if len(x) > 64 else len(x) - 1)
    real = (x[y == 2].double() - centre) @ directions
    generated = (1.1 * x[y == 2].double() - centre) @ directions
    assert numbers["frechet"][2] == pytest.approx(frechet_distance(real, generated), rel=1e-4)  # type: ignore[index]


@pytest.mark.parametrize("shape", [(50, 8), (9, 20)])
def test_principal_components_are_those_of_the_singular_value_decomposition(shape: tuple[int, int]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * torch.arange(
        1, shape[1] + 1
    )
    centre, directions = principal_components(x, 5)
    assert torch.allclose(centre, x.mean(dim=0))
    assert torch.allclose(directions.T @ directions, torch.eye(5).double(), atol=1e-10)
    expected = torch.linalg.svd(x - centre, full_matrices=False).Vh[:5]
    assert torch.allclose((expected @ directions).abs(), torch.eye(5).double(), atol=1e-6)
    assert bool((directions.gather(0, directions.abs().argmax(dim=0)[None]) > 0).all())
    assert principal_components(x, 99)[1].shape[1] == min(shape[0] - 1, shape[1])


def from_tasks(stream: ArrayStream, shift: float) -> Any:
    """Copies of the test rows of each task in turn, those of task 1 moved."""
    learner = copying(stream, 2)
    parts = [test.rows.take(torch.arange(len(test.rows))) for test in stream.tests]

    def sample(n: int, rng: torch.Generator, classes: Tensor) -> Batch:
        origins = torch.arange(n) % 3
        x = torch.stack(
            [
                parts[t].x[(parts[t].y == c).nonzero().flatten()[k // 3 % int((parts[t].y == c).sum())]]
                + shift * (t == 1)
                for k, (t, c) in enumerate(zip(origins.tolist(), classes.tolist(), strict=True))
            ]
        )
        return Batch(x, classes, origins, torch.full((n,), 1 / n))

    learner.model.sample = sample
    return learner


def test_rows_of_a_class_are_told_apart_by_their_tasks() -> None:
    stream = tiny_stream("domain", rows=120)
    numbers: Any = LatentQuality()(from_tasks(stream, 9.0), stream, stream[2], Randomness(0)).numbers
    assert numbers["origin_tasks"] == [0, 0, 1, 1, 2, 2]
    assert numbers["origin_classes"] == [0, 1] * 3
    assert min(numbers["origin_rows"]) >= 6
    for name in ("precision", "recall", "coverage"):
        assert numbers[f"origin_{name}"][2:4] == [0, 0]
        assert min(numbers[f"origin_{name}"][i] for i in (0, 1, 4, 5)) > 0.6
    far = numbers["origin_frechet"]
    assert min(far[2:4]) > 100 * max(far[i] for i in (0, 1, 4, 5))
    # A generator that does not know the task of its rows says 0 for all.
    assert "origin_tasks" not in LatentQuality()(copying(stream, 2), stream, stream[2], Randomness(0)).numbers


def test_the_tasks_that_rows_are_told_apart_by_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent_quality, "ORIGINS", 2)
    stream = tiny_stream("domain", rows=120)
    numbers: Any = LatentQuality()(from_tasks(stream, 0.0), stream, stream[2], Randomness(0)).numbers
    assert numbers["origin_tasks"] == [0, 0, 2, 2]


# ------------------------------------------------------------------------------------------ on learners

METHODS = {
    "densities behind a backbone": lambda: GenerativeLatentReplay(
        method=GenerativeReplay(generator=Densities(), labels="condition", quality=True)
    ),
    "densities of tasks": lambda: GenerativeReplay(generator=Densities(scope="task"), quality=True),
    "vae": lambda: GenerativeReplay(quality=True),
    "conditional vae": lambda: GenerativeReplay(generator=VAE(conditional=True), quality=True),
}


@pytest.mark.parametrize("scenario", ["class", "task", "domain"])
@pytest.mark.parametrize("method", METHODS)
def test_on_a_real_learner_nothing_moves_and_the_same_is_found_again(method: str, scenario: Any) -> None:
    stream = recommending(tiny_stream(scenario, rows=40), steps=10)
    run = train(METHODS[method](), stream)
    found = [finding for finding in run.result["findings"] if finding["probe"] == "latent-quality"]
    assert [finding["task"] for finding in found] == [0, 1, 2]
    told = scenario == "domain" and method.startswith("densities")
    assert ["origin_tasks" in finding["numbers"] for finding in found] == [False, told, told]
    for name in ("precision", "recall", "coverage", "train_on_generated", "train_on_real"):
        assert all(0 <= value <= 1 for finding in found for value in finding["numbers"][name])
    (probe,) = [probe for probe in run.learner.probes() if probe.name == "latent-quality"]
    before, state = snapshot(run.learner), torch.random.get_rng_state()
    with torch.no_grad():
        first, again, other = (
            probe(run.learner, run.loop.stream, run.loop.stream[2], Randomness(s)) for s in (4, 4, 5)
        )
    assert first.numbers == again.numbers
    assert all(torch.equal(array, again.arrays[name]) for name, array in first.arrays.items())
    assert (
        first.numbers["precision"] != other.numbers["precision"] or first.numbers["frechet"] != other.numbers["frechet"]
    )
    assert differing(before, run.learner.state()) == []
    assert torch.equal(state, torch.random.get_rng_state())


def test_good_densities_score_better_than_a_generator_that_learnt_nothing() -> None:
    stream = recommending(tiny_stream(rows=40), steps=1)
    good = train(GenerativeReplay(generator=Densities(), labels="condition", quality=True), stream)
    poor = train(GenerativeReplay(generator=VAE(conditional=True), quality=True), stream)
    last = [run.result["findings"][-1]["numbers"] for run in (good, poor)]
    assert last[0]["mean_train_on_generated"] > 0.95
    assert last[0]["mean_coverage"] > 0.6
    assert last[0]["mean_frechet"] < last[1]["mean_frechet"]
    assert last[0]["mean_coverage"] > last[1]["mean_coverage"]


def test_it_is_off_unless_asked_for_and_changes_no_training() -> None:
    stream = recommending(tiny_stream(rows=40), steps=6)
    runs = [train(GenerativeReplay(quality=quality), stream) for quality in (False, True)]
    assert [probe.name for probe in runs[0].learner.probes()] == ["replay-quality"]
    assert differing(runs[0].learner.state(), runs[1].learner.state()) == []
    assert runs[0].accuracy == runs[1].accuracy


def test_images_are_refused() -> None:
    rng = np.random.default_rng(0)
    arrays = [(rng.random((12, 1, 3, 3), dtype=np.float32), np.repeat([2 * t, 2 * t + 1], 6)) for t in range(2)]
    stream = recommending(ArrayStream.from_arrays(arrays), steps=2)
    with pytest.raises(OptionsError, match=r"quality = True: measures generated vectors.*\(1, 3, 3\).*frozen"):
        make_loop(GenerativeReplay(quality=True), stream)
