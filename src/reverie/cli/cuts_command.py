"""``reverie cuts``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from reverie.cli.arguments import make_app, take_dotted
from reverie.cli.display import print_json, size
from reverie.options import from_options
from reverie.solvers import SOLVERS, cuts
from reverie.streams import STREAMS
from reverie.streams.rows import stored_bytes

_dotted: dict[str, Any] = {}


def prepare(words: Sequence[str]) -> list[str]:
    rest, dotted = take_dotted(words, ("stream", "backbone"))
    _dotted.clear()
    _dotted.update(dotted)
    return rest


def list_cuts(
    stream: Annotated[str, typer.Option(help="a stream: see reverie list streams")] = "split-digits",
    backbone: Annotated[
        str | None, typer.Option(help="a solver: see reverie list solvers; default: the stream's")
    ] = None,
    data_dir: Annotated[
        str | None, typer.Option(help="folder of data sets; default: REVERIE_DATA, then a cache")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print as JSON")] = False,
) -> None:
    """Where a backbone can be cut, and what a latent costs there. The name is what --learner.cut takes; * marks the usual cut."""
    source = from_options(STREAMS, {"name": stream, **_dotted.get("stream", {})})
    made = source.build(source.scenarios[0], 0, data_dir)
    options: dict[str, Any] = {"name": backbone} if backbone is not None else dict(made.spec.recommended.backbone)
    solver = from_options(SOLVERS, {**options, **_dotted.get("backbone", {})})
    found = cuts(solver, made.spec)
    raw = stored_bytes(made[0].train)
    if json:
        print_json(
            [{**asdict(cut), "width": cut.width, "latent_bytes": cut.num_bytes, "raw_bytes": raw} for cut in found]
        )
        return
    grid = Table(box=None)
    for title in ("cut", "module", "shape", "width", "latent", "input", "below", "above", "saved, FLOP"):
        grid.add_column(title, no_wrap=True, justify="left" if title in ("cut", "module") else "right")
    for cut in found:
        grid.add_row(
            cut.name + "*" * cut.usual,
            cut.kind,
            "x".join(map(str, cut.shape)),
            f"{cut.width:,}",
            size(cut.num_bytes),
            size(raw),
            f"{cut.below:,}",
            f"{cut.above:,}",
            f"{2 * cut.multiplications:,}",
        )
    console = Console()
    console.print(grid)
    console.print(
        "below, above: parameters on either side; saved: what a rehearsed latent is spared; * the usual cut",
        highlight=False,
    )


app = make_app(list_cuts)
