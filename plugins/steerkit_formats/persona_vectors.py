"""Format ``persona_vectors``: a matrix with a row for the embeddings and for every block's output."""

from __future__ import annotations

from steerkit.api.hookspecs import FormatSpec, NoOptions, hookimpl

STEERKIT_CONTRACT = 2


class PersonaVectorsOptions(NoOptions):
    """Options of ``persona_vectors``: there are none."""


@hookimpl
def steerkit_formats() -> list[FormatSpec]:
    """Provide ``persona_vectors``."""
    return [
        FormatSpec(
            name="persona_vectors",
            summary="Persona vectors: <trait>_response_avg_diff.pt and its kin, [layers + 1, width].",
            implementation="steerkit_formats._persona_vectors:PersonaVectorsFormat",
            options=PersonaVectorsOptions,
            suffixes=(".pt",),
            acts="row k ≥ 1: output of block k − 1; row 0: the embeddings, block 0's input",
            writes=False,
        )
    ]
