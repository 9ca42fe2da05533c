"""``steerkit check --explain``: what becomes of each condition on the loaded model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from steerkit.api.direction import Direction
from steerkit.artifacts.directions import save_directions
from steerkit.cli.main import main
from steerkit.types import Site
from tests.conftest import tiny_live

RECIPE = """\
model: {source: "tiny-random:llama", dtype: float32}
data:
  warm: {inline: [w1, w2, w3, w4, w5, w6], split: {train: 4, test: 2}}
  cold: {inline: [c1, c2, c3, c4, c5, c6], split: {train: 4, test: 2}}
directions:
  warmth: {estimator: mean_difference, positive: warm.train, negative: cold.train, site: blocks.1.resid_pre}
  saved: {file: saved.safetensors}
conditions:
  dose:
    interventions: [ {add: {direction: warmth}} ]
    sweep: {coefficient: [-8, 0.5]}
  without: [ {ablate: {direction: saved}} ]
  late: [ {add: {direction: warmth, positions: generated, gate: {direction: saved, above: 1}}} ]
evaluate:
  - refusal_rate: {data: warm.test, max_new_tokens: 3}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE, "utf-8")
    saved = torch.randn(1, 32, generator=torch.Generator().manual_seed(0))
    save_directions(tmp_path / "saved.safetensors", [Direction(saved, Site("resid_pre", 1), name="saved")])
    return path


def check(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(["check", *arguments])
    return int(left.value.code or 0)


def test_each_condition_has_its_table(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert check(str(recipe), "--explain") == 0
    printed = capsys.readouterr()
    assert "loading tiny-random:llama" in printed.err
    out = printed.out
    assert max(map(len, out.splitlines())) <= 120
    assert out.index("small is valid") < out.index("Nothing was estimated: random unit vectors stand for warmth.")
    # Members of a sweep are lowered alike and share a table.
    assert "dose[coefficient=-8], dose[coefficient=0.5]\n" in out
    assert "model.layers.0.mlp.down_proj (bias)" in out
    assert "gate saved above 1" in out and "only what acts at every token alike can be folded" in out
    assert "blocks.0-2.attn_out" in out and "pays from" in out
    assert "The run lays up to 6 side by side" in " ".join(out.split())


def test_as_json_it_stands_beside_the_plan(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(str(recipe), "--explain", "--json", "--set", "model.batch_tokens=16") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["name"] == "small" and found["stand_ins"] == ["warmth"]
    told = {tuple(item["conditions"]): item for item in found["explain"]}
    dose = told[("dose[coefficient=-8]", "dose[coefficient=0.5]")]
    assert dose["together"] == 1 and dose["rows"][0]["became"] == "folded"
    # Two prompts, each with 3 new tokens of which the last is only written.
    chat = tiny_live("llama").chat
    assert dose["expected_tokens"] == sum(len(chat.render(text).token_ids) + 2 for text in ("w5", "w6"))
    assert "explain" not in _plain(recipe, capsys)


def _plain(recipe: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert check(str(recipe), "--json") == 0
    printed = capsys.readouterr()
    assert "loading" not in printed.err
    found: dict[str, Any] = json.loads(printed.out)
    return found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('conditions.without.0.ablate.sites=["blocks.0.head_out[99]"]', "conditions.without.0.ablate.sites.0: No site"),
        ("conditions.late.0.add.positions=-500", "Condition late: "),
        ("directions.saved.file=missing.safetensors", "there is no file"),
    ],
)
def test_what_cannot_be_exits_2_and_names_the_condition(
    recipe: Path, capsys: pytest.CaptureFixture[str], change: str, message: str
) -> None:
    assert check(str(recipe), "--explain", "--set", change) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.out == ""


def test_stand_ins_have_as_many_vectors_as_coefficients(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = RECIPE.replace(
        "{direction: warmth}} ]\n    sweep: {coefficient: [-8, 0.5]}", "{direction: warmth, coefficient: [1, 2]}} ]"
    )
    recipe.write_text(text, "utf-8")
    assert check(str(recipe), "--explain", "--json") == 0
    (dose, *_) = json.loads(capsys.readouterr().out)["explain"]
    assert dose["rows"][0]["intervention"] == "add warmth"


SEARCH = """
search:
  chosen:
    over: candidates
    scores: {warmer: {refusal_score: {data: cold.test, under: [add], tokens: [x]}}}
    maximise: warmer
    coefficients: [2, 4]
"""


def test_a_direction_that_a_search_chooses_has_a_stand_in(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = RECIPE.replace(
        "  saved: {",
        "  candidates: {estimator: mean_difference, positive: warm.train, "
        "negative: cold.train, site: blocks.*.resid_pre}\n  saved: {",
    )
    text = text.replace(
        "conditions:", f"{SEARCH}conditions:\n  best: [ {{add: {{direction: chosen, coefficient: chosen}}}} ]"
    )
    recipe.write_text(text, "utf-8")
    assert check(str(recipe), "--explain") == 0
    out = capsys.readouterr().out
    assert "add chosen" in out
    assert 'coefficient="chosen"' in " ".join(out.split())
