"""A comparison of runs in a terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from steerkit.columns import GAP, print_table
from steerkit.report.compare import Comparison, Difference
from steerkit.report.numbers import clean, count, shorten
from steerkit.report.terminal import print_block

if TYPE_CHECKING:
    from rich.console import Console

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
            _settings(console, heading, differences[:MOST_SETTINGS], tuple(found.runs))
            if len(differences) > MOST_SETTINGS:
                more = count(len(differences) - MOST_SETTINGS, "more setting")
                console.print(f"{more}: --json and --html have all of them")
    if not found.recipe:
        console.print("\nThe recipes are the same.")
    console.print()
    for block in found.blocks:
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


def _settings(console: Console, title: str, differences: Sequence[Difference], letters: Sequence[str]) -> None:
    each = max((console.width - console.width // 2) // len(letters) - GAP, 8)
    rows = [[one.key, *(shorten(written(one.values[letter]), each) for letter in letters)] for one in differences]
    print_table(console, title, ["setting", *letters], [[*map(clean, row)] for row in rows])


def written(value: Any) -> str:
    """A setting as a recipe has it, of a hash its beginning; a dash for one that is not set."""
    if value is None:
        return NO_SETTING
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return ", ".join(value)
    if isinstance(value, str) and (digits := _HASH.fullmatch(value)):
        return f"{digits[1][:HASH_SHOWN]}…"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
