"""How alike directions are: a table of each with each, and along the layers where they were read at several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from steerkit.artifacts.reading import CosineEntry, Results
from steerkit.report.numbers import NumberFormat

_TWO = NumberFormat(decimals=2)


@dataclass(frozen=True)
class Line:
    """Cosine of two directions by layer; ``own`` are those of both as conditions use them, where others stand in."""

    first: str
    second: str
    stream: str
    points: tuple[tuple[int, float], ...]
    own: tuple[tuple[int, float], ...]

    @property
    def label(self) -> str:
        """``harmfulness and refusal``."""
        return f"{self.first} and {self.second}"


@dataclass(frozen=True)
class Alike:
    """The directions of a run beside each other.

    Args:
        names: those that are compared, in the order of the recipe.
        cells: ``{(name, name): text}`` both ways; a range where they have several sites in common.
        lines: of pairs that have three layers in common at least.
        apart: whether some cell is of two sites.
    """

    names: tuple[str, ...]
    cells: Mapping[tuple[str, str], str]
    lines: tuple[Line, ...]
    apart: bool


def make_alike(results: Results) -> Alike | None:
    """The directions beside each other, or None where none has a cosine with another one."""
    pairs: dict[tuple[str, str], list[CosineEntry]] = {}
    for entry in results.cosines:
        if entry.cosine is not None:
            pairs.setdefault((entry.first, entry.second), []).append(entry)
    if not pairs:
        return None
    named = {name for pair in pairs for name in pair}
    order = [entry.name for entry in results.directions if entry.name in named]
    own = {entry.name: entry.site for entry in results.directions}
    cells: dict[tuple[str, str], str] = {}
    for (first, second), entries in pairs.items():
        text = _cell(entries, (own.get(first), own.get(second)))
        cells |= {(first, second): text, (second, first): text}
    lines = [line for entries in pairs.values() for line in _lines(entries)]
    apart = any(entry.other is not None for entries in pairs.values() for entry in entries)
    return Alike((*order, *sorted(named - set(order))), cells, tuple(lines), apart)


def _cell(entries: list[CosineEntry], sites: tuple[str | None, str | None]) -> str:
    """The cosine where both are what conditions use; else the range over the sites that they have in common."""
    exact = [one for one in entries if one.other is not None]
    exact = exact or [one for one in entries if not one.standing_for and one.site in sites]
    if len(exact) == 1:
        elsewhere = "*" if exact[0].other is not None else ""
        return f"{_TWO.number(exact[0].cosine)}{elsewhere}"
    values = [one.cosine for one in (exact or entries) if one.cosine is not None]
    low, high = _TWO.number(min(values)), _TWO.number(max(values))
    return low if low == high else f"{low} to {high}"


def _lines(entries: list[CosineEntry]) -> list[Line]:
    by_stream: dict[str, list[tuple[int, CosineEntry]]] = {}
    for one in entries:
        block, _, stream = one.site.removeprefix("blocks.").partition(".")
        if one.other is None and block.isdigit() and "[" not in stream:
            by_stream.setdefault(stream, []).append((int(block), one))
    found = []
    for stream, members in by_stream.items():
        members.sort(key=lambda member: member[0])
        points = [(layer, one.cosine) for layer, one in members if one.cosine is not None]
        own = [(layer, one.cosine) for layer, one in members if one.cosine is not None and not one.standing_for]
        if len(points) > 2:
            marked = tuple(own) if len(own) < len(points) else ()
            found.append(Line(entries[0].first, entries[0].second, stream, tuple(points), marked))
    return found
