"""Format ``steerkit``: directions in a safetensors file with a JSON header, as ``save_directions`` writes them."""

from __future__ import annotations

from steerkit.api.hookspecs import FormatSpec, NoOptions, hookimpl

STEERKIT_CONTRACT = 2


class SteerkitOptions(NoOptions):
    """Options of ``steerkit``: there are none."""


@hookimpl
def steerkit_formats() -> list[FormatSpec]:
    """Provide ``steerkit``."""
    return [
        FormatSpec(
            name="steerkit",
            summary="Steerkit's own: a safetensors file with sites, positions and provenance in its header.",
            implementation="steerkit_formats._steerkit:SteerkitFormat",
            options=SteerkitOptions,
            suffixes=(".safetensors",),
        )
    ]
