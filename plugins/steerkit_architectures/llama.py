"""Architecture ``llama``: Llama 2 and 3, SmolLM2, and what else loads as a Llama."""

from __future__ import annotations

from steerkit.api.hookspecs import ArchitectureSpec, hookimpl

STEERKIT_CONTRACT = 2

_GATED = "the gates of its cross-attention layers multiply contributions outside of any module"


@hookimpl
def steerkit_architectures() -> list[ArchitectureSpec]:
    """Provide ``llama``."""
    return [
        ArchitectureSpec(
            name="llama",
            summary="Llama 2 and 3, SmolLM2 and other models of the Llama type; DiffLlama.",
            implementation="steerkit_architectures._llama:LlamaAdapter",
            model_types=("llama", "diffllama"),
            refuses={
                "mllama": _GATED,
                "mllama_text_model": _GATED,
            },
            # Llama 2 and Llama 3: Arditi et al. 2024 (arXiv 2406.11717), appendix B.
            refusal_tokens={32000: {306: "I"}, 128256: {40: "I"}},
        )
    ]
