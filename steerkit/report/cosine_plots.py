"""The figure of cosines by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal

from steerkit.report.cosines import Line
from steerkit.report.numbers import shorten
from steerkit.report.svg import CHOSEN, GRID, INK, MUTED, SERIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH: Final = 4.6
MOST_LINES: Final = 12


def draw_cosines(lines: Sequence[Line]) -> Figure:
    """A line for each pair; the layer of what a search chose is marked."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    shown = lines[:MOST_LINES]
    streams = {line.stream for line in shown}
    below = 0.55 + 0.19 * (len(shown) + any(line.own for line in shown))
    height = 2.5 + below
    figure = Figure(figsize=(WIDTH, height))
    figure.subplots_adjust(left=0.62 / WIDTH, right=1 - 0.2 / WIDTH, bottom=below / height, top=1 - 0.32 / height)
    axes = figure.add_subplot()
    handles, words = [], []
    for number, line in enumerate(shown):
        colour = SERIES[number % len(SERIES)]
        dashes = number // len(SERIES) % 2
        style: Literal["-", "--"] = "--" if dashes else "-"
        layers, values = zip(*line.points, strict=True)
        axes.plot(layers, values, color=colour, linestyle=style, linewidth=1.5, marker="o", markersize=2.6, zorder=3)
        handles.append(Line2D([], [], color=colour, linestyle=style, linewidth=1.6))
        words.append(shorten(line.label + (f" at {line.stream}" if len(streams) > 1 else ""), 56))
        for layer, value in line.own:
            axes.plot([layer], [value], "o", color=CHOSEN, markersize=6, zorder=5)
    if any(line.own for line in shown):
        handles.append(Line2D([], [], color=CHOSEN, marker="o", markersize=6, linewidth=0))
        words.append("both as conditions use them")
    axes.axhline(0, color=INK, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)
    low = min(value for line in shown for _, value in line.points)
    axes.set_ylim(min(-0.1, low - 0.06), 1.04)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.set_xlabel("layer")
    axes.set_title("cosine", color=MUTED, fontsize=9, x=-0.13)
    figure.legend(
        handles, words, loc="lower left", bbox_to_anchor=(0.01, 0.0), ncols=1, frameon=False, fontsize=8,
        handlelength=1.8, handletextpad=0.5, labelspacing=0.35, labelcolor=MUTED, borderaxespad=0.2,
    )  # fmt: skip
    return figure
