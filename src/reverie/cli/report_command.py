"""``reverie report RUN...``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from reverie.cli.arguments import make_app
from reverie.reports import write_report


def prepare(words: Sequence[str]) -> list[str]:
    return list(words)


def report(
    runs: Annotated[list[Path], typer.Argument(help="run folders, or folders of runs")],
    out: Annotated[Path | None, typer.Option(help="the page; default: report.html in the first folder")] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="folder that every figure of the page is also written to, as SVG")
    ] = None,
) -> None:
    """Write one HTML page, which needs no network, from saved records alone."""
    print(f"report: {write_report(runs, out or runs[0] / 'report.html', pictures)}")


app = make_app(report)
