"""Tiny models in the shape in which vLLM runs them: tokens of all requests side by side, the stream as a pair.

Layers have vLLM's names and signatures and are made of the modules of a transformers model, so what passes through them
is that model's, and its oracle says what a program must do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from steerkit.session.model import LiveModel


class AddNorm(nn.Module):
    """A norm that adds the pair up first, where it is given one."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Any:
        if residual is None:
            return self.norm(x)
        total = x + residual
        return self.norm(total), total


class Attention(nn.Module):
    def __init__(self, attention: nn.Module, rows: int) -> None:
        super().__init__()
        self.attention, self.rows = attention, rows
        self.given: dict[str, Any] = {}

    def forward(self, positions: Tensor, hidden_states: Tensor) -> Tensor:
        batched = hidden_states.reshape(self.rows, -1, hidden_states.shape[-1])
        found: Tensor = self.attention(hidden_states=batched, **self.given)[0]
        return found.reshape(hidden_states.shape)


class LlamaDecoderLayer(nn.Module):
    def __init__(self, layer: Any, rows: int) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(layer.self_attn, rows), layer.mlp
        self.input_layernorm = AddNorm(layer.input_layernorm)
        self.post_attention_layernorm = AddNorm(layer.post_attention_layernorm)

    def forward(self, positions: Tensor, hidden_states: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        if residual is None:
            residual = hidden_states
            hidden_states = self.input_layernorm(hidden_states)
        else:
            hidden_states, residual = self.input_layernorm(hidden_states, residual)
        hidden_states = self.self_attn(positions=positions, hidden_states=hidden_states)
        hidden_states, residual = self.post_attention_layernorm(hidden_states, residual)
        return self.mlp(hidden_states), residual


class Gemma2DecoderLayer(nn.Module):
    def __init__(self, layer: Any, rows: int) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(layer.self_attn, rows), layer.mlp
        self.input_layernorm = AddNorm(layer.input_layernorm)
        self.post_attention_layernorm = AddNorm(layer.post_attention_layernorm)
        self.pre_feedforward_layernorm = AddNorm(layer.pre_feedforward_layernorm)
        self.post_feedforward_layernorm = AddNorm(layer.post_feedforward_layernorm)

    def forward(self, positions: Tensor, hidden_states: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        if residual is None:
            residual = hidden_states
            hidden_states = self.input_layernorm(hidden_states)
        else:
            hidden_states, residual = self.input_layernorm(hidden_states, residual)
        hidden_states = self.self_attn(positions=positions, hidden_states=hidden_states)
        hidden_states = self.post_attention_layernorm(hidden_states)
        hidden_states, residual = self.pre_feedforward_layernorm(hidden_states, residual)
        hidden_states = self.post_feedforward_layernorm(self.mlp(hidden_states))
        return hidden_states, residual


LAYERS = {"llama": LlamaDecoderLayer, "qwen3": LlamaDecoderLayer, "gemma2": Gemma2DecoderLayer}


class Shaped(nn.Module):
    """``[rows * width]`` token ids to ``[rows * width, vocabulary]`` logits, rows of one width, padded on the right."""

    def __init__(self, live: LiveModel, rows: int) -> None:
        super().__init__()
        self.rows = rows
        base: Any = live.model.model  # type: ignore[attr-defined]
        kind = LAYERS[live.facts.model_type]
        self.head, self.softcap = live.model.lm_head, live.layout.softcap  # type: ignore[attr-defined]
        # Not as a part: its layers, which run only through these, have the same names.
        self.kept = (base,)
        self.layers = nn.ModuleList([kind(layer, rows) for layer in base.layers])
        self.norm = AddNorm(base.norm)

    def forward(self, ids: Tensor) -> Tensor:
        (base,) = self.kept
        batched = ids.reshape(self.rows, -1)
        hidden: Tensor = base.embed_tokens(batched)
        positions = torch.arange(batched.shape[1])[None].expand(batched.shape)
        rotary = base.rotary_emb(hidden, positions)
        for layer in self.layers:
            mask = _mask(batched.shape[1], getattr(layer.self_attn.attention, "sliding_window", None))
            layer.self_attn.given = {"position_embeddings": rotary, "attention_mask": mask}
        # Their own memory, as an embedding's output is.
        hidden, rest = hidden.reshape(len(ids), -1).clone(), None
        for layer in self.layers:
            hidden, rest = layer(positions, hidden, rest)
        logits: Tensor = self.head(self.norm(hidden, rest)[0])
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


def _mask(width: int, window: int | None) -> Tensor:
    """What a token may look at, ``[1, 1, width, width]``: 0 there, minus infinity elsewhere."""
    far = torch.full((width, width), float("-inf"))
    mask = far.triu(1)
    return (mask if window is None else mask + far.tril(-window))[None, None]
