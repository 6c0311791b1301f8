"""``reverie run``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from reverie.checks import OptionsError, Problems, ReverieError, nearest
from reverie.cli.arguments import make_app, several, take_dotted
from reverie.cli.display import Live, make_progress, print_json, print_warnings, result_table
from reverie.experiments.config import RunConfig, merged, mistakes, read_yaml
from reverie.experiments.grid import Cell, grid, run_grid
from reverie.experiments.presets import PRESETS
from reverie.learners import LEARNERS
from reverie.options import signature
from reverie.reports import write_report

DEMONSTRATION = ("naive", "joint", "generative-replay")

_dotted: dict[str, Any] = {}


def prepare(words: Sequence[str]) -> list[str]:
    rest, dotted = take_dotted(several(words, ["--learner", "--seeds"]))
    _dotted.clear()
    _dotted.update(dotted)
    return rest


def run(
    stream: Annotated[str | None, typer.Option(help="a stream: see reverie list streams")] = None,
    scenario: Annotated[str | None, typer.Option(help="task, domain or class; default: the stream's usual one")] = None,
    learner: Annotated[list[str] | None, typer.Option(help="one or more learners: see reverie list learners")] = None,
    preset: Annotated[str | None, typer.Option(help="a complete set of options: see reverie list presets")] = None,
    config: Annotated[Path | None, typer.Option(help="a config.yaml, as a run leaves it")] = None,
    seed: Annotated[int | None, typer.Option(help="everything random follows from it")] = None,
    seeds: Annotated[list[int] | None, typer.Option(help="several seeds: a run for each")] = None,
    out: Annotated[Path | None, typer.Option(help="the run folder, or the folder of a grid of runs")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace a run with other options")] = False,
    workers: Annotated[int, typer.Option(min=1, help="runs at a time, each in a process of its own")] = 1,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or auto")] = None,
    precision: Annotated[str | None, typer.Option(help="float32 or bf16")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of a run")] = None,
    evaluate: Annotated[str | None, typer.Option(help="seen or all: test sets after each task")] = None,
    evaluate_every: Annotated[int | None, typer.Option(help="also evaluate every so many steps")] = None,
    checkpoint_seconds: Annotated[float | None, typer.Option(help="seconds between saved states")] = None,
    checkpoint_steps: Annotated[int | None, typer.Option(help="steps between saved states")] = None,
    data_dir: Annotated[
        str | None, typer.Option(help="folder of data sets; default: REVERIE_DATA, then a cache")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print the results as JSON and nothing else")] = False,
) -> None:
    """Train learners on a stream.

    Options of a part are written after its name: --learner.generator vae --learner.generator.latent_dim 100 --stream.tasks 5.
    Several learners or seeds make a grid; what is finished is not run again. With no options at all: generative replay on
    handwritten digits, beside naive and joint training.
    """
    settings: dict[str, Any] = {
        "scenario": scenario,
        "device": device,
        "precision": precision,
        "threads": threads,
        "evaluate": evaluate,
        "evaluate_every": evaluate_every,
        "checkpoint_seconds": checkpoint_seconds,
        "checkpoint_steps": checkpoint_steps,
        "data_dir": data_dir,
    }
    base = _base(preset, config)
    override = {key: value for key, value in settings.items() if value is not None}
    if stream is not None:
        override["stream"] = {"name": stream}
    demonstration = not (base or learner or _dotted or {"stream", "scenario"} & {*override})
    if demonstration and threads is None:
        override["threads"] = (
            1  # networks this small gain nothing from a second thread, and lose much on a busy machine
        )
    learners = list(learner or (DEMONSTRATION if demonstration else []))
    configs = _configs(base, override, learners)
    chosen = seeds or [seed if seed is not None else base.get("seed", 0)]
    if seed is not None and seeds:
        raise OptionsError(f"--seed {seed} and --seeds {seeds}: give one of the two")
    if workers > 1 and threads is None:
        share = max((os.cpu_count() or workers) // workers, 1)
        configs = [RunConfig.from_dict({**c.to_dict(), "threads": share}) for c in configs]
    cells = grid(configs, chosen, out or _default_folder(configs, chosen, demonstration))
    console = Console(stderr=json)
    results = _run_all(cells, workers, overwrite, console)
    report = write_report(
        [cell.folder for cell in cells],
        (out or cells[0].folder if len(cells) == 1 else cells[0].folder.parent) / "report.html",
    )
    if json:
        print_json(results if len(results) > 1 else results[0])
        return
    console.print(result_table(results))
    print_warnings(console, results)
    console.print(f"report: {report}", highlight=False, soft_wrap=True)


def _run_all(cells: Sequence[Cell], workers: int, overwrite: bool, console: Console) -> list[dict[str, Any]]:
    """Results in the order of the cells."""
    found: dict[Path, dict[str, Any]] = {}
    bar = make_progress(console) if console.is_terminal else None
    try:
        if bar is not None:
            bar.start()
        observer = None if workers > 1 else lambda cell: Live(console, cell.title, bar)
        for cell, result in run_grid(cells, workers=workers, overwrite=overwrite, observer=observer):
            found[cell.folder] = result
            if workers > 1:
                console.print(f"{cell.title}: done", highlight=False)
    except ReverieError as error:
        if getattr(error, "exit_code", None) == 130 and len(cells) > 1:
            error.args = (
                f"{error}; {len(found)} of {len(cells)} runs are finished; run the same command again to continue them all",
            )
        raise
    finally:
        if bar is not None:
            bar.stop()
    return [found[cell.folder] for cell in cells]


def _base(preset: str | None, config: Path | None) -> dict[str, Any]:
    if preset is not None and config is not None:
        raise OptionsError("--preset and --config: give one of the two")
    if config is not None:
        return read_yaml(config)
    if preset is None:
        return {}
    if preset not in PRESETS:
        raise OptionsError(f"preset = {preset!r}: no preset of this name; {nearest(preset, PRESETS)}")
    return dict(PRESETS[preset].options)


def _configs(base: dict[str, Any], override: dict[str, Any], learners: Sequence[str]) -> list[RunConfig]:
    """One config a learner; part options go to those learners that have them. All mistakes are reported together."""
    problems = Problems()
    configs = []
    names: list[str | None] = [*learners] or [None]
    for name in names:
        values = merged(base, override)
        if name is not None:
            values = merged(values, {"learner": {"name": name}})
        values.setdefault("learner", {"name": "generative-replay"})
        values.setdefault("stream", {"name": "split-digits"})
        dotted = {part: dict(options) for part, options in _dotted.items()}
        if len(learners) > 1 and "learner" in dotted:
            dotted["learner"] = {key: value for key, value in dotted["learner"].items() if _has(name, key)}
        try:
            configs.append(RunConfig.from_dict(merged(values, dotted)))
        except OptionsError as error:
            problems.found += [mistake for mistake in mistakes(error) if mistake not in problems.found]
    for key in _dotted.get("learner", {}) if len(learners) > 1 else ():
        if not any(_has(name, key) for name in learners):
            problems.add(f"learner.{key}: none of {', '.join(learners)} has this option")
    problems.raise_as(OptionsError, "these options cannot be used")
    return configs


def _has(learner: str | None, option: str) -> bool:
    if learner in LEARNERS.aliases:
        learner = LEARNERS.aliases[learner]["name"]
    return learner in LEARNERS.parts and option in signature(LEARNERS.parts[learner])


def _default_folder(configs: Sequence[RunConfig], seeds: Sequence[int], demonstration: bool) -> Path:
    if demonstration:
        return Path("runs/demo")
    stream = configs[0].stream
    name = "-".join(str(stream[key]) for key in ("name", "dataset") if key in stream)
    scenario = f"-{configs[0].scenario}" if configs[0].scenario else ""
    if len(configs) * len(seeds) == 1:
        return Path("runs") / f"{name}{scenario}-{configs[0].learner['name']}-seed{seeds[0]}"
    return Path("runs") / f"{name}{scenario}"


app = make_app(run)
