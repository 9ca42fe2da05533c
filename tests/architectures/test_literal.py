"""The adapters against a forward pass that is written out by hand, on every model type."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from steerkit.api.architecture import Layout
from steerkit.api.hookspecs import NoOptions
from steerkit.api.intervention import Affine, Intervention, Placement
from steerkit.engine.hooking.attach import attached
from steerkit.engine.lowering.lower import at_sites
from steerkit.engine.sites.taps import register_tap
from steerkit.sources import TINY_MODEL_TYPES
from steerkit.types import EMBED, HEAD_OUT, Site
from tests.architectures.conftest import IDS, built
from tests.architectures.literal import Literal


class Added(Intervention[NoOptions]):
    """Adds a vector."""

    def __init__(self, vector: Tensor) -> None:
        super().__init__(NoOptions())
        self._vector = vector

    def default_sites(self, layout: Layout) -> list[Site]:
        raise AssertionError("sites are given")

    def update(self, site: Site, layout: Layout) -> Affine:
        return Affine(bias=self._vector)


def add(site: Site, vector: Tensor) -> Placement:
    return Placement(Added(vector), (site,))


def close(found: Tensor, expected: Tensor, what: object = "") -> None:
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5, msg=lambda text: f"{what}: {text}")


def read(model: Any, layout: Layout, site: Site) -> Tensor:
    """The value at a site in one pass over ``IDS``."""
    seen: list[Tensor] = []
    handle = register_tap(model, layout.tap(site), lambda value: seen.append(value.clone()))
    with torch.no_grad():
        model(input_ids=IDS, use_cache=False)
    handle.remove()
    (value,) = seen
    return value


@pytest.mark.parametrize("model_type", TINY_MODEL_TYPES)
def test_every_site_reads_what_stands_there(model_type: str) -> None:
    model, layout = built(model_type)
    by_hand = Literal(model, IDS)
    with torch.no_grad():
        close(by_hand.logits, model(input_ids=IDS).logits, "the forward pass by hand")
    assert {str(site) for site in layout.sites()} == by_hand.values.keys()
    for site in layout.sites():
        close(read(model, layout, site), by_hand.values[str(site)], site)


@pytest.mark.parametrize("model_type", TINY_MODEL_TYPES)
def test_every_site_writes_where_it_reads(model_type: str) -> None:
    model, layout = built(model_type)
    with torch.no_grad():
        plain = model(input_ids=IDS, use_cache=False).logits
    for site in layout.sites():
        if site == Site(EMBED) and not layout.embed_is_first_resid_pre:
            continue  # More than the stream reads the embedding there; it has a test of its own.
        vector = torch.randn(layout.width(site), generator=torch.Generator().manual_seed(1))
        by_hand = Literal(model, IDS, {str(site): lambda value, vector=vector: value + vector})
        with torch.no_grad(), attached(model, layout, at_sites([add(site, vector)], layout)):
            found = model(input_ids=IDS, use_cache=False).logits
        close(found, by_hand.logits, site)
        assert (found - plain).abs().max() > 1e-3, f"an edit at {site} shows nowhere"


@pytest.mark.parametrize("model_type", ["gemma4_text", "gemma4_text_moe"])
def test_an_edit_at_the_embedding_of_gemma4_reaches_its_per_layer_inputs(model_type: str) -> None:
    model, layout = built(model_type)
    assert not layout.embed_is_first_resid_pre
    vector = torch.randn(layout.d_model, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        edited = model.model.embed_tokens(IDS) + vector
        per_layer = model.model.get_per_layer_inputs(IDS)
        expected = model(inputs_embeds=edited, per_layer_inputs=per_layer, use_cache=False).logits
        with attached(model, layout, at_sites([add(Site(EMBED), vector)], layout)):
            found = model(input_ids=IDS, use_cache=False).logits
        with attached(model, layout, at_sites([add(Site("resid_pre", 0), vector)], layout)):
            in_the_stream_alone = model(input_ids=IDS, use_cache=False).logits
    close(found, expected)
    assert (found - in_the_stream_alone).abs().max() > 1e-3


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


def test_heads_of_llama_are_side_by_side_in_order() -> None:
    model, layout = built("llama")
    attention: Any = model.model.layers[1].self_attn
    found = read(model, layout, Site(HEAD_OUT, 1))
    values = Literal(model, IDS).values
    with torch.no_grad():
        x = model.model.layers[1].input_layernorm(values["blocks.1.resid_pre"])
        query, key, value = attention.q_proj(x), attention.k_proj(x), attention.v_proj(x)
        cos, sin = model.model.rotary_emb(x, torch.arange(IDS.shape[1])[None])
    heads = layout.blocks[1].heads
    assert heads is not None and (heads.n_heads, heads.d_head) == (4, 8)
    hidden = torch.full((IDS.shape[1],) * 2, -torch.inf).triu(1)
    for head in range(4):
        own, shared = slice(8 * head, 8 * head + 8), slice(8 * (head // 2), 8 * (head // 2) + 8)
        scores = rotated(query[..., own], cos, sin) @ rotated(key[..., shared], cos, sin).transpose(1, 2) / 8**0.5
        close(found[..., own], (scores + hidden).softmax(-1) @ value[..., shared], f"head {head}")


HEADS = {
    "llama": [(4, 8)] * 3,
    "diffllama": [(2, 16)] * 3,
    "qwen": [(4, 8)] * 3,
    "qwen3": [(4, 16)] * 3,
    "qwen3_next": [(4, 16), (4, 12), (4, 16)],
    "qwen3_5": [(4, 16), (4, 12), (4, 16)],
    "gemma2": [(4, 16)] * 3,
    "gemma4_text": [(4, 16), (4, 32), (4, 32)],
}


@pytest.mark.parametrize("model_type", HEADS)
def test_heads_have_the_number_and_width_of_their_layer(model_type: str) -> None:
    _, layout = built(model_type)
    assert [block.heads and (block.heads.n_heads, block.heads.d_head) for block in layout.blocks] == HEADS[model_type]


BOTH = {"attn_out", "mlp_out"}
FOLDABLE = {
    "llama": [BOTH, BOTH, BOTH],
    "yi": [BOTH, BOTH, BOTH],
    "qwen": [BOTH, BOTH, BOTH],
    "qwen2": [BOTH, BOTH, BOTH],
    "qwen2_moe": [BOTH, {"attn_out"}, {"attn_out"}],
    "qwen3_moe": [BOTH, {"attn_out"}, {"attn_out"}],
    "qwen3_next": [BOTH, {"attn_out"}, {"attn_out"}],
    "qwen3_5_moe_text": [{"attn_out"}, {"attn_out"}, {"attn_out"}],
    "gemma": [BOTH, BOTH, BOTH],
    "vaultgemma": [BOTH, BOTH, BOTH],
    "gemma2": [set(), set(), set()],
    "gemma3_text": [set(), set(), set()],
    "gemma4_text": [set(), set(), set()],
}


@pytest.mark.parametrize("model_type", FOLDABLE)
def test_what_folds_and_why_the_rest_does_not(model_type: str) -> None:
    _, layout = built(model_type)
    found = [{writer.stream for writer in block.writers if writer.projections} for block in layout.blocks]
    assert found == FOLDABLE[model_type]
    for block in layout.blocks:
        for writer in block.writers:
            assert bool(writer.projections) != bool(writer.not_foldable)
            reason = "router" if "moe" in model_type or model_type == "qwen3_next" else "norm"
            assert writer.projections or reason in writer.not_foldable


def test_gemma4_declares_its_third_writer_and_its_buffer() -> None:
    model, layout = built("gemma4_text")
    streams = [writer.stream for writer in layout.blocks[0].writers]
    assert streams == ["attn_out", "mlp_out", "per_layer_out"]
    assert [block.scale for block in layout.blocks] == [f"model.layers.{layer}.layer_scalar" for layer in range(3)]
    assert all(abs(float(layer.layer_scalar) - 1) > 0.05 for layer in model.model.layers)


def test_the_wrapper_is_declared_inside_its_language_model() -> None:
    model, layout = built("gemma3")
    assert type(model).__name__ == "Gemma3ForConditionalGeneration"
    assert layout.blocks[1].module == "model.language_model.layers.1"
    assert layout.base == "model" and layout.head == "lm_head" and layout.notes


def test_an_embedding_that_its_model_scales_is_read_where_it_enters_the_stream() -> None:
    """Earlier versions of transformers multiply Gemma's embedding outside of its module."""
    from steerkit_architectures._gemma import GemmaAdapter

    model, _ = built("gemma")
    plain = torch.nn.Embedding.from_pretrained(model.model.embed_tokens.weight.detach())
    model.model.embed_tokens = plain
    embed = GemmaAdapter().layout(model).embed
    assert (embed.module, embed.side) == ("model.layers.0", "input")
