"""What heads add along a direction and what they attend to, held to the model's own modules."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from steerkit.engine.reading.heads import HeadMap, HeadReader, attention_to, head_maps
from steerkit.engine.reading.last import read_last_tokens
from tests.conftest import assert_clean, tiny_live

PROMPTS = ["a", "do zb1 and more", "do zb2", "what is it?", "abcdefgh"]


def unit_of(width: int) -> Tensor:
    vector = torch.randn(width, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return vector / vector.norm()


def heads_of(live: Any, unit: Tensor) -> dict[int, Tensor]:
    rendered = live.rendered(PROMPTS)
    maps, refused = head_maps(live)
    assert not refused
    reader = HeadReader(live, maps, unit, len(rendered))
    read_last_tokens(live, rendered, reader.takers())
    reader.require_finite()
    return reader.shares


def literal(live: Any, prompt: str, unit: Tensor, layer: int) -> tuple[list[float], float]:
    """Head by head, by the output projection of that head alone; and what attention adds in all, without a bias."""
    block, d_head = live.model.model.layers[layer], live.layout.blocks[layer].heads.d_head
    kept: dict[str, Tensor] = {}
    norm = getattr(block, "post_attention_layernorm", None)
    normed = hasattr(block, "post_feedforward_layernorm")
    handles = [
        block.self_attn.o_proj.register_forward_pre_hook(lambda m, args: kept.update(z=args[0][0, -1].double())),
        (norm if normed else block.self_attn.o_proj).register_forward_hook(
            lambda m, args, out: kept.update(added=out[0, -1].double())
        ),
    ]
    with torch.no_grad():
        live.model(torch.tensor([live.chat.render(prompt).token_ids]))
    for handle in handles:
        handle.remove()
    weight = block.self_attn.o_proj.weight.detach().double()
    bias = block.self_attn.o_proj.bias
    constant = torch.zeros(len(weight)).double() if bias is None else bias.detach().double()
    whole = weight @ kept["z"] + constant
    factor = torch.ones_like(whole)
    if normed:
        assert norm is not None
        factor = (1 + norm.weight.detach().double()) / (whole.square().mean() + norm.eps).sqrt()
    found = []
    for head in range(live.layout.blocks[layer].heads.n_heads):
        alone = torch.zeros_like(kept["z"])
        alone[head * d_head : (head + 1) * d_head] = kept["z"][head * d_head : (head + 1) * d_head]
        found.append(float((weight @ alone * factor) @ unit))
    return found, float((kept["added"] - constant * factor) @ unit)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2", "gemma3_text"])
def test_every_head_adds_what_its_own_part_of_the_projection_gives(kind: str) -> None:
    live = tiny_live(kind)
    unit = unit_of(live.layout.d_model)
    shares = heads_of(live, unit)
    assert set(shares) == set(range(live.layout.n_layers))
    for layer, values in shares.items():
        for place, prompt in enumerate(PROMPTS):
            heads, added = literal(live, prompt, unit, layer)
            assert values[place].tolist() == pytest.approx(heads, abs=1e-5)
            assert float(values[place].sum()) == pytest.approx(added, abs=1e-5), "together what attention adds"


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2", "gemma3_text"])
def test_attention_weighs_values_to_what_heads_give(kind: str) -> None:
    live = tiny_live(kind)
    before = live.model.config._attn_implementation
    rendered = live.rendered(["do zb1 and more"])
    length = len(rendered[0].token_ids)
    n_heads = live.layout.blocks[0].heads.n_heads
    heads = [(layer, head) for layer in range(live.layout.n_layers) for head in range(n_heads)]
    weights = attention_to(live, rendered, [[(at, at + 1) for at in range(length)]], heads)
    assert weights is not None
    assert live.model.config._attn_implementation == before
    assert_clean(live)
    assert weights.sum(-1).flatten().tolist() == pytest.approx([1.0] * len(heads), abs=1e-5)
    for layer in range(live.layout.n_layers):
        attention, d_head = live.model.model.layers[layer].self_attn, live.layout.blocks[layer].heads.d_head
        kept: dict[str, Tensor] = {}
        handles = [
            attention.o_proj.register_forward_pre_hook(lambda m, args, k=kept: k.update(z=args[0][0, -1])),
            attention.v_proj.register_forward_hook(lambda m, args, out, k=kept: k.update(v=out[0])),
        ]
        with torch.no_grad():
            live.model(torch.tensor([rendered[0].token_ids]))
        for handle in handles:
            handle.remove()
        values = kept["v"].unflatten(-1, (-1, d_head))
        shared = n_heads // values.shape[1]
        for head in range(n_heads):
            mixed = weights[0, heads.index((layer, head))].float() @ values[:, head // shared]
            assert mixed.tolist() == pytest.approx(kept["z"].unflatten(0, (-1, d_head))[head].tolist(), abs=1e-5)


def test_spans_are_added_up_prompt_by_prompt() -> None:
    live = tiny_live("llama")
    rendered = live.rendered(["do zb1", "x"])
    whole = [[(0, len(one.token_ids))] for one in rendered]
    seen = attention_to(live, rendered, whole, [(1, 2)])
    assert seen is not None and seen.shape == (2, 1, 1)
    assert seen.flatten().tolist() == pytest.approx([1.0, 1.0], abs=1e-5)
    parts = attention_to(live, rendered, [[(0, 3), (3, len(one.token_ids))] for one in rendered], [(1, 2)])
    assert parts is not None and parts.sum(-1).flatten().tolist() == pytest.approx([1.0, 1.0], abs=1e-5)


def test_what_stands_between_and_is_no_such_norm_is_named() -> None:
    import copy

    from steerkit.session import wrap

    live = tiny_live("gemma2")
    model = copy.deepcopy(live.model)
    other = torch.nn.LayerNorm(live.layout.d_model)
    other.eps = 1e-6
    wrapped = wrap(model, live.chat.tokenizer)
    model.model.layers[1].post_attention_layernorm = other
    maps, refused = head_maps(wrapped)
    assert set(maps) == {0, 2} and "none by the root of the mean square" in refused[1]


def test_the_factor_behind_a_projection_is_part_of_what_heads_add() -> None:
    live = tiny_live("llama")
    unit = unit_of(live.layout.d_model)
    plain = heads_of(live, unit)
    blocks = list(live.layout.blocks)
    first, *others = blocks[1].writers
    blocks[1] = replace(blocks[1], writers=(replace(first, tap=replace(first.tap, factor=0.25)), *others))
    layout = replace(live.layout, blocks=tuple(blocks))
    maps, _ = head_maps(cast(Any, SimpleNamespace(layout=layout, model=live.model)))
    reader = HeadReader(live, maps, unit, len(PROMPTS))
    read_last_tokens(live, live.rendered(PROMPTS), reader.takers())
    assert torch.equal(reader.shares[0], plain[0])
    assert reader.shares[1].flatten().tolist() == pytest.approx((0.25 * plain[1]).flatten().tolist(), abs=1e-9)


def test_a_weight_that_is_stored_the_other_way_round_is_read_so() -> None:
    projection = Conv1D(6, 6)
    torch.nn.init.normal_(projection.weight)
    assert torch.equal(HeadMap(0, projection, 2).weight, projection.weight.T)
