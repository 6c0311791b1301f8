"""Learning on from a saved run: new classes, data of the past gone, the old folder untouched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import reverie
from reverie.checks import DataError, OptionsError
from reverie.learners import LEARNERS
from reverie.learners.posteriors import PosteriorLearner
from reverie.options import signature, to_options
from reverie.reports.records import read_runs
from reverie.streams import Stream

LEARNER = {"name": "generative-replay", "steps": 120, "generator": {"name": "vae", "kl_weight": 0.1}}


def cloud(seed: int, *labels: str) -> tuple[np.ndarray, np.ndarray]:
    """40 rows of 8 numbers for each label, around a corner of the cube that the label alone decides."""
    rng = np.random.default_rng(seed)
    rows = []
    for label in labels:
        corner = np.random.default_rng(sum(map(ord, label))).integers(0, 2, 8) * 0.6 + 0.2
        rows.append(np.clip(corner + 0.05 * rng.standard_normal((40, 8)), 0, 1))
    return np.concatenate(rows).astype(np.float32), np.repeat(labels, 40)


@pytest.fixture(scope="module")
def january(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("learn") / "january"
    reverie.run(Stream.from_arrays([cloud(0, "cat", "dog")]), LEARNER, out=folder, threads=1)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_new_classes_join_and_old_ones_stay(january: Path, tmp_path: Path) -> None:
    before = files(january)
    run = reverie.load(january).learn(*cloud(1, "hen", "cow"), name="february", out=tmp_path / "february")
    assert run.spec.classes == ("cat", "dog", "cow", "hen")
    x, y = cloud(2, "cat", "dog", "hen", "cow")
    assert (run.predict(x) == y).mean() > 0.9
    (finding,) = run.result["findings"]
    assert finding["numbers"]["solver_agreement"] > 0.8
    assert finding["numbers"]["label_agreement"] is None  # the past's test rows are gone
    assert run.result["tasks"] == ["february"]
    assert files(january) == before

    again = reverie.load(tmp_path / "february")
    assert (again.predict(x) == run.predict(x)).all()
    third = again.learn(*cloud(3, "cat", "owl"), out=tmp_path / "march")  # an old class comes back beside a new one
    assert third.spec.classes == ("cat", "dog", "cow", "hen", "owl")
    assert third.spec.task_classes[-1] == (0, 4)


def striped(seed: int, *labels: str) -> tuple[np.ndarray, np.ndarray]:
    """The clouds as images (N, 1, 8, 8) of equal lines, for what learns images alone."""
    x, y = cloud(seed, *labels)
    return np.repeat(x[:, None, None, :], 8, axis=2), y


@pytest.mark.parametrize("learner", [name for name in LEARNERS if name != "joint"])
def test_every_kind_of_learner_takes_on_classes(learner: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"name": learner}
    if "steps" in signature(LEARNERS[learner]):
        options["steps"] = 60
    if "method" in signature(LEARNERS[learner]):
        options["method"] = {**to_options(LEARNERS[learner]().method), "steps": 60}
    rows = striped if learner == "lgaa" else cloud
    reverie.run(Stream.from_arrays([rows(0, "cat", "dog")]), options, out=tmp_path / "a", threads=1)
    run = reverie.load(tmp_path / "a").learn(*rows(1, "hen", "cow"), out=tmp_path / "b")
    x, y = rows(2, "hen", "cow")
    # Learners with a model a task have to guess the task first where it is not given; so few steps leave their weights uncertain.
    given = 1 if issubclass(LEARNERS[learner], PosteriorLearner) else None
    # Penalties hold on to the past, and a backbone that has seen two classes tells others apart less well.
    held_back = learner in ("ewc", "si") or "method" in options or given is not None
    assert (run.predict(x, given) == y).mean() > (0.7 if held_back else 0.9)
    assert (reverie.load(tmp_path / "b").predict(x) == run.predict(x)).all()
    assert all(record.complete for record in read_runs([tmp_path]))  # as the report page reads them


def test_what_cannot_be_learnt_on_is_refused(january: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"inputs of shape \(5,\): the model was trained on \(8,\)"):
        reverie.load(january).learn(np.zeros((4, 5), np.float32), ["a", "a", "b", "b"])
    with pytest.raises(OptionsError, match=r"not empty|holds another run"):
        reverie.load(january).learn(*cloud(1, "hen", "cow"), out=january)
    conditional = {**LEARNER, "steps": 5, "generator": {"name": "vae", "conditional": True}}
    reverie.run(Stream.from_arrays([cloud(0, "cat", "dog")]), conditional, out=tmp_path / "c", threads=1)
    with pytest.raises(OptionsError, match="was made for 2 classes and cannot take on more"):
        reverie.load(tmp_path / "c").learn(*cloud(1, "hen", "cow"))


def test_a_domain_incremental_model_takes_on_no_classes(tmp_path: Path) -> None:
    reverie.run(
        Stream.from_arrays([cloud(0, "cat", "dog")], "domain"),
        {"name": "naive", "steps": 5},
        out=tmp_path / "d",
        threads=1,
    )
    with pytest.raises(DataError, match=r"labels \['owl'\]: a domain-incremental model"):
        reverie.load(tmp_path / "d").learn(*cloud(1, "cat", "owl"))


def test_other_data_in_the_same_folder_are_not_taken_for_this_run(january: Path) -> None:
    before = files(january)
    x, y = cloud(0, "cat", "dog")
    with pytest.raises(OptionsError, match="classes"):
        reverie.run(Stream.from_arrays([cloud(0, "ant", "bee")]), LEARNER, out=january, threads=1)
    with pytest.raises(OptionsError, match=r"data 'task 1': other content"):
        reverie.run(Stream.from_arrays([(x[::-1].copy(), y[::-1])]), LEARNER, out=january, threads=1)
    assert files(january) == before
    assert (
        reverie.run(Stream.from_arrays([cloud(0, "cat", "dog")]), LEARNER, out=january, threads=1).result["status"]
        == "complete"
    )


def test_joint_counts_the_rows_it_needs(tmp_path: Path) -> None:
    run = reverie.run(
        Stream.from_arrays([cloud(0, "cat", "dog"), cloud(1, "hen", "cow")]), {"name": "joint", "steps": 5}, threads=1
    )
    memory = run.result["memory"]
    assert memory["persistent"]["rows of all tasks"] == 2 * 64 * (8 * 4 + 16)  # four fifths of 80 rows a task
    assert memory["stores_raw_data"]


def test_a_reservoir_holds_no_empty_rows_after_classes_join(tmp_path: Path) -> None:
    options = {"name": "replay", "steps": 10, "buffer": {"strategy": "reservoir", "budget": 10}}
    reverie.run(Stream.from_arrays([cloud(0, "cat", "dog")]), options, out=tmp_path / "a", threads=1)
    run = reverie.load(tmp_path / "a").learn(*cloud(1, "hen", "cow"), out=tmp_path / "b")
    buffer = run.learner.buffer
    assert len(buffer.x) == 20  # settled by the classes of the first stream
    assert bool((buffer.x.flatten(1).sum(1) > 0).all())


def test_values_of_another_scale_are_refused(january: Path) -> None:
    x, y = cloud(1, "hen", "cow")
    with pytest.raises(DataError, match=r"values in \[.*\]: the model was trained on \[.*\]; scale them alike"):
        reverie.load(january).learn(255 * x, y)


def test_labels_that_only_look_like_known_ones_are_refused(tmp_path: Path) -> None:
    x, _ = cloud(0, "cat", "dog")
    reverie.run(
        Stream.from_arrays([(x, np.repeat(["0", "1"], 40))]),
        {"name": "naive", "steps": 3},
        out=tmp_path / "a",
        threads=1,
    )
    with pytest.raises(DataError, match=r"labels \[0, 1\]: are written like known ones but are of another type"):
        reverie.load(tmp_path / "a").learn(x, np.repeat([0, 1], 40))


def test_learning_on_after_joint_training_asks_the_new_head(tmp_path: Path) -> None:
    stream = Stream.from_arrays([cloud(0, "cat", "dog"), cloud(1, "hen", "cow")], "task")
    reverie.run(stream, {"name": "joint", "steps": 40}, out=tmp_path / "a", threads=1)
    run = reverie.load(tmp_path / "a").learn(*cloud(2, "owl", "bee"), out=tmp_path / "b")
    assert run.summary["average_accuracy"] > 0.9


def test_precision_and_device_are_those_really_used(tmp_path: Path) -> None:
    reverie.run(
        Stream.from_arrays([cloud(0, "cat", "dog")]),
        {"name": "naive", "steps": 3},
        out=tmp_path / "a",
        precision="bf16",
        threads=1,
    )
    loaded = reverie.load(tmp_path / "a")
    assert loaded.device.precision == "bf16"
    assert loaded.learn(*cloud(1, "hen", "cow"), out=tmp_path / "b").result["options"]["precision"] == "bf16"
