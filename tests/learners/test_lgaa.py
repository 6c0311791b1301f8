"""LGAA as a learner: its replay set, what is learnt of it, resuming, semi-supervision, joint training, and its generator in generative replay."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from reverie.checks import DataError, OptionsError, TrainingError
from reverie.engine import Settings
from reverie.generators import AdversarialAutoencoder
from reverie.generators.lgaa import UNKNOWN
from reverie.learners import LGAA, GenerativeReplay
from reverie.learners.lgaa import ROUNDS
from reverie.nn.optimisers import Adam
from reverie.storage import read_tree, write_tree
from reverie.streams import ArrayStream, Sequence, Split, TensorRows
from reverie.types import Batch
from tests.tiny import (
    Halt,
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
    classes, domains = made._asked(made.snapshot, n)
    assert len(made.pool) == len(classes) == n
    assert set(domains.tolist()) == {0, 1}
    counts = Counter(zip(domains.tolist(), classes.tolist(), strict=True))
    assert counts.keys() == {(0, 0), (0, 1), (1, 2), (1, 3)}  # none of the classes that are still to come
    for shares in (counts.values(), torch.bincount(domains).tolist()):
        assert max(shares) - min(shares) <= 1
    assert set(whole(made.pool).task.tolist()) <= {0, 1}


def test_where_domains_share_their_classes_all_are_asked_of_each() -> None:
    made = at_step(learner(), 2 * STEPS, tiny_images("domain"))
    classes, domains = made._asked(made.snapshot, 40)
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


class Stub:
    """A snapshot that finds ``answer`` in its i-th drawing, with this certainty."""

    seen, outputs = 1, 4

    def __init__(self, answers: list[Any], sure: float = 1.0) -> None:
        self.answers, self.sure, self.asked = list(answers), sure, []

    def taught(self) -> Tensor:
        return torch.tensor([[True, True, False, False]])

    def draw(self, classes: Tensor, domains: Tensor, rng: torch.Generator) -> Tensor:
        self.asked.append(classes.tolist())
        return torch.rand(len(classes), 1, 8, 8, generator=rng)

    def encode(self, x: Tensor) -> Any:
        answer = self.answers.pop(0)
        found = torch.tensor(self.asked[-1]) if answer == "right" else torch.full((len(x),), answer)
        c = torch.full((len(x), 4), (1 - self.sure) / 3)
        c[torch.arange(len(x)), found] = self.sure

        class Found:
            pass

        made = Found()
        made.c = c  # type: ignore[attr-defined]
        return made


def drawn(stub: Stub, n: int = 6, **options: Any) -> tuple[TensorRows, LGAA]:
    made = at_step(learner(**options), 0)
    made.rows_now = n
    return made._drawn(stub), made


def test_what_is_of_another_class_than_asked_for_is_drawn_again() -> None:
    stub = Stub([0, 1])  # first all look like class 0, then what is drawn again like class 1
    rows, made = drawn(stub)
    assert stub.asked == [[0, 1, 0, 1, 0, 1], [1, 1, 1]]
    assert rows.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert made.images_drawn == 9


def test_a_class_that_is_never_found_costs_some_rounds_and_is_then_called_what_it_is() -> None:
    stub = Stub([0] * ROUNDS)
    rows, made = drawn(stub)
    assert [len(asked) for asked in stub.asked] == [6] + [3] * (ROUNDS - 1)
    assert rows.labels.tolist() == [0] * 6
    assert made.images_drawn == 6 + 3 * (ROUNDS - 1)


def test_without_balance_the_first_drawing_is_it() -> None:
    stub = Stub([0])
    rows, _ = drawn(stub, balance=False)
    assert rows.labels.tolist() == [0] * 6
    assert len(stub.asked) == 1


def test_unsure_replay_is_drawn_again_and_in_the_end_has_no_label() -> None:
    stub = Stub(["right"] * ROUNDS, sure=0.8)
    rows, _ = drawn(stub, confidence=0.9)
    assert rows.labels.tolist() == [UNKNOWN] * 6
    sure, _ = drawn(Stub(["right"], sure=0.95), confidence=0.9)
    assert sure.labels.tolist() == [0, 1, 0, 1, 0, 1]


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
    monkeypatch.setattr(made.model, "step", lambda batch: seen.append(batch) or {})
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


def test_without_labels_the_categories_are_the_models_own() -> None:
    own = AdversarialAutoencoder(shape_inference=True, code_kl_weight=1.0)
    run = train(learner(autoencoder=own, labels_per_class=0), tiny_images())
    assert run.result["status"] == "complete"
    losses = [line["losses"]["lgaa.classes"] for line in run.lines if line["kind"] == "losses"]
    assert losses[0] == 0  # in the first task there is no replay to give pseudo-labels either
    made = run.learner
    classes, _ = made._asked(made.snapshot, 24)
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


@pytest.mark.parametrize("at", [STEPS + 2, 2 * STEPS + 1])
def test_killed_in_a_later_task_and_resumed_it_is_the_unbroken_one(at: int, tmp_path: Path) -> None:
    settings = Settings(checkpoint_steps=1)
    options = {"autoencoder": AdversarialAutoencoder(critic_steps=2), "mixing": "weighted"}
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


def test_cost_counts_the_making_of_the_replay_set() -> None:
    stream = tiny_images()
    made = at_step(learner(), STEPS, stream)
    phase = made.phases(stream[1])[0]
    share = made.snapshot.flops(made.images_drawn, train=False) + made.snapshot.inference_flops(made.images_drawn)
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


# ------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 5, "epochs": 2}, "steps = 5 and epochs = 2: give one of the two"),
        ({"replay": False, "mixing": "weighted"}, "replay = False, joint = False: nothing is rehearsed; leave"),
        ({"joint": True, "replay_ratio": 2.0}, "replay = True, joint = True: nothing is rehearsed; leave"),
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
