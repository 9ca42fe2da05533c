"""Architecture ``yi``: checkpoints of 01.AI's Yi, which load as Llama."""

from __future__ import annotations

from steerkit.api.hookspecs import ArchitectureSpec, ModelFacts, hookimpl

STEERKIT_CONTRACT = 2

VOCABULARY = 64000
BEGIN = "<|startoftext|>"


def is_yi(facts: ModelFacts) -> bool:
    """Whether a checkpoint of the Llama type is a Yi: by its vocabulary and its tokenizer, never by its name.

    Yi, Yi-Chat, Yi-1.5 and Yi-Coder have 64,000 tokens and begin a text with ``<|startoftext|>``. Others
    of that vocabulary size (converted Baichuan models) begin with ``<s>``.
    """
    return facts.config.get("vocab_size") == VOCABULARY and BEGIN in facts.special_tokens


@hookimpl
def steerkit_architectures() -> list[ArchitectureSpec]:
    """Provide ``yi``."""
    return [
        ArchitectureSpec(
            name="yi",
            summary="Yi, Yi-1.5 and Yi-Coder: Llama's blocks, recognised by vocabulary and special tokens.",
            implementation="steerkit_architectures._yi:YiAdapter",
            model_types=("llama",),
            recognise=is_yi,
            refines=("llama",),
            refuses={
                "Yi": "the first revisions of these checkpoints run on code of their own; later ones load as Llama",
            },
            refusal_tokens={VOCABULARY: {59597: "I"}},  # Arditi et al. 2024 (arXiv 2406.11717), appendix B
        )
    ]
