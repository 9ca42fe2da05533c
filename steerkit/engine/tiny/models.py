"""Tiny random models and a tokenizer, built in code: every architecture in a second, with no download.

Every parameter and every buffer that is part of a checkpoint is random, so that a norm that is left
out, a bias that is dropped or a buffer that is 1.0 in a fresh model shows in the numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from steerkit.engine.tiny.decoders import VOCABULARY as VOCAB_SIZE
from steerkit.engine.tiny.decoders import decoder_config
from steerkit.engine.tiny.qwen import TinyQwenConfig, TinyQwenLMHeadModel
from steerkit.errors import ModelError, counted
from steerkit.sources import TINY_SPECIAL_TOKENS, TINY_WIDTH, no_tiny, tiny_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

YI_VOCAB_SIZE: Final = 64000
PAD, EOS, BOS, SYSTEM, USER, ASSISTANT = range(6)
SPECIAL_TOKENS: Final = TINY_SPECIAL_TOKENS

CHAT_TEMPLATE: Final = (
    "{{ bos_token }}"
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@dataclass(frozen=True)
class _Shape:
    """What the caller chooses."""

    n_layers: int
    d_model: int


def _common(shape: _Shape) -> dict[str, Any]:
    """Config keys that all families share. Grouped-query attention, so that heads and key heads differ."""
    return {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": shape.d_model,
        "intermediate_size": 2 * shape.d_model,
        "num_hidden_layers": shape.n_layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "pad_token_id": PAD,
        "eos_token_id": EOS,
        "bos_token_id": BOS,
    }


def _wide_heads(shape: _Shape) -> dict[str, Any]:
    """For families with a free head width: heads side by side are wider than the stream."""
    return {**_common(shape), "head_dim": shape.d_model // 2}


def _moe(shape: _Shape) -> dict[str, Any]:
    return {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": shape.d_model}


def _shared_expert(shape: _Shape) -> dict[str, Any]:
    return {**_moe(shape), "shared_expert_intermediate_size": shape.d_model}


def _linear_attention(shape: _Shape) -> dict[str, Any]:
    """Alternating mixers, the last one full attention; value heads differ from key heads in number and width."""
    types = ["linear_attention", "full_attention"] * shape.n_layers
    return {
        **_wide_heads(shape),
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 12,
        "linear_conv_kernel_dim": 3,
        "layer_types": types[-shape.n_layers :],
    }


def _sliding(shape: _Shape) -> dict[str, Any]:
    """Gemma-2 and later: local attention with a window that short prompts already exceed, then global."""
    types = ["sliding_attention"] * (shape.n_layers - 1) + ["full_attention"]
    return {**_wide_heads(shape), "layer_types": types, "sliding_window": 4, "query_pre_attn_scalar": 16}


def _gemma4(shape: _Shape) -> dict[str, Any]:
    """Heads of two widths."""
    keys = {**_sliding(shape), "global_head_dim": shape.d_model, "final_logit_softcapping": 2.0}
    keys.pop("query_pre_attn_scalar")
    return keys


def _gemma4_text(shape: _Shape) -> dict[str, Any]:
    """Per-layer inputs, a softcap, and the last layer reusing keys of an earlier one where there are enough layers."""
    keys = _gemma4(shape) | {"hidden_size_per_layer_input": 6, "vocab_size_per_layer_input": VOCAB_SIZE}
    if shape.n_layers >= 3:
        keys["layer_types"] = ["sliding_attention"] * (shape.n_layers - 2) + ["full_attention"] * 2
        keys["num_kv_shared_layers"] = 1
        keys["use_double_wide_mlp"] = True
    return keys


def _siglip() -> dict[str, Any]:
    return {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
    }


def _gemma3_wrapper(shape: _Shape) -> dict[str, Any]:
    text = _sliding(shape) | {"final_logit_softcapping": 2.0}
    return {"text_config": text, "vision_config": _siglip(), "mm_tokens_per_image": 4}


def _gemma4_wrapper(shape: _Shape) -> dict[str, Any]:
    vision = {**_siglip(), "num_key_value_heads": 2, "head_dim": 8, "model_type": "gemma4_vision"}
    return {"text_config": _gemma4_text(shape), "vision_config": vision, "audio_config": None}


def _qwen_wrapper(text: dict[str, Any], shape: _Shape) -> dict[str, Any]:
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "num_position_embeddings": 16}
    return {"text_config": text, "vision_config": {**vision, "out_hidden_size": shape.d_model}}


def _qwen_moe(shape: _Shape) -> dict[str, Any]:
    """The first layer dense and the others with experts: layers that differ."""
    return {**_common(shape), **_shared_expert(shape), "mlp_only_layers": [0]}


_KEYS: Final[dict[str, Callable[[_Shape], dict[str, Any]]]] = {
    "llama": lambda s: {**_common(s), "attention_bias": True, "mlp_bias": True},
    "diffllama": _common,
    "qwen": _common,
    "qwen2": _common,
    "qwen2_moe": _qwen_moe,
    "qwen3": _wide_heads,
    "qwen3_moe": lambda s: {**_wide_heads(s), **_moe(s), "mlp_only_layers": [0], "decoder_sparse_step": 1},
    "qwen3_next": lambda s: {**_linear_attention(s), **_shared_expert(s), "mlp_only_layers": [0]},
    "qwen3_5_text": _linear_attention,
    "qwen3_5_moe_text": lambda s: {**_linear_attention(s), **_shared_expert(s)},
    "qwen3_5": lambda s: _qwen_wrapper(_linear_attention(s), s),
    "qwen3_5_moe": lambda s: _qwen_wrapper({**_linear_attention(s), **_shared_expert(s)}, s),
    "gemma": _wide_heads,
    "gemma2": lambda s: {**_sliding(s), "final_logit_softcapping": 2.0, "attn_logit_softcapping": 5.0},
    "gemma3_text": lambda s: {**_sliding(s), "final_logit_softcapping": 2.0},
    "gemma3": _gemma3_wrapper,
    "gemma4_text": _gemma4_text,
    "gemma4": _gemma4_wrapper,
    "gemma4_unified_text": _gemma4,
    "gemma4_unified": lambda s: {"text_config": _gemma4(s)},
    "vaultgemma": lambda s: {**_sliding(s), "final_logit_softcapping": 2.0, "attn_logit_softcapping": 5.0},
}
_VARIANTS: Final[dict[str, tuple[str, Callable[[_Shape], dict[str, Any]]]]] = {
    "yi": ("llama", lambda s: {**_common(s), "vocab_size": YI_VOCAB_SIZE}),
    "gemma4_text_moe": (
        "gemma4_text",
        lambda s: {
            **_gemma4_text(s),
            "enable_moe_block": True,
            "num_experts": 4,
            "top_k_experts": 2,
            "moe_intermediate_size": s.d_model,
        },
    ),
}


def tiny_model(
    model_type: str,
    *,
    seed: int = 0,
    n_layers: int | None = None,
    d_model: int = TINY_WIDTH,
    dtype: torch.dtype = torch.float32,
    **overrides: Any,
) -> PreTrainedModel:
    """Build a tiny random model, in eval mode, on the CPU.

    Args:
        model_type: a causal type of transformers, or another name from ``steerkit.sources.TINY_NAMES``.
        seed: of all weights; the same seed gives the same bits.
        n_layers: number of blocks, at least 2; None: as many as show every kind of block that the type has.
        d_model: width of the residual stream; a multiple of 8.
        dtype: of parameters and activations; weights are drawn in float32 and rounded.
        overrides: keys of the model's config (of its text config where it has one).

    Raises:
        ModelError: for a model type that isn't among those names.
    """
    if why := no_tiny(model_type):
        raise ModelError(f"No tiny model {model_type!r}. {why}")
    n_layers = tiny_layers(model_type) if n_layers is None else n_layers
    if n_layers < 2 or d_model % 8:
        raise ModelError(f"A tiny model has 2 layers or more and a width that 8 divides, not {n_layers} and {d_model}.")
    config = _config(model_type, _Shape(n_layers, d_model), overrides)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _build(config)
    randomise(model, seed=seed)
    nn.Module.to(model, dtype)
    model.eval()
    return model


def _config(model_type: str, shape: _Shape, overrides: dict[str, Any]) -> Any:
    if model_type not in _KEYS and model_type not in _VARIANTS:
        return decoder_config(model_type, shape.n_layers, shape.d_model, overrides)
    base, keys_of = _VARIANTS.get(model_type) or (model_type, _KEYS[model_type])
    keys = keys_of(shape)
    text = keys.get("text_config", keys)
    text.update(overrides)
    if base == "qwen":
        return TinyQwenConfig(**keys)
    from transformers import AutoConfig

    return AutoConfig.for_model(base, **keys)


def _build(config: Any) -> PreTrainedModel:
    if isinstance(config, TinyQwenConfig):
        return TinyQwenLMHeadModel(config)
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    # The causal class of these two is the text model alone; what they are here for is the wrapper.
    wrapper = config.model_type in ("qwen3_5", "qwen3_5_moe")
    auto = AutoModelForImageTextToText if wrapper else AutoModelForCausalLM
    model: PreTrainedModel = auto.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    return model


@torch.no_grad()
def randomise(model: nn.Module, *, seed: int = 0) -> None:
    """Give every parameter and every buffer of the checkpoint random values that keep activations of order 1.

    Vectors keep their initial value as the mean (norms start at 0 or 1); matrices are drawn anew.
    Buffers that aren't saved with a checkpoint (rotary frequencies) are constants and stay.
    """
    generator = torch.Generator().manual_seed(seed)
    embedding_scales = {
        id(module.weight): float(getattr(module, "scalar_embed_scale", 1.0))
        for module in model.modules()
        if isinstance(module, nn.Embedding)
    }
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() < 2:
            parameter.add_(0.3 * noise.clamp(-2, 2))
        elif id(parameter) in embedding_scales:
            parameter.copy_(noise / embedding_scales[id(parameter)])
        else:
            parameter.copy_(noise / parameter.shape[-1] ** 0.5)
    saved = model.state_dict(keep_vars=True)
    for name, buffer in model.named_buffers():
        if name in saved and buffer.is_floating_point() and bool(buffer.isfinite().all()):
            sign = torch.randint(0, 2, buffer.shape, generator=generator) * 2 - 1
            buffer.add_(sign * (0.1 + 0.3 * torch.rand(buffer.shape, generator=generator)))


def tiny_tokenizer(vocab_size: int = VOCAB_SIZE) -> PreTrainedTokenizerFast:
    """Build a byte-level tokenizer: one token per byte, with a chat template, padding on the left.

    Args:
        vocab_size: at least 262 (6 special tokens and 256 bytes); the rest are fillers that no text gives.
            With Yi's vocabulary size texts begin with Yi's token, so that ``tiny_model("yi")`` is known for one.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    if vocab_size < len(SPECIAL_TOKENS) + 256:
        raise ModelError(
            f"The tiny tokenizer has at least {counted(len(SPECIAL_TOKENS) + 256, 'token')}, not {vocab_size}."
        )
    begin = "<|startoftext|>" if vocab_size == YI_VOCAB_SIZE else SPECIAL_TOKENS[BOS]
    special = [*SPECIAL_TOKENS[:BOS], begin, *SPECIAL_TOKENS[SYSTEM:]]
    names = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    names += [f"<filler{index}>" for index in range(vocab_size - len(names))]
    tokenizer = Tokenizer(models.BPE(vocab={name: index for index, name in enumerate(names)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", pair=f"{begin} $A $B", special_tokens=[(begin, BOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=SPECIAL_TOKENS[PAD],
        eos_token=SPECIAL_TOKENS[EOS],
        bos_token=begin,
        additional_special_tokens=list(SPECIAL_TOKENS[SYSTEM:]),
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
