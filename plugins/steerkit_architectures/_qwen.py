"""Qwen: Llama's blocks with experts in place of some MLPs and linear attention in place of some attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steerkit.api.architecture import ArchitectureAdapter, Block, Layout, Tap
from steerkit_architectures._common import Part, TextModel, attention, before_norm, heads, mlp, standard_layout

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class QwenAdapter(ArchitectureAdapter):
    """Qwen 2 to 3.5. Layers differ: experts or an MLP, full or linear attention."""

    def layout(self, model: PreTrainedModel) -> Layout:
        """Declare the model's streams."""
        text = TextModel.of(model)
        blocks = text.blocks(self.block)
        # Linear attention carries a state along, which takes the place of keys and values.
        carries = any("linear_attn" in block.writers[0].tap.module for block in blocks)
        return standard_layout(text, blocks, shares_beginning=not carries)

    def block(self, block: Part) -> Block:
        """Declare one block, whichever of the two token mixers it has."""
        if block.has("linear_attn"):
            mixer = attention(block, "linear_attn", "out_proj")
            side_by_side = heads(block, "linear_attn", "out_proj", d_head=(block / "linear_attn").fact("head_v_dim"))
        else:
            mixer, side_by_side = attention(block), heads(block)
        return Block(
            module=block.path,
            writers=(mixer, mlp(block)),
            resid_mid=before_norm(block, "post_attention_layernorm"),
            heads=side_by_side,
        )


class Qwen1Adapter(ArchitectureAdapter):
    """Qwen 1, under the names of its own code."""

    def layout(self, model: PreTrainedModel) -> Layout:
        """Declare the model's streams."""
        base = Part("", model) / "transformer"
        text = TextModel(base.path, base, model.config, wrapped=False)
        d_head = int(model.config.hidden_size) // int(model.config.num_attention_heads)

        def block(block: Part) -> Block:
            return Block(
                module=block.path,
                writers=(attention(block, "attn", "c_proj"), mlp(block, "mlp", "c_proj")),
                resid_mid=before_norm(block, "ln_2"),
                heads=heads(block, "attn", "c_proj", d_head=d_head),
            )

        return standard_layout(
            text,
            text.blocks(block, "h"),
            # A dropout stands between the embedding and the first block.
            embed=Tap(base.at("drop"), "output"),
            embed_weight=base.at("wte"),
            final_norm=base.at("ln_f"),
        )
