"""A sweep in a terminal: the tables that are read first, what failed, and where the page is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steerkit.columns import print_table
from steerkit.report.numbers import clean, count, sentence_case
from steerkit.report.sweep import Cell, ReadSweep, SweepTable
from steerkit.report.sweep_page import told
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
    console.print(Text(clean(told(found)), style="dim"))
    console.print()
    shown = [one for one in found.tables if one.opened]
    for one in shown:
        unit = f", {one.unit}" if one.unit else ""
        rows = [[clean(name.name), *(cell_text(one, cell) for cell in cells)] for name, cells in one.rows]
        heads = ["condition", *(clean(column.label) for column in found.columns)]
        print_table(console, clean(f"{one.name}{unit}"), heads, rows, right=range(1, len(heads)))
    if shown:
        spread = "the mean over seeds (lowest to highest)" if found.folded else "the value (95 % interval)"
        console.print(f"A cell is {spread}; ~ where random directions of the same norm give such values too.")
    if len(shown) < len(found.tables):
        more = count(len(found.tables) - len(shown), "more table")
        console.print(f"{sentence_case(more)} in the comparison.")
    if found.failures:
        console.print(Text("\nFailed:", style="bold"))
        for label, why in found.failures:
            console.print(Text(clean(f"- {label}: {why}")))
    left = [one for one in found.sweep.members if one.state in ("waiting", "running")]
    if left:
        console.print(f"\nNot run yet: {count(len(left), 'run')}.")
    console.print()
    console.print(Text(f"Comparison: {found.path / REPORT}"), soft_wrap=True)


def cell_text(table: SweepTable, cell: Cell) -> str:
    """``1.2 (0.9 to 1.5)``, or why there is no value."""
    numbers = table.format.plain()
    if cell.value is None:
        return cell.absent
    spread = numbers.interval(cell.low, cell.high)
    like = "~ " if cell.controlled and cell.within == cell.controlled else ""
    some = f" {cell.measured} of {cell.planned}" if cell.measured < cell.planned else ""
    return f"{like}{numbers.number(cell.value)}{f' ({spread})' if spread else ''}{some}"
