"""Gemma: scaled embeddings; from Gemma 2 on a norm behind every contribution; in Gemma 4 a third writer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steerkit.api.architecture import ArchitectureAdapter, Block, Layout, Tap, Writer
from steerkit.types import ATTN_OUT, MLP_OUT
from steerkit_architectures._common import (
    Part,
    TextModel,
    attention,
    before_norm,
    heads,
    mlp,
    normed,
    standard_layout,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PER_LAYER_OUT = "per_layer_out"
"""Gemma 4's third writer: what a block makes of its own embedding of each token."""


class GemmaAdapter(ArchitectureAdapter):
    """Gemma 1 to 4. What a block has is read off the block, since sizes of one generation differ."""

    def layout(self, model: PreTrainedModel) -> Layout:
        """Declare the model's streams."""
        text = TextModel.of(model)
        # The multimodal wrapper of Gemma 3 leaves the text config's soft cap out.
        capped = not (text.wrapped and model.config.model_type == "gemma3")
        return standard_layout(
            text,
            text.blocks(self.block),
            embed=self.embed(text),
            # Per-layer inputs are computed from the embedding too, so editing it isn't editing the stream.
            embed_is_first_resid_pre=not text.text.has("per_layer_model_projection"),
            softcap=getattr(text.config, "final_logit_softcapping", None) if capped else None,
            # Sizes of Gemma 4 whose last layers use keys and values of earlier ones.
            begins_at_block=not getattr(text.config, "num_kv_shared_layers", 0),
        )

    def embed(self, text: TextModel) -> Tap:
        """The scaled embedding. Where the embedding module doesn't scale, the model does it before the first block."""
        tokens = text.text / "embed_tokens"
        scales = hasattr(tokens.module, "embed_scale")
        return Tap(tokens.path, "output") if scales else Tap((text.text / "layers.0").path, "input")

    def block(self, block: Part) -> Block:
        """Declare one block."""
        post_norms = block.has("post_feedforward_layernorm")
        pre_norms = block.has("pre_feedforward_layernorm")
        before_mlp = "pre_feedforward_layernorm" if pre_norms else "post_attention_layernorm"
        return Block(
            module=block.path,
            writers=self.post_normed(block) if post_norms else (attention(block), mlp(block)),
            resid_mid=before_norm(block, before_mlp),
            heads=heads(block),
            scale=block.at("layer_scalar") if hasattr(block.module, "layer_scalar") else None,
        )

    def post_normed(self, block: Part) -> tuple[Writer, ...]:
        """The writers of Gemma 2 and later. Experts, where there are any, join the MLP before its norm."""
        writers = (
            normed(ATTN_OUT, block, "post_attention_layernorm"),
            normed(MLP_OUT, block, "post_feedforward_layernorm"),
        )
        if not block.has("post_per_layer_input_norm"):
            return writers
        return (*writers, normed(PER_LAYER_OUT, block, "post_per_layer_input_norm"))
