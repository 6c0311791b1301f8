"""LGAA as a learner: its replay set, what is learnt of it, resuming, semi-supervision, joint training, and its generator in generative replay."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from reverie.checks import DataError, OptionsError, TrainingError
from reverie.engine import Settings
from reverie.generators import AdversarialAutoencoder
from reverie.generators.lgaa_replay import ROUNDS
from reverie.learners import LGAA, GenerativeReplay
from reverie.nn.optimisers import Adam
from reverie.probes.judge import Judge, judged
from reverie.storage import read_tree, write_tree
from reverie.streams import ArrayStream, Folder, Sequence, Split, TensorRows
from reverie.types import UNKNOWN, Batch
from tests.tiny import (
    Halt,
    TakenFor,
    bits,
    differing,
    halt_after,
    make_loop,
    recommending,
    snapshot,
    tiny_images,
    tiny_stream,
    train,
)

STEPS = 4  # a task


def learner(**options: Any) -> LGAA:
    return LGAA(**{"batch_size": 8, "steps": STEPS, **options})


def at_step(part: LGAA, step: int, stream: ArrayStream | None = None, **options: Any) -> Any:
    """The learner when that step of the run begins."""
    loop = make_loop(part, stream or tiny_images(), prepare=halt_after(step), **options)
    with pytest.raises(Halt):
        loop.run()
    return loop.learner


def whole(rows: Any) -> Batch:
    return rows.take(torch.arange(len(rows)))


def networks(model: AdversarialAutoencoder) -> dict[str, Any]:
    return bits({name: dict(network.state_dict()) for name, network in model.networks.items()})


# ------------------------------------------------------------------------------------------ replay set


@pytest.mark.parametrize("ratio", [1.0, 0.37])
def test_replay_is_of_past_domains_and_their_classes_in_equal_shares(ratio: float) -> None:
    made = at_step(learner(replay_ratio=ratio), 2 * STEPS)  # in the third of three tasks
    n = round(ratio * 48)
    classes, domains = made.asked(made.snapshot, n)
    assert len(made.pool) == len(classes) == n
    assert set(domains.tolist()) == {0, 1}
    counts = Counter(zip(domains.tolist(), classes.tolist(), strict=True))
    assert counts.keys() == {(0, 0), (0, 1), (1, 2), (1, 3)}  # none of the classes that are still to come
    for shares in (counts.values(), torch.bincount(domains).tolist()):
        assert max(shares) - min(shares) <= 1
    assert set(whole(made.pool).task.tolist()) <= {0, 1}


def test_where_domains_share_their_classes_all_are_asked_of_each() -> None:
    made = at_step(learner(), 2 * STEPS, tiny_images("domain"))
    classes, domains = made.asked(made.snapshot, 40)
    counts = Counter(zip(domains.tolist(), classes.tolist(), strict=True))
    assert dict(counts) == {(d, c): 10 for d in (0, 1) for c in (0, 1)}


def test_replay_is_kept_as_bytes_and_labelled_as_such() -> None:
    made = at_step(learner(), 2 * STEPS)
    batch = whole(made.pool)
    assert torch.equal(batch.x, (batch.x * 255).round() / 255)
    assert batch.x.std() > 0
    found = made.snapshot.encode(batch.x)
    assert torch.equal(batch.y, found.class_logits.argmax(dim=1))
    assert torch.equal(batch.task, found.domain_logits.argmax(dim=1))
    assert made.memory().working["replay set"] == len(batch) * (64 + 16)


def test_labels_are_the_snapshots_and_not_the_live_models() -> None:
    """Whatever the live model has become, what is drawn again is the same."""
    made = at_step(learner(), STEPS + 2)
    with torch.no_grad():
        made.model.networks["classes"].head.bias.add_(torch.tensor([0.0, 0, 0, 0, 0, 90.0]))
        for parameter in made.model.networks["generator"].parameters():
            parameter.zero_()
    again = made._drawn(made.snapshot)
    assert differing(vars(whole(made.pool)), vars(whole(again))) == []
    assert set(again.labels.tolist()) <= set(range(6)) - {5}


def test_with_one_past_domain_there_is_nothing_to_infer_of_it() -> None:
    made = at_step(learner(), STEPS)
    assert not whole(made.pool).task.any()
    assert made.snapshot.domains == 1
    assert made.model.domains == 2


def test_the_snapshot_is_the_model_before_a_task_and_does_not_change() -> None:
    before: list[Any] = []

    def watch(made: Any) -> None:
        real = made.begin_task
        made.begin_task = lambda task: before.append(networks(made.model.frozen())) or real(task)
        halt_after(2 * STEPS - 1)(made)

    loop = make_loop(learner(), tiny_images(), prepare=watch)
    with pytest.raises(Halt):
        loop.run()
    made = loop.learner
    assert networks(made.snapshot) == before[1]
    live, then = networks(made.model), before[1]
    assert live["/encoder/heads.weight"] != then["/encoder/heads.weight"]


def drawn(model: TakenFor, n: int = 6, **options: Any) -> tuple[TensorRows, LGAA]:
    made = at_step(learner(**options), 0)
    made.rows_now = n
    return made._drawn(model), made


def test_what_is_of_another_domain_than_asked_for_is_drawn_again() -> None:
    """Else a domain whose samples look like another's would be lost from replay."""

    def all_of_domain_1(classes: Tensor, domains: Tensor) -> tuple[Tensor, Tensor]:
        return classes, torch.ones_like(domains)

    heads = ((0, 1), (0, 1), (0, 1))
    model = TakenFor([all_of_domain_1, "right"], taught=heads)
    rows, made = drawn(model, 12)
    stored = whole(rows)
    counts = Counter(zip(stored.task.tolist(), rows.labels.tolist(), strict=True))
    assert counts == {(domain, c): 2 for domain in range(3) for c in (0, 1)}
    assert model.domains[1] == [0, 2, 0, 2, 0, 2, 0, 2]
    assert made.images_drawn == 12 + 8
    assert made.first_drawn is not None
    assert torch.bincount(made.first_drawn.domains, minlength=3).tolist() == [0, 12, 0]
    loose, _ = drawn(TakenFor([all_of_domain_1], taught=heads), 12, balance=False)
    assert set(whole(loose).task.tolist()) == {1}


