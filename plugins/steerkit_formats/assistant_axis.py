"""Format ``assistant_axis``: the assistant axis, and vectors of roles, with a row for every block's output."""

from __future__ import annotations

from steerkit.api.hookspecs import FormatSpec, NoOptions, hookimpl

STEERKIT_CONTRACT = 2


class AssistantAxisOptions(NoOptions):
    """Options of ``assistant_axis``: there are none."""


@hookimpl
def steerkit_formats() -> list[FormatSpec]:
    """Provide ``assistant_axis``."""
    return [
        FormatSpec(
            name="assistant_axis",
            summary="The assistant axis and vectors of roles: a tensor [layers, width], alone or in a mapping.",
            implementation="steerkit_formats._assistant_axis:AssistantAxisFormat",
            options=AssistantAxisOptions,
            suffixes=(".pt",),
            acts="row k: output of block k, read over the response",
            writes=False,
        )
    ]
