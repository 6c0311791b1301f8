"""``reverie reproduce [TABLE]``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from reverie.checks import OptionsError, nearest
from reverie.cli.arguments import make_app, several
from reverie.experiments.published import GROUPS, TABLES
from reverie.experiments.tables import SCENARIOS, read_results, table_markdown, write_section
from reverie.experiments.tables import reproduce as run_table
from reverie.reports.ablations import draw_ablation


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
    for name in GROUPS.get(table, (table,)):
        _one(name, out, page, only, scenarios, seeds, workers, threads, again, write_only)


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
    for name in only or ():
        if name not in chosen.entries:
            raise OptionsError(f"--only {name}: no such method in {table}; {nearest(name, chosen.entries)}")
    for name in scenarios or ():
        if name not in SCENARIOS:
            raise OptionsError(f"--scenarios {name}: no such scenario; {nearest(name, SCENARIOS)}")
    for seed in seeds or ():
        if seed not in chosen.seeds:
            raise OptionsError(f"--seeds {seed}: not a seed of {table}; it has {', '.join(map(str, chosen.seeds))}")
    results_file = page.parent / "results" / f"{table}.json"
    if write_only:
        results = read_results(results_file)
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
    if chosen.is_ablation:
        draw_ablation(chosen, results, page.parent / "images" / f"{table}.png")
    text = table_markdown(table, chosen, results)
    write_section(page, table, text)
    print(text)
    print(f"written to {page}")


app = make_app(reproduce)
