"""Which class of transformers builds the model of a config, and which configs are of causal language models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steerkit.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def class_for(config: PreTrainedConfig) -> Any:
    """Who builds the model of a config: transformers' class of causal language models, or that of models which read
    images as well, where a type is only among these."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    kind = config.model_type
    alone = kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES and kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return AutoModelForImageTextToText if alone else AutoModelForCausalLM


def require_causal(config: PreTrainedConfig, source: str, architecture: str = "") -> None:
    """Raise ``ModelError`` for encoders, encoder-decoders, and what transformers has no causal model for."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    kind = config.model_type
    masked = kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)
    listed = (*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
    known = kind in listed or architecture.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration"))
    if getattr(config, "is_encoder_decoder", False) or masked or not known:
        raise ModelError(
            f"{source} is a {kind!r} model, not a causal language model. steerkit steers decoders, which predict the "
            "next token from those before it."
        )
