"""The picture of a table of posteriors: what every method says after its last task, side by side."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from textwrap import fill

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reverie.experiments.tables import PublishedTable, run_folder
from reverie.reports import posteriors
from reverie.reports.figures import RC
from reverie.reports.posterior_figures import paint_fan, paint_regions
from reverie.reports.records import read_run
from reverie.reports.tables import Group

COLUMNS = 5
PANEL = (2.6, 2.3)  # inches
TITLE = 34  # letters a line

Panel = Callable[[Axes], None]


def draw_side_by_side(table: PublishedTable, runs: Path, path: Path) -> None:
    """Writes a picture of the first seed of every entry, as far as its folder below ``runs`` is there and its probe has looked; of none: nothing.

    Of regression fans; of inputs in the plane the answers where the task is inferred, and last the best ones. Raises StorageError.
    """
    panels: list[Panel] = []
    best: list[Panel] = []
    for key, entry in table.entries.items():
        folder = run_folder(runs, key, entry.scenarios[0], table.seeds[0])
        if not (folder / "result.json").exists():
            continue
        record = read_run(folder)
        if not record.complete:
            continue
        group = Group(entry.title, (record,), (), {})
        title = fill(entry.title, TITLE)
        fans, plane = posteriors.fans(group), posteriors.plane(group)
        if fans:
            panels.append(partial(paint_fan, found=fans[-1], title=title))
        if plane is not None:
            panels.append(partial(paint_regions, found=plane, answers=plane.answer, title=title, names=False))
            best = [partial(paint_regions, found=plane, answers=plane.bayes, title="best answer")]
    if panels:
        _draw([*panels, *best], path)


def _draw(panels: list[Panel], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    with matplotlib.rc_context({**RC, "axes.titlesize": "small"}):
        figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * rows), layout="constrained", dpi=110)
        places = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes, paint in zip(places, panels, strict=False):
            paint(axes)
        for axes in places[len(panels) :]:
            axes.remove()
        figure.savefig(path)
