"""Models whose layouts are declared by hand here, for what the four families don't have: factors, scalars, flat taps.

Each is tiny and random, with every parameter and every multiplier other than what a fresh model has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from steerkit.api.architecture import ArchitectureAdapter, Block, Heads, Layout, Tap, Writer
from steerkit.api.hookspecs import ArchitectureSpec
from steerkit.engine.loading.load import adopt
from steerkit.engine.tiny.models import VOCAB_SIZE, randomise, tiny_model, tiny_tokenizer
from steerkit.session.model import LiveModel
from steerkit.session.models import chat_format, live_model

WIDTH: Final = 32
_COMMON: Final = {"vocab_size": VOCAB_SIZE, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
_SIZES: Final = {
    **_COMMON,
    "hidden_size": WIDTH,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 2 * WIDTH,
    "max_position_embeddings": 512,
}


def built(model_type: str, layers: int = 2, **keys: Any) -> PreTrainedModel:
    """A tiny random model of a type from its config's own keys, in eval mode."""
    config = AutoConfig.for_model(model_type, **{"num_hidden_layers": layers, **keys})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    randomise(model)
    return model.eval()


class Declared(ArchitectureAdapter):
    """The adapter of models of this file."""

    def layout(self, model: PreTrainedModel) -> Layout:
        """As declared below."""
        return LAYOUTS[model](model)


LAYOUTS: WeakKeyDictionary[PreTrainedModel, Callable[[PreTrainedModel], Layout]] = WeakKeyDictionary()


def declared_model(name: str) -> LiveModel:
    """A model of ``DECLARED``, ready to be steered."""
    make, layout = DECLARED[name]
    model, tokenizer = make(), tiny_tokenizer()
    LAYOUTS[model] = layout
    spec = ArchitectureSpec("declared", "Of a test.", "tests.engine.declared:Declared")
    return live_model(adopt(model, tokenizer), spec, chat_format(tokenizer, "default", None, None), 4096)


# Granite: a factor on each contribution outside of its module.


def granite() -> PreTrainedModel:
    """A Granite whose multipliers are none of them 1."""
    keys = {"embedding_multiplier": 1.7, "residual_multiplier": 0.6, "logits_scaling": 1.9, "attention_multiplier": 0.4}
    return built("granite", **_SIZES, **keys)


