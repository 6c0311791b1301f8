"""Tables of runs: the runs, and what came out of them. The tables themselves are in ``published.py``.

Results of single runs are kept in a small JSON file beside the page, so that a table can be filled over several sittings and
recomputed from the file; a cell whose options changed since is run again, and one that another table has run already is taken from there.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reverie.checks import ReverieError, StorageError
from reverie.engine import environment
from reverie.experiments.config import RunConfig
from reverie.experiments.grid import Cell, run_grid
from reverie.experiments.presets import PRESETS
from reverie.experiments.runs import clear
from reverie.options import merged
from reverie.storage import SCHEMA, read_json, write_json, write_text

TASK_SUMMARY = ("tgiven_during", "tgiven_final", "tinfer_final", "task_inference_accuracy")
ERROR_SUMMARY = ("mse_during", "mse_final", "mse_inferred", "nll_final", "coverage_final", "task_inference_accuracy")
SCENARIOS = ("class", "domain", "task")


@dataclass(frozen=True)
class Entry:
    """One row of a table: a method, its options, what was published and what is expected of us (average accuracy in %).

    stream, variant: of an ablation, whose table has a row for each variant and a column for each stream.
    """

    title: str
    preset: str
    override: Mapping[str, Any] = field(default_factory=dict)
    scenarios: tuple[str, ...] = SCENARIOS
    published: Mapping[str, tuple[float, float | None]] = field(
        default_factory=dict
    )  # scenario: (mean, standard error)
    expected: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # scenario: (lowest, highest)
    stream: str = ""
    variant: str = ""


@dataclass(frozen=True)
class PublishedTable:
    """reference: of an ablation, for a variant the one to which its gap is measured, on the same latents.

    infers_tasks: its methods have a model a task; what is published and expected goes by "given" (the task), by criterion where it is
    inferred, and by "batches" (inferred by entropy for 100 rows at once). An entry with "one head" infers no task: a single softmax over
    all classes stands beside the others. predicts_numbers: a table of regression; what is expected goes by "final" (mean squared error), "median"
    (of it over the seeds) and "found" (share of rows whose task is inferred, %). domains: a table of data sets met one after another; what is
    expected goes by "first" and "last" (accuracy on the first and the last of them in the end, %), "drop" (of the first since it was learnt),
    "domain" (the least share of rows of a domain whose domain is found, %) and "error" (of reconstructing the first, over what it was).
    """

    title: str
    source: str
    note: str
    seeds: tuple[int, ...]
    entries: Mapping[str, Entry]
    reference: Mapping[str, str] = field(default_factory=dict)
    infers_tasks: bool = False
    predicts_numbers: bool = False
    domains: bool = False

    @property
    def is_ablation(self) -> bool:
        return any(entry.stream for entry in self.entries.values())


def cells(
    table: PublishedTable,
    out: Path,
    threads: int | None,
    only: Sequence[str] = (),
    scenarios: Sequence[str] = (),
    seeds: Sequence[int] = (),
) -> list[Cell]:
    """Every run of a table, or some: all entries with the first seed, then with the second ..."""
    found = []
    for seed in seeds or table.seeds:
        for name, entry in table.entries.items():
            for scenario in entry.scenarios:
                if (only and name not in only) or (scenarios and scenario not in scenarios):
                    continue
                options = merged(
                    PRESETS[entry.preset].options,
                    {**entry.override, "scenario": scenario, "seed": seed, "threads": threads},
                )
                folder = out / scenario / name / f"seed-{seed}"
                found.append(Cell(f"{name} {scenario} seed {seed}", RunConfig.from_dict(options), folder))
    return found


def reproduce(
    table: PublishedTable,
    out: Path,
    results: Path,
    *,
    workers: int = 1,
    threads: int | None = None,
    only: Sequence[str] = (),
    scenarios: Sequence[str] = (),
    seeds: Sequence[int] = (),
    again: bool = False,
    told: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Runs what is missing, adds each result to the ``results`` file as it comes, and returns all that it then holds."""
    known, options = _read(results)
    others = [] if again else _finished(results.parent)

    def add(cell: Cell, found: Mapping[str, Any]) -> None:
        entry, scenario, seed = _place(cell)
        known[:] = [r for r in known if (r["entry"], r["scenario"], r["seed"]) != (entry, scenario, seed)]
        known.append({**found, "entry": entry, "scenario": scenario, "seed": seed})
        known.sort(key=lambda r: (r["entry"], r["scenario"], r["seed"]))
        options[found["digest"]] = _decisive(cell.config)
        used = {r["digest"] for r in known}
        results.parent.mkdir(parents=True, exist_ok=True)
        kept = {digest: options[digest] for digest in sorted(options) if digest in used}
        write_json(results, {"schema": SCHEMA, "results": known, "options": kept})

    missing = []
    for cell in cells(table, out, threads, only, scenarios, seeds):
        digest, seed = _digest(cell.config), cell.config.seed
        if not again and any(
            (*_place(cell), digest) == (r["entry"], r["scenario"], r["seed"], r["digest"]) for r in known
        ):
            continue
        elsewhere = next((r for r in others if (r["digest"], r["seed"]) == (digest, seed)), None)
        if elsewhere is not None:
            add(cell, elsewhere)
        else:
            missing.append(cell)
    for cell in missing if again else ():
        clear(cell.folder)
    told(f"{len(missing)} runs to do")
    # A folder whose options have changed since is trained anew; one with the same options is continued.
    for cell, result in run_grid(missing, workers=workers, overwrite=True):
        add(cell, _compact(cell, result))
        told(f"{cell.title}: {_figure(result)} in {result['cost']['seconds']:.0f} s")
    return known


