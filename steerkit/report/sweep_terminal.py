"""A sweep in a terminal: the tables that are read first, what failed, and where the page is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steerkit.columns import GAP, print_table
from steerkit.report.numbers import clean, count, sentence_case
from steerkit.report.sweep import Cell, ReadSweep, SweepTable
from steerkit.report.terminal import REPORT

if TYPE_CHECKING:
    from rich.console import Console


def print_sweep(found: ReadSweep, console: Console) -> None:
    """Print a table for each measure that is read first, with a column for each model.

    Args:
        found: the sweep.
        console: where to.
    """
    from rich.text import Text

    console.print(Text(clean(found.sweep.title), style="bold"))
    console.print(Text(clean(found.told), style="dim"))
    console.print()
    shown = [one for one in found.tables if one.opened]
    whole = [_print_table(found, one, console) for one in shown]
    if shown:
        _print_key(found, all(whole), console)
    if len(shown) < len(found.tables):
        more = count(len(found.tables) - len(shown), "more table")
        console.print(f"{sentence_case(more)} in the comparison.")
    if found.failures:
        console.print(Text("\nFailed:" if shown else "Failed:", style="bold"))
        for places, why in found.failures:
            console.print(Text(clean(f"- {found.labels(places)}: {why}")))
    console.print()
    console.print(Text(f"Comparison: {found.path / REPORT}"), soft_wrap=True)


def _print_table(found: ReadSweep, one: SweepTable, console: Console) -> bool:
    """Print a table; says whether there was room for intervals beside the values."""
    heads = ["condition", *(clean(column.label) for column in found.columns)]

    def lines(spread: bool) -> list[list[str]]:
        return [[clean(name.name), *(cell_text(one, cell, spread) for cell in cells)] for name, cells in one.rows]

    rows = lines(True)
    wide = sum(max(map(len, texts)) + GAP for texts in zip(heads, *rows, strict=True)) - GAP
    fits = wide <= console.width
    unit = f", {one.unit}" if one.unit else ""
    print_table(console, clean(f"{one.name}{unit}"), heads, rows if fits else lines(False), right=range(1, len(heads)))
    return fits


def _print_key(found: ReadSweep, whole: bool, console: Console) -> None:
    """Print what a cell is."""
    value, spread = ("the mean over seeds", "lowest to highest") if found.folded else ("the value", "95 % interval")
    beside = f" ({spread})" if whole else f"; the comparison has beside it the {spread}"
    cells = [cell for one in found.tables if one.opened for _, cells in one.rows for cell in cells]
    console.print(f"A cell is {value}{beside}.")
    if any(like_random(cell) for cell in cells):
        console.print("~: random directions of the same norm give such values too.")
    if any(0 < cell.measured < cell.planned for cell in cells):
        console.print("1 of 2: so many of the runs have a value.")


def like_random(cell: Cell) -> bool:
    """Whether random directions of the same norm give such values too, in all runs that compare with any."""
    return bool(cell.controlled) and cell.within == cell.controlled


def cell_text(table: SweepTable, cell: Cell, beside: bool = True) -> str:
    """``1.2 (0.9 to 1.5)``, or why there is no value.

    Args:
        table: what it stands in.
        cell: the cell.
        beside: with its interval, or how far seeds are apart.
    """
    numbers = table.format.plain()
    if cell.value is None:
        return cell.absent
    spread = numbers.interval(cell.low, cell.high) if beside else None
    like = "~ " if like_random(cell) else ""
    some = f", {cell.measured} of {cell.planned}" if cell.measured < cell.planned else ""
    return f"{like}{numbers.number(cell.value)}{f' ({spread})' if spread else ''}{some}"
