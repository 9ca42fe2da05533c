"""What the rows of a batch have in common at their beginning is read once: equal to whole passes, and fewer tokens."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import steerkit
from steerkit.api.intervention import Placement
from steerkit.api.monitor import Monitor
from steerkit.engine.prompts.batches import common_beginning
from steerkit.engine.prompts.chat import Rendered
from steerkit.engine.reading.monitors import read_along
from steerkit.engine.reading.passes import next_token_logits, sampled_completions, sequence_logits
from steerkit.engine.runtime.shareable import longest_shareable, shareable
from steerkit.engine.sequence.tally import Tally, counting_edited_tokens
from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer
from steerkit.session import ablate, add, wrap
from steerkit.session.model import LiveModel
from steerkit.types import Positions, Site
from tests.conftest import assert_clean, tiny_live
from tests.engine.runtime.beginnings import (
    FAMILIES,
    PROMPTS,
    apart_from,
    assert_close,
    conditions,
    counting,
    direction,
    family,
    reads_less,
    steered,
    tokens_read,
)


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_and_completions_are_those_of_whole_passes(name: str) -> None:
    live = family(name)
    assert shareable(live).refused == shareable(live, generating=True).refused == ""
    whole = apart_from(live)
    for called, placements in conditions(live).items():
        with steered(live, placements):
            found, expected = (next_token_logits(one, live.rendered(PROMPTS)) for one in (live, whole))
            assert_close(found, expected, called)
            assert live.complete(PROMPTS, max_new_tokens=4) == whole.complete(PROMPTS, max_new_tokens=4), called
    assert reads_less(live, lambda one: next_token_logits(one, live.rendered(PROMPTS)))
    assert reads_less(live, lambda one: one.complete(PROMPTS, max_new_tokens=2))
    assert_clean(live)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["llama", "gemma2", "gemma4_text"])
def test_captured_streams_are_those_of_whole_passes(name: str, side: Any) -> None:
    live = family(name)
    sites, whole = list(live.layout.sites()), apart_from(live)
    places = ["all", "instruction", "prompt", 0, -1, "[2:9]", "post_instruction", "instruction[-1]", -30]
    for called in ("nothing", "ablate", "far from the end", "instruction", "token's gate", "two"):
        with steered(live, conditions(live)[called]):
            found, expected = (
                one.capture(PROMPTS, sites, places, kind="rows", padding_side=side, progress=False)
                for one in (live, whole)
            )
        assert list(found) == list(expected)
        for key, statistics in found.items():
            other = expected[key]
            assert statistics.count == other.count
            assert statistics.rows is not None and other.rows is not None
            assert_close(statistics.rows, other.rows, f"{called} {key}")
            assert_close(statistics.mean, other.mean)
    assert reads_less(live, lambda one: one.capture(PROMPTS, ["blocks.1.resid_pre"], padding_side=side, progress=False))


def test_a_capture_leaves_both_passes_behind_the_last_site(llama: LiveModel, monkeypatch: pytest.MonkeyPatch) -> None:
    shareable(llama)
    ran: list[int] = []
    for layer, block in enumerate(llama.layout.blocks):
        mlp = llama.model.get_submodule(block.module).mlp
        assert isinstance(mlp, nn.Module)
        own = mlp.forward
        monkeypatch.setattr(mlp, "forward", lambda x, _own=own, _at=layer: (ran.append(_at), _own(x))[1])
    llama.capture(PROMPTS, ["blocks.1.resid_pre"], [-1], progress=False)
    assert ran == [0, 0]


def test_logits_along_texts_and_readings_are_those_of_whole_passes(llama: LiveModel) -> None:
    whole = apart_from(llama)
    texts = [Rendered((*one.token_ids, 70, 71, 72), one.turns, len(one.token_ids)) for one in llama.rendered(PROMPTS)]
    skip = [text.prompt or 1 for text in texts]
    watch = Monitor("watch", direction(llama, 1), threshold=0.5, positions=Positions.parse("all"))
    key = (Site("resid_post", 2), Positions.parse("all"))
    for called, placements in conditions(llama).items():
        with steered(llama, placements):
            pieces = [list(sequence_logits(one, texts, skip)) for one in (llama, whole)]
            for found, expected in zip(*pieces, strict=True):
                assert found.order == expected.order
                assert torch.equal(found.token_ids, expected.token_ids)
                assert torch.equal(found.token_mask, expected.token_mask)
                assert_close(found.logits[found.token_mask], expected.logits[found.token_mask], called)
            for mine, other in zip(*(read_along(one, texts, [watch], [key]) for one in (llama, whole)), strict=True):
                assert mine.readings["watch"].places == other.readings["watch"].places
                assert_close(*(torch.tensor(one.readings["watch"].values) for one in (mine, other)), called)
                assert_close(mine.activations[key], other.activations[key], called)
            written = [one.completions(PROMPTS, monitors=[watch], max_new_tokens=4) for one in (llama, whole)]
            for mine, other in zip(*written, strict=True):
                assert mine.token_ids == other.token_ids
                assert mine.readings["watch"].places == other.readings["watch"].places
                assert_close(*(torch.tensor(one.readings["watch"].values) for one in (mine, other)), called)


def test_samples_are_those_of_whole_passes(llama: LiveModel) -> None:
    def sampled(live: LiveModel) -> list[list[int]]:
        keys = [str(place) for place in range(len(PROMPTS))]
        rendered = live.rendered(PROMPTS)
        return sampled_completions(live, rendered, keys, max_new_tokens=6, temperature=1.0, top_p=0.9)

    assert sampled(llama) == sampled(apart_from(llama))
    assert reads_less(llama, sampled)


def test_rows_with_conditions_of_their_own_are_those_of_whole_passes(llama: LiveModel) -> None:
    whole, held = apart_from(llama), conditions(llama)
    names = ["nothing", "ablate", "far from the end", "generated", "token's gate", "first tokens", "nothing", "ablate"]
    steer = [held[name] for name in names]
    prompts = [PROMPTS[place % len(PROMPTS)] for place in range(len(steer))]
    around = [add(direction(llama, 0, 7), positions="[1:4]")]
    for outer in ([], around):
        with steered(llama, outer):
            found, expected = (next_token_logits(one, prompts, steer=steer) for one in (llama, whole))
            assert_close(found, expected)
            found, expected = (one.complete(prompts, max_new_tokens=4, steer=steer) for one in (llama, whole))
            assert found == expected
    # Equal conditions share a beginning: nothing, ablate, from the end in two rows, token's gate, first tokens.
    beginning = common_beginning([one.token_ids for one in llama.rendered(prompts)])
    ((batch,),) = [llama.batched(llama.rendered(prompts), "right")]
    assert batch.shared == beginning > 20
    most = 6 * beginning + batch.input_ids[:, beginning:].numel()
    assert tokens_read(llama, lambda one: next_token_logits(one, prompts, steer=steer)) <= most


def test_a_row_that_nothing_edits_gets_the_same_bits_beside_steered_rows(llama: LiveModel) -> None:
    steer = [None, ablate(direction(llama, 1)), None]
    beside, alone = next_token_logits(llama, PROMPTS, steer=steer), next_token_logits(llama, PROMPTS)
    assert torch.equal(beside[0], alone[0]) and torch.equal(beside[2], alone[2])
    assert not torch.allclose(beside[1], alone[1])
    # Bits follow from shapes, and small ones may agree by chance: its beginning is read by itself in either.
    rendered = llama.rendered(PROMPTS)
    (batch,) = llama.batched(rendered, "right")
    with counting(llama) as sizes:
        next_token_logits(llama, rendered, steer=steer)
        next_token_logits(llama, rendered)
    behind = batch.input_ids[:, batch.shared :].numel()
    assert sizes == [batch.shared, batch.shared, behind, batch.shared, behind]


@pytest.mark.parametrize("mode", ["fold", "hook"])
def test_folded_and_hooked_conditions_share(llama: LiveModel, mode: Any) -> None:
    with steered(llama, [ablate(direction(llama, 1))], mode):
        found, expected = (next_token_logits(one, PROMPTS) for one in (llama, apart_from(llama)))
        assert_close(found, expected)
        assert reads_less(llama, lambda one: next_token_logits(one, PROMPTS))


def test_edited_tokens_are_counted_once_for_every_row(llama: LiveModel) -> None:
    def counted(live: LiveModel, placements: list[Placement], by_row: bool) -> dict[Any, int]:
        with counting_edited_tokens(Tally()) as tally, steered(live, [] if by_row else placements):
            live.complete(PROMPTS, max_new_tokens=3, steer=[placements] * len(PROMPTS) if by_row else None)
        return {(place, str(when)): tokens for (place, when), tokens in tally.edited.items()}

    for called, placements in conditions(llama).items():
        for by_row in (False, True):
            found, expected = (counted(one, placements, by_row) for one in (llama, apart_from(llama)))
            assert found == expected, called


def test_most_tokens_of_prompts_like_the_quickstarts_are_spared(llama: LiveModel) -> None:
    # 24 of the 36 tokens of a mean prompt are the template's there.
    rendered = [Rendered((*range(5, 29), *range(40 + row, 52 + row % 5 + row))) for row in range(24)]
    whole = tokens_read(apart_from(llama), lambda one: next_token_logits(one, rendered))
    found = tokens_read(llama, lambda one: next_token_logits(one, rendered))
    assert found < whole / 2
    one = Placement(ablate(direction(llama, 1)).intervention, positions=Positions.parse("-1"))
    steer = [one] * len(rendered)
    work = lambda live: live.complete(rendered, max_new_tokens=1, steer=steer)  # noqa: E731
    assert tokens_read(llama, work) < tokens_read(apart_from(llama), work) / 2


# Where it is not exact


def whole_condition(live: LiveModel, name: str) -> list[Placement]:
    one, other = direction(live, 1), direction(live, 0, 5)
    at_prompt = steerkit.gate(other, above=0.1, at="prompt", positions="instruction")
    return {
        "prompt's gate": [add(one, gate=at_prompt)],
        "prepass": [add(one, gate=replace(at_prompt, prepass=True))],
        "text": [add(one, positions="from_token(s f)")],
    }[name]


@pytest.mark.parametrize("name", ["prompt's gate", "prepass", "text"])
def test_what_the_whole_row_decides_reads_rows_whole(llama: LiveModel, name: str) -> None:
    with steered(llama, whole_condition(llama, name)):
        work = lambda one: one.complete(PROMPTS, max_new_tokens=3)  # noqa: E731
        assert work(llama) == work(apart_from(llama))
        assert not reads_less(llama, work)


@pytest.mark.parametrize("name", ["prompt's gate", "prepass", "text"])
def test_a_row_beside_one_that_is_decided_whole_differs_by_rounding(llama: LiveModel, name: str) -> None:
    steer = [None, whole_condition(llama, name), None]
    beside, alone = next_token_logits(llama, PROMPTS, steer=steer), next_token_logits(llama, PROMPTS)
    assert torch.equal(beside[[0, 2]], next_token_logits(apart_from(llama), PROMPTS)[[0, 2]]), "the bits of whole rows"
    torch.testing.assert_close(beside[[0, 2]], alone[[0, 2]], atol=1e-5, rtol=1e-5)


def test_the_yardstick_somebodys_hook_a_prepared_model_and_gradients_read_rows_whole(llama: LiveModel) -> None:
    work = lambda one: next_token_logits(one, PROMPTS)  # noqa: E731
    with steered(llama, [ablate(direction(llama, 1))], "interpret"):
        assert not reads_less(llama, work)
    with llama.prepare():
        assert not reads_less(llama, work)
    handle = llama.model.get_submodule(llama.layout.blocks[1].module).register_forward_hook(lambda *given: None)
    try:
        assert not reads_less(llama, work)
    finally:
        handle.remove()
    handle = nn.modules.module.register_module_forward_pre_hook(lambda *given: None)
    try:
        assert not reads_less(llama, work)
    finally:
        handle.remove()
    assert reads_less(llama, work)


@pytest.mark.parametrize("settings", [{"num_beams": 2}, {"num_return_sequences": 2, "do_sample": True}])
def test_settings_that_make_other_rows_read_rows_whole(llama: LiveModel, settings: dict[str, Any]) -> None:
    assert not reads_less(llama, lambda one: one.complete(PROMPTS, max_new_tokens=1, **settings))


def test_prompts_beyond_a_window_and_rotations_scaled_by_length_are_read_whole() -> None:
    short = wrap(tiny_model("gemma2", sliding_window=40), tiny_tokenizer())
    assert shareable(short).refused == "" and longest_shareable(short) == 40
    assert max(len(one.token_ids) for one in short.rendered(PROMPTS)) > 40
    assert not reads_less(short, lambda one: next_token_logits(one, PROMPTS))
    fewer = [one[:6] for one in PROMPTS] + ["The sad"]
    assert max(len(one.token_ids) for one in short.rendered(fewer)) < 40
    assert reads_less(short, lambda one: next_token_logits(one, fewer))
    # What is written counts too.
    assert not reads_less(short, lambda one: one.complete(fewer, max_new_tokens=30))
    scaled = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    assert longest_shareable(wrap(tiny_model("llama", rope_parameters=scaled), tiny_tokenizer())) == 0


def test_a_model_whose_cache_is_another_is_read_whole_and_says_why() -> None:
    live = tiny_live("qwen3_next")
    assert "adapter" in shareable(live).refused
    # What is tried would say so as well.
    undeclared = copy.copy(live)
    undeclared.layout = replace(live.layout, shares_beginning=True)
    assert shareable(undeclared).refused
    assert not reads_less(undeclared, lambda one: next_token_logits(one, PROMPTS))
    said = wrap(tiny_model("llama"), tiny_tokenizer())
    said.layout = replace(said.layout, shares_beginning=False)
    assert "adapter" in shareable(said).refused
    assert not reads_less(said, lambda one: next_token_logits(one, PROMPTS))


def test_a_model_that_gives_something_else_behind_a_shared_beginning_is_read_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import steerkit.engine.runtime.caches as caches

    own = caches.for_rows
    monkeypatch.setattr(caches, "for_rows", lambda values, row_of: own(values, row_of) * 1.01)
    live = wrap(tiny_model("llama"), tiny_tokenizer())
    assert "differs by" in shareable(live).refused
    assert not reads_less(live, lambda one: next_token_logits(one, PROMPTS))


def test_that_memory_ran_out_is_nothing_that_a_model_is_remembered_by(monkeypatch: pytest.MonkeyPatch) -> None:
    import steerkit.engine.runtime.shareable as room

    def full(*args: object) -> None:
        raise torch.OutOfMemoryError("full")

    live = wrap(tiny_model("llama"), tiny_tokenizer())
    with monkeypatch.context() as patch:
        patch.setattr(room, "cache_for_rows", full)
        with pytest.raises(torch.OutOfMemoryError):
            shareable(live)
    assert shareable(live).refused == ""


def test_whether_a_model_shares_is_tried_once_and_not_on_its_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    live = wrap(tiny_model("llama"), tiny_tokenizer())
    with steered(live, [ablate(direction(live, 1))]), counting(live) as sizes:
        next_token_logits(live, PROMPTS)
        first = len(sizes)
        next_token_logits(live, PROMPTS)
    assert len(sizes) - first == 2 < first
