"""``reverie pretrain``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from reverie.cli.arguments import make_app, take_dotted
from reverie.cli.display import Live, percent, print_json
from reverie.experiments.pretraining import pretrain
from reverie.options import from_options
from reverie.solvers import SOLVERS

_dotted: dict[str, Any] = {}


def prepare(words: Sequence[str]) -> list[str]:
    rest, dotted = take_dotted(words, ("stream", "backbone"))
    _dotted.clear()
    _dotted.update(dotted)
    return rest


def pretrain_backbone(
    out: Annotated[Path, typer.Option(help="the .safetensors file to write")],
    stream: Annotated[
        str, typer.Option(help="a stream (reverie list streams), or a data set (reverie data)")
    ] = "digits",
    backbone: Annotated[str | None, typer.Option(help="a solver (reverie list solvers); default: the stream's")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="updates; default: the stream's, times its tasks")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="passes over the rows, instead of steps")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="rows a step")] = None,
    seed: Annotated[int, typer.Option(help="everything random follows from it")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto")] = "auto",
    precision: Annotated[str, typer.Option(help="float32 or bf16")] = "float32",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads")] = None,
    data_dir: Annotated[
        str | None, typer.Option(help="folder of data sets; default: REVERIE_DATA, then a cache")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print as JSON")] = False,
) -> None:
    """Train a network on all of a stream and save it, to be frozen: --learner latent-replay --learner.weights FILE."""
    options = dict(_dotted.get("backbone", {}))
    part = None
    if backbone is not None or options:
        part = from_options(SOLVERS, {"name": backbone or "cnn", **options})
    source: Any = {"name": stream, **_dotted["stream"]} if _dotted.get("stream") else stream
    settings = {"device": device, "precision": precision, "threads": threads, "data_dir": data_dir}
    console = Console(stderr=json)
    about = pretrain(
        source,
        part,
        out,
        seed=seed,
        steps=steps,
        epochs=epochs,
        batch_size=batch_size,
        observer=Live(console, "pretrain", None),
        **{key: value for key, value in settings.items() if value is not None},
    )
    if json:
        print_json({"file": str(out), **about})
        return
    console.print(
        f"trained on {about['stream']}: {percent(about['accuracy'])} % on its test rows; weights in {out}",
        highlight=False,
        soft_wrap=True,
    )


app = make_app(pretrain_backbone)
