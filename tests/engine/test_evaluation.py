"""Evaluations of a learner whose answers are known, with and without a frozen prefix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from reverie.device import CPU
from reverie.engine import Evaluator, evaluation
from reverie.learners import VCL, Naive, SeparatePosteriors
from reverie.streams.rows import TensorRows
from reverie.types import Prediction, TestSet
from tests.tiny import tiny_stream, train


class Scripted:
    """Answers class 0 without a task and the head's first class with one; its prefix doubles the input."""

    def __init__(self, spec: Any, frozen: bool) -> None:
        self.spec, self.frozen, self.encoded = spec, frozen, 0

    @property
    def frozen_prefix(self) -> Any:
        return self._Prefix(self) if self.frozen else None

    def predict(self, x: Tensor, task: int | None = None) -> Prediction:
        scores = torch.zeros(len(x), self.spec.outputs)
        scores[:, 0 if task is None else self.spec.heads[task][0]] = 1
        return Prediction(scores)

    class _Prefix:
        def __init__(self, learner: Scripted) -> None:
            self.learner = learner

        def latents(self, rows: Any) -> Any:
            self.learner.encoded += len(rows)
            return TensorRows(2 * rows.take(torch.arange(len(rows))).x, rows.labels)

        def predict(self, z: Tensor, task: int | None = None) -> Prediction:
            return self.learner.predict(z / 2, task)


def test_task_agnostic_and_task_given_accuracies() -> None:
    stream = tiny_stream("task")
    for frozen in (False, True):
        row = Evaluator(stream.tests, "task", CPU, "seen")(Scripted(stream.spec, frozen), 1)  # type: ignore[arg-type]
        assert row.task_agnostic == (0.5, 0.0, None)
        assert row.task_given == (0.5, 0.5, None)
        assert row.prescribed == row.task_given


def test_the_prefix_sees_each_test_row_once() -> None:
    stream = tiny_stream("class")
    rows = [len(test.rows) for test in stream.tests]
    learner: Any = Scripted(stream.spec, True)
    evaluate = Evaluator(stream.tests, "class", CPU, "seen")
    first = [evaluate(learner, task) for task in (0, 1, 2, 2)]
    assert learner.encoded == sum(rows)
    plain: Any = Scripted(stream.spec, False)
    assert [evaluate(plain, task) for task in (0, 1, 2, 2)] == first


class Measuring(Scripted):
    """It also measures the first number of a row, and how many rows are bright."""

    def measure(self, x: Tensor) -> dict[str, Tensor]:
        return {"first": x[:, 0], "bright": x[:, 0] > 0.5}


