"""Intervention ``cap``: keep a direction from growing beyond a limit. Imports no torch; see ``_cap``."""

from __future__ import annotations

from pydantic import Field

from steerkit.api.hookspecs import InterventionSpec, Options, hookimpl

STEERKIT_CONTRACT = 2


class CapOptions(Options):
    """Options of ``cap``."""

    limit: float = Field(
        default=0.0,
        allow_inf_nan=False,
        description="The most that the stream's component along the direction may be, in units of the stream "
        "(the direction's norm plays no part). What is below it stays.",
    )


@hookimpl
def steerkit_interventions() -> list[InterventionSpec]:
    """Provide ``cap``."""
    return [
        InterventionSpec(
            name="cap",
            summary="Limit the residual stream's component along a direction.",
            implementation="steerkit_template._cap:Cap",
            options=CapOptions,
            directions=1,
            at_own=True,
        )
    ]
