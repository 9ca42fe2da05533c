"""Directions of a recipe that files hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from steerkit.errors import ArtifactError
from steerkit.plan import PlannedDirection

if TYPE_CHECKING:
    from steerkit.api.direction import Direction

LOST: Final = "lost_in_reading"
"""Where a direction's provenance says what its file says and steerkit has no place for, or the other way round."""


def saved_direction(planned: PlannedDirection) -> Direction:
    """A direction of the recipe that a file holds, under its name or alone; its provenance says what reading lost."""
    from steerkit.api.format import Given
    from steerkit.artifacts.formats import read_as

    assert planned.file is not None and planned.reader is not None
    contents = read_as(planned.reader, planned.file, Given(planned.site, planned.positions), planned.options)
    saved = contents.directions
    if planned.name not in saved and len(saved) > 1:
        raise ArtifactError(
            f"{planned.file} holds {', '.join(saved)}, and none is called {planned.name!r}. "
            "Name the direction in the recipe as it is named in the file."
        )
    direction = saved.get(planned.name, next(iter(saved.values()))).replace(name=planned.name)
    if not contents.lost:
        return direction
    return direction.replace(provenance={**direction.provenance, LOST: list(contents.lost)})
