"""Sites at which an estimator found no direction: how many, where and why, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from steerkit.errors import counted

if TYPE_CHECKING:
    from steerkit.api.direction import Direction

LEFT_OUT = "left_out"
"""Where a direction's provenance says why it has no vectors at sites of its pattern."""
_SHOWN = 4


def gaps(directions: Iterable[Direction]) -> dict[str, tuple[list[str], str]]:
    """By site at which some of the directions have no vectors: the positions of these, and why the first has none."""
    found: dict[str, tuple[list[str], str]] = {}
    for direction in directions:
        for site, why in _told(direction).items():
            found.setdefault(site, ([], str(why)))[0].append(str(direction.positions))
    return found


def gaps_in_words(directions: Sequence[Direction]) -> str:
    """Of how many places there is no direction, where and why, as a clause; empty where there is one at each.

    Args:
        directions: those of one estimate, one for each position that stands for itself.
    """
    found = gaps(directions)
    if not found:
        return ""
    lacking = sum(len(positions) for positions, _ in found.values())
    whole = lacking + sum(len(direction.sites) for direction in directions)
    listed = [f"{site} ({', '.join(positions)})" for site, (positions, _) in found.items()]
    where = ", ".join(listed[:_SHOWN]) + (f" and {len(listed) - _SHOWN} more sites" if len(listed) > _SHOWN else "")
    _, why = next(iter(found.values()))
    reason = why.partition(". ")[0].rstrip(".")
    return f"at {lacking} of {counted(whole, 'place')} there is no direction, {where}: {reason}"


def _told(direction: Direction) -> Mapping[str, object]:
    told = direction.provenance.get(LEFT_OUT)
    return told if isinstance(told, Mapping) else {}