def test_replay_is_of_no_class_that_was_not_taught() -> None:
    """However sure the snapshot is of one that is still to come."""
    made = at_step(learner(), 2 * STEPS)  # in the third of three tasks, of two classes each
    with torch.no_grad():
        made.snapshot.networks["classes"].head.bias.add_(torch.tensor([0.0, 0, 0, 0, 90, 90]))
    rows = made._drawn(made.snapshot)
    assert set(rows.labels.tolist()) <= {0, 1, 2, 3}
    assert made.first_drawn.sure.max() <= 1


def test_without_balance_the_first_drawing_is_it() -> None:
    model = TakenFor([0])
    rows, _ = drawn(model, balance=False)
    assert rows.labels.tolist() == [0] * 6
    assert len(model.asked) == 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, 0.0), ({"labels_per_class": 20}, 0.5), ({"labels_per_class": 20, "confidence": 0.3}, 0.3)],
)
def test_pseudo_labels_must_be_sure_where_most_rows_have_none(options: dict[str, Any], expected: float) -> None:
    rows, made = drawn(TakenFor(["right"] * ROUNDS, sure=0.4), **options)
    assert made._confidence == expected
    assert set(rows.labels.tolist()) == ({UNKNOWN} if expected == 0.5 else {0, 1})


ANEW = {"refresh": "epoch", "replay_ratio": 0.5, "mixing": "weighted"}


