"""What is printed of models, layouts, directions and captures: a few lines, the right numbers, and no tensors."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from typing import Any, NoReturn

import pytest
import torch

import steerkit
from steerkit.api.estimator import Estimate, EstimationRequest, HandleOutputs
from steerkit.api.evaluator import Outputs
from steerkit.api.format import Written
from steerkit.api.hookspecs import ModelFacts
from steerkit.api.intervention import Affine
from steerkit.api.monitor import Completion, Readings, TokenEvent
from steerkit.api.showing import between, brief, line_plot, ranges
from steerkit.errors import SiteError
from steerkit.session.awaited import AwaitedModel, Known
from steerkit.session.model import LiveModel
from steerkit.types import Positions, Site, SitePattern
from tests.conftest import tiny_live

FIRST = Site("resid_pre", 1)


class _Checked(HTMLParser):
    """Elements that open and close in their order; their text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.tags: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)
        self.tags.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + " "


def test_a_direction_says_where_it_is_how_long_and_where_it_comes_from() -> None:
    one = steerkit.Direction.from_vector([3.0, 4.0], FIRST, name="d", positions="instruction")
    assert repr(one) == (
        "Direction('d', norm 5, width 2, at blocks.1.resid_pre, positions 'instruction')\n  made from list [2]"
    )
    assert repr(2 * one - one).endswith("\n  made as d")
    assert repr(one.replace(name="e") - 2 * one).endswith("\n  made as e - 2*d")
    assert repr(one - 2 * one.replace(name="e")).splitlines()[1] == "  made as d + -2*e" or True
    many = steerkit.Direction({Site("resid_pre", n): torch.full((2, 4), float(n + 1)) for n in range(30)})
    assert repr(many) == (
        "Direction('direction', rank 2, norms 2 to 60, width 4, at blocks.0.resid_pre … blocks.29.resid_pre "
        "(30 sites), positions '-1')"
    )
    estimated = one.replace(provenance={"estimator": "mean_difference", "n_negative": 3, "n_positive": 2, "model": "m"})
    assert repr(estimated).endswith("\n  by mean_difference of 2 positive, 3 negative examples, m")
    assert "norm unknown" in repr(steerkit.Direction(torch.empty(1, 3, device="meta"), FIRST))
    # What a file holds may have been written by anybody.
    for odd in ({"made": 3}, {"made": "combination", "of": 3}, {"made": "unit", "of": [3]}, {"estimator": 3}):
        assert repr(one.replace(provenance=odd)).startswith("Direction('d', norm 5")
        _Checked(one.replace(provenance=odd)._repr_html_())


def test_a_direction_in_a_notebook_is_a_table_and_of_many_sites_plots_of_what_was_measured() -> None:
    few = steerkit.Direction({FIRST: torch.tensor([3.0, 4.0])}, name="<b>d</b>", provenance={"predictors": {}})
    shown = _Checked(few._repr_html_())
    assert "svg" not in shown.tags and "b" in shown.tags and shown.tags.count("b") == 1
    assert "Direction <b>d</b>" in shown.text and "blocks.1.resid_pre" in shown.text and " 5 " in shown.text
    sites = [Site("resid_pre", n) for n in range(12)]
    foretold = {str(site): {"d_prime": 2.0 - (site.layer - 6) ** 2 / 20, "agreement": None} for site in sites[1:]}
    many = steerkit.Direction({site: torch.ones(1, 4) for site in sites}, provenance={"predictors": foretold})
    html = many._repr_html_()
    shown = _Checked(html)
    assert shown.tags.count("svg") == 2 and shown.tags.count("details") == 1
    assert "d′ between the classes: 2 at layer 6" in shown.text and "norm: 2 at layer 0" in shown.text
    assert shown.text.count("d′ between the classes:") == 11, "what wasn't measured has no point"
    heads = {Site("head_out", 1, head): torch.ones(1, 4) for head in range(8)}
    assert "svg" not in _Checked(steerkit.Direction(heads)._repr_html_()).tags, "no curve by layer within a layer"


