"""``steerkit clean``: make the store of kept outputs smaller."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from steerkit.cli.paths import named
from steerkit.errors import counted

if TYPE_CHECKING:
    from steerkit.artifacts.cleaning import Cleaned, StoredOutput

_SECONDS: Final = {"h": 3600, "d": 86_400, "w": 604_800}
_PREFIXES: Final = ("", "k", "m", "g", "t")


def _age(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([hdw])", text.strip().lower())
    if found is None:
        raise typer.BadParameter(f"{text!r} is no age. Write hours, days or weeks, such as 12h, 30d or 8w.")
    return float(found[1]) * _SECONDS[found[2]]


def _size(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", text.strip().lower())
    if found is None or (found[3] and not found[2]):
        raise typer.BadParameter(f"{text!r} is no size. Write it such as 500MB or 2GB; 0 for nothing at all.")
    return float(found[1]) * math.pow(1024 if found[3] else 1000, _PREFIXES.index(found[2]))


def clean_command(
    out: Annotated[Path, typer.Option(parser=named, metavar="DIRECTORY", help="Where run directories are.")] = Path(
        "runs"
    ),
    store: Annotated[
        Path | None,
        typer.Option(parser=named, metavar="DIRECTORY", help="The store; .store beside the runs if not given."),
    ] = None,
    older_than: Annotated[
        float | None,
        typer.Option(
            "--older-than", parser=_age, metavar="AGE", help="Remove what wasn't used for so long: 12h, 30d, 8w."
        ),
    ] = None,
    at_most: Annotated[
        float | None,
        typer.Option(
            "--at-most", parser=_size, metavar="SIZE", help="Remove the least recently used down to 500MB, 2GB or 0."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
) -> None:
    """Remove kept outputs by age or size. Run directories aren't touched, nor what unfinished runs there go on with.

    Unfinished runs are looked for in --out and beside the store; others of a shared store compute again what is gone.
    """
    from steerkit.artifacts.cleaning import clean_store
    from steerkit.artifacts.store import STORE

    folder = out / STORE if store is None else store
    cleaned = clean_store(folder, (out, folder.parent), older_than=older_than, at_most=at_most, dry=dry_run)
    for line in _told(cleaned, dry_run, asked=older_than is not None or at_most is not None):
        typer.echo(line)


def _told(cleaned: Cleaned, dry: bool, *, asked: bool) -> list[str]:
    lines = [f"{cleaned.folder}: {_sized(cleaned.before)}."]
    if not asked:
        lines.append("Say what may go: --older-than 30d, --at-most 2GB, or both. What is gone is computed again.")
    else:
        gone = set(cleaned.removed)
        left = [one for one in cleaned.before if one not in gone]
        done = "Would remove" if dry else "Removed"
        stay = "would be left" if dry else "left"
        lines.append(f"{done} {_sized(cleaned.removed)}; {_sized(left)} {stay}.")
    if cleaned.held:
        few = ", ".join(path.name for path in cleaned.unfinished[:3])
        more = f" and {len(cleaned.unfinished) - 3} more" if len(cleaned.unfinished) > 3 else ""
        lines.append(
            f"{_sized(cleaned.held)} would have gone as well, but may belong to what is unfinished ({few}{more}): "
            "run it to its end, or remove its directory."
        )
    if cleaned.halves:
        lines.append(f"Files that stopped processes left half written: {cleaned.halves}, removed.")
    return lines


def _sized(outputs: Sequence[StoredOutput]) -> str:
    total = float(sum(one.size for one in outputs))
    unit = 0
    while total >= 1000 and unit < 4:
        total, unit = total / 1000, unit + 1
    amount = f"{total:.0f}" if unit == 0 or total >= 100 else f"{total:.1f}"
    return f"{counted(len(outputs), 'output')} ({amount} {('bytes', 'kB', 'MB', 'GB', 'TB')[unit]})"
