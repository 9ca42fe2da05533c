"""Shared beginnings and passes that begin at a layer, against whole passes, on every family."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steerkit.api.direction import Direction
from steerkit.api.intervention import Placement
from steerkit.engine.prompts.chat import Rendered
from steerkit.engine.reading.passes import next_token_logits
from steerkit.engine.searching.alike import (
    AlikePrompts,
    Shortcuts,
    common_beginning,
    cut_evenly,
    found_shortcuts,
    rows_fault,
)
from steerkit.engine.searching.partial import Below, beginning_at
from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer
from steerkit.session import ablate, add, wrap
from steerkit.session.model import LiveModel
from steerkit.types import Site
from tests.conftest import assert_clean, tiny_live

FAMILIES = ("llama", "qwen2", "qwen3", "qwen3_moe", "qwen3_next", "gemma2", "gemma3_text", "gemma4_text")
PROMPTS = ["The same words first, then one", "The same words first, then another one", "The same words first, now less"]


def direction(live: LiveModel, layer: int, seed: int = 0) -> Direction:
    vector = torch.randn(1, live.layout.d_model, generator=torch.Generator().manual_seed(seed))
    return Direction(vector, Site("resid_pre", layer), -1, "d")


def conditions(live: LiveModel) -> dict[str, list[Placement]]:
    last = live.layout.n_layers - 1
    return {
        "nothing": [],
        "ablate": [ablate(direction(live, 1))],
        "add below": [add(direction(live, 0), coefficient=2.0)],
        "add above": [add(direction(live, last), coefficient=2.0)],
        "add to a writer": [add(direction(live, 1), coefficient=2.0, sites=[f"blocks.{last}.mlp_out"])],
        "both": [ablate(direction(live, 1)), add(direction(live, last, 1))],
    }


def whole(live: LiveModel, rendered: Sequence[Rendered], placements: Sequence[Placement]) -> torch.Tensor:
    if not placements:
        return next_token_logits(live, rendered)
    with live.steer(*placements, mode="hook"):
        return next_token_logits(live, rendered)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_shared_gives_what_whole_passes_give(family: str) -> None:
    live = tiny_live(family)
    rendered = live.rendered(PROMPTS)
    before = {name: value.clone() for name, value in live.model.state_dict().items()}
    alike = AlikePrompts(live, rendered)
    for name, placements in conditions(live).items():
        expected = whole(live, rendered, placements)
        found = alike.all_logits(placements)
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=2e-4, msg=f"{family}, {name}")
    assert_clean(live)
    for name, value in live.model.state_dict().items():
        assert value.equal(before[name]), name


@pytest.mark.parametrize("family", ("llama", "qwen3_next", "gemma2", "gemma4_text"))
def test_conditions_side_by_side_give_what_each_gives_alone(family: str) -> None:
    """Whatever they are: without any, below, above, by families that share no beginning or begin at no layer."""
    live = tiny_live(family)
    alike, held = AlikePrompts(live, live.rendered(PROMPTS)), conditions(live)
    for names in (list(held), ["add above", "add above", "add to a writer"], ["add below"]):
        found = alike.logits_of_each([held[name] for name in names])
        for name, logits in zip(names, found, strict=True):
            torch.testing.assert_close(logits, alike.all_logits(held[name]), atol=2e-4, rtol=2e-4, msg=name)
    assert rows_fault(live, live.rendered(PROMPTS[:2])) == ""
    assert alike.side_by_side == 1, "one condition fills a CPU"
    assert_clean(live)


def test_a_llama_takes_both_shortcuts_and_reads_fewer_tokens(llama: LiveModel) -> None:
    rendered = llama.rendered(PROMPTS)
    alike = AlikePrompts(llama, rendered)
    assert alike.shortcuts == Shortcuts()
    assert alike.beginning is not None
    shared = common_beginning(rendered)
    assert alike.beginning.ids.tolist() == [list(rendered[0].token_ids[:shared])]
    assert alike.tokens < sum(len(prompt.token_ids) for prompt in rendered)


def test_blocks_below_an_edit_are_not_run(llama: LiveModel, monkeypatch: pytest.MonkeyPatch) -> None:
    alike = AlikePrompts(llama, llama.rendered(PROMPTS))
    ran: list[int] = []
    for layer, block in enumerate(llama.layout.blocks):
        attention = llama.model.get_submodule(block.module).self_attn
        own = attention.forward
        monkeypatch.setattr(
            attention, "forward", lambda *a, _own=own, _at=layer, **k: (ran.append(_at), _own(*a, **k))[1]
        )
    alike.all_logits([add(direction(llama, 2))])
    assert set(ran) == set(range(2, llama.layout.n_layers))


def test_a_model_that_shares_nothing_is_read_whole_and_says_why(
    llama: LiveModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    import steerkit.engine.searching.alike as module

    rendered = llama.rendered(PROMPTS)

    def refuse(cache: object, rows: int, copies: int) -> object:
        raise RuntimeError("this cache is not shared")

    monkeypatch.setattr(module, "_shared_by", refuse)
    shortcuts = found_shortcuts(llama, rendered)
    assert not shortcuts.prefix
    assert shortcuts.layers
    assert "this cache is not shared" in shortcuts.no_prefix
    alike = AlikePrompts(llama, rendered, shortcuts)
    assert alike.beginning is None and alike.refused == (shortcuts.no_prefix,)
    placements = [ablate(direction(llama, 1))]
    torch.testing.assert_close(alike.all_logits(placements), whole(llama, rendered, placements), atol=1e-5, rtol=1e-5)


def test_a_shortcut_that_gives_something_else_is_not_taken(llama: LiveModel, monkeypatch: pytest.MonkeyPatch) -> None:
    import steerkit.engine.runtime.caches as module

    own = module.for_rows
    monkeypatch.setattr(module, "for_rows", lambda values, row_of: own(values, row_of) * 1.01)
    shortcuts = found_shortcuts(llama, llama.rendered(PROMPTS))
    assert not shortcuts.prefix
    assert "differ by" in shortcuts.no_prefix


@pytest.mark.parametrize(
    ("family", "declared"), [("qwen3_next", "shares_beginning"), ("gemma4_text", "begins_at_block")]
)
def test_what_an_adapter_rules_out_is_not_tried_and_told(family: str, declared: str) -> None:
    live = copy.copy(tiny_live(family))
    rendered = live.rendered(PROMPTS)
    assert not getattr(live.layout, declared)
    (told,) = AlikePrompts(live, rendered).refused
    assert "the adapter says" in told
    # Who doesn't declare it is found out, on the same model.
    live.layout = replace(live.layout, shares_beginning=True, begins_at_block=True)
    (found,) = AlikePrompts(live, rendered).refused
    assert found.partition(":")[0] == told.partition(":")[0] and "the adapter says" not in found


def test_shortcuts_are_tried_once_per_model(monkeypatch: pytest.MonkeyPatch) -> None:
    import steerkit.engine.searching.alike as module

    live, tried = wrap(tiny_model("llama", seed=5), tiny_tokenizer()), list[LiveModel]()
    own = module.found_shortcuts

    def counted(model: LiveModel, prompts: Sequence[Rendered]) -> Shortcuts:
        tried.append(model)
        return own(model, prompts)

    monkeypatch.setattr(module, "found_shortcuts", counted)
    for prompts in (PROMPTS, ["only one"], ["other words", "other people"]):
        assert AlikePrompts(live, live.rendered(prompts)).shortcuts == Shortcuts()
    assert len(tried) == 1


def test_where_the_length_of_a_pass_counts_the_longest_prompts_are_tried() -> None:
    """Rotations that are scaled by the length of a pass turn a beginning that is read by itself otherwise."""
    scaled = {"rope_type": "dynamic", "factor": 8.0, "rope_theta": 10000.0}
    live = wrap(tiny_model("llama", rope_parameters=scaled, max_position_embeddings=64), tiny_tokenizer())
    long = "The same words first, then so many more that a pass of them is longer than what the model was trained on"
    rendered = live.rendered([*PROMPTS[:2], long])
    alike = AlikePrompts(live, rendered)
    assert "differ by" in alike.refused[0]
    alone = torch.cat([next_token_logits(live, [one]) for one in rendered])  # a row turns with the longest beside it
    torch.testing.assert_close(alike.all_logits([]), alone, atol=1e-5, rtol=1e-5)


def test_blocks_are_as_they_were_after_an_exception(llama: LiveModel) -> None:
    below = Below([torch.zeros(1, 1, llama.layout.d_model)] * llama.layout.n_layers)
    with pytest.raises(ZeroDivisionError), beginning_at(llama.model, llama.layout, 2, below):
        assert "forward" in vars(llama.model.get_submodule(llama.layout.blocks[0].module))
        raise ZeroDivisionError
    for block in llama.layout.blocks:
        assert "forward" not in vars(llama.model.get_submodule(block.module))


def test_prompts_that_begin_apart_and_a_single_one_share_nothing(llama: LiveModel) -> None:
    apart = llama.rendered([[3, 4, 5, 6, 7, 8], [4, 4, 5, 6, 7, 8]])
    assert common_beginning(apart) == 0
    assert common_beginning(llama.rendered(["only one of them here"])) == 0
    # At least one token of each is left over.
    inside = llama.rendered([[3, 4, 5, 6, 7, 8], [3, 4, 5, 6, 7]])
    assert common_beginning(inside) == 4


@given(st.lists(st.integers(1, 60), min_size=1, max_size=24), st.integers(60, 400))
def test_pieces_hold_every_row_once_within_the_budget(lengths: list[int], budget: int) -> None:
    pieces = cut_evenly(lengths, budget)
    assert sorted(place for piece in pieces for place in piece) == list(range(len(lengths)))
    for piece in pieces:
        width = max(lengths[place] for place in piece)
        assert len(piece) == 1 or width * len(piece) <= budget


@given(st.lists(st.integers(1, 12), min_size=1, max_size=7))
def test_pieces_cost_no_more_than_any_cut_of_sorted_rows(lengths: list[int]) -> None:
    def cost(pieces: list[list[int]]) -> int:
        return sum(max(lengths[place] for place in piece) * len(piece) + 24 for piece in pieces)

    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    cuts = []
    for mask in range(2 ** (len(order) - 1)):
        ends = [at + 1 for at in range(len(order) - 1) if mask >> at & 1] + [len(order)]
        starts = [0, *ends[:-1]]
        cuts.append([order[start:end] for start, end in zip(starts, ends, strict=True)])
    assert cost(cut_evenly(lengths, 1000)) == min(map(cost, cuts))


def cut_slowly(lengths: list[int], most_tokens: int, pass_tokens: int) -> list[list[int]]:
    """Every start for every end, the definition of what ``cut_evenly`` does: of equal costs the earliest start."""
    order = sorted(range(len(lengths)), key=lambda place: (-lengths[place], place))
    best = [0.0] + [math.inf] * len(order)
    begins = [0] * (len(order) + 1)
    for end in range(1, len(order) + 1):
        for start in range(end):
            tokens = (end - start) * lengths[order[start]]
            if tokens > most_tokens and end - start > 1:
                continue
            cost = best[start] + tokens + pass_tokens
            if cost < best[end]:
                best[end], begins[end] = cost, start
    pieces = []
    end = len(order)
    while end:
        pieces.append(order[begins[end] : end])
        end = begins[end]
    return pieces[::-1]


@settings(max_examples=400, deadline=None)
@given(
    st.one_of(
        st.lists(st.integers(1, 60), max_size=40),
        st.lists(st.integers(0, 4), max_size=40),
        st.lists(st.sampled_from([1, 2, 50, 51, 400]), max_size=40),
    ),
    st.integers(1, 500),
    st.integers(0, 90),
)
def test_pieces_are_those_of_trying_every_start(lengths: list[int], budget: int, pass_tokens: int) -> None:
    assert cut_evenly(lengths, budget, pass_tokens) == cut_slowly(lengths, budget, pass_tokens)


def test_many_rows_are_cut_at_once() -> None:
    """Steps are counted, not seconds: every start joins and leaves those that lie ahead at most once."""
    steps = 0

    class Counted(int):
        def __mul__(self, other: int) -> int:
            nonlocal steps
            steps += 1
            return int(self) * other

        __rmul__ = __mul__

    lengths: list[int] = [Counted(1 + place % 97 + place // 40) for place in range(4000)]
    pieces = cut_evenly(lengths, 4096)
    assert sum(map(len, pieces)) == len(lengths) and len(lengths) <= steps <= 10 * len(lengths)
