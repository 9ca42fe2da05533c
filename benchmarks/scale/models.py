"""Shapes: those of the thirteen models of the paper, and those that are measured here.

Sizes are what the checkpoints' own ``config.json`` say. Qwen's first generation counts the width of both halves of its
MLP as one ``intermediate_size``, of which each half has the half.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Sized:
    """The shape of a model.

    Args:
        name: as a table calls it.
        kind: transformers' type that computes the same.
        layers, width, inner, heads, kv_heads, vocabulary: of its config.
        more: what else is in it.
    """

    name: str
    kind: str
    layers: int
    width: int
    inner: int
    heads: int
    kv_heads: int
    vocabulary: int
    more: Mapping[str, Any] = field(default_factory=dict)

    def empty(self, dtype: Any) -> PreTrainedModel:
        """The model on the meta device."""
        import torch
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            made: Any = AutoModelForCausalLM.from_config(self.config(), dtype=dtype)
        found: PreTrainedModel = made.eval()
        return found

    def config(self) -> Any:
        """Transformers' config of it."""
        from transformers import AutoConfig

        return AutoConfig.for_model(
            self.kind,
            num_hidden_layers=self.layers,
            hidden_size=self.width,
            intermediate_size=self.inner,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            vocab_size=self.vocabulary,
            max_position_embeddings=4096,
            **{"tie_word_embeddings": False, **self.more},
        )


def _gemma(name: str, layers: int, width: int, inner: int, heads: int, kv_heads: int) -> Sized:
    more = MappingProxyType({"tie_word_embeddings": True, "head_dim": 256})
    return Sized(name, "gemma", layers, width, inner, heads, kv_heads, 256_000, more)


PAPER: Final = (
    Sized("Qwen 1.8B", "qwen2", 24, 2048, 5504, 16, 16, 151_936),
    Sized("Qwen 7B", "qwen2", 32, 4096, 11_008, 32, 32, 151_936),
    Sized("Qwen 14B", "qwen2", 40, 5120, 13_696, 40, 40, 152_064),
    Sized("Qwen 72B", "qwen2", 80, 8192, 24_576, 64, 64, 152_064),
    Sized("Yi 6B", "llama", 32, 4096, 11_008, 32, 4, 64_000),
    Sized("Yi 34B", "llama", 60, 7168, 20_480, 56, 8, 64_000),
    _gemma("Gemma 2B", 18, 2048, 16_384, 8, 1),
    _gemma("Gemma 7B", 28, 3072, 24_576, 16, 16),
    Sized("Llama-2 7B", "llama", 32, 4096, 11_008, 32, 32, 32_000),
    Sized("Llama-2 13B", "llama", 40, 5120, 13_824, 40, 40, 32_000),
    Sized("Llama-2 70B", "llama", 80, 8192, 28_672, 64, 8, 32_000),
    Sized("Llama-3 8B", "llama", 32, 4096, 14_336, 32, 8, 128_256),
    Sized("Llama-3 70B", "llama", 80, 8192, 28_672, 64, 8, 128_256),
)

MEASURED: Final = (
    Sized("random 31M", "llama", 12, 384, 1024, 6, 2, 16_384),
    Sized("random 134M", "llama", 30, 576, 1536, 9, 3, 49_152, MappingProxyType({"tie_word_embeddings": True})),
    Sized("random 371M", "llama", 24, 1024, 2816, 16, 4, 49_152),
    Sized("random 1.2B", "llama", 22, 2048, 5632, 32, 4, 49_152),
)
"""Random models in Llama's shape, of which the second has SmolLM2-135M's sizes: they fit into a laptop in float32."""
