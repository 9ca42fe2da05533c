"""What texts behind the user's turn do along a direction: by layer, and in a table at the direction's own layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from steerkit.artifacts.reading import Results
from steerkit.artifacts.results import SuffixesEntry, SuffixGroupEntry
from steerkit.report.numbers import NOT_MEASURED, NumberFormat, shorten, significant

_TWO: Final = NumberFormat(decimals=2)
_SHOWN: Final = 60


@dataclass(frozen=True)
class SuffixRow:
    """A group of prompts at the direction's layer; an entry is empty where there is no such value."""

    name: str
    text: str
    tokens: str
    n: int
    cosine: str
    change: str
    random: bool


@dataclass(frozen=True)
class HeadRow:
    """A head that adds most along the direction, with a cell for each group: what it adds, and what it attends to."""

    name: str
    cells: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class SuffixView:
    """A study of suffixes.

    Args:
        entry: as results have it.
        layer: the one whose numbers the rows tell: where the direction was read.
        rows: a row for each group.
        sentences: for each given suffix what it does beside its random ones.
        heads: a row for each head that is shown.
    """

    entry: SuffixesEntry
    layer: int
    rows: tuple[SuffixRow, ...]
    sentences: tuple[str, ...]
    heads: tuple[HeadRow, ...] = ()

    @property
    def attends(self) -> bool:
        """Whether it is known what the heads attend to."""
        return any(one.instruction for one in self.entry.heads)


def make_suffixes(results: Results) -> tuple[SuffixView, ...]:
    """The studies of suffixes that results hold."""
    found = []
    for entry in results.suffixes:
        if not entry.groups:
            continue
        layer = _layer(entry)
        rows = tuple(_row(entry, group, layer) for group in entry.groups)
        found.append(SuffixView(entry, layer, rows, tuple(_sentences(entry, layer)), tuple(_heads(entry))))
    return tuple(found)


def group_name(entry: SuffixesEntry, group: SuffixGroupEntry) -> str:
    """What a group is called: its data, or which suffix."""
    if group.kind == "prompts":
        return entry.prompts
    if group.kind == "reference":
        return entry.reference or "reference"
    if group.kind == "random":
        return f"random beside {(group.of or 0) + 1}"
    given = [one for one in entry.groups if one.kind == "suffix"]
    return f"suffix {given.index(group) + 1}"


def _layer(entry: SuffixesEntry) -> int:
    """The layer that the direction was read at; what leaves a block is read where the next one begins."""
    last = len(entry.groups[0].cosines) - 1
    block, _, stream = (entry.site or "").removeprefix("blocks.").partition(".")
    if not block.isdigit():
        return 0 if entry.site == "embed" else last
    return min(last, int(block) + (stream == "resid_post"))


def _row(entry: SuffixesEntry, group: SuffixGroupEntry, layer: int) -> SuffixRow:
    return SuffixRow(
        group_name(entry, group),
        "" if group.suffix is None else shorten(group.suffix, _SHOWN),
        "" if group.tokens is None else f"{group.tokens:g}" if group.tokens % 1 == 0 else f"{group.tokens:.1f}",
        group.n,
        _told(group.cosines, group.errors, layer),
        _told(group.change, group.change_errors, layer) if group.suffix is not None else "",
        group.kind == "random",
    )


def _heads(entry: SuffixesEntry) -> list[HeadRow]:
    found = []
    for head in entry.heads:
        cells = []
        for place, group in enumerate(entry.groups):
            value, error = _at(head.attribution, place), _at(head.errors, place)
            added = NOT_MEASURED if value is None else significant(value, 2)
            added += "" if error is None else f" ± {significant(error, 1)}"
            columns = (head.instruction, head.suffix) if group.suffix is not None else (head.instruction,)
            shares = [share for values in columns if (share := _at(values, place)) is not None]
            cells.append((added, " and ".join(f"{share * 100:.0f}" for share in shares)))
        found.append(HeadRow(f"{head.layer}.{head.head}", tuple(cells)))
    return found


def _told(values: Sequence[float | None], errors: Sequence[float | None], layer: int) -> str:
    value, error = _at(values, layer), _at(errors, layer)
    if value is None:
        return NOT_MEASURED
    return _TWO.number(value) if error is None else " ± ".join(_TWO.alike(value, error))


def _at(values: Sequence[float | None], layer: int) -> float | None:
    return values[layer] if layer < len(values) else None


def _signed(value: float) -> str:
    text = _TWO.number(value)
    return f"+{text}" if value > 0 and float(f"{value:.2f}") != 0 else text


def _sentences(entry: SuffixesEntry, layer: int) -> list[str]:
    """What each given suffix does at the direction's layer, beside its random ones."""
    told = []
    for place, group in enumerate(one for one in entry.groups if one.kind == "suffix"):
        moved = _at(group.change, layer)
        if moved is None:
            continue
        beside = [_at(one.change, layer) for one in entry.groups if one.kind == "random" and one.of == place]
        drawn = [value for value in beside if value is not None]
        words = f"Suffix {place + 1} moves the cosine by {_signed(moved)}"
        if drawn:
            low, high = _signed(min(drawn)), _signed(max(drawn))
            words += f", random ones of as many tokens by {low if low == high else f'{low} to {high}'}"
        told.append(f"{words}.")
    return told
