"""A literal Qwen 1: a random checkpoint of its layout, its forward pass in plain torch, tiktoken's joining.

Written from what its published code does (arXiv 2309.16609 and the ``modeling_qwen.py`` of its checkpoints), with none
of the modules that are tested.
"""

from __future__ import annotations

import base64
import json
import unicodedata
from itertools import pairwise
from pathlib import Path
from typing import Any

import regex
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

HEADS, WIDTH, LAYERS, INTERMEDIATE, CONTEXT = 4, 32, 3, 48, 64
TEXT = (
    "The fridge isn't cold. The other fridges aren't either, are they? They'll be: 12 degrees in the kitchen, 345 in "
    "the oven.\n\n  There the mother rather gathers feathers; nothing  else.\r\n\tdéjà vu, Ångström, 冰箱很冷 冰箱"
)
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{index}|>" for index in range(205))]


def learned_ranks(merges: int = 60) -> dict[bytes, int]:
    """Bytes, in an order of their own as in the published file, and the commonest pairs of ``TEXT``."""
    ranks = {bytes([byte]): place for place, byte in enumerate([*range(33, 256), *range(33)])}
    words = [[bytes([byte]) for byte in word.encode()] for word in regex.findall(PATTERN, TEXT)]
    while len(ranks) < 256 + merges:
        pairs: dict[tuple[bytes, bytes], int] = {}
        for word in words:
            for pair in pairwise(word):
                pairs[pair] = pairs.get(pair, 0) + 1
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        ranks[best[0] + best[1]] = len(ranks)
        words = [joined(b"".join(word), ranks) for word in words]
    return ranks


