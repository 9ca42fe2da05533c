"""What single types of tiny models need beyond the common sizes: layers of every kind that the type has, and sizes that
go by other names or hang together. Variants are the same types with other keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

Keys = dict[str, Any]


@dataclass(frozen=True)
class Turns:
    """Kinds of layers that take turns, for as many layers as there are."""

    kinds: tuple[str, ...]

    def of(self, n_layers: int) -> list[str]:
        """One kind per layer."""
        return [self.kinds[layer % len(self.kinds)] for layer in range(n_layers)]


def turns(*kinds: str) -> Turns:
    """Kinds of layers that take turns."""
    return Turns(kinds)


LOCAL_GLOBAL: Final = turns("sliding_attention", "full_attention")
MOSTLY_LOCAL: Final = turns("sliding_attention", "sliding_attention", "sliding_attention", "full_attention")
MOSTLY_LINEAR: Final = turns("linear_attention", "linear_attention", "linear_attention", "full_attention")
CONVOLUTIONS: Final = turns("conv", "full_attention")

_MULTI_LATENT: Final = (
    "axk1 axk2 deepseek_v2 deepseek_v3 deepseek_v32 glm4_moe_lite glm_moe_dsa minicpm3 youtu longcat_flash"
)
"""Attention by way of latents, where every head has keys of its own."""

_ENCODERS: Final = (
    "bert bert-generation big_bird camembert data2vec-text electra ernie megatron-bert rembert roberta "
    "roberta-prelayernorm roc_bert roformer xlm-roberta xlm-roberta-xl xmod"
)
"""They read both ways unless the config says that they are decoders."""

_COMPASS_ROPE: Final = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
_NOTES: Final[Keys] = {
    "num_key_value_heads": 4,
    "head_dim": 16,
    "q_lora_rank": 16,
    "shared_experts_intermediate_size": 16,
    "per_layer_config": {"2": {"head_dim": 16}},
    "layer_types": turns("indexed_attention", "indexed_attention", "sliding_attention", "sliding_attention"),
    "mlp_layer_types": turns("dense", "sparse", "sparse", "sparse"),
}
_QWEN4: Final[Keys] = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
    "indexer_budget": 4,
    "indexer_compress_ratio": 2,
    "hc_lowrank": 4,
}


def _draft(text: str, **more: Any) -> Keys:
    """A draft model, whose layers all use the keys and values of another model."""
    return {
        "backbone_hidden_size": 32,
        "num_centroids": 8,
        "centroid_intermediate_top_k": 4,
        "text_config": {
            "model_type": text,
            "vocab_size": 288,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "global_head_dim": 8,
            "num_kv_shared_layers": 4,
            "layer_types": LOCAL_GLOBAL,
            "sliding_window": 4,
            **more,
        },
    }


def _bytes(width: int, layers: int, **more: Any) -> Keys:
    """One of the four transformers within BLT."""
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        **more,
    }


ALONE: Final = frozenset({"blt", "dbrx", "gemma4_assistant", "gemma4_unified_assistant"})
"""Types whose keys are all given below: their defaults can't be made small one by one."""

