"""Figures as SVG text with a description in words.

Colours are written as CSS variables with a fallback (``var(--series-1, #0072b2)``) and text as ``currentColor``, so that one
picture suits a light page, a dark one and a file of its own. Groups differ in colour, marker and dash. Figures are small, and those that
show many things come as many panels, so that a page can lay them out on any width.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from reverie.reports import curves, tables, words
from reverie.reports.curves import Curve, Points
from reverie.reports.latents import Projection
from reverie.reports.records import RunRecord
from reverie.reports.tables import Group
from reverie.reports.words import Estimate, duration, listed, percent, percent_estimate, plural, seeds_text, size

INK, FAINT, HEAT, HEAT_INK = "#1b1f23", "#d3d8de", "#0b4f96", "#fefefe"
# After Okabe and Ito (2008): told apart with every common colour vision; on a page, darker or lighter with its theme.
SERIES = ("#0072b2", "#c2500a", "#00805e", "#a34b86", "#9a6a00", "#5b6672", "#7a3f1d")
CLASSES = (*SERIES, "#4b4fc4", "#5f7a00", "#c2185b")  # where classes are told apart; their names stand beside them
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
SWATCHES = (  # the markers again, for keys in HTML, in a box of 10 x 10
    "M5 1a4 4 0 1 0 .01 0z",
    "M1.5 1.5h7v7h-7z",
    "M5 1l4.4 7.6H.6z",
    "M5 .4L9.6 5 5 9.6.4 5z",
    "M5 9L.6 1.4h8.8z",
    "M3.5 1h3v2.5H9v3H6.500V9h-3V6.500H1v-3h2.500z",
    "M1 2.500L2.500 1 5 3.500 7.500 1 9 2.500 6.500 5 9 7.500 7.500 9 5 6.500 2.500 9 1 7.500 3.500 5z",
)
DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1.5, 1.5), (6, 2, 1.5, 2))
THEME = {
    INK: "currentColor",
    FAINT: f"var(--faint, {FAINT})",
    HEAT: f"var(--heat, {HEAT})",
    HEAT_INK: f"var(--heat-ink, {HEAT_INK})",
    **{colour: f"var(--series-{k}, {colour})" for k, colour in enumerate(CLASSES, start=1)},
}

WIDE, MEDIUM, SMALL, SQUARE, BARS = (
    (4.6, 3.0),
    (3.4, 2.2),
    (2.2, 1.75),
    (2.9, 2.9),
    4.2,
)  # inches of 72 points; a CSS pixel is 0.75 points
MOST_PANELS = 12  # tasks shown one by one; of longer streams evenly spread ones
MOST_NUMBERS = 10  # columns up to which a heat map prints its numbers
MOST_ERRORS = 5  # the same of errors, whose numbers are longer
MOST_MARKERS = 25  # points up to which a line shows them
MOST_CLASSES = 20  # classes that a projection shows
MOST_DOTS = 1200  # of a projection

RC: dict[Any, Any] = {
    "font.size": 9,
    "font.sans-serif": ["DejaVu Sans"],
    "axes.titlesize": "medium",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.edgecolor": FAINT,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), INK),
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "svg.fonttype": "none",
    "text.parse_math": False,  # names come from users: a dollar sign is a dollar sign
}


@dataclass(frozen=True)
class Picture:
    """An ``<svg>`` element, what it shows in words and numbers, and a line to print below it."""

    svg: str
    alt: str
    caption: str = ""

    def standalone(self) -> str:
        """As a file of its own: in colours for paper, which no page around it sets."""
        svg = re.sub(r"var\(--[\w-]+, (#[0-9a-f]{6})\)", r"\1", self.svg)
        return svg.replace("currentColor", INK) + "\n"


# ------------------------------------------------------------------------------------------ accuracy or error


def progress_after_tasks(groups: Sequence[Group]) -> Picture | None:
    """Mean result on the tasks seen so far, after each task, with a band of one standard error."""
    found = _over_seeds(groups, curves.seen_average)
    if not any(curve.x for curve in found):
        return None
    name = groups[0].quantity.name

    def paint(axes: Axes) -> None:
        _lines(axes, groups, found)
        _result_axis(axes, groups, found, f"{name} on tasks so far")
        _task_axis(axes, max(group.tasks for group in groups), "after task")

    said = [f"{group.label}: {_ends(group, curve)}" for group, curve in zip(groups, found, strict=True) if curve.x]
    about = f"{groups[0].quantity.mean} on the tasks seen so far, after each task."
    return draw(WIDE, paint, f"Lines: {about} {'. '.join(said)}.", f"{about[:1].upper()}{about[1:]}")


def progress_over_steps(groups: Sequence[Group]) -> Picture | None:
    """The same between the tasks' ends, where runs were evaluated every so many steps."""
    found = _over_seeds(groups, curves.result_over_steps)
    if not any(curve.x for curve in found):
        return None
    starts = {curves.task_starts(group.shown[0]) for group in groups if not group.merged}
    quantity = groups[0].quantity

    def paint(axes: Axes) -> None:
        _lines(axes, groups, found)
        _result_axis(axes, groups, found, f"{quantity.name} on tasks so far")
        _step_axis(axes, starts)

    def text(value: float) -> str:
        return quantity.text(Estimate(value, None, 1))

    said = [
        (
            f"{group.label}: highest {text(curve.means.max())}"
            if group.regression
            else f"{group.label}: lowest {text(curve.means.min())}"
        )
        + f", last {text(curve.means[-1])} at step {curve.x[-1]:,}"
        for group, curve in zip(groups, found, strict=True)
        if curve.x
    ]
    alt = f"Lines: {quantity.mean} on the tasks seen so far, over steps. {'. '.join(said)}."
    return draw(WIDE, paint, alt, "The same while learning, over steps; upright lines: a new task begins.")


