"""How alike the directions of a run are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Final

from steerkit.artifacts.results import CosineEntry
from steerkit.errors import counted

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.api.direction import Direction

MOST: Final = 8
"""Directions that are compared each with each; of more, a recipe says with which one."""


def cosines_of(
    directions: Mapping[str, Direction], named: Sequence[str], reference: str | None = None
) -> Iterator[CosineEntry]:
    """The cosine of each direction with each other one, or with a reference alone, wherever both have vectors.

    Overlap with another behaviour's direction explains side effects on that behaviour (arXiv 2603.24543); how two
    directions of one behaviour, read at two tokens, go along the layers tells whether they are one (2507.11878). Of a
    direction that a search chose, what was estimated at the same position of other layers stands for it there.

    Args:
        directions: all of a run, with those among which a search chose.
        named: those that are compared.
        reference: the one that others are compared with, or None.
    """
    if reference is None and len(named) > MOST:
        return
    pairs = combinations(named, 2) if reference is None else ((reference, name) for name in named if name != reference)
    for one, other in pairs:
        yield from _of_pair(directions, one, other)


def too_many_to_compare(named: Sequence[str], reference: str | None) -> list[str]:
    """A note where no cosines are told."""
    if reference is not None or len(named) <= MOST:
        return []
    return [
        f"Cosines of {counted(len(named), 'direction')} with each other are left out: name one as report.compared_with."
    ]


def _of_pair(directions: Mapping[str, Direction], one: str, other: str) -> Iterator[CosineEntry]:
    first, second = directions[one], directions[other]
    if first.is_single and second.is_single and first.site != second.site:
        yield _entry(one, other, first, second, str(first.site), str(second.site))
    here, there = _family(directions, first), _family(directions, second)
    if here is there:  # chosen twice among the same candidates
        here, there = first, second
    for site in here.sites:
        if site in there.by_site:
            # A direction's own vectors go before those that stand for it.
            mine, yours = (own if site in own.by_site else all_ for own, all_ in ((first, here), (second, there)))
            stands = mine is not first or yours is not second
            yield _entry(one, other, mine.at(site), yours.at(site), str(site), stands=stands)


def _family(directions: Mapping[str, Direction], direction: Direction) -> Direction:
    """The candidates among which a search chose a direction, at its position; the direction itself where none did."""
    told = direction.provenance.get("search")
    over = told.get("over") if isinstance(told, Mapping) else None
    return directions.get(f"{over}@{direction.positions}") or directions.get(str(over)) or direction


def _entry(
    one: str,
    other: str,
    first: Direction,
    second: Direction,
    site: str,
    elsewhere: str | None = None,
    *,
    stands: bool = False,
) -> CosineEntry:
    found = cosine(first.vectors, second.vectors)
    return CosineEntry(
        first=one, second=other, site=site, other=elsewhere, cosine=found, standing_for=True if stands else None
    )


def cosine(first: Tensor, second: Tensor) -> float | None:
    """Cosine of two vectors; of spans that of the smallest principal angle between them (Björck and Golub, 1973).

    Args:
        first: ``[rank, width]``.
        second: ``[rank, width]``; another width has no cosine with it, nor has a direction of length 0.
    """
    import torch

    if first.shape[1] != second.shape[1]:
        return None
    a, b = first.double(), second.double()
    if len(a) == len(b) == 1:
        size = float(a.norm() * b.norm())
        return max(-1.0, min(1.0, float(a[0] @ b[0]) / size)) if size > 0 else None
    bases = []
    for vectors in (a, b):
        _, sizes, rows = torch.linalg.svd(vectors, full_matrices=False)
        if not float(sizes[0]) > 0:
            return None
        bases.append(rows[sizes > sizes[0] * 1e-10])
    return min(1.0, float(torch.linalg.matrix_norm(bases[0] @ bases[1].T, ord=2)))