KEYS: Final[dict[str, Keys]] = {
    **{name: {"num_key_value_heads": 4} for name in _MULTI_LATENT.split()},
    **{name: {"is_decoder": True} for name in _ENCODERS.split()},
    "bailing_hybrid": {"layer_types": MOSTLY_LINEAR, "num_key_value_heads": 4},
    "bamba": {"attn_layer_indices": [1, 3]},
    "big_bird": {"is_decoder": True, "attention_type": "original_full"},
    "blt": {
        "vocab_size": 260,
        "encoder_hash_byte_group_vocab": 50,
        "max_position_embeddings": 256,
        "patch_size": 4,
        "cross_attn_k": 2,
        "patcher_config": _bytes(32, 2, vocab_size=260),
        "encoder_config": _bytes(16, 1, hidden_size_global=32, vocab_size=260, cross_attn_k=2),
        "decoder_config": _bytes(16, 2, hidden_size_global=32, vocab_size=260, cross_attn_k=2),
        "global_config": _bytes(32, 2),
    },
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": _COMPASS_ROPE, "sliding_attention": _COMPASS_ROPE},
        "layer_types": MOSTLY_LOCAL,
    },
    "dbrx": {
        "d_model": 32,
        "n_heads": 4,
        "n_layers": 4,
        "max_seq_len": 256,
        "vocab_size": 288,
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 3.0},
        "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "cohere2_moe": {"mlp_layer_types": turns("dense", "sparse", "sparse", "sparse")},
    "deepseek_v2": {"num_key_value_heads": 4, "num_experts_per_tok": 2},
    "deepseek_v4": {
        "num_key_value_heads": 1,
        "o_lora_rank": 8,
        "o_groups": 2,
        "hc_mult": 4,
        "partial_rotary_factor": 0.5,
        "layer_types": turns("heavily_compressed_attention", "sliding_attention", "compressed_sparse_attention"),
        "mlp_layer_types": turns("hash_moe", "moe"),
    },
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "dots3_note": {
        "text_config": _NOTES,
        "vision_config": {"per_layer_config": {}, "mlp_layer_types": ["dense"]},
        "audio_config": {"intermediate_size": 16},
    },
    "dots3_note_text": _NOTES,
    **{name: {"sliding_window": 4} for name in ("phi3", "phi4_multimodal", "phimoe", "starcoder2")},
    "ernie4_5_moe": {"moe_layer_start_index": 1},
    "gemma3n_text": {
        "intermediate_size": [48] * 4,
        "layer_types": LOCAL_GLOBAL,
        "laurel_rank": 4,
        "num_kv_shared_layers": 0,
        "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0],
    },
    "gemma4_assistant": _draft("gemma4_text", hidden_size_per_layer_input=0, vocab_size_per_layer_input=0),
    "gemma4_unified_assistant": _draft("gemma4_unified_text"),
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": {"layer_types": turns("linear_attention", "full_attention")},
    "inkling2_text": {"layer_types": turns("hybrid_sliding", "hybrid"), "n_layers_per_attn_res_block": 2},
    "inkling_text": {
        "layer_types": turns("hybrid_sliding", "hybrid"),
        "mlp_layer_types": turns("dense", "sparse", "sparse", "sparse"),
    },
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "kimi_linear": {
        "linear_head_dim": 8,
        "linear_num_heads": 4,
        "num_key_value_heads": 4,
        "layer_types": MOSTLY_LINEAR,
    },
    "kolibri1": {"layer_types": MOSTLY_LOCAL},
    "laguna": {"layer_types": LOCAL_GLOBAL},
    "lfm2": {"layer_types": CONVOLUTIONS},
    "lfm2_moe": {"layer_types": CONVOLUTIONS},
    "lfm3": {"layer_types": turns("conv", "sliding_attention", "full_attention", "conv")},
    "llama4": {"text_config": {"interleave_moe_layer_step": 2}},
    "llama4_text": {"interleave_moe_layer_step": 2},
    "longcat_flash": {"num_key_value_heads": 4, "zero_expert_num": 2, "num_layers": 2},
    "mamba2": {"num_heads": 8, "n_groups": 2},
    "ministral": {"layer_types": LOCAL_GLOBAL},
    "mllama": {"text_config": {"cross_attention_layers": [3]}},
    "mellum": {"layer_types": LOCAL_GLOBAL},
    "minimax_m3_vl_text": {"mlp_layer_types": turns("dense", "sparse", "sparse", "sparse")},
    "mpt": {"attn_config": {"model_type": "mpt", "clip_qkv": 3.0}},
    "nemotron_h": {"n_groups": 2},
    "qwen4_exp": {"text_config": _QWEN4},
    "qwen4_exp_text": _QWEN4,
    "reformer": {
        "is_decoder": True,
        "axial_pos_embds": False,
        "attn_layers": turns("local", "lsh"),
        "num_buckets": 2,
        "local_attn_chunk_length": 4,
        "lsh_attn_chunk_length": 4,
    },
    "roc_bert": {
        "is_decoder": True,
        "pronunciation_vocab_size": 50,
        "shape_vocab_size": 50,
        "shape_embed_dim": 16,
        "pronunciation_embed_dim": 16,
    },
    "seed_oss": {"residual_dropout": 0.1},
    "xmod": {"is_decoder": True, "default_language": "en_XX"},
    "zamba": {
        "num_hidden_layers": 5,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "num_key_value_heads": 4,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid", "linear_attention"],
    },
    "zamba2": {
        "num_hidden_layers": 5,
        "n_mamba_heads": 4,
        "adapter_rank": 4,
        "num_mem_blocks": 1,
        "num_key_value_heads": 4,
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid", "linear_attention"],
        **dict.fromkeys(
            ("attention_hidden_size", "attention_head_dim", "mamba_headdim", "kv_channels", "head_dim"), ...
        ),
    },
    "zaya": {
        "num_experts_per_tok": 1,
        "router_hidden_size": 16,
        "sliding_window": 4,
        "layer_types": turns("hybrid", "hybrid_sliding"),
    },
}

VARIANTS: Final[dict[str, tuple[str, Keys]]] = {
    "bert-encoder": ("bert", {"is_decoder": False}),
    "bloom-post-norm-residual": ("bloom", {"apply_residual_connection_post_layernorm": True}),
    "falcon-new-decoder": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon-sequential": ("falcon", {"parallel_attn": False, "alibi": True}),
    "gpt2-cross-attention": ("gpt2", {"add_cross_attention": True}),
    "gpt_neox-sequential": ("gpt_neox", {"use_parallel_residual": False}),
    "opt-350m": ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 16}),
    "opt-post-norm": ("opt", {"do_layer_norm_before": False}),
    "persimmon-no-qk-norm": ("persimmon", {"qk_layernorm": False}),
    "rwkv-rescaled": ("rwkv", {"rescale_every": 2}),
    "stablelm-parallel": ("stablelm", {"use_parallel_residual": True}),
    "xmod-pre-norm": ("xmod", {"pre_norm": True}),
    "zamba2-adapters": (
        "zamba2",
        {"use_shared_attention_adapter": True, "num_mem_blocks": 2, "use_mem_rope": True},
    ),
}


def variant_of(name: str) -> tuple[str, Keys]:
    """The type that a name stands for, and what it changes of it."""
    return VARIANTS.get(name, (name, {}))
