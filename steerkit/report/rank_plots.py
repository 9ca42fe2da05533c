"""The figure of behaviour against the number of directions removed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from steerkit.report.numbers import NO_BREAK, shorten
from steerkit.report.ranks import RankView
from steerkit.report.svg import CARD, CONTROL, GRID, INK, MUTED, SERIES
from steerkit.report.tables import Row, Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH: Final = 4.6
HEIGHT: Final = 3.5
"""Inches."""


def draw_ranks(view: RankView) -> Figure:
    """A line with its intervals for each sweep, the random directions in grey, the baseline at 0.

    The numbers of directions stand at equal distances: what happens at 1 and 2 is what tells one carrier from several.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(WIDTH, HEIGHT))
    figure.subplots_adjust(left=0.62 / WIDTH, right=1 - 0.2 / WIDTH, bottom=0.98 / HEIGHT, top=1 - 0.34 / HEIGHT)
    axes, factor = figure.add_subplot(), 100.0 if view.block.format.percent else 1.0
    for number, sweep in enumerate(view.sweeps):
        _draw_control(axes, view, sweep, factor)
        _draw_values(axes, view, sweep, factor, SERIES[number % len(SERIES)])
    baseline = view.block.baseline
    if baseline is not None and baseline.value is not None:
        level = baseline.value * factor
        axes.axhline(level, color=INK, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)
        axes.plot([0], [level], "o", markersize=6.5, markerfacecolor=CARD, markeredgecolor=INK, zorder=6)
    axes.set_xticks(range(len(view.ranks)), [str(rank) for rank in view.ranks])
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("directions removed")
    unit = "%" if view.block.format.percent else view.block.unit
    name = view.block.evaluator.name
    axes.set_title(shorten(f"{name} ({unit})" if unit else name, 44), color=MUTED, fontsize=9, x=-0.13, ha="left")
    _key(figure, view)
    return figure


def _places(view: RankView, rows: list[tuple[float, Row]]) -> list[int]:
    return [view.ranks.index(int(rank)) for rank, _ in rows]


def _draw_values(axes: Axes, view: RankView, sweep: Sweep, factor: float, colour: str) -> None:
    rows = list(view.points(sweep))
    values = [row.value * factor for _, row in rows if row.value is not None]
    axes.plot(_places(view, rows), values, color=colour, linewidth=1.8, marker="o", markersize=4.5, zorder=5)
    known = [(rank, row) for rank, row in rows if row.interval is not None]
    for place, (_, row) in zip(_places(view, known), known, strict=True):
        assert row.interval is not None
        axes.plot([place] * 2, [end * factor for end in row.interval], color=colour, linewidth=1.4, alpha=0.7, zorder=4)


def _draw_control(axes: Axes, view: RankView, sweep: Sweep, factor: float) -> None:
    """Mean and range of as many random directions, from the baseline on: no random direction removed is that."""
    rows = [(rank, row) for rank, row in sweep.points if row.control is not None and row.control.values]
    if not rows or view.block.baseline is None or view.block.baseline.value is None:
        return
    first = [view.block.baseline.value] if 0 in view.ranks else []
    found = [row.control for _, row in rows if row.control is not None]
    places = [*range(len(first)), *_places(view, rows)]
    low = [*first, *(one.low for one in found if one.low is not None)]
    mean = [*first, *(one.mean for one in found if one.mean is not None)]
    high = [*first, *(one.high for one in found if one.high is not None)]
    low, mean, high = ([number * factor for number in column] for column in (low, mean, high))
    axes.fill_between(places, low, high, color=CONTROL, alpha=0.3, linewidth=0, zorder=2)
    axes.plot(places, mean, color=CONTROL, linewidth=1.2, linestyle=(0, (3, 1.5)), marker="D", markersize=3, zorder=3)


def _key(figure: Figure, view: RankView) -> None:
    from matplotlib.lines import Line2D

    lines = [
        Line2D([], [], color=SERIES[at % len(SERIES)], marker="o", markersize=4.5, linewidth=1.8)
        for at in range(len(view.sweeps))
    ]
    words = [f"{shorten(sweep.name, 24)}, 95{NO_BREAK}% interval" for sweep in view.sweeps]
    if any(sweep.has_control for sweep in view.sweeps):
        lines.append(Line2D([], [], color=CONTROL, marker="D", markersize=3, linewidth=1.2, linestyle=(0, (3, 1.5))))
        words.append("as many random: mean, range")
    lines.append(Line2D([], [], color=INK, linewidth=0.9, linestyle=(0, (4, 2))))
    words.append("baseline")
    figure.legend(
        lines, words, loc="lower center", bbox_to_anchor=(0.5, 0.0), ncols=2, frameon=False, fontsize=8,
        handlelength=1.6, columnspacing=1.0, handletextpad=0.4, labelcolor=MUTED, borderaxespad=0.2,
    )  # fmt: skip