def joined(word: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """tiktoken: join the first pair of neighbours of least rank until none makes a token."""
    parts = [bytes([byte]) for byte in word]
    while True:
        known = [(ranks[a + b], place) for place, (a, b) in enumerate(pairwise(parts)) if a + b in ranks]
        if not known:
            return parts
        _, place = min(known)
        parts[place : place + 2] = [parts[place] + parts[place + 1]]


def encoded(text: str, ranks: dict[bytes, int]) -> list[int]:
    """Qwen 1's tokenizer: NFC, special tokens as such wherever they stand, then words, then bytes joined."""
    ids: list[int] = []
    special = "|".join(regex.escape(token) for token in SPECIALS)
    for piece in regex.split(f"({special})", unicodedata.normalize("NFC", text)):
        if piece in SPECIALS:
            ids.append(len(ranks) + SPECIALS.index(piece))
        else:
            for word in regex.findall(PATTERN, piece):
                ids.extend(ranks[part] for part in joined(word.encode(), ranks))
    return ids


def config(**changed: Any) -> dict[str, Any]:
    """A ``config.json`` with the keys of a published one."""
    return {
        "architectures": ["QWenLMHeadModel"],
        "auto_map": {
            "AutoConfig": "configuration_qwen.QWenConfig",
            "AutoModelForCausalLM": "modeling_qwen.QWenLMHeadModel",
        },
        "attn_dropout_prob": 0.0,
        "bf16": False,
        "emb_dropout_prob": 0.0,
        "fp16": False,
        "fp32": False,
        "hidden_size": WIDTH,
        "initializer_range": 0.02,
        "intermediate_size": INTERMEDIATE,
        "kv_channels": WIDTH // HEADS,
        "layer_norm_epsilon": 1e-6,
        "max_position_embeddings": 4 * CONTEXT,
        "model_type": "qwen",
        "no_bias": True,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "onnx_safe": None,
        "rotary_emb_base": 1000000,
        "rotary_pct": 1.0,
        "scale_attn_weights": True,
        "seq_length": CONTEXT,
        "softmax_in_fp32": False,
        "tie_word_embeddings": False,
        "tokenizer_class": "QWenTokenizer",
        "transformers_version": "4.32.0",
        "use_cache": True,
        "use_cache_kernel": False,
        "use_cache_quantization": False,
        "use_dynamic_ntk": True,
        "use_flash_attn": "auto",
        "use_logn_attn": True,
        "vocab_size": 528,
        **changed,
    }


def weights(vocab_size: int = 528) -> dict[str, Tensor]:
    """Random weights of Qwen 1's names, norms and biases too."""
    source = torch.Generator().manual_seed(7)

    def random(*shape: int, around: float = 0.0) -> Tensor:
        return around + torch.randn(*shape, generator=source) / 5

    found = {"transformer.wte.weight": random(vocab_size, WIDTH), "lm_head.weight": random(vocab_size, WIDTH)}
    found["transformer.ln_f.weight"] = random(WIDTH, around=1.0)
    for layer in range(LAYERS):
        block = {
            "ln_1.weight": random(WIDTH, around=1.0),
            "ln_2.weight": random(WIDTH, around=1.0),
            "attn.c_attn.weight": random(3 * WIDTH, WIDTH),
            "attn.c_attn.bias": random(3 * WIDTH),
            "attn.c_proj.weight": random(WIDTH, WIDTH),
            "mlp.w1.weight": random(INTERMEDIATE // 2, WIDTH),
            "mlp.w2.weight": random(INTERMEDIATE // 2, WIDTH),
            "mlp.c_proj.weight": random(WIDTH, INTERMEDIATE // 2),
        }
        found |= {f"transformer.h.{layer}.{name}": value for name, value in block.items()}
    return found


def logits(tensors: dict[str, Tensor], ids: Tensor, said: dict[str, Any]) -> Tensor:
    """``[pos]`` to ``[pos, vocab]``, with what starts beyond ``seq_length`` left out."""

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + said["layer_norm_epsilon"]) * weight

    d_head = said["kv_channels"]
    inverse = said["rotary_emb_base"] ** -(torch.arange(0, d_head, 2).double() / d_head)
    angles = torch.outer(torch.arange(len(ids)).double(), inverse).repeat(1, 2).float()[:, None]

    def turned(x: Tensor) -> Tensor:  # [pos, head, d_head]
        first, second = x.chunk(2, dim=-1)
        return x * angles.cos() + torch.cat((-second, first), dim=-1) * angles.sin()

    x = tensors["transformer.wte.weight"][ids]
    later = torch.ones(len(ids), len(ids)).triu(1).bool()
    for layer in range(said["num_hidden_layers"]):
        own = {name.split(".", 3)[3]: value for name, value in tensors.items() if f".h.{layer}." in name}
        mixed = norm(x, own["ln_1.weight"]) @ own["attn.c_attn.weight"].T + own["attn.c_attn.bias"]
        query, key, value = (part.reshape(len(ids), HEADS, d_head) for part in mixed.split(said["hidden_size"], dim=-1))
        scores = torch.einsum("qhd,khd->hqk", turned(query), turned(key)) / d_head**0.5
        heads = torch.einsum("hqk,khd->qhd", scores.masked_fill(later, -torch.inf).softmax(-1), value)
        x = x + heads.reshape(len(ids), -1) @ own["attn.c_proj.weight"].T
        inner = norm(x, own["ln_2.weight"])
        gated = (inner @ own["mlp.w1.weight"].T) * F.silu(inner @ own["mlp.w2.weight"].T)
        x = x + gated @ own["mlp.c_proj.weight"].T
    return norm(x, tensors["transformer.ln_f.weight"]) @ tensors["lm_head.weight"].T


def write_checkpoint(folder: Path, tensors: dict[str, Tensor] | None = None, **changed: Any) -> Path:
    """A folder as the hub has it: two shards, a config with code of its own, and the tokenizer's file."""
    tensors = weights() if tensors is None else tensors
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config(**changed)), "utf-8")
    shards: list[dict[str, Tensor]] = [{}, {}]
    for place, (name, value) in enumerate(tensors.items()):
        shards[place % 2][name] = value
    index = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(shard, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}), "utf-8")
    write_ranks(folder / "qwen.tiktoken", learned_ranks())
    generation = {
        "chat_format": "chatml",
        "eos_token_id": len(learned_ranks()),  # <|endoftext|>, the first behind the ranks
        "do_sample": True,
        "top_p": 0.8,
        "max_new_tokens": 512,
    }
    (folder / "generation_config.json").write_text(json.dumps(generation), "utf-8")
    return folder


def write_ranks(path: Path, ranks: dict[bytes, int]) -> None:
    """As tiktoken reads it: a token in base64 and its rank on each line."""
    lines = [f"{base64.b64encode(token).decode()} {rank}" for token, rank in ranks.items()]
    path.write_text("\n".join(lines) + "\n", "ascii")