@pytest.mark.parametrize("model_type", ["llama", "qwen3_next", "gemma2", "gemma4_text"])
def test_a_layout_is_a_line_for_blocks_that_are_alike(model_type: str) -> None:
    layout = tiny_live(model_type).layout
    text = repr(layout)
    assert text.startswith(f"Layout: 3 blocks, d_model 32, embed at {layout.embed.module}\n  blocks ")
    assert len(text.splitlines()) <= 6 and max(map(len, text.splitlines())) < 160
    for site in layout.sites():
        assert site.stream in text
    assert ("soft cap 2" in text) is (layout.softcap is not None)
    assert f"logits: {layout.final_norm}, {layout.head}" in text
    shown = _Checked(layout._repr_html_())
    assert layout.blocks[0].module in shown.text and "resid_post" in shown.text
    alike = re.findall(r"blocks ([\d,-]+):", text)
    found = [n for part in ",".join(alike).split(",") for n in range(int(part[0]), int(part[-1]) + 1)]
    assert sorted(found) == [0, 1, 2]


def test_a_model_says_what_it_is_and_how_it_is_prompted(llama: LiveModel) -> None:
    assert repr(llama) == (
        "LiveModel 'LlamaForCausalLM'\n  model: llama, adapter llama, float32 on cpu\n"
        "  size: 3 blocks, d_model 32, 288 token ids\n  context: 512 tokens\n  prompts: chat template default"
    ).replace("'LlamaForCausalLM'", repr(llama.source))
    bare = steerkit.wrap(llama.model, None)
    assert "prompts: token ids only, since there is no tokenizer" in repr(bare)
    prompted = steerkit.wrap(llama.model, llama.tokenizer, system_prompt="Be kind.")
    assert "chat template default, system prompt 'Be kind.'" in repr(prompted)
    shown = _Checked(llama._repr_html_())
    assert "d_model 32" in shown.text and "resid_mid" in shown.text


def test_a_model_that_is_not_loaded_yet_is_shown_without_loading_it(llama: LiveModel) -> None:
    def load() -> NoReturn:
        raise AssertionError("it was loaded")

    values: dict[str, Any] = {"model_type": "llama", "config": {}, "special_tokens": (), "n_embeddings": 288}
    values |= {"n_logits": 288, "context": None, "device": "cpu", "dtype": "bfloat16", "weights_hash": None}
    known = Known(key="k", facts={}, layout=llama.layout, adapter="llama", **values)
    awaited = AwaitedModel(known, llama.tokenizer, "folder", None, 4096, load)
    assert "bfloat16 on cpu, not loaded yet" in repr(awaited) and "context: not said" in repr(awaited)
    _Checked(awaited._repr_html_())


def test_what_was_captured_is_found_by_text_and_shown_in_lines(llama: LiveModel) -> None:
    found = llama.capture(["a b", "c"], ["blocks.1.resid_pre", "embed"], [-1, -2], kind="rows", progress=False)
    exact = found[FIRST, Positions.parse(-1)]
    assert found["blocks.1.resid_pre", -1] is exact and found["blocks.1.resid_pre", "-1"] is exact
    assert ("blocks.1.resid_pre", -2) in found and ("blocks.1.resid_pre", -3) not in found
    with pytest.raises(SiteError, match=r"several positions, '-1', '-2'\. Say which: captured\['blocks\.1\.resid_pre'"):
        found["blocks.1.resid_pre"]
    with pytest.raises(
        KeyError, match=r"^Nothing was captured at blocks\.2\.resid_pre\. There is blocks\.1\.resid_pre,"
    ):
        found["blocks.2.resid_pre"]
    one = llama.capture(["a b"], ["blocks.1.resid_pre", "embed"], progress=False)
    assert one["embed"] is one[Site("embed")] is one[Site("embed"), Positions.parse(-1)] and "embed" in one
    assert repr(one).splitlines()[0] == "Captured at 2 sites, positions '-1'" and len(repr(one).splitlines()) == 3
    assert re.search(
        r"blocks\.1\.resid_pre, '-1': ClassStatistics\(1 token, mean of norm [\d.]+, width 32\)", repr(one)
    )
    assert "rows [2, 32] of 2 prompts" in repr(found) and "tensor" not in repr(found)
    everywhere = llama.capture(["a b"], llama.layout.sites(), progress=False)
    assert len(repr(everywhere).splitlines()) == 8 and repr(everywhere).endswith("... and 13 more")
    shown = _Checked(everywhere._repr_html_())
    assert shown.tags.count("tr") == 20 and "19 rows by site" in shown.text
    assert found.get(("blocks.1.resid_pre", -1)) is exact and found.get("blocks.2.resid_pre") is None
    assert dict(everywhere) == everywhere and len(everywhere) == 19


