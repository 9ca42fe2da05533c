"""Activations token by token against a model's own hidden states, prompt by prompt without padding."""

from __future__ import annotations

import sys
import types
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import steerkit
from steerkit.engine.reading.activations import Activations, text_of_token
from steerkit.errors import DataError, PositionError, SiteError, SteerkitError
from steerkit.session.model import LiveModel
from steerkit.types import Example, Message, Site
from tests.conftest import assert_clean, tiny_live

PROMPTS = ["Short", "A prompt of middling length", "The longest of them all, by a good deal, as it is", "Two words"]
SITE = "blocks.1.resid_pre"


def literal(live: LiveModel, prompt: Any, layer: int) -> tuple[tuple[int, ...], Tensor]:
    """Tokens of a rendered prompt and the input of a block at each of them."""
    ids = live.chat.render(prompt, completion=True).token_ids
    with torch.no_grad():
        hidden = live.model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[layer][0]
    return ids, hidden


@pytest.mark.parametrize("model_type", ["llama", "qwen3_next", "gemma3_text"])
@pytest.mark.parametrize("batch_tokens", [8, 4096])
def test_every_token_is_that_of_the_unpadded_prompt(model_type: str, batch_tokens: int) -> None:
    live = replace(tiny_live(model_type), batch_tokens=batch_tokens)
    found = live.activations(PROMPTS, ["blocks.2.resid_pre", SITE], progress=False)
    assert isinstance(found, Activations) and found.sites == (Site("resid_pre", 2), Site("resid_pre", 1))
    padded = found[SITE]
    for row, prompt in enumerate(PROMPTS):
        ids, hidden = literal(live, prompt, 1)
        assert found.read.token_ids[row] == ids and found.read.places[row] == tuple(range(len(ids)))
        assert torch.allclose(found.ragged(SITE)[row], hidden, atol=1e-5)
        assert torch.equal(padded[row, : len(ids)], found.ragged(SITE)[row]) and not bool(padded[row, len(ids) :].any())
        assert found.mask[row].tolist() == [place < len(ids) for place in range(padded.shape[1])]
        assert "".join(found.tokens[row]) == live.chat.text(prompt)
    assert torch.equal(found.flat(SITE), padded[found.mask]) and len(found.tokens) == 4
    assert [*found] == list(found.sites) and len(found) == 2 and SITE in found and "embed" not in found
    assert torch.equal(torch.from_numpy(found.to_numpy(SITE)), padded)
    assert_clean(live)


@pytest.mark.parametrize(
    "positions", ["instruction", "post_instruction", "instruction[-1]", -2, [-3, -1], "from_token(wo)", "[-3:][*]"]
)
def test_tokens_are_those_that_positions_name(llama: LiveModel, positions: Any) -> None:
    found = llama.activations(PROMPTS, SITE, positions, progress=False)
    one = SITE if not isinstance(positions, list) else Site.parse(SITE)
    for row, prompt in enumerate(PROMPTS):
        ids, hidden = literal(llama, prompt, 1)
        places = list(found.read.places[row])
        assert found.read.token_ids[row] == tuple(ids[place] for place in places)
        assert torch.allclose(found.ragged(one)[row], hidden[places], atol=1e-5)
        end = len(ids)
        if positions == "instruction":
            assert "".join(found.tokens[row]) == prompt
        elif positions == [-3, -1]:
            assert places == [end - 3, end - 1]
        elif positions == "[-3:][*]":
            assert places == [end - 3, end - 2, end - 1]
        elif positions == "from_token(wo)":
            behind = llama.chat.text(prompt).partition("wo")[2]
            assert "".join(found.tokens[row]) == behind and bool(behind) is (prompt == "Two words")
    if positions == "from_token(wo)":
        assert found.read.counts[:3] == (0, 0, 0) and found.mask.sum(1).tolist() == list(found.read.counts)


def test_completions_are_read_where_positions_name_them(llama: LiveModel) -> None:
    example = Example((Message("user", "Say it"),), completion="so it is")
    found = llama.activations([example], SITE, "completion", progress=False)
    assert "".join(found.tokens[0]) == "so it is"
    _, hidden = literal(llama, example, 1)
    assert torch.allclose(found.ragged()[0], hidden[-8:], atol=1e-5)


