"""Draws the picture of the README from run folders: python docs/picture.py OUT.png RUN...

Left, the average accuracy over the tasks seen so far after each task; right, what the generator of the first run that has one draws
after each task. Reads saved records alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from reverie.reports import RunRecord, read_run

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#555555", "#e69f00")


def draw(records: list[RunRecord], out: Path) -> None:
    figure = Figure(figsize=(9.6, 3.9), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    for record, colour in zip(records, COLOURS, strict=False):
        rows = [[value for value in row if value is not None] for row in record.result.accuracy]
        means = [100 * sum(row) / len(row) for row in rows]
        tasks = len(record.result.tasks)
        label = f"{record.result.learner.replace('-', ' ')}  {means[-1]:.0f} %"
        if len(means) == 1:
            left.axhline(means[0], color=colour, linestyle=":", label=label)
        else:
            left.plot(range(1, tasks + 1), means, marker="o", color=colour, label=label)
    left.set(
        xlabel="tasks learnt (two digits each)", ylabel="accuracy on all of them, %", ylim=(0, 103), xticks=range(1, 6)
    )
    left.set_title("A network that learns digit after digit", fontsize=11, loc="left")
    left.legend(frameon=False, loc="lower left", fontsize=9)
    left.spines[["top", "right"]].set_visible(False)
    samples = next(record.folder / "samples" for record in records if (record.folder / "samples").is_dir())
    strips = [_first_row(samples / f"task-{task}-generated-samples.png") for task in range(1, 6)]
    right.imshow(np.concatenate(strips), cmap="gray_r", vmin=0, vmax=255, interpolation="nearest")
    height = strips[0].shape[0]
    right.set_yticks(
        [height * (task + 0.5) for task in range(5)], [f"after task {task + 1}" for task in range(5)], fontsize=9
    )
    right.set_xticks([])
    right.tick_params(length=0)
    right.spines[:].set_visible(False)
    right.set_title("What it rehearses from: samples, no images", fontsize=11, loc="left")
    figure.savefig(out)


def _first_row(path: Path) -> np.ndarray:
    """The first ten samples of a grid of ten columns, with room between them."""
    with Image.open(path) as image:
        grid = np.asarray(image.convert("L"))
    size = (grid.shape[1] + 1) // 10 - 1
    cells = [np.pad(grid[:size, k * (size + 1) : k * (size + 1) + size], ((0, 4), (0, 4))) for k in range(10)]
    return np.concatenate(cells, axis=1)


if __name__ == "__main__":
    draw([read_run(Path(folder)) for folder in sys.argv[2:]], Path(sys.argv[1]))
