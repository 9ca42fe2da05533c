"""The figures: conditions side by side, dose–response, separation by layer. matplotlib is imported to draw."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Final, TypeVar

from steerkit.report.glance import spread
from steerkit.report.numbers import NO_BREAK, NOT_MEASURED, setting, shorten
from steerkit.report.rank_plots import draw_ranks
from steerkit.report.ranks import RankView, is_rank_curve, make_ranks
from steerkit.report.search import SearchView
from steerkit.report.search_plots import draw_search
from steerkit.report.separation import Separation
from steerkit.report.svg import CARD, CHOSEN, CONTROL, DIRECTION, GRID, INK, MUTED, SERIES, Plot, make_plot
from steerkit.report.tables import Block, Row, Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

T = TypeVar("T")
End = tuple[float, str, str]
"""Where a curve ends, its name and its colour."""

DOSE_HEIGHT: Final = 3.1
WIDTH: Final = 4.6
"""Inches. A phone shows such a figure at about its own size, so its text stays readable."""

MOST_ROWS: Final = 24
"""Above this many conditions, those of sweeps are left to the dose–response figures."""


def draw_all(
    blocks: Sequence[Block], separations: Sequence[Separation], searches: Sequence[SearchView] = ()
) -> tuple[Plot, ...]:
    """Draw every figure that the numbers allow, in the order of the report."""
    news = [(number, block) for number, block in enumerate(blocks, start=1) if block.derived_from is None]
    plots = [conditions_plot(block, number) for number, block in news if rows_shown(block)]
    sweeps = [(block, sweep) for _, block in news for sweep in block.sweeps if is_dose(sweep)]
    plots += [dose_plot(block, sweep, number) for number, (block, sweep) in enumerate(sweeps, start=1)]
    shown = [item for item in separations if item.measured]
    plots += [separation_plot(item, number) for number, item in enumerate(shown, start=1)]
    plots += [search_plot(item, number) for number, item in enumerate(searches, start=1)]
    plots += [rank_plot(item, number) for number, item in enumerate(make_ranks(blocks), start=1)]
    return tuple(plots)


def is_curve(sweep: Sweep) -> bool:
    """Whether there are points to draw: two, or one and the baseline."""
    measured = sum(row.value is not None for _, row in sweep.points)
    return measured > 1 or (measured == 1 and sweep.through_baseline)


def is_dose(sweep: Sweep) -> bool:
    """Whether it has a dose–response figure: what is over a number of directions has a figure of its own."""
    return is_curve(sweep) and not is_rank_curve(sweep)


def rows_shown(block: Block) -> tuple[Row, ...]:
    """The rows that the conditions figure holds."""
    measured = tuple(row for row in block.all_rows if row.value is not None)
    if len(measured) <= MOST_ROWS:
        return measured
    in_curves = {row.condition.name for sweep in block.sweeps if is_curve(sweep) for _, row in sweep.points}
    return tuple(row for row in measured if row.condition.name not in in_curves)


def conditions_plot(block: Block, number: int) -> Plot:
    """Conditions side by side: value with interval, control as mean and range, baseline as a line."""
    title = f"{block.name}: every condition with its 95{NO_BREAK}% interval, beside its control and the baseline"
    return make_plot("conditions", number, (block.evaluator.name, block.data), title, partial(_draw_conditions, block))


def dose_plot(block: Block, sweep: Sweep, number: int) -> Plot:
    """Dose–response: value with interval over the swept number, with control and baseline."""
    title = f"{block.name} over {sweep.option} in {sweep.name}, with 95{NO_BREAK}% intervals, control and baseline"
    names = (sweep.name, block.evaluator.name, block.data)
    return make_plot("dose", number, names, title, partial(_draw_dose, block, sweep))


def separation_plot(separation: Separation, number: int) -> Plot:
    """Separation of the classes by layer: AUROC above, d′ below, the chosen site marked."""
    title = f"{separation.title}: AUROC and d′ by layer"
    names = (separation.direction, *separation.data)
    return make_plot("separation", number, names, title, partial(_draw_separation, separation))


def search_plot(view: SearchView, number: int) -> Plot:
    """A search: each score over the layers, a line for each position, baseline, bounds and choice marked."""
    title = f"{view.entry.name}: {', '.join(panel.name for panel in view.panels)} of every candidate by layer"
    return make_plot("search", number, (view.entry.name,), title, partial(draw_search, view))


def rank_plot(view: RankView, number: int) -> Plot:
    """Behaviour against the number of directions removed, with intervals, controls and baseline."""
    names = (view.block.evaluator.name, view.block.data)
    return make_plot("ranks", number, names, f"{view.title}, with 95{NO_BREAK}% intervals", partial(draw_ranks, view))


def _figure(height: float, **margins: float) -> Figure:
    """A figure of ``height`` inches; margins in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height))
    figure.subplots_adjust(
        left=margins["left"] / WIDTH,
        right=1 - margins["right"] / WIDTH,
        bottom=margins["bottom"] / height,
        top=1 - margins["top"] / height,
    )
    return figure


