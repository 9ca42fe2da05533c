"""Qwen 1 checkpoints as transformers' Qwen 2: weights renamed and split, the same numbers in and out.

Qwen 1's own code (its ``QWenLMHeadModel``) has a fused projection of queries, keys and values, and a gated MLP that is
``c_proj(w1(x) * silu(w2(x)))``: ``w2`` is Qwen 2's gate, ``w1`` its other half. Beyond ``seq_length`` that code
stretches its rotary positions (dynamic NTK) and scales queries by the logarithm of their place. Qwen 2 does neither, so
a loaded model's context ends there. In bfloat16 the two round the rotation of queries and keys at different points.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import torch

from steerkit.engine.loading.qwen1_config import VOCABULARY_FILE, as_qwen2
from steerkit.engine.loading.qwen1_ends import read_ends
from steerkit.engine.loading.qwen1_tokenizer import qwen1_tokenizer
from steerkit.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

FILES: Final = ("*.safetensors", "*.json", VOCABULARY_FILE)
"""What of a hub repository is fetched: no code, no pickles."""

_OUTSIDE: Final = {
    "transformer.wte.weight": "model.embed_tokens.weight",
    "transformer.ln_f.weight": "model.norm.weight",
    "lm_head.weight": "lm_head.weight",
}
_INSIDE: Final = {
    "ln_1.weight": "input_layernorm.weight",
    "ln_2.weight": "post_attention_layernorm.weight",
    "attn.c_proj.weight": "self_attn.o_proj.weight",
    "mlp.w1.weight": "mlp.up_proj.weight",
    "mlp.w2.weight": "mlp.gate_proj.weight",
    "mlp.c_proj.weight": "mlp.down_proj.weight",
}
_FUSED: Final = {"attn.c_attn.weight": "weight", "attn.c_attn.bias": "bias"}
_BLOCK: Final = re.compile(r"transformer\.h\.(\d+)\.(.+)")
_MADE_ANEW: Final = re.compile(r".*\.(masked_bias|attn\.bias|inv_freq|logn_tensor)")
"""Buffers that follow from the config, which some revisions have saved."""


def read_qwen1(
    folder: Path, config: Mapping[str, Any], source: str, dtype: torch.dtype | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast | None]:
    """Read a Qwen 1 checkpoint, with its tokenizer where the folder has its file.

    Args:
        folder: holds its safetensors, ``qwen.tiktoken``, and ``generation_config.json``, of which is read what ends an
            answer (see ``qwen1_ends``); where one samples, transformers' defaults apply.
        config: its ``config.json``.
        source: for messages.
        dtype: of the weights; None for the checkpoint's own.

    Raises:
        ModelError: where the checkpoint or its tokenizer isn't one that can be read exactly.
    """
    from transformers import Qwen2Config, Qwen2ForCausalLM

    settings = Qwen2Config.from_dict(as_qwen2(config, source))
    tokenizer = None
    if (folder / VOCABULARY_FILE).is_file():
        tokenizer = qwen1_tokenizer(folder / VOCABULARY_FILE, vocabulary=int(settings.vocab_size))
    token_id = None if tokenizer is None else partial(_token_id, tokenizer)
    ends = read_ends(folder, token_id, int(settings.vocab_size), source)
    weights = renamed(_tensors(sorted(folder.glob("*.safetensors"))), source)
    loaded: Any = Qwen2ForCausalLM.from_pretrained(
        None, config=settings, state_dict=weights, dtype=dtype or "auto", output_loading_info=True
    )
    model, missing = loaded[0], sorted(loaded[1]["missing_keys"])
    if missing:
        raise ModelError(
            f"{source} lacks {len(missing)} of the weights from which {', '.join(missing[:3])}, … are made; they would "
            "be random. Was the download cut short?"
        )
    if ends.eos:
        model.generation_config.eos_token_id = list(ends.eos)
    model.generation_config.pad_token_id = ends.pad
    return model, tokenizer


def _token_id(tokenizer: PreTrainedTokenizerFast, text: str) -> int:
    return int(cast(int, tokenizer.convert_tokens_to_ids(text)))


def renamed(tensors: Iterable[tuple[str, Tensor]], source: str) -> dict[str, Tensor]:
    """Qwen 1's weights under Qwen 2's names; ``c_attn`` ``[3 * width, d_model]`` in its three parts.

    Args:
        tensors: names and values.
        source: for messages.

    Raises:
        ModelError: for a tensor that Qwen 1 doesn't have.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in tensors:
        block = _BLOCK.fullmatch(name)
        layer, inside = (block[1], block[2]) if block is not None else ("", "")
        if name in _OUTSIDE:
            found[_OUTSIDE[name]] = tensor
        elif inside in _INSIDE:
            found[f"model.layers.{layer}.{_INSIDE[inside]}"] = tensor
        elif inside in _FUSED:
            for part, value in zip("qkv", tensor.chunk(3, dim=0), strict=True):
                # Memory of its own: three parameters on one storage can't be written to a file apart.
                found[f"model.layers.{layer}.self_attn.{part}_proj.{_FUSED[inside]}"] = value.clone()
        elif _MADE_ANEW.fullmatch(name) is None:
            raise ModelError(
                f"{source} holds {name}, which Qwen 1 as it was published doesn't have, so it can't be loaded through "
                "Qwen 2's classes. Is it another model, or an adapter that has to be merged first?"
            )
    return found


def _tensors(files: Iterable[Path]) -> Iterable[tuple[str, Tensor]]:
    from safetensors import safe_open

    for path in files:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  (the file is no mapping)
                yield name, file.get_tensor(name)
