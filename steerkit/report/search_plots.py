"""The figure of a search: each score over the layers, a line for each position."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from steerkit.report.numbers import NOT_MEASURED, shorten, significant
from steerkit.report.search import Panel, SearchView
from steerkit.report.svg import CARD, CHOSEN, GRID, INK, MARKERS, MUTED, SERIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

WIDTH: Final = 4.6
PANEL: Final = 1.75
LINE: Final = 0.19
"""Inches."""
COLUMNS: Final = 4


def draw_search(view: SearchView) -> Figure:
    """Panels one below the other: the objective, then what is bounded. Colours as in the other figures."""
    from matplotlib.figure import Figure

    panels = view.panels
    lines, words = _words(view)
    below = 0.6 + LINE * -(-len(words) // COLUMNS)
    height = PANEL * len(panels) + below + 0.1
    figure = Figure(figsize=(WIDTH, height))
    figure.subplots_adjust(left=0.62 / WIDTH, right=1 - 0.2 / WIDTH, bottom=below / height, top=1 - 0.34 / height)
    rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False, gridspec_kw={"hspace": 0.42})
    for (axes,), panel in zip(rows, panels, strict=True):
        _draw_panel(axes, view, panel)
    last = rows[-1][0]
    last.set_xlabel("layer")
    figure.legend(
        lines, words, loc="lower center", bbox_to_anchor=(0.5, 0.0), ncols=COLUMNS, frameon=False, fontsize=8,
        handlelength=1.6, columnspacing=1.0, handletextpad=0.4, labelcolor=MUTED, borderaxespad=0.2,
    )  # fmt: skip
    return figure


def _draw_panel(axes: Axes, view: SearchView, panel: Panel) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(
        shorten(f"{panel.name} ({panel.unit})" if panel.unit else panel.name, 48), color=INK, fontsize=9, x=-0.12
    )
    for number, pieces in enumerate(panel.lines.values()):
        colour = SERIES[number % len(SERIES)]
        for piece in pieces:
            layers, values = zip(*piece, strict=True)
            mark = MARKERS[number % len(MARKERS)]
            axes.plot(layers, values, color=colour, linewidth=1.1, marker=mark, markersize=3.4, zorder=3)
    outside = view.entry.layers_below
    if outside is not None and outside < view.entry.n_layers:
        axes.axvspan(outside - 0.5, view.entry.n_layers - 0.5, color=GRID, alpha=0.55, linewidth=0, zorder=0)
    if panel.baseline is not None:
        axes.axhline(panel.baseline, color=INK, linewidth=0.9, linestyle=(0, (4, 2)), zorder=2)
    for bound in panel.bounds:
        axes.axhline(bound, color=MUTED, linewidth=0.9, linestyle=(0, (1, 1.5)), zorder=2)
    if panel.chosen is not None:
        axes.axvline(panel.chosen[0], color=CHOSEN, linewidth=0.9, zorder=2)
        axes.plot(*[[value] for value in panel.chosen], "o", color=CHOSEN, markersize=6, zorder=6)
        axes.annotate(
            significant(panel.chosen[1]), panel.chosen, xytext=(6, 5), textcoords="offset points", color=CHOSEN,
            fontsize=9, zorder=7, bbox={"facecolor": CARD, "edgecolor": "none", "alpha": 0.75, "pad": 0.8},
        )  # fmt: skip
    axes.set_xlim(-0.7, view.entry.n_layers - 0.3)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
    if not any(panel.lines.values()):
        axes.text(0.5, 0.5, NOT_MEASURED, transform=axes.transAxes, color=MUTED, ha="center", va="center")


def _words(view: SearchView) -> tuple[list[Line2D], list[str]]:
    """For below the figure: lines and marks, and what they mean."""
    from matplotlib.lines import Line2D

    labels = list(view.panels[0].lines) if view.panels else []
    lines = [
        Line2D([], [], color=SERIES[at % len(SERIES)], marker=MARKERS[at % len(MARKERS)], markersize=4, linewidth=1.4)
        for at in range(len(labels))
    ]
    lines.append(Line2D([], [], color=INK, linewidth=0.9, linestyle=(0, (4, 2))))
    lines.append(Line2D([], [], color=MUTED, linewidth=0.9, linestyle=(0, (1, 1.5))))
    words = [shorten(label, 18) for label in labels] + ["baseline", "bound"]
    if view.chosen is not None:
        lines.append(Line2D([], [], color=CHOSEN, marker="o", linewidth=0.9, markersize=5))
        words.append("chosen")
    return lines, words
