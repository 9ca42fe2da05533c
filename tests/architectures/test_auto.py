"""What is read off a pass, beside what the families declare by hand."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from steerkit.api.architecture import Layout
from steerkit.engine.sites.selftest import self_test
from steerkit.engine.sites.taps import register_tap
from steerkit.engine.tiny.models import randomise
from steerkit.sources import TINY_MODEL_TYPES
from steerkit.types import Site
from steerkit_architectures._auto import AutoAdapter
from tests.architectures.conftest import IDS, built

PER_LAYER = {"post_per_layer_input_norm_out": "per_layer_out"}
"""What a family calls a writer by a name of its own."""


def renamed(site: Site) -> Site:
    return Site(PER_LAYER.get(site.stream, site.stream), site.layer)


def values(model: Any, layout: Layout) -> dict[Site, Tensor]:
    """What a pass shows at every site."""
    seen: dict[Site, Tensor] = {}
    handles = []
    for site in layout.sites():

        def keep(value: Tensor, site: Site = site) -> None:
            seen[renamed(site)] = value.clone()

        handles.append(register_tap(model, layout.tap(site), keep))
    with torch.no_grad():
        model(input_ids=IDS, attention_mask=torch.ones_like(IDS), use_cache=False)
    for handle in handles:
        handle.remove()
    return seen


def assert_same(model: Any, found: Layout, declared: Layout) -> None:
    """Equal sites; equal values there, bit by bit; equal facts beside them."""
    assert [renamed(site) for site in found.sites()] == list(declared.sites())
    self_test(model, found).raise_if_failed()
    one, other = values(model, declared), values(model, found)
    assert [str(site) for site in one if not torch.equal(one[site], other[site])] == []
    assert (found.base, found.final_norm, found.head) == (declared.base, declared.final_norm, declared.head)
    assert (found.softcap, found.logit_scale) == (declared.softcap, declared.logit_scale)
    assert found.embed_is_first_resid_pre == declared.embed_is_first_resid_pre
    assert (found.embed_weight, found.embed_beside) == (declared.embed_weight, ())
    for mine, hand in zip(found.blocks, declared.blocks, strict=True):
        assert (mine.scale, mine.keeps, mine.heads) == (hand.scale, hand.keeps, hand.heads)
        for writer, by_hand in zip(mine.writers, hand.writers, strict=True):
            assert set(writer.projections) == set(by_hand.projections)
            assert set(writer.weighed) >= set(by_hand.weighed)


@pytest.mark.parametrize("model_type", TINY_MODEL_TYPES)
def test_finds_what_the_families_declare(model_type: str) -> None:
    model, declared = built(model_type)
    assert_same(model, AutoAdapter().layout(model), declared)


@pytest.mark.parametrize("parallel", [True, False])
def test_finds_what_the_template_declares(parallel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "plugins" / "template" / "src"))
    adapter = importlib.import_module("steerkit_template._gpt_neox").GPTNeoXAdapter()
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
    config = AutoConfig.for_model("gpt_neox", vocab_size=288, use_parallel_residual=parallel, **sizes)
    model = AutoModelForCausalLM.from_config(config).eval()
    randomise(model)
    assert_same(model, AutoAdapter().layout(model), adapter.layout(model))