def progress_by_task(groups: Sequence[Group]) -> list[Picture]:
    """One panel a task: its result after it was learnt and after each later one."""
    names = tables.task_names(groups)
    return [_one_task(groups, task, names[task]) for task in spread(len(names))]


def _one_task(groups: Sequence[Group], task: int, name: str) -> Picture:
    found = [
        Curve.over_seeds([curves.task_result(record, task) for record in group.shown])
        if task < group.tasks
        else Curve((), ())
        for group in groups
    ]
    title = f"task {task + 1}" + (f" ({name})" if name and name != f"task {task + 1}" else "")

    def paint(axes: Axes) -> None:
        _lines(axes, groups, found)
        axes.set_title(cut(title, 26))
        _result_axis(axes, groups, found)
        _task_axis(axes, max(group.tasks for group in groups))

    said = [f"{group.label}: {_ends(group, curve)}" for group, curve in zip(groups, found, strict=True) if curve.x]
    about = f"{groups[0].quantity.name} on {title} after each task"
    return draw(SMALL, paint, f"Lines: {about}. {'. '.join(said) or 'Not evaluated'}.", title)


def heat_maps(groups: Sequence[Group]) -> list[Picture]:
    """A group: its result on every task (columns) after every task (rows), mean over seeds. Errors are coloured on one logarithmic scale."""
    found = [(group, R) for group in groups if (R := _mean_matrix(group))]
    positive = [value for _, R in found for row in R for value in row if value is not None and value > 0]
    ends = (min(positive), max(positive)) if positive else (1.0, 1.0)

    def share(value: float) -> float:
        if not groups[0].regression:
            return value
        return float(np.log(max(value, ends[0]) / ends[0]) / np.log(ends[1] / ends[0])) if ends[1] > ends[0] else 0.0

    return [_heat_map(group, R, share) for group, R in found]


def _mean_matrix(group: Group) -> list[list[float | None]]:
    matrices = [record.result.matrix for record in group.shown]
    rows = min(len(matrix) for matrix in matrices)
    return [[Estimate.of([matrix[i][j] for matrix in matrices]).mean for j in range(group.tasks)] for i in range(rows)]


def _heat_map(group: Group, R: Sequence[Sequence[float | None]], share: Callable[[float], float]) -> Picture:
    rows, quantity = len(R), group.quantity

    def paint(axes: Axes) -> None:
        text = (lambda value: f"{value:.2g}") if group.regression else (lambda value: f"{100 * value:.0f}")
        paint_matrix(axes, R, share, text, most=MOST_ERRORS if group.regression else MOST_NUMBERS)
        axes.set(xlabel=f"{quantity.name} on task", ylabel="after task")
        if group.merged:
            axes.set_yticks([1], ["all"])
            axes.set_ylabel("")

    values = [(j, quantity.text(Estimate(value, None, 1))) for j, value in enumerate(R[-1]) if value is not None]
    last = ", ".join(f"task {j + 1} {value}" for j, value in values)
    when = "learning all tasks at once" if group.merged else f"task {rows}"
    caption = f"{group.label}, {seeds_text(len(group.shown))}"
    alt = f"Heat map of the {quantity.name} matrix of {caption}. After {when}: {last}."
    return draw(matrix_size(rows, group.tasks), paint, alt, caption)


