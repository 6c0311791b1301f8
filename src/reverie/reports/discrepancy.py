"""The picture of a table of data sets met one after another: how far replay lies from the past, against what that costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from reverie.experiments.conditions import Result
from reverie.experiments.tables import PublishedTable, risk_gaps
from reverie.reports.figures import FAINT, MARKERS, RC, SERIES

INCHES = (5.2, 3.6)


def draw_discrepancy(table: PublishedTable, results: Sequence[Result], path: Path) -> None:
    """Writes a picture with a mark for each earlier task after each later one of every run, see ``risk_gaps``; of none: nothing."""
    found = risk_gaps(table, results)
    if not found:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=INCHES, layout="constrained", dpi=110)
        axes = figure.subplots()
        axes.axhline(0, color=FAINT, zorder=1)
        for number, (key, points) in enumerate(found.items()):
            colour, marker = SERIES[number % len(SERIES)], MARKERS[number % len(MARKERS)]
            label = table.entries[key].title
            axes.plot(*zip(*points, strict=True), linestyle="", marker=marker, color=colour, label=label)
        axes.set(xlabel="discrepancy of the replay from the past", ylabel="risk on the past less that on its replay")
        axes.legend(fontsize=7, frameon=False)
        figure.savefig(path)