def granite_layout(model: PreTrainedModel) -> Layout:
    """``resid + 0.6 · attn + 0.6 · mlp``; the embedding times 1.7, the logits over 1.9."""
    factor = model.config.residual_multiplier

    def block(path: str) -> Block:
        return Block(
            path,
            (
                Writer("attn_out", Tap(f"{path}.self_attn", factor=factor), (f"{path}.self_attn.o_proj",)),
                Writer("mlp_out", Tap(f"{path}.mlp", factor=factor), (f"{path}.mlp.down_proj",)),
            ),
            resid_mid=Tap(f"{path}.post_attention_layernorm", "input"),
            heads=Heads(Tap(f"{path}.self_attn.o_proj", "input"), 4, WIDTH // 4),
        )

    blocks = tuple(block(f"model.layers.{layer}") for layer in range(model.config.num_hidden_layers))
    return Layout(
        WIDTH,
        "model",
        Tap("model.layers.0", "input"),
        blocks,
        "model.norm",
        "lm_head",
        embed_weight="model.embed_tokens",
        logit_scale=1 / model.config.logits_scaling,
    )


# OPT: rows and positions in one axis from the middle of each block on, and two embeddings.


def opt() -> PreTrainedModel:
    """An OPT with norms in front of its writers."""
    sizes = {"hidden_size": WIDTH, "word_embed_proj_dim": WIDTH, "ffn_dim": 2 * WIDTH, "num_attention_heads": 4}
    return built("opt", **_COMMON, **sizes, max_position_embeddings=512)


def opt_layout(model: PreTrainedModel) -> Layout:
    """``mlp_out`` and ``resid_mid`` are flat; positions lie beside the tokens."""

    def block(path: str) -> Block:
        return Block(
            path,
            (
                Writer("attn_out", Tap(f"{path}.self_attn"), (f"{path}.self_attn.out_proj",)),
                Writer("mlp_out", Tap(f"{path}.fc2", flat_within=path), (f"{path}.fc2",)),
            ),
            resid_mid=Tap(f"{path}.final_layer_norm", "input", flat_within=path),
            heads=Heads(Tap(f"{path}.self_attn.out_proj", "input"), 4, WIDTH // 4),
        )

    blocks = tuple(block(f"model.decoder.layers.{layer}") for layer in range(model.config.num_hidden_layers))
    return Layout(
        WIDTH,
        "model.decoder",
        Tap("model.decoder.layers.0", "input"),
        blocks,
        "model.decoder.final_layer_norm",
        "lm_head",
        embed_weight="model.decoder.embed_tokens",
        embed_beside=("model.decoder.embed_positions",),
    )


def opt_post_norm() -> PreTrainedModel:
    """An OPT as its 350m: norms in the stream itself, and an embedding narrower than it."""
    sizes = {"hidden_size": WIDTH, "word_embed_proj_dim": 16, "ffn_dim": 2 * WIDTH, "num_attention_heads": 4}
    return built("opt", **_COMMON, **sizes, max_position_embeddings=512, do_layer_norm_before=False)


def opt_post_norm_layout(model: PreTrainedModel) -> Layout:
    """Blocks whose ends alone are streams."""
    why = "the stream itself passes final_layer_norm"
    paths = [f"model.decoder.layers.{layer}" for layer in range(model.config.num_hidden_layers)]
    blocks = tuple(Block(path, (), not_a_sum=why) for path in paths)
    between = ("model.decoder.project_out",)
    return Layout(WIDTH, "model.decoder", Tap(paths[0], "input"), blocks, "", "lm_head", between=between)


# GPT-2: weights that lie the other way round.


def gpt2() -> PreTrainedModel:
    """A GPT-2."""
    return built("gpt2", **_COMMON, n_embd=WIDTH, n_head=4, n_positions=512)


def gpt2_layout(model: PreTrainedModel) -> Layout:
    """Conv1D projections, and positions beside the tokens."""

    def block(path: str) -> Block:
        return Block(
            path,
            (
                Writer("attn_out", Tap(f"{path}.attn"), (f"{path}.attn.c_proj",)),
                Writer("mlp_out", Tap(f"{path}.mlp"), (f"{path}.mlp.c_proj",)),
            ),
            resid_mid=Tap(f"{path}.ln_2", "input"),
            heads=Heads(Tap(f"{path}.attn.c_proj", "input"), 4, WIDTH // 4),
        )

    blocks = tuple(block(f"transformer.h.{layer}") for layer in range(model.config.num_hidden_layers))
    return Layout(
        WIDTH,
        "transformer",
        Tap("transformer.drop"),
        blocks,
        "transformer.ln_f",
        "lm_head",
        embed_weight="transformer.wte",
        embed_beside=("transformer.wpe",),
    )


# GPT-OSS: experts that are stacked the other way round, each with a bias.


def gpt_oss() -> PreTrainedModel:
    """A GPT-OSS with four experts, of which two are chosen."""
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8, "sliding_window": 4}
    return built("gpt_oss", **_SIZES, **experts)


def gpt_oss_layout(model: PreTrainedModel) -> Layout:
    """The experts' projections ``[experts, width, d_model]`` and biases ``[experts, d_model]``."""

    def block(path: str) -> Block:
        experts = f"{path}.mlp.experts"
        return Block(
            path,
            (
                Writer("attn_out", Tap(f"{path}.self_attn"), (f"{path}.self_attn.o_proj",)),
                Writer(
                    "mlp_out",
                    Tap(f"{path}.mlp"),
                    not_foldable="a router weighs the experts",
                    weighed_rows=(f"{experts}.down_proj", f"{experts}.down_proj_bias"),
                ),
            ),
            resid_mid=Tap(f"{path}.post_attention_layernorm", "input"),
            heads=Heads(Tap(f"{path}.self_attn.o_proj", "input"), 4, 8),
        )

    blocks = tuple(block(f"model.layers.{layer}") for layer in range(model.config.num_hidden_layers))
    embed = "model.embed_tokens"
    return Layout(WIDTH, "model", Tap(embed), blocks, "model.norm", "lm_head", embed_weight=embed)


# Llama with numbers on its stream, and a norm through which the first block's input passes.


class ScaledLayer(LlamaDecoderLayer):
    """``1.1 · (0.7 · (0.9 · x + 0.5 · attn) + mlp)``, where the first block's ``x`` is a norm's output."""

    before: nn.Module | None

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:  # type: ignore[override]
        """As its docstring says."""
        if self.before is not None:
            hidden_states = self.before(hidden_states)
        added, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kwargs)
        hidden_states = hidden_states * 0.9 + added * 0.5
        added = self.mlp(self.post_attention_layernorm(hidden_states))
        return (hidden_states * 0.7 + added) * 1.1


def scaled() -> PreTrainedModel:
    """A Llama with such blocks."""
    model = tiny_model("llama", n_layers=2, d_model=WIDTH)
    for place, layer in enumerate(model.model.layers):
        layer.__class__ = ScaledLayer
        layer.before = nn.LayerNorm(WIDTH) if place == 0 else None
    return model


def scaled_layout(model: PreTrainedModel) -> Layout:
    """``keeps``, a factor, and a stream that starts inside the first block."""

    def block(layer: int) -> Block:
        path = f"model.layers.{layer}"
        return Block(
            path,
            (
                Writer("attn_out", Tap(f"{path}.self_attn", factor=0.5), (f"{path}.self_attn.o_proj",)),
                Writer("mlp_out", Tap(f"{path}.mlp"), (f"{path}.mlp.down_proj",)),
            ),
            resid_mid=Tap(f"{path}.post_attention_layernorm", "input"),
            heads=Heads(Tap(f"{path}.self_attn.o_proj", "input"), 4, WIDTH // 4),
            start=Tap(f"{path}.before") if layer == 0 else None,
            keeps=(0.9, 0.7, 1.1),
        )

    blocks = tuple(block(layer) for layer in range(model.config.num_hidden_layers))
    return Layout(WIDTH, "model", Tap("model.layers.0.before"), blocks, "model.norm", "lm_head")


DECLARED: Final[dict[str, tuple[Callable[[], PreTrainedModel], Callable[[PreTrainedModel], Layout]]]] = {
    "granite": (granite, granite_layout),
    "opt": (opt, opt_layout),
    "opt-post-norm": (opt_post_norm, opt_post_norm_layout),
    "gpt2": (gpt2, gpt2_layout),
    "gpt_oss": (gpt_oss, gpt_oss_layout),
    "scaled": (scaled, scaled_layout),
}
"""By name: the model, and its layout."""
