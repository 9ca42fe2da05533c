"""Layouts that are wrong in one thing: the self-test refuses every one of them, on every type."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from steerkit.api.architecture import Block, Layout, Tap, Writer
from steerkit.engine.sites.selftest import self_test
from steerkit.engine.sites.selftest_heads import check_heads_apart
from steerkit.engine.sites.selftest_mixing import check_mixing
from steerkit.engine.sites.selftest_passes import bench
from steerkit.engine.tiny.models import randomise
from steerkit.sources import TINY_MODEL_TYPES
from steerkit.types import ATTN_OUT, MLP_OUT
from tests.architectures.conftest import built

FEW = ("llama", "diffllama", "gemma2", "qwen3_next", "gemma4_text_moe")
DTYPES = (torch.float32, torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow))


def every_type(*, of: tuple[str, ...] = TINY_MODEL_TYPES) -> list[Any]:
    """All types, of which a few are tried each time."""
    return [pytest.param(one, marks=() if one in FEW else pytest.mark.slow) for one in of]


def changed(layout: Layout, layer: int, **fields: Any) -> Layout:
    blocks = list(layout.blocks)
    blocks[layer] = replace(blocks[layer], **fields)
    return replace(layout, blocks=tuple(blocks))


def wrong_splits(layout: Layout) -> Iterator[tuple[str, Layout]]:
    """Every other number of heads that divides what lies side by side, in every block."""
    for layer, block in enumerate(layout.blocks):
        if block.heads is None:
            continue
        width = block.heads.n_heads * block.heads.d_head
        for n_heads in (n for n in range(1, width + 1) if width % n == 0 and n != block.heads.n_heads):
            heads = replace(block.heads, n_heads=n_heads, d_head=width // n_heads)
            yield f"block {layer}: {n_heads} heads", changed(layout, layer, heads=heads)


def swapped(layout: Layout) -> Iterator[tuple[str, Layout]]:
    """The names of the two writers exchanged, in every block."""
    names = {ATTN_OUT: MLP_OUT, MLP_OUT: ATTN_OUT}
    for layer, block in enumerate(layout.blocks):
        writers = tuple(replace(one, stream=names.get(one.stream, one.stream)) for one in block.writers)
        yield f"block {layer}: swapped", changed(layout, layer, writers=writers)


def mutants(layout: Layout) -> Iterator[tuple[str, Layout]]:
    """What else may be wrong, in one block or at the end."""
    block = layout.blocks[1]
    first, *others = block.writers
    yield "a missing writer", changed(layout, 1, writers=block.writers[:-1])
    foreign = replace(first, tap=layout.blocks[0].writers[0].tap, projections=(), weighed=())
    yield "a foreign writer", changed(layout, 1, writers=(foreign, *others))
    for place in range(len(block.writers)):
        tap = replace(block.writers[place].tap, factor=1.01)
        off = [*block.writers[:place], replace(block.writers[place], tap=tap), *block.writers[place + 1 :]]
        yield f"a factor that is off, of writer {place}", changed(layout, 1, writers=tuple(off))
    if block.scale is not None:
        yield "no scale", changed(layout, 1, scale=None)
        yield "another block's scale", changed(layout, 1, scale=layout.blocks[0].scale)
    yield "another soft cap", replace(layout, softcap=2.5 if layout.softcap is None else 1.01 * layout.softcap)
    yield "another scale of the logits", replace(layout, logit_scale=1.01 * layout.logit_scale)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("model_type", every_type())
def test_heads_are_cut_one_way_and_writers_have_one_name(model_type: str, dtype: torch.dtype) -> None:
    model, layout = built(model_type)
    model.to(dtype)
    missed = []
    with torch.no_grad():
        for check, wrong in ((check_heads_apart, wrong_splits), (check_mixing, swapped)):
            with bench(model, layout, 0) as on:
                assert check(on).passed
            for what, mutant in wrong(layout):
                with bench(model, mutant, 0) as on:
                    missed += [what] if check(on).passed else []
    assert not missed


@pytest.mark.parametrize("model_type", every_type())
def test_what_is_wrong_in_one_thing_is_refused(model_type: str) -> None:
    model, layout = built(model_type)
    passed = [what for what, mutant in mutants(layout) if self_test(model, mutant).passed]
    assert not passed


@pytest.mark.parametrize("seed", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("model_type", every_type())
def test_other_tokens_and_weights_change_no_verdict(model_type: str, seed: int) -> None:
    model, layout = built(model_type, seed=seed)
    for dtype in (torch.float32, torch.bfloat16):
        model.to(dtype)
        with torch.no_grad(), bench(model, layout, seed) as on:
            assert check_heads_apart(on).passed and check_mixing(on).passed


def test_swapped_taps_of_a_parallel_block_are_refused() -> None:
    """Its sum is the same whichever is which, and so are all other checks but the one of heads."""
    model, layout = falcon()
    assert self_test(model, layout).passed
    attention, mlp = layout.blocks[1].writers
    crossed = (replace(mlp, stream=ATTN_OUT), replace(attention, stream=MLP_OUT))
    report = self_test(model, changed(layout, 1, writers=crossed, heads=None))
    assert report.failed == {"mixing"}
    failed = next(check for check in report.checks if not check.passed)
    assert failed.site == "blocks.1.attn_out" and "mixes no tokens" in failed.detail


def test_names_of_ones_own_claim_nothing() -> None:
    model, layout = falcon()
    writers = [replace(one, stream=f"{name}_out") for one, name in zip(layout.blocks[1].writers, "ab", strict=True)]
    with torch.no_grad(), bench(model, changed(layout, 1, writers=tuple(writers), heads=None), 0) as on:
        assert check_mixing(on).passed


def test_a_stream_that_passes_a_norm_is_no_sum() -> None:
    config = AutoConfig.for_model("openai-gpt", vocab_size=288, n_embd=32, n_layer=2, n_head=4)
    model = AutoModelForCausalLM.from_config(config).eval()
    randomise(model)
    blocks = [
        Block(path, (Writer(ATTN_OUT, Tap(f"{path}.attn")), Writer(MLP_OUT, Tap(f"{path}.mlp"))))
        for path in ("transformer.h.0", "transformer.h.1")
    ]
    layout = Layout(32, "transformer", Tap("transformer.drop"), tuple(blocks), "transformer.h.1.ln_2", "lm_head")
    assert "block_sum" in self_test(model, layout).failed


def test_heads_behind_a_norm_over_all_of_them_cannot_be_told_apart() -> None:
    model, layout = built("llama")
    for block in model.model.layers:
        block.self_attn.o_proj = torch.nn.Sequential(torch.nn.LayerNorm(32), block.self_attn.o_proj)
        block.self_attn.o_proj.__dict__["weight"] = block.self_attn.o_proj[1].weight
    behind = layout
    for layer, block in enumerate(layout.blocks):
        assert block.heads is not None
        tap = Tap(f"model.layers.{layer}.self_attn.o_proj.1", "input", "input")
        behind = changed(behind, layer, heads=replace(block.heads, tap=tap))
    with torch.no_grad(), bench(model, behind, 0) as on:
        check = check_heads_apart(on)
    assert not check.passed and "can't be told apart" in check.detail


def falcon() -> tuple[Any, Layout]:
    """Parallel blocks, whose writers all read the block's input."""
    keys = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = AutoConfig.for_model("falcon", vocab_size=288, **keys, new_decoder_architecture=True)
    model = AutoModelForCausalLM.from_config(config).eval()
    randomise(model)
    blocks = [
        Block(
            path,
            (Writer(ATTN_OUT, Tap(f"{path}.self_attention")), Writer(MLP_OUT, Tap(f"{path}.mlp"))),
        )
        for path in ("transformer.h.0", "transformer.h.1")
    ]
    embed, norm = Tap("transformer.word_embeddings"), "transformer.ln_f"
    return model, Layout(32, "transformer", embed, tuple(blocks), norm, "lm_head")
