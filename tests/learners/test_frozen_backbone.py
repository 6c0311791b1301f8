"""The frozen family: what is frozen stays frozen, and above the cut everything is the method's own."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from reverie.checks import NotReadyError, OptionsError, StorageError, TrainingError
from reverie.engine import Loop
from reverie.experiments.pretraining import pretrain
from reverie.generators import Densities, Gaussian, Oracle
from reverie.learners import (
    FeCAM,
    FrozenBackbone,
    GenerativeLatentReplay,
    GenerativeReplay,
    Joint,
    LatentReplay,
    Naive,
    NearestClassMean,
    RanPAC,
    StreamingLDA,
)
from reverie.learners.frozen_backbone import PROBED
from reverie.replay import importance, mix
from reverie.solvers import MLP, ConvStack, Module
from reverie.storage import fingerprint
from reverie.streams.rows import TensorRows
from reverie.types import Batch
from tests.tiny import differing, make_loop, tiny_images, tiny_stream, train


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


class Drops(nn.Module):
    """Functional dropout that no evaluation mode switches off."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.layer = nn.Linear(shape[0], 6)

    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(self.layer(x), 0.5, True)


class Counts(nn.Module):
    """Scales its outputs by a counter that is no buffer, from pass ``first`` in evaluation mode on."""

    def __init__(self, shape: tuple[int, ...], first: int = 0) -> None:
        super().__init__()
        self.layer, self.first, self.passes = nn.Linear(shape[0], 6), first, 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += not self.training
        return self.layer(x) * (1 + 0.1 * max(0, self.passes - self.first))


class Grows(nn.Module):
    """Scales its outputs by a number that training raises and nothing saves; with ``drops``, training switches dropout on for good."""

    def __init__(self, shape: tuple[int, ...], drops: bool = False) -> None:
        super().__init__()
        self.layer, self.drops, self.scale = nn.Linear(shape[0], 6), drops, 1.0

    def forward(self, x: Tensor) -> Tensor:
        self.scale += 0.1 * self.training
        return functional.dropout(self.scale * self.layer(x), 0.5, self.drops and self.scale > 1)


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


@pytest.mark.parametrize(
    ("factory", "found"),
    [
        (Writes, r"'encoder\.0\.passes' changed"),
        (Drops, r"a second pass of the same inputs gives latents that differ by"),
        (Counts, r"a second pass of the same inputs gives latents that differ by"),
    ],
)
def test_a_network_that_is_not_constant_is_refused_before_training(factory: Any, found: str) -> None:
    with pytest.raises(OptionsError, match=rf"the part below the cut is not constant: {found}.*take out what draws"):
        make_loop(FrozenBackbone(backbone=Module(factory)), tiny_stream("class"))


def test_a_network_that_training_makes_inconstant_is_not_frozen() -> None:
    backbone = Module(lambda shape: Grows(shape, drops=True))
    with pytest.raises(TrainingError, match=r"the frozen part is not constant: a second pass"):
        train(FrozenBackbone(backbone=backbone), tiny_stream("class"))


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda below: below[0][0].layers[0].weight.data.add_(1e-6), r"'encoder\.0\.layers\.0\.weight' changed"),
        (lambda below: below[1].mean.add_(1), r"'scale\.mean' changed"),
        (
            lambda below: below.register_forward_hook(lambda m, x, z: z * (1 + 1e-6)),
            r"the same inputs give latents that differ by",
        ),
    ],
)
def test_a_frozen_part_that_changes_within_a_task_stops_the_run(spoil: Any, found: str) -> None:
    def prepare(learner: Any) -> None:
        real = learner.step

        def step(phase: Any, batch: Any) -> Any:
            if learner.task == 1:
                spoil(learner.below.module)
                learner.step = real
            return real(phase, batch)

        learner.step = step

    with pytest.raises(TrainingError, match=rf"the frozen part changed while task .* was learnt: {found}"):
        make_loop(FrozenBackbone(backbone=Module(Noisy)), tiny_stream("class"), prepare=prepare).run()


def test_a_counter_that_starts_late_is_found_out() -> None:
    """Constant when it is frozen, and no longer when the test rows have passed."""
    with pytest.raises(
        TrainingError, match=r"the frozen part is not what it was when it was frozen.*persistent buffer"
    ):
        train(FrozenBackbone(backbone=Module(lambda shape: Counts(shape, first=9))), tiny_stream("class"))


def test_a_network_that_is_another_once_loaded_is_refused() -> None:
    """What decides its answers is neither a parameter nor a buffer, so no saved state has it."""
    part, stream = FrozenBackbone(backbone=Module(Grows)), tiny_stream("class")
    state = train(part, stream).learner.state()
    with pytest.raises(StorageError, match=r"not what it was when it was frozen.*make a persistent buffer"):
        make_loop(part, stream).learner.load(state)


def test_a_state_without_the_probe_s_answer_is_taken() -> None:
    """As folders from before have it."""
    whole = train(FrozenBackbone(), tiny_stream("class")).learner
    state = {name: value for name, value in whole.state().items() if name != "probed"}
    fresh = make_loop(FrozenBackbone(), tiny_stream("class")).learner
    fresh.load(state)
    assert differing(fresh.state(), whole.state()) == []


def test_rounding_of_another_process_is_not_a_change() -> None:
    whole = train(FrozenBackbone(), tiny_stream("class")).learner
    state = whole.state()
    state["probed"] = state["probed"] * (1 + 1e-5)
    make_loop(FrozenBackbone(), tiny_stream("class")).learner.load(state)


