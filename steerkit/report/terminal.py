"""The summary that a run ends with, for a terminal of 80 columns and for a pipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from steerkit.artifacts.reading import Run
from steerkit.columns import print_table
from steerkit.report.gaps import missing
from steerkit.report.glance import foretold, other_way
from steerkit.report.headline import opened
from steerkit.report.numbers import clean, count, sentence_case
from steerkit.report.placed import placed
from steerkit.report.search import make_searches
from steerkit.report.separation import make_separations
from steerkit.report.tables import Block, Row, make_blocks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

REPORT: Final = "report.html"
MOST_NOTES: Final = 12


def print_summary(run: Run, console: Console) -> None:
    """Print a table per evaluator and data set, what was not measured, and where the report is.

    Of many measures the tables of those are printed that are read first; the report has all of them.

    Args:
        run: what was read.
        console: where to; without colour it loses nothing but colour.
    """
    from rich.text import Text

    blocks = make_blocks(run.results)
    shown = opened(blocks)
    separations = make_separations(run.results)
    console.print(Text(clean(run.title), style="bold"))
    model = run.results.model
    console.print(Text(clean(f"{model.source}, seed {run.results.seed}"), style="dim"))
    for sentence in placed(model):
        console.print(Text(clean(sentence), style="dim"))
    console.print()
    for block in shown:
        print_block(console, block)
    if not blocks:
        console.print("Nothing was evaluated in this run.")
    if len(shown) < len(blocks):
        folded = list(dict.fromkeys(block.evaluator.name for block in blocks if block not in shown))
        number = count(len(blocks) - len(shown), "more table")
        console.print(Text(clean(f"{sentence_case(number)} in the report, of {', '.join(folded)}.")))
        console.print()
    planned = [row.control.planned for block in blocks for row in block.rows if row.control is not None]
    if planned:
        number = count(max(planned), "random direction")
        console.print(f"random: the same intervention with {number} of the same norm in its place")
    if any(row.record is not None and row.record.against is not None for block in blocks for row in block.rows):
        console.print("other way: the share of prompts that go against the mean change")
    for entry in run.results.directions:
        if entry.predictors:
            console.print(Text(clean(f"{entry.name}, before any steering: {foretold(entry)}")))
    for view in make_searches(run.results):
        console.print(Text(clean(f"{view.entry.name}: {view.sentence}")))
    for item in separations:
        if item.chosen is not None and item.chosen.auroc is not None:
            where = "held-out prompts" if item.held_out else "prompts not known to be held out"
            line = f"{item.direction} at {item.chosen.site}: AUROC {item.chosen.auroc:.2f} on {where}"
            console.print(Text(clean(line)))
    _print_notes(console, missing(run, blocks, separations))
    console.print()
    # A path is for copying, so it is not wrapped.
    console.print(Text(f"Report: {run.path / REPORT}"), soft_wrap=True)


def _print_notes(console: Console, notes: Sequence[str]) -> None:
    from rich.text import Text

    if notes:
        console.print(Text("\nNot measured:", style="bold"))
        for note in notes[:MOST_NOTES]:
            console.print(Text(clean(f"- {note}")))
        if len(notes) > MOST_NOTES:
            console.print(f"- {count(len(notes) - MOST_NOTES, 'more note')}: see the report")


def print_block(console: Console, block: Block) -> None:
    """Print what one evaluator gave on one data set, a row for each condition, and an empty line."""
    unit = "" if block.format.percent or not block.unit else f", {block.unit}"
    sizes = f", n = {block.n[0]}" if block.n and block.n[0] == block.n[1] else ""
    shares = any(row.record is not None and row.record.against is not None for row in block.all_rows)
    columns = ["condition", "value", "95 % interval"]
    columns += ["other\nway"] if shares else []
    if any(row.control is not None for row in block.rows):
        columns += ["random\nmean", "random\nlow to high"]
    lines = [tuple(map(clean, _cells(block, row, shares)[: len(columns)])) for row in block.all_rows]
    print_table(console, clean(f"{block.name}{unit}{sizes}"), columns, lines, right=range(1, len(columns)))


def _cells(block: Block, row: Row, shares: bool) -> tuple[str, ...]:
    numbers = block.format.plain()
    interval = numbers.interval(*row.interval) if row.interval else None
    cells: tuple[str, ...] = (row.condition.name, numbers.number(row.value, row.absent), interval or "-")
    cells += (other_way(row.record, plain=True),) if shares else ()
    if row.condition.kind == "baseline":
        return (*cells, "", "")
    control = row.control
    if control is None:
        return (*cells, "not run", "")
    return (*cells, numbers.number(control.mean, control.absent), numbers.interval(control.low, control.high) or "")
