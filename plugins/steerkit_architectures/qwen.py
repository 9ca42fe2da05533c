"""Architectures ``qwen`` (Qwen 2 to 3.5, with and without experts) and ``qwen1`` (``transformer.h``)."""

from __future__ import annotations

from steerkit.api.hookspecs import ArchitectureSpec, hookimpl

STEERKIT_CONTRACT = 2

_HYPER_CONNECTIONS = "gated hyper-connections mix several streams between its blocks, so they are not one sum"
_REFUSALS = {size: {40: "I", 2121: "As"} for size in (151936, 152064)}
"""Of Qwen 1, in its smaller and larger checkpoints: Arditi et al. 2024 (arXiv 2406.11717), appendix B."""


@hookimpl
def steerkit_architectures() -> list[ArchitectureSpec]:
    """Provide ``qwen`` and ``qwen1``."""
    return [
        ArchitectureSpec(
            name="qwen",
            summary="Qwen 2, 3 and 3.5 and Qwen3-Next: dense, with experts, with linear attention.",
            implementation="steerkit_architectures._qwen:QwenAdapter",
            model_types=(
                "qwen2",
                "qwen2_moe",
                "qwen3",
                "qwen3_moe",
                "qwen3_next",
                "qwen3_5",
                "qwen3_5_text",
                "qwen3_5_moe",
                "qwen3_5_moe_text",
            ),
            refuses={
                "qwen4_exp": _HYPER_CONNECTIONS,
                "qwen4_exp_text": _HYPER_CONNECTIONS,
            },
            refusal_tokens=_REFUSALS,
        ),
        ArchitectureSpec(
            name="qwen1",
            summary="Qwen 1: blocks under transformer.h.",
            implementation="steerkit_architectures._qwen:Qwen1Adapter",
            model_types=("qwen",),
            note=(
                "For a model in memory under Qwen 1's own names, tested on a stand-in of them: the code that comes "
                "with Qwen 1 checkpoints doesn't run on transformers 5. A checkpoint is loaded as a Qwen 2, by adapter "
                "qwen."
            ),
            refusal_tokens=_REFUSALS,
        ),
    ]