def test_replay_can_be_drawn_anew_each_time_and_never_stored() -> None:
    seen: dict[int, list[Batch]] = {}

    def spy(made: Any) -> None:
        real = made.model.step

        def step(batch: Batch, labelled: Any) -> Any:
            assert labelled == "all"
            seen.setdefault(made.task, []).append(batch)
            return real(batch, labelled)

        made.model.step = step

    run = train(learner(**ANEW, steps=None, epochs=2), tiny_images(rows=12), prepare=spy)
    made = run.learner
    past = [(batch.x[old], batch.y[old], batch.task[old]) for batch in seen[2] for old in [batch.task != 2]]
    x, y, domains = (torch.cat(part) for part in zip(*past, strict=True))
    assert len(x) > 16
    assert len(x.unique(dim=0)) == len(x)  # an epoch later it is another image
    assert torch.equal(x, (x * 255).round() / 255)
    found = made.snapshot.recognise(x)
    assert torch.equal(y, found.classes)
    assert torch.equal(domains, found.domains)
    assert made.pool is None
    assert "replay set" not in made.memory().working
    assert None not in run.result["findings"][-1]["numbers"]["label_noise"][:2]  # a set is drawn to be looked at


def test_replay_drawn_anew_is_the_same_after_a_kill(tmp_path: Path) -> None:
    stream, settings = tiny_images(tasks=2), Settings(checkpoint_steps=1)
    broken = make_loop(learner(**ANEW), stream, folder=tmp_path, settings=settings, prepare=halt_after(STEPS + 2))
    with pytest.raises(Halt):
        broken.run()
    resumed = make_loop(learner(**ANEW), stream, folder=tmp_path)
    resumed.run()
    assert differing(resumed.learner.state(), train(learner(**ANEW), stream).learner.state()) == []


def test_nothing_is_rehearsed_where_none_is_asked_for() -> None:
    stream = tiny_images()
    made = at_step(learner(replay=False), STEPS + 1, stream)
    assert made.snapshot is None
    assert made.rows(made.phases(stream[1])[0], stream[1]) is stream[1].train
    assert "replay set" not in made.memory().working


# ------------------------------------------------------------------------------------------ mixing


def batch_of(tasks: list[int]) -> Batch:
    n = len(tasks)
    return Batch(torch.rand(n, 1, 8, 8), torch.tensor(tasks), torch.tensor(tasks), torch.full((n,), 1 / n))


def test_weighted_mixing_gives_new_rows_a_share_and_replay_the_rest() -> None:
    made = at_step(learner(mixing="weighted"), 2 * STEPS)  # t = 3
    for tasks in ([2, 0, 1, 1, 2], [2, 0, 0, 0]):
        weight = made._weights(torch.tensor(tasks))
        new = torch.tensor(tasks) == 2
        assert weight[new].sum().item() == pytest.approx(1 / 3)
        assert weight[~new].sum().item() == pytest.approx(2 / 3)
    for tasks in ([2, 2], [0, 1]):  # of one kind alone
        assert made._weights(torch.tensor(tasks)).tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize(("mixing", "share"), [("pool", 1 / 4), ("weighted", 1 / 2)])
