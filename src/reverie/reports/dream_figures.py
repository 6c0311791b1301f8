"""Pictures of codes and of signs of novelty, as PNG: coloured by domain."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.path import Path as Outline
from matplotlib.textpath import TextPath

from reverie.reports.figures import DASHES, INK, MARKERS, RC, SERIES, cut

DPI = 120
LETTERS = 12.5  # of a line of a caption, an inch
GLYPH = 2  # letters of a class's name up to which it is its own marker
MOST_CLASSES = 12  # in the key
MOST_NAMED = 60  # pairs of a domain and a class that have room for their names


def scatter(
    points: np.ndarray,
    domains: Sequence[str],
    classes: Sequence[str],
    title: str,
    axes_names: tuple[str, str],
    caption: str,
) -> bytes:
    """points: (n, 2); domains, classes: n names, classes empty where they are not known. Coloured by domain, a marker a class: its name where that
    is short."""
    known = list(dict.fromkeys(domains))
    names = sorted(set(classes))
    markers = _markers(names)
    where, which = np.array(domains), np.array(classes)

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for k, domain in enumerate(known):
            for name in names or [""]:
                mine = (where == domain) & ((which == name) if names else True)
                marker = markers.get(name, MARKERS[k % len(MARKERS)])
                size = 7 if isinstance(marker, Outline) else 5
                axes.plot(
                    *points[mine].T, linestyle="", marker=marker, markersize=size, color=_colour(k), alpha=0.75, mew=0
                )
        axes.set(title=title, xlabel=axes_names[0], ylabel=axes_names[1])
        keys = [
            Line2D([], [], linestyle="", marker="s", color=_colour(k), label=cut(name, 24))
            for k, name in enumerate(known)
        ]
        if not any(isinstance(marker, Outline) for marker in markers.values()):
            shown = names[:MOST_CLASSES]
            keys += [
                Line2D([], [], linestyle="", marker=markers[name], color=INK, label=cut(name, 24)) for name in shown
            ]
        figure.legend(handles=keys, loc="outside right upper", frameon=False)

    return _png((8.4, 5.8), paint, caption)


def histograms(values: Mapping[str, Mapping[str, np.ndarray]], caption: str) -> bytes:
    """values: for each quantity, by name, the numbers (n,) of each group, by name. A panel a quantity, an outline a group: the share of its rows."""
    groups = list(dict.fromkeys(name for quantity in values.values() for name in quantity))

    def paint(figure: Figure) -> None:
        panels = figure.subplots(1, len(values), squeeze=False)[0]
        for axes, (quantity, found) in zip(panels, values.items(), strict=True):
            everything = np.concatenate(list(found.values()))
            low, high = np.quantile(everything, [0, 0.995]) if len(everything) else (0.0, 1.0)
            edges = np.linspace(low, high if high > low else low + 1, 26)
            for name, numbers in found.items():
                k = groups.index(name)
                shares = np.histogram(numbers.clip(low, edges[-1]), edges)[0] / max(len(numbers), 1)
                axes.stairs(shares, edges, fill=True, color=_colour(k), alpha=0.15)
                dash: Any = (0, DASHES[k % len(DASHES)]) if DASHES[k % len(DASHES)] else "-"
                axes.stairs(shares, edges, color=_colour(k), linewidth=1.6, linestyle=dash)
            axes.set(title=quantity, ylabel="share of images" if axes is panels[0] else "")
        keys = [
            Line2D([], [], color=_colour(k), dashes=DASHES[k % len(DASHES)] or (None, None), label=cut(name, 40))
            for k, name in enumerate(groups)
        ]
        figure.legend(handles=keys, loc="outside upper left", ncols=4, frameon=False)

    return _png((3.6 * len(values), 4.0), paint, caption)


def confusions(
    tables: Mapping[str, np.ndarray], pairs: Sequence[tuple[int, str]], domains: Sequence[str], caption: str
) -> bytes:
    """tables: by name, counts (pairs, pairs) of images by the domain and class asked for (down) and by those that are seen. pairs: their domains,
    by number, and the names of their classes. A panel a table and domain asked for, shares of each row; seen domains are set apart."""
    place = np.array([domain for domain, _ in pairs])
    everywhere = [(name, domain) for name in tables for domain in range(len(domains))]
    shown = [(name, domain) for name, domain in everywhere if tables[name][place == domain].any()]
    edges = np.flatnonzero(np.diff(place)) + 0.5
    named = len(pairs) <= MOST_NAMED
    # A sequence calls its classes "mnist: 3"; the domain stands above already.
    names = [cut(name.removeprefix(f"{domains[domain]}: "), 8) if named else "" for domain, name in pairs]
    turn = 90 if max(map(len, names)) > GLYPH else 0
    rows = max(int((place == domain).sum()) for _, domain in shown)
    side = 0.2 if named else 5.0 / len(pairs)
    inches = (2.4 + side * len(pairs), 0.9 + len(shown) * (0.8 + side * rows))

    def paint(figure: Figure) -> None:
        panels = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
        for axes, (name, domain) in zip(panels, shown, strict=True):
            mine = place == domain
            counts = tables[name][mine]
            axes.imshow(counts / counts.sum(axis=1, keepdims=True).clip(min=1), cmap="Blues", vmin=0, vmax=1)
            axes.grid(visible=False)
            for edge in edges:
                axes.axvline(edge, color=INK, linewidth=1)
            axes.set(title=f"{name}, asked of {cut(domains[domain], 24)}", xlabel="seen", ylabel="asked for")
            axes.set_xticks(range(len(pairs)), names, rotation=turn)
            axes.set_yticks(range(len(counts)), np.array(names)[mine])
            axes.tick_params(length=0)
            above = axes.secondary_xaxis("top")
            middles = [float(np.flatnonzero(place == k).mean()) for k in range(len(domains))]
            above.set_xticks(middles, [cut(name, 16) for name in domains])
            above.tick_params(length=0)

    return _png((max(inches[0], 6.0), inches[1]), paint, caption)


def _markers(names: Sequence[str]) -> dict[str, str | Outline]:
    if all(0 < len(name) <= GLYPH for name in names):
        return {name: _letters(name) for name in names}
    return dict(zip(names, cycle((*MARKERS, "<", ">", "*", "h", "d"))))


def _letters(name: str) -> Outline:
    """A marker in the shape of letters, around its middle."""
    drawn = TextPath((0, 0), name, size=1)
    middle = (drawn.vertices.min(axis=0) + drawn.vertices.max(axis=0)) / 2
    return Outline(drawn.vertices - middle, drawn.codes)


def _colour(k: int) -> str:
    return SERIES[k % len(SERIES)]


def _png(inches: tuple[float, float], paint: Callable[[Figure], None], caption: str) -> bytes:
    buffer = io.BytesIO()
    with matplotlib.rc_context(RC), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=inches, layout="constrained")
        paint(figure)
        figure.supxlabel(_broken(caption, round(LETTERS * inches[0])), x=0.01, ha="left", fontsize=9)
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Description": caption, "Software": None})
    return buffer.getvalue()


def _broken(text: str, letters: int) -> str:
    lines: list[str] = []
    for word in text.split():
        if lines and len(lines[-1]) + 1 + len(word) <= letters:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return "\n".join(lines)