def test_it_reads_under_what_steers_and_of_token_ids(llama: LiveModel) -> None:
    added = steerkit.add(steerkit.Direction.from_vector(np.ones(32), SITE))
    plain = llama.activations(PROMPTS[:2], SITE, progress=False)
    with llama.steer(added):
        inside = llama.activations(PROMPTS[:2], SITE, progress=False)
    by_row = llama.activations(PROMPTS[:2], SITE, steer=[None, added], progress=False)
    assert torch.allclose(inside.flat(), plain.flat() + 1, atol=1e-5)
    assert torch.allclose(by_row.ragged()[0], plain.ragged()[0], atol=1e-5)
    assert torch.allclose(by_row.ragged()[1], plain.ragged()[1] + 1, atol=1e-5)
    of_ids = llama.activations([list(row) for row in plain.read.token_ids], SITE, progress=False)
    assert of_ids.read.token_ids == plain.read.token_ids and torch.allclose(of_ids.flat(), plain.flat(), atol=1e-5)
    untold = steerkit.wrap(llama.model, None)
    assert untold.activations([[4, 5]], SITE, progress=False).tokens == (("#4", "#5"),)


def test_frames_have_a_row_for_each_token_of_each_site(llama: LiveModel, monkeypatch: pytest.MonkeyPatch) -> None:
    found = llama.activations(PROMPTS, [SITE, "embed"], "instruction", progress=False)
    fake = types.ModuleType("pandas")
    fake.DataFrame = dict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pandas", fake)
    frame = found.to_frame()
    rows = sum(found.read.counts)
    assert {len(column) for column in frame.values()} == {2 * rows}
    assert list(frame)[:6] == ["site", "prompt", "place", "token_id", "token", "x0"] and list(frame)[-1] == "x31"
    assert frame["site"] == [SITE] * rows + ["embed"] * rows
    assert frame["token"][: len("Short")] == list("Short")
    values = np.stack([frame[f"x{place}"] for place in range(32)], 1)
    assert np.array_equal(values, torch.cat([found.flat(SITE), found.flat("embed")]).numpy())
    assert {len(column) for column in found.to_frame("embed").values()} == {rows}
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(SteerkitError, match=r"pip install pandas`\. Without it there is to_numpy\(site\)\.$"):
        found.to_frame()


def test_mistakes_are_told(llama: LiveModel) -> None:
    found = llama.activations(PROMPTS, [SITE, "embed"], progress=False)
    with pytest.raises(SiteError, match=r"Nothing was read at blocks\.2\.resid_pre\. There is blocks\.1\.resid_pre"):
        found["blocks.2.resid_pre"]
    with pytest.raises(SiteError, match=r"several sites, blocks\.1\.resid_pre, embed\. Name the one"):
        found.to_numpy()
    with pytest.raises(SiteError, match="no site to read at"):
        llama.activations(PROMPTS, [])
    with pytest.raises(DataError, match="no prompts"):
        llama.activations([], SITE)
    with pytest.raises(PositionError, match="has only"):
        llama.activations(PROMPTS, SITE, 500)
    with pytest.raises(SteerkitError, match=r"no argument 'position'. Did you mean 'positions'"):
        llama.activations(PROMPTS, SITE, position=-1)  # type: ignore[call-arg]
    mixed = llama.activations(PROMPTS, [SITE, "blocks.1.head_out[0]"], progress=False)
    with pytest.raises(
        SiteError, match=r"sites of one width, and blocks\.1\.resid_pre has 32, blocks\.1\.head_out\[0\]"
    ):
        mixed.to_frame()


def test_it_is_shown_in_a_few_lines(llama: LiveModel) -> None:
    found = llama.activations(PROMPTS, llama.layout.sites(), progress=False)
    assert len(repr(found).splitlines()) == 8 and repr(found).splitlines()[-1] == "  ... and 13 sites more"
    assert "Activations of 4 prompts at 19 sites, positions 'all'" in repr(found)
    one = llama.activations(["<b>"], SITE, "instruction[0]", progress=False)
    assert repr(one).startswith("Activations of 1 prompt at 1 site, positions 'instruction[0]', 1 token each\n")
    assert "first prompt: &#x27;&lt;&#x27;" in one._repr_html_()


class _Sentencepiece:
    """What a decoder of Llama 2's kind does: the first space is the mark of a text's beginning."""

    def decode(self, ids: list[int], **options: Any) -> str:
        return {1: "the", 2: "r", 3: ""}[ids[0]]

    def convert_ids_to_tokens(self, token: int) -> str:
        return {1: "▁the", 2: "r", 3: "<0x80>"}[token]


def test_a_word_of_a_sentencepiece_vocabulary_keeps_its_space(llama: LiveModel) -> None:
    live = replace(llama, tokenizer=_Sentencepiece())  # type: ignore[arg-type]
    assert [text_of_token(live, token) for token in (1, 2, 3)] == [" the", "r", "#3"]


def test_what_is_no_site_is_in_none_of_them(llama: LiveModel) -> None:
    read = llama.activations("hello", "blocks.1.resid_post")
    captured = llama.capture("hello", "blocks.1.resid_post", -1, progress=False)
    for found in (read, captured):
        assert "blocks.1.resid_post" in found and "blocks.0.resid_post" not in found
        assert "nonsense" not in found and 3 not in found
