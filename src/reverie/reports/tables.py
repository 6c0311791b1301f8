"""Runs grouped over seeds, and the rows of every table: plain values that the command line and the page both print."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from reverie.reports import words
from reverie.reports.records import FindingLine, RunRecord
from reverie.reports.words import MISSING, Estimate, Quantity

# Not part of what was learnt: the seed, and where and how often things are saved.
NOT_COMPARED = ("schema", "seed", "data_dir", "checkpoint_seconds", "checkpoint_steps")


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone. ``label``: the learner, and the options that tell it from others of its name."""

    label: str
    records: tuple[RunRecord, ...]  # one a seed, by seed
    repeated: tuple[RunRecord, ...]  # further runs with a seed already there; not counted
    options: Mapping[str, str]

    @property
    def first(self) -> RunRecord:
        return self.records[0]

    @property
    def setting(self) -> tuple[str, str]:
        """Stream and scenario; only groups of one setting are compared."""
        return self.first.result.stream, self.first.result.scenario

    @property
    def complete(self) -> tuple[RunRecord, ...]:
        return tuple(record for record in self.records if record.complete)

    @property
    def shown(self) -> tuple[RunRecord, ...]:
        """What figures show: the complete runs, or as far as the others came if there is none."""
        return self.complete or self.records

    @property
    def merged(self) -> bool:
        return self.shown[0].merged

    @property
    def tasks(self) -> int:
        return len(self.first.result.tasks)

    @property
    def regression(self) -> bool:
        return self.first.result.kind == "regression"

    @property
    def quantity(self) -> Quantity:
        """What the runs' matrices hold."""
        return words.SQUARED_ERROR if self.regression else words.ACCURACY


@dataclass(frozen=True)
class SummaryRow:
    """One group: mean and standard error over the seeds of its complete runs. Accuracies or errors, by the kind of stream, have no mean."""

    stream: str
    scenario: str
    learner: str
    label: str
    seeds: tuple[int, ...]
    complete: int
    average_accuracy: Estimate
    forgetting: Estimate
    learning_accuracy: Estimate
    mse: Estimate
    mse_given: Estimate
    mse_during: Estimate
    nll_final: Estimate
    coverage_final: Estimate
    persistent_bytes: Estimate
    stores: str | None  # none, latents or raw
    merged: bool  # learnt all tasks at once (joint training)
    steps: Estimate
    seconds: Estimate


@dataclass(frozen=True)
class Column:
    """A column of the summary table: its heading, what it means, and a row's text in it."""

    heading: str
    meaning: str
    text: Callable[[SummaryRow], str]
    numeric: bool = True
    bar: Callable[[SummaryRow], float | None] = lambda row: None  # share of the cell that a bar behind the text fills


RUNS: tuple[Column, ...] = (
    Column("Learner", "the method, with the options that tell it apart", lambda row: row.label, numeric=False),
    Column("Seeds", "complete runs", lambda row: _seeds(row)),
)
COSTS: tuple[Column, ...] = (
    Column(
        "Keeps", "size of what is kept between tasks", lambda row: words.with_error(row.persistent_bytes, words.size)
    ),
    Column("Of the past", "what of earlier data is kept", lambda row: _stores(row), numeric=False),
    Column("Steps", "updates in all", lambda row: words.with_error(row.steps, words.whole)),
    Column("Time", "wall time of a run", lambda row: words.with_error(row.seconds, words.duration)),
)
COLUMNS: tuple[Column, ...] = (
    *RUNS,
    Column(
        "Average accuracy",
        "mean over tasks after the last one",
        lambda row: words.percent_estimate(row.average_accuracy),
        bar=lambda row: row.average_accuracy.mean,
    ),
    Column(
        "Forgetting",
        "mean drop of a task from its best to its last accuracy",
        lambda row: words.percent_estimate(row.forgetting),
    ),
    Column(
        "Learning accuracy",
        "mean accuracy on a task just after learning it",
        lambda row: words.percent_estimate(row.learning_accuracy),
    ),
    *COSTS,
)
REGRESSION_COLUMNS: tuple[Column, ...] = (
    *RUNS,
    Column(
        "Mean squared error",
        "mean over tasks after the last one, in squared units of the target; less is better",
        lambda row: words.number_estimate(row.mse),
    ),
    Column(
        "Task given",
        "the same with the task given, where a learner has a model for each",
        lambda row: words.number_estimate(row.mse_given),
    ),
    Column(
        "Just after learning",
        "mean squared error on a task just after learning it, the task given as well",
        lambda row: words.number_estimate(row.mse_during),
    ),
    Column(
        "Negative log-likelihood",
        "of the targets, in nats a row, after the last task; less is better",
        lambda row: words.number_estimate(row.nll_final),
    ),
    Column(
        "Coverage",
        "share of the targets inside the central interval of 95 % that was predicted, after the last task",
        lambda row: words.percent_estimate(row.coverage_final),
    ),
    *COSTS,
)