@pytest.mark.parametrize("chunk", [None, 5])
def test_what_a_learner_measures_has_matrices_of_its_own(chunk: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if chunk is not None:
        monkeypatch.setattr(evaluation, "CHUNK", chunk)
    stream = tiny_stream("class")
    learner: Any = Measuring(stream.spec, False)
    row = Evaluator(stream.tests, "class", CPU, "seen")(learner, 1)
    assert set(row.more) == {"first", "bright"}
    for name, expected in (("first", lambda x: x), ("bright", lambda x: (x > 0.5).float())):
        values = row.more[name]
        assert values[2] is None  # not taught yet
        for number in (0, 1):
            x = stream.tests[number].rows.take(torch.arange(len(stream.tests[number].rows))).x[:, 0]
            assert values[number] == pytest.approx(expected(x).mean().item(), rel=1e-5)
    plain: Any = Scripted(stream.spec, False)
    unmeasured = Evaluator(stream.tests, "class", CPU, "seen")(plain, 1)
    assert unmeasured.more == {}
    assert unmeasured.task_agnostic == row.task_agnostic


# ------------------------------------------------------------------------------- learners with a model a task


class Models:
    """A model for each of ``tasks`` tasks of two classes. A row x is told by its own numbers: x[0] is what the model of its task answers, within
    its own classes, and so do the models of all tasks; x[1:] are the scores of "doubt", and their negatives those of "trust"."""

    frozen_prefix = None

    def __init__(self, tasks: int, outputs: int) -> None:
        self.tasks, self.outputs, self.asked = tasks, outputs, 0

    def predict(self, x: Tensor, task: int | None = None) -> Prediction:
        self.asked += task is not None
        by_task = torch.full((len(x), self.tasks, self.outputs), float("-inf"))
        for model in range(self.tasks):
            first = 2 * model if self.outputs > 2 else 0
            by_task[:, model, first : first + 2] = torch.nn.functional.one_hot(x[:, 0].long(), 2).log()
        if task is not None:
            scores = torch.zeros(len(x), self.outputs)
            scores[:, 2 * task if self.outputs > 2 else 0] = 1
            return Prediction(scores)
        doubt = x[:, 1 : 1 + self.tasks].double()
        scores = by_task[torch.arange(len(x)), doubt.argmax(dim=1)]
        return Prediction(scores, by_task=by_task, task_scores={"doubt": doubt, "trust": -doubt})


def rows_told(rows: Sequence[Sequence[float]], labels: Sequence[int], since: int) -> TestSet:
    return TestSet(
        f"task {since}", (2 * since, 2 * since + 1), TensorRows(torch.tensor(rows), torch.tensor(labels)), since, since
    )


# Of each row the answer within a task, then the score of each of two tasks.
FIRST = rows_told([[0, 1, 0], [1, 1, 0], [1, 0, 1], [0, 3, 0]], [0, 1, 1, 1], since=0)
SECOND = rows_told([[0, 0, 1], [0, 2, 0], [1, 0, 2], [1, 0, 3], [1, 1, 0]], [2, 2, 3, 2, 3], since=1)


def evaluated(
    scenario: Any, models: int, outputs: int, tests: Sequence[TestSet], after: int, which: Any = "seen"
) -> Any:
    learner: Any = Models(models, outputs)
    return Evaluator(tests, scenario, CPU, which)(learner, after), learner


@pytest.mark.parametrize("scenario", ["class", "task"])
def test_accuracies_of_a_learner_that_infers_the_task(scenario: Any) -> None:
    row, learner = evaluated(scenario, 2, 4, (FIRST, SECOND), 1)
    # The models of the true tasks: rows 0, 1 and 2 of the first are right; 0, 1, 2 and 4 of the second.
    assert row.task_given == (3 / 4, 4 / 5)
    assert learner.asked == 0
    # By doubt the first task is found for rows 0, 1 and 3, of which 3 is wrong all the same; the second for 0, 2 and 3.
    assert row.more["task_found_by_doubt"] == (3 / 4, 3 / 5)
    assert row.more["inferred_by_doubt"] == (2 / 4, 2 / 5)
    assert row.task_agnostic == row.more["inferred_by_doubt"]
    # Trust finds the others: row 2 of the first, right; rows 1 and 4 of the second, both right.
    assert row.more["task_found_by_trust"] == (1 / 4, 2 / 5)
    assert row.more["inferred_by_trust"] == (1 / 4, 2 / 5)
    # All rows of a set together: doubt says 5 to 1 and 3 to 6.
    assert row.more["task_found_by_doubt_in_batches"] == (1, 1)
    assert row.more["inferred_by_doubt_in_batches"] == row.task_given
    assert row.more["task_found_by_trust_in_batches"] == (0, 0)
    assert row.more["inferred_by_trust_in_batches"] == (0, 0)
    assert len(row.more) == 8
    assert row.prescribed == (row.task_given if scenario == "task" else row.task_agnostic)


def test_a_wrong_model_may_give_the_right_class_where_classes_are_shared() -> None:
    """Domain-incremental: only there is the task given told from the models alone, and the accuracy is still that without the task."""
    second = rows_told([[0, 0, 1], [0, 2, 0], [1, 0, 2], [1, 0, 3], [1, 1, 0]], [0, 0, 1, 0, 1], since=1)
    row, learner = evaluated("domain", 2, 2, (FIRST, second), 1)
    assert learner.asked == 0
    assert row.task_given == (3 / 4, 4 / 5)
    assert row.more["inferred_by_doubt"] == row.more["inferred_by_trust"] == (3 / 4, 4 / 5)
    assert row.more["task_found_by_doubt"] == (3 / 4, 3 / 5)
    assert row.prescribed == row.task_agnostic == row.more["inferred_by_doubt"]


def test_tasks_that_are_not_taught_have_no_row_or_are_not_found() -> None:
    row, learner = evaluated("class", 1, 4, (FIRST, SECOND), 0)
    assert learner.asked == 0
    for values in (row.task_agnostic, row.task_given, *row.more.values()):
        assert values[1] is None
    assert row.more["task_found_by_doubt"] == (1, None)
    row, learner = evaluated("class", 1, 4, (FIRST, SECOND), 0, which="all")
    assert learner.asked == 1  # of a task without a model the learner is asked as any other
    assert row.task_given == (3 / 4, 3 / 5)
    assert row.more["task_found_by_doubt"] == (1, 0)
    assert row.more["inferred_by_doubt"] == (3 / 4, 0)
    row, _ = evaluated("domain", 1, 2, (FIRST, SECOND), 0, which="all")
    assert row.task_given == (3 / 4, None)


def many(numbers: Sequence[int]) -> TestSet:
    """Rows of the first task, all answered rightly by its model; of each hundred so many speak for it with 2, the others against it with 1."""
    rows = [[0, 2, 0] if place < number else [0, 0, 1] for number in numbers for place in range(100)]
    return rows_told(rows, [0] * len(rows), since=0)


@pytest.mark.parametrize("chunk", [None, 200])
def test_hundred_rows_at_a_time_decide_together(chunk: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """33 of a hundred are outvoted, 34 are not, wherever the rows are cut for the network."""
    if chunk is not None:
        monkeypatch.setattr(evaluation, "CHUNK", chunk)
    assert evaluation.CHUNK % evaluation.TOGETHER == 0
    row, _ = evaluated("class", 2, 4, (many([33, 34, 90, 0, 100]),), 0)
    assert row.more["task_found_by_doubt"] == (257 / 500,)
    assert row.more["task_found_by_doubt_in_batches"] == (3 / 5,)
    assert row.more["inferred_by_doubt_in_batches"] == (3 / 5,)
    assert row.more["task_found_by_trust_in_batches"] == (2 / 5,)


def test_the_rest_of_the_rows_decides_by_itself() -> None:
    full = many([100, 0])
    rows = full.rows.take(torch.arange(150))
    assert rows.y is not None
    row, _ = evaluated("class", 2, 4, (TestSet("short", (), TensorRows(rows.x, rows.y), 0, 0),), 0)
    assert row.more["task_found_by_doubt_in_batches"] == (100 / 150,)


def test_matrices_of_a_run_that_infers_the_task() -> None:
    names = {
        f"{what}_by_{criterion}{how}"
        for what in ("inferred", "task_found")
        for criterion in ("entropy", "confidence", "agreement")
        for how in ("", "_in_batches")
    }
    for scenario in ("class", "task", "domain"):
        for learner in (SeparatePosteriors(), VCL()):
            result = train(learner, tiny_stream(scenario)).result
            if scenario == "domain" and isinstance(learner, VCL):  # one model, however it is called
                assert set(result["matrices"]) == {"task_agnostic", "task_given"}
                continue
            assert set(result["matrices"]) == {"task_agnostic", "task_given", *names}
            for matrix in result["matrices"].values():
                assert [[value is not None for value in row] for row in matrix] == [
                    [True, False, False],
                    [True, True, False],
                    [True, True, True],
                ]
            assert result["matrices"]["inferred_by_entropy"] == result["matrices"]["task_agnostic"]
            summary = result["summary"]
            given = result["matrices"]["task_given"]
            assert summary["tgiven_during"] == pytest.approx(sum(given[t][t] for t in range(3)) / 3)
            assert summary["tgiven_final"] == pytest.approx(sum(given[2]) / 3)
            found = result["matrices"]["task_found_by_agreement"][2]
            assert summary["task_inference_accuracy"]["agreement"] == pytest.approx(sum(found) / 3)
        plain = train(Naive(), tiny_stream(scenario)).result
        assert set(plain["matrices"]) == {"task_agnostic"} | ({"task_given"} if scenario != "domain" else set())
        assert plain["summary"]["tinfer_final"] is None


# ------------------------------------------------------------------------------------------------ regression


class Curves:
    """Answers x[0] with the deviation x[1]. With ``models`` there are two models: x[0] and x[2], of deviations x[1] and x[3], and the
    first is believed where its deviation is the smaller; without ``deviations`` they are points, and the last one is believed."""

    frozen_prefix = None

    def __init__(self, models: bool, deviations: bool = True) -> None:
        self.models, self.deviations = models, deviations

    def predict(self, x: Tensor, task: int | None = None) -> Prediction:
        assert task is None  # it is told from the models alone
        if not self.models:
            return Prediction(x[:, :1], x[:, 1:2] if self.deviations else None)
        means, stds = x[:, 0::2, None], x[:, 1::2, None]
        if not self.deviations:
            return Prediction(means[:, 1], by_task=means)
        rows, chosen = torch.arange(len(x)), stds[:, :, 0].argmin(dim=1)
        return Prediction(means[rows, chosen], stds[rows, chosen], means, stds, {"agreement": -stds[:, :, 0]})


def curve(rows: Sequence[Sequence[float]], targets: Sequence[float], since: int) -> TestSet:
    y = torch.tensor(targets, dtype=torch.float32)[:, None]
    return TestSet(
        f"task {since}", (0,), TensorRows(torch.tensor(rows), torch.zeros(len(y)).long(), targets=y), since, since
    )


# Of each row what the first model says and how sure it is, then the second.
FIRST_CURVE = curve([[1, 0.5, 9, 2], [2, 1, 3, 0.5]], [2, 2], since=0)
SECOND_CURVE = curve([[0, 1, 1, 2], [4, 2, 4, 1], [5, 3, 3, 2]], [0, 4, 4], since=1)


def regressed(learner: Any, after: int, which: Any = "seen", noise_std: float = 0.5) -> Any:
    return Evaluator((FIRST_CURVE, SECOND_CURVE), "domain", CPU, which, noise_std)(learner, after)


def test_errors_of_one_model_for_all_tasks() -> None:
    row = regressed(Curves(models=False, deviations=False), 0)
    assert row.task_agnostic == row.prescribed == ((1 + 0) / 2, None)
    assert row.task_given is None
    assert set(row.more) == {"nll", "coverage"}
    constant = 0.5 * math.log(2 * math.pi * 0.25)
    assert row.more["nll"] == (pytest.approx(constant + (1 / 0.5 + 0) / 2), None)
    assert row.more["coverage"] == (0.5, None)  # 1 is further away than 0.98
    row = regressed(Curves(models=False, deviations=False), 0, "all")
    assert row.prescribed == ((1 + 0) / 2, pytest.approx((0 + 0 + 1) / 3))


def test_the_deviation_of_a_prediction_counts_as_its_error_and_not_against_its_likelihood() -> None:
    row = regressed(Curves(models=False), 1)
    assert row.prescribed == ((1 + 0.25 + 0 + 1) / 2, pytest.approx((0 + 1 + 0 + 4 + 1 + 9) / 3))
    variances = [0.25 + 0.25, 0.25 + 1]
    nll = [0.5 * (error / v + math.log(2 * math.pi * v)) for error, v in zip((1, 0), variances, strict=True)]
    assert row.more["nll"][0] == pytest.approx(sum(nll) / 2)
    assert row.more["coverage"] == (1.0, 1.0)


def test_errors_of_a_learner_that_infers_the_task() -> None:
    row = regressed(Curves(models=True), 1)
    first = (
        (1 + 0.25, 0 + 1),
        (1 + 0.25, 1 + 0.25),
    )  # squared errors with variances: of its own model, of the believed one
    second = (1 + 4, 0 + 1, 1 + 4), (0 + 1, 0 + 1, 1 + 4)
    assert row.task_given == pytest.approx([sum(own) / len(own) for own, _ in (first, second)])
    assert row.task_agnostic == pytest.approx([sum(believed) / len(believed) for _, believed in (first, second)])
    assert row.prescribed == row.task_agnostic  # domain-incremental: the task is not told
    assert row.more["inferred_by_agreement"] == row.task_agnostic
    assert row.more["task_found_by_agreement"] == (1 / 2, pytest.approx(2 / 3))
    # All rows of a set together: deviations 1.5 to 2.5, and 6 to 5.
    assert row.more["task_found_by_agreement_in_batches"] == (1, 1)
    assert row.more["inferred_by_agreement_in_batches"] == row.task_given


def test_a_task_without_a_model_has_no_error_with_the_task_given() -> None:
    third = TestSet("task 2", (0,), SECOND_CURVE.rows, since=2, head=2)
    learner: Any = Curves(models=True)
    row = Evaluator((FIRST_CURVE, third), "domain", CPU, "all", 0.5)(learner, 1)
    assert row.task_given == (pytest.approx(1.125), None)
    assert row.task_agnostic[1] is not None
    assert row.more["task_found_by_agreement"][1] == 0


def test_points_infer_no_task() -> None:
    row = regressed(Curves(models=True, deviations=False), 1)
    assert row.task_given == ((1 + 0) / 2, pytest.approx((1 + 0 + 1) / 3))
    assert row.task_agnostic == ((49 + 1) / 2, pytest.approx((1 + 0 + 1) / 3))
    assert set(row.more) == {"nll", "coverage"}


def test_errors_do_not_depend_on_where_the_rows_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = regressed(Curves(models=True), 1)
    monkeypatch.setattr(evaluation, "CHUNK", 2)
    cut = regressed(Curves(models=True), 1)
    assert cut.prescribed == whole.prescribed
    assert cut.more["nll"] == pytest.approx(whole.more["nll"])


def test_several_targets_are_a_mean_in_the_error_and_a_sum_in_the_likelihood() -> None:
    class Zero:
        frozen_prefix = None

        def predict(self, x: Tensor, task: int | None = None) -> Prediction:
            return Prediction(torch.zeros(len(x), 2))

    y = torch.tensor([[1.0, 3.0]])
    test = TestSet("one", (0, 1), TensorRows(torch.zeros(1, 1), torch.zeros(1).long(), targets=y), 0, 0)
    learner: Any = Zero()
    row = Evaluator((test,), "domain", CPU, "seen", 1.0)(learner, 0)
    assert row.prescribed == (5.0,)
    assert row.more["nll"] == (pytest.approx(5.0 + math.log(2 * math.pi)),)
    assert row.more["coverage"] == (0.5,)