@pytest.mark.parametrize("method", [Naive(), StreamingLDA()])
def test_the_whole_network_is_let_go_once_it_is_frozen(method: Any) -> None:
    """With its gradients and the moments of its optimiser: none of them is counted."""
    kept: list[weakref.ref[Any]] = []

    def prepare(learner: Any) -> None:
        kept.extend(weakref.ref(thing) for thing in (learner.whole.module, learner.whole.network.optimiser))

    loop = make_loop(
        FrozenBackbone(method, backbone=MLP(hidden=(12, 8)), cut="encoder.1.1"), tiny_stream("class"), prepare=prepare
    )
    loop.run()
    gc.collect()
    assert [ref() for ref in kept] == [None, None]


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
    assert sum(passed) - rows == 2 * 2 * PROBED  # as each of two tasks begins and ends


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
        (
            {"cut": "encoder.9"},
            r"cut = 'encoder\.9': the network has no module of this name; did you mean 'encoder\.0'",
        ),
        ({"cut": "9"}, r"cut = '9': the network has no module of this name; valid: encoder, encoder\.0, encoder\.1\.0"),
        ({"cut": "encodr"}, r"cut = 'encodr': .*did you mean 'encoder'"),
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
    finding, *_ = [line for line in run.result["findings"] if line["probe"] == "pretrained-backbone"]
    assert finding["facts"] == {"pretrained_on": {"stream": "blobs", "classes": about["classes"]}}
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


# ---------------------------------------------------------------------------------------------- signs


@pytest.mark.parametrize(
    ("method", "normalise", "found"),
    [
        (
            FeCAM(),
            None,
            r"tukey = 0\.5: needs latents >= 0, and those at cut = 'encoder\.1' go below 0; cut after a ReLU .* or tukey = None",
        ),
        (
            FeCAM(),
            "standardise",
            r"tukey = 0\.5: needs latents >= 0, and standardised ones lie around 0; use normalise = 'none', or tukey",
        ),
        (
            GenerativeReplay(generator=Densities(transforms=("tukey",), support="hurdle")),
            "none",
            r"generator\.transforms = \('tukey',\), generator\.support = 'hurdle': .* go below 0; .* other transforms, support = 'real'",
        ),
    ],
)
def test_latents_below_zero_are_known_before_training(method: Any, normalise: Any, found: str) -> None:
    """The usual cut of conv-stack lies before its last activation."""
    part = FrozenBackbone(method, backbone=ConvStack(channels=(4, 4), hidden=(8,)), normalise=normalise)
    with pytest.raises(OptionsError, match=found):
        make_loop(part, tiny_images("class"))


def test_latents_after_a_relu_are_never_below_zero() -> None:
    make_loop(FrozenBackbone(FeCAM()), tiny_stream("class"))
    make_loop(FrozenBackbone(FeCAM(tukey=None), backbone=ConvStack(channels=(4, 4), hidden=(8,))), tiny_images("class"))


# ---------------------------------------------------------------------------------------------- shards


def behind(path: Path, stream: Any, method: Any) -> Any:
    part = FrozenBackbone(method, backbone=MLP(hidden=(12,)), frozen="from-start", weights=str(path))
    return train(part, stream).learner


def test_shards_behind_one_frozen_backbone_merge(tmp_path: Path) -> None:
    """Their answers are those of one learner that saw the rows of both: here each row twice, which no mean shows."""
    path, stream = tmp_path / "w.safetensors", tiny_stream("class")
    pretrain(tiny_stream("class", seed=5), MLP(hidden=(12,)), path, steps=20)
    x = torch.rand(9, 6)
    first, second = (behind(path, stream, StreamingLDA()) for _ in range(2))
    before = first.predict(x).scores
    first.merge(second)
    assert torch.allclose(first.predict(x).scores, before, rtol=1e-6, atol=1e-6)
    assert torch.equal(first.inner.counts(), 2 * second.inner.counts())
    pretrain(tiny_stream("class", seed=6), MLP(hidden=(12,)), path, steps=20)
    with pytest.raises(
        OptionsError, match=r"are not the same network; use frozen = 'from-start' with the same weights"
    ):
        first.merge(behind(path, stream, StreamingLDA()))
    with pytest.raises(OptionsError, match="Naive: what it has learnt cannot be merged"):
        first.merge(behind(path, stream, Naive()))
    assert torch.equal(first.inner.counts(), 2 * second.inner.counts())


def test_what_is_not_frozen_yet_cannot_be_merged() -> None:
    first, second = (make_loop(FrozenBackbone(NearestClassMean()), tiny_stream("class")).learner for _ in range(2))
    with pytest.raises(NotReadyError, match="the backbone is not frozen yet"):
        first.merge(second)


def test_projections_of_two_seeds_do_not_merge(tmp_path: Path) -> None:
    path, stream = tmp_path / "w.safetensors", tiny_stream("class")
    pretrain(stream, MLP(hidden=(12,)), path, steps=5)
    part = FrozenBackbone(RanPAC(projection=9), backbone=MLP(hidden=(12,)), frozen="from-start", weights=str(path))
    first, second = (train(part, stream, seed=seed).learner for seed in (0, 1))
    with pytest.raises(OptionsError, match="the random projections of seeds 0 and 1 are two"):
        first.merge(second)
