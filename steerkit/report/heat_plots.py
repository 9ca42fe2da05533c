"""The figure of a heat map: one panel for each table, layers to the right, the chosen cell marked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from steerkit.report.heat import Grid, Heat
from steerkit.report.numbers import NO_BREAK, shorten, significant
from steerkit.report.svg import CARD, CHOSEN, DIRECTION, GRID, INK, MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

WIDTH: Final = 4.6
MOST_LABELS: Final = 16
"""Columns that each have a number below; of more, every few do."""
WRITTEN: Final = 8
"""Columns at most for which numbers stand in the cells."""
CORNER: Final = 0.085
"""Legs of the mark of a removed candidate, in inches: in the corner of its cell, clear of the number."""


def draw_heat(heat: Heat) -> Figure:
    """Cells as squares of colour: blue above the reference, amber below it, stronger where further away.

    A grey cell has no number. Colours are opacities of two plain ones, so that they suit a dark page too.
    """
    from matplotlib.figure import Figure

    labels = [shorten(row, 24) for row in heat.rows]
    left = min(0.25 + 0.072 * max(map(len, labels)), 1.75)
    inner = WIDTH - left - 0.15
    cell = min(inner / len(heat.columns), 0.42)
    row = min(max(cell, 0.2), 0.34)
    panel = row * len(labels)
    gap, top, bottom = 0.82, 0.5, 0.95 if heat.chosen is not None or heat.removed else 0.75
    height = top + bottom + panel * len(heat.grids) + gap * (len(heat.grids) - 1)
    figure = Figure(figsize=(WIDTH, height))
    for number, grid in enumerate(heat.grids):
        base = height - top - panel * (number + 1) - gap * number
        width = cell * len(heat.columns)
        axes = figure.add_axes((left / WIDTH, base / height, width / WIDTH, panel / height))
        _draw_grid(axes, heat, grid, labels)
        _caption(figure, grid, (base + panel) / height, height)
    axes.set_xlabel("layer")
    _key(figure, heat, height)
    return figure


def _caption(figure: Figure, grid: Grid, top: float, height: float) -> None:
    """Above a panel: what it shows, and from where to where its numbers go."""
    factor = 100.0 if grid.percent else 1.0
    low, high = (significant(end(grid.values.values()) * factor, 2) for end in (min, max))
    unit = f"{NO_BREAK}%" if grid.percent else f" {grid.unit}" if grid.unit else ""
    known = "" if grid.reference is None else f"; untouched {significant(grid.reference * factor, 2)}"
    figure.text(0.02, top + 0.28 / height, shorten(grid.title, 72), color=INK, fontsize=8, va="center")
    spread = f"{low} to {high}{unit}{known}"
    figure.text(0.02, top + 0.11 / height, spread, fontsize=7.5, color=MUTED, va="center")


def _key(figure: Figure, heat: Heat, height: float) -> None:
    """Below: what colours, corners and the frame mean, and what rows are."""
    from matplotlib.patches import Patch

    marks: list[Any] = [Patch(facecolor=CHOSEN, alpha=0.8), Patch(facecolor=DIRECTION, alpha=0.8)]
    words = ["below untouched", "above untouched"]
    if heat.absent:
        marks.append(Patch(facecolor=GRID))
        words.append(heat.absent)
    if heat.chosen is not None:
        marks.append(Patch(fill=False, edgecolor=INK, linewidth=1.8))
        words.append("chosen")
    if heat.removed:
        words.append("removed")
        marks.append(_corner_key())
    if heat.row_name:
        words.append(f"rows: {heat.row_name}")
        marks.append(Patch(alpha=0, linewidth=0))
    figure.legend(
        marks, words, loc="lower left", bbox_to_anchor=(0.01, 0.02 / height), ncols=3, frameon=False, fontsize=8,
        handlelength=1.0, handleheight=0.9, handletextpad=0.5, columnspacing=1.2, labelcolor=MUTED, borderaxespad=0.2,
    )  # fmt: skip


def _mark_removed(axes: Axes, row: int, column: int, legs: tuple[float, float]) -> None:
    """A dark corner at the upper right of a cell, with a light edge that keeps it apart from a deep colour."""
    from matplotlib.patches import Polygon

    right, (across, down) = column + 1, legs
    corner = [(right - across, row), (right, row), (right, row + down)]
    axes.add_patch(Polygon(corner, closed=True, facecolor=INK, edgecolor=CARD, linewidth=0.6, gid="removed", zorder=5))


def _legs(axes: Axes, columns: int, rows: int) -> tuple[float, float]:
    """Width and height of a corner, as shares of a cell's."""
    figure, place = axes.get_figure(root=True), axes.get_position()
    assert figure is not None
    width, height = figure.get_size_inches() * (place.width / columns, place.height / rows)
    length = min(CORNER, 0.45 * width, 0.45 * height)
    return float(length / width), float(length / height)


def _corner_key() -> Line2D:
    """The same corner, for the legend."""
    from matplotlib.lines import Line2D

    return Line2D(
        [], [], linestyle="", marker=[(-1, 1), (1, 1), (1, -1)], markersize=6.5, color=INK, markeredgecolor=CARD,
        markeredgewidth=0.6,
    )  # fmt: skip


def _draw_grid(axes: Axes, heat: Heat, grid: Grid, labels: list[str]) -> None:
    from matplotlib.patches import Rectangle

    middle = grid.reference if grid.reference is not None else min(grid.values.values())
    reach = max((abs(value - middle) for value in grid.values.values()), default=0.0) or 1.0
    factor = 100.0 if grid.percent else 1.0
    legs = _legs(axes, len(heat.columns), len(labels))
    for row in range(len(labels)):
        for column in range(len(heat.columns)):
            if (row, column) not in grid.values:
                axes.add_patch(Rectangle((column, row), 1, 1, facecolor=GRID, linewidth=0, zorder=1))
    for (row, column), value in grid.values.items():
        share = (value - middle) / reach
        colour = DIRECTION if share >= 0 else CHOSEN
        axes.add_patch(
            Rectangle((column, row), 1, 1, facecolor=colour, alpha=round(abs(share) ** 0.8, 3), linewidth=0, zorder=2)
        )
        if len(heat.columns) <= WRITTEN:
            axes.text(
                column + 0.5, row + 0.5, significant(value * factor, 2), ha="center", va="center", fontsize=7.5,
                color=CARD if abs(share) ** 0.8 > 0.6 else INK, zorder=4,
            )  # fmt: skip
    for row, column in sorted(heat.removed):
        _mark_removed(axes, row, column, legs)
    if heat.chosen is not None:
        row, column = heat.chosen
        axes.add_patch(Rectangle((column, row), 1, 1, fill=False, edgecolor=INK, linewidth=1.8, zorder=6))
    axes.set_xlim(0, len(heat.columns))
    axes.set_ylim(len(labels), 0)
    axes.set_yticks([at + 0.5 for at in range(len(labels))], labels)
    step = max(1, -(-len(heat.columns) // MOST_LABELS))
    shown = range(0, len(heat.columns), step)
    axes.set_xticks([at + 0.5 for at in shown], [str(heat.columns[at]) for at in shown])
    axes.tick_params(length=0, labelsize=8)
    for spine in axes.spines.values():
        spine.set_visible(False)
