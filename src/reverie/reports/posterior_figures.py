"""Figures of models of single tasks: whose inputs they take for their own, what they say in the plane, and how sure regression is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from reverie.reports.figures import (
    CLASSES,
    HEAT,
    INK,
    SERIES,
    SMALL,
    SQUARE,
    Picture,
    cut,
    draw,
    matrix_size,
    paint_matrix,
    spread,
)
from reverie.reports.posteriors import Entropies, Fan, Plane
from reverie.reports.words import percent, seeds_text

MAP, LARGE_MAP = (2.2, 2.35), (3.4, 3.5)
MOST_MODELS = 6  # whose maps are drawn
LEVELS = 10  # of entropy
ONE_MODEL = SERIES[5]  # the grey one, where the other colours are those of tasks
ROOM = 0.45  # of the height of the data, above and below them in a fan


# ------------------------------------------------------------------------------------------ entropies


def entropy_map(found: Entropies, label: str) -> Picture:
    """Mean entropy of every model (columns) on every test set (rows)."""
    values = found.entropy
    own = np.mean([row[min(i, len(row) - 1)] for i, row in enumerate(values)])

    def paint(axes: Axes) -> None:
        decimals = 2 if values.shape[1] < 7 else 1
        paint_matrix(axes, values.tolist(), lambda value: min(max(value, 0.0), 1.0), lambda v: f"{v:.{decimals}f}")
        axes.set(xlabel="model of task", ylabel="test rows of task")

    caption = f"{label}, mean entropy, {seeds_text(found.n)}"
    rows = ". ".join(
        f"Rows of task {i + 1}: {', '.join(f'model {j + 1} {value:.2f}' for j, value in enumerate(row))}"
        for i, row in list(enumerate(values))[:MOST_MODELS]
    )
    alt = f"Heat map of {caption}, after task {found.task + 1}; mean of the diagonal {own:.2f}. {rows}."
    return draw(matrix_size(*values.shape), paint, alt, caption)


def confusion_maps(found: Entropies, label: str) -> list[Picture]:
    """A criterion: the share of rows of every task (rows) that were taken for each task (columns), in percent."""
    return [_confusion(found, label, name, shares) for name, shares in found.confusions.items()]


def _confusion(found: Entropies, label: str, criterion: str, shares: np.ndarray) -> Picture:
    def paint(axes: Axes) -> None:
        paint_matrix(axes, shares.tolist(), float, lambda value: f"{100 * value:.0f}")
        axes.set(xlabel=f"task inferred by {criterion}", ylabel="test rows of task")

    right = ", ".join(f"task {k + 1} {percent(float(share))}" for k, share in enumerate(np.diagonal(shares)))
    caption = f"{label}, tasks inferred by {criterion}, {seeds_text(found.n)}"
    alt = f"Heat map of {caption}, after task {found.task + 1}. Rows whose task is found: {right}."
    return draw(matrix_size(*shares.shape), paint, alt, caption)


def entropy_histograms(found: Entropies, label: str) -> list[Picture]:
    """A test set: entropies of its rows under its own model (filled) and under the others (line)."""
    return [_entropies(found, label, place) for place in spread(len(found.histogram_in))]


def _entropies(found: Entropies, label: str, place: int) -> Picture:
    counts = (found.histogram_in[place], found.histogram_out[place])
    inside, outside = (each / max(each.sum(), 1) for each in counts)
    edges = np.linspace(0, 1, len(inside) + 1)
    title = f"rows of task {place + 1}"

    def paint(axes: Axes) -> None:
        axes.stairs(inside, edges, fill=True, color=SERIES[0], alpha=0.75)
        if outside.any():
            axes.stairs(outside, edges, color=SERIES[1], linewidth=1.4)
        axes.set_title(title)
        axes.set(xlim=(-0.02, 1.02), ylim=(0, None), xlabel="entropy", xticks=(0, 0.5, 1))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
        axes.yaxis.set_major_locator(MaxNLocator(3))
        axes.grid(axis="x", visible=False)

    half = len(inside) // 2
    alt = (
        f"Histogram of entropies on {title}, {label}, seed {found.seed}: above one half are {percent(float(inside[half:].sum()))} under its "
        f"own model"
    ) + (f" and {percent(float(outside[half:].sum()))} under other models." if outside.any() else ".")
    return draw(SMALL, paint, alt, title)


# ------------------------------------------------------------------------------------------ in the plane


def plane_answers(found: Plane, label: str) -> list[Picture]:
    """Which class is answered where: with the task inferred, and at best."""
    best = float((found.answer == found.bayes).mean())
    return [
        _regions(
            found,
            found.answer,
            LARGE_MAP,
            "answer, task inferred",
            f"the answers of {label}, seed {found.seed}, after task {found.task + 1}, the task inferred; as the best answer on "
            f"{percent(best)} of the plane",
            f"{label}: answer where the task is inferred. The best one on {percent(best)} of the plane.",
        ),
        _regions(
            found,
            found.bayes,
            LARGE_MAP,
            "best answer",
            "the best answers",
            "Bayes-optimal: of the Gaussians that the rows are drawn from where these are known, or else of Gaussians with the means and "
            "covariances of the test rows (an estimate).",
        ),
    ]


def plane_models(found: Plane, label: str) -> list[tuple[str, list[Picture]]]:
    """A model: its entropy with the borders of its classes, then what single samples of its weights answer."""
    return [(f"model of task {k + 1}", _model(found, label, k)) for k in spread(len(found.entropy), MOST_MODELS)]


def _model(found: Plane, label: str, k: int) -> list[Picture]:
    whose = f"the model of task {k + 1}, {label}, seed {found.seed}, after task {found.task + 1}"

    def paint(axes: Axes) -> None:
        # Each level lies on those before it: no seams between them, and the page's own colour at every depth.
        for level in (np.arange(LEVELS) + 0.5) / LEVELS:
            if (found.entropy[k] >= level).any():
                ends = [level, max(2.0, float(found.entropy[k].max()) + 1)]
                axes.contourf(found.first, found.second, found.entropy[k], ends, colors=[HEAT], alpha=0.11)
        for c in np.unique(found.answers[k])[1:]:
            axes.contour(found.first, found.second, found.answers[k] >= c, [0.5], colors=[INK], linewidths=0.9)
        others = found.tasks != k
        axes.plot(*found.x[others].T, linestyle="", marker=".", markersize=2, color=INK, alpha=0.35)
        _rows(axes, found, ~others, names=False)
        _frame(axes, found, "entropy")

    above = percent(float((found.entropy[k] > 0.5).mean()))
    alt = f"Map of the entropy of {whose}: above one half on {above} of the plane. Line: border of its classes."
    pictures = [draw(MAP, paint, alt, "")]
    for number, answers in enumerate(found.samples[:, k], start=1):
        said = f"the answers of sample {number} of the weights of {whose}"
        pictures.append(_regions(found, answers, MAP, f"weight sample {number}", said, "", names=False))
    return pictures


def _regions(
    found: Plane,
    answers: np.ndarray,
    inches: tuple[float, float],
    title: str,
    said: str,
    caption: str,
    names: bool = True,
) -> Picture:
    present = np.unique(answers).tolist()
    shares = ", ".join(f"{found.classes[c]} {percent(float((answers == c).mean()))}" for c in present)
    alt = f"Map of {said}. Share of the plane by class: {shares}."
    return draw(inches, lambda axes: paint_regions(axes, found, answers, title, names), alt, caption)


def paint_regions(axes: Axes, found: Plane, answers: np.ndarray, title: str, names: bool = True) -> None:
    """answers (G, G): classes, each in its colour."""
    for c in np.unique(answers).tolist():
        colour = [CLASSES[c % len(CLASSES)]]
        axes.contourf(found.first, found.second, (answers == c).astype(float), [0.5, 1.5], colors=colour, alpha=0.3)
    _rows(axes, found, np.full(len(found.x), True), names)
    _frame(axes, found, title)


def _rows(axes: Axes, found: Plane, which: np.ndarray, names: bool) -> None:
    """Test rows in the colour of their class, and its name above each cloud of a task."""
    for c in np.unique(found.y[which]).tolist():
        mine = which & (found.y == c)
        colour = CLASSES[c % len(CLASSES)]
        axes.plot(*found.x[mine].T, linestyle="", marker="o", markersize=2.4, mew=0, color=colour, alpha=0.9)
        for task in np.unique(found.tasks[mine]) if names else ():
            cloud = found.x[mine & (found.tasks == task)]
            where = (float(cloud[:, 0].mean()), float(cloud[:, 1].max()))
            axes.annotate(
                cut(found.classes[c], 12), where, (0, 3), textcoords="offset points", ha="center", size=9, weight="bold"
            )


def _frame(axes: Axes, found: Plane, title: str) -> None:
    axes.set(xlim=(found.first[0], found.first[-1]), ylim=(found.second[0], found.second[-1]), title=title)
    axes.set(aspect="equal")
    axes.locator_params(nbins=4)
    axes.grid(False)
    axes.tick_params(length=2)


# ------------------------------------------------------------------------------------------ regression


def fan(found: Fan, label: str, title: str, inches: tuple[float, float] = SQUARE) -> Picture:
    """See ``paint_fan``."""
    said = ". ".join(_off(found, k) for k in found.tasks)
    alt = f"Predictions of {label}, seed {found.seed}, after task {found.task + 1}, with bands of one, two and three deviations. {said}."
    return draw(inches, lambda axes: paint_fan(axes, found, cut(title, 34)), alt, "")


def paint_fan(axes: Axes, found: Fan, title: str) -> None:
    """Mean and one, two and three deviations of each model; dashed: the truth in each task's interval; dots: training rows."""
    tasks = found.tasks
    known = np.concatenate([found.train_y, *(truth[np.isfinite(truth)] for truth in found.truth)])
    low, high = (float(known.min()), float(known.max())) if len(known) else (-1.0, 1.0)
    room = ROOM * (high - low) or 1.0
    for k, (mean, deviation) in enumerate(zip(found.mean, found.deviation, strict=True)):
        alone = len(found.mean) == 1
        colour = ONE_MODEL if alone and len(tasks) > 1 else SERIES[k % len(SERIES)]
        # Many models have much to say where they were taught nothing: that is drawn faintly.
        inside = np.full(len(found.grid), True) if alone else np.isfinite(found.truth[k])
        for times in (3, 2, 1):
            low_band, high_band = mean - times * deviation, mean + times * deviation
            for where, alpha in ((inside, 0.16), (~inside, 0.05)):
                axes.fill_between(found.grid, low_band, high_band, where=where, color=colour, alpha=alpha, linewidth=0)
        axes.plot(found.grid, mean, color=colour, linewidth=0.8, alpha=0.7)
        axes.plot(found.grid, np.where(inside, mean, np.nan), color=colour, linewidth=1.6)
    for k in tasks:
        axes.plot(found.grid, found.truth[k], color=INK, linewidth=1, dashes=(4, 2))
        mine = found.train_task == k
        axes.plot(
            found.train_x[mine],
            found.train_y[mine],
            linestyle="",
            marker="o",
            markersize=2.6,
            color=SERIES[k % len(SERIES)],
            mec=INK,
            mew=0.4,
        )
    axes.set(xlim=(found.grid[0], found.grid[-1]), ylim=(low - room, high + room), title=title)
    axes.grid(axis="x", visible=False)
    axes.yaxis.set_major_locator(MaxNLocator(4))


def _off(found: Fan, k: int) -> str:
    """How far the prediction for a task is from the truth, and how sure it is."""
    inside = np.isfinite(found.truth[k])
    model = k if len(found.mean) > 1 else 0
    mean, deviation = found.mean[model], found.deviation[model]
    if not inside.any():
        return f"Task {k + 1}: no truth on the grid"
    off = float(np.sqrt(np.mean((mean[inside] - found.truth[k][inside]) ** 2)))
    outside = f" and {deviation[~inside].mean():.2g} outside" if (~inside).any() else ""
    return f"Task {k + 1}: off by {off:.2g}, with a deviation of {deviation[inside].mean():.2g} inside its interval{outside}"


def fan_strip(found: Sequence[Fan], label: str) -> list[Picture]:
    """After each task, or some of them, evenly spread."""
    return [fan(found[k], label, f"after task {found[k].task + 1}", SMALL) for k in spread(len(found))]