def matrix_size(rows: int, columns: int) -> tuple[float, float]:
    """Inches."""
    return SQUARE[0], max(SQUARE[1] * rows / columns, 0.28 * rows + 0.5) if rows < columns else SQUARE[1]


def paint_matrix(
    axes: Axes,
    values: Sequence[Sequence[float | None]],
    share: Callable[[float], float],
    text: Callable[[float], str],
    most: int = MOST_NUMBERS,
) -> None:
    """A square each, darker with its ``share`` in [0, 1]; rows and columns count from 1. most: columns up to which numbers are printed."""
    rows, columns = len(values), len(values[0])
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            if value is None:
                continue
            axes.add_patch(
                Rectangle((j + 0.53, i + 0.53), 0.94, 0.94, color=HEAT, alpha=max(share(value), 0.06), linewidth=0)
            )
            if columns <= most:
                colour, points = HEAT_INK if share(value) > 0.68 else INK, 10 if columns < 7 else 8
                axes.text(j + 1, i + 1, text(value), color=colour, ha="center", va="center", size=points)
    axes.set(xlim=(0.5, columns + 0.5), ylim=(rows + 0.5, 0.5))
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for axis, count in ((axes.xaxis, columns), (axes.yaxis, rows)):
        axis.set_major_locator(MaxNLocator(min(count, 10), integer=True, min_n_ticks=1))


def forgetting_bars(groups: Sequence[Group]) -> Picture | None:
    """Forgetting a group, with one standard error."""
    values = [tables.summary_row(group).forgetting for group in groups]
    bars = [(k, groups[k].label, value) for k, value in enumerate(values) if value.mean is not None]
    alt = "Bars: forgetting, the mean drop of a task from its best to its last accuracy."
    return _bars(bars, percent_estimate, alt, "Mean drop of a task from its best to its last accuracy; less is better.")


# ------------------------------------------------------------------------------------------ losses and replay


def losses(groups: Sequence[Group]) -> list[Picture]:
    """One panel a loss: its mean over the last steps, over steps."""
    names = dict.fromkeys(name for group in groups for record in group.shown for name in curves.loss_names(record))
    return [_one_loss(groups, name) for name in names]


def _one_loss(groups: Sequence[Group], name: str) -> Picture:
    found = _over_seeds(groups, lambda record: curves.loss_over_steps(record, name))
    starts = {curves.task_starts(group.shown[0]) for group in groups if not group.merged}
    means = np.concatenate([curve.means for curve in found])
    logarithmic = bool(len(means)) and means.min() > 0 and means.max() > 100 * means.min()

    def paint(axes: Axes) -> None:
        _lines(axes, groups, found)
        axes.set_title(cut(name, 42))
        _step_axis(axes, starts)
        if logarithmic:
            _log_axis(axes)

    said = [
        f"{group.label}: from {curve.means[0]:.3g} to {curve.means[-1]:.3g} in {plural(curve.x[-1], 'step')}"
        for group, curve in zip(groups, found, strict=True)
        if curve.x
    ]
    alt = f"Lines: the loss {name} over steps. {'. '.join(said)}."
    return draw(MEDIUM, paint, alt, name)


@dataclass(frozen=True)
class Histogram:
    """A probe's histogram over classes: when it was made, what it counts, and how a count is written."""

    probe: str
    moment: str
    counts: str
    text: Callable[[float | None], str]


REPLAY = Histogram(
    "replay-quality", "learning task", "share of each {which} among the replay of {label} while", percent
)
BUFFER = Histogram("buffer-classes", "after task", "rows of each {which} in the buffer of {label}", words.whole)


def histograms(group: Group, kind: Histogram) -> list[Picture]:
    """One panel a task: how often each class was there; a line where all classes so far would be equal."""
    found = {task: tables.histogram(group, task, kind.probe) for task in range(group.tasks)}
    shown = [task for task, estimates in found.items() if estimates]
    return [_one_histogram(group, shown[k], found[shown[k]], kind) for k in spread(len(shown))]


