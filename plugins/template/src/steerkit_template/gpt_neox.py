"""Architecture ``gpt_neox``: GPT-NeoX and Pythia. Imports no torch; the adapter is in ``_gpt_neox``."""

from __future__ import annotations

from steerkit.api.hookspecs import ArchitectureSpec, hookimpl

STEERKIT_CONTRACT = 2


@hookimpl
def steerkit_architectures() -> list[ArchitectureSpec]:
    """Provide ``gpt_neox``."""
    return [
        ArchitectureSpec(
            name="gpt_neox",
            summary="GPT-NeoX and Pythia: attention and MLP read the same stream, side by side.",
            implementation="steerkit_template._gpt_neox:GPTNeoXAdapter",
            model_types=("gpt_neox",),
        )
    ]