def test_what_the_model_is_taught_with(mixing: Any, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    made = at_step(learner(mixing=mixing), STEPS)
    seen: list[Batch] = []
    monkeypatch.setattr(made.model, "step", lambda batch, labelled: seen.append(batch) or {})
    LGAA.step(made, None, batch_of([1, 0, 0, 0]))  # type: ignore[arg-type]
    assert seen[0].weight[0].item() == pytest.approx(share)
    assert seen[0].weight.sum().item() == pytest.approx(1)


# ------------------------------------------------------------------------------------------ labels


@pytest.mark.parametrize("count", [3, 500])
def test_so_many_rows_of_each_class_keep_their_label(count: int) -> None:
    stream = tiny_images()
    made = at_step(learner(labels_per_class=count), STEPS + 1, stream)
    phase = made.phases(stream[1])[0]
    rows = made.rows(phase, stream[1])
    new = rows.take(torch.arange(48))
    assert new.y is not None
    known = new.y != UNKNOWN
    assert Counter(new.y[known].tolist()) == {2: min(count, 24), 3: min(count, 24)}
    assert torch.equal(new.y[known], stream[1].train.labels[known])
    assert torch.equal(new.x, whole(stream[1].train).x)
    again = made.rows(phase, stream[1])
    assert torch.equal(again.labels, rows.labels)
    other = at_step(learner(labels_per_class=count), STEPS + 1, stream, seed=1).rows(phase, stream[1])
    assert torch.equal(rows.labels[:48], other.labels[:48]) == (count == 500)


OWN = {"labels_per_class": 0, "autoencoder": AdversarialAutoencoder(shape_inference=True, code_kl_weight=1.0)}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, ["all", "all"]),
        ({"refresh": "epoch"}, ["all", "all"]),
        ({"refresh": "epoch", "confidence": 0.5}, ["all", "some"]),  # what is drawn in a step may lack a label
        ({"labels_per_class": 3}, ["some", "some"]),
        (
            {"labels_per_class": 500, "confidence": 0.9},
            ["all", "some"],
        ),  # replay of which the snapshot is unsure lacks one
        (OWN, ["none", "none"]),  # replay has categories of the model's own
    ],
)
def test_what_the_model_is_told_of_labels(options: dict[str, Any], told: list[str]) -> None:
    stream, model = tiny_images(), AdversarialAutoencoder()
    seen: dict[int, str] = {}
    costs: dict[int, float] = {}

    def watch(made: Any) -> None:
        real = made.model.step

        def step(batch: Batch, labelled: Any) -> Any:
            seen[made.task] = labelled
            costs[made.task] = made.flops(made.phases(stream[0])[0], None)
            return real(batch, labelled)

        made.model.step, made.model.smoothing_flops = step, lambda rows: 1e18
        halt_after(STEPS + 2)(made)

    with pytest.raises(Halt):
        make_loop(learner(**{"autoencoder": model, **options}), stream, prepare=watch).run()
    assert list(seen.values()) == told
    assert [cost > 1e17 for cost in costs.values()] == [word == "some" for word in told]


def test_the_cost_of_smoothing_is_that_of_the_rows_without_a_class() -> None:
    stream = tiny_images()
    made = at_step(learner(labels_per_class=3), 1, stream)
    phase = made.phases(stream[0])[0]
    without = round(phase.batch_size * 42 / 48)  # three of each of two classes keep theirs
    smoothing = made.flops(phase, None) - made.model.flops(phase.batch_size)
    assert smoothing == pytest.approx(made.model.smoothing_flops(without))
    assert 0 < without < phase.batch_size


def test_without_labels_the_categories_are_the_models_own() -> None:
    run = train(learner(**OWN), tiny_images())
    assert run.result["status"] == "complete"
    losses = [line["losses"]["lgaa.classes"] for line in run.lines if line["kind"] == "losses"]
    assert losses[0] == 0  # in the first task there is no replay to give pseudo-labels either
    made = run.learner
    classes, _ = made.asked(made.snapshot, 24)
    assert set(classes.tolist()) == set(range(6))


def test_labels_that_are_missing_or_of_no_class() -> None:
    stream = tiny_images()
    good = whole(stream[0].train)
    assert good.y is not None
    for label, message in (
        (UNKNOWN, r"task 'task 1': 1 of 48 rows have no label; .* labels_per_class"),
        (6, r"task 'task 1': a row of class 6, and the stream has classes 0 to 5"),
    ):
        y = good.y.clone()
        y[3] = label
        wrong = replace(stream, trains=(TensorRows(good.x, y), *stream.trains[1:]))
        with pytest.raises(DataError, match=message):
            train(learner(), wrong)
    y = good.y.clone()
    y[3] = UNKNOWN
    some = replace(stream, trains=(TensorRows(good.x, y), *stream.trains[1:]))
    made = at_step(learner(labels_per_class=30), 1, some)
    assert made.rows(made.phases(some[0])[0], some[0]).labels[3] == UNKNOWN


# ------------------------------------------------------------------------------------------ resuming


