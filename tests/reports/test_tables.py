"""Grouping over seeds, estimates and labels, on runs made by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from reverie.reports import curves, tables
from reverie.reports.records import read_run
from reverie.reports.tables import COLUMNS, final_results, group_runs, option_differences, summary_rows
from reverie.reports.words import Estimate, percent_estimate
from tests.reports.conftest import matrix

Write = Callable[..., Path]


def test_standard_error_is_the_unbiased_one() -> None:
    assert Estimate.of([1.0, 2.0, 3.0, 4.0]) == Estimate(2.5, pytest.approx((5 / 3) ** 0.5 / 2), 4)
    assert Estimate.of([1.0]) == Estimate(1.0, None, 1)
    assert Estimate.of([]) == Estimate(None, None, 0)
    assert Estimate.of([1.0, None]).mean is None
    assert percent_estimate(Estimate(-0.0001, None, 1)) == "0.0 %"


def test_summary_over_seeds(write_replay_run: Write, write_run: Write) -> None:
    records = [read_run(write_replay_run(f"gr-{seed}", seed)) for seed in (1, 0)] + [read_run(write_run("naive"))]
    replay, naive = summary_rows(records)
    assert (replay.label, replay.seeds, replay.complete) == ("generative-replay", (0, 1), 2)
    assert replay.average_accuracy == Estimate(pytest.approx(0.925), pytest.approx(0.025), 2)  # of 0.90 and 0.95
    assert replay.forgetting.mean == pytest.approx(0.15)
    assert replay.learning_accuracy.mean == 1.0
    assert (replay.persistent_bytes.mean, replay.stores, replay.steps.mean) == (2048, "none", 200)
    assert (replay.seconds.mean, replay.seconds.error) == (10.5, 0.5)
    assert naive.average_accuracy == Estimate(pytest.approx(0.6), None, 1)
    texts = {column.heading: column.text(replay) for column in COLUMNS}
    assert texts["Average accuracy"] == "92.5 ± 2.5 %"
    assert (texts["Keeps"], texts["Of the past"], texts["Time"]) == ("2.0 KiB", "no data", "10.5 s ± 0.5 s")
    assert final_results(records[-1]) == [0.2, 1.0]


def test_only_complete_runs_count(write_run: Write) -> None:
    records = [read_run(write_run("a")), read_run(write_run("b", seed=1, status="interrupted", accuracy=[[1.0, None]]))]
    (row,) = summary_rows(records)
    assert (row.complete, len(row.seeds), row.average_accuracy.n) == (1, 2, 1)
    assert COLUMNS[1].text(row) == "1 of 2"


def test_nothing_complete_leaves_gaps(write_run: Write) -> None:
    record = read_run(write_run("a", status="failed", accuracy=[], memory={}))
    (row,) = summary_rows([record])
    assert row.average_accuracy == Estimate(None, None, 0)
    assert [column.text(row) for column in COLUMNS][2:] == ["–"] * 7
    assert final_results(record) == []


def test_the_same_seed_twice_counts_once(write_run: Write) -> None:
    records = [read_run(write_run(name, status=status)) for name, status in (("a", "interrupted"), ("b", "complete"))]
    (group,) = group_runs(records)
    assert [record.folder.name for record in group.records] == ["b"]
    assert [record.folder.name for record in group.repeated] == ["a"]


def test_labels_tell_groups_of_one_name_apart(write_run: Write) -> None:
    vae = {"generator": {"name": "vae", "latent_dim": 32}}
    other = {"generator": {"name": "wgan-gp", "critic_steps": 5}}
    options = {"a": {}, "b": {"steps": 50}, "c": vae, "d": other}
    records = [read_run(write_run(name, "generative-replay", learner_options=o)) for name, o in options.items()]
    assert [group.label for group in group_runs(records)] == [
        "generative-replay (steps=100)",
        "generative-replay (steps=50)",
        "generative-replay (steps=100, generator=vae)",
        "generative-replay (steps=100, generator=wgan-gp)",
    ]
    assert [group.label for group in group_runs(records[:1])] == ["generative-replay"]
    found = {row.option: row.values for row in option_differences(records)}
    assert found["learner.steps"] == ("100", "50", "100", "100")
    assert found["learner.generator.latent_dim"] == ("–", "–", "32", "–")
    others = {row.option: row.others for row in option_differences(records)}
    assert others["learner.steps"] == {"50"}
    assert others["learner.generator.latent_dim"] == frozenset()
    assert others["learner.generator.name"] == {"vae", "wgan-gp"}
    assert "scenario" not in found
    assert "seed" not in found


def test_scenarios_are_not_mixed(write_run: Write) -> None:
    records = [read_run(write_run(name, scenario=name)) for name in ("class", "domain")]
    groups = group_runs(records)
    assert list(tables.by_setting(groups)) == [("split-toy", "class", False), ("split-toy", "domain", False)]
    assert [group.label for group in groups] == ["naive", "naive"]


def test_task_names_only_where_runs_agree(write_run: Write) -> None:
    records = [
        read_run(write_run(str(seed), seed=seed, tasks=["cat", other])) for seed, other in enumerate(("dog", "owl"))
    ]
    assert tables.task_names(group_runs(records)) == ["cat", ""]


def test_curves(write_run: Write) -> None:
    record = read_run(write_run("a", accuracy=matrix([0.2, 0.4, 0.9])))
    assert curves.seen_average(record) == {1: 1.0, 2: pytest.approx(0.6), 3: pytest.approx(0.5)}
    assert curves.task_result(record, 1) == {2: 1.0, 3: 0.4}
    assert curves.result_over_steps(record) == dict.fromkeys((50, 100, 150, 200, 250, 300), 0.5)
    assert curves.loss_over_steps(record, "solver.cross-entropy")[150] == 1 / 50  # step 50 of the second task
    assert curves.task_starts(record) == (100, 200)


def test_later_tasks_do_not_count_as_seen(write_run: Write) -> None:
    record = read_run(write_run("a", accuracy=[[1.0, 0.1], [0.5, 0.9]]))  # evaluated on all tasks
    assert curves.seen_average(record) == {1: 1.0, 2: pytest.approx(0.7)}
    assert curves.task_result(record, 1) == {2: 0.9}


def test_joint_training_is_one_value_after_every_task(write_run: Write) -> None:
    record = read_run(write_run("joint", "joint", accuracy=[[0.9, 0.7]]))
    assert record.merged
    assert curves.seen_average(record) == {1: pytest.approx(0.8), 2: pytest.approx(0.8)}
    (row,) = summary_rows([record])
    assert row.forgetting.mean is None
    assert [column.text(row) for column in COLUMNS if column.heading == "Of the past"] == ["all at once"]
