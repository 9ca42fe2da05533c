"""Formats ``refusal_direction`` and ``refusal_direction_means``: what andyrdt/refusal_direction writes."""

from __future__ import annotations

from pydantic import Field

from steerkit.api.hookspecs import FormatSpec, NoOptions, Options, hookimpl

STEERKIT_CONTRACT = 2


class RefusalDirectionOptions(NoOptions):
    """Options of ``refusal_direction``: there are none."""


class MeansOptions(Options):
    """Options of ``refusal_direction_means``."""

    position: int | None = Field(
        default=None, lt=0, description="which position alone is read, from the prompt's end, as -1; None: all of them"
    )


@hookimpl
def steerkit_formats() -> list[FormatSpec]:
    """Provide ``refusal_direction`` and ``refusal_direction_means``."""
    return [
        FormatSpec(
            name="refusal_direction",
            summary="The direction that refusal_direction chose: direction.pt with direction_metadata.json beside it.",
            implementation="steerkit_formats._refusal_direction:RefusalDirectionFormat",
            options=RefusalDirectionOptions,
            suffixes=(".pt",),
            acts="input of block k (`layer`), read at a negative position (`pos`)",
            folder=True,
        ),
        FormatSpec(
            name="refusal_direction_means",
            summary="All candidates of refusal_direction: mean_diffs.pt, [positions, layers, width].",
            implementation="steerkit_formats._refusal_direction:MeansFormat",
            options=MeansOptions,
            suffixes=(".pt",),
            acts="input of block k (index k), read at the last positions of a prompt",
        ),
    ]
