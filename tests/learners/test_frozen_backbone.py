"""The frozen family: what is frozen stays frozen, and above the cut everything is the method's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reverie.checks import OptionsError, StorageError, TrainingError
from reverie.engine import Loop
from reverie.experiments.pretraining import pretrain
from reverie.generators import Densities, Gaussian, Oracle
from reverie.learners import (
    FrozenBackbone,
    GenerativeLatentReplay,
    GenerativeReplay,
    Joint,
    LatentReplay,
    Naive,
    StreamingLDA,
)
from reverie.replay import importance, mix
from reverie.solvers import MLP, Module
from reverie.storage import fingerprint
from reverie.streams.rows import TensorRows
from reverie.types import Batch
from tests.tiny import differing, make_loop, tiny_stream, train


class Noisy(nn.Module):
    """Batch norm and dropout: what would change or move if it were left in training mode."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(shape[0], 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Writes(nn.Module):
    """Changes a buffer at every pass, whatever the mode."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.layer = nn.Linear(shape[0], 6)
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return self.layer(x)


def watched(learner: Any, look: Any, **options: Any) -> Loop:
    """A loop whose learner is shown to ``look`` after each task."""

    def prepare(made: Any) -> None:
        real = made.end_task

        def end_task(task: Any) -> None:
            real(task)
            look(made, task)

        made.end_task = end_task

    return make_loop(learner, tiny_stream("class", **options), prepare=prepare)


@pytest.mark.parametrize("method", [Naive(), StreamingLDA(), GenerativeReplay(generator=Densities())])
def test_frozen_means_frozen_bit_by_bit(method: Any) -> None:
    """Parameters, buffers and answers of the lower part, with batch norm and dropout in it."""
    x = torch.rand(9, 6)
    seen = []

    def look(learner: Any, task: Any) -> None:
        assert not learner.below.module.training
        seen.append((fingerprint(learner.below.module.state_dict()), learner._encode(x)))

    watched(FrozenBackbone(method, backbone=Module(Noisy)), look).run()
    assert len(seen) == 3
    assert len({mark for mark, _ in seen}) == 1
    assert all(torch.equal(z, seen[0][1]) for _, z in seen)


def test_a_network_that_changes_when_frozen_stops_the_run() -> None:
    with pytest.raises(TrainingError, match="the frozen part changed while task"):
        train(FrozenBackbone(backbone=Module(Writes)), tiny_stream("class"))


def test_the_method_goes_on_from_what_the_first_task_taught() -> None:
    """At the moment of freezing, the two halves answer as the whole did."""
    x = torch.rand(9, 6)

    def prepare(learner: Any) -> None:
        real = learner.end_phase

        def end_phase(phase: Any, task: Any) -> None:
            before = learner.predict(x).scores
            real(phase, task)
            if phase.name == "backbone":
                assert learner.below is not None
                assert torch.allclose(learner.predict(x).scores, before, atol=1e-6)
                met.append(phase.name)

        learner.end_phase = end_phase

    met: list[str] = []
    make_loop(
        FrozenBackbone(backbone=MLP(hidden=(12, 8)), cut="encoder.1.1"), tiny_stream("class"), prepare=prepare
    ).run()
    assert met == ["backbone"]


@pytest.mark.parametrize(
    ("cut", "width"), [("encoder.1.1", 12), ("1.1", 12), ("encoder.1.2", 8), ("encoder", 8), (None, 8)]
)
def test_the_latent_is_the_output_of_the_named_module(cut: str | None, width: int) -> None:
    learner = train(FrozenBackbone(backbone=MLP(hidden=(12, 8)), cut=cut), tiny_stream("class")).learner
    x = torch.rand(5, 6)
    assert learner._encode(x).shape == (5, width)
    prefix = learner.frozen_prefix
    assert prefix is not None
    rows = prefix.latents(TensorRows(x, torch.zeros(5, dtype=torch.int64)))
    assert torch.equal(prefix.predict(rows.take(torch.arange(5)).x, 1).scores, learner.predict(x, 1).scores)


def test_each_row_passes_through_the_backbone_once_a_task() -> None:
    counts: list[int] = []

    def prepare(learner: Any) -> None:
        real = learner._encode

        def encode(x: Tensor) -> Tensor:
            counts.append(len(x))
            return real(x)

        learner._encode = encode

    loop = make_loop(LatentReplay(), tiny_stream("class"), prepare=prepare)
    loop.run()
    assert sum(counts) == sum(len(task.train) for task in loop.stream) + sum(len(test.rows) for test in loop.tests)


def test_test_rows_pass_through_the_frozen_part_once() -> None:
    passed: list[int] = []

    def look(learner: Any, task: Any) -> None:
        if task.index == 0:
            learner.below.module.register_forward_hook(lambda m, args, out: passed.append(len(out)))

    loop = watched(FrozenBackbone(), look)
    loop.run()
    rows = sum(len(task.train) for task in list(loop.stream)[1:]) + sum(len(test.rows) for test in loop.tests)
    assert sum(passed) == rows


def test_nothing_raw_is_kept_and_bytes_are_counted() -> None:
    run = train(GenerativeLatentReplay(), tiny_stream("class"))
    memory = run.result["memory"]
    assert (memory["stores"], memory["stores_raw_data"]) == ("none", False)
    learner = run.learner
    below = sum(4 * value.numel() for value in learner.below.module.state_dict().values())
    assert memory["persistent"]["backbone"] == below
    assert memory["persistent"]["generator"] == sum(
        tensor.numel() * tensor.element_size() for tensor in learner.inner.model.state()["tensors"].values()
    )
    assert train(LatentReplay(), tiny_stream("class")).result["memory"]["stores"] == "latents"


def test_real_latents_without_limit_are_cumulative_head_training() -> None:
    """All past latents, weighted by their rows, give the loss and gradient of training on all rows: the draws only sample it."""
    method = GenerativeReplay(generator=Oracle(), labels="condition", importance="by-count")
    kept: dict[str, Any] = {}

    def look(learner: Any, task: Any) -> None:
        rows = learner._latent(task).train
        everything = rows.take(torch.arange(len(rows)))
        if task.index == 2:
            oracle, network = learner.inner.model, learner.inner.network
            old = oracle.task < 2
            past = Batch(
                oracle.x[old], oracle.y[old], oracle.task[old], torch.full((int(old.sum()),), 1 / int(old.sum()))
            )
            r = importance("by-count", 2, learner.inner.rows_now, learner.inner.rows_before)
            both = mix(everything, past, r, learner.spec.outputs)
            whole = Batch(oracle.x, oracle.y, oracle.task, torch.full((len(oracle.x),), 1 / len(oracle.x)))
            kept["losses"] = [network.loss(batch)["cross-entropy"] for batch in (both, whole)]
            weights = list(network.module.parameters())
            kept["gradients"] = [torch.autograd.grad(loss, weights) for loss in kept["losses"]]

    watched(FrozenBackbone(method), look).run()
    assert torch.allclose(*kept["losses"], atol=1e-6)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*kept["gradients"], strict=True))


@pytest.mark.parametrize("scenario", ["class", "task", "domain"])
def test_saved_and_loaded_before_and_after_freezing(scenario: Any) -> None:
    whole = train(LatentReplay(), tiny_stream(scenario))
    fresh = make_loop(LatentReplay(), tiny_stream(scenario)).learner
    early = fresh.state()
    fresh.load(whole.learner.state())
    assert differing(fresh.state(), whole.learner.state()) == []
    x = torch.rand(4, 6)
    assert torch.equal(fresh.predict(x, 0).scores, whole.learner.predict(x, 0).scores)
    fresh.load(early)
    assert differing(fresh.state(), early) == []


# ---------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cut": "encoder.9"}, r"cut = '9': the network has no module of this name; .*1\.1"),
        ({"cut": "head"}, "this is the output, nothing lies above it"),
        ({"weights": "absent.safetensors"}, "there is no such file; reverie pretrain makes one"),
    ],
)
def test_mistakes_show_before_training(options: dict[str, Any], message: str) -> None:
    with pytest.raises((OptionsError, StorageError), match=message):
        make_loop(FrozenBackbone(**options), tiny_stream("class"))


def test_contradictions_are_refused_at_construction() -> None:
    with pytest.raises(OptionsError, match="is behind a frozen backbone itself"):
        FrozenBackbone(LatentReplay())
    with pytest.raises(OptionsError, match="the upper bound is 'cumulative'"):
        FrozenBackbone(Joint())
    with pytest.raises(OptionsError, match="has not learnt anything; give weights"):
        FrozenBackbone(frozen="from-start", backbone=MLP())
    with pytest.raises(OptionsError, match="give one of the two"):
        FrozenBackbone(steps=3, epochs=2)


def test_pretrained_on_other_data_and_frozen_from_the_start(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    about = pretrain(tiny_stream("class", seed=5), MLP(hidden=(12,)), path, steps=20)
    assert about["steps"] == 20
    learner = FrozenBackbone(StreamingLDA(), backbone=MLP(hidden=(12,)), frozen="from-start", weights=str(path))
    run = train(learner, tiny_stream("class"))
    assert {line["phase"] for line in run.lines if line["kind"] == "losses"} == set()
    assert run.result["status"] == "complete"
    assert run.learner.pretrained.about["stream"] == "blobs"
    with pytest.raises(OptionsError, match="do not fit the backbone"):
        make_loop(learner.clone().set_params(backbone=MLP(hidden=(9,))), tiny_stream("class"))
    with pytest.raises(OptionsError, match="give it that ending"):
        pretrain(tiny_stream("class"), None, tmp_path / "w.bin")


def test_latent_densities_see_the_task_of_each_row() -> None:
    run = train(
        GenerativeLatentReplay(GenerativeReplay(generator=Densities(Gaussian("diagonal")))), tiny_stream("domain")
    )
    keys = set(run.learner.inner.model.components)
    assert keys == {(task, c) for task in range(3) for c in range(2)}


# ---------------------------------------------------------------------------------------------- scale and alignment


def test_latents_are_standardised_by_the_first_task_alone() -> None:
    run = train(FrozenBackbone(Naive()), tiny_stream("class", rows=40))
    z = torch.cat([run.learner._encode(batch.x) for batch in run.loop.stream[0].train.chunks(64)])
    spread = z.std(dim=0, correction=0)
    assert torch.allclose(z.mean(dim=0), torch.zeros(z.shape[1]), atol=1e-4)
    assert bool((spread < 1).all())  # a floor keeps what hardly varies from being blown up
    assert float(spread.median()) > 0.8
    assert not train(FrozenBackbone(StreamingLDA()), tiny_stream("class")).learner.standardised


def test_standardising_needs_a_linear_layer_above() -> None:
    with pytest.raises(OptionsError, match="does not begin with a linear layer"):
        make_loop(
            FrozenBackbone(backbone=MLP(hidden=(8, 8)), cut="encoder.1.0", normalise="standardise"), tiny_stream()
        )
    assert not make_loop(
        FrozenBackbone(backbone=MLP(hidden=(8, 8)), cut="encoder.1.0"), tiny_stream()
    ).learner.standardised


def test_alignment_sees_generated_rows_of_all_classes_alone() -> None:
    seen: list[tuple[int, Tensor, Tensor]] = []

    def prepare(learner: Any) -> None:
        real = learner.inner.network.step

        def step(batch: Any, **options: Any) -> Any:
            seen.append((learner.task, batch.x, batch.y))
            return real(batch, **options)

        learner.inner.network.step = step

    method = GenerativeReplay(generator=Densities(), labels="condition", align_steps=5)
    loop = make_loop(GenerativeLatentReplay(method), tiny_stream("class"), prepare=prepare)
    loop.run()
    steps = {task: [(x, y) for t, x, y in seen if t == task] for task in range(3)}
    real = {
        tuple(row.tolist())
        for task in loop.stream
        for row in loop.learner._encode(task.train.take(torch.arange(len(task.train))).x)
    }
    for task, batches in steps.items():
        assert len(batches) == 8 + 5
        labels = torch.cat([y for _, y in batches[-5:]])
        assert set(labels.tolist()) == set(loop.stream.spec.classes_until(task))
        assert not any(tuple(row.tolist()) in real for x, _ in batches[-5:] for row in x)


def test_alignment_needs_a_generator_of_classes() -> None:
    with pytest.raises(OptionsError, match="align_steps = 5: needs a generator that is fitted to classes"):
        GenerativeReplay(generator=Densities(scope="task"), align_steps=5)
