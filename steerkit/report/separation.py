"""Separation of two classes by layer, grouped into what one figure holds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from steerkit.artifacts.reading import DirectionEntry, Results, SeparationEntry
from steerkit.report.glance import spread

PERFECT: Final = 0.995
"""From here on an AUROC is written as 1.00."""


@dataclass(frozen=True)
class Curve:
    """One stream and positions, layer by layer.

    Args:
        stream: as in ``resid_pre``.
        positions: at which tokens.
        entries: in the order of the layers.
    """

    stream: str
    positions: str
    entries: tuple[SeparationEntry, ...]

    @property
    def label(self) -> str:
        """``resid_pre, -1``."""
        return ", ".join(part for part in (self.stream, self.positions) if part)

    def points(self, measure: str) -> list[tuple[int, float]]:
        """``(layer, value)`` of what was measured."""
        return [point for piece in self.pieces(measure) for point in piece]

    def pieces(self, measure: str) -> list[list[tuple[int, float]]]:
        """The same, broken where a layer was not measured: a line over the gap would invent it."""
        pieces: list[list[tuple[int, float]]] = [[]]
        for entry in self.entries:
            value = entry.auroc if measure == "auroc" else spread(entry.d_prime)
            if value is None:
                pieces.append([])
            else:
                pieces[-1].append((entry.layer, value))
        return [piece for piece in pieces if piece]


@dataclass(frozen=True)
class Separation:
    """What one figure shows: a direction's two classes on one pair of data sets."""

    direction: str
    data: tuple[str, ...]
    held_out: bool | None
    curves: tuple[Curve, ...]
    chosen: SeparationEntry | None
    everywhere: bool = False
    """Whether the direction has vectors at several sites, so that none was chosen."""
    searched: bool = False
    """Whether a search chose the site, among others; elsewhere the recipe gives it."""

    @property
    def role(self) -> str:
        """What the direction's own site is called."""
        return "chosen" if self.searched else "read at"

    @property
    def entries(self) -> tuple[SeparationEntry, ...]:
        """All entries, curve by curve."""
        return tuple(entry for curve in self.curves for entry in curve.entries)

    @property
    def measured(self) -> bool:
        """Whether there is any value at all."""
        return any(entry.auroc is not None or entry.d_prime is not None for entry in self.entries)

    @property
    def title(self) -> str:
        """``warmth: warm.test against cold.test``."""
        return f"{self.direction}: {' against '.join(self.data)}" if self.data else self.direction

    @property
    def surface(self) -> str:
        """A hint where the classes are told apart perfectly before the layer that was chosen; empty elsewhere.

        Words that one class has and the other lacks are in the first layers already, whatever the model makes of them.
        """
        perfect = [entry for entry in self.entries if entry.auroc is not None and entry.auroc >= PERFECT]
        first = min(perfect, key=lambda entry: entry.layer, default=None)
        if first is None or (self.chosen is not None and first.layer >= self.chosen.layer):
            return ""
        return (
            f"AUROC is 1.00 at layer {first.layer} already: so early it may be a surface feature of the prompts, such "
            "as words of one class, and not what the model goes by."
        )

    @property
    def best(self) -> SeparationEntry | None:
        """The entry of the highest AUROC (the first of equals)."""
        measured = [entry for entry in self.entries if entry.auroc is not None]
        return max(measured, key=lambda entry: entry.auroc or 0.0) if measured else None


def make_separations(results: Results) -> tuple[Separation, ...]:
    """Group the entries by direction and data, in the order of the file."""
    directions = {entry.name: entry for entry in results.directions}
    searches = {entry.name for entry in results.searches}
    groups: dict[tuple[str, tuple[str, ...], bool | None], list[SeparationEntry]] = {}
    for entry in results.separation:
        groups.setdefault((entry.direction, entry.data, entry.held_out), []).append(entry)
    return tuple(
        Separation(
            name,
            data,
            held_out,
            _curves(entries),
            _chosen(entries, directions.get(name)),
            _several(directions.get(name)),
            name in searches,
        )
        for (name, data, held_out), entries in groups.items()
    )


def _curves(entries: Sequence[SeparationEntry]) -> tuple[Curve, ...]:
    groups: dict[tuple[str, str], list[SeparationEntry]] = {}
    for entry in entries:
        groups.setdefault((entry.stream, entry.positions or ""), []).append(entry)
    return tuple(
        Curve(stream, positions, tuple(sorted(group, key=lambda entry: entry.layer)))
        for (stream, positions), group in groups.items()
    )


def not_looked_at(results: Results) -> tuple[str, ...]:
    """Directions that a search chose, and of which no separation by layer was measured."""
    looked = {entry.direction for entry in results.separation}
    directions = {entry.name for entry in results.directions}
    return tuple(one.name for one in results.searches if one.name in directions and one.name not in looked)


def _same_place(site: str | None) -> str | None:
    """What leaves a block enters the next one."""
    found = re.fullmatch(r"blocks\.(\d+)\.resid_post", site or "")
    return f"blocks.{int(found[1]) + 1}.resid_pre" if found else None


def _several(direction: DirectionEntry | None) -> bool:
    return direction is not None and len(direction.norms_by_site) > 1


def _chosen(entries: Sequence[SeparationEntry], direction: DirectionEntry | None) -> SeparationEntry | None:
    if direction is None:
        return None
    at_site = [entry for entry in entries if entry.site in (direction.site, _same_place(direction.site))]
    exact = [entry for entry in at_site if entry.positions == direction.positions]
    return next(iter(exact or at_site), None)
