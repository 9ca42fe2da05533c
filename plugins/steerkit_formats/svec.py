"""Format ``svec``: steering vectors of IBM's activation-steering (CAST) and AISteer360, in JSON."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from steerkit.api.hookspecs import FormatSpec, Options, hookimpl

STEERKIT_CONTRACT = 2


class SvecOptions(Options):
    """Options of ``svec``."""

    convention: Literal["cast", "caa"] = Field(
        default="cast", description="whose layers: CAST adds to the input of block k, CAA of AISteer360 to its output"
    )
    model_type: str = Field(default="unknown", description="what a written file says of the model, as in llama")


@hookimpl
def steerkit_formats() -> list[FormatSpec]:
    """Provide ``svec``."""
    return [
        FormatSpec(
            name="svec",
            summary="Vectors of IBM activation-steering and AISteer360: JSON, a vector by layer.",
            implementation="steerkit_formats._svec:SvecFormat",
            options=SvecOptions,
            suffixes=(".svec",),
            acts="input of block k; with convention caa the output of block k",
        )
    ]
