"""Intervention ``affine_concept_editing``: set the stream between a direction's two classes."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from steerkit.api.hookspecs import InterventionSpec, Options, hookimpl
from steerkit_interventions._numbers import read_numbers
from steerkit_interventions._sites import AT, read_site

STEERKIT_CONTRACT = 2


class AffineConceptEditingOptions(Options):
    """Options of ``affine_concept_editing``."""

    coefficient: float | tuple[float, ...] = Field(
        default=1.0,
        description="Where the stream is set along the direction: 0 at the mean of the reference (negative) class, 1.0 "
        "one whole direction further, which for a difference of means is the mean of the positive class. 0 is not "
        "nothing. A list gives each vector of the direction its own.",
    )

    at: str | None = Field(default=None, description=AT)

    @field_validator("at")
    @classmethod
    def _read_at(cls, value: str | None) -> str | None:
        return read_site(value)

    @field_validator("coefficient", mode="plain")
    @classmethod
    def _read(cls, value: Any) -> float | tuple[float, ...]:
        return read_numbers(value, "coefficient")


@hookimpl
def steerkit_interventions() -> list[InterventionSpec]:
    """Provide ``affine_concept_editing``."""
    return [
        InterventionSpec(
            name="affine_concept_editing",
            summary="Set the direction's component to the reference class's mean plus a multiple of the direction.",
            implementation="steerkit_interventions._affine_concept_editing:AffineConceptEditing",
            options=AffineConceptEditingOptions,
            directions=1,
            at_own=True,
        )
    ]
