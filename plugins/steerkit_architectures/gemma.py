"""Architecture ``gemma``: Gemma 1 to 4 and VaultGemma."""

from __future__ import annotations

from steerkit.api.hookspecs import ArchitectureSpec, hookimpl

STEERKIT_CONTRACT = 2

_ALTUP = "its alternating updates keep several streams and mix them in every block, so they are not one sum"
_DRAFT = "a draft model, which reads another model's stream in place of embeddings"


@hookimpl
def steerkit_architectures() -> list[ArchitectureSpec]:
    """Provide ``gemma``."""
    return [
        ArchitectureSpec(
            name="gemma",
            summary="Gemma 1 to 4 and VaultGemma, alone or inside the multimodal wrapper.",
            implementation="steerkit_architectures._gemma:GemmaAdapter",
            model_types=(
                "gemma",
                "gemma2",
                "gemma3",
                "gemma3_text",
                "gemma4",
                "gemma4_text",
                "gemma4_unified",
                "gemma4_unified_text",
                "vaultgemma",
            ),
            refuses={
                "gemma3n": _ALTUP,
                "gemma3n_text": _ALTUP,
                "gemma4_assistant": _DRAFT,
                "gemma4_unified_assistant": _DRAFT,
            },
            refusal_tokens={256000: {235285: "I"}},  # Arditi et al. 2024 (arXiv 2406.11717), appendix B
        )
    ]