def _axis_label(block: Block) -> str:
    unit = "%" if block.format.percent else block.unit
    return shorten(f"{block.evaluator.name} ({unit})" if unit else block.evaluator.name, 44)


def _factor(block: Block) -> float:
    return 100.0 if block.format.percent else 1.0


def _draw_conditions(block: Block) -> Figure:
    rows = rows_shown(block)
    labels = [shorten(row.condition.name, 22) for row in rows]
    height = 0.3 * len(rows) + 1.0
    left = 0.16 + 0.078 * max(map(len, labels), default=0)
    figure = _figure(height, left=left, right=0.15, bottom=0.5, top=0.42)
    axes = figure.add_subplot()
    for place, row in enumerate(rows):
        _draw_row(axes, block, row, place)
    if block.baseline is not None and block.baseline.value is not None:
        axes.axvline(block.baseline.value * _factor(block), color=INK, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    _few_ticks(axes, "x")
    axes.set_xlabel(_axis_label(block))
    _key(figure, rows, height)
    return figure


def _draw_row(axes: Axes, block: Block, row: Row, place: int) -> None:
    factor = _factor(block)
    control = row.control
    if control is not None and control.mean is not None and control.low is not None and control.high is not None:
        span = [control.low * factor, control.high * factor]
        axes.plot(span, [place, place], color=CONTROL, linewidth=7, alpha=0.4, zorder=2)
        axes.plot([control.mean * factor], [place], "D", color=CONTROL, markersize=4, zorder=3)
    colour = INK if row.condition.kind == "baseline" else DIRECTION
    if row.interval is not None:
        axes.plot([bound * factor for bound in row.interval], [place, place], color=colour, linewidth=1.6, zorder=4)
    if row.value is not None:
        fill = CARD if row.condition.kind == "baseline" else colour
        at = [row.value * factor]
        axes.plot(at, [place], "o", markersize=5.5, markerfacecolor=fill, markeredgecolor=colour, zorder=5)


def _key(figure: Figure, rows: Sequence[Row], height: float) -> None:
    """What the marks mean, above the plot. The baseline is a row with its own name, so it needs no entry."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=DIRECTION, marker="o", markersize=5.5, linewidth=1.6)]
    labels = [f"value, 95{NO_BREAK}% interval"]
    if any(row.control is not None and row.control.values for row in rows):
        handles.append(Line2D([], [], color=CONTROL, marker="D", markersize=4, linewidth=0))
        labels.append("random: mean, range")
    if any(row.condition.kind == "baseline" for row in rows):
        handles.append(Line2D([], [], color=INK, linewidth=0.9, linestyle=(0, (4, 2))))
        labels.append("baseline")
    figure.legend(
        handles, labels, loc="upper left", bbox_to_anchor=(0.005, 1 - 0.05 / height), ncols=3, frameon=False,
        fontsize=9, handlelength=1.6, handletextpad=0.5, columnspacing=1.1, borderaxespad=0.2, labelcolor=MUTED,
    )  # fmt: skip


def _few_ticks(axes: Axes, which: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))


def _draw_dose(block: Block, sweep: Sweep) -> Figure:
    figure = _figure(DOSE_HEIGHT, left=0.62, right=1.05, bottom=0.5, top=0.36)
    axes = figure.add_subplot()
    factor = _factor(block)
    ends: list[End] = []
    baseline = block.baseline if sweep.through_baseline else None
    rows = _in_order(sweep, baseline)
    ends += _draw_dose_control(axes, rows, factor)
    ends += _draw_dose_values(axes, rows, factor, shorten(sweep.name, 13))
    if block.baseline is not None and block.baseline.value is not None:
        level = block.baseline.value * factor
        axes.axhline(level, color=INK, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)
        if baseline is not None:
            axes.plot([0], [level], "o", markersize=6.5, markerfacecolor=CARD, markeredgecolor=INK, zorder=6)
        ends.append((level, "baseline", INK))
    _frame(axes)
    _dose_ticks(axes, [x for x, _ in rows])
    axes.set_xlabel(shorten(sweep.option, 40))
    axes.set_title(_axis_label(block), color=MUTED, fontsize=9, x=-0.13)
    _label_ends(figure, axes, ends)
    return figure


def _dose_ticks(axes: Axes, places: Sequence[float]) -> None:
    """Ticks where something was measured, unless they would crowd."""
    span = max(places) - min(places)
    apart = min((after - before for before, after in pairwise(places)), default=0.0)
    if span and apart / span >= 0.09:
        axes.set_xticks(list(places), [setting(place) for place in places])


def _in_order(sweep: Sweep, baseline: Row | None) -> list[tuple[float, Row]]:
    """The sweep's points, with the baseline at 0 where that is the same thing."""
    pairs = list(sweep.points)
    if baseline is not None and all(x != 0 for x, _ in pairs):
        pairs.append((0.0, baseline))
    return sorted(pairs, key=lambda pair: pair[0])


def _draw_dose_values(axes: Axes, rows: Sequence[tuple[float, Row]], factor: float, name: str) -> list[End]:
    ends: list[End] = []
    for piece in _runs(rows, lambda row: row.value):
        x, values = zip(*piece, strict=True)
        axes.plot(x, [value * factor for value in values], color=DIRECTION, linewidth=1.8, marker="o", markersize=4.5,
                  zorder=5)  # fmt: skip
        ends = [(values[-1] * factor, name, DIRECTION)]
    for intervals in _runs(rows, lambda row: row.interval):
        x, bounds = zip(*intervals, strict=True)
        low, high = [low * factor for low, _ in bounds], [high * factor for _, high in bounds]
        if len(x) > 1:
            axes.fill_between(x, low, high, color=DIRECTION, alpha=0.2, linewidth=0, zorder=4)
        else:
            axes.plot([x[0], x[0]], [low[0], high[0]], color=DIRECTION, linewidth=1.4, zorder=4)
    return ends


def _draw_dose_control(axes: Axes, rows: Sequence[tuple[float, Row]], factor: float) -> list[End]:
    if not any(_control_range(row) and row.condition.kind != "baseline" for _, row in rows):
        return []
    ends: list[End] = []
    for piece in _runs(rows, _control_range):
        x, ranges = zip(*piece, strict=True)
        low, mean, high = ([values[place] * factor for values in ranges] for place in range(3))
        axes.fill_between(x, low, high, color=CONTROL, alpha=0.3, linewidth=0, zorder=2)
        axes.plot(x, mean, color=CONTROL, linewidth=1.2, linestyle=(0, (3, 1.5)), marker="D", markersize=3, zorder=3)
        ends = [(mean[-1], "random:\nmean, range", CONTROL)]
    return ends


def _control_range(row: Row) -> tuple[float, float, float] | None:
    """Lowest, mean, highest. Random directions with a coefficient of 0 are the baseline as well."""
    if row.condition.kind == "baseline" and row.value is not None:
        return row.value, row.value, row.value
    control = row.control
    if control is None or control.low is None or control.mean is None or control.high is None:
        return None
    return control.low, control.mean, control.high


def _runs(rows: Iterable[tuple[float, Row]], read: Callable[[Row], T | None]) -> list[list[tuple[float, T]]]:
    """Neighbours that were measured. A line over a gap would invent what is in it."""
    runs: list[list[tuple[float, T]]] = [[]]
    for x, row in rows:
        value = read(row)
        if value is None:
            runs.append([])
        else:
            runs[-1].append((x, value))
    return [run for run in runs if run]


def _frame(axes: Axes) -> None:
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    _few_ticks(axes, "x")
    _few_ticks(axes, "y")


def _label_ends(figure: Figure, axes: Axes, ends: Sequence[End]) -> None:
    """Names to the right of the curves' ends, pushed apart where they would overlap."""
    bottom, top = axes.get_ylim()
    height = axes.get_position().height * figure.get_figheight() * 72
    placed: list[End] = []
    floor = -math.inf
    for level, text, colour in sorted(ends):
        lines = text.count("\n") + 1
        place = max((level - bottom) / (top - bottom) * height - 5.5 * lines, floor)
        floor = place + 11.5 * lines + 1
        placed.append((place, text, colour))
    excess = max(floor - height - 8, 0)
    for place, text, colour in placed:
        axes.annotate(
            text, (1, 0), xycoords="axes fraction", xytext=(6, place - excess), textcoords="offset points",
            color=colour, fontsize=9, ha="left", va="bottom", linespacing=1.15,
        )  # fmt: skip


def _draw_separation(separation: Separation) -> Figure:
    height = 4.1
    labelled = len(separation.curves) > 1
    figure = _figure(height, left=0.62, right=1.05 if labelled else 0.25, bottom=0.5, top=0.5)
    above, below = figure.subplots(2, 1, sharex=True, gridspec_kw={"hspace": 0.34})
    _draw_measure(figure, above, separation, "auroc")
    _draw_measure(figure, below, separation, "d_prime")
    above.set_title("AUROC", color=MUTED, fontsize=9, x=-0.13)
    below.set_title("d′ (standard deviations)", color=MUTED, fontsize=9, x=-0.13)
    above.axhline(0.5, color=INK, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)
    above.annotate("chance", (1, 0.5), xycoords=("axes fraction", "data"), xytext=(-2, 3), textcoords="offset points",
                   color=INK, fontsize=9, ha="right")  # fmt: skip
    low = min([0.5, *(value for curve in separation.curves for _, value in curve.points("auroc"))])
    above.set_ylim(max(low - 0.06, -0.02), 1.03)
    below.axhline(0, color=GRID, linewidth=0.9)
    below.set_xlabel("layer")
    _mark_chosen(figure, (above, below), separation, height)
    return figure


def _draw_measure(figure: Figure, axes: Axes, separation: Separation, measure: str) -> None:
    from matplotlib.ticker import MaxNLocator

    ends: list[End] = []
    for number, curve in enumerate(separation.curves):
        colour = SERIES[number % len(SERIES)]
        style = ("-", (0, (5, 1.5)), (0, (1.5, 1)))[number // len(SERIES) % 3]
        for piece in curve.pieces(measure):
            layers, values = zip(*piece, strict=True)
            axes.plot(layers, values, color=colour, linestyle=style, linewidth=1.5, marker="o", markersize=3, zorder=3)
        points = curve.points(measure)
        if points:
            ends.append((points[-1][1], shorten(curve.label, 15), colour))
    _frame(axes)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    if not ends:
        axes.set_yticks([])
        axes.text(0.5, 0.5, NOT_MEASURED, transform=axes.transAxes, color=MUTED, ha="center", va="center")
    if measure == "auroc" and len(ends) > 1:
        _label_ends(figure, axes, ends)


def _mark_chosen(figure: Figure, both: Iterable[Axes], separation: Separation, height: float) -> None:
    chosen = separation.chosen
    if chosen is None:
        words = "a vector at each site: none was chosen" if separation.everywhere else "its site is not among these"
        figure.text(0.02, 1 - 0.2 / height, words, color=MUTED, fontsize=9, va="center")
        return
    apart = spread(chosen.d_prime)
    for axes, value in zip(both, (chosen.auroc, apart), strict=True):
        axes.axvline(chosen.layer, color=CHOSEN, linewidth=1.1, zorder=2)
        if value is not None:
            axes.plot([chosen.layer], [value], "o", color=CHOSEN, markersize=6.5, zorder=6)
    numbers = [f"AUROC {chosen.auroc:.2f}"] if chosen.auroc is not None else []
    numbers += [f"d′ {setting(round(apart, 2))}"] if apart is not None else []
    where = f"{separation.role} {chosen.site}"
    text = ": ".join([where, ", ".join(numbers)]) if numbers else where
    figure.text(0.02, 1 - 0.2 / height, shorten(text, 58), color=CHOSEN, fontsize=9, va="center")
