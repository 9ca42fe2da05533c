"""GPT-NeoX, declared: which module holds each stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steerkit.api.architecture import ArchitectureAdapter, Block, Heads, Layout, Tap, Writer
from steerkit.types import ATTN_OUT, MLP_OUT

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class GPTNeoXAdapter(ArchitectureAdapter):
    """GPT-NeoX with parallel blocks, as all published checkpoints have them, or with sequential ones."""

    def layout(self, model: PreTrainedModel) -> Layout:
        """Declare the model's streams."""
        config = model.config
        return Layout(
            d_model=config.hidden_size,
            base="gpt_neox",
            embed=Tap("gpt_neox.embed_in"),
            embed_weight="gpt_neox.embed_in",
            blocks=tuple(self._block(model, layer) for layer in range(config.num_hidden_layers)),
            final_norm="gpt_neox.final_layer_norm",
            head="lm_head",
        )

    def _block(self, model: PreTrainedModel, layer: int) -> Block:
        path, config = f"gpt_neox.layers.{layer}", model.config
        # Between two writers that read the same stream there is no point where the first one has written and the
        # second hasn't read: a parallel block has no resid_mid, and says so.
        mid = None if config.use_parallel_residual else Tap(f"{path}.post_attention_layernorm", "input")
        n_heads = config.num_attention_heads
        return Block(
            module=path,
            writers=(
                Writer(ATTN_OUT, Tap(f"{path}.attention"), projections=(f"{path}.attention.dense",)),
                Writer(MLP_OUT, Tap(f"{path}.mlp"), projections=(f"{path}.mlp.dense_4h_to_h",)),
            ),
            resid_mid=mid,
            heads=Heads(Tap(f"{path}.attention.dense", "input"), n_heads, config.hidden_size // n_heads),
        )