@pytest.mark.parametrize(("at", "labels"), [(STEPS + 2, None), (2 * STEPS + 1, None), (STEPS + 2, 3)])
def test_killed_in_a_later_task_and_resumed_it_is_the_unbroken_one(at: int, labels: int | None, tmp_path: Path) -> None:
    settings = Settings(checkpoint_steps=1)
    options = {
        "autoencoder": AdversarialAutoencoder(critic_steps=2),
        "mixing": "weighted",
        "labels_per_class": labels,
    }
    unbroken = train(learner(**options), tiny_images(), folder=tmp_path / "whole", settings=settings)
    broken = make_loop(
        learner(**options), tiny_images(), folder=tmp_path / "broken", settings=settings, prepare=halt_after(at)
    )
    with pytest.raises(Halt):
        broken.run()
    before = whole(broken.learner.pool)
    pools = []

    def watch(made: Any) -> None:
        real = made._drawn
        made._drawn = lambda snapshot: pools.append(real(snapshot)) or pools[-1]

    resumed = make_loop(learner(**options), tiny_images(), folder=tmp_path / "broken", settings=settings, prepare=watch)
    result = resumed.run()
    assert differing(unbroken.learner.state(), resumed.learner.state()) == []
    assert result["matrices"] == unbroken.result["matrices"]
    assert differing(vars(before), vars(whole(pools[0]))) == []  # drawn again, and the same
    metrics = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "broken")]
    assert metrics[0] == metrics[1]


def test_a_snapshot_with_fewer_classes_is_loaded_into_a_model_that_has_grown(tmp_path: Path) -> None:
    stream = tiny_images("class", tasks=1)
    first = train(learner(), stream).learner
    x = torch.rand(40, 1, 8, 8)
    longer = ArrayStream.continued(stream.spec, (x, torch.arange(40) % 2 + 7))
    made = first
    made.extend(longer.spec)
    made.rng.position = replace(made.rng.position, task=1)
    made.begin_task(longer[1])
    phase = made.phases(longer[1])[0]
    rows = made.rows(phase, longer[1])
    made.step(phase, rows.take(torch.arange(30, 60)))
    assert (made.snapshot.outputs, made.model.outputs) == (2, 4)
    assert set(rows.labels[40:].tolist()) <= {0, 1}
    write_tree(tmp_path / "state", made.state())
    fresh = make_loop(learner(), replace(stream, spec=longer.spec)).learner
    fresh.load(read_tree(tmp_path / "state"))
    assert differing(snapshot(made), snapshot(fresh)) == []
    assert differing(vars(whole(rows)), vars(whole(fresh.rows(phase, longer[1])))) == []


# ------------------------------------------------------------------------------------------ whole runs


@pytest.mark.parametrize("scenario", ["class", "domain"])
def test_every_task_is_answered_reconstructed_and_placed(scenario: Any) -> None:
    run = train(learner(), tiny_images(scenario))
    matrices = run.result["matrices"]
    names = {"task_agnostic", "task_given", "reconstruction_mse", "task_found_by_code", "inferred_by_code"}
    assert names <= matrices.keys()
    for row, values in enumerate(matrices["reconstruction_mse"]):
        assert [value is not None for value in values] == [k <= row for k in range(3)]
    x = whole(run.loop.stream.tests[1].rows).x
    expected = (run.learner.model.reconstruct(x) - x).square().mean().item()
    assert matrices["reconstruction_mse"][-1][1] == pytest.approx(expected, rel=1e-5)
    answer = run.learner.predict(x)
    assert answer.by_task.shape == (len(x), 3, run.loop.stream.spec.outputs)
    assert torch.allclose(answer.task_scores["code"].exp().sum(dim=1), torch.ones(len(x)), atol=1e-5)


def test_joint_training_learns_all_domains_at_once() -> None:
    seen: list[Batch] = []

    def spy(made: Any) -> None:
        real = made.step
        made.step = lambda phase, batch: seen.append(batch) or real(phase, batch)

    run = train(learner(joint=True, steps=6), tiny_images("domain"), prepare=spy)
    assert run.learner.model.domains == run.learner.model.seen == 3
    assert set(torch.cat([batch.task for batch in seen]).tolist()) == {0, 1, 2}
    assert [len(row) for row in run.accuracy] == [3]
    assert run.learner.pool is None
    assert run.learner.model.taught().all()


def test_epochs_pass_over_new_rows_and_replay() -> None:
    run = train(learner(epochs=1, steps=None), tiny_images(tasks=2))
    assert run.result["cost"]["steps"] == 48 // 8 + 96 // 8


