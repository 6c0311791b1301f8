"""Tables of runs: the runs, and what came out of them. The tables themselves are in ``published.py``.

Results of single runs are kept in a small JSON file beside the page, so that a table can be filled over several sittings and
recomputed from the file; a cell whose options changed since is run again, and one that another table has run already is taken from there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from scipy.stats import spearmanr

from reverie.checks import ReverieError, StorageError
from reverie.engine import environment
from reverie.experiments.conditions import VALUES, Condition, Result, judge, mean_and_error, pm
from reverie.experiments.config import RunConfig
from reverie.experiments.grid import Cell, run_grid
from reverie.experiments.judging import FILE as JUDGE_FILE
from reverie.experiments.judging import judge_run
from reverie.experiments.presets import PRESETS
from reverie.experiments.runs import clear, load, stream_of
from reverie.options import merged
from reverie.probes.judge import STEPS, Judge
from reverie.storage import SCHEMA, read_json, write_json, write_text

TASK_SUMMARY = ("tgiven_during", "tgiven_final", "tinfer_final", "task_inference_accuracy")
ERROR_SUMMARY = ("mse_during", "mse_final", "mse_inferred", "nll_final", "coverage_final", "task_inference_accuracy")
CLUSTERS = "clustering_accuracy"  # what the probe of risk calls it, a number for each domain
SCENARIOS = ("class", "domain", "task")


@dataclass(frozen=True)
class Entry:
    """One row of a table: a method, its options, and what was published of it.

    published: (mean, standard error) of the average accuracy in % by scenario, or of other values by their name. seeds: so many of the table's;
    None: all. stream, variant: of an ablation, whose table has a row for each variant and a column for each stream.
    """

    title: str
    preset: str
    override: Mapping[str, Any] = field(default_factory=dict)
    scenarios: tuple[str, ...] = SCENARIOS
    published: Mapping[str, tuple[float, float | None]] = field(default_factory=dict)
    seeds: int | None = None
    stream: str = ""
    variant: str = ""


@dataclass(frozen=True)
class Layout:
    """What a table tells of each entry. columns: names of ``VALUES``; an ablation has its own. about: what they mean. picture, caption: what is
    drawn beside them."""

    columns: tuple[str, ...] = ()
    about: str = ""
    picture: Literal["ablation", "planes", "fans", "discrepancy"] | None = None
    caption: str = ""


ROWS = Layout(("accuracy",))
ABLATION = Layout(
    picture="ablation",
    caption="Dots: average accuracy after the last task; rings: learning accuracy; both with standard errors over seeds. Grey lines lead to latent "
    "replay on the same latents: the generator gap.",
)
TASKS = Layout(
    ("during", "given", "entropy", "agreement", "batches", "one head", "found"),
    "TGiven, TInfer: average accuracy, %, with the task given and inferred. In batches: inferred by entropy for 100 rows of one task at once. "
    "One head: no task is inferred, a single softmax answers over all classes.",
    "planes",
    "Which class is answered where, the task inferred by the method's own criterion, after the last task, first seed; the last one is the best "
    "answer, were each class of each task a Gaussian. Dots: test rows.",
)
ERRORS = Layout(
    ("mse during", "mse final", "mse inferred", "found by agreement", "covered"),
    "Mean squared error, variance of the prediction included: with the task given, right after it was learnt and after the last one; with the "
    "task inferred (agreement). Covered: share of targets inside intervals of 95 %.",
    "fans",
    "Predictions after the last task, first seed: mean of each model, with bands of one, two and three deviations. Dashed: the truth in each task's "
    "interval; dots: training rows.",
)
DOMAINS = Layout(
    ("learnt", "first", "last", "average", "domain", "error learnt", "error"),
    "Accuracy, %: on the first data set right after it was learnt and in the end, on the last in the end, mean over all in the end. Domain: the "
    "least share of rows of one data set whose data set is found. Error: mean squared error of reconstructing the first, images in [0, 1], right "
    "after it was learnt and in the end.",
    "discrepancy",
    "How far replay lies from the past (discrepancy) against the risk on the past less the risk on its replay: each earlier data set after each "
    "later one, all runs.",
)


@dataclass(frozen=True)
class PublishedTable:
    """conditions: what its results are to show. reference: of an ablation, for a variant the one to which its gap is measured, on the same
    latents. judged: entries whose generated images are judged by a classifier of real rows (``judge_run``) when a run has ended."""

    title: str
    source: str
    note: str
    seeds: tuple[int, ...]
    entries: Mapping[str, Entry]
    conditions: tuple[Condition, ...] = ()
    layout: Layout = ROWS
    reference: Mapping[str, str] = field(default_factory=dict)
    judged: tuple[str, ...] = ()

    @property
    def is_ablation(self) -> bool:
        return self.layout.picture == "ablation"

    @property
    def scenarios(self) -> list[str]:
        """Those that its entries are run in."""
        return [scenario for scenario in SCENARIOS if any(scenario in e.scenarios for e in self.entries.values())]

    def seeds_of(self, entry: str) -> tuple[int, ...]:
        return self.seeds[: self.entries[entry].seeds]


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
                if seed not in table.seeds_of(name) or (only and name not in only):
                    continue
                if scenarios and scenario not in scenarios:
                    continue
                options = merged(
                    PRESETS[entry.preset].options,
                    {**entry.override, "scenario": scenario, "seed": seed, "threads": threads},
                )
                folder = run_folder(out, name, scenario, seed)
                found.append(Cell(f"{name} {scenario} seed {seed}", RunConfig.from_dict(options), folder))
    return found


def run_folder(out: Path, entry: str, scenario: str, seed: int) -> Path:
    return out / scenario / entry / f"seed-{seed}"


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
    """Runs what is missing, adds each result to the ``results`` file as it comes, and returns what it then holds of the table as it is."""
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
        entry, scenario, seed = _place(cell)
        wanted = _digest(cell.config), seed, entry in table.judged
        here = ((r["entry"], r["scenario"]) == (entry, scenario) for r in _serving(known, *wanted))
        if not again and any(here):
            continue
        elsewhere = next(_serving(others, *wanted), None)
        if elsewhere is not None:
            add(cell, elsewhere)
        else:
            missing.append(cell)
    for cell in missing if again else ():
        clear(cell.folder)
    told(f"{len(missing)} runs to do")
    # A folder whose options have changed since is trained anew; one with the same options is continued.
    judges: dict[str, Judge] = {}
    for cell, result in run_grid(missing, workers=workers, overwrite=True):
        judged = _judged(cell, judges) if _place(cell)[0] in table.judged else {}
        add(cell, _compact(cell, result) | judged)
        told(f"{cell.title}: {_figure(result)} in {result['cost']['seconds']:.0f} s")
    return _current(table, known)


def _serving(results: Sequence[dict[str, Any]], digest: str, seed: int, judged: bool) -> Iterator[dict[str, Any]]:
    """Those of these options and this seed; judged: of which it is known what a judge saw."""
    return (r for r in results if (r["digest"], r["seed"]) == (digest, seed) and ("judged" in r or not judged))


def _figure(result: Mapping[str, Any]) -> str:
    summary = result["summary"]
    if result.get("kind") == "regression":
        return f"mean squared error {summary['mse_final']:.4f}"
    return f"{100 * summary['average_accuracy']:.2f} %"


def read_results(table: PublishedTable, path: Path) -> list[dict[str, Any]]:
    """Those of the table as it is: a result of options that an entry has no more is not told as the entry's."""
    return _current(table, _read(path)[0])


