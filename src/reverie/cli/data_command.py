"""``reverie data``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from reverie.checks import OptionsError, nearest
from reverie.cli.arguments import make_app
from reverie.cli.display import print_json
from reverie.streams.datasets import available, fetch, verify

ACTIONS = ("list", "fetch", "verify")


def prepare(words: Sequence[str]) -> list[str]:
    return list(words)


def data(
    action: Annotated[str, typer.Argument(help="list, fetch or verify")] = "list",
    names: Annotated[list[str] | None, typer.Argument(help="data sets; default: all that are here")] = None,
    data_dir: Annotated[
        str | None, typer.Option(help="folder of data sets; default: REVERIE_DATA, then a cache")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print as JSON")] = False,
) -> None:
    """Find, fetch and verify data sets. Nothing is fetched unless asked for here or by a run."""
    if action not in ACTIONS:
        raise OptionsError(f"{action!r}: no such action; {nearest(action, ACTIONS)}")
    found = available(data_dir)
    unknown = [name for name in names or [] if name not in found]
    if unknown:
        raise OptionsError("; ".join(f"{name!r}: no such data set, {nearest(name, found)}" for name in unknown))
    if action == "fetch":
        if not names:
            raise OptionsError("reverie data fetch: name the data sets to fetch")
        places = {name: str(fetch(name)) for name in names}
    elif action == "verify":
        places = {
            name: str(verify(name, data_dir)) for name in names or [n for n, path in found.items() if path is not None]
        }
    else:
        places = {
            name: str(path) if path is not None else "" for name, path in found.items() if not names or name in names
        }
    if json:
        print_json({name: place or None for name, place in places.items()})
        return
    table = Table("data set", {"list": "found in", "fetch": "fetched to", "verify": "verified in"}[action])
    for name, place in places.items():
        table.add_row(name, place or "not here")
    Console().print(table)


app = make_app(data)
