"""Intervention ``set_projection``: give the residual stream a fixed projection on a direction."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from steerkit.api.hookspecs import InterventionSpec, Options, hookimpl
from steerkit_interventions._numbers import read_numbers
from steerkit_interventions._sites import AT, read_site

STEERKIT_CONTRACT = 2


class SetProjectionOptions(Options):
    """Options of ``set_projection``."""

    value: float | tuple[float, ...] = Field(
        description="What the projection of the stream on the direction, x·v/‖v‖, becomes. A list gives each vector of "
        "the direction its own; all of them hold at once.",
    )
    units: Literal["stream", "direction"] = Field(
        default="stream",
        description="What the value is counted in: units of the stream, or norms of the direction (1.0 is ‖v‖).",
    )

    at: str | None = Field(default=None, description=AT)

    @field_validator("at")
    @classmethod
    def _read_at(cls, value: str | None) -> str | None:
        return read_site(value)

    @field_validator("value", mode="plain")
    @classmethod
    def _read(cls, value: Any) -> float | tuple[float, ...]:
        return read_numbers(value, "value")


@hookimpl
def steerkit_interventions() -> list[InterventionSpec]:
    """Provide ``set_projection``."""
    return [
        InterventionSpec(
            name="set_projection",
            summary="Set the stream's projection on the direction to a value, at the direction's own site.",
            implementation="steerkit_interventions._set_projection:SetProjection",
            options=SetProjectionOptions,
            directions=1,
            at_own=True,
        )
    ]
