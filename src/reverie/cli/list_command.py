"""``reverie list streams|learners|generators|solvers|presets``."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
import yaml
from rich.console import Console
from rich.table import Table as Grid

from reverie.checks import OptionsError, nearest
from reverie.cli.arguments import make_app
from reverie.cli.display import print_json
from reverie.experiments.presets import PRESETS
from reverie.generators import DENSITIES, GENERATORS
from reverie.learners import LEARNERS
from reverie.learners.coresets import CORESETS
from reverie.nn.hypernetworks import HYPERNETWORKS
from reverie.nn.optimisers import OPTIMISERS
from reverie.options import Option, Part, Table, signature, to_options
from reverie.posteriors import POSTERIORS
from reverie.replay import BUFFERS
from reverie.solvers import SOLVERS
from reverie.streams import STREAMS

TABLES: dict[str, Table] = {
    "streams": STREAMS,
    "learners": LEARNERS,
    "generators": GENERATORS,
    "densities": DENSITIES,
    "solvers": SOLVERS,
    "buffers": BUFFERS,
    "optimisers": OPTIMISERS,
    "posteriors": POSTERIORS,
    "hypernetworks": HYPERNETWORKS,
    "coresets": CORESETS,
}


def prepare(words: Sequence[str]) -> list[str]:
    return list(words)


def list_parts(
    kind: Annotated[
        str | None,
        typer.Argument(
            help="streams, learners, generators, densities, solvers, buffers, optimisers, posteriors, hypernetworks, coresets or presets"
        ),
    ] = None,
    name: Annotated[str | None, typer.Argument(help="one entry, with its options")] = None,
    json: Annotated[bool, typer.Option("--json", help="print as JSON")] = False,
) -> None:
    """Show what there is, or one entry's options, source and cost."""
    kinds = [*TABLES, "presets"]
    if kind is None:
        _show(
            "reverie list ...",
            {**{k: ", ".join(TABLES[k].names()) for k in TABLES}, "presets": ", ".join(PRESETS)},
            json,
        )
        return
    if kind not in kinds:
        raise OptionsError(f"{kind!r}: no such list; {nearest(kind, kinds)}")
    entries = (
        {n: _first_line(TABLES[kind], n) for n in TABLES[kind].names()}
        if kind in TABLES
        else {n: p.source for n, p in PRESETS.items()}
    )
    if name is None:
        _show(kind, entries, json)
        return
    if name not in entries:
        raise OptionsError(f"{name!r}: no such entry among the {kind}; {nearest(name, entries)}")
    if kind == "presets":
        preset = PRESETS[name]
        described: dict[str, Any] = {"source": preset.source, "cost": preset.cost, "options": dict(preset.options)}
        print_json(described) if json else print(yaml.safe_dump(described, sort_keys=False).strip())
        return
    _show_part(TABLES[kind], name, json)


def _show(kind: str, entries: dict[str, str], json: bool) -> None:
    if json:
        print_json(entries)
        return
    grid = Grid(title=kind, title_justify="left", show_header=False)
    for name, what in entries.items():
        grid.add_row(name, what)
    Console().print(grid)


def _show_part(table: Table, name: str, json: bool) -> None:
    fixed = table.aliases.get(name, {})
    part = table.parts[fixed.get("name", name)]
    options = {
        key: {
            "default": _default(option, fixed.get(key, option.default)),
            "description": option.description,
            "type": _type(option),
        }
        for key, option in signature(part).items()
    }
    text = inspect.getdoc(part) or ""
    if json:
        print_json({"name": name, "description": text, "options": options})
        return
    console = Console()
    console.print(f"{name}\n\n{text}\n", highlight=False, markup=False)
    grid = Grid("option", "default", "values", "what it is")
    for key, option in options.items():
        grid.add_row(key, str(option["default"]), option["type"], option["description"])
    console.print(grid)


def _first_line(table: Table, name: str) -> str:
    alias = table.aliases.get(name)
    if alias is not None:
        options = ", ".join(f"{key} = {value}" for key, value in alias.items() if key != "name")
        return f"{alias['name']} with {options}"
    paragraph = " ".join((inspect.getdoc(table.parts[name]) or "").split("\n\n")[0].split())
    return paragraph.split(". ")[0].rstrip(".:") + "."


def _default(option: Option, value: Any) -> Any:
    if option.required and value is option.default:
        return "(must be given)"
    if isinstance(value, Part):
        return to_options(value)["name"]
    return [_default(option, inner) for inner in value] if isinstance(value, tuple) else value


def _type(option: Option) -> str:
    if option.table is not None:
        return f"a {option.table.kind}, ..." if isinstance(option.default, tuple) else f"a {option.table.kind}"
    return _readable(option.annotation)


def _readable(annotation: Any) -> str:
    if hasattr(annotation, "__metadata__"):
        inner = _readable(annotation.__origin__)
        rules = [rule for item in annotation.__metadata__ for rule in getattr(item, "metadata", [])]
        signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
        texts = [
            f"{sign} {getattr(rule, key):g}" for rule in rules for key, sign in signs.items() if hasattr(rule, key)
        ]
        head, *rest = inner.split(" | ")  # the range is that of the first kind; "none" has none
        return " | ".join([f"{head} {' and '.join(texts)}" if texts else head, *rest])
    if get_origin(annotation) is Literal:
        return " | ".join(map(str, get_args(annotation)))
    if get_origin(annotation) is tuple:
        return f"list of {_readable(get_args(annotation)[0])}"
    if get_args(annotation):
        return " | ".join(dict.fromkeys(_readable(item) for item in get_args(annotation)))
    return {"NoneType": "none", "str": "text", "int": "integer", "float": "number", "bool": "true or false"}.get(
        getattr(annotation, "__name__", ""), getattr(annotation, "__name__", str(annotation))
    )


app = make_app(list_parts)
