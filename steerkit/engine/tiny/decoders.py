"""Configs of tiny random models of every causal type of transformers: sizes that all share, by what they are called.

A config's own defaults say which keys it has; what is set here is what of those must be small, or must not be 1. What a
single type needs beyond that is in ``decoder_keys``.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any, Final

from steerkit.engine.tiny.decoder_keys import ALONE, KEYS, Turns, variant_of

VOCABULARY: Final = 288

_WIDTH: Final = (
    "hidden_size d_model n_embd dim emb_dim attention_hidden_size lru_width input_embedding_size output_embedding_size "
    "embedding_size word_embed_proj_dim embedding_dim"
)
_LAYERS: Final = (
    "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_decoder_layers num_encoder_layers "
    "num_blocks"
)
_SIZES: Final[tuple[tuple[int, str], ...]] = (
    (VOCABULARY, "vocab_size decoder_vocab_size vocab_size_per_layer_input unpadded_vocab_size"),
    # Positions, where there is a table of them or a switch at a length.
    (256, "max_position_embeddings n_positions n_ctx max_seq_len model_max_length context_length"),
    (64, "original_max_position_embeddings"),
    # Heads, and fewer key heads than heads.
    (4, "num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads attention_heads"),
    (4, "num_decoder_attention_heads num_encoder_attention_heads swa_num_attention_heads"),
    (2, "num_key_value_heads num_kv_heads swa_num_key_value_heads"),
    (8, "head_dim swa_head_dim v_head_dim dim_head kv_channels attention_head_dim d_head attention_head_size"),
    (16, "kv_lora_rank q_lora_rank qk_head_dim query_pre_attn_scalar"),
    (8, "qk_rope_head_dim qk_nope_head_dim index_head_dim"),
    (2, "index_n_heads"),
    (4, "rotary_dim index_topk"),
    # A window that short prompts exceed.
    (4, "sliding_window sliding_window_size attention_window_size window_size local_attention"),
    (4, "attention_chunk_size chunk_size"),
    # Feed-forward.
    (48, "intermediate_size ffn_dim decoder_ffn_dim encoder_ffn_dim ffn_hidden_size dff dim_ff d_inner"),
    (48, "dense_intermediate_size intermediate_size_mlp shared_intermediate_size feed_forward_size"),
    (4, "num_experts num_local_experts n_routed_experts moe_num_experts"),
    (2, "num_experts_per_tok moe_topk moe_k num_experts_per_token"),
    (16, "moe_intermediate_size expert_ffn_hidden_size shared_expert_intermediate_size"),
    (16, "shared_experts_intermediate_size moe_shared_expert_intermediate_size"),
    # The first layer dense and the others with experts: layers that differ.
    (1, "n_group topk_group num_expert_group first_k_dense_replace num_dense_layers"),
    (0, "num_nextn_predict_layers"),
    # Linear attention and state spaces; value heads differ from key heads in number and width.
    (2, "linear_num_key_heads n_mamba_heads type_vocab_size"),
    (4, "linear_num_value_heads mamba_n_heads mamba_num_heads mamba_chunk_size mamba_dt_rank time_step_rank"),
    (3, "linear_conv_kernel_dim mamba_d_conv conv_L_cache"),
    (8, "linear_key_head_dim mamba_d_state state_size ssm_state_size"),
    (12, "linear_value_head_dim"),
    (16, "mamba_d_head mamba_head_dim mamba_headdim"),
    (64, "mamba_d_ssm"),
    (1, "mamba_n_groups mamba_ngroups"),
    (6, "hidden_size_per_layer_input"),
    # Tokens, by what the tiny tokenizer has.
    (0, "pad_token_id"),
    (1, "eos_token_id sep_token_id"),
    (2, "bos_token_id decoder_start_token_id cls_token_id"),
    (3, "mask_token_id"),
)
_BY_NAME: Final = {name: size for size, names in _SIZES for name in names.split()}

_OWN_IF_NONE: Final = frozenset({"vocab_size", "hidden_size", "num_key_value_heads", "head_dim", "intermediate_size"})
"""Keys whose None means a size that follows from others; None elsewhere means that the type has no such thing."""

_MULTIPLIERS: Final[dict[str, Any]] = {
    # Granite, Falcon-H1 and their kin.
    "embedding_multiplier": 1.7,
    "residual_multiplier": 0.6,
    "attention_multiplier": 0.4,
    "logits_scaling": 1.9,
    "attention_in_multiplier": 0.9,
    "attention_out_multiplier": 0.6,
    "key_multiplier": 0.8,
    "ssm_in_multiplier": 1.2,
    "ssm_out_multiplier": 0.5,
    "ssm_multipliers": [0.9, 0.8, 1.1, 1.2, 0.7],
    "mlp_multipliers": [0.9, 0.4],
    "lm_head_multiplier": 0.7,
    # MiniMax, MiniCPM, Cohere, and scalings of the router.
    "full_attn_alpha_factor": 0.9,
    "linear_attn_alpha_factor": 0.8,
    "mlp_alpha_factor": 0.7,
    "full_attn_beta_factor": 1.1,
    "linear_attn_beta_factor": 1.2,
    "mlp_beta_factor": 1.3,
    "scale_emb": 3,
    "scale_depth": 1.4,
    "dim_model_base": 16,
    "logit_scale": 0.25,
    "embedding_scale": 3.0,
    "routed_scaling_factor": 1.5,
    "router_scaling_factor": 1.5,
    "moe_routed_scaling_factor": 1.5,
    "route_scale": 1.5,
    "time_step_scale": 0.8,
    "logits_mup_width_multiplier": 2.0,
    "scale_embedding": True,
    "mup_enabled": True,
    "scale_attn_by_inverse_layer_idx": True,
    "rescale_embeddings": True,
    # Caps low enough to bend what tiny models give.
    "final_logit_softcapping": 2.0,
    "logits_soft_cap": 2.0,
    "output_logit_soft_cap": 2.0,
    "attn_logit_softcapping": 5.0,
    "moe_router_logit_softcapping": 2.0,
    "gate_soft_cap": 5.0,
    "clip_qkv": 3.0,
    # What would drop or add noise in training mode alone.
    "dropout": 0.0,
}

_TOWER: Final[tuple[tuple[int, str], ...]] = (
    (
        16,
        "hidden_size intermediate_size image_size embed_dim mlp_dim hidden_dim d_model encoder_ffn_dim projection_dim",
    ),
    (16, "num_position_embeddings adapter_in_dim adapter_input_size feature_size"),
    (1, "num_hidden_layers depth num_global_layers encoder_layers num_layers"),
    (2, "num_attention_heads num_heads num_key_value_heads encoder_attention_heads"),
    (8, "patch_size head_dim downsample_hidden_size"),
    (32, "out_hidden_size adapter_out_dim"),
    (VOCABULARY, "vocab_size"),
)
"""Sizes of parts that text never meets."""
_TOWER_BY_NAME: Final = {name: size for size, names in _TOWER for name in names.split()}

_TEXT_PARTS: Final = ("text_config", "decoder_config", "decoder", "language_config", "llm_config")
_NO_TEXT: Final = ("image", "video", "audio", "vision", "boi", "eoi", "boa", "eoa", "img")
"""What tokens are called that stand for something else than text. They stay beyond the vocabulary: no text has them."""


def decoder_config(model_type: str, n_layers: int, d_model: int, overrides: Mapping[str, Any]) -> Any:
    """The config of a tiny model of a causal type or of a variant of one.

    Args:
        model_type: a name from ``steerkit.sources.CAUSAL_TYPES`` or ``TINY_VARIANTS``.
        n_layers: number of blocks, where the type doesn't settle it.
        d_model: width of the stream, where it doesn't.
        overrides: keys of the config, of its text config where it has one.
    """
    from transformers import CONFIG_MAPPING

    base, more = variant_of(model_type)
    kind = CONFIG_MAPPING[base]
    own = {**KEYS.get(base, {})}
    with _quietly():
        keys = {} if base in ALONE else _small(_defaults(kind), n_layers, d_model)
        _set(keys, own, n_layers)
        text = next((keys[part] for part in _TEXT_PARTS if isinstance(keys.get(part), dict)), keys)
        _set(text, {**more, **overrides}, n_layers)
        return kind(**keys)


def _set(keys: dict[str, Any], values: Mapping[str, Any], n_layers: int) -> None:
    for key, value in values.items():
        if isinstance(value, Turns):
            value = value.of(n_layers)
        if value is Ellipsis:
            keys.pop(key, None)
        elif isinstance(value, dict) and isinstance(keys.get(key), dict):
            _set(keys[key], value, n_layers)
        elif isinstance(value, dict):
            keys[key] = {}
            _set(keys[key], value, n_layers)
        else:
            keys[key] = value


def _defaults(kind: Any) -> dict[str, Any]:
    values: dict[str, Any] = kind().to_dict()
    return values


def _small(defaults: Mapping[str, Any], n_layers: int, d_model: int) -> dict[str, Any]:
    """A config's keys with tiny values, and those of the configs within it."""
    sizes = {**_BY_NAME, **dict.fromkeys(_WIDTH.split(), d_model), **dict.fromkeys(_LAYERS.split(), n_layers)}
    found: dict[str, Any] = {}
    for key, value in defaults.items():
        if isinstance(value, dict):
            if value.get("model_type") and key.endswith("_config") and key != "quantization_config":
                inner = _small(value, n_layers, d_model) if key in _TEXT_PARTS else _tower(value)
                found[key] = {**inner, "model_type": value["model_type"]}
        elif key in _MULTIPLIERS:
            found[key] = _MULTIPLIERS[key]
        elif key in sizes and not isinstance(value, (bool, str)):
            if value is not None or key in _OWN_IF_NONE:
                found[key] = sizes[key]
        elif _beyond(key, value):
            found[key] = VOCABULARY - 1
    return found


def _beyond(key: str, value: Any) -> bool:
    """Whether a key names a token of text that the tiny vocabulary hasn't."""
    is_token = key.endswith("_token_id") and isinstance(value, int) and value >= VOCABULARY
    return is_token and not any(word in key for word in _NO_TEXT)


def _tower(defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _TOWER_BY_NAME[key] for key, value in defaults.items() if key in _TOWER_BY_NAME and isinstance(value, int)
    }


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Defaults of some configs contradict each other, which transformers says of each."""
    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
