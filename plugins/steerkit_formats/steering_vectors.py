"""Format ``steering_vectors``: an object ``SteeringVector`` of the package steering-vectors, saved with torch."""

from __future__ import annotations

from steerkit.api.hookspecs import FormatSpec, NoOptions, hookimpl

STEERKIT_CONTRACT = 2


class SteeringVectorsOptions(NoOptions):
    """Options of ``steering_vectors``: there are none."""


@hookimpl
def steerkit_formats() -> list[FormatSpec]:
    """Provide ``steering_vectors``."""
    return [
        FormatSpec(
            name="steering_vectors",
            summary="A SteeringVector of the package steering-vectors, written with torch.save.",
            implementation="steerkit_formats._steering_vectors:SteeringVectorsFormat",
            options=SteeringVectorsOptions,
            suffixes=(".pt", ".pth"),
            acts="output of module k: of the block, its attention or its MLP, as layer_type says",
            writes=False,
        )
    ]
