"""Format ``vector_list``: directions as plain numbers in a JSON file. Imports no torch; see ``_vector_list``."""

from __future__ import annotations

from steerkit.api.hookspecs import FormatSpec, NoOptions, hookimpl

STEERKIT_CONTRACT = 2


class VectorListOptions(NoOptions):
    """Options of ``vector_list``: there are none."""


@hookimpl
def steerkit_formats() -> list[FormatSpec]:
    """Provide ``vector_list``."""
    return [
        FormatSpec(
            name="vector_list",
            summary="Directions at one site each as plain numbers in a JSON file, for eyes and other languages.",
            implementation="steerkit_template._vector_list:VectorList",
            options=VectorListOptions,
            suffixes=(".json",),
            acts="at the site that stands beside each",
        )
    ]
