"""The figures of a study: what each case costs, by mode, beside A/A and the bars. matplotlib is imported to draw."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from steerkit.bench.bars import bar_of
from steerkit.bench.by_hand import BY_HAND
from steerkit.bench.measure import Ratio, ratio_of
from steerkit.errors import counted
from steerkit.report.numbers import MINUS, NO_BREAK
from steerkit.report.svg import CHOSEN, CONTROL, DIRECTION, GRID, INK, MUTED, SERIES, Plot, render

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from steerkit.bench.study import Part, Study

WIDTH: Final = 4.6
MODE_COLOURS: Final = {"fold": DIRECTION, "hook": SERIES[2], BY_HAND: MUTED}
MODE_MARKS: Final = {"fold": "o", "hook": "D", BY_HAND: "s"}


def draw(studies: Sequence[Study]) -> tuple[Plot, ...]:
    """One figure for each phase and batch size of each model."""
    return tuple(
        _plot(study, part, number)
        for number, (study, part) in enumerate(((study, part) for study in studies for part in study.parts), start=1)
    )


def title_of(study: Study, part: Part) -> str:
    """What a figure and a table are of."""
    calls = "compiled calls" if study.settings.compiled else "eager calls"
    rows = (
        f"batch {part.batch}"
        if part.phase == "decode"
        else f"{part.batch}×{counted(study.settings.prefill[1], 'token')}"
    )
    return f"{study.settings.model}, {part.phase}, {rows}, {calls}"


def extra(seconds: float) -> str:
    """Extra time with its sign, in µs or ms."""
    value, unit = (seconds * 1e6, "µs") if abs(seconds) < 0.01 else (seconds * 1e3, "ms")
    sign = "+" if round(value) > 0 else MINUS if round(value) < 0 else ""
    return f"{sign}{abs(value):.0f}{NO_BREAK}{unit}"


def _plot(study: Study, part: Part, number: int) -> Plot:
    title = f"{title_of(study, part)}: {_clock(study)} over plain transformers, with 95{NO_BREAK}% intervals"
    name = re.sub(r"[^a-z0-9.]+", "-", f"{study.settings.model}-{part.phase}-{part.batch}".lower()).strip("-.")
    return Plot(f"overhead-{number}", f"{name}.svg", title, render(partial(_draw, study, part)))


def _clock(study: Study) -> str:
    return "CPU time" if study.clock == "cpu" else "wall time"


def _draw(study: Study, part: Part) -> Figure:
    from matplotlib.figure import Figure

    cases = list(dict.fromkeys(case for case, _ in part.pairs))
    modes = list(dict.fromkeys(mode for _, mode in part.pairs))
    height = max(0.42, 0.19 * len(modes)) * len(cases) + 1.05
    figure = Figure(figsize=(WIDTH, height))
    figure.subplots_adjust(left=1.36 / WIDTH, right=1 - 0.88 / WIDTH, bottom=0.5 / height, top=1 - 0.5 / height)
    axes = figure.add_subplot()
    same = ratio_of(part.same, study.clock)
    axes.axvspan(same.low, same.high, color=CONTROL, alpha=0.3, linewidth=0, zorder=1)
    axes.axvline(1, color=INK, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)
    marks = []
    for (case, mode), pairs in part.pairs.items():
        offset = (modes.index(mode) - (len(modes) - 1) / 2) * 0.84 / max(len(modes), 2)
        found, most = ratio_of(pairs, study.clock, part.calls), bar_of(study, part, case, mode)
        _mark(axes, found, most, mode, cases.index(case) + offset)
        marks += [found.low, found.high, *([most] if most is not None else [])]
    _frame(axes, cases, [*marks, same.low, same.high])
    axes.set_xlabel(f"{_clock(study)} over plain transformers")
    axes.annotate("extra per call", (1, 1), xycoords="axes fraction", xytext=(6, 3), textcoords="offset points",
                  color=MUTED, fontsize=8, ha="left", va="bottom")  # fmt: skip
    _key(figure, modes, any(bar_of(study, part, *key) is not None for key in part.pairs), height)
    return figure


def _mark(axes: Axes, found: Ratio, most: float | None, mode: str, place: float) -> None:
    colour = MODE_COLOURS[mode]
    axes.plot([found.low, found.high], [place, place], color=colour, linewidth=1.6, zorder=4)
    axes.plot([found.ratio], [place], MODE_MARKS[mode], color=colour, markersize=4.5, zorder=5)
    if most is not None:
        axes.plot([most, most], [place - 0.19, place + 0.19], color=CHOSEN, linewidth=2.2, zorder=3)
    axes.annotate(extra(found.extra_seconds), (1, place), xycoords=("axes fraction", "data"), xytext=(6, 0),
                  textcoords="offset points", color=colour, fontsize=8, ha="left", va="center")  # fmt: skip


def _frame(axes: Axes, cases: Sequence[str], marks: Sequence[float]) -> None:
    from matplotlib.ticker import MaxNLocator

    room = 0.05 * (max(*marks, 1.0) - min(*marks, 1.0)) or 0.01
    axes.set_xlim(min(*marks, 1.0) - room, max(*marks, 1.0) + room)
    axes.set_yticks(range(len(cases)), cases)
    axes.set_ylim(len(cases) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))


def _key(figure: Figure, modes: Sequence[str], bars: bool, height: float) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Line2D | Patch] = [
        Line2D([], [], color=MODE_COLOURS[mode], marker=MODE_MARKS[mode], markersize=4.5, linewidth=1.6)
        for mode in modes
    ]
    labels = [*modes, "A/A"]
    handles.append(Patch(facecolor=CONTROL, alpha=0.3, linewidth=0))
    if bars:
        handles.append(Line2D([], [], color=CHOSEN, marker="|", markersize=9, markeredgewidth=2.2, linewidth=0))
        labels.append("bar")
    figure.legend(
        handles, labels, loc="upper left", bbox_to_anchor=(0.005, 1 - 0.05 / height), ncols=5, frameon=False,
        fontsize=9 if len(labels) < 5 else 8, handlelength=1.6, handletextpad=0.5, columnspacing=1.1, borderaxespad=0.2,
        labelcolor=MUTED,
    )  # fmt: skip
