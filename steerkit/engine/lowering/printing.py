"""A table with notes below it as plain text, laid out by rich."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection, Sequence
from io import StringIO
from typing import Any, Final

from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.containers import Lines
from rich.table import Table
from rich.text import Text

BETWEEN: Final = 2
"""Blanks between two columns."""
HANGING: Final = "    "
"""Before the further lines of a note."""


class Cell(Text):
    """Text whose lines end between words; in a word that is wider than a line, behind a dot, a comma or a ``_``."""

    def wrap(self, console: Console, width: int, *args: Any, **kwargs: Any) -> Lines:
        """Lines of at most ``width`` columns, as rich asks for them."""
        if kwargs.get("no_wrap"):
            return super().wrap(console, width, *args, **kwargs)
        lines = [""]
        for word in self.plain.split():
            glue = " " if lines[-1] else ""
            for part in _parts(word, width):
                if lines[-1] and cell_len(lines[-1] + glue + part) > width:
                    lines.append(part)
                else:
                    lines[-1] += glue + part
                glue = ""
        return Lines(map(Text, lines))


def _parts(word: str, width: int) -> list[str]:
    if cell_len(word) <= width:
        return [word]
    return [piece for part in re.findall(r"[^.,_]*[.,_]|[^.,_]+", word) for piece in chop_cells(part, width)]


def printed(
    header: Sequence[str], rows: Sequence[Sequence[str]], below: Sequence[str], *, width: int, flexible: Collection[int]
) -> str:
    """A table and what stands below it, the same in every terminal.

    Args:
        header: names of the columns.
        rows: cells.
        below: notes and sentences.
        width: columns of text, at most.
        flexible: which columns are broken over several lines where the table would be wider.
    """
    table = Table(box=None, pad_edge=False, padding=(0, BETWEEN, 0, 0), header_style="")
    for place, name in enumerate(header):
        table.add_column(name, no_wrap=place not in flexible)
    for row in rows:
        table.add_row(*map(Cell, row))
    console = Console(file=StringIO(), width=width, color_system=None, force_terminal=False, force_jupyter=False)
    with console.capture() as written:
        console.print(table)
    lines = [line.rstrip() for line in written.get().splitlines()]
    return "\n".join(
        [*lines, *(line for one in below for line in textwrap.wrap(one, width, subsequent_indent=HANGING))]
    )
