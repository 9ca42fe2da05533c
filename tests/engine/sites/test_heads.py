"""One head as a site: read as its columns, edited as such in every way there is, against the oracle and by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import steerkit
from steerkit.api.direction import Direction
from steerkit.api.intervention import Affine, Pointwise
from steerkit.errors import AttachError, SiteError
from steerkit.session.model import LiveModel
from steerkit.testing.oracle import oracle_logits
from steerkit.types import Positions, Site
from tests.engine.conditions import Given

IDS = torch.tensor([[2, 70, 71, 72, 73, 74]])
HEAD = "blocks.1.head_out[1]"
MODES = ["auto", "fold", "hook", "interpret"]


def width(live: LiveModel) -> int:
    return live.layout.width(Site.parse(HEAD))


def direction(live: LiveModel, seed: int = 0, rank: int = 1, site: str = HEAD) -> Direction:
    vectors = torch.randn(rank, width(live), generator=torch.Generator().manual_seed(seed))
    return Direction(vectors, site, name=f"d{seed}")


def by_hand(live: LiveModel, change: Any) -> Tensor:
    """Logits with head 1 of block 1 changed by a hook of the test's own."""
    own = slice(width(live), 2 * width(live))

    def hook(module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        new = args[0].clone()
        new[..., own] = change(new[..., own])
        return (new, *args[1:])

    handle = live.hf_model.model.layers[1].self_attn.o_proj.register_forward_pre_hook(hook)
    try:
        with torch.no_grad():
            logits: Tensor = live.hf_model(IDS).logits
    finally:
        handle.remove()
    return logits


def test_the_layout_knows_heads(llama: LiveModel) -> None:
    layout, head = llama.layout, Site.parse(HEAD)
    heads = layout.blocks[1].heads
    assert heads is not None and heads.n_heads > 1
    assert layout.width(head) == heads.d_head and layout.width(head.whole) == heads.n_heads * heads.d_head
    assert layout.tap(head) == layout.tap(head.whole) and layout.order[head] == layout.order[head.whole]
    assert layout.columns(head) == slice(heads.d_head, 2 * heads.d_head) and layout.columns(head.whole) == slice(None)
    assert head not in layout.sites()
    with pytest.raises(SiteError, match=rf"block 1 has {heads.n_heads} heads, 0 to {heads.n_heads - 1}"):
        layout.require(Site("head_out", 1, heads.n_heads))
    with pytest.raises(SiteError, match="layers"):
        layout.require(Site("head_out", 99, 0))


def test_a_head_is_captured_as_its_columns(llama: LiveModel) -> None:
    texts = ["one", "two words", "three words now"]
    head, whole = Site.parse(HEAD), Site("head_out", 1)
    found = llama.capture(texts, [head, whole], kind="rows", progress=False)
    key = Positions("", (-1,))
    rows, all_rows = found[head, key].rows, found[whole, key].rows
    assert rows is not None and all_rows is not None
    assert torch.equal(rows, all_rows[:, llama.layout.columns(head)])
    assert found[head, key].mean.shape == (width(llama),)


@pytest.mark.parametrize("mode", MODES)
def test_adding_at_a_head_is_what_it_is_by_hand(llama: LiveModel, mode: Any) -> None:
    added = direction(llama)
    expected = by_hand(llama, lambda x: x + 2 * added.vectors[0])
    with llama.steer(steerkit.add(added, coefficient=2.0), mode=mode):
        found = llama.forward(IDS).logits
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, llama.forward(IDS).logits, atol=1e-3)


