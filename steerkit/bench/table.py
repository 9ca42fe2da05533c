"""What a study found, for a terminal of 80 columns and for a pipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from steerkit.bench.bars import RULE, bar_of, less_excess, verdicts
from steerkit.bench.measure import ratio_of
from steerkit.bench.plot import extra, title_of
from steerkit.errors import counted
from steerkit.report.numbers import MINUS, NO_BREAK

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from steerkit.bench.study import Part, Study


def print_study(study: Study, console: Console) -> None:
    """Print a table for each phase and batch size, and what else was measured.

    Args:
        study: what was measured.
        console: where to; without colour it loses nothing but colour.
    """
    from rich.text import Text

    for part in study.parts:
        console.print(_ratios(study, part))
        console.print(Text(same_line(study, part), style="dim"))
        console.print()
    for heading, columns, rows in (
        ("attach and detach", ("case", "mode", "time", "decode steps"), attach_rows(study)),
        ("peak memory over what was held before", ("case", "mode", "MB", "more than plain"), memory_rows(study)),
        ("bars", ("", "bar", "median", "held to it", ""), bar_rows(study)),
    ):
        if rows:
            console.print(_table(heading, columns, rows))
            console.print()
    if study.cold_start is not None:
        console.print(Text(cold_line(study)))
    if bar_rows(study):
        console.print(Text(RULE, style="dim"))


def same_line(study: Study, part: Part) -> str:
    """A/A in words, and how long a call and a sample are."""
    same = ratio_of(part.same, study.clock, part.calls)
    clock = "CPU time" if study.clock == "cpu" else "wall time"
    return (
        f"A/A {same.ratio:.3f} ({same.low:.3f} to {same.high:.3f}); {clock}; plain call "
        f"{same.reference_seconds * 1e3:.3g} ms; {counted(part.calls, 'call')} a sample, {counted(same.n, 'pair')}"
    )


def cold_line(study: Study) -> str:
    """The cold start in words."""
    found = study.cold_start
    assert found is not None
    return (
        f"Cold start, CPU time: plain transformers' first token after {found.plain:.2f} s, the first steered one "
        f"{found.extra:+.2f} s ({found.low:+.2f} to {found.high:+.2f}); by wall time {found.extra_wall:+.2f} s."
    )


def ratio_rows(study: Study, part: Part) -> list[tuple[str, ...]]:
    """Case, mode, ratio, interval, range, extra time, bar with its verdict."""
    same = ratio_of(part.same, study.clock).ratio
    rows: list[tuple[str, ...]] = []
    for (case, mode), pairs in part.pairs.items():
        found, most = ratio_of(pairs, study.clock, part.calls), bar_of(study, part, case, mode)
        bar = "" if most is None else f"{most:g} {'held' if less_excess(found.low, same) <= most else 'MISSED'}"
        rows.append(
            (
                case,
                mode,
                f"{found.ratio:.3f}",
                f"{found.low:.3f}-{found.high:.3f}",
                f"{found.least:.3f}-{found.most:.3f}",
                extra(found.extra_seconds).replace(NO_BREAK, " ").replace(MINUS, "-"),
                bar,
            )
        )
    return rows


def attach_rows(study: Study) -> list[tuple[str, ...]]:
    """Case, mode, ms, decode steps."""
    return [
        (one.case, one.mode, f"{one.seconds * 1e3:.2f} ms", "not measured" if one.steps is None else f"{one.steps:.2f}")
        for one in study.attached
    ]


def memory_rows(study: Study) -> list[tuple[str, ...]]:
    """Case, mode, peak, and that less the plain model's."""
    if study.memory is None:
        return []
    plain = study.memory["none", ""]
    return [
        (case, mode, f"{peak:.1f}", "" if case == "none" else f"{peak - plain:+.1f}")
        for (case, mode), peak in study.memory.items()
    ]


def bar_rows(study: Study) -> list[tuple[str, ...]]:
    """What, bar, median, what is held to the bar, verdict."""
    rows: list[tuple[str, ...]] = []
    for one in verdicts(study):
        unit = f" {one.unit}" if one.unit else ""
        digits = 3 if not one.unit else 2
        rows.append(
            (
                one.what,
                f"{one.most:g}{unit}",
                f"{one.measured:.{digits}f}",
                f"{one.value:.{digits}f}",
                "held" if one.holds else "MISSED",
            )
        )
    return rows


def _ratios(study: Study, part: Part) -> Table:
    columns: tuple[str, ...] = ("case", "mode", "ratio", "95 %", "range", "extra", "bar")
    rows = ratio_rows(study, part)
    if not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return _table(title_of(study, part), columns, rows)


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title, style="bold"), title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        words = index == 0 or column == "mode"
        table.add_column(column, justify="left" if words else "right", header_style="dim", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell, style="red" if "MISSED" in cell else "") for cell in row))
    return table
