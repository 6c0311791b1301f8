"""``reverie reproduce [TABLE]``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from reverie.checks import OptionsError, Problems, nearest
from reverie.cli.arguments import make_app, several
from reverie.experiments.conditions import Result
from reverie.experiments.published import GROUPS, TABLES
from reverie.experiments.tables import SCENARIOS, PublishedTable, read_results, table_markdown, write_section
from reverie.experiments.tables import reproduce as run_table
from reverie.reports.ablations import draw_ablation
from reverie.reports.discrepancy import draw_discrepancy
from reverie.reports.side_by_side import draw_side_by_side


def prepare(words: Sequence[str]) -> list[str]:
    return several(words, ["--only", "--scenarios", "--seeds"])


def reproduce(
    table: Annotated[
        str | None, typer.Argument(help="a table, or a group of them; without one, the tables are listed")
    ] = None,
    out: Annotated[Path, typer.Option(help="folder of the runs")] = Path("runs/reproduce"),
    page: Annotated[Path, typer.Option(help="the page whose section is rewritten")] = Path("docs/results.md"),
    only: Annotated[list[str] | None, typer.Option(help="some of the table's methods")] = None,
    scenarios: Annotated[list[str] | None, typer.Option(help="some of the scenarios")] = None,
    seeds: Annotated[list[int] | None, typer.Option(help="some of the table's seeds")] = None,
    workers: Annotated[int, typer.Option(min=1, help="runs at a time")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of a run")] = None,
    again: Annotated[bool, typer.Option("--again", help="run what is already in the results file, too")] = False,
    write_only: Annotated[
        bool, typer.Option("--write-only", help="run nothing; write the page from the results file")
    ] = False,
) -> None:
    """Run a table over its fixed seeds and write it, beside the published figures, into docs/results.md.

    Single results are kept in docs/results/TABLE.json as they come, and are not run again; interrupt and repeat the command freely.
    """
    if table is None:
        for name, entry in TABLES.items():
            print(f"{name}: {entry.title} ({len(entry.entries)} methods, seeds {', '.join(map(str, entry.seeds))})")
        for name, members in GROUPS.items():
            print(f"{name}: {' and '.join(members)}")
        return
    if table not in {**TABLES, **GROUPS}:
        raise OptionsError(f"{table!r}: no such table; {nearest(table, {**TABLES, **GROUPS})}")
    names = GROUPS.get(table, (table,))
    _check(table, names, only or (), scenarios or (), seeds or ())
    for name in names:
        _one(name, out, page, only, scenarios, seeds, workers, threads, again, write_only)


def _check(
    asked: str, names: Sequence[str], only: Sequence[str], scenarios: Sequence[str], seeds: Sequence[int]
) -> None:
    """Of a group, what is in any of its tables will do. Raises OptionsError."""
    methods = {method for name in names for method in TABLES[name].entries}
    known = sorted({seed for name in names for seed in TABLES[name].seeds})
    problems = Problems()
    for method in only:
        problems.check(method in methods, f"--only {method}: no such method in {asked}; {nearest(method, methods)}")
    for scenario in scenarios:
        problems.check(
            scenario in SCENARIOS, f"--scenarios {scenario}: no such scenario; {nearest(scenario, SCENARIOS)}"
        )
    for seed in seeds:
        problems.check(seed in known, f"--seeds {seed}: not a seed of {asked}; it has {', '.join(map(str, known))}")
    problems.raise_as(OptionsError, "nothing was run")


def _one(
    table: str,
    out: Path,
    page: Path,
    only: Sequence[str] | None,
    scenarios: Sequence[str] | None,
    seeds: Sequence[int] | None,
    workers: int,
    threads: int | None,
    again: bool,
    write_only: bool,
) -> None:
    chosen = TABLES[table]
    results_file = page.parent / "results" / f"{table}.json"
    if write_only:
        results = read_results(chosen, results_file)
    else:
        share = threads or max((os.cpu_count() or 1) // workers, 1)
        results = run_table(
            chosen,
            out / table,
            results_file,
            workers=workers,
            threads=share,
            only=only or (),
            scenarios=scenarios or (),
            seeds=seeds or (),
            again=again,
            told=lambda line: print(line, flush=True),
        )
    picture = page.parent / "images" / f"{table}.png"
    _draw(chosen, results, out / table, picture)
    text = table_markdown(table, chosen, results, pictured=picture.exists())
    write_section(page, table, text)
    print(text)
    print(f"written to {page}")


def _draw(table: PublishedTable, results: Sequence[Result], runs: Path, path: Path) -> None:
    """Where what it would show is not here, the picture of an earlier time stays."""
    if table.is_ablation:
        draw_ablation(table, results, path)
    elif table.layout.picture == "discrepancy":
        draw_discrepancy(table, results, path)
    elif table.layout.picture is not None:
        draw_side_by_side(table, runs, path)


app = make_app(reproduce)
