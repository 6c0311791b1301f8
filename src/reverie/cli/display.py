"""What the user sees while runs go on, and the table after them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

MEASURES = ("average", "forgetting", "kept", "stores", "seconds")
ERRORS = ("average", "task given", "task inferred", "covered", "kept", "stores", "seconds")  # in regression
UNITS = ((1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "kB"))


class Live:
    """An observer that draws progress: a bar on a terminal, one line a task elsewhere."""

    def __init__(self, console: Console, title: str, progress: Progress | None) -> None:
        self.console, self.title, self.bar = console, title, progress
        self.row = None if progress is None else progress.add_task(title, total=None, what="preparing")
        self.where = ""

    def phase_started(self, task: int, tasks: int, name: str, phase: str, steps: int, done: int) -> None:
        self.where = f"task {task + 1}/{tasks} ({name}) {phase}" if task < tasks else f"after the last task: {phase}"
        if self.bar is not None and self.row is not None:
            self.bar.reset(self.row, total=steps, completed=done, description=self.title, what=self.where)

    def progress(self, step: int, losses: Mapping[str, float]) -> None:
        if self.bar is not None and self.row is not None:
            shown = "  ".join(f"{name} {value:.3g}" for name, value in losses.items())
            self.bar.update(self.row, completed=step, what=f"{self.where}  {shown}")

    def evaluated(self, task: int, measure: str, values: Sequence[float | None]) -> None:
        if self.bar is None:
            seen = [value for value in values if value is not None]
            mean = sum(seen) / len(seen)
            what = (
                f"average accuracy {percent(mean)} %" if measure == "accuracy" else f"mean squared error {number(mean)}"
            )
            self.console.print(
                f"{self.title}: after task {task + 1}: {what} over {len(seen)} test sets", highlight=False
            )
        elif self.row is not None:
            self.bar.update(self.row, what=f"after task {task + 1}")

    def warned(self, message: str) -> None:
        self.console.print(f"warning: {self.title}: {message}", style="yellow", highlight=False, markup=False)


def make_progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[what]}"),
        console=console,
    )


def result_table(results: Sequence[Mapping[str, Any]]) -> Table:
    """Accuracy after the last task, forgetting, what is kept. A few runs stand side by side with every task; many have a row each."""
    first = results[0]
    side_by_side = len(results) <= 4 and all(result["tasks"] == first["tasks"] for result in results)
    errors = first.get("kind") == "regression"
    what, measures = ("mean squared error", ERRORS) if errors else ("accuracy in %", MEASURES)
    title = f"{first['stream']}, {first['scenario']}-incremental; {what} after the last task"
    seeds = len({result["seed"] for result in results}) > 1
    names = [_name(result, seeds) for result in results]
    columns = [_cells(result) for result in results]
    table = Table(title=title, title_justify="left", title_style="bold")
    if side_by_side:
        table.add_column("")
        for name in names:
            table.add_column(name, justify="right")
        tasks = [_final(result, len(first["tasks"])) for result in results]
        for place, task in enumerate(first["tasks"]):
            table.add_row(
                f"task {place + 1}: {task}", *((number if errors else percent)(values[place]) for values in tasks)
            )
        table.add_section()
        for row in measures:
            table.add_row(row, *(cells[row] for cells in columns))
        return table
    table.add_column("learner", overflow="fold")
    for row in measures:
        table.add_column(row.replace(" ", "\n"), justify="right", no_wrap=True)  # two words, one below the other
    for name, cells in zip(names, columns, strict=True):
        table.add_row(name, *(cells[row] for row in measures))
    return table


def _name(result: Mapping[str, Any], seeds: bool) -> str:
    status = "" if result["status"] == "complete" else f" ({result['status']})"
    return result["learner"] + (f", seed {result['seed']}" if seeds else "") + status


def _final(result: Mapping[str, Any], tasks: int) -> list[float | None]:
    matrix = result.get("mse") or result["accuracy"]
    return list(matrix[-1]) if matrix else [None] * tasks


def _cells(result: Mapping[str, Any]) -> dict[str, str]:
    summary, memory = result["summary"], result["memory"]
    if result.get("kind") == "regression":
        found = [value for value in _final(result, 0) if value is not None]
        measured = {
            "average": number(sum(found) / len(found) if found else None),
            "task given": number(summary["mse_final"]),
            "task inferred": number((summary["mse_inferred"] or {}).get("agreement")),
            "covered": f"{percent(summary['coverage_final'])} %",
        }
    else:
        measured = {"average": percent(summary["average_accuracy"]), "forgetting": percent(summary["forgetting"])}
    return {
        **measured,
        "kept": size(memory.get("persistent_bytes")),
        "stores": {"raw": "raw data", "latents": "latents", "none": "no data"}.get(memory.get("stores", ""), "-"),
        "seconds": f"{result['cost']['seconds']:.0f}",
    }


def percent(value: float | None) -> str:
    """In per cent with one decimal.

    >>> percent(0.8764)
    '87.6'
    """
    return "-" if value is None else f"{100 * value:.1f}"


def number(value: float | None) -> str:
    """In three digits.

    >>> number(0.012345)
    '0.0123'
    """
    return "-" if value is None else f"{value:.3g}"


def size(count: int | None) -> str:
    """In the largest unit that leaves at least 1.

    >>> size(4_278_736)
    '4.1 MB'
    """
    if count is None:
        return "-"
    for unit, name in UNITS:
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} B"


def print_warnings(console: Console, results: Sequence[Mapping[str, Any]]) -> None:
    for result in results:
        for message in result["warnings"]:
            console.print(f"warning: {result['learner']}: {message}", style="yellow", highlight=False, markup=False)


def print_json(value: object) -> None:
    print(json.dumps(value, indent=2))
