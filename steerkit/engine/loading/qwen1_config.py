"""What a Qwen 1 checkpoint's config says, in the words of transformers' Qwen 2.

Qwen 1 came with Python code of its own (``model_type: qwen``, ``QWenLMHeadModel``), which transformers 5 doesn't run.
Within the context that it was trained on it computes what Qwen 2 computes, under other names; what doesn't is refused
here. No torch, so that a plan can say it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from steerkit.errors import DataError, ModelError, agreeing, counted

MODEL_TYPE: Final = "qwen"
VOCABULARY_FILE: Final = "qwen.tiktoken"
TRAINED_CONTEXT: Final = "trained_context"
"""The value of a loaded model's config beyond which it isn't the model that it was made from."""

_SIZES: Final = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "num_key_value_heads": "num_attention_heads",
    "rms_norm_eps": "layer_norm_epsilon",
    "max_position_embeddings": "seq_length",
    TRAINED_CONTEXT: "seq_length",
}
_NEEDED: Final = (*dict.fromkeys(_SIZES.values()), "intermediate_size")
_ELSEWHERE: Final = {"visual": "images", "audio": "sound"}
_ADVICE: Final = "Qwen 1 is loaded through transformers' Qwen 2 classes, exactly or not at all"


def is_qwen1(config: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` is one of Qwen 1: its model type, and that its code is nobody's in transformers."""
    return config.get("model_type") == MODEL_TYPE


def as_qwen2(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The values of a Qwen 1 ``config.json`` as those of a ``Qwen2Config``.

    Args:
        config: what the file holds.
        source: for messages.

    Raises:
        ModelError: where the checkpoint computes something that Qwen 2 doesn't; says what.
    """
    lacking = [key for key in _NEEDED if not _is_size(config.get(key))]
    if lacking:
        raise ModelError(
            f"{source}: config.json of this Qwen 1 checkpoint lacks {', '.join(lacking)}. Take the newest revision of "
            "it: the first ones named their sizes otherwise."
        )
    fault = _fault(config)
    if fault is not None:
        raise ModelError(f"{source} can't be loaded: {_ADVICE}, and {fault}.")
    found = {ours: config[theirs] for ours, theirs in _SIZES.items()}
    return {
        **found,
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        # w1 and w2 have half of it each.
        "intermediate_size": config["intermediate_size"] // 2,
        "hidden_act": "silu",
        "rope_parameters": {"rope_type": "default", "rope_theta": float(config.get("rotary_emb_base", 10000))},
        "initializer_range": config.get("initializer_range", 0.02),
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "attention_dropout": 0.0,
        "use_cache": True,
        **({"dtype": str(dtype)} if (dtype := config.get("dtype", config.get("torch_dtype"))) else {}),
    }


def require_trained(config: Any, columns: int) -> None:
    """Raise ``DataError`` for more columns than a model was trained on, where more of them take another model."""
    limit = getattr(config, TRAINED_CONTEXT, None)
    if limit is not None and columns > limit:
        raise DataError(
            f"{counted(columns, 'token')} {agreeing(columns)} more than the model's context of {limit}. Beyond it a "
            f"Qwen 1 checkpoint goes on "
            "with dynamic NTK and log-n attention, which Qwen 2's classes don't have, so its outputs would be another "
            "model's. Shorten the text."
        )


def _fault(config: Mapping[str, Any]) -> str | None:
    """What this checkpoint computes and Qwen 2 doesn't; None where there is nothing."""
    for key, what in _ELSEWHERE.items():
        if key in config:
            return f"this one reads {what} as well ({key} in its config.json)"
    if "quantization_config" in config:
        return "the weights of this one are quantised; take the checkpoint that it was made from"
    if not _is_size(config.get("rotary_emb_base", 10000)):
        return f"this one says rotary_emb_base: {config['rotary_emb_base']!r} in its config.json, which is no number"
    heads, width = config["num_attention_heads"], config["hidden_size"]
    expected = {
        "kv_channels": (width // heads, "heads as wide as the stream shared among them"),
        "rotary_pct": (1.0, "rotary positions in all of a head"),
        "no_bias": (True, "no bias but that of queries, keys and values"),
        "scale_attn_weights": (True, "attention divided by the root of a head's width"),
        "tie_word_embeddings": (False, "a head of its own"),
        "use_cache_quantization": (False, "a cache that is kept as it is"),
    }
    for key, (value, meaning) in expected.items():
        if config.get(key, value) != value:
            return f"this one says {key}: {config[key]!r} in its config.json, where {value!r} is expected ({meaning})"
    if width % heads or config["intermediate_size"] % 2:
        return "sizes of this one can't be divided: hidden_size by num_attention_heads, or intermediate_size by 2"
    return None


def _is_size(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0
