"""Small decoders by hand, each with one thing that makes a layout differ, so that what is found has a known answer."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

WIDTH, VOCABULARY = 16, 40
Forward = Callable[[Any, Tensor], Any]


class Config:
    """As much of a config as discovery reads."""

    model_type, vocab_size, hidden_size = "planted", VOCABULARY, WIDTH

    def get_text_config(self) -> Config:
        return self

    def to_dict(self) -> dict[str, Any]:
        return {"model_type": "planted", "pad_token_id": 0}


class Mixer(nn.Module):
    """Mixes tokens causally in two heads, and projects what they give."""

    def __init__(self) -> None:
        super().__init__()
        self.values, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        values = self.values(x).view(batch, length, 2, WIDTH // 2).transpose(1, 2)
        weights = torch.ones(length, length).tril()
        mixed = (weights / weights.sum(-1, keepdim=True)) @ values
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, length, WIDTH))
        return out


class Mlp(nn.Module):
    """Doesn't mix tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 24), nn.Linear(24, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(torch.relu(self.up(x)))
        return out


class Block(nn.Module):
    """Two norms, a mixer and an MLP, put together by a function."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.mixer, self.mlp = Mixer(), Mlp()
        self.vector = nn.Parameter(torch.rand(WIDTH) + 0.5)
        self.register_buffer("scale", torch.tensor([0.75]))
        self._put_together = forward

    def forward(self, x: Tensor) -> Any:
        return self._put_together(self, x)


def plain(block: Any, x: Tensor) -> Any:
    x = x + block.mixer(block.norm1(x))
    return x + block.mlp(block.norm2(x))


class Base(nn.Module):
    """Embedding, blocks and norm."""

    def __init__(self, forward: Forward, n_layers: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(64, WIDTH)
        self.blocks = nn.ModuleList(Block(forward) for _ in range(n_layers))
        self.norm = nn.LayerNorm(WIDTH)
        self.embedded: Callable[[Base, Tensor], Tensor] = lambda base, ids: base.tokens(ids)
        self.ended: Callable[[Base, Tensor], Tensor] = lambda base, x: base.norm(x)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, use_cache: bool = False) -> Any:
        x = self.embedded(self, input_ids)
        for block in self.blocks:
            x = block(x)
            x = x[0] if isinstance(x, (tuple, list)) else x
        return (self.ended(self, x),)


class Planted(nn.Module):
    """A decoder. ``headed`` says how logits are made of what the base gives."""

    def __init__(self, forward: Forward = plain, n_layers: int = 3, bias: bool = False) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.config: Any = Config()
        self.base = Base(forward, n_layers)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=bias)
        self.headed: Callable[[Planted, Tensor], Tensor] = lambda model, x: model.head(x)
        self.eval()

    def get_input_embeddings(self) -> nn.Module:
        return self.base.tokens

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, use_cache: bool = False) -> Any:
        return SimpleNamespace(logits=self.headed(self, self.base(input_ids)[0]))