def _one_histogram(group: Group, task: int, estimates: Sequence[Estimate], kind: Histogram) -> Picture:
    classes = [record.result.classes for record in group.shown]
    agreed = all(names == classes[0] for names in classes) and len(classes[0]) == len(estimates)
    names = [str(name) for name in classes[0]] if agreed else [str(k + 1) for k in range(len(estimates))]
    means = [estimate.mean or 0.0 for estimate in estimates]
    past = max((k + 1 for k, mean in enumerate(means) if mean > 0), default=1)
    title = f"{kind.moment} {task + 1}"

    def paint(axes: Axes) -> None:
        x = np.arange(len(names))
        axes.bar(x, means, color=SERIES[0], alpha=0.75, width=0.8)
        axes.errorbar(x, means, [e.error or 0.0 for e in estimates], fmt="none", color=INK, elinewidth=0.8)
        axes.plot([-0.5, past - 0.5], [sum(means) / past] * 2, color=SERIES[1], linewidth=1.2, dashes=(4, 2))
        axes.set_title(title)
        if kind.text is percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
        axes.yaxis.set_major_locator(MaxNLocator(3))
        axes.grid(axis="x", visible=False)
        axes.set(ylim=(0, None), xlabel="class" if agreed else "place of the class")
        every = -(-len(names) // 10) if max(map(len, names)) < 4 else -(-len(names) // 3)
        axes.set_xticks(x[::every], [cut(name, 9) for name in names[::every]])

    said = ", ".join(f"{name} {kind.text(mean)}" for name, mean in list(zip(names, means, strict=True))[:20])
    more = f" and {len(names) - 20} more classes" if len(names) > 20 else ""
    which = "class" if agreed else "class by its place in the stream"
    alt = f"Bars: {kind.counts.format(which=which, label=group.label)} {title}: {said}{more}."
    return draw(SMALL, paint, alt, title)


# ------------------------------------------------------------------------------------------ generated latents


def projections(found: Projection, whose: str) -> list[Picture]:
    """Real rows, and beside them generated ones on the same axes, coloured by class."""
    names = list(dict.fromkeys([*found.real_classes.tolist(), *found.generated_classes.tolist()]))
    shown = [names[k] for k in spread(len(names), MOST_CLASSES)]
    each = max(MOST_DOTS // len(shown), 2)
    everything = np.concatenate([_some(points, each) for name in shown for points in found.of(name)])
    low, high = everything.min(axis=0), everything.max(axis=0)
    margin = 0.04 * (high - low).max() or 1.0

    def panel(kind: int, title: str, said: str) -> Picture:
        def paint(axes: Axes) -> None:
            clouds = {name: _some(found.of(name)[kind], each) for name in shown if len(found.of(name)[kind])}
            for name, points in clouds.items():
                colour = CLASSES[shown.index(name) % len(CLASSES)]
                axes.plot(*points.T, linestyle="", marker="o", markersize=3, color=colour, alpha=0.55, mew=0)
            for name, points in clouds.items():
                x, y = points.mean(axis=0)
                axes.text(x, y, cut(name, 14), ha="center", va="center", size=10, weight="bold")
            axes.set(xlim=(low[0] - margin, high[0] + margin), ylim=(low[1] - margin, high[1] + margin), title=title)
            axes.set(xlabel="first principal component", ylabel="second", xticklabels=(), yticklabels=())
            axes.tick_params(length=0)

        some = "" if len(shown) == len(names) else f" ({len(shown)} of {len(names)} classes, evenly spread)"
        alt = f"Scatter plot of {whose}, after task {found.task + 1}{some}: {said}"
        return draw(MEDIUM, paint, alt, "")

    apart = listed([f"{name} {_apart(*found.of(name))}" for name in shown])
    return [
        panel(
            0,
            "real test rows",
            f"real test rows of each class, on the two principal components of all. Classes: {listed(shown)}.",
        ),
        panel(
            1,
            f"generated after task {found.task + 1}",
            "generated rows on the same axes. Distance of a class's centre from the real one, in spreads of its real rows: "
            f"{apart}.",
        ),
    ]


def _apart(real: np.ndarray, generated: np.ndarray) -> str:
    """How far the centres are apart, in words."""
    if not len(real) or not len(generated):
        return "not generated" if len(real) else "not among the real rows"
    width = float(np.sqrt(real.var(axis=0).sum())) or 1.0
    return f"{np.linalg.norm(real.mean(axis=0) - generated.mean(axis=0)) / width:.1f}"


def _some(points: np.ndarray, count: int) -> np.ndarray:
    return points[np.linspace(0, len(points) - 1, min(count, len(points))).round().astype(int)]


# ------------------------------------------------------------------------------------------ memory and cost


def memory_bars(groups: Sequence[Group]) -> Picture | None:
    """Bytes kept between tasks, and bytes needed besides while learning."""

    def over_seeds(group: Group, name: str) -> Estimate:
        return Estimate.of([getattr(record.result.memory, name) for record in group.shown])

    bars = [
        (k, f"{group.label}: {word}", over_seeds(group, name))
        for k, group in enumerate(groups)
        for name, word in (("persistent_bytes", "kept"), ("working_bytes", "while learning"))
    ]
    known = [bar for bar in bars if bar[2].mean is not None]
    caption = "Bytes kept between tasks, and further bytes while learning (frozen copies, optimiser state, replay)."
    return _bars(known, lambda e: words.with_error(e, size), f"Bars: {caption[0].lower()}{caption[1:]}", caption)


def cost_bars(groups: Sequence[Group]) -> Picture | None:
    """Seconds of training."""
    values = [Estimate.of([record.result.cost.train_seconds for record in group.complete]) for group in groups]
    bars = [(k, groups[k].label, value) for k, value in enumerate(values) if value.mean is not None]
    caption = "Time spent training, without evaluation and saving."
    return _bars(bars, lambda e: words.with_error(e, duration), f"Bars: {caption[0].lower()}{caption[1:]}", caption)


# ------------------------------------------------------------------------------------------ keys


def swatch(k: int, group: Group) -> str:
    """The key of the k-th group (from 0) as a small ``<svg>``: its line and its marker."""
    colour = THEME[SERIES[k % len(SERIES)]]
    dash = " ".join(str(2 * length) for length in _dashes(k, group))
    marker = f'<path transform="translate(8)" d="{SWATCHES[k % len(SWATCHES)]}" style="fill:{colour}"/>'
    return (
        f'<svg class="swatch" viewBox="0 0 26 10" width="26" height="10" aria-hidden="true">'
        f'<path d="M0 5h26" style="stroke:{colour};stroke-width:2;stroke-dasharray:{dash or "none"}"/>'
        f"{'' if group.merged else marker}</svg>"
    )


def _dashes(k: int, group: Group) -> tuple[float, ...]:
    return (2, 2) if group.merged else DASHES[k // len(SERIES) % len(DASHES)]


# ------------------------------------------------------------------------------------------ drawing


def _over_seeds(groups: Sequence[Group], points: Callable[[RunRecord], Points]) -> list[Curve]:
    return [Curve.over_seeds([points(record) for record in group.shown]) for group in groups]


def _lines(axes: Axes, groups: Sequence[Group], found: Sequence[Curve]) -> None:
    """A line and a band of one standard error a group; a group that learnt all tasks at once is a thin dashed reference."""
    for k, (group, curve) in enumerate(zip(groups, found, strict=True)):
        colour = SERIES[k % len(SERIES)]
        marker = MARKERS[k % len(MARKERS)] if len(curve.x) <= MOST_MARKERS and not group.merged else None
        axes.plot(curve.x, curve.means, color=colour, marker=marker, dashes=_dashes(k, group), alpha=0.9)
        if curve.errors.any():
            low, high = curve.means - curve.errors, curve.means + curve.errors
            axes.fill_between(curve.x, low, high, color=colour, alpha=0.18, linewidth=0)


def _bars(
    bars: Sequence[tuple[int, str, Estimate]], text: Callable[[Estimate], str], alt: str, caption: str
) -> Picture | None:
    """Horizontal bars, each with its name above it (names are long and pages narrow) and its value at its end."""
    if not bars:
        return None

    def paint(axes: Axes) -> None:
        ends = [0.0]
        for place, (k, label, value) in enumerate(bars):
            mean, error = value.mean or 0.0, value.error or 0.0
            colour = SERIES[k % len(SERIES)]
            axes.barh(
                place, mean, height=0.36, color=colour, alpha=0.85 if place == 0 or bars[place - 1][0] != k else 0.4
            )
            if error:
                axes.errorbar(mean, place, xerr=error, fmt="none", color=INK, elinewidth=1, capsize=2)
            axes.text(0, place - 0.27, cut(label, 54), transform=axes.get_yaxis_transform(), va="bottom")
            ends.append(mean + error)
            where = (max(mean + error, 0.0), place)
            axes.annotate(text(value), where, (4, 0), textcoords="offset points", va="center", size=8.5)
        span = max(ends) - min(ends) or 1.0
        axes.set(xlim=(min(ends), max(ends) + 0.3 * span), ylim=(len(bars) - 0.6, -0.8))
        axes.grid(False)
        axes.set_axis_off()
        axes.axvline(0, color=FAINT, linewidth=1)

    said = ". ".join(f"{label}: {text(value)}" for _, label, value in bars)
    return draw((BARS, 0.42 * len(bars) + 0.15), paint, f"{alt.rstrip('.')}. {said}.", caption)


def _result_axis(axes: Axes, groups: Sequence[Group], found: Sequence[Curve], label: str = "") -> None:
    """Accuracies between 0 and 1; errors from 0, or where they differ much, by their logarithm."""
    if not groups[0].regression:
        _percent_axis(axes, label)
        return
    axes.set_ylabel(label)
    means = np.concatenate([curve.means for curve in found])
    if len(means) and means.min() > 0 and means.max() > 20 * means.min():
        _log_axis(axes, 6 if label else 4)
    else:
        highest = max((float((curve.means + curve.errors).max()) for curve in found if curve.x), default=0.0)
        axes.set_ylim(0, 1.12 * highest or 1.0)
        axes.yaxis.set_major_locator(MaxNLocator(5 if label else 3))


def _log_axis(axes: Axes, ticks: int = 6) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(numticks=ticks))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _percent_axis(axes: Axes, label: str = "") -> None:
    axes.set(ylim=(-0.03, 1.04), yticks=(0, 0.25, 0.5, 0.75, 1) if label else (0, 0.5, 1), ylabel=label)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))


