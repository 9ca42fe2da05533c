"""Format ``caa``: vectors as nrimsky/CAA writes them, one file per layer."""

from __future__ import annotations

from pydantic import Field

from steerkit.api.hookspecs import FormatSpec, Options, hookimpl

STEERKIT_CONTRACT = 2


class CaaOptions(Options):
    """Options of ``caa``."""

    model: str = Field(
        default="model", pattern=r"^[^/\\\x00]+$", description="what stands for the model in the names of written files"
    )


@hookimpl
def steerkit_formats() -> list[FormatSpec]:
    """Provide ``caa``."""
    return [
        FormatSpec(
            name="caa",
            summary="Vectors of contrastive activation addition: vec_layer_<k>_<model>.pt, one or a folder of them.",
            implementation="steerkit_formats._caa:CaaFormat",
            options=CaaOptions,
            suffixes=(".pt",),
            acts="output of block k (in the file's name), read at the answer's letter",
            folder=True,
        )
    ]
