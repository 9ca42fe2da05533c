"""Live models that lack what passes usually rely on: one looks ahead, one minds padding, neither has a cache of use."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from steerkit.api.architecture import ArchitectureAdapter, Block, Layout, Tap, Writer
from steerkit.api.hookspecs import ArchitectureSpec
from steerkit.engine.loading.load import LoadedModel, facts_of
from steerkit.engine.sites.behaviours import Behaviours, behaviours_of
from steerkit.engine.sites.selftest_passes import bench
from steerkit.engine.tiny.models import VOCAB_SIZE, randomise, tiny_tokenizer
from steerkit.session.model import LiveModel
from steerkit.session.models import chat_format, live_model

_WIDE: Final = {"vocab_size": VOCAB_SIZE, "hidden_size": 32, "num_hidden_layers": 2, "eos_token_id": 1}
_CONFIGS: Final[dict[str, dict[str, Any]]] = {
    "rwkv": {**_WIDE, "attention_hidden_size": 32, "context_length": 128},
    "bert": {**_WIDE, "num_attention_heads": 4, "intermediate_size": 64},
}


class RwkvAdapter(ArchitectureAdapter):
    """RWKV: a state in place of keys and values, which padding on the left changes."""

    def layout(self, model: Any) -> Layout:
        """Its two blocks."""
        blocks = [
            Block(
                path,
                (
                    Writer("attn_out", Tap(f"{path}.attention"), (f"{path}.attention.output",)),
                    Writer("channel_out", Tap(f"{path}.feed_forward"), not_foldable="a gate multiplies it"),
                ),
                start=Tap(f"{path}.pre_ln") if layer == 0 else None,
            )
            for layer, path in enumerate(("rwkv.blocks.0", "rwkv.blocks.1"))
        ]
        return Layout(32, "rwkv", Tap("rwkv.embeddings"), tuple(blocks), "rwkv.ln_out", "head", False)


class BertAdapter(ArchitectureAdapter):
    """BERT's encoder with a head: every token looks at all others, and norms stand on the stream."""

    def layout(self, model: Any) -> Layout:
        """The ends of its two blocks."""
        blocks = [Block(f"bert.encoder.layer.{layer}", (), not_a_sum="a norm stands on it") for layer in range(2)]
        embed, between = Tap("bert.embeddings"), ("cls.predictions.transform",)
        return Layout(32, "bert", embed, tuple(blocks), "", "cls.predictions.decoder", between=between)


_ADAPTERS: Final = {"rwkv": RwkvAdapter, "bert": BertAdapter}


@cache
def odd_live(model_type: str) -> LiveModel:
    """A live model of such a type, with the behaviours that are measured on it. Several share it."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **_CONFIGS[model_type])).eval()
    randomise(model, seed=1)
    tokenizer = tiny_tokenizer()
    adapter = _ADAPTERS[model_type]
    spec = ArchitectureSpec(model_type, "", f"{__name__}:{adapter.__name__}")
    chat = chat_format(tokenizer, "none", None, None)
    loaded = LoadedModel(model, tokenizer, "live", facts_of(model.config, tokenizer))
    live = live_model(loaded, spec, chat, 4096, self_test=False)
    with torch.no_grad(), bench(model, live.layout, 0) as on:
        live.behaviours = Behaviours.of(behaviours_of(on))
    return live
