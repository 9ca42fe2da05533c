"""The frame that figures of cosines by layer share: axes with a line at zero, and what lines mean below them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from steerkit.report.svg import GRID, INK, MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH: Final = 4.6


def cosine_axes(n_words: int) -> tuple[Figure, Axes]:
    """A figure with axes for cosines by layer, and room below for the meaning of so many lines."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    below = 0.55 + 0.19 * n_words
    height = 2.5 + below
    figure = Figure(figsize=(WIDTH, height))
    figure.subplots_adjust(left=0.62 / WIDTH, right=1 - 0.2 / WIDTH, bottom=below / height, top=1 - 0.32 / height)
    axes = figure.add_subplot()
    axes.axhline(0, color=INK, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.set_xlabel("layer")
    axes.set_title("cosine", color=MUTED, fontsize=9, x=-0.13)
    return figure, axes


def legend_below(figure: Figure, handles: Sequence[Any], words: Sequence[str]) -> None:
    """What lines mean, one below the other under the axes."""
    figure.legend(
        list(handles), list(words), loc="lower left", bbox_to_anchor=(0.01, 0.0), ncols=1, frameon=False, fontsize=8,
        handlelength=1.8, handletextpad=0.5, labelspacing=0.35, labelcolor=MUTED, borderaxespad=0.2,
    )  # fmt: skip