@dataclass(frozen=True)
class OptionRow:
    """An option and its value in each group, as text; an option that a group does not have is a dash."""

    option: str
    values: tuple[str, ...]

    @property
    def differs(self) -> bool:
        return len(set(self.values)) > 1

    @property
    def others(self) -> frozenset[str]:
        """The values other than that of most groups that have the option; every value where all differ."""
        present = Counter(value for value in self.values if value != MISSING).most_common()
        alone = len(present) > 1 and present[0][1] == 1
        return frozenset(value for value, _ in (present if alone else present[1:]))


def group_runs(records: Sequence[RunRecord]) -> list[Group]:
    """Runs that differ in nothing but their seed, together; in the order in which they come."""
    found: dict[tuple[Any, ...], list[RunRecord]] = {}
    for record in records:
        result = record.result
        options = tuple(_options(record).items())
        key = (result.stream, result.scenario, result.learner, options, len(result.tasks), result.kind)
        found.setdefault(key, []).append(record)
    labels = _labels(list(found))
    return [_group(label, members) for label, members in zip(labels, found.values(), strict=True)]


def by_setting(groups: Sequence[Group]) -> dict[tuple[str, str, bool], list[Group]]:
    """Groups by stream, scenario, and whether it is regression."""
    found: dict[tuple[str, str, bool], list[Group]] = {}
    for group in groups:
        found.setdefault((*group.setting, group.regression), []).append(group)
    return found


def summary_rows(records: Sequence[RunRecord]) -> list[SummaryRow]:
    """One row a group; print them with ``COLUMNS``, those of regression with ``REGRESSION_COLUMNS``."""
    return [summary_row(group) for group in group_runs(records)]


def summary_row(group: Group) -> SummaryRow:
    result, complete = group.first.result, group.complete

    def over_seeds(value: Callable[[RunRecord], float | None]) -> Estimate:
        return Estimate.of([value(record) for record in complete])

    def measure(name: str) -> Estimate:
        return over_seeds(lambda record: record.result.number(name))

    stores = sorted({record.result.memory.stores for record in group.shown if record.result.memory.stores})
    return SummaryRow(
        stream=result.stream,
        scenario=result.scenario,
        learner=result.learner,
        label=group.label,
        seeds=tuple(record.result.seed for record in group.records),
        complete=len(complete),
        average_accuracy=measure("average_accuracy"),
        forgetting=measure("forgetting"),
        learning_accuracy=measure("learning_accuracy"),
        mse=over_seeds(final_error),
        mse_given=measure("mse_final"),
        mse_during=measure("mse_during"),
        nll_final=measure("nll_final"),
        coverage_final=measure("coverage_final"),
        persistent_bytes=over_seeds(lambda record: record.result.memory.persistent_bytes),
        stores="/".join(stores) or None,
        merged=group.merged,
        steps=over_seeds(lambda record: record.result.cost.steps),
        seconds=over_seeds(lambda record: record.result.cost.seconds),
    )


def option_rows(groups: Sequence[Group]) -> list[OptionRow]:
    """Every option of the groups, in the order of their config files."""
    names = list(dict.fromkeys(name for group in groups for name in group.options))
    return [OptionRow(name, tuple(group.options.get(name, MISSING) for group in groups)) for name in names]


def option_differences(records: Sequence[RunRecord]) -> list[OptionRow]:
    """The options in which the groups of ``group_runs`` differ; one value a group, in that order."""
    return [row for row in option_rows(group_runs(records)) if row.differs]


def final_results(record: RunRecord) -> list[float | None]:
    """Accuracy, or mean squared error, on each task after the last one that was learnt; empty before the first evaluation."""
    return list(record.result.matrix[-1]) if record.result.matrix else []


