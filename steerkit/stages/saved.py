"""Directions of a recipe that files hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steerkit.errors import ArtifactError
from steerkit.plan import PlannedDirection

if TYPE_CHECKING:
    from steerkit.api.direction import Direction


def saved_direction(planned: PlannedDirection) -> Direction:
    """A direction of the recipe that a file holds, under its name or alone."""
    from steerkit.artifacts.directions import load_directions

    assert planned.file is not None
    saved = load_directions(planned.file, site=planned.site, positions=planned.positions, format=planned.format)
    if planned.name not in saved and len(saved) > 1:
        raise ArtifactError(
            f"{planned.file} holds {', '.join(saved)}, and none is called {planned.name!r}. "
            "Name the direction in the recipe as it is named in the file."
        )
    return saved.get(planned.name, next(iter(saved.values()))).replace(name=planned.name)
