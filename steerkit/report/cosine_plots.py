"""The figure of cosines by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal

from steerkit.report.cosines import Line
from steerkit.report.layer_cosines import cosine_axes, legend_below
from steerkit.report.numbers import shorten
from steerkit.report.svg import CHOSEN, MARKERS, SERIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_LINES: Final = 12


def draw_cosines(lines: Sequence[Line]) -> Figure:
    """A line for each pair; the layer of what a search chose is marked."""
    from matplotlib.lines import Line2D

    shown = lines[:MOST_LINES]
    streams = {line.stream for line in shown}
    figure, axes = cosine_axes(len(shown) + any(line.own for line in shown))
    handles, words = [], []
    for number, line in enumerate(shown):
        colour = SERIES[number % len(SERIES)]
        dashes = number // len(SERIES) % 2
        style: Literal["-", "--"] = "--" if dashes else "-"
        mark = MARKERS[number % len(MARKERS)]
        layers, values = zip(*line.points, strict=True)
        axes.plot(layers, values, color=colour, linestyle=style, linewidth=1.4, marker=mark, markersize=3.2, zorder=3)
        handles.append(Line2D([], [], color=colour, linestyle=style, linewidth=1.4, marker=mark, markersize=4))
        words.append(shorten(line.label + (f" at {line.stream}" if len(streams) > 1 else ""), 56))
        for layer, value in line.own:
            axes.plot([layer], [value], "o", color=CHOSEN, markersize=6, zorder=5)
    if any(line.own for line in shown):
        handles.append(Line2D([], [], color=CHOSEN, marker="o", markersize=6, linewidth=0))
        words.append("both as conditions use them")
    low = min(value for line in shown for _, value in line.points)
    axes.set_ylim(min(-0.1, low - 0.06), 1.04)
    legend_below(figure, handles, words)
    return figure
