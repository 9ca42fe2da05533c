"""The figure of a trade-off: one point for each condition, its controls pale, the baseline marked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from steerkit.report.numbers import NO_BREAK, shorten
from steerkit.report.svg import CARD, CONTROL, DIRECTION, GRID, INK, MUTED
from steerkit.report.tradeoff import Point, Pooled, Tradeoff

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH: Final = 4.6
SIDE: Final = 3.7
"""Inches: of the figure, and of the square in it."""
LINE: Final = 0.2
COLUMNS: Final = 2
MARK: Final = 6.0
RING: Final = 10.0
"""Points: of a condition, and of the baseline's open circle, in which one that does nothing is still seen."""
_NEAR: Final = (9.0, 15.0, 22.0, 30.0, 39.0, 49.0)
"""How far a number may stand from its mark, in points: as near as it has room."""
_ROOM: Final = 8.5
"""How far it keeps from marks, bars and other numbers, in points."""
_LED: Final = 12.0
"""From here on a thin line leads to the mark."""


def draw_tradeoff(tradeoff: Tradeoff) -> Figure:
    """Up is where it should, right where it shouldn't; numbers are explained below."""
    from matplotlib.figure import Figure

    points = tradeoff.drawn
    rows = -(-len(points) // COLUMNS) + 1
    below = 0.55 + LINE * rows
    height = SIDE + below + 0.42
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_axes((0.72 / WIDTH, below / height, SIDE / WIDTH, SIDE / height))
    factor = 100.0 if tradeoff.format.percent else 1.0
    if tradeoff.format.percent:
        axes.set_xlim(-4, 104)
        axes.set_ylim(-4, 104)
    for point in points:
        for x, y in point.controls:
            axes.plot([x * factor], [y * factor], "D", color=CONTROL, markersize=3.6, alpha=0.45, zorder=2)
    for point in points:
        _draw_point(axes, point, factor)
    if points:
        low = max(axes.get_xlim()[0], axes.get_ylim()[0])
        high = min(axes.get_xlim()[1], axes.get_ylim()[1])
        if low < high:
            axes.plot([low, high], [low, high], color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
    else:
        axes.text(0.5, 0.5, tradeoff.absent, transform=axes.transAxes, color=MUTED, ha="center", va="center")
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    _number(figure, axes, points, factor)
    unit = f" ({tradeoff.unit})" if tradeoff.unit else ""
    axes.set_xlabel(shorten(f"on {' and '.join(tradeoff.should_not)}{unit}", 52))
    title = f"{tradeoff.evaluator.name} on {' and '.join(tradeoff.should)}{unit}"
    figure.text(0.02, 1 - 0.2 / height, shorten(title, 60), color=MUTED, fontsize=9, va="center")
    _key(figure, tradeoff, height)
    return figure


def _draw_point(axes: Axes, point: Point, factor: float) -> None:
    x, y = _scaled(point.should_not, factor), _scaled(point.should, factor)
    plain = point.condition.kind == "baseline"
    colour = INK if plain else DIRECTION
    if x[1] is not None and x[2] is not None:
        axes.plot([x[1], x[2]], [y[0], y[0]], color=colour, linewidth=1.1, alpha=0.55, zorder=3)
    if y[1] is not None and y[2] is not None:
        axes.plot([x[0], x[0]], [y[1], y[2]], color=colour, linewidth=1.1, alpha=0.55, zorder=3)
    if plain:
        # A ring around whatever lies on the same spot, and over it.
        axes.scatter([x[0]], [y[0]], s=RING**2, color=CARD, linewidths=0, zorder=4)
        axes.plot([x[0]], [y[0]], "o", markersize=RING, fillstyle="none", color=colour, markeredgewidth=1.4, zorder=6)
    else:
        axes.plot([x[0]], [y[0]], "o", markersize=MARK, color=colour, zorder=5)


def _scaled(side: Pooled, factor: float) -> tuple[float, float | None, float | None]:
    assert side.value is not None
    low, high = (None if end is None else end * factor for end in (side.low, side.high))
    return side.value * factor, low, high


def _number(figure: Figure, axes: Axes, points: Sequence[Point], factor: float) -> None:
    """A number beside each mark, as near as it has room; marks on one spot share their numbers."""
    figure.draw_without_rendering()
    spots: dict[tuple[float, float], list[int]] = {}
    for number, point in enumerate(points):
        place = _scaled(point.should_not, factor)[0], _scaled(point.should, factor)[0]
        spots.setdefault(place, []).append(number)

    def seen(place: tuple[float, float]) -> tuple[float, float]:
        x, y = axes.transData.transform(place) * 72 / figure.dpi
        return float(x), float(y)

    frame = axes.get_window_extent()
    low, high = (tuple(end * 72 / figure.dpi for end in corner) for corner in (frame.min, frame.max))
    taken = [seen(place) for place in spots]
    taken += [seen(place) for point in points for place in _along_bars(point, factor)]
    for place, numbers in spots.items():
        mark = seen(place)
        text = ", ".join(map(str, numbers))
        # A wide text keeps further off, and other numbers keep off all of it.
        half = 2.3 * (len(text) - 1)
        steps = [(far, turn * math.pi / 8) for far in _NEAR for turn in range(16)]
        around = [(mark[0] + (far + half) * math.cos(turn), mark[1] + far * math.sin(turn)) for far, turn in steps]
        inside = [one for one in around if low[0] + 3 < one[0] - half and one[0] + half < high[0] - 3
                  and low[1] + 5 < one[1] < high[1] - 5]  # fmt: skip
        others = [one for one in taken if one != mark]
        rooms = [(min(_room(at, others) for at in _across(one, half)), one) for one in inside or around]
        best = next((one for room, one in rooms if room >= _ROOM), max(rooms)[1])
        taken += _across(best, half)
        away = best[0] - mark[0], best[1] - mark[1]
        plain = any(points[number].condition.kind == "baseline" for number in numbers)
        colour = INK if plain else DIRECTION
        line = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.6, "shrinkA": 1.5, "shrinkB": 3}
        axes.annotate(
            text, place, xytext=away, textcoords="offset points", ha="center", va="center", fontsize=8.5, zorder=7,
            color=colour, annotation_clip=False, arrowprops=line if math.hypot(*away) - half > _LED else None,
        )  # fmt: skip


def _across(centre: tuple[float, float], half: float) -> list[tuple[float, float]]:
    """Points along a text of that half width."""
    return [(centre[0] + half * at, centre[1]) for at in ((-1, 0, 1) if half else (0,))]


def _along_bars(point: Point, factor: float) -> list[tuple[float, float]]:
    """Points along both intervals, in the units of the axes."""
    x, y = _scaled(point.should_not, factor), _scaled(point.should, factor)
    found = []
    for at in range(9):
        if x[1] is not None and x[2] is not None:
            found.append((x[1] + (x[2] - x[1]) * at / 8, y[0]))
        if y[1] is not None and y[2] is not None:
            found.append((x[0], y[1] + (y[2] - y[1]) * at / 8))
    return found


def _room(place: tuple[float, float], others: Sequence[tuple[float, float]]) -> float:
    """How far the nearest mark is, where that is near enough to matter."""
    return min([20.0, *(math.hypot(place[0] - x, place[1] - y) for x, y in others)])


def _key(figure: Figure, tradeoff: Tradeoff, height: float) -> None:
    """Below: which number is which condition, and what the pale marks are."""
    points = tradeoff.drawn
    top = (0.06 + LINE * (-(-len(points) // COLUMNS) + 0.5)) / height
    for number, point in enumerate(points):
        row, column = divmod(number, COLUMNS)
        colour = INK if point.condition.kind == "baseline" else DIRECTION
        text = f"{number}{NO_BREAK}{NO_BREAK}{shorten(point.condition.name, 30)}"
        figure.text(0.03 + column * 0.5, top - row * LINE / height, text, color=colour, fontsize=8.5, va="center")
    if tradeoff.controlled:
        from matplotlib.lines import Line2D

        mark = Line2D([], [], color=CONTROL, marker="D", markersize=3.6, alpha=0.45, linewidth=0)
        figure.legend(
            [mark], ["random directions"], loc="upper right", bbox_to_anchor=(0.99, 1 - 0.02 / height), frameon=False,
            fontsize=8, handletextpad=0.2, labelcolor=MUTED, borderaxespad=0.1,
        )  # fmt: skip
