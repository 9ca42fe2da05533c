"""Llama: attention and a gated MLP, each behind a norm of its input and nothing behind its output."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steerkit.api.architecture import ArchitectureAdapter, Block, Layout
from steerkit_architectures._common import Part, TextModel, attention, before_norm, heads, mlp, standard_layout

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LlamaAdapter(ArchitectureAdapter):
    """Llama 2 and 3, and DiffLlama, whose heads leave in pairs."""

    def layout(self, model: PreTrainedModel) -> Layout:
        """Declare the model's streams."""
        text = TextModel.of(model)
        return standard_layout(text, text.blocks(self.block))

    def block(self, block: Part) -> Block:
        """Declare one block."""
        paired = hasattr((block / "self_attn").module, "lambda_q1")
        return Block(
            module=block.path,
            writers=(attention(block), mlp(block)),
            resid_mid=before_norm(block, "post_attention_layernorm"),
            heads=heads(block, d_head=2 * (block / "self_attn").fact("head_dim") if paired else None),
        )
