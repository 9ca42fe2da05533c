"""What sources of models are called, known without torch: tiny random models by type, and what marks them."""

from __future__ import annotations

import re
from typing import Final

TINY: Final = "tiny-random:"
"""What the sources of tiny random models begin with."""

TINY_MODEL_TYPES: Final = (
    *("llama", "diffllama", "yi"),
    *("qwen", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "qwen3_next"),
    *("qwen3_5_text", "qwen3_5_moe_text", "qwen3_5", "qwen3_5_moe"),
    *("gemma", "gemma2", "gemma3_text", "gemma3", "gemma4_text", "gemma4", "gemma4_unified_text", "gemma4_unified"),
    *("gemma4_text_moe", "vaultgemma"),
)
"""What ``steerkit.engine.tiny`` builds: model types of transformers, and variants of them (``yi``,
``gemma4_text_moe``)."""

TINY_SPECIAL_TOKENS: Final = ("<pad>", "<|end|>", "<|begin|>", "<|system|>", "<|user|>", "<|assistant|>")
"""Of their tokenizer, by id."""

TINY_LAYERS: Final = 3
TINY_WIDTH: Final = 32
"""Blocks of a tiny random model, and the width of its stream, unless a caller of the engine chooses others."""

_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_LONGEST_HUB_ID: Final = 96


def can_be_hub_id(source: str) -> bool:
    """Whether the hub could have a model of this name, by the hub's own rules for names."""
    return _HUB_ID.fullmatch(source) is not None and len(source) <= _LONGEST_HUB_ID
