"""What every learner of regression promises, for every entry of the table that says it can; and that the others are refused."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import reverie
from reverie.checks import OptionsError
from reverie.device import CPU
from reverie.engine import Settings
from reverie.generators import GENERATORS
from reverie.learners import (
    EWC,
    LEARNERS,
    VCL,
    Cumulative,
    GenerativeReplay,
    PosteriorReplay,
    RanPAC,
    Replay,
    SeparatePosteriors,
    posteriors,
)
from reverie.learners.posteriors import EVALUATION
from reverie.nn.optimisers import SGD
from reverie.options import Part, from_options
from reverie.posteriors import POSTERIORS, Dirac, Implicit
from reverie.replay import Buffer
from reverie.seeding import Randomness, generator
from reverie.solvers import Module
from reverie.streams import Regression1D
from reverie.streams.rows import TensorRows
from reverie.types import Batch, Phase, StreamSpec, Task
from tests.learners.test_posteriors import at_step, inputs, of_mlp
from tests.tiny import (
    Halt,
    Trained,
    differing,
    halt_after,
    make_loop,
    recommending,
    snapshot,
    tiny_curves,
    tiny_generator,
    train,
)

ABLE = [name for name, part in LEARNERS.items() if "regression" in getattr(part, "kinds", ())]
UNABLE = [name for name, _ in LEARNERS.items() if name not in ABLE]
POINT_OR_OTHER = [f"posterior-replay with {name}" for name in ("dirac", "radial", "implicit", "adversarial")]
BAYESIAN = [f"ewc with bayesian {name}" for name in ("point", "samples")]
GENERATED = [f"generative-replay with {name}" for name in ("oracle", "densities", "class-mixture")]
CASES = [*ABLE, *POINT_OR_OTHER, *BAYESIAN, *GENERATED]
STEPS = 8  # a task

every_learner = pytest.mark.parametrize("case", CASES)
several_targets = pytest.mark.parametrize("targets", [1, 2])


def learner_of(case: str) -> Part:
    name, _, inside = case.partition(" with ")
    part = from_options(LEARNERS, name)
    if name == "generative-replay" and inside:
        part.set_params(generator=tiny_generator(inside))
    elif name == "ewc" and inside:
        answers = "posterior" if inside == "bayesian samples" else "point"
        part.set_params(mode="bayesian", strength=1.0, answers=answers)
    elif inside == "adversarial":
        part.set_params(posterior=Implicit(estimator="adversarial"))
    elif inside:
        part.set_params(posterior=from_options(POSTERIORS, inside))
    return part


@cache
def trained(case: str, targets: int) -> Trained:
    """Shared by the checks that only look."""
    return train(learner_of(case), tiny_curves(targets=targets))


# ---------------------------------------------------------------------------------------------- every learner


def test_the_table_knows_both_kinds() -> None:
    assert {"naive", "joint", "cumulative", "replay", "generative-replay", "posterior-replay", "vcl"} <= set(ABLE)
    assert {"ranpac", "learning-without-forgetting", "frozen-backbone"} <= set(UNABLE)


@every_learner
@several_targets
def test_runs_to_the_end_with_finite_errors(case: str, targets: int) -> None:
    run = trained(case, targets)
    result = run.result
    rows = 1 if run.learner.on_merged_stream else 3
    assert (result["status"], result["kind"], result["accuracy"]) == ("complete", "regression", [])
    assert [len(row) for row in result["mse"]] == [3] * rows
    assert all(value is not None and 0 < value < math.inf for value in result["mse"][-1])
    assert result["summary"]["mse_final"] > 0
    assert 0 <= result["summary"]["coverage_final"] <= 1
    assert math.isfinite(result["summary"]["nll_final"])
    assert result["cost"]["steps"] == sum(
        phase.length(len(run.learner.rows(phase, task)))
        for task in run.loop.stream
        for phase in run.learner.phases(task)
    )
    for name in ("task_agnostic", "nll", "coverage"):
        for task, row in enumerate(result["matrices"][name]):
            assert [value is not None for value in row] == [k <= task or rows == 1 for k in range(3)]


@every_learner
@several_targets
def test_answers_are_finite_numbers_whatever_is_said_of_the_task(case: str, targets: int) -> None:
    run = trained(case, targets)
    x = inputs(run.loop.stream)
    for task in (None, 0, 2):
        answer = run.learner.predict(x, task)
        assert answer.scores.shape == (len(x), targets)
        assert bool(torch.isfinite(answer.scores).all())
        if answer.std is not None:
            assert answer.std.shape == answer.scores.shape
            assert bool((answer.std > 0).all())


@every_learner
def test_same_seed_same_bits_and_another_seed_others(case: str) -> None:
    first, again = trained(case, 1), train(learner_of(case), tiny_curves())
    assert differing(first.learner.state(), again.learner.state()) == []
    assert first.result["matrices"] == again.result["matrices"]
    other = train(learner_of(case), tiny_curves(), seed=1)
    assert differing(first.learner.state()["solver"], other.learner.state()["solver"])
    assert first.result["mse"] != other.result["mse"]


@every_learner
@pytest.mark.parametrize("at", [3, 2 * STEPS + 5])
def test_a_run_that_was_killed_ends_as_the_unbroken_one(case: str, at: int, tmp_path: Path) -> None:
    whole = trained(case, 2)
    settings = Settings(checkpoint_steps=3)
    loop = make_loop(
        learner_of(case), tiny_curves(targets=2), folder=tmp_path, settings=settings, prepare=halt_after(at)
    )
    with pytest.raises(Halt):
        loop.run()
    again = train(learner_of(case), tiny_curves(targets=2), folder=tmp_path)
    assert differing(again.learner.state(), whole.learner.state()) == []
    for part in ("mse", "matrices", "findings", "warnings"):
        assert again.result[part] == whole.result[part]
    assert again.result["summary"] == whole.result["summary"]


@every_learner
def test_looking_changes_nothing(case: str) -> None:
    """Neither predictions nor probes, nor evaluations and checkpoints on the way."""
    run = trained(case, 1)
    learner, stream = run.learner, run.loop.stream
    before = snapshot(learner)
    first = learner.predict(inputs(stream)).scores
    for probe in learner.probes():
        probe(learner, stream, stream[len(stream) - 1], Randomness(5))
    assert torch.equal(first, learner.predict(inputs(stream)).scores)
    assert differing(before, learner.state()) == []
    watched = train(learner_of(case), tiny_curves(), settings=Settings(evaluate="all", evaluate_every=3))
    assert differing(before, watched.learner.state()) == []


@every_learner
@several_targets
def test_memory_is_counted(case: str, targets: int) -> None:
    run = trained(case, targets)
    memory, row = run.learner.memory(), 4 + 4 * targets + 8  # an input, its targets and its task
    assert memory.persistent["solver"] > 0
    kept = {"replay": "buffer", "cumulative": "kept rows", "joint": "rows of all tasks"}
    if case in kept:
        assert memory.persistent[kept[case]] == 36 * row
    assert memory.stores == ("raw" if case in kept or "oracle" in case else "none")
    assert all(value > 0 for value in memory.persistent.values())


@every_learner
@several_targets
def test_a_curve_is_shown_and_no_class(case: str, targets: int) -> None:
    run = trained(case, targets)
    found = [finding["probe"] for finding in run.result["findings"]]
    assert found.count("regression-fan") == (len(run.result["mse"]) if targets == 1 else 0)
    assert not {"buffer-classes", "replay-quality", "latent-quality"} & set(found)
    # Networks as small as these are smaller than anything that makes their weights.
    assert [text for text in run.result["warnings"] if "more than compression" not in text] == []


def test_rehearsal_holds_the_curves_that_naive_training_loses() -> None:
    stream = recommending(Regression1D().build("domain", 0), "gaussian", hidden=(20,), steps=300, learning_rate=0.01)
    naive, replay = (train(name, stream).result for name in ("naive", "replay"))
    assert naive["mse"][0][0] == pytest.approx(replay["mse"][0][0])  # the first task is the same
    assert 3 * replay["summary"]["mse_final"] < naive["summary"]["mse_final"]
    assert naive["mse"][2][0] > 3 * naive["mse"][2][2]  # it has learnt the last curve, and lost the first


# ---------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("name", UNABLE)
def test_learners_of_classes_alone_are_refused_before_anything_is_written(name: str, tmp_path: Path) -> None:
    with pytest.raises(OptionsError) as caught:
        reverie.run("regression-1d", name, out=tmp_path / "run")
    assert str(caught.value) == (
        f"learner = {name!r}: learns classification, and regression-1d is a stream of regression; try {', '.join(ABLE)}"
    )
    assert not (tmp_path / "run").exists()


def test_a_learner_made_in_python_is_refused_under_its_own_name() -> None:
    with pytest.raises(OptionsError, match=r"^learner = 'ranpac': learns classification, and regression-1d"):
        reverie.run("regression-1d", RanPAC())


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Replay(distill=1.0), r"distill = 1\.0: softens probabilities, and this is regression"),
        (Replay(buffer=Buffer(budget=2, unit="items")), r"holds 2 rows, fewer than the 3 tasks of this stream"),
        (GenerativeReplay(distill=True), r"distill = True: concerns classes"),
        (GenerativeReplay(labels="condition", generator=tiny_generator("oracle")), r"labels = 'condition': concerns"),
        (GenerativeReplay(quality=True), r"quality = True: concerns classes"),
        (GenerativeReplay(align_steps=3, generator=tiny_generator("densities")), r"align_steps = 3: concerns classes"),
        *((GenerativeReplay(selection=s), f"selection = '{s}'") for s in ("confidence", "entropy", "margin")),
        *(
            (GenerativeReplay(generator=tiny_generator(name)), r"generator = \w+: learns rows with their class")
            for name in ("conditional-vae", "autoencoder", "rectified-flow")
        ),
    ],
    ids=repr,
)
def test_options_that_concern_classes_are_refused(part: Any, message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        make_loop(part, tiny_curves())


def test_all_of_them_at_once() -> None:
    with pytest.raises(OptionsError) as caught:
        make_loop(GenerativeReplay(distill=True, quality=True, selection="margin"), tiny_curves())
    assert [line.split(" = ")[0] for line in str(caught.value).splitlines()[1:]] == [
        "  - distill",
        "  - quality",
        "  - selection",
    ]


@pytest.mark.parametrize("selection", ["diversity", "interference"])
def test_selections_that_need_no_classes_can_be_used(selection: Any) -> None:
    run = train(GenerativeReplay(selection=selection), tiny_curves(targets=2))
    assert run.result["status"] == "complete"
    assert differing(run.learner.state()["solver"], trained("generative-replay", 2).learner.state()["solver"])


# ---------------------------------------------------------------------------------------------- what is rehearsed


def test_replayed_rows_have_the_frozen_solver_s_answers_for_targets() -> None:
    learner = at_step(GenerativeReplay(), tiny_curves(targets=2), STEPS + 3)
    rows = learner.scholar.sample(8)
    assert rows.y is not None
    assert torch.equal(rows.y, learner.scholar.solver.scores(rows.x))
    assert not torch.equal(rows.y, learner.network.scores(rows.x))


def test_a_generator_of_classes_is_asked_for_the_only_one_there_is() -> None:
    """However many targets a row has."""
    learner = at_step(GenerativeReplay(generator=GENERATORS["densities"]()), tiny_curves(targets=2), STEPS + 3)
    rows = learner.scholar.sample(8)
    assert rows.asked is not None
    assert rows.asked.tolist() == [0] * 8


def test_a_step_of_replay_weighs_new_and_stored_rows() -> None:
    """In the second task half and half: gradient descent on the loss of both."""
    stream = tiny_curves(targets=2)
    learner = at_step(Replay(), stream, STEPS + 3)
    batch = stream[1].train.take(torch.arange(8))
    past = learner.buffer.sample(8)
    with torch.no_grad():
        each = [(learner.network.scores(rows.x) - rows.y).square().sum(dim=1).mean() for rows in (batch, past)]
    losses = learner.step(Phase("train", 8, steps=8), batch)
    assert set(losses) == {"solver.nll"}
    assert float(losses["solver.nll"]) == pytest.approx(float(each[0] + each[1]) / 2 / (2 * 0.1**2), rel=1e-5)


def test_cumulative_training_meets_every_row_with_its_targets() -> None:
    stream = tiny_curves(targets=2)
    learner = at_step(Cumulative(), stream, 2 * STEPS + 1)
    rows = learner.rows(Phase("train", 8, steps=8), stream[2])
    batch = rows.take(torch.arange(len(rows)))
    found = sorted(map(tuple, torch.cat([batch.x, batch.y], dim=1).tolist()))
    given = [task.train.take(torch.arange(len(task.train))) for task in stream]
    assert found == sorted(tuple(row) for part in given for row in torch.cat([part.x, part.y], dim=1).tolist())


# ---------------------------------------------------------------------------------------------- posteriors


def test_a_step_goes_down_the_rows_of_the_task_times_the_mean_loss() -> None:
    """A line in two numbers a row, with two rows in the batch and nine in the task, all of it by hand."""
    solver = Module(factory=lambda shape: nn.Identity(), optimiser=SGD(learning_rate=0.01))
    learner = SeparatePosteriors(solver=solver, posterior=Dirac(), kl_weight=0.0)
    head = (0,)
    learner.build(
        StreamSpec("test", "domain", (2,), ("y",), (head,), ("all",), (head,), kind="regression", noise_std=0.5),
        Randomness(0),
        CPU,
    )
    nine = TensorRows(torch.zeros(9, 2), torch.zeros(9).long(), targets=torch.zeros(9, 1))
    learner.begin_task(Task(0, "all", head, nine))
    theta = learner.model.hypernet.of(0)["theta"]
    theta.data[0] = torch.tensor([0.5, -0.5, 0.1])  # two weights and a bias

    x, y = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0], [0.5]])
    losses = learner.step(Phase("train", 2, steps=1), Batch(x, y, torch.zeros(2).long(), torch.tensor([0.5, 0.5])))

    # Answers 0.6 and -0.9 are 0.4 and 1.4 below their targets; the variance is 0.25.
    assert set(losses) == {"solver.nll"}
    assert float(losses["solver.nll"]) == pytest.approx((0.16 + 1.96) / 2 / (2 * 0.25), rel=1e-6)
    a, b = 0.4 / 0.25 / 2, 1.4 / 0.25 / 2
    expected = [0.5 + 0.01 * 9 * a, -0.5 + 0.01 * 9 * 2 * b, 0.1 + 0.01 * 9 * (a + b)]
    assert theta[0].tolist() == pytest.approx(expected, rel=1e-5)


def sampled(learner: Any, x: Tensor) -> Tensor:
    """(V, B, T, outputs) answers of the tiny network, under each of the weights that the learner answers with."""
    layout = learner.model.layout
    noise = learner.posterior.noise(learner.test_samples, layout, generator(EVALUATION))
    with torch.no_grad():
        thetas = learner.model.hypernet(range(3))
        weights = [learner.posterior.sample(theta, layout, noise) for theta in thetas]
    return torch.stack([torch.stack([of_mlp(one, x) for one in each]) for each in weights], dim=2)


@pytest.mark.parametrize("case", ["posterior-replay", "separate-posteriors", "vcl"])
@several_targets
def test_means_and_deviations_are_those_of_the_sampled_functions(case: str, targets: int) -> None:
    run = trained(case, targets)
    x = inputs(run.loop.stream, 27)
    answer = run.learner.predict(x)
    functions = sampled(run.learner, x).double()
    mean, std = functions.mean(dim=0), functions.std(dim=0, correction=0)
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(answer.by_task.double(), mean, **close)
    torch.testing.assert_close(answer.std_by_task.double(), std, **close)
    for task in range(3):
        given = run.learner.predict(x, task)
        torch.testing.assert_close(given.scores.double(), mean[:, task], **close)
        torch.testing.assert_close(given.std.double(), std[:, task], **close)
        assert given.by_task is given.task_scores is None


@pytest.mark.parametrize("case", ["posterior-replay", "separate-posteriors"])
@several_targets
def test_the_task_whose_samples_agree_best_is_believed(case: str, targets: int) -> None:
    run = trained(case, targets)
    x = inputs(run.loop.stream, 27)
    answer = run.learner.predict(x)
    doubt = answer.std_by_task.mean(dim=2)
    rows, chosen = torch.arange(len(x)), doubt.argmin(dim=1)
    assert set(answer.task_scores) == {"agreement"}
    assert torch.equal(answer.task_scores["agreement"], -doubt)
    assert torch.equal(answer.scores, answer.by_task[rows, chosen])
    assert torch.equal(answer.std, answer.std_by_task[rows, chosen])
    assert len(chosen.unique()) > 1  # or it would not have been a choice


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (PosteriorReplay(criterion="confidence"), "criterion = 'confidence': goes by probabilities of classes"),
        (PosteriorReplay(criterion="entropy-gradient"), "criterion = 'entropy-gradient': goes by probabilities"),
        (VCL(criterion="agreement"), "criterion = 'agreement': one posterior with the same outputs for all tasks"),
        (SeparatePosteriors(test_samples=1), "test_samples = 1: in regression the task is found by how far weight"),
        (PosteriorReplay(test_samples=1, criterion="confidence"), "(?s)criterion = .*test_samples = 1"),
        (EWC(mode="bayesian", criterion="confidence"), "criterion = 'confidence': chooses between heads, and here"),
        (
            EWC(mode="bayesian", criterion="agreement", answers="posterior"),
            "criterion = 'agreement': chooses between heads, and here all tasks have the same outputs",
        ),
    ],
    ids=repr,
)
def test_ways_to_find_the_task_that_do_not_find_one_here_are_refused(part: Any, message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        make_loop(part, tiny_curves())


def test_agreement_may_be_asked_for_by_name_and_one_sample_of_one_model_will_do() -> None:
    stream = tiny_curves()
    runs = [train(PosteriorReplay(criterion=criterion), stream) for criterion in ("entropy", "agreement")]
    assert runs[0].result["matrices"] == runs[1].result["matrices"]
    assert train(VCL(test_samples=1), stream).result["status"] == "complete"


def test_one_posterior_for_all_tasks_infers_none() -> None:
    run = trained("vcl", 2)
    answer = run.learner.predict(inputs(run.loop.stream))
    assert answer.task_scores is None
    for task in range(3):
        assert torch.equal(answer.scores, answer.by_task[:, task])
        assert torch.equal(answer.std, answer.std_by_task[:, task])
    assert not [name for name in run.result["matrices"] if "inferred" in name or "found" in name]
    assert run.result["summary"]["mse_inferred"] is None


def test_samples_of_laplace_s_posterior_are_less_sure_than_the_point() -> None:
    point, samples = (trained(case, 2) for case in BAYESIAN)
    assert differing(point.learner.state(), samples.learner.state()) == []
    x = inputs(point.loop.stream)
    assert point.learner.predict(x).std is None
    answer = samples.learner.predict(x)
    assert bool((answer.std > 0).all())
    assert not torch.equal(answer.scores, point.learner.predict(x).scores)


def test_a_point_answers_with_the_model_of_the_last_task_and_infers_none() -> None:
    run = trained("posterior-replay with dirac", 2)
    x = inputs(run.loop.stream)
    answer = run.learner.predict(x)
    assert answer.std is answer.std_by_task is answer.task_scores is None
    assert torch.equal(answer.scores, answer.by_task[:, 2])
    assert torch.equal(answer.scores, run.learner.predict(x, 2).scores)
    assert not torch.equal(answer.scores, run.learner.predict(x, 0).scores)
    assert set(run.result["matrices"]) == {"task_agnostic", "task_given", "nll", "coverage"}
    assert run.result["summary"]["mse_inferred"] is None


@pytest.mark.parametrize("part", [PosteriorReplay(), PosteriorReplay(posterior=Dirac())], ids=["samples", "point"])
def test_many_rows_are_answered_in_lots(part: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train(part, tiny_curves(targets=2))
    x = inputs(run.loop.stream, 27)
    whole = run.learner.predict(x)
    monkeypatch.setattr(posteriors, "NETWORKS_AT_ONCE", 50)
    lots = run.learner.predict(x)
    for name in ("scores", "std", "by_task", "std_by_task"):
        a, b = getattr(whole, name), getattr(lots, name)
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b)


def test_before_the_first_task_the_answer_is_nothing() -> None:
    loop = make_loop("vcl", tiny_curves(targets=2))
    assert torch.equal(loop.learner.predict(torch.ones(3, 1)).scores, torch.zeros(3, 2))


@every_learner
def test_one_more_task_can_be_learnt_and_other_targets_cannot(case: str) -> None:
    run = reverie.run(tiny_curves(targets=2), learner_of(case), threads=1)
    x = np.linspace(5, 6, 30, dtype=np.float32)[:, None]
    with pytest.raises(reverie.checks.DataError, match="targets of width 1: the model answers with 2"):
        run.learn(x, x[:, 0])
    longer = run.learn(x, np.concatenate([x, -x], axis=1))
    assert longer.result["kind"] == "regression"
    assert [len(row) for row in longer.mse] == [1]
    assert longer.predict(x).shape == (30, 2)
    assert longer.accuracy == []