def final_error(record: RunRecord) -> float | None:
    """Of regression, ``final_results`` as a mean; None where one is missing."""
    found = final_results(record) if record.result.kind == "regression" else []
    return Estimate.of(found).mean


def final_estimates(group: Group) -> list[Estimate]:
    """``final_results`` over the seeds of complete runs, by a task's place in the stream."""
    return [Estimate.of(column) for column in zip(*map(final_results, group.complete), strict=True)]


def task_names(groups: Sequence[Group]) -> list[str]:
    """Names of the tasks by their place where all runs agree on them (a class order drawn by seed changes them), else empty."""
    names = [record.result.tasks for group in groups for record in group.records]
    longest = max(names, key=len)
    return [
        longest[place] if {tasks[place] for tasks in names if place < len(tasks)} == {longest[place]} else ""
        for place in range(len(longest))
    ]


def finding_estimate(group: Group, task: int, probe: str, name: str) -> Estimate | None:
    """A probe's number after a task over seeds; None where no run has it."""
    values = [finding.number(name) for record in group.shown for finding in _findings(record, task, probe)]
    known = [value for value in values if value is not None]
    return Estimate.of(known) if known else None


def histogram(group: Group, task: int, probe: str) -> list[Estimate]:
    """A probe's histogram after a task (from 0), a number for each class by its place in the stream; empty where it has none."""
    findings = [finding for record in group.shown for finding in _findings(record, task, probe)]
    found = [numbers for finding in findings if (numbers := finding.numbers_of("histogram"))]
    return [Estimate.of(column) for column in zip(*found, strict=False)]


def _findings(record: RunRecord, task: int, probe: str) -> list[FindingLine]:
    return [finding for finding in record.result.findings if (finding.task, finding.probe) == (task, probe)]


def _group(label: str, members: Sequence[RunRecord]) -> Group:
    chosen: dict[int, RunRecord] = {}
    for record in sorted(members, key=lambda record: not record.complete):  # a complete run before an unfinished one
        chosen.setdefault(record.result.seed, record)
    repeated = tuple(record for record in members if chosen[record.result.seed] is not record)
    records = tuple(chosen[seed] for seed in sorted(chosen))
    return Group(label, records, repeated, _options(records[0]))


def _options(record: RunRecord) -> dict[str, str]:
    return dict(_flat({key: value for key, value in record.result.options.items() if key not in NOT_COMPARED}, ""))


def _flat(options: Mapping[str, Any], path: str) -> list[tuple[str, str]]:
    """``{"generator": {"latent_dim": 32}}`` as ``[("generator.latent_dim", "32")]``."""
    found: list[tuple[str, str]] = []
    for key, value in options.items():
        name = f"{path}{key}"
        found += _flat(value, f"{name}.") if isinstance(value, Mapping) else [(name, _plain(value))]
    return found


def _plain(value: Any) -> str:
    """A value as the config file writes it, on one line."""
    if isinstance(value, str):
        return value
    return str(yaml.safe_dump(value, default_flow_style=True, width=10**6)).removesuffix("\n...\n").strip()


def _labels(keys: Sequence[tuple[Any, ...]]) -> list[str]:
    """A label a group: the learner's name, and the options by which it differs from groups of that name in its setting."""
    labels = []
    for key in keys:
        rivals = [dict(other[3]) for other in keys if other[:3] == key[:3]]
        own = dict(key[3])
        names = list(dict.fromkeys(name for options in rivals for name in options))
        differing = [name for name in names if len({options.get(name) for options in rivals}) > 1]
        # A part that was exchanged is named; that the two have different options goes without saying.
        exchanged = tuple(name.removesuffix("name") for name in differing if name.endswith(".name"))
        telling = [n for n in differing if n in own and (n.endswith(".name") or not n.startswith(exchanged or "\0"))]
        described = ", ".join(f"{_short(name)}={own[name]}" for name in telling)
        labels.append(f"{key[2]} ({described})" if described else key[2])
    return labels


def _short(option: str) -> str:
    return option.removeprefix("learner.").removesuffix(".name")


def _seeds(row: SummaryRow) -> str:
    return str(row.complete) if row.complete == len(row.seeds) else f"{row.complete} of {len(row.seeds)}"


def _stores(row: SummaryRow) -> str:
    if row.merged:
        return "all at once"
    return MISSING if row.stores is None else "/".join(words.STORES.get(part, part) for part in row.stores.split("/"))