def _task_axis(axes: Axes, tasks: int, label: str = "") -> None:
    axes.set(xlim=(0.8, max(tasks, 2) + 0.2), xlabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(min(tasks, 10 if label else 6), integer=True, min_n_ticks=1))
    axes.grid(axis="x", visible=False)


def _step_axis(axes: Axes, starts: Iterable[tuple[int, ...]]) -> None:
    """Steps of the whole run; marks where tasks begin if all groups agree on it."""
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(axis="x", visible=False)
    agreed = list(starts)
    if len(agreed) == 1 and len(agreed[0]) <= MOST_MARKERS:
        for start in agreed[0]:
            axes.axvline(start, color=FAINT, linewidth=1, zorder=0)


def _ends(group: Group, curve: Curve) -> str:
    first, last = (group.quantity.text(curve.y[k]) for k in (0, -1))
    if group.merged:
        return f"{last} having learnt all tasks at once"
    after = [f"{value} after task {task}" for value, task in ((first, curve.x[0]), (last, curve.x[-1]))]
    return listed(list(dict.fromkeys(after)))


def spread(count: int, most: int = MOST_PANELS) -> list[int]:
    """All places, or ``most`` of them, evenly spread with the first and the last."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist() if count else []


def cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def draw(inches: tuple[float, float], paint: Callable[[Axes], None], alt: str, caption: str) -> Picture:
    buffer = io.StringIO()
    with matplotlib.rc_context({**RC, "svg.hashsalt": alt}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the reader's fonts draw the text
        figure = Figure(figsize=inches, layout="constrained")
        paint(figure.subplots())
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return Picture(_themed(buffer.getvalue(), alt), alt, caption)


def _themed(svg: str, alt: str) -> str:
    """The ``<svg>`` element of a file by matplotlib, coloured by the page around it, named by ``alt``, with no ids that nothing needs."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'style="[^"]*"', lambda style: _coloured(style[0]), svg)
    needed = set(re.findall(r"#([\w-]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in needed else "", svg)
    label = html.escape(alt, quote=True)
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}" style="stroke-linejoin: round"', 1).strip()


def _coloured(style: str) -> str:
    return re.sub(r"#[0-9a-f]{6}\b", lambda colour: THEME.get(colour[0], colour[0]), style)
