"""Format ``saelens``: rows of a sparse autoencoder's decoder, as SAELens writes one."""

from __future__ import annotations

from pydantic import Field

from steerkit.api.hookspecs import FormatSpec, Options, hookimpl

STEERKIT_CONTRACT = 2


class SaelensOptions(Options):
    """Options of ``saelens``."""

    features: tuple[int, ...] = Field(
        default=(), description="numbers of the features whose decoder rows are read, each a direction feature_<number>"
    )
    scaling_factor: float | None = Field(
        default=None,
        gt=0,
        description="by what activations are multiplied before they are encoded, for normalisation "
        "expected_average_only_in, whose files don't say it",
    )


@hookimpl
def steerkit_formats() -> list[FormatSpec]:
    """Provide ``saelens``."""
    return [
        FormatSpec(
            name="saelens",
            summary="Decoder rows of a SAELens autoencoder: a folder with cfg.json and sae_weights.safetensors.",
            implementation="steerkit_formats._saelens:SaelensFormat",
            options=SaelensOptions,
            suffixes=(".safetensors",),
            acts="where hook_name says (a transcoder's: hook_name_out)",
            writes=False,
            folder=True,
        )
    ]