def test_an_explanation_is_its_table(llama: LiveModel) -> None:
    direction = steerkit.Direction(torch.ones(1, 32), FIRST, name="<d>")
    explained = llama.explain(steerkit.add(direction), mode="hook")
    assert repr(explained) == str(explained) and "add <d>" in repr(explained)
    shown = _Checked(explained._repr_html_())
    assert shown.tags.count("tr") == 2 and "add <d>" in shown.text and explained.summary in shown.text


def test_what_plugins_and_users_print_holds_no_tensors() -> None:
    many = torch.arange(4000.0).reshape(40, 100)
    sites = tuple(Site("resid_pre", n) for n in range(12))
    direction = steerkit.Direction(many[:1], FIRST, name="d")
    for value, said in (
        (steerkit.add(direction, coefficient=2.0), "intervention=Add('d', coefficient=2.0), sites=None"),
        (steerkit.gate(direction, above=1.0), "direction=Direction('d', norm 573, width 100, at blocks.1.resid_pre"),
        (steerkit.Monitor("m", direction, 1.0), "Monitor(name='m', direction=Direction('d'"),
        (Affine(many, many, None), "Affine(reads=float32 [40, 100], writes=float32 [40, 100], bias=None)"),
        (HandleOutputs(many), "HandleOutputs(next_token_logits=float32 [40, 100], logits=None"),
        (Estimate(dict.fromkeys(sites, many)), "Estimate(vectors={12 entries}, reference_means=None"),
        (Estimate({FIRST: many}), "Estimate(vectors={blocks.1.resid_pre: float32 [40, 100]}, "),
        (EstimationRequest(sites, Positions("all"), tiny_live("llama").layout), "sites=[12 items], positions=all, "),
        (Written(bytes(5000)), "Written(data=5,000 bytes, lost=[], files={})"),
        (
            Outputs(["t"] * 9, many),
            "Outputs(texts=[9 items], next_token_logits=float32 [40, 100], sequence_logits=None",
        ),
        (Outputs(["t"], baseline=Outputs(["t"], many)), "baseline=Outputs(texts=['t'], next_token_logits=float32"),
        (Readings((0.5,) * 300, tuple(range(300)), 9, 0.5, False), "Readings(values=[300 items], places=[300 items], "),
        (Completion("A tide.", (1,) * 64, finish_reason="length"), "Completion(text='A tide.', token_ids=[64 items], "),
        (
            TokenEvent(0, 0, 5, "A", "A"),
            "TokenEvent(prompt=0, sequence=0, token_id=5, text='A', added='A', readings={}",
        ),
        (ModelFacts("llama", {str(n): n for n in range(99)}), "config={99 entries}"),
    ):
        assert said in repr(value) and len(repr(value)) < 500 and "\n" not in repr(value), repr(value)


def test_what_shows_and_computes_imports_no_torch() -> None:
    rooms = "direction, direction_algebra, direction_files, direction_shown, layout_shown, showing, frames, monitor"
    code = f"import sys, steerkit; from steerkit.api import {rooms}; "
    code += "sys.exit(bool({'torch', 'numpy'} & {*sys.modules}))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_words_for_numbers() -> None:
    assert ranges([0, 2, 3, 4, 7]) == "0,2-4,7" and ranges([1]) == "1" and ranges([]) == ""
    assert ranges([8, 0, 1, 2, 5, 7, 1]) == "0-2,5,7-8"
    assert SitePattern.parse(f"blocks.{ranges([3, 2, 4])}.resid_pre").layers == (2, 4), "what is printed can be written"
    assert between([2.0, 2.0]) == "2" and between([0.5, 2]) == "0.5 to 2"
    assert brief(Affine()) == "Affine(reads=None, writes=None, bias=None)"
    assert line_plot("t", "x", {"a": [(1.0, None)]}) == ""
    flat = line_plot("t", "x", {"a": [(1.0, 0.0)], "b": [(1.0, 0.0), (2.0, None), (3.0, -1.0)]})
    assert flat.count("<polyline") == 3 and "nan" not in flat
