"""What layouts say beyond the four families: factors, scalars, flat taps, two embeddings, ends alone."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import steerkit
from steerkit.api.intervention import Affine, Pointwise
from steerkit.engine.sites.selftest import self_test
from steerkit.errors import SiteError
from steerkit.session.model import LiveModel
from steerkit.testing import oracle_logits
from steerkit.types import EMBED, HEAD_OUT, RESID_MID, RESID_POST, Site
from tests.engine.conditions import MODES, Given, Trace, vectors
from tests.engine.declared import DECLARED, WIDTH, declared_model

IDS = torch.randint(6, 280, (2, 4), generator=torch.Generator().manual_seed(0))
SUMS = [name for name in DECLARED if name != "opt-post-norm"]


@cache
def live_of(name: str) -> LiveModel:
    """Made once."""
    return declared_model(name)


def logits_of(live: LiveModel) -> Tensor:
    """Of a bare pass."""
    with torch.no_grad():
        return live.model(input_ids=IDS).logits


def update_of(kind: str, width: int) -> Any:
    """Of a kind, drawn anew for each width."""
    basis = torch.linalg.qr(vectors(width, 2, 3).T)[0].T.contiguous()
    constant = vectors(width, 1, 5)[0]
    return {
        "linear": Affine(basis, -basis),
        "both": Affine(basis, -basis, constant),
        "constant": Affine(bias=constant),
        "function": Pointwise(torch.tanh),
    }[kind]


@pytest.mark.parametrize("name", DECLARED)
@pytest.mark.parametrize("kind", ["linear", "both", "constant", "function"])
def test_every_site_takes_every_update_as_the_oracle_does(name: str, kind: str) -> None:
    live = live_of(name)
    trace = Trace(live.model)
    for site in live.layout.sites():
        condition = Given({str(site): update_of(kind, live.layout.width(site))})
        expected = torch.stack([oracle_logits(live, row, condition) for row in IDS])
        assert (expected - logits_of(live)).abs().max() > 1e-3, f"An edit at {site} shows nowhere."
        for mode in MODES:
            with live.steer(condition, mode=mode):
                torch.testing.assert_close(logits_of(live), expected, atol=5e-5, rtol=1e-5, msg=f"{site}, {mode}")
    trace.check()


@pytest.mark.parametrize("name", SUMS)
@pytest.mark.parametrize("kind", ["both", "constant"])
def test_prepared_places_give_the_oracles_logits(name: str, kind: str) -> None:
    live = live_of(name)
    sites = [site for site in live.layout.sites() if site.stream != HEAD_OUT]
    with live.prepare(sites, rank=2):
        for site in sites:
            condition = Given({str(site): update_of(kind, WIDTH)})
            expected = torch.stack([oracle_logits(live, row, condition) for row in IDS])
            with live.steer(condition):
                torch.testing.assert_close(logits_of(live), expected, atol=5e-5, rtol=1e-5, msg=str(site))
    # Where only the sum was prepared, a constant of the writer is one of the sum.
    middle = Site(RESID_MID, 1)
    condition = Given({"blocks.1.attn_out": update_of("constant", WIDTH)})
    expected = torch.stack([oracle_logits(live, row, condition) for row in IDS])
    with live.prepare([middle], rank=2), live.steer(condition):
        torch.testing.assert_close(logits_of(live), expected, atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize("name", SUMS)
def test_an_ablation_everywhere_is_folded_and_leaves_nothing_anywhere(name: str) -> None:
    live = live_of(name)
    vector = vectors(WIDTH, 1, 7)
    direction = steerkit.Direction(vector, "blocks.0.resid_post")
    unit = vector[0] / vector[0].norm()
    ablation = steerkit.ablate(direction)
    explained = live.explain(ablation, mode="fold")
    folded = {row.sites: row.became for row in explained.rows}
    if name == "scaled":
        # A norm is what gives its first stream.
        assert folded.pop("embed") == "hook"
    assert set(folded.values()) == {"folded"}, folded
    ends = [site for site in live.layout.sites() if site.stream == RESID_POST]
    for mode in MODES:
        with live.steer(ablation, mode=mode):
            read = live.activations([IDS[0].tolist()], ends)
            assert max(float((read.flat(site) @ unit).abs().max()) for site in read.sites) < 1e-5


@pytest.mark.parametrize("name", SUMS)
def test_what_is_captured_is_what_is_added(name: str) -> None:
    live = live_of(name)
    read = live.activations([IDS[0].tolist()], list(live.layout.sites()))
    for layer, block in enumerate(live.layout.blocks):
        total = read.flat(f"blocks.{layer}.resid_pre")
        for place, writer in enumerate(block.writers):
            total = total * block.keep(place) + read.flat(f"blocks.{layer}.{writer.stream}")
            if place == 0:
                torch.testing.assert_close(read.flat(f"blocks.{layer}.resid_mid"), total, atol=1e-5, rtol=1e-5)
        total = total * block.keep(len(block.writers))
        torch.testing.assert_close(read.flat(f"blocks.{layer}.resid_post"), total, atol=1e-5, rtol=1e-5)


def test_a_block_that_is_no_sum_has_two_ends_and_says_why() -> None:
    live = live_of("opt-post-norm")
    assert [str(site) for site in live.layout.sites()][:3] == ["embed", "blocks.0.resid_pre", "blocks.0.resid_post"]
    direction = steerkit.Direction(vectors(WIDTH, 1, 7), "blocks.0.resid_post")
    with pytest.raises(SiteError, match="the stream itself passes final_layer_norm"):
        live.explain(steerkit.ablate(direction))
    with pytest.raises(SiteError, match="only the block's two ends are sites"):
        live.layout.require(Site("attn_out", 0))
    # What was taken out at one end may come back before the next one, so nothing is left out.
    ablation = steerkit.ablate(direction, sites=["embed", "blocks.0.resid_post", "blocks.1.resid_post"])
    assert all(row.became != "dropped" for row in live.explain(ablation).rows)


@pytest.mark.parametrize("name", DECLARED)
def test_the_logit_lens_of_the_last_block_gives_the_logits(name: str) -> None:
    live = live_of(name)
    last = f"blocks.{live.layout.n_layers - 1}.resid_post"
    found = live.logit_lens(live.activations([IDS[0].tolist()], [last])).flat(last)
    torch.testing.assert_close(found, logits_of(live)[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", DECLARED)
def test_the_layouts_hold(name: str) -> None:
    live = live_of(name)
    self_test(live.model, live.layout).raise_if_failed()
    assert Site(EMBED) in live.layout.sites()


def test_factors_at_the_embedding_and_at_heads_are_honoured_by_folds() -> None:
    live = declared_model("scaled")
    block, *others = live.layout.blocks
    assert block.heads is not None
    heads = replace(block.heads, tap=replace(block.heads.tap, factor=0.5))
    live.layout = replace(live.layout, blocks=(replace(block, heads=heads), *others))
    condition = Given({"blocks.0.head_out": update_of("both", WIDTH)})
    expected = torch.stack([oracle_logits(live, row, condition) for row in IDS])
    assert {row.became for row in live.explain(condition, mode="fold").rows} == {"folded"}
    for mode in MODES:
        with live.steer(condition, mode=mode):
            torch.testing.assert_close(logits_of(live), expected, atol=5e-5, rtol=1e-5)


def test_a_norm_between_embedding_and_first_block_brings_back_what_was_taken() -> None:
    live = declared_model("opt-post-norm")
    live.layout = replace(live.layout, embed_is_first_resid_pre=False)
    direction = steerkit.Direction(vectors(WIDTH, 1, 7), "blocks.0.resid_pre")
    ablation = steerkit.ablate(direction, sites=["embed", "blocks.0.resid_pre"])
    assert all(row.became != "dropped" for row in live.explain(ablation).rows)
