"""What the learners that add up statistics share: shards that merge, and bytes that are those of the saved state."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import reverie
from reverie.checks import OptionsError
from reverie.device import CPU
from reverie.learners import FeCAM, NearestClassMean, RanPAC, StreamingLDA
from reverie.learners.statistics import union
from reverie.seeding import Randomness
from reverie.types import StreamSpec
from tests.learners.vectors import class_by_class, shuffled, spec_of, taught, teach, vectors
from tests.tiny import tiny_stream, train

METHODS = [NearestClassMean(), StreamingLDA(), FeCAM(), RanPAC(projection=40, ridge=1.0), RanPAC(projection=None)]
every_method = pytest.mark.parametrize("part", METHODS, ids=lambda part: repr(part))


def stream_of(names: str, scenario: Any = "class", tasks: tuple[str, ...] = ("one",)) -> StreamSpec:
    """Classes named by letters, all of them in each task."""
    classes = tuple(range(len(names)))
    spec = spec_of(7, len(names), len(tasks))
    heads = (classes,) * len(tasks)
    return replace(spec, scenario=scenario, classes=tuple(names), task_names=tasks, heads=heads)


def of_letters(part: Any, names: str, x: Tensor, letters: Tensor, **options: Any) -> Any:
    """Taught the rows whose letter (0 for a) is among the names."""
    learner = part.clone()
    learner.build(stream_of(names, **options), Randomness(0), CPU)
    learner.task = 0
    places = torch.full((26,), -1)
    for place, name in enumerate(names):
        places[ord(name) - ord("a")] = place
    mine = places[letters] >= 0
    return teach(learner, x[mine], places[letters[mine]])


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=0, atol=1e-5 * float(b.abs().max()))


@every_method
def test_shards_merge_into_the_fit_of_the_union(part: Any) -> None:
    x, y = class_by_class(*vectors(lowest=0.0))
    whole = taught(part.clone(), x, y)
    first, *rest = (taught(part.clone(), *shard, classes=4) for shard in zip(x.split(110), y.split(110), strict=True))
    first.predict(x)  # what was solved before is not answered from after
    for shard in rest:
        first.merge(shard)
    assert torch.equal(first.counts(), whole.counts())
    assert close(first.predict(x).scores, whole.predict(x).scores)


@every_method
def test_classes_are_matched_by_label(part: Any) -> None:
    """One knows c, a and b, the other b and d, at places of their own."""
    x, letters = shuffled(*vectors(lowest=0.0))
    half = torch.arange(300) < 150
    first = of_letters(part, "cab", x[half], letters[half])
    second = of_letters(part, "bd", x[~half], letters[~half])
    taken = half & (letters != 3) | ~half & ((letters == 1) | (letters == 3))
    whole = of_letters(part, "cabd", x[taken], letters[taken])
    first.merge(second)
    assert first.spec.classes == ("c", "a", "b", "d")
    assert first.spec.task_names == ("one", "one")
    assert first.spec.task_classes == ((0, 1, 2), (2, 3))
    assert torch.equal(first.counts(), whole.counts())
    scores = first.predict(x).scores
    assert bool(torch.isfinite(scores).all())
    assert close(scores, whole.predict(x).scores)
    assert close(first.predict(x, 1).scores[:, 2:], whole.predict(x).scores[:, 2:])


def test_tasks_of_two_workers_join() -> None:
    """Each has learnt one task of the same stream; what neither has is not answered."""
    stream = tiny_stream("class")
    rows = [task.train.take(torch.arange(len(task.train))) for task in stream]
    workers = []
    for task in (0, 1):
        learner = StreamingLDA()
        learner.build(stream.spec, Randomness(0), CPU)
        learner.begin_task(stream[task])
        workers.append(teach(learner, rows[task].x, rows[task].y))
    workers[0].merge(workers[1])
    assert workers[0].spec == stream.spec
    scores = workers[0].predict(rows[2].x).scores
    assert torch.isfinite(scores).all(dim=0).nonzero().flatten().tolist() == sorted(stream.spec.classes_until(1))


def test_the_same_label_of_two_tasks_is_two_outputs_where_the_task_is_given() -> None:
    first, second = (stream_of("ab", "task", (name,)) for name in ("north", "south"))
    spec, places, tasks = union(first, second)
    assert spec.classes == ("a", "b", "a", "b")
    assert spec.heads == ((0, 1), (2, 3))
    assert (places.tolist(), tasks) == ([2, 3], [1])
    spec, places, tasks = union(spec, second)
    assert spec.classes == ("a", "b", "a", "b")
    assert (places.tolist(), tasks) == ([2, 3], [1])


def test_a_run_answers_with_the_labels_of_both() -> None:
    """The example of the documentation."""
    x, y = vectors(lowest=0.0)
    names = np.array(["cat", "dog", "bird", "fish"])[y.numpy()]
    shards = [np.isin(names, kept) for kept in (["cat", "dog"], ["dog", "bird", "fish"])]
    streams = [reverie.Stream.from_arrays([(x.numpy()[mine], names[mine])]) for mine in shards]
    north, south = (reverie.run(stream, RanPAC(projection=60, ridge=1.0), seed=0) for stream in streams)
    north.learner.merge(south.learner)
    both = replace(north, spec=north.learner.spec)
    assert set(both.spec.classes) == set(names)
    assert (both.predict(x) == names).mean() > 0.9


def test_of_two_choices_of_the_ridge_that_of_more_rows_stays() -> None:
    learners = []
    for rows in (12, 60):
        learner = train(RanPAC(projection=30), tiny_stream("class", rows=rows)).learner
        learner.exponent = rows
        learners.append(learner)
    few, many = learners
    many.merge(few)
    assert many.exponent == 60
    few.merge(many)
    assert few.exponent == 60


@pytest.mark.parametrize(
    ("mine", "theirs", "message"),
    [
        (StreamingLDA(), NearestClassMean(), "StreamingLDA and NearestClassMean are two methods"),
        (StreamingLDA(ridge=0.1), StreamingLDA(ridge=0.2), r"ridge = 0\.1 and 0\.2: fit both with the same options"),
        (RanPAC(projection=30), RanPAC(projection=31), "projection = 30 and 31"),
    ],
)
def test_other_methods_and_options_are_refused(mine: Any, theirs: Any, message: str) -> None:
    x, y = vectors()
    learner = taught(mine.clone(), x, y)
    with pytest.raises(OptionsError, match=f"these statistics cannot be merged: .*{message}"):
        learner.merge(taught(theirs.clone(), x, y))


def test_rows_a_step_may_differ() -> None:
    x, y = vectors()
    taught(StreamingLDA(rows_a_step=8), x, y).merge(taught(StreamingLDA(), x, y))


def test_everything_that_stands_against_it_is_said_at_once_and_nothing_is_changed() -> None:
    learner, other = NearestClassMean(), NearestClassMean(distance="cosine")
    learner.build(spec_of(7, 2), Randomness(0), CPU)
    other.build(replace(spec_of(9, 2), scenario="class", classes=("0", "5")), Randomness(0), CPU)
    with pytest.raises(OptionsError) as caught:
        learner.merge(other)
    text = str(caught.value)
    for part in (
        "distance = 'euclidean' and 'cosine'",
        "inputs of shape (7,) and (9,): fit both on latents of one cut",
        "scenario = 'domain' and 'class'",
        "labels ['0']: are written like known ones but are of another type",
    ):
        assert part in text
    assert learner.spec == spec_of(7, 2)


def test_domains_share_all_classes() -> None:
    learners = [NearestClassMean(), NearestClassMean()]
    for learner, names in zip(learners, ("ab", "bc"), strict=True):
        learner.build(stream_of(names, "domain"), Randomness(0), CPU)
    with pytest.raises(OptionsError, match=r"classes \['a', 'b'\] and \['b', 'c'\]: the domains"):
        learners[0].merge(learners[1])


@every_method
def test_bytes_are_those_of_what_is_saved(part: Any) -> None:
    learner = taught(part.clone(), *vectors(lowest=0.0))
    saved = {
        name: sum(tensor.numel() * tensor.element_size() for tensor in tree.values())
        for name, tree in learner.state().items()
        if isinstance(tree, dict)
    }
    assert learner.memory().persistent == saved


def test_classes_that_join_after_an_answer_are_answered_too() -> None:
    x, y = vectors()
    learner = taught(NearestClassMean(), x, y)
    learner.predict(x)
    learner.extend(spec_of(7, 6))
    assert learner.predict(x).scores.shape == (300, 6)
