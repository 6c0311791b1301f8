"""The record of a run of regression beside one of classification: fields, lines, and what comes back from its state."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from reverie.device import CPU
from reverie.engine import Evaluation, Record, Settings
from reverie.learners import VCL, Naive, SeparatePosteriors
from reverie.storage import read_tree, write_tree
from tests.tiny import Trained, tiny_curves, tiny_stream, train

FACTS = {"learner": "naive", "generator": None, "seed": 0, "options": {}}
ACCURACIES = ("average_accuracy", "forgetting", "backward_transfer", "forward_transfer", "learning_accuracy")


def ran(part: Any, folder: Path | None = None, **settings: Any) -> Trained:
    return train(part, tiny_curves(steps=6), folder=folder, settings=Settings(**settings))


def test_a_result_of_regression_has_errors_in_place_of_accuracies() -> None:
    result = ran(Naive(), evaluate="all").result
    assert result["kind"] == "regression"
    assert result["accuracy"] == []
    assert "initial_accuracy" not in result
    assert [len(row) for row in result["mse"]] == [3, 3, 3]
    assert result["mse"] == result["matrices"]["task_agnostic"]
    assert len(result["initial_mse"]) == 3
    assert set(result["matrices"]) == {"task_agnostic", "nll", "coverage"}
    assert result["classes"] == ["y"]
    summary = result["summary"]
    assert {summary[name] for name in ACCURACIES} == {None}
    assert summary["mse_final"] == pytest.approx(sum(result["mse"][-1]) / 3)
    assert summary["mse_during"] == pytest.approx(sum(result["mse"][t][t] for t in range(3)) / 3)
    assert summary["nll_final"] == pytest.approx(sum(result["matrices"]["nll"][-1]) / 3)
    assert summary["coverage_final"] == pytest.approx(sum(result["matrices"]["coverage"][-1]) / 3)
    assert summary["mse_inferred"] is summary["task_inference_accuracy"] is None


def test_a_result_of_classification_is_what_it_was() -> None:
    result = train(Naive(), tiny_stream("domain")).result
    assert result["kind"] == "classification"
    assert "mse" not in result
    assert "initial_mse" not in result
    assert result["accuracy"] == result["matrices"]["task_agnostic"]
    assert not [name for name in result["summary"] if "mse" in name or name in ("nll_final", "coverage_final")]


def test_a_model_a_task_gives_errors_with_the_task_given_and_inferred() -> None:
    result = ran(SeparatePosteriors()).result
    inferred = {f"{what}_by_agreement{how}" for what in ("inferred", "task_found") for how in ("", "_in_batches")}
    assert set(result["matrices"]) == {"task_agnostic", "task_given", "nll", "coverage"} | inferred
    assert result["initial_mse"] is None
    summary, final = result["summary"], {name: rows[-1] for name, rows in result["matrices"].items()}
    assert result["mse"] == result["matrices"]["task_agnostic"]
    assert summary["mse_final"] == pytest.approx(sum(final["task_given"]) / 3)
    assert summary["mse_inferred"]["agreement"] == pytest.approx(sum(final["inferred_by_agreement"]) / 3)
    found = summary["task_inference_accuracy"]["agreement"]
    assert found == pytest.approx(sum(final["task_found_by_agreement"]) / 3)
    assert summary["tgiven_final"] is summary["tinfer_final"] is None  # which are accuracies


def test_lines_carry_errors(tmp_path: Path) -> None:
    run = ran(VCL(), tmp_path, evaluate="all", evaluate_every=4)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == json.loads(json.dumps(run.lines))
    looked = [line for line in lines if line["kind"] in ("evaluation", "curve")]
    assert [line["task"] for line in looked] == [None, 0, 0, 1, 1, 2, 2]
    for line in looked:
        assert "accuracy" not in line
        assert line["mse"] == line["task_agnostic"]
        assert {"nll", "coverage"} <= set(line["more"])
    assert [line["mse"] for line in looked if line["kind"] == "evaluation"][1:] == run.result["mse"]
    losses = {name for line in lines if line["kind"] == "losses" for name in line["losses"]}
    assert losses == {"solver.nll", "solver.kl"}


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_evaluations_come_back_from_the_state(kind: str, tmp_path: Path) -> None:
    record = Record(None, {**FACTS, "kind": kind})
    row = Evaluation((0.5, None), (0.25, None), (0.125, None), {"nll": (1.5, None), "coverage": (0.75, None)})
    record.initial, record.rows = replace(row, task_given=None, more={}), [row]
    write_tree(tmp_path / "state", record.state())
    again = Record(None, {**FACTS, "kind": kind})
    again.load(read_tree(tmp_path / "state"), torch.device("cpu"))
    assert again.rows == [row]
    assert again.initial == record.initial
    spec = replace(tiny_stream("domain").spec, kind=kind)
    results = [found.result("complete", spec, ()) for found in (record, again)]
    for result in results:
        del result["cost"]
    assert results[0] == results[1]
    assert results[0]["mse" if kind == "regression" else "accuracy"] == [[0.125, None]]


def test_the_measure_that_observers_hear_of() -> None:
    class Listener:
        def __init__(self) -> None:
            self.heard: list[tuple[int, str, tuple[float | None, ...]]] = []

        def phase_started(self, *what: Any) -> None: ...

        def progress(self, *what: Any) -> None: ...

        def evaluated(self, task: int, measure: str, values: tuple[float | None, ...]) -> None:
            self.heard.append((task, measure, values))

    listener: Any = Listener()
    run = train(Naive(), tiny_curves(steps=3), observer=listener)
    assert listener.heard == [(task, "mse", tuple(row)) for task, row in enumerate(run.result["mse"])]
    assert run.loop.device == CPU