def _current(table: PublishedTable, known: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    wanted = {(*_place(cell), _digest(cell.config)) for cell in cells(table, Path("."), None)}
    return [r for r in known if (r["entry"], r["scenario"], r["seed"], r["digest"]) in wanted]


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


def _judged(cell: Cell, judges: dict[str, Judge]) -> dict[str, Any]:
    """What a classifier of real rows sees in what the run generates. judges: those trained so far, by their stream."""
    file, what = cell.folder / JUDGE_FILE, "what the judge saw"
    if (
        not file.exists() or read_json(file, what)["judge"]["steps"] != STEPS
    ):  # of another judge, that the user asked for
        stream = stream_of(cell.config)
        key = json.dumps(_decisive(cell.config)["stream"], sort_keys=True)
        judges[key] = judge_run(load(cell.folder), stream, judge=judges.get(key)).judge
    found = read_json(file, what)
    told = {name: found[name]["as_asked"] for name in ("generated", "next", "replay") if name in found}
    return {"judged": {"judge": found["judge"]["accuracy"], **told}}


def _last(result: Mapping[str, Any]) -> dict[str, Any]:
    """The last row of the matrix; in regression also the summary."""
    if result.get("kind") == "regression":
        return {"mse": result["mse"][-1], "errors": {name: result["summary"][name] for name in ERROR_SUMMARY}}
    matrix, more = result["accuracy"], result.get("matrices", {})
    told: dict[str, Any] = {"learnt": matrix[0][0] if len(matrix) > 1 else None}
    if "reconstruction_mse" in more:
        told["error"] = [row[0] for row in more["reconstruction_mse"]]
        told["found"] = more["task_found_by_code"][-1]
    clusters = [n[CLUSTERS] for found in result.get("findings", []) if CLUSTERS in (n := found["numbers"])]
    if clusters:
        told["clusters"] = clusters[-1]
    risk = {name: result[name] for name in ("risk", "discrepancy") if name in result}
    return {"accuracy": matrix[-1], "domains": told, **risk}


# ------------------------------------------------------------------------------- what the page says


def table_markdown(name: str, table: PublishedTable, results: Sequence[Result], *, pictured: bool = False) -> str:
    """The table as Markdown: ours (mean and standard error over seeds), published, steps, bytes, seconds; its picture, if there is one; and
    whether it shows what it is to show."""
    lines = [
        f"## {table.title}",
        "",
        table.note,
        "",
        f"Published: {table.source}. Command: `reverie reproduce {name}`.",
        "",
    ]
    if pictured:
        lines += [f"![{table.title}](images/{name}.png)", "", *_caption(table, results)]
    if table.is_ablation:
        lines += ablation_markdown(table, results)
    else:
        lines += [*([table.layout.about, ""] if table.layout.about else []), *rows_markdown(table, results)]
    lines += conditions_markdown(table, results)
    machines = sorted({f"{r['processor']}, {r['threads']} thread(s) a run, torch {r['torch']}" for r in results})
    lines += ["", *(f"Measured on: {machine}." for machine in machines)]
    lines += [
        "Seconds are wall time of whole runs, evaluation and saving included, several at a time on a machine that did other work too."
    ]
    return "\n".join(lines) + "\n"


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


def _caption(table: PublishedTable, results: Sequence[Result]) -> list[str]:
    if not table.layout.caption:
        return []
    points = [point for of_entry in risk_gaps(table, results).values() for point in of_entry]
    rank = rank_correlation(points)
    said = "" if rank is None else f" Spearman's rank correlation: {rank:.2f} ({len(points)} points)."
    return [table.layout.caption + said, ""]


def rows_markdown(table: PublishedTable, results: Sequence[Result], entries: Sequence[str] = ()) -> list[str]:
    """The lines of a Markdown table with some of the entries, or all. Scenarios and published figures stand where the table has any."""
    columns = [VALUES[name] for name in table.layout.columns]
    several, published = len(table.scenarios) > 1, any(entry.published for entry in table.entries.values())
    headings = ["method", *["scenario"] * several, *(column.title for column in columns), "seeds"]
    headings += [*["published"] * published, "steps", "kept, bytes", "seconds a run"]
    lines = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    for (key, scenario), by_seed in runs_of(table, results).items():
        if entries and key not in entries:
            continue
        entry, mine = table.entries[key], list(by_seed.values())
        found = [[n for r in mine if (n := column.read(r)) is not None] for column in columns]
        cells = [
            pm(mean_and_error(numbers) if numbers else None, column.digits)
            for column, numbers in zip(columns, found, strict=True)
        ]
        cells = [entry.title, *[scenario] * several, *(cells if mine else ["not run yet", *cells[1:]])]
        cells += [f"{len(mine)}/{len(table.seeds_of(key))}", *[_published(entry, scenario)] * published]
        lines.append(f"| {' | '.join([*cells, *_costs(mine)])} |")
    return lines


def _published(entry: Entry, scenario: str) -> str:
    if scenario in entry.published:
        return pm(entry.published[scenario])
    return ", ".join(f"{name} {entry.published[name][0]:g}" for name in VALUES if name in entry.published) or "-"


def _costs(mine: Sequence[Result]) -> list[str]:
    """Steps, bytes and seconds of the runs of one method."""
    if not mine:
        return ["-"] * 3
    seconds = sum(r["seconds"] for r in mine) / len(mine)
    return [f"{mine[0]['steps']:,}", f"{mine[0]['persistent_bytes']:,} ({mine[0]['stores']})", f"{seconds:.0f}"]


def conditions_markdown(table: PublishedTable, results: Sequence[Result]) -> list[str]:
    """A line for each condition; none where there are none."""
    if not table.conditions:
        return []
    runs = runs_of(table, results)
    lines = ["", "| to show | bounds | found | seeds | reached |", "|---" * 5 + "|"]
    for condition in table.conditions:
        scenario = condition.scenario or table.entries[condition.entry].scenarios[0]
        beside = condition.beside or condition.entry
        seeds = [seed for seed in table.seeds_of(condition.entry) if seed in table.seeds_of(beside)]
        verdict = judge(condition, runs[condition.entry, scenario], runs[beside, scenario], seeds)
        what = _what(table, condition, scenario)
        reached = f"no: {condition.reason}" if verdict.reached == "no" and condition.reason else verdict.reached
        lines.append(f"| {what} | {condition.bounds} | {verdict.found} | {verdict.seeds} | {reached} |")
    return lines


def _what(table: PublishedTable, condition: Condition, scenario: str) -> str:
    """In words, what is bounded."""
    entry, value = table.entries[condition.entry], VALUES[condition.value].title
    where = entry.stream or (scenario if len(table.scenarios) > 1 else "")
    what = f"{where}: {entry.title}" if where else entry.title
    if not condition.beside:
        return f"{what} ({value})"
    other, relation = table.entries[condition.beside].title, "minus" if condition.minus else "over"
    if not condition.other:
        return f"{what}, {relation} {other} ({value})"
    return f"{what} ({value}), {relation} {other} ({VALUES[condition.other].title})"


def runs_of(table: PublishedTable, results: Sequence[Result]) -> dict[tuple[str, str], dict[int, Result]]:
    """By entry and scenario, in the table's order, the results by seed; what else the file holds is left out. Of an ablation with the "gap": how
    far the reference is above it, where that has been run with the seed."""
    by_place = {(r["entry"], r["scenario"], r["seed"]): r for r in results}
    names = {(entry.variant, entry.stream): key for key, entry in table.entries.items()}
    found: dict[tuple[str, str], dict[int, Result]] = {}
    for key, entry in table.entries.items():
        reference = (
            names.get((table.reference[entry.variant], entry.stream)) if entry.variant in table.reference else None
        )
        for scenario in entry.scenarios:
            found[key, scenario] = {}
            for seed in table.seeds_of(key):
                result, other = (by_place.get((name, scenario, seed)) for name in (key, reference))
                if result is not None and other is not None:
                    result = {**result, "gap": other["average_accuracy"] - result["average_accuracy"]}
                if result is not None:
                    found[key, scenario][seed] = result
    return found


@dataclass(frozen=True)
class Measured:
    """A variant of an ablation on a stream: a value for each seed, accuracies and gaps in %."""

    accuracy: Sequence[float]
    learning_accuracy: Sequence[float]
    gap: Sequence[float]  # reference minus variant, of the seeds that both have
    persistent_bytes: int
    seconds: float


def measured(table: PublishedTable, results: Sequence[Result]) -> dict[tuple[str, str], Measured]:
    """By (variant, stream), in the table's order; what was not run is not there."""
    found = {}
    for (key, _), by_seed in runs_of(table, results).items():
        entry, mine = table.entries[key], list(by_seed.values())
        if mine:
            found[entry.variant, entry.stream] = Measured(
                [100 * r["average_accuracy"] for r in mine],
                [100 * r["learning_accuracy"] for r in mine],
                [100 * r["gap"] for r in mine if "gap" in r],
                mine[0]["persistent_bytes"],
                sum(r["seconds"] for r in mine) / len(mine),
            )
    return found


def ablation_markdown(table: PublishedTable, results: Sequence[Result]) -> list[str]:
    """Two Markdown tables, a row for each variant: accuracy and gap on each stream; learning accuracy, bytes and seconds."""
    found = measured(table, results)
    titles = {entry.variant: entry.title for entry in table.entries.values()}
    streams = list(dict.fromkeys(entry.stream for entry in table.entries.values()))
    lines = [
        "Average accuracy after the last task, %, mean ± standard error over seeds; in brackets the generator gap: how far latent replay on the "
        "same latents and seeds is above it.",
        "",
        f"| method | {' | '.join(streams)} | seeds |",
        "|---" * (len(streams) + 2) + "|",
    ]
    for variant, title in titles.items():
        cells = []
        for stream in streams:
            one = found.get((variant, stream))
            gap = f" ({pm(mean_and_error(one.gap), sign='+')})" if one and one.gap else ""
            cells.append("not run yet" if one is None else f"{pm(mean_and_error(one.accuracy))}{gap}")
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
        learning = [pm(mean_and_error(one.learning_accuracy)) if one else "-" for one in mine]
        kept = ", ".join(f"{one.persistent_bytes:,}".replace(",", " ") if one else "-" for one in mine)
        seconds = ", ".join(f"{one.seconds:.0f}" if one else "-" for one in mine)
        lines.append(f"| {title} | {' | '.join(learning)} | {kept} | {seconds} |")
    return lines


# ------------------------------------------------------------------------------- discrepancy and risk


def risk_gaps(table: PublishedTable, results: Sequence[Result]) -> dict[str, list[tuple[float, float]]]:
    """By entry, of each earlier task after each later one: how far its replay lies from it (the discrepancy of the probe "risk"), and the risk on
    it less the risk on its replay."""
    found: dict[str, list[tuple[float, float]]] = {}
    for (key, _), by_seed in runs_of(table, results).items():
        for result in by_seed.values():
            risk = result.get("risk", {"target": [], "source": []})
            rows = zip(result.get("discrepancy", []), risk["target"], risk["source"], strict=True)
            points = [
                (distance, target - source)
                for row in rows
                for distance, target, source in zip(*row, strict=True)
                if None not in (distance, target, source)
            ]
            if points:
                found.setdefault(key, []).extend(points)
    return found


def rank_correlation(points: Sequence[tuple[float, float]]) -> float | None:
    """Spearman's; None where it is not defined: fewer than two points, or all alike in one of the two."""
    if any(len(set(numbers)) < 2 for numbers in zip(*points, strict=True)) or not points:
        return None
    return float(spearmanr(*zip(*points, strict=True)).statistic)
