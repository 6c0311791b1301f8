"""Several runs: every learner with every seed, one folder each; what is finished is not run again."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

from reverie.checks import OptionsError, Problems, ReverieError
from reverie.engine import Interrupted, Observer
from reverie.experiments.config import RunConfig, mistakes
from reverie.experiments.runs import check_config, run_config


@dataclass(frozen=True)
class Cell:
    """One run of a grid."""

    title: str
    config: RunConfig
    folder: Path


def grid(configs: Sequence[RunConfig], seeds: Sequence[int], out: Path) -> list[Cell]:
    """A cell for every config and seed. A single one is ``out`` itself, several are folders in it, named by learner and seed.

    Raises OptionsError with every seed that cannot be one.
    """
    titles = _titles(configs)
    cells, problems = [], Problems()
    for title, config in zip(titles, configs, strict=True):
        for seed in seeds:
            alone = len(configs) * len(seeds) == 1
            name = title if len(seeds) == 1 else f"{title}-seed{seed}"
            values = {**config.to_dict(), "seed": seed}
            try:
                cells.append(Cell(name, RunConfig.from_dict(values), out if alone else out / name))
            except OptionsError as error:
                problems.found += [mistake for mistake in mistakes(error) if mistake not in problems.found]
    problems.raise_as(OptionsError, "these options cannot be used")
    return cells


def run_grid(
    cells: Sequence[Cell],
    *,
    workers: int = 1,
    overwrite: bool = False,
    observer: Callable[[Cell], Observer] | None = None,
) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Runs the cells, ``workers`` at a time in processes of their own, and gives each result as it comes.

    Observers see the cells only where they run in this process (``workers`` 1). Raises OptionsError, before the first cell
    trains, with everything that would stop any of them at its start.
    """
    if len(cells) > 1:
        _check(cells, overwrite)
    if workers == 1:
        for cell in cells:
            yield (
                cell,
                dict(
                    run_config(
                        cell.config, cell.folder, overwrite=overwrite, observer=observer and observer(cell)
                    ).result
                ),
            )
        return
    # Fresh interpreters: a forked torch with threads may hang.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_end_with_parent) as pool:
        futures = {pool.submit(_run_cell, cell, overwrite): cell for cell in cells}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except ReverieError:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
        except KeyboardInterrupt:  # the processes got it too, and save their state
            pool.shutdown(wait=True, cancel_futures=True)
            raise Interrupted("stopped on request; what was trained is saved") from None


def _check(cells: Sequence[Cell], overwrite: bool) -> None:
    found: dict[str, list[str]] = {}
    for cell in cells:
        try:
            check_config(cell.config, cell.folder, overwrite=overwrite)
        except ReverieError as error:
            found.setdefault(str(error), []).append(cell.title)
    problems = Problems()
    for message, titles in found.items():
        problems.add(f"{', '.join(titles)}: {message}")
    problems.raise_as(OptionsError, "nothing was trained, for some of these runs cannot be made")


def _run_cell(cell: Cell, overwrite: bool) -> dict[str, Any]:
    return dict(run_config(cell.config, cell.folder, overwrite=overwrite).result)


def _end_with_parent() -> None:
    """A worker whose parent was killed would go on for hours and keep its folder locked. What it has saved serves the next command."""

    def watch() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _titles(configs: Sequence[RunConfig]) -> list[str]:
    """The learners' names, numbered where one occurs more than once."""
    names = [config.learner["name"] for config in configs]
    return [
        name if names.count(name) == 1 else f"{name}-{names[:number].count(name) + 1}"
        for number, name in enumerate(names)
    ]
