"""Every family's forward pass by hand, with the model's own modules, after its modelling code and not its layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Edits = Mapping[str, Callable[[Tensor], Tensor]]
At = Callable[[str, Tensor], Tensor]


class Literal:
    """Runs a model by hand. ``values`` holds what stood at each place, by the text form of its site."""

    def __init__(self, model: Any, ids: Tensor, edits: Edits | None = None) -> None:
        self.model, self.ids, self.edits = model, ids, edits or {}
        self.values: dict[str, Tensor] = {}
        self.type = str(model.config.model_type)
        self.text = text_of(model)
        self.layers = list(self.text.h if self.type == "qwen" else self.text.layers)
        with torch.no_grad():
            self.calls = _calls(model, self.layers, ids)
            self.logits = self._run()

    def at(self, site: str, value: Tensor) -> Tensor:
        new = self.edits[site](value) if site in self.edits else value
        self.values[site] = new
        return new

    def _run(self) -> Tensor:
        x = self.at("embed", self._embed())
        for layer, (block, (args, kwargs)) in enumerate(zip(self.layers, self.calls, strict=True)):

            def at(stream: str, value: Tensor, layer: int = layer) -> Tensor:
                return self.at(f"blocks.{layer}.{stream}", value)

            x = BLOCKS.get(self.type, plain_block)(block, at("resid_pre", x), args, dict(kwargs), at)
            x = at("resid_post", x)
        return self._logits(x)

    def _embed(self) -> Tensor:
        if self.type == "qwen":
            return self.text.wte.weight[self.ids]
        rows = self.text.embed_tokens.weight[self.ids]
        width = torch.tensor(rows.shape[-1] ** 0.5, dtype=rows.dtype)
        return rows * width if "gemma" in self.type else rows

    def _logits(self, x: Tensor) -> Tensor:
        norm = self.text.ln_f if self.type == "qwen" else self.text.norm
        logits = self.model.lm_head(norm(x))
        # The tiny Gemmas from 2 on cap their logits at 2; the wrapper of Gemma 3 leaves it out.
        if "gemma" in self.type and self.type not in ("gemma", "gemma3"):
            logits = 2.0 * torch.tanh(logits / 2.0)
        return logits


def text_of(model: Any) -> Any:
    """Where embedding and blocks are."""
    if model.config.model_type == "qwen":
        return model.transformer
    return model.model.language_model if hasattr(model.config, "text_config") else model.model


def _calls(model: Any, layers: list[nn.Module], ids: Tensor) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """What the model passes to its blocks beside the stream: masks, rotary tables, per-layer inputs."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    handles = [
        layer.register_forward_pre_hook(lambda _, args, kwargs: calls.append((args[1:], kwargs)), with_kwargs=True)
        for layer in layers
    ]
    model(input_ids=ids, use_cache=False)
    for handle in handles:
        handle.remove()
    return calls


def mixed(block: Any, x: Tensor, kwargs: dict[str, Any], at: At) -> Tensor:
    """Attention of either kind, up to its output projection by way of the heads."""
    if hasattr(block, "linear_attn"):
        mixer, projection = block.linear_attn, block.linear_attn.out_proj
        arguments: dict[str, Any] = {"cache_params": None, "attention_mask": kwargs.get("attention_mask")}
    else:
        mixer, projection, arguments = block.self_attn, block.self_attn.o_proj, kwargs
    heads: list[Tensor] = []
    handle = projection.register_forward_pre_hook(lambda _, args: heads.append(args[0]))
    mixer(hidden_states=x, **arguments)
    handle.remove()
    return projection(at("head_out", heads[0]))


def plain_block(block: Any, x: Tensor, args: Any, kwargs: dict[str, Any], at: At) -> Tensor:
    """Llama, and Qwen from 2 on."""
    middle = at("resid_mid", x + at("attn_out", mixed(block, block.input_layernorm(x), kwargs, at)))
    normed = block.post_attention_layernorm(middle)
    feed_forward = experts if hasattr(block.mlp, "experts") else gated
    return middle + at("mlp_out", feed_forward(block.mlp, normed))


def gated(mlp: Any, x: Tensor) -> Tensor:
    return mlp.down_proj(mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x))


