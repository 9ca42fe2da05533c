"""Captured statistics against plain arithmetic on hidden states, and what capture must not do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from steerkit.errors import DataError, PositionError, SiteError
from steerkit.session.model import LiveModel
from steerkit.types import Positions, Site
from tests.conftest import assert_clean, tiny_live

PROMPTS = [
    "Short",
    "A prompt of middling length",
    "The longest of them all, by a good deal, as it is",
    "Two words",
]


def literal_rows(live: LiveModel, layer: int, token: int) -> Tensor:
    """The input of a block at one token, prompt by prompt, with no padding at all."""
    rows = []
    for prompt in PROMPTS:
        ids = torch.tensor([live.chat.render(prompt).token_ids])
        with torch.no_grad():
            hidden = live.model(input_ids=ids, output_hidden_states=True).hidden_states[layer]
        rows.append(hidden[0, token])
    return torch.stack(rows)


@pytest.mark.parametrize("model_type", ["llama", "qwen3_next", "gemma3_text"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_means_are_those_of_unpadded_prompts(model_type: str, side: Any) -> None:
    live = tiny_live(model_type)
    sites = [Site("resid_pre", layer) for layer in range(live.layout.n_layers)]
    found = live.capture(PROMPTS, sites, [-1, -2], padding_side=side)
    for site in sites:
        for token in (-1, -2):
            statistics = found[(site, Positions.parse(token))]
            rows = literal_rows(live, site.layer, token)
            assert statistics.count == len(PROMPTS)
            assert statistics.mean.dtype == torch.float64
            assert torch.allclose(statistics.mean.float(), rows.mean(0), atol=1e-5, rtol=1e-5)


def test_rows_come_in_the_order_of_the_prompts_and_moments_are_theirs(llama: LiveModel) -> None:
    site, last = Site("resid_pre", 1), Positions.parse(-1)
    literal = literal_rows(llama, 1, -1)
    rows = llama.capture(PROMPTS, [site], kind="rows")[(site, last)].rows
    assert rows is not None and torch.allclose(rows, literal, atol=1e-5)
    moments = llama.capture(PROMPTS, [site], kind="moments")[(site, last)].second_moment
    assert moments is not None
    assert torch.allclose(moments.float(), literal.T @ literal / len(PROMPTS), atol=1e-4, rtol=1e-4)


def test_one_prompt_or_many_in_any_batches_give_the_same_numbers(llama: LiveModel) -> None:
    site, role = Site("mlp_out", 0), Positions.parse("instruction")
    llama.batch_tokens = 4096
    together = llama.capture(PROMPTS, [site], role)[(site, role)]
    llama.batch_tokens = 1
    one_by_one = llama.capture(PROMPTS, [site], role)[(site, role)]
    llama.batch_tokens = 4096
    alone = [llama.capture([prompt], [site], role)[(site, role)] for prompt in PROMPTS]
    total = sum(item.mean * item.count for item in alone) / sum(item.count for item in alone)
    assert together.count == one_by_one.count == sum(item.count for item in alone)
    assert torch.allclose(together.mean, one_by_one.mean, atol=1e-6)
    assert torch.allclose(together.mean, total, atol=1e-6)


def test_the_pass_stops_behind_the_last_tap_and_never_computes_the_head(llama: LiveModel) -> None:
    ran = []

    def note(name: str) -> Any:
        return lambda *args: ran.append(name)

    model: Any = llama.model
    watched = {"head": model.lm_head, "norm": model.model.norm}
    watched |= {f"block {layer}": block for layer, block in enumerate(model.model.layers)}
    handles = [module.register_forward_pre_hook(note(name)) for name, module in watched.items()]
    try:
        llama.capture(PROMPTS[:1], ["blocks.1.resid_pre"])
        assert ran == ["block 0", "block 1"]  # block 1's input was read; it did not run
        ran.clear()
        last = llama.layout.n_layers - 1
        llama.capture(PROMPTS[:1], [f"blocks.{last}.resid_post"])
        assert "norm" not in ran and "head" not in ran
    finally:
        for handle in handles:
            handle.remove()


def test_capture_reads_every_kind_of_site(llama: LiveModel) -> None:
    found = llama.capture(PROMPTS, llama.layout.sites())
    last = Positions.parse(-1)
    mean = {str(site): statistics.mean for (site, _), statistics in found.items()}
    assert torch.allclose(mean["blocks.0.resid_pre"] + mean["blocks.0.attn_out"], mean["blocks.0.resid_mid"], atol=1e-5)
    assert torch.allclose(mean["blocks.0.resid_mid"] + mean["blocks.0.mlp_out"], mean["blocks.0.resid_post"], atol=1e-5)
    heads = llama.layout.blocks[0].heads
    assert heads is not None
    assert found[(Site("head_out", 0), last)].mean.shape == (heads.n_heads * heads.d_head,)


def test_what_cannot_be_captured_says_why(llama: LiveModel) -> None:
    with pytest.raises(DataError, match="no prompts"):
        llama.capture([], ["embed"])
    with pytest.raises(SiteError, match="99"):
        llama.capture(PROMPTS, ["blocks.99.resid_pre"])
    with pytest.raises(PositionError, match="has only"):
        llama.capture(PROMPTS, ["embed"], 500)
    assert_clean(llama)


def test_activations_that_are_not_finite_are_an_error() -> None:
    from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer
    from steerkit.session import wrap

    live = wrap(tiny_model("llama"), tiny_tokenizer())
    weight: Any = live.model.get_submodule("model.layers.0.mlp.down_proj").weight
    weight.data[0, 0] = torch.inf
    with pytest.raises(DataError, match="NaN or infinite"):
        live.capture(PROMPTS, ["blocks.1.resid_pre"])


def test_progress_counts_prompts(llama: LiveModel) -> None:
    seen: list[tuple[int, int]] = []
    llama.capture(PROMPTS, ["embed"], progress=lambda done, of: seen.append((done, of)))
    assert seen[-1] == (4, 4)
