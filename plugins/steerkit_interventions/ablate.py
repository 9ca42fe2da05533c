"""Intervention ``ablate``: remove a direction's span from the residual stream."""

from __future__ import annotations

from pydantic import Field, field_validator

from steerkit.api.hookspecs import InterventionSpec, Options, hookimpl
from steerkit_interventions._sites import AT, RANK, read_site

STEERKIT_CONTRACT = 2


class AblateOptions(Options):
    """Options of ``ablate``."""

    coefficient: float = Field(
        default=1.0,
        strict=True,
        allow_inf_nan=False,
        description="Fraction of the component in the direction's span that is removed: 1.0 removes it, 0 does "
        "nothing, 2.0 mirrors it. The norm of the direction plays no part.",
    )
    at: str | None = Field(default=None, description=AT)
    rank: int | None = Field(default=None, ge=1, strict=True, description=RANK)

    @field_validator("at")
    @classmethod
    def _read_at(cls, value: str | None) -> str | None:
        return read_site(value)


@hookimpl
def steerkit_interventions() -> list[InterventionSpec]:
    """Provide ``ablate``."""
    return [
        InterventionSpec(
            name="ablate",
            summary="Project the direction's span out, at the embedding and everything else that writes to the stream.",
            implementation="steerkit_interventions._ablate:Ablate",
            options=AblateOptions,
            directions=1,
            at_writers=True,
        )
    ]
