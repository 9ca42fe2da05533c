"""A comparison of runs in a terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from steerkit.report.compare import Comparison, Difference
from steerkit.report.numbers import clean, count, shorten
from steerkit.report.terminal import print_block, wrapped

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

MOST_SETTINGS: Final = 20
MOST_NOTES: Final = 12
NO_SETTING: Final = "-"
HASH_SHOWN: Final = 12
_HASH: Final = re.compile(r"(?:sha256:)?([0-9a-f]{40,})")


def print_comparison(found: Comparison, console: Console) -> None:
    """Print which runs there are, what differs between their recipes, and a table for each measure.

    Args:
        found: the comparison.
        console: where to.
    """
    from rich.text import Text

    for letter, run in found.runs.items():
        told = f"{letter}: {run.title}, {run.results.model.source}, seed {run.results.seed}"
        console.print(Text(clean(told), style="bold"))
        console.print(Text(clean(f"   {run.path}"), style="dim"), soft_wrap=True)
    for heading, differences in (
        ("What differs between the recipes", found.recipe),
        ("What else differs", found.made_with),
    ):
        if differences:
            console.print()
            console.print(Text(heading, style="bold"))
            console.print(_settings(differences[:MOST_SETTINGS], tuple(found.runs), console.width))
            if len(differences) > MOST_SETTINGS:
                more = count(len(differences) - MOST_SETTINGS, "more setting")
                console.print(f"{more}: --json and --html have all of them")
    if not found.recipe:
        console.print("\nThe recipes are the same.")
    for block in found.blocks:
        console.print()
        print_block(console, block)
    if not found.blocks:
        console.print("\nNo evaluator saw the same examples in two of these runs.")
    _print_notes(found, console)


def _print_notes(found: Comparison, console: Console) -> None:
    from rich.text import Text

    for heading, notes in (("Names", found.called), ("Not compared", found.alone)):
        if notes:
            console.print(Text(f"\n{heading}:", style="bold"))
            for note in notes[:MOST_NOTES]:
                console.print(Text(clean(f"- {note}")))
            if len(notes) > MOST_NOTES:
                console.print(f"- {count(len(notes) - MOST_NOTES, 'more note')}: --json and --html have all of them")


def _settings(differences: Sequence[Difference], letters: Sequence[str], width: int) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    each = max((width - width // 2) // len(letters) - 2, 8)
    rows = [[shorten(written(one.values[letter]), each) for letter in letters] for one in differences]
    taken = sum(max([len(cells[at]) for cells in rows] + [1]) + 2 for at in range(len(letters)))
    names = wrapped([one.key for one in differences], width - taken)
    table.add_column("setting", overflow="fold")
    for letter in letters:
        table.add_column(letter, no_wrap=True)
    for name, cells in zip(names, rows, strict=True):
        table.add_row(*(Text(clean(cell)) for cell in (name, *cells)))
    return table


def written(value: Any) -> str:
    """A setting as a recipe has it, of a hash its beginning; a dash for one that is not set."""
    if value is None:
        return NO_SETTING
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return ", ".join(value)
    if isinstance(value, str) and (digits := _HASH.fullmatch(value)):
        return f"{digits[1][:HASH_SHOWN]}…"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
