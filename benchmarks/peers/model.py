"""A Llama whose step is nearly all Python: 30 layers, 64 dimensions, 1024 tokens, random weights from a fixed seed.

Written by hand as a folder (configuration, safetensors, tokenizer), so that every version of transformers reads it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

LAYERS, WIDTH, HEADS, INNER, VOCABULARY, CONTEXT = 30, 64, 4, 176, 1024, 1024
SEED = 20_24
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
# Raise it with anything below: a folder of another version is written anew.
VERSION = 1


def config() -> dict[str, object]:
    """What ``config.json`` holds. ``rope_theta`` at the top level is read by transformers 4 and 5 alike."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "hidden_act": "silu",
        "hidden_size": WIDTH,
        "initializer_range": 0.02,
        "intermediate_size": INNER,
        "max_position_embeddings": CONTEXT,
        "mlp_bias": False,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": HEADS,
        "pad_token_id": 0,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "use_cache": True,
        "vocab_size": VOCABULARY,
    }


def weights() -> dict[str, torch.Tensor]:
    """Random weights under transformers' names, of a size that makes every layer matter and logits of order 10."""
    chance = torch.Generator().manual_seed(SEED)

    def normal(rows: int, columns: int, spread: float) -> torch.Tensor:
        return torch.randn(rows, columns, generator=chance) * spread

    found = {
        "model.embed_tokens.weight": normal(VOCABULARY, WIDTH, 1.0),
        "model.norm.weight": torch.ones(WIDTH),
        "lm_head.weight": normal(VOCABULARY, WIDTH, 0.4),
    }
    for layer in range(LAYERS):
        block = f"model.layers.{layer}."
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            found[f"{block}self_attn.{name}.weight"] = normal(WIDTH, WIDTH, WIDTH**-0.5)
        found[f"{block}mlp.gate_proj.weight"] = normal(INNER, WIDTH, WIDTH**-0.5)
        found[f"{block}mlp.up_proj.weight"] = normal(INNER, WIDTH, WIDTH**-0.5)
        found[f"{block}mlp.down_proj.weight"] = normal(WIDTH, INNER, INNER**-0.5)
        for name in ("input_layernorm", "post_attention_layernorm"):
            found[f"{block}{name}.weight"] = 1 + 0.1 * torch.randn(WIDTH, generator=chance)
    return found


def tokenizer() -> dict[str, object]:
    """What ``tokenizer.json`` holds: one token per word ``w4`` … ``w1023``, nothing put around a text."""
    words = SPECIAL + [f"w{number}" for number in range(len(SPECIAL), VOCABULARY)]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": number,
                "content": word,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for number, word in enumerate(SPECIAL)
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordLevel",
            "vocab": {word: number for number, word in enumerate(words)},
            "unk_token": "<unk>",
        },
    }


def prompts(count: int, seed: int) -> list[str]:
    """Texts of 4 to 20 words, always the same ones."""
    chance = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        length = int(torch.randint(4, 21, (1,), generator=chance))
        drawn = torch.randint(len(SPECIAL), VOCABULARY, (length,), generator=chance).tolist()
        found.append(" ".join(f"w{number}" for number in drawn))
    return found


def write(folder: Path) -> Path:
    """Write the model into a folder unless it is there already."""
    mark = folder / ".written"
    if mark.exists() and mark.read_text() == str(VERSION):
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    generation = {"bos_token_id": 1, "pad_token_id": 0}  # no end token: every run decodes as many tokens as asked
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
    }
    for name, content in {
        "config.json": config(),
        "generation_config.json": generation,
        "tokenizer.json": tokenizer(),
        "tokenizer_config.json": settings,
    }.items():
        (folder / name).write_text(json.dumps(content, indent=1))
    save_file(weights(), folder / "model.safetensors", metadata={"format": "pt"})
    mark.write_text(str(VERSION))
    return folder
