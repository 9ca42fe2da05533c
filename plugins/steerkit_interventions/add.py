"""Intervention ``add``: add a direction, times a coefficient, to the residual stream."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from steerkit.api.hookspecs import InterventionSpec, Options, hookimpl
from steerkit_interventions._numbers import read_numbers

STEERKIT_CONTRACT = 2


class AddOptions(Options):
    """Options of ``add``."""

    coefficient: float | tuple[float, ...] = Field(
        default=1.0,
        description="Signed number that multiplies the direction, which is raw: 1.0 adds it with the norm that it was "
        "estimated with, 0 does nothing. A list gives each vector of the direction its own.",
    )

    @field_validator("coefficient", mode="plain")
    @classmethod
    def _read(cls, value: Any) -> float | tuple[float, ...]:
        return read_numbers(value, "coefficient")


def _idle(options: AddOptions) -> bool:
    coefficient = options.coefficient
    return not any(coefficient if isinstance(coefficient, tuple) else (coefficient,))


@hookimpl
def steerkit_interventions() -> list[InterventionSpec]:
    """Provide ``add``."""
    return [
        InterventionSpec(
            name="add",
            summary="Add the direction, times a coefficient, at its own site or sites.",
            implementation="steerkit_interventions._add:Add",
            options=AddOptions,
            directions=1,
            at_own=True,
            idle=_idle,
            many_sites=True,
            additive="coefficient",
        )
    ]
