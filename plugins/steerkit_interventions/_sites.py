"""Option ``at``: which site's vectors are meant of a direction that has them at several. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steerkit.errors import AttachError, SteerkitError
from steerkit.types import Site

if TYPE_CHECKING:
    from steerkit.api.direction import Direction

AT = "Of a direction at several sites: the site whose vectors are meant, such as blocks.14.resid_pre."
"""What the option is described as."""

RANK = (
    "Of a direction with several vectors at a site: how many of them are used, the first ones. All of them where None."
)
"""What the option ``rank`` is described as."""


def read_site(value: str | None) -> str | None:
    """The text form of a site.

    Raises:
        ValueError: for a text that is none.
    """
    try:
        return None if value is None else str(Site.parse(value))
    except SteerkitError as error:
        raise ValueError(str(error)) from error


def first_vectors(direction: Direction, rank: int | None, plugin: str) -> Direction:
    """The direction at its one site, with so many of its vectors.

    Raises:
        AttachError: where it has fewer.
    """
    if rank is None:
        return direction
    if rank > direction.rank:
        raise AttachError(
            f"{plugin}: rank {rank} of direction {direction.name!r}, which has {direction.rank} at {direction.site}. "
            f"Write rank: {direction.rank} at most."
        )
    return direction.with_vectors(direction.vectors[:rank])


def at_one_site(direction: Direction, at: str | None, plugin: str) -> Direction:
    """The direction at the site that is meant.

    Raises:
        AttachError: where it has several sites and none is named, or no vectors at the one that is.
    """
    if at is not None:
        return direction.at(at)
    if not direction.is_single:
        raise AttachError(
            f"{plugin} uses the vectors of one site, and direction {direction.name!r} has them at several, "
            f'{direction.describe()}. Say which: at: {direction.sites[0]} (in Python at="{direction.sites[0]}").'
        )
    return direction
