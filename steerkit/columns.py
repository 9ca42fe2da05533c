"""Tables in a terminal: as wide as it is, broken between words, and names where their parts meet. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from io import StringIO
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    Cell: TypeAlias = str | Text

GAP: Final = 2
"""Cells between two columns."""
_JOINTS: Final = re.compile(r"(?<=[\w*}\])]\.)(?=[^\W\d])|(?<=[\w}\])])(?=[\[/{(])")
"""Behind a dot before a word, and before a bracket or a slash: ``blocks.{0..2}.|resid_pre``, ``dose|[rank=2]``."""


def pieces(word: str) -> list[str]:
    """A word cut where a name may be broken. What stands between two cuts is never broken."""
    return _JOINTS.split(word)


def wrap(text: str, width: int) -> list[str]:
    """Lines of at most ``width`` cells, as long as no piece of a name is wider.

    A word goes to the next line whole where it fits there, and is cut where its pieces meet otherwise.
    """
    lines = [""]
    for word in text.split(" "):
        gap = " " if lines[-1] else ""
        if _wide(lines[-1] + gap + word) <= width:
            lines[-1] += gap + word
        elif _wide(word) <= width:
            lines.append(word)
        else:
            for piece in pieces(word):
                if lines == [""] or _wide(lines[-1] + gap + piece) <= width:
                    lines[-1] += gap + piece
                else:
                    lines.append(piece)
                gap = ""
    return lines


def share(room: int, widths: Sequence[int], least: Sequence[int]) -> list[int] | None:
    """Widths of ``room`` together at most, or None: the widest gives way first, and none goes below its least."""
    found, over = list(widths), sum(widths) - room
    while over > 0:
        able = [at for at, width in enumerate(found) if width > least[at]]
        if not able:
            return None
        found[max(able, key=lambda at: found[at])] -= 1
        over -= 1
    return found


def fit(room: int, columns: Sequence[Sequence[str]]) -> list[int] | None:
    """The widths of columns: with no name broken where that fits, else with some broken where their pieces meet.

    Args:
        room: cells that the table may take, with what stands between columns.
        columns: the texts of each, its heading among them; lines of a text are parted by ``\\n``.

    Returns:
        a width for each column, or None where a piece is too wide for it.
    """
    room -= GAP * (len(columns) - 1)
    natural = [max(map(_wide, texts), default=0) for texts in columns]
    words = [_least(texts, lambda word: [word]) for texts in columns]
    parts = [_least(texts, pieces) for texts in columns]
    # The first column holds what people copy.
    for least in (words, [*words[:1], *parts[1:]], parts):
        found = share(room, natural, least)
        if found is not None:
            return found
    return None


def console(*, aside: bool = False) -> Console:
    """A console that prints texts as they are: a name may hold ``[brackets]`` and ``tiny-random:llama`` a colon's word.

    Args:
        aside: on standard error, for the person at the terminal.
    """
    from rich.console import Console

    return Console(stderr=aside, highlight=False, markup=False, emoji=False)


def print_table(
    console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], right: Iterable[int] = ()
) -> None:
    """Print a table under a title, and an empty line; nothing where there are no rows.

    Where the pieces of names are too wide for columns side by side, a row's cells stand below each other. A cell of
    several lines is a list.

    Args:
        console: where to.
        title: above it.
        columns: the headings; where all are empty, none is shown.
        rows: their cells, in which brackets are no mark-up; a ``Text`` keeps its style.
        right: columns that are flush right.
    """
    from rich.text import Text

    if not rows:
        return
    if title:
        console.print(Text(title, style="bold"))
    texts = [[_listed(str(cell)) for cell in row] for row in rows]
    widths = fit(console.width, [[name, *(row[at] for row in texts)] for at, name in enumerate(columns)])
    styles = [[_style(cell, at) for at, cell in enumerate(row)] for row in rows]
    if widths is None:
        _stacked(console, columns, texts, styles)
    else:
        if any(columns):
            _row(console, columns, ["dim"] * len(columns), widths, frozenset(right))
        for text, style in zip(texts, styles, strict=True):
            _row(console, text, style, widths, frozenset(right))
    console.print()


def table_text(columns: Sequence[str], rows: Sequence[Sequence[Cell]], *, width: int, right: Iterable[int] = ()) -> str:
    """A table as plain text, the same in every terminal, without an empty line at its end. See ``print_table``.

    Args:
        columns: the headings.
        rows: their cells.
        width: cells that it may take.
        right: columns that are flush right.
    """
    from rich.console import Console

    console = Console(
        file=StringIO(), width=width, color_system=None, force_terminal=False, force_jupyter=False, emoji=False
    )
    with console.capture() as written:
        print_table(console, "", columns, rows, right)
    return written.get().rstrip("\n")


def _style(cell: Cell, at: int) -> str:
    return "cyan" if at == 0 else "" if isinstance(cell, str) else str(cell.style)


def _row(
    console: Console, cells: Sequence[str], styles: Sequence[str], widths: Sequence[int], right: frozenset[int]
) -> None:
    from rich.text import Text

    wrapped = [_lines(cell, width) for cell, width in zip(cells, widths, strict=True)]
    for number in range(max(map(len, wrapped))):
        line = Text()
        for at, (lines, width) in enumerate(zip(wrapped, widths, strict=True)):
            text = lines[number] if number < len(lines) else ""
            blank = " " * (width - _wide(text))
            line.append(blank if at in right else "").append(text, style=styles[at])
            line.append("" if at in right else blank).append(" " * GAP)
        line.rstrip()
        console.print(line, soft_wrap=True)


def _stacked(
    console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]], styles: Sequence[Sequence[str]]
) -> None:
    """The first cell, and below it the others, each behind its heading."""
    from rich.text import Text

    for row, looks in zip(rows, styles, strict=True):
        for line in wrap(row[0], console.width):
            console.print(Text(line, style=looks[0]), soft_wrap=True)
        for name, cell, look in zip(columns[1:], row[1:], looks[1:], strict=True):
            named = f"{' '.join(name.split())}: " if name else ""
            for number, line in enumerate(_lines(f"{named}{cell}", console.width - GAP) if cell else ()):
                shown = Text(" " * GAP).append(line, style=look)
                if not number:
                    shown.stylize("dim", GAP, GAP + len(named))
                console.print(shown, soft_wrap=True)


def _least(texts: Iterable[str], cut: Callable[[str], list[str]]) -> int:
    """Cells of the widest part that isn't broken, with what sets an item of a list in."""
    items = [item for text in texts for item in text.split("\n")]
    wide = [_wide(part) + 2 * item.startswith("- ") for item in items for word in item.split() for part in cut(word)]
    return max(wide, default=0)


def _listed(text: str) -> str:
    """Several lines as a list."""
    return "\n".join(f"- {line}" for line in text.split("\n")) if "\n" in text else text


def _lines(text: str, width: int) -> list[str]:
    """All lines of a cell; what an item of a list goes on with is set in."""
    found: list[str] = []
    for item in text.split("\n"):
        if item.startswith("- "):
            first, *rest = wrap(item[2:], width - 2)
            found += [f"- {first}", *(f"  {line}" for line in rest)]
        else:
            found += wrap(item, width)
    return found


def _wide(text: str) -> int:
    from rich.cells import cell_len

    return max((cell_len(line) for line in text.split("\n")), default=0)