def test_replay_keeps_what_fine_tuning_forgets() -> None:
    """Two domains of the same two classes: bars, and bars inverted and exchanged."""
    draw = torch.Generator().manual_seed(0)
    y = torch.arange(120) % 2
    x = torch.zeros(120, 1, 8, 8)
    x[y == 0, :, :, :4], x[y == 1, :, :, 4:] = 0.9, 0.9
    x = (x + 0.08 * torch.rand(x.shape, generator=draw)).clamp(0, 1)
    stream = recommending(ArrayStream.from_arrays([(x, y), (x.transpose(2, 3).flip(2), y)], "domain"), steps=1)
    fast = {f"{of}_optimiser": Adam(learning_rate=2e-3, betas=(0.5, 0.9)) for of in ("critic", "generator", "dream")}
    kept, lost = (
        train(LGAA(autoencoder=AdversarialAutoencoder(**fast), steps=40, batch_size=16, replay=replay), stream).result[
            "matrices"
        ]["reconstruction_mse"]
        for replay in (True, False)
    )
    assert kept[0] == lost[0]
    assert lost[1][0] > 3 * lost[0][0]
    assert kept[1][0] < 0.5 * lost[1][0]


def test_acceptance_on_digits_and_inverted_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two domains in a row: with replay the first is still known, told from the second, and generated when it is asked for."""
    monkeypatch.setattr(LGAA, "probes", lambda self: ())
    stream = Sequence(datasets=("digits", "digits-inverted"), shared_labels=True).build("domain", 0)
    judge = Judge(stream, steps=300, batch_size=64)
    parts = ("critic", "generator", "dream", "label")
    fast = {f"{part}_optimiser": Adam(learning_rate=1e-3, betas=(0.5, 0.9)) for part in parts}
    found = {}
    for replay in (True, False):
        part = LGAA(autoencoder=AdversarialAutoencoder(**fast), steps=100, batch_size=64, replay=replay)
        run = train(part, stream)
        seen = judged(run.learner, judge, n=200)["generated"].numbers["as_asked_by_domain"][0]
        found[replay] = {
            "class": run.accuracy[-1][0],
            "domain": run.result["matrices"]["task_found_by_code"][-1][0],
            "as asked": seen["both"],
        }
        assert run.accuracy[0][0] > 0.9
    assert found[True]["class"] > 0.75 > found[False]["class"] + 0.35
    assert found[True]["domain"] > 0.95 > found[False]["domain"] + 0.1
    assert found[True]["as asked"] > found[False]["as asked"] + 0.25


def test_a_folder_of_colour_photographs_in_two_domains(tmp_path: Path) -> None:
    """Made-up ones of 64 x 64: two classes in each domain."""
    draw = np.random.default_rng(0)
    for kind, count in (("train", 6), ("test", 2)):
        for name in ("chair-old", "chair-new", "face-old", "face-young"):
            (tmp_path / kind / name).mkdir(parents=True)
            for k in range(count):
                pixels = draw.integers(0, 256, (64, 64, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / kind / name / f"{k}.png")
    stream = Folder(path=str(tmp_path), tasks=2).build("domain", 0)
    assert stream.spec.input_shape == (3, 64, 64)
    run = train(learner(steps=2, batch_size=4), stream, folder=tmp_path / "run")
    assert run.result["status"] == "complete"
    assert run.learner.model.chosen == "tiny"
    assert run.learner.replay_set().take(torch.arange(2)).x.shape == (2, 3, 64, 64)
    assert {file.name for file in (tmp_path / "run" / "samples").iterdir()} >= {"task-2-reconstructions.png"}


def test_cost_counts_the_making_of_the_replay_set() -> None:
    stream = tiny_images()
    made = at_step(learner(), STEPS, stream)
    phase = made.phases(stream[1])[0]
    share = made.snapshot.rehearsal_flops(made.images_drawn)
    assert made.images_drawn >= 48
    assert made.flops(phase, stream[1]) == pytest.approx(made.model.flops(8) + share / STEPS)


@pytest.mark.parametrize(
    ("stream", "scenario"),
    [
        (Split(dataset="digits", tasks=5), "class"),
        (Sequence(datasets=("digits", "digits-inverted"), shared_labels=True), "domain"),
    ],
    ids=["split-digits", "digits-inverted"],
)
def test_as_the_generator_of_generative_replay(stream: Any, scenario: Any) -> None:
    generator = AdversarialAutoencoder(phase_steps=2, phase_batch_size=8)
    part = GenerativeReplay(generator=generator, steps=2, batch_size=8, labels="condition")
    source = stream.build(scenario, 0)
    run = train(part, source)
    assert run.result["status"] == "complete"
    assert run.result["cost"]["steps"] == len(source) * 4
    assert run.learner.model.domains == len(source)
    assert run.result["memory"]["stores"] == "none"


def test_as_a_generator_it_learns_its_replay_as_the_frozen_one_takes_it() -> None:
    """With two past domains, both codes; its solver is still taught the class that was asked for."""
    stream = tiny_images("domain")
    generator = AdversarialAutoencoder(phase_steps=2, phase_batch_size=8)
    seen: list[tuple[Batch, Any]] = []

    def spy(made: Any) -> None:
        real = made.model.step
        made.model.step = lambda batch: seen.append((batch, made.scholar)) or real(batch)

    train(GenerativeReplay(generator=generator, steps=2, batch_size=8, labels="condition"), stream, prepare=spy)
    for batch, scholar in seen[-2:]:  # of the last of three tasks: new rows, then replay
        found = scholar.generator.recognise(batch.x[8:])
        assert batch.y is not None
        assert torch.equal(batch.y[8:], found.classes)
        assert torch.equal(batch.task[8:], found.domains)
        assert batch.task[:8].tolist() == [2] * 8


# ------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 5, "epochs": 2}, "steps = 5 and epochs = 2: give one of the two"),
        ({"replay": False, "mixing": "weighted"}, "replay = False, joint = False: nothing is rehearsed; leave"),
        ({"joint": True, "replay_ratio": 2.0}, "replay = True, joint = True: nothing is rehearsed; leave"),
        ({"replay": False, "refresh": "epoch"}, "replay = False, joint = False: nothing is rehearsed; leave"),
        ({"labels_per_class": 0}, "labels_per_class = 0: nothing would teach the inference of classes"),
    ],
)
def test_options_that_contradict_one_another(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        LGAA(**options)


def test_streams_that_it_cannot_learn() -> None:
    with pytest.raises(OptionsError, match="lgaa needs images"):
        train(learner(), tiny_stream())
    x, y = torch.rand(20, 1, 8, 8), torch.arange(20) % 2
    with pytest.raises(OptionsError, match=r"inputs must lie in \[0, 1\]"):
        train(learner(), ArrayStream.from_arrays([(3 * x, y)]))
    with pytest.raises(OptionsError, match="multiples of 4, this stream's are 6 x 6"):
        train(learner(), ArrayStream.from_arrays([(x[..., :6, :6], y)]))


@pytest.mark.parametrize("shape", [(1, 12, 12), (3, 8, 8)])
def test_images_of_another_size_or_with_other_channels_in_a_later_task(shape: tuple[int, ...]) -> None:
    y = torch.arange(20) % 2
    with pytest.raises(DataError, match="shape"):
        ArrayStream.from_arrays([(torch.rand(20, 1, 8, 8), y), (torch.rand(20, *shape), y + 2)])


def test_a_critic_that_diverges_is_named_with_its_step() -> None:
    wild = AdversarialAutoencoder(critic_optimiser=Adam(learning_rate=1e6))
    with pytest.raises(
        TrainingError, match=r"lgaa\.(critic|penalty).* stopped being finite at step [1-3] of phase 'train', task 0"
    ):
        train(learner(autoencoder=wild), tiny_images())


def test_state_is_that_of_the_model_and_the_snapshot() -> None:
    made = at_step(learner(), STEPS + 1)
    before = deepcopy(made.state())
    made.predict(torch.rand(3, 1, 8, 8))
    made.measure(torch.rand(3, 1, 8, 8))
    made.memory()
    assert differing(before, made.state()) == []
    assert "critic" in before["model"]["networks"]
    assert "critic" not in before["snapshot"]["networks"]
