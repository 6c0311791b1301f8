"""The figure of an ablation: a line for each variant, a panel for each stream, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from reverie.experiments.tables import Measured, PublishedTable, mean_and_error, measured
from reverie.reports.figures import FAINT, INK, RC, SERIES


def draw_ablation(table: PublishedTable, results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Writes a picture of what was run so far.

    Of each stream: accuracy (dot) and learning accuracy (ring) with standard errors, and a line to the reference, whose length is the
    generator gap. Then kept bytes and seconds, of each stream a mark.
    """
    found = measured(table, results)
    titles = {entry.variant: entry.title for entry in table.entries.values()}
    streams = list(dict.fromkeys(entry.stream for entry in table.entries.values()))
    places = {variant: -row for row, variant in enumerate(titles)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(2.2 * len(streams) + 5.6, 0.24 * len(titles) + 1.3), layout="constrained", dpi=110)
        *panels, kept, spent = figure.subplots(1, len(streams) + 2, sharey=True)
        for axes, stream in zip(panels, streams, strict=True):
            mine = {variant: one for (variant, of), one in found.items() if of == stream}
            _accuracies(axes, mine, places)
            axes.set(title=stream, xlabel="accuracy, %")
        for number, (axes, label) in enumerate(((kept, "kept, bytes"), (spent, "seconds a run"))):
            for stream, colour in zip(streams, SERIES, strict=False):
                mine = {variant: one for (variant, of), one in found.items() if of == stream}
                values = [(one.persistent_bytes, one.seconds)[number] for one in mine.values()]
                axes.plot(
                    values, [places[v] for v in mine], "|", color=colour, markersize=9, markeredgewidth=2, label=stream
                )
            axes.set(xscale="log", xlabel=label)
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.xaxis.set_minor_formatter(NullFormatter())  # within one decade matplotlib would label these too
        spent.legend(fontsize=7, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderpad=0)
        panels[0].set_yticks(list(places.values()), list(titles.values()))
        figure.savefig(path)


def _accuracies(axes: Axes, mine: Mapping[str, Measured], places: Mapping[str, int]) -> None:
    for variant, one in mine.items():
        row = places[variant]
        mean, error = mean_and_error(one.accuracy)
        if one.gap:
            axes.plot([mean, mean + sum(one.gap) / len(one.gap)], [row, row], color=FAINT, linewidth=3, zorder=1)
        learning, spread = mean_and_error(one.learning_accuracy)
        axes.errorbar(
            learning, row, xerr=spread, fmt="o", color=SERIES[1], markerfacecolor="white", markersize=4, zorder=2
        )
        axes.errorbar(mean, row, xerr=error, fmt="o", color=INK, ecolor=INK, markersize=4, capsize=2, zorder=3)