def _figure(result: Mapping[str, Any]) -> str:
    summary = result["summary"]
    if result.get("kind") == "regression":
        return f"mean squared error {summary['mse_final']:.4f}"
    return f"{100 * summary['average_accuracy']:.2f} %"


def read_results(path: Path) -> list[dict[str, Any]]:
    return _read(path)[0]


def _finished(folder: Path) -> list[dict[str, Any]]:
    """The runs of all tables whose results lie in the folder."""
    return [found for path in sorted(folder.glob("*.json")) for found in _read(path)[0]]


def _read(path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Results, and by their digest the options that they were made with; both as they are called today.

    An option that did not exist then had no effect, and takes its default; so a new option makes no old result a stranger.
    """
    if not path.exists():
        return [], {}
    content = read_json(path, "the results of earlier runs")
    today: dict[str, str] = {}
    options: dict[str, Any] = {}
    for digest, values in content.get("options", {}).items():
        try:
            config = RunConfig.from_dict(values)
        except ReverieError:  # of an option that is gone since
            today[digest], options[digest] = digest, values
            continue
        today[digest] = _digest(config)
        options[today[digest]] = _decisive(config)
    return [{**found, "digest": today.get(found["digest"], found["digest"])} for found in content["results"]], options


def table_markdown(name: str, table: PublishedTable, results: Sequence[Mapping[str, Any]]) -> str:
    """The table as Markdown: ours (mean and standard error over seeds), published, expected, steps, bytes, seconds."""
    lines = [
        f"## {table.title}",
        "",
        table.note,
        "",
        f"Published: {table.source}. Command: `reverie reproduce {name}`.",
        "",
    ]
    if table.domains:
        lines += domain_markdown(table, results)
    elif table.is_ablation:
        lines += [f"![{table.title}](images/{name}.png)", "", *ablation_markdown(table, results)]
    elif table.predicts_numbers:
        lines += error_markdown(table, results)
    elif table.infers_tasks:
        lines += task_markdown(table, results)
    else:
        lines += rows_markdown(table, results, tuple(table.entries))
    machines = sorted({f"{r['processor']}, {r['threads']} thread(s) a run, torch {r['torch']}" for r in results})
    lines += ["", *(f"Measured on: {machine}." for machine in machines)]
    lines += [
        "Seconds are wall time of whole runs, evaluation and saving included, several at a time on a machine that did other work too."
    ]
    return "\n".join(lines) + "\n"


def rows_markdown(table: PublishedTable, results: Sequence[Mapping[str, Any]], entries: Sequence[str]) -> list[str]:
    """The lines of a Markdown table with some of the entries."""
    lines = [
        "| method | scenario | ours, % | seeds | published, % | expected | reached | steps | kept, bytes | seconds a run |"
    ]
    lines += ["|---|---|---|---|---|---|---|---|---|---|"]
    for key in entries:
        entry = table.entries[key]
        for scenario in entry.scenarios:
            mine = [r for r in results if (r["entry"], r["scenario"]) == (key, scenario) and r["seed"] in table.seeds]
            lines.append("| " + " | ".join(_row(entry, scenario, mine, len(table.seeds))) + " |")
    return lines


@dataclass(frozen=True)
class Measured:
    """A variant of an ablation on a stream: a value for each seed, accuracies and gaps in %."""

    accuracy: Sequence[float]
    learning_accuracy: Sequence[float]
    gap: Sequence[float]  # reference minus variant, of the seeds that both have
    persistent_bytes: int
    seconds: float


def measured(table: PublishedTable, results: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], Measured]:
    """By (variant, stream), in the table's order; what was not run is not there."""
    by_place = {
        (entry.variant, entry.stream): {r["seed"]: r for r in results if r["entry"] == key and r["seed"] in table.seeds}
        for key, entry in table.entries.items()
    }
    found = {}
    for (variant, stream), mine in by_place.items():
        other = by_place.get((table.reference.get(variant, ""), stream), {})
        if mine:
            found[variant, stream] = Measured(
                [100 * r["average_accuracy"] for r in mine.values()],
                [100 * r["learning_accuracy"] for r in mine.values()],
                [100 * (other[s]["average_accuracy"] - r["average_accuracy"]) for s, r in mine.items() if s in other],
                next(iter(mine.values()))["persistent_bytes"],
                sum(r["seconds"] for r in mine.values()) / len(mine),
            )
    return found


def ablation_markdown(table: PublishedTable, results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Two Markdown tables, a row for each variant: accuracy and gap on each stream; learning accuracy, bytes and seconds."""
    found = measured(table, results)
    titles = {entry.variant: entry.title for entry in table.entries.values()}
    streams = list(dict.fromkeys(entry.stream for entry in table.entries.values()))
    lines = [
        "Average accuracy after the last task, %, mean ± standard error over seeds; in brackets the generator gap: how far latent replay on the "
        "same latents is above it.",
        "",
        f"| method | {' | '.join(streams)} | seeds |",
        "|---" * (len(streams) + 2) + "|",
    ]
    for variant, title in titles.items():
        cells = []
        for stream in streams:
            one = found.get((variant, stream))
            gap = f" ({sum(one.gap) / len(one.gap):+.2f})" if one and one.gap else ""
            cells.append("not run yet" if one is None else f"{_pm(mean_and_error(one.accuracy))}{gap}")
        seeds = [len(found[variant, stream].accuracy) if (variant, stream) in found else 0 for stream in streams]
        lines.append(f"| {title} | {' | '.join(cells)} | {min(seeds)}/{len(table.seeds)} |")
    lines += [
        "",
        "Learning accuracy (of each task right after it was learnt), %; bytes kept after the last task; seconds of a run.",
        "",
        f"| method | {' | '.join(streams)} | kept, bytes: {', '.join(streams)} | seconds: {', '.join(streams)} |",
        "|---" * (len(streams) + 3) + "|",
    ]
    for variant, title in titles.items():
        mine = [found.get((variant, stream)) for stream in streams]
        learning = [_pm(mean_and_error(one.learning_accuracy)) if one else "-" for one in mine]
        kept = ", ".join(f"{one.persistent_bytes:,}".replace(",", " ") if one else "-" for one in mine)
        seconds = ", ".join(f"{one.seconds:.0f}" if one else "-" for one in mine)
        lines.append(f"| {title} | {' | '.join(learning)} | {kept} | {seconds} |")
    return lines


ONE_HEAD = "one head"
TOLD = ("given", "entropy", "agreement", "batches", ONE_HEAD)


def task_markdown(table: PublishedTable, results: Sequence[Mapping[str, Any]]) -> list[str]:
    """A row for each method: accuracy with the task given and inferred, beside what was published and expected; share of rows whose task
    is found."""
    lines = [
        "TGiven, TInfer: average accuracy, %, with the task given and inferred. In batches: inferred by entropy for 100 rows of one task at once. "
        "One head: no task is inferred, a single softmax answers over all classes.",
        "",
        "| method | TGiven, during | TGiven, final | TInfer, entropy | TInfer, agreement | TInfer, in batches | task found, entropy | seeds | "
        "published | expected | reached | steps | kept, bytes | seconds a run |",
        "|---" * 14 + "|",
    ]
    for key, entry in table.entries.items():
        one_head = ONE_HEAD in entry.published
        mine = [r for r in results if r["entry"] == key and r["seed"] in table.seeds and (one_head or r.get("tasks"))]
        found = {ONE_HEAD: [100 * r["average_accuracy"] for r in mine]} if one_head else _of_tasks(mine)
        ours = {name: mean_and_error(values) for name, values in found.items() if values}
        reached = [ours[name][0] >= low for name, (low, _) in entry.expected.items() if name in ours]
        cells = [_pm(ours.get(name)) for name in ("during", "given", "entropy", "agreement", "batches", "found")]
        if ONE_HEAD in ours:
            cells[2] = f"{_pm(ours[ONE_HEAD])} (one head)"
        cells.append(f"{len(mine)}/{len(table.seeds)}")
        cells.append(
            ", ".join(f"{name} {entry.published[name][0]:g}" for name in TOLD if name in entry.published) or "-"
        )
        cells.append(", ".join(f"{name} {entry.expected[name][0]:g}" for name in TOLD if name in entry.expected) or "-")
        cells.append("-" if not reached else "yes" if all(reached) else "no")
        lines.append("| " + " | ".join([entry.title, *cells, *_costs(mine)]) + " |")
    return lines


def _of_tasks(mine: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """In %, a value for each seed; none where it is not defined."""
    places: dict[str, Callable[[Mapping[str, Any]], float | None]] = {
        "during": lambda told: told["tgiven_during"],
        "given": lambda told: told["tgiven_final"],
        "entropy": lambda told: told["tinfer_final"].get("entropy"),
        "agreement": lambda told: told["tinfer_final"].get("agreement"),
        "batches": lambda told: told["tinfer_final"].get("entropy_in_batches"),
        "found": lambda told: told["task_inference_accuracy"].get("entropy"),
    }
    values = {name: [read(r["tasks"]) for r in mine] for name, read in places.items()}
    return {name: [100 * value for value in found if value is not None] for name, found in values.items()}


def error_markdown(table: PublishedTable, results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of regression: a row for each method, mean squared errors with the task given and inferred, and share of rows whose task is found."""
    lines = [
        "Mean squared error, variance of the prediction included: with the task given, right after it was learnt and after the last one; with the "
        "task inferred (agreement). Covered: share of targets inside intervals of 95 %.",
        "",
        "| method | MSE, during | MSE, final | median | MSE, inferred | task found, % | covered, % | seeds | expected | reached | steps | "
        "kept, bytes | seconds a run |",
        "|---" * 13 + "|",
    ]
    for key, entry in table.entries.items():
        mine = [r for r in results if r["entry"] == key and r["seed"] in table.seeds]
        values = {
            "during": [r["errors"]["mse_during"] for r in mine],
            "final": [r["errors"]["mse_final"] for r in mine],
            "inferred": [(r["errors"]["mse_inferred"] or {}).get("agreement") for r in mine],
            "found": [(r["errors"]["task_inference_accuracy"] or {}).get("agreement") for r in mine],
            "covered": [r["errors"]["coverage_final"] for r in mine],
        }
        known = {name: [value for value in each if value is not None] for name, each in values.items()}
        for name in ("found", "covered"):
            known[name] = [100 * value for value in known[name]]
        ours = {name: mean_and_error(each) for name, each in known.items() if each}
        if mine:
            ours["median"] = (statistics.median(known["final"]), None)
        reached = [low <= ours[name][0] <= high for name, (low, high) in entry.expected.items() if name in ours]
        digits = {"found": 1, "covered": 1}
        cells = [
            _pm(ours.get(name), digits.get(name, 4)) for name in ("during", "final", "median", "inferred", *digits)
        ]
        cells.append(f"{len(mine)}/{len(table.seeds)}")
        bounds = [
            f"{name} at least {low:g}" if name == "found" else f"{name} at most {high:g}"
            for name, (low, high) in entry.expected.items()
        ]
        cells.append(", ".join(bounds) or "-")
        cells.append("-" if not reached else "yes" if all(reached) else "no")
        cells += _costs(mine)
        lines.append("| " + " | ".join([entry.title, *cells]) + " |")
    return lines


DOMAIN_BOUNDS = ("first", "drop", "last", "domain", "error")


def domain_markdown(table: PublishedTable, results: Sequence[Mapping[str, Any]]) -> list[str]:
    """A row for each method: accuracies on the data sets, what is left of the first, and how well domains are told and images reconstructed."""
    lines = [
        "Accuracy, %: on the first data set right after it was learnt and in the end, on the last in the end, mean over all in the end. Domain: the "
        "least share of rows of one data set whose data set is found. Error: mean squared error of reconstructing the first, images in [0, 1], right "
        "after it was learnt and in the end.",
        "",
        "| method | first, learnt | first, end | last, end | average, end | domain | error, learnt | error, end | seeds | expected | reached | "
        "steps | kept, bytes | seconds a run |",
        "|---" * 14 + "|",
    ]
    for key, entry in table.entries.items():
        mine = [r for r in results if r["entry"] == key and r["seed"] in table.seeds]
        found = [_of_domains(r) for r in mine]
        ours = {
            name: mean_and_error([one[name] for one in found])
            for name in (found[0] if found else ())
            if all(name in one for one in found)
        }
        reached = [low <= ours[name][0] <= high for name, (low, high) in entry.expected.items() if name in ours]
        cells = [_pm(ours.get(name)) for name in ("learnt", "first", "last", "average", "domain")]
        cells += [_pm(ours.get(name), 4) for name in ("error learnt", "error end")]
        cells.append(f"{len(mine)}/{len(table.seeds)}")
        bounds = [
            f"{name} at most {high:g}" if name in ("drop", "error") else f"{name} at least {low:g}"
            for name, (low, high) in entry.expected.items()
        ]
        cells.append(", ".join(bounds) or "-")
        cells.append("-" if not reached else "yes" if all(reached) else "no")
        lines.append("| " + " | ".join([entry.title, *cells, *_costs(mine)]) + " |")
    return lines


def _of_domains(result: Mapping[str, Any]) -> dict[str, float]:
    """Of one run; learnt all at once, nothing is known of the time before the end."""
    told, last = result.get("domains", {}), result["accuracy"]
    found = {"first": 100 * last[0], "last": 100 * last[-1], "average": 100 * result["average_accuracy"]}
    if told.get("learnt") is not None:
        found |= {"learnt": 100 * told["learnt"], "drop": 100 * (told["learnt"] - last[0])}
    if told.get("found"):
        found["domain"] = 100 * min(told["found"])
    if told.get("error"):
        found["error end"] = told["error"][-1]
        if len(told["error"]) > 1:
            found |= {"error learnt": told["error"][0], "error": told["error"][-1] / told["error"][0]}
    return found


def _costs(mine: Sequence[Mapping[str, Any]]) -> list[str]:
    """Steps, bytes and seconds of the runs of one method."""
    if not mine:
        return ["-"] * 3
    seconds = sum(r["seconds"] for r in mine) / len(mine)
    return [f"{mine[0]['steps']:,}", f"{mine[0]['persistent_bytes']:,} ({mine[0]['stores']})", f"{seconds:.0f}"]


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    return sum(values) / len(values), standard_error(values)


def _row(entry: Entry, scenario: str, mine: Sequence[Mapping[str, Any]], seeds: int) -> list[str]:
    published, expected = entry.published.get(scenario), entry.expected.get(scenario)
    texts = [entry.title, scenario]
    if not mine:
        return [*texts, "not run yet", f"0/{seeds}", _pm(published), _band(expected), "-", "-", "-", "-"]
    accuracies = [100 * r["average_accuracy"] for r in mine]
    mean, error = mean_and_error(accuracies)
    reached = "-" if expected is None else ("yes" if expected[0] <= mean <= expected[1] else "no")
    seconds = sum(r["seconds"] for r in mine) / len(mine)
    return [
        *texts,
        _pm((mean, error)),
        f"{len(mine)}/{seeds}",
        _pm(published),
        _band(expected),
        reached,
        f"{mine[0]['steps']:,}",
        f"{mine[0]['persistent_bytes']:,} ({mine[0]['stores']})",
        f"{seconds:.0f}",
    ]


def write_section(page: Path, name: str, text: str) -> None:
    """Replaces the part of the page between the table's two markers, or appends it."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    content = page.read_text(encoding="utf-8") if page.exists() else "# Results\n"
    block = f"{begin}\n{text}{end}"
    if begin in content and end in content:
        head, rest = content.split(begin, 1)
        content = head + block + rest.split(end, 1)[1]
    else:
        content = content.rstrip() + f"\n\n{block}\n"
    page.parent.mkdir(parents=True, exist_ok=True)
    write_text(page, content)


def standard_error(values: Sequence[float]) -> float | None:
    """Unbiased standard deviation over the square root of n; None for a single value."""
    if len(values) < 2:
        return None
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))


def _place(cell: Cell) -> tuple[str, str, int]:
    """Where in its table: entry, scenario, seed."""
    scenario, entry = cell.folder.parts[-3], cell.folder.parts[-2]
    return entry, scenario, cell.config.seed


def _decisive(config: RunConfig) -> dict[str, Any]:
    """What decides the accuracy beside the seed: not threads, folders or how often something is saved."""
    values = config.to_dict()
    return {key: values[key] for key in ("stream", "scenario", "learner", "precision")}


def _digest(config: RunConfig) -> str:
    return hashlib.sha256(json.dumps(_decisive(config), sort_keys=True).encode()).hexdigest()[:16]


def _compact(cell: Cell, result: Mapping[str, Any]) -> dict[str, Any]:
    try:
        machine = read_json(cell.folder / "environment.json", "the environment")
    except StorageError:
        machine = environment({}, "cpu")
    return {
        "digest": _digest(cell.config),
        "average_accuracy": result["summary"]["average_accuracy"],
        "learning_accuracy": result["summary"]["learning_accuracy"],
        **_last(result),
        **({"tasks": told} if (told := {k: result["summary"].get(k) for k in TASK_SUMMARY})["tinfer_final"] else {}),
        "steps": result["cost"]["steps"],
        "seconds": result["cost"]["seconds"],
        "train_seconds": result["cost"]["train_seconds"],
        "persistent_bytes": result["memory"]["persistent_bytes"],
        "stores": result["memory"]["stores"],
        "threads": machine["machine"]["threads"],
        "processor": machine["machine"]["processor"],
        "torch": machine["versions"]["torch"],
    }


def _last(result: Mapping[str, Any]) -> dict[str, Any]:
    """The last row of the matrix; in regression also the summary."""
    if result.get("kind") == "regression":
        return {"mse": result["mse"][-1], "errors": {name: result["summary"][name] for name in ERROR_SUMMARY}}
    matrix, more = result["accuracy"], result.get("matrices", {})
    told: dict[str, Any] = {"learnt": matrix[0][0] if len(matrix) > 1 else None}
    if "reconstruction_mse" in more:
        told["error"] = [row[0] for row in more["reconstruction_mse"]]
        told["found"] = more["task_found_by_code"][-1]
    return {"accuracy": matrix[-1], "domains": told}


def _pm(value: tuple[float, float | None] | None, digits: int = 2) -> str:
    if value is None:
        return "-"
    mean, error = value
    return f"{mean:.{digits}f}" if error is None else f"{mean:.{digits}f} ± {error:.{digits}f}"


def _band(band: tuple[float, float] | None) -> str:
    if band is None:
        return "-"
    return f"at least {band[0]:g}" if band[1] == 100 else f"{band[0]:g} to {band[1]:g}"