def experts(moe: Any, x: Tensor) -> Tensor:
    """Each token through its experts, one at a time."""
    flat = x.reshape(-1, x.shape[-1])
    _, weights, chosen = moe.gate(flat)
    rows = []
    for token, (its_weights, its_experts) in enumerate(zip(weights, chosen, strict=True)):
        out = torch.zeros_like(flat[token])
        for weight, expert in zip(its_weights, its_experts, strict=True):
            gate, up = (moe.experts.gate_up_proj[expert] @ flat[token]).chunk(2)
            out = out + weight * (moe.experts.down_proj[expert] @ (nn.functional.silu(gate) * up))
        rows.append(out)
    routed = torch.stack(rows)
    if hasattr(moe, "shared_expert"):
        routed = routed + torch.sigmoid(moe.shared_expert_gate(flat)) * gated(moe.shared_expert, flat)
    return routed.reshape(x.shape)


def qwen1_block(block: Any, x: Tensor, args: Any, kwargs: dict[str, Any], at: At) -> Tensor:
    heads: list[Tensor] = []
    handle = block.attn.c_proj.register_forward_pre_hook(lambda _, inputs: heads.append(inputs[0]))
    block.attn(block.ln_1(x), *args, **kwargs)
    handle.remove()
    middle = at("resid_mid", at("attn_out", block.attn.c_proj(at("head_out", heads[0]))) + x)
    normed = block.ln_2(middle)
    return middle + at("mlp_out", block.mlp.c_proj(block.mlp.w1(normed) * nn.functional.silu(block.mlp.w2(normed))))


def vault_block(block: Any, x: Tensor, args: Any, kwargs: dict[str, Any], at: At) -> Tensor:
    middle = at("resid_mid", x + at("attn_out", mixed(block, block.input_layernorm(x), kwargs, at)))
    return middle + at("mlp_out", gated(block.mlp, block.pre_feedforward_layernorm(middle)))


def post_norm_block(block: Any, x: Tensor, args: Any, kwargs: dict[str, Any], at: At) -> Tensor:
    """Gemma 2 and 3: what is added has passed a norm."""
    attention = mixed(block, block.input_layernorm(x), kwargs, at)
    middle = at("resid_mid", x + at("attn_out", block.post_attention_layernorm(attention)))
    feed = gated(block.mlp, block.pre_feedforward_layernorm(middle))
    return middle + at("mlp_out", block.post_feedforward_layernorm(feed))


def gemma4_block(block: Any, x: Tensor, args: Any, kwargs: dict[str, Any], at: At) -> Tensor:
    """Gemma 4: experts beside the MLP, an input per layer, and a buffer that multiplies the sum."""
    per_layer = args[0] if args else kwargs.pop("per_layer_input", None)
    attention = mixed(block, block.input_layernorm(x), kwargs, at)
    middle = at("resid_mid", x + at("attn_out", block.post_attention_layernorm(attention)))
    feed = gated(block.mlp, block.pre_feedforward_layernorm(middle))
    if getattr(block, "enable_moe_block", False):
        flat = middle.reshape(-1, middle.shape[-1])
        _, weights, chosen = block.router(flat)
        routed = block.experts(block.pre_feedforward_layernorm_2(flat), chosen, weights).reshape(middle.shape)
        feed = block.post_feedforward_layernorm_1(feed) + block.post_feedforward_layernorm_2(routed)
    x = middle + at("mlp_out", block.post_feedforward_layernorm(feed))
    if per_layer is not None:
        gate = block.act_fn(block.per_layer_input_gate(x)) * per_layer
        x = x + at("per_layer_out", block.post_per_layer_input_norm(block.per_layer_projection(gate)))
    return x * block.layer_scalar


BLOCKS = {
    "qwen": qwen1_block,
    "vaultgemma": vault_block,
    "gemma2": post_norm_block,
    "gemma3": post_norm_block,
    "gemma3_text": post_norm_block,
    "gemma4": gemma4_block,
    "gemma4_text": gemma4_block,
    "gemma4_unified": gemma4_block,
    "gemma4_unified_text": gemma4_block,
}
