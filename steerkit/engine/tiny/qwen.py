"""The module layout of Qwen 1 (``transformer.h``), which transformers itself doesn't have.

The original comes with its checkpoints as code that doesn't run on transformers 5. This is a stand-in
for tests: the same module names, calls and return values, no weights of anybody's.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast


class TinyQwenConfig(PreTrainedConfig):
    """Sizes of the stand-in; the names are those of Qwen 1's ``config.json``."""

    model_type = "qwen"

    def __init__(
        self,
        vocab_size: int = 288,
        hidden_size: int = 32,
        intermediate_size: int = 64,
        num_hidden_layers: int = 2,
        num_attention_heads: int = 4,
        layer_norm_epsilon: float = 1e-6,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.kv_channels = hidden_size // num_attention_heads
        self.layer_norm_epsilon = layer_norm_epsilon
        kwargs.pop("num_key_value_heads", None)
        kwargs.setdefault("tie_word_embeddings", False)
        super().__init__(**kwargs)


class _RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * normed.to(x.dtype)


def _rotate(x: Tensor, position_ids: Tensor) -> Tensor:
    """Rotary position embedding of ``[batch, head, pos, d_head]``."""
    half = x.shape[-1] // 2
    frequencies = 10000.0 ** -(torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angles = position_ids[:, None, :, None].float() * frequencies
    first, second = x.float().split(half, dim=-1)
    turned = torch.cat((first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()), -1)
    return turned.to(x.dtype)


class _Attention(nn.Module):
    def __init__(self, config: TinyQwenConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.n_heads = layer, config.num_attention_heads
        width = config.kv_channels * config.num_attention_heads
        self.c_attn = nn.Linear(config.hidden_size, 3 * width)
        self.c_proj = nn.Linear(width, config.hidden_size, bias=False)

    def forward(
        self, hidden_states: Tensor, position_ids: Tensor, mask: Tensor, cache: DynamicCache | None
    ) -> tuple[Tensor, None]:
        batch, length, _ = hidden_states.shape
        query, key, value = (
            part.view(batch, length, self.n_heads, -1).transpose(1, 2)
            for part in self.c_attn(hidden_states).chunk(3, dim=-1)
        )
        query, key = _rotate(query, position_ids), _rotate(key, position_ids)
        if cache is not None:
            key, value = cache.update(key, value, self.layer)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.c_proj(mixed.transpose(1, 2).reshape(batch, length, -1)), None


class _MLP(nn.Module):
    def __init__(self, config: TinyQwenConfig) -> None:
        super().__init__()
        half = config.intermediate_size // 2
        self.w1 = nn.Linear(config.hidden_size, half, bias=False)
        self.w2 = nn.Linear(config.hidden_size, half, bias=False)
        self.c_proj = nn.Linear(half, config.hidden_size, bias=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        out: Tensor = self.c_proj(self.w1(hidden_states) * F.silu(self.w2(hidden_states)))
        return out


class _Block(nn.Module):
    def __init__(self, config: TinyQwenConfig, layer: int) -> None:
        super().__init__()
        self.ln_1 = _RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.attn = _Attention(config, layer)
        self.ln_2 = _RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.mlp = _MLP(config)

    def forward(
        self, hidden_states: Tensor, position_ids: Tensor, mask: Tensor, cache: DynamicCache | None
    ) -> tuple[Tensor, DynamicCache | None]:
        mixed = self.attn(self.ln_1(hidden_states), position_ids, mask, cache)[0]
        middle = mixed + hidden_states
        return middle + self.mlp(self.ln_2(middle)), cache


class TinyQwenModel(PreTrainedModel):
    """``transformer``: embedding ``wte``, dropout ``drop``, blocks ``h``, final norm ``ln_f``."""

    config_class = TinyQwenConfig

    def __init__(self, config: TinyQwenConfig) -> None:
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.hidden_size)
        self.drop = nn.Dropout(0.0)
        self.h = nn.ModuleList(_Block(config, layer) for layer in range(config.num_hidden_layers))
        self.ln_f = _RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Module:
        """``wte``."""
        return self.wte

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: DynamicCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """``[batch, pos]`` tokens to the stream behind the final norm, ``[batch, pos, d_model]``."""
        hidden = self.wte(input_ids) if inputs_embeds is None else inputs_embeds
        if past_key_values is None and use_cache:
            past_key_values = DynamicCache()
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        columns = torch.arange(past + hidden.shape[1], device=hidden.device)
        if position_ids is None:
            position_ids = columns[past:].expand(hidden.shape[0], -1)
        mask = (columns[None, :] <= columns[past:, None])[None, None]
        if attention_mask is not None:
            # A padding query attends to nothing; letting it see itself keeps its row finite.
            itself = columns[None, :] == columns[past:, None]
            mask = (mask & attention_mask[:, None, None, :].bool()) | itself
        hidden = self.drop(hidden)
        for block in self.h:
            hidden = block(hidden, position_ids, mask, past_key_values)[0]
        return BaseModelOutputWithPast(last_hidden_state=self.ln_f(hidden), past_key_values=past_key_values)


class TinyQwenLMHeadModel(PreTrainedModel, GenerationMixin):
    """``transformer`` and ``lm_head``, as in Qwen 1."""

    config_class = TinyQwenConfig
    base_model_prefix = "transformer"

    def __init__(self, config: TinyQwenConfig) -> None:
        super().__init__(config)
        self.transformer = TinyQwenModel(config)
        self.lm_head: nn.Module = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Module:
        """``wte``."""
        return self.transformer.wte

    def get_output_embeddings(self) -> nn.Module:
        """``lm_head``."""
        return self.lm_head

    def forward(
        self, input_ids: Tensor | None = None, logits_to_keep: int | Tensor = 0, **kwargs: Any
    ) -> CausalLMOutputWithPast:
        """``[batch, pos]`` tokens to logits, ``[batch, pos, vocab]``."""
        output = self.transformer(input_ids, **kwargs)
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(output.last_hidden_state[:, keep])
        return CausalLMOutputWithPast(logits=logits, past_key_values=output.past_key_values)
