"""Images change when they are trained on, by position in the run, and at no other time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import reverie
from reverie.checks import DataError
from reverie.learners import EWC, FrozenBackbone, GenerativeReplay, LatentReplay, Naive, NearestClassMean, Replay
from reverie.learners.coresets import CORESET, Coreset
from reverie.learners.posterior_replay import PosteriorReplay
from reverie.options import from_options
from reverie.posteriors import Dirac
from reverie.seeding import generator
from reverie.solvers import MLP
from reverie.streams import STREAMS, ArrayStream, Blobs, Folder, Sequence, Split
from reverie.streams.augmentation import PADDING, flip_crop
from reverie.types import Rows
from tests.tiny import Halt, differing, halt_after, make_loop, recommending, tiny_generator, train

SIDE = 6


def images(n: int, channels: int = 2, height: int = SIDE, width: int = SIDE) -> Tensor:
    """No two pixels of an image are equal, and none is 0."""
    return 0.1 + 0.9 * torch.rand(n, channels, height, width, generator=generator("images"))


def stream(augment: Any = "flip-crop", tasks: int = 2) -> ArrayStream:
    parts = images(24 * tasks).split(24)
    made = ArrayStream.from_arrays(
        [(x, torch.arange(24) % 2 + 2 * k) for k, x in enumerate(parts)], validation_fraction=0.1, augment=augment
    )
    return recommending(made, steps=6)


def everything(rows: Rows) -> Tensor:
    return torch.cat([chunk.x for chunk in rows.chunks(64)])


class Seen:
    """What each phase of a learner was given: (phase, batch) in order."""

    def __init__(self) -> None:
        self.steps: list[Any] = []

    def __call__(self, learner: Any) -> None:
        real = learner.step

        def step(phase: Any, batch: Any) -> Any:
            self.steps.append((phase, batch))
            return real(phase, batch)

        learner.step = step

    def inputs(self, *names: str) -> list[Tensor]:
        return [batch.x for phase, batch in self.steps if not names or phase.name in names]


def plain(x: Tensor, originals: Tensor) -> bool:
    """Whether every image is one of the originals, pixel for pixel."""
    known = {row.numpy().tobytes() for row in originals}
    return all(row.numpy().tobytes() in known for row in x)


def seen_by(learner: Any, augment: str = "flip-crop", **options: Any) -> tuple[Seen, Any]:
    seen = Seen()
    return seen, train(learner, stream(augment), prepare=seen, **options)


# ---------------------------------------------------------------------------------------------- the change itself


@pytest.mark.parametrize(("height", "width"), [(SIDE, SIDE), (5, 9), (17, 5)])
def test_every_image_is_a_shifted_window_mirrored_or_not(height: int, width: int) -> None:
    x = images(40, 3, height, width)
    found = flip_crop(x, generator(1))
    assert found.shape == x.shape
    places = set()
    for before, after in zip(x, found, strict=True):
        padded = torch.nn.functional.pad(before, (PADDING,) * 4)
        windows = {
            (down, right, mirrored): turned[:, down : down + height, right : right + width]
            for mirrored, turned in enumerate((padded, padded.flip(-1)))
            for down in range(2 * PADDING + 1)
            for right in range(2 * PADDING + 1)
        }
        matching = [place for place, window in windows.items() if torch.equal(window, after)]
        assert matching
        places.add(matching[0])
    assert len(places) > 30


def test_flips_and_shifts_are_as_frequent_as_said() -> None:
    """9 x 9 places and two sides, each as likely: a chi-square test far from its edge."""
    n = 162 * 200
    x = torch.zeros(n, 1, 17, 17)
    x[:, 0, 8, 8], x[:, 0, 8, 9] = 1, 0.5  # a mark in the middle, and which side of it is right
    found = flip_crop(x, generator(2))[:, 0]
    where = (found == 1).flatten(1).int().argmax(dim=1)
    beside = found.flatten(1).gather(1, where[:, None] + 1)[:, 0]
    counts = torch.bincount(2 * where + (beside == 0.5), minlength=2 * 17 * 17)
    counts = counts[counts > 0]
    assert len(counts) == 162
    assert float(((counts - 200) ** 2 / 200).sum()) < 161 + 5 * (2 * 161) ** 0.5


def test_the_same_generator_gives_the_same_bits() -> None:
    x = images(8)
    assert torch.equal(flip_crop(x, generator(3)), flip_crop(x, generator(3)))
    assert not torch.equal(flip_crop(x, generator(3)), flip_crop(x, generator(4)))


# ---------------------------------------------------------------------------------------------- in a run


def test_training_sees_changed_images_and_nothing_else_does() -> None:
    seen, done = seen_by(Naive())
    made = stream()
    assert all(not plain(x, everything(task.train)) for x, task in zip(seen.inputs(), [made[0]] * 6 + [made[1]] * 6))
    without = stream("none")
    for parts in zip(made.trains + made.validations, without.trains + without.validations, strict=True):
        assert torch.equal(*(everything(rows) for rows in parts))
    for mine, other in zip(made.tests, without.tests, strict=True):
        assert torch.equal(everything(mine.rows), everything(other.rows))
    assert done.result["warnings"] == []


def test_the_order_and_all_other_draws_stay_what_they_are() -> None:
    """The labels of every batch are those of the run without augmentation."""
    (mine, _), (other, _) = seen_by(Naive()), seen_by(Naive(), "none")
    assert [batch.y.tolist() for _, batch in mine.steps] == [batch.y.tolist() for _, batch in other.steps]
    assert plain(torch.cat(other.inputs()), torch.cat([everything(rows) for rows in stream().trains]))


def test_the_same_image_changes_from_step_to_step_and_with_the_seed() -> None:
    learner = Naive(epochs=3, batch_size=64, drop_last=False)  # every step sees all rows of a task
    first, again, other = (seen_by(learner, seed=seed)[0].inputs() for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    rows = [{row.numpy().tobytes() for row in x} for x in first[:3]]
    assert all(len(rows[i] & rows[j]) < 5 for i, j in ((0, 1), (0, 2), (1, 2)))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("learner", [Naive(), Replay()], ids=["naive", "replay"])
@pytest.mark.parametrize("at", [2, 9])
def test_a_resumed_run_equals_the_unbroken_one(learner: Any, at: int, tmp_path: Path) -> None:
    before = train(learner, stream(), folder=tmp_path / "whole")
    loop = make_loop(learner, stream(), folder=tmp_path / "broken", prepare=halt_after(at))
    with pytest.raises(Halt):
        loop.run()
    after = train(learner, stream(), folder=tmp_path / "broken")
    assert differing(before.learner.state(), after.learner.state()) == []
    assert before.result["matrices"] == after.result["matrices"]


def test_a_buffer_keeps_rows_as_they_are_and_rehearses_them_changed() -> None:
    trained: list[Tensor] = []

    def spy(learner: Any) -> None:
        real = learner.network.step

        def step(batch: Any, *rest: Any, **named: Any) -> Any:
            trained.append(batch.x)
            return real(batch, *rest, **named)

        learner.network.step = step

    done = train(Replay(), stream(), prepare=spy)
    originals = torch.cat([everything(rows) for rows in stream().trains])
    assert plain(done.learner.buffer.x.float() / (255 if done.learner.buffer.x.dtype == torch.uint8 else 1), originals)
    rehearsed = torch.cat([x[8:] for x in trained[6:]])
    assert len(rehearsed) == 6 * 8
    assert not plain(rehearsed, originals)


def test_fisher_information_is_of_plain_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Rows] = []

    def spy(learner: Any) -> None:
        real = learner.penalty.end_task

        def end_task(solver: Any, rows: Rows, *rest: Any) -> None:
            shown.append(rows)
            real(solver, rows, *rest)

        learner.penalty.end_task = end_task

    train(EWC(), stream(), prepare=spy)
    assert [torch.equal(everything(rows), everything(task.train)) for rows, task in zip(shown, stream("none"))] == [
        True,
        True,
    ]


def test_a_generator_is_shown_plain_rows_and_the_solver_beside_it_changed_ones() -> None:
    seen, done = seen_by(GenerativeReplay(generator=tiny_generator("wgan-gp")))
    originals = torch.cat([everything(rows) for rows in stream().trains])
    assert plain(torch.cat(seen.inputs("generator")), originals)
    assert not any(plain(x, originals) for x in seen.inputs("solver"))
    assert done.result["warnings"] == []


@pytest.mark.parametrize("learner", [GenerativeReplay(), NearestClassMean()], ids=["one phase for both", "statistics"])
def test_where_no_phase_can_change_images_the_user_is_told(learner: Any) -> None:
    seen, done = seen_by(learner)
    assert plain(torch.cat(seen.inputs()), torch.cat([everything(rows) for rows in stream().trains]))
    assert [w for w in done.result["warnings"] if w.startswith("augment = 'flip-crop': images stay as they are")]


def test_a_backbone_is_trained_on_changed_images_and_its_latents_are_of_plain_ones() -> None:
    learner = LatentReplay(backbone=MLP(hidden=(7,)))
    seen, done = seen_by(learner)
    originals = torch.cat([everything(rows) for rows in stream().trains])
    assert not any(plain(x, originals) for x in seen.inputs("backbone"))
    latents = torch.cat([everything(done.learner.seen(rows)) for rows in stream("none").trains])
    assert plain(torch.cat(seen.inputs("train")), latents)
    assert any("stay as they are in 'train'" in warning for warning in done.result["warnings"])
    assert isinstance(learner, FrozenBackbone)


def test_rows_held_out_for_the_end_are_changed_when_they_are_trained_on() -> None:
    learner = PosteriorReplay(posterior=Dirac(), kl_weight=0.0, coreset=Coreset(size=4, steps=3))
    seen, done = seen_by(learner)
    originals = torch.cat([everything(rows) for rows in stream().trains])
    assert len(seen.inputs(CORESET)) == 3
    assert not any(plain(x, originals) for x in seen.inputs("train", CORESET))
    kept = done.learner.coreset.kept.x
    assert plain(kept.float() / (255 if kept.dtype == torch.uint8 else 1), originals)


# ---------------------------------------------------------------------------------------------- as an option


@pytest.mark.parametrize("source", [Split(tasks=2), Sequence(datasets=("digits", "digits"))], ids=["split", "sequence"])
def test_sources_say_it_in_the_spec(source: Any) -> None:
    assert source.build("class", 0).spec.augment == "none"
    assert source.clone().set_params(augment="flip-crop").build("class", 0).spec.augment == "flip-crop"
    assert stream().merged().spec.augment == "flip-crop"


def test_folders_and_data_sets_too(tmp_path: Path) -> None:
    x, y = images(20).numpy(), np.arange(20) % 2
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y)
    assert Folder(str(tmp_path), augment="flip-crop").build("class", 0).spec.augment == "flip-crop"
    data = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    made = ArrayStream.from_datasets([(data, data)], augment="flip-crop")
    seen = Seen()
    train(Naive(), recommending(made, steps=2), prepare=seen)
    assert not plain(seen.inputs()[0], torch.from_numpy(x))


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(DataError, match=r"more than 4 pixels a side, and inputs here have shape \(2, 4, 9\)"):
        ArrayStream.from_arrays([(images(8, 2, 4, 9), [0, 1] * 4)], augment="flip-crop")
    rows = Blobs(rows_per_class=8).build("class", 0)[0].train.take(torch.arange(16))
    with pytest.raises(DataError, match=r"augment = 'flip-crop': is for images, .* inputs here have shape \(8,\)"):
        ArrayStream.from_arrays([(rows.x, rows.y)], augment="flip-crop")
    wrong: Any = "flip-crops"
    with pytest.raises(DataError, match="augment = 'flip-crops': no such augmentation; did you mean 'flip-crop'"):
        stream(wrong)


def test_it_is_written_in_the_config_and_goes_on_in_a_run_that_learns_on(tmp_path: Path) -> None:
    options = {"name": "split", "dataset": "digits", "tasks": 5, "augment": "flip-crop"}
    assert from_options(STREAMS, options).augment == "flip-crop"
    reverie.run(options, {"name": "naive", "steps": 2}, seed=0, out=tmp_path / "run")
    again = reverie.load(tmp_path / "run")
    assert again.spec.augment == "flip-crop"
    x = np.random.default_rng(0).random((20, 1, 8, 8), dtype=np.float32)
    seen = Seen()
    seen(again.learner)
    assert again.learn(x, ["ten"] * 20).spec.augment == "flip-crop"
    assert len(seen.steps) == 2
    assert not any(plain(batch, torch.from_numpy(x)) for batch in seen.inputs())
