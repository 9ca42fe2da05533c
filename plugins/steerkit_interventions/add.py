"""Intervention ``add``: add a direction, times a coefficient, to the residual stream."""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field, field_validator

from steerkit.api.hookspecs import InterventionSpec, Options, hookimpl


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
        # One message, where pydantic would give one for each member of the union.
        items = list(value) if isinstance(value, (list, tuple)) else [value]
        if not items or any(isinstance(item, bool) or not isinstance(item, (int, float)) for item in items):
            raise ValueError(
                f"{value!r} is not a coefficient: write a number such as 4.0, or a list with one number per vector."
            )
        try:
            numbers = tuple(float(item) for item in items)
        except OverflowError as error:
            raise ValueError("A coefficient is beyond what a float holds: write a number such as 4.0.") from error
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError(f"{value!r} is not finite: write a number such as 4.0.")
        return numbers if isinstance(value, (list, tuple)) else numbers[0]


@hookimpl
def steerkit_interventions() -> list[InterventionSpec]:
    """Provide ``add``."""
    return [
        InterventionSpec(
            name="add",
            summary="Add the direction, times a coefficient, at its own site.",
            implementation="steerkit_interventions._add:Add",
            options=AddOptions,
            directions=1,
        )
    ]
