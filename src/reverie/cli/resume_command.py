"""``reverie resume RUN``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from reverie.cli.arguments import make_app
from reverie.cli.display import Live, make_progress, print_json, print_warnings, result_table
from reverie.experiments.runs import resume as resume_run
from reverie.reports import write_report


def prepare(words: Sequence[str]) -> list[str]:
    return list(words)


def resume(
    run: Annotated[Path, typer.Argument(help="the run folder")],
    data_dir: Annotated[str | None, typer.Option(help="folder of data sets, if it moved")] = None,
    checkpoint_seconds: Annotated[float | None, typer.Option(help="seconds between saved states")] = None,
    checkpoint_steps: Annotated[int | None, typer.Option(help="steps between saved states")] = None,
    json: Annotated[bool, typer.Option("--json", help="print the result as JSON and nothing else")] = False,
) -> None:
    """Continue a run where it stopped; the result is that of the unbroken run, bit for bit. A finished run is shown again."""
    changes: dict[str, Any] = {
        "data_dir": data_dir,
        "checkpoint_seconds": checkpoint_seconds,
        "checkpoint_steps": checkpoint_steps,
    }
    console = Console(stderr=json)
    bar = make_progress(console) if console.is_terminal else None
    try:
        if bar is not None:
            bar.start()
        given = {key: value for key, value in changes.items() if value is not None}
        result = dict(resume_run(run, Live(console, run.name, bar), **given).result)
    finally:
        if bar is not None:
            bar.stop()
    report = write_report([run], run / "report.html")
    if json:
        print_json(result)
        return
    console.print(result_table([result]))
    print_warnings(console, [result])
    console.print(f"report: {report}", highlight=False, soft_wrap=True)


app = make_app(resume)
