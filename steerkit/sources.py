"""What sources of models are called, known without torch: tiny random models by type, and what marks them."""

from __future__ import annotations

import re
from typing import Final

from steerkit.errors import nearest

TINY: Final = "tiny-random:"
"""What the sources of tiny random models begin with."""

TINY_MODEL_TYPES: Final = (
    *("llama", "diffllama", "yi"),
    *("qwen", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "qwen3_next"),
    *("qwen3_5_text", "qwen3_5_moe_text", "qwen3_5", "qwen3_5_moe"),
    *("gemma", "gemma2", "gemma3_text", "gemma3", "gemma4_text", "gemma4", "gemma4_unified_text", "gemma4_unified"),
    *("gemma4_text_moe", "vaultgemma"),
)
"""Tiny models of the types that adapters claim by name, and variants of those (``yi``, ``gemma4_text_moe``)."""

_CAUSAL: Final = """
afmoe apertus arcee aria_text axk1 axk2 bailing_hybrid bamba bart beam bert bert-generation big_bird bigbird_pegasus
biogpt bitnet blenderbot blenderbot-small bloom blt camembert codegen cohere cohere2 cohere2_moe cohere_compass_text
cpmant ctrl cwm data2vec-text dbrx deepseek_v2 deepseek_v3 deepseek_v32 deepseek_v4 diffllama doge dots1 dots3_note
dots3_note_text electra emu3 ernie ernie4_5 ernie4_5_moe exaone4 exaone_moe falcon falcon_h1 falcon_mamba flex_olmo
flint fuyu gemma gemma2 gemma3 gemma3_text gemma3n gemma3n_text gemma4 gemma4_assistant gemma4_text gemma4_unified
gemma4_unified_assistant gemma4_unified_text git glm glm4 glm4_moe glm4_moe_lite glm_moe_dsa got_ocr2 gpt-sw3 gpt2
gpt_bigcode gpt_neo gpt_neox gpt_neox_japanese gpt_oss gptj granite granite_swa granitemoe granitemoe_swa
granitemoehybrid granitemoeshared helium hrm_text hunyuan_v1_dense hunyuan_v1_moe hy_v3 hy_v4 hyperclovax
inkling2_text inkling_text internlm3 iquestcoder jais2 jamba jetmoe kimi_linear kolibri1 laguna lfm2 lfm2_moe lfm3
llama llama4 llama4_text longcat_flash mamba mamba2 marian mbart megatron-bert mellum mimo_v2_flash minicpm3 minimax
minimax_m2 minimax_m3_vl_text ministral ministral3 mistral mixtral mllama modernbert-decoder moshi
moss_transcribe_diarize mpt musicgen musicgen_melody mvp nanochat nemotron nemotron_h olmo olmo2 olmo3 olmo_hybrid
olmoe openai-gpt opt pegasus persimmon phi phi3 phi4_multimodal phimoe plbart prophetnet qwen2 qwen2_moe qwen3 qwen3_5
qwen3_5_moe qwen3_5_moe_text qwen3_5_text qwen3_moe qwen3_next qwen4_exp qwen4_exp_text recurrent_gemma reformer
rembert roberta roberta-prelayernorm roc_bert roformer rwkv seed_oss smollm3 solar_open stablelm starcoder2 trocr
vaultgemma whisper xglm xlm xlm-roberta xlm-roberta-xl xlnet xlstm xmod youtu zamba zamba2 zaya
"""
CAUSAL_TYPES: Final = tuple(_CAUSAL.split())
"""Every model type that the pinned transformers loads as a causal language model; tests hold it to its mapping."""

TINY_VARIANTS: Final = (
    *("bert-encoder", "bloom-post-norm-residual", "falcon-new-decoder", "falcon-sequential", "gpt2-cross-attention"),
    *("gpt_neox-sequential", "opt-350m", "opt-post-norm", "persimmon-no-qk-norm", "rwkv-rescaled"),
    *("stablelm-parallel", "xmod-pre-norm", "zamba2-adapters"),
)
"""Types with other keys in their configs, which changes what their blocks are."""

TINY_CANNOT_RUN: Final[dict[str, str]] = {
    "gemma3n": "its vision tower is built with the package timm, even where only text is read",
    "gemma4_assistant": "a draft model, which reads another model's stream and keys in place of a prompt",
    "gemma4_unified_assistant": "a draft model, which reads another model's stream and keys in place of a prompt",
    "musicgen": "its causal class doesn't take the config of its own type, and reads codes of sound in place of text",
    "musicgen_melody": (
        "its causal class doesn't take the config of its own type, and reads codes of sound in place of text"
    ),
}
"""Types that a prompt can't be run through on a machine without accelerators or packages for images, and why."""

TINY_NAMES: Final = tuple(
    name for name in dict.fromkeys((*TINY_MODEL_TYPES, *CAUSAL_TYPES, *TINY_VARIANTS)) if name not in TINY_CANNOT_RUN
)
"""Everything that may stand behind ``tiny-random:``."""

TINY_SPECIAL_TOKENS: Final = ("<pad>", "<|end|>", "<|begin|>", "<|system|>", "<|user|>", "<|assistant|>")
"""Of their tokenizer, by id."""

TINY_WIDTH: Final = 32
"""Width of a tiny random model's stream, unless a caller of the engine chooses another."""

_LAYERS: Final = {"zamba": 5, "zamba2": 5, "zamba2-adapters": 5, "blt": 2}

_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_LONGEST_HUB_ID: Final = 96


def can_be_hub_id(source: str) -> bool:
    """Whether the hub could have a model of this name, by the hub's own rules for names."""
    return _HUB_ID.fullmatch(source) is not None and len(source) <= _LONGEST_HUB_ID


def no_tiny(name: str) -> str:
    """Why there is no tiny random model of a name, or which there are: a sentence, empty where there is one."""
    if name in TINY_NAMES:
        return ""
    reason = TINY_CANNOT_RUN.get(name)
    return nearest(name, TINY_NAMES, "tiny model") if reason is None else f"{reason[0].upper()}{reason[1:]}."


def tiny_layers(name: str) -> int:
    """Blocks of a tiny random model, unless a caller of the engine chooses others: every kind of block of its type."""
    return 3 if name in TINY_MODEL_TYPES else _LAYERS.get(name, 4)