@pytest.mark.parametrize("mode", MODES)
def test_ablating_and_functions_at_a_head(llama: LiveModel, mode: Any) -> None:
    removed = direction(llama, 1, rank=2)
    basis = torch.linalg.qr(removed.vectors.T).Q
    conditions = {
        steerkit.ablate(removed, sites=HEAD): by_hand(llama, lambda x: x - x @ basis @ basis.T),
        Given({HEAD: Pointwise(torch.tanh)}): by_hand(llama, torch.tanh),
    }
    for condition, expected in conditions.items():
        assert torch.allclose(oracle_logits(llama, IDS[0], condition), expected[0], atol=1e-5)
        with llama.steer(condition, mode=mode):
            assert torch.allclose(llama.forward(IDS).logits, expected, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_heads_of_one_layer_and_all_of_them_together(llama: LiveModel, mode: Any) -> None:
    whole = torch.randn(1, llama.layout.width(Site("head_out", 1)), generator=torch.Generator().manual_seed(5))
    condition = [
        steerkit.add(direction(llama, 0, site="blocks.1.head_out[0]")),
        steerkit.ablate(direction(llama, 1), sites=HEAD),
        steerkit.ablate(Direction(whole, "blocks.1.head_out"), sites="blocks.1.head_out", positions="[1,3]"),
        steerkit.add(direction(llama, 2), coefficient=-1.0, sites=[HEAD, "blocks.0.head_out[1]"]),
        Given({"blocks.1.head_out[0]": Affine(direction(llama, 3).vectors, direction(llama, 4).vectors)}),
    ]
    with llama.steer(*condition, mode=mode):
        found = llama.forward(IDS).logits[0]
    assert torch.allclose(found, oracle_logits(llama, IDS[0], condition), atol=1e-4)


def test_rows_and_gates_at_heads(llama: LiveModel) -> None:
    read = llama.capture(["x"], Site.parse(HEAD), "all", kind="rows", progress=False)
    del read  # only that it can be read while nothing is steered
    for threshold in (-0.2, 0.0, 0.2):
        gated = steerkit.add(
            Direction(torch.ones(1, llama.layout.d_model), "blocks.1.resid_post"),
            gate=steerkit.gate(direction(llama, 3), above=threshold),
        )
        rows: list[Any] = [steerkit.add(direction(llama, 0)), gated, None]
        found = llama.forward(IDS.expand(3, -1), steer=rows).logits
        for row, condition in enumerate(rows):
            assert torch.allclose(found[row], oracle_logits(llama, IDS[0], condition), atol=1e-5)
        with llama.steer(gated):
            assert torch.allclose(llama.forward(IDS).logits[0], found[1], atol=1e-5)
    plain = llama.forward(IDS).logits[0]
    always = steerkit.gate(direction(llama, 3), above=-1e9)
    placed = steerkit.add(Direction(torch.ones(1, llama.layout.d_model), "blocks.1.resid_post"), gate=always)
    assert not torch.allclose(oracle_logits(llama, IDS[0], placed), plain, atol=1e-3)


def test_a_prepared_head(llama: LiveModel) -> None:
    added, removed = steerkit.add(direction(llama)), steerkit.ablate(direction(llama, 1), sites=HEAD)
    conditions = ([added], [removed], [added, removed])
    expected = [oracle_logits(llama, IDS[0], condition) for condition in conditions]
    for sites in ([HEAD], [added, removed]):
        with llama.prepare(sites, rank=1):
            for condition, logits in zip(conditions, expected, strict=True):
                with llama.steer(*condition):
                    assert torch.allclose(llama.forward(IDS).logits[0], logits, atol=1e-5)


def test_a_direction_of_another_width_is_refused_and_explain_names_the_head(llama: LiveModel) -> None:
    wide = Direction(torch.ones(1, llama.layout.d_model), "blocks.1.resid_pre")
    with pytest.raises(AttachError, match=rf"at blocks\.1\.head_out\[1\] has bias of width {llama.layout.d_model}"):
        llama.explain(steerkit.add(wide, sites=HEAD))
    (row,) = llama.explain(steerkit.add(direction(llama), sites="blocks.*.head_out[0]")).rows
    assert row.sites == f"blocks.0-{llama.layout.n_layers - 1}.head_out[0]"


def test_gradients_reach_a_head(llama: LiveModel) -> None:
    vectors = direction(llama).vectors.clone().requires_grad_()
    with llama.steer(steerkit.add(Direction(vectors, HEAD)), mode="hook"):
        llama.forward(IDS).logits.square().sum().backward()
    assert vectors.grad is not None and bool((vectors.grad.abs() > 0).all())


def test_a_direction_can_be_estimated_at_a_head(llama: LiveModel) -> None:
    classes = ["sing a song", "sing"], ["report it", "report now"]
    where: Any = {"site": "blocks.*.head_out[1]", "positions": "instruction"}
    found = steerkit.estimate_direction(llama, *classes, **where, progress=False)
    assert {str(site) for site in found.sites} == {f"blocks.{n}.head_out[1]" for n in range(llama.layout.n_layers)}
    assert {vectors.shape[1] for _, vectors in found.items()} == {width(llama)}


def test_a_direction_of_a_head_at_whole_streams_is_told_as_that(llama: LiveModel) -> None:
    site = Site.parse("blocks.1.head_out[1]")
    one = Direction(torch.ones(1, llama.layout.width(site)), site, -1, "d")
    with pytest.raises(AttachError, match=r"or at a head\? What is a head's acts at its own site: name it as sites"):
        llama.explain(steerkit.ablate(one))
    wide = Direction(torch.ones(1, llama.layout.d_model + 1), Site("resid_pre", 1), -1, "d")
    with pytest.raises(AttachError, match=r"Was the direction estimated on another model\?$"):
        llama.explain(steerkit.add(wide))
