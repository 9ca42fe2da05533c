"""What ``steerkit check`` prints of a plan."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy
import pytest

from steerkit.catalog import Catalog
from steerkit.cli.check import print_plan
from steerkit.plan import plan_recipe


def test_sizes_of_data_count_texts_and_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("split", "whole"):
        rows = [{"q": f"{name} {number}", "yes": "Yes.", "no": "No."} for number in range(5)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    sides = {"of": "completions", "positive": "yes", "negative": "no"}
    raw = {
        "name": "sizes",
        "model": {"source": "tiny-random:llama", "chat_template": "none"},
        "data": {
            "split": {"file": "split.jsonl", "field": "q", "pairs": sides, "split": {"train": 3, "test": 2}},
            "whole": {"file": "whole.jsonl", "field": "q", "pairs": sides},
            "texts": {"inline": ["a", "b", "c", "d", "e", "f", "g"]},
        },
        "directions": {
            "d": {
                "estimator": "mean_difference",
                "positive": "split.train.positive",
                "negative": "split.train.negative",
                "site": "blocks.1.resid_pre",
                "positions": "completion",
            }
        },
        "conditions": {"c": [{"add": {"direction": "d"}}]},
        "evaluate": [{"kl_divergence": {"data": "texts"}}],
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(raw), "utf-8")
    print_plan(plan_recipe(path, (), Catalog.discover()))
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("data (number of texts)")
    table = [line.split() for line in lines[start + 1 : start + 5]]
    assert table == [
        ["name", "train", "test", "all"],
        ["split", "3", "pairs", "2", "pairs"],
        ["whole", "5", "pairs"],
        ["texts", "7"],
    ]


def test_a_direction_from_a_file_has_a_row_with_its_format_and_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "240")
    numpy.save(tmp_path / "warm.npy", numpy.ones(32, dtype=numpy.float32))
    raw = {
        "name": "filed",
        "model": {"source": "tiny-random:llama"},
        "data": {"texts": {"inline": ["a", "b"]}},
        "directions": {"d": {"file": "warm.npy", "site": "blocks.1.resid_pre"}},
        "conditions": {"c": [{"add": {"direction": "d"}}]},
        "evaluate": [{"kl_divergence": {"data": "texts"}}],
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(raw), "utf-8")
    print_plan(plan_recipe(tmp_path / "recipe.yaml", (), Catalog.discover()))
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("d ")]
    assert "from a file, npy" in row and "blocks.1.resid_pre" in row and "as the file" in row


TIMED = """\
name: timed
model: {source: "tiny-random:llama"}
data:
  warm: {inline: [w1, w2, w3, w4], split: {train: 2, test: 2}}
  cold: {inline: [c1, c2, c3, c4], split: {train: 2, test: 2}}
directions:
  warmth: {estimator: mean_difference, positive: warm.train, negative: cold.train, site: blocks.1.resid_pre}
conditions:
  fading: [{add: {direction: warmth, schedule: "linear(1, 0, 64)", positions: generated}}]
  gated:
    system_prompt: Be warm, in as few words as you can.
    mode: hook
    interventions:
      - add:
          direction: warmth
          sites: [blocks.2.resid_post]
          gate: {direction: warmth, above: 1.5, at: prompt, prepass: true, positions: instruction}
      - ablate: {direction: warmth, sites: [blocks.2.resid_post], gate: {direction: warmth, below: -1}}
monitors:
  harm: {direction: warmth, above: 3.0, positions: generated}
  heat: {direction: warmth, below: -0.25, sites: [blocks.1.resid_pre, blocks.2.resid_post], positions: all}
evaluate: [{kl_divergence: {data: warm.test}}]
report: {samples: {data: warm.test, n: 1, max_new_tokens: 3}}
"""


@pytest.mark.parametrize("width", [80, 120])
def test_conditions_say_when_they_act_and_how(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    (tmp_path / "timed.yaml").write_text(TIMED, "utf-8")
    monkeypatch.setenv("COLUMNS", str(width))
    print_plan(plan_recipe(tmp_path / "timed.yaml", (), Catalog.discover()))
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert max(map(len, lines[lines.index("conditions") : lines.index("evaluators")])) <= width
    start = lines.index("conditions") + 1
    # What is done stands in one column, however its lines are broken.
    column = lines[start].index("what")
    end = lines[start].index("controls")
    shown = [line[column:end].rstrip() for line in lines[start + 2 : lines.index("monitors") - 1]]
    said = " ".join(part.strip() for part in shown)
    assert said == (
        "add warmth at its default sites, positions generated, times linear(1, 0, 64) "
        "- add warmth at blocks.2.resid_post, positions all, where the prompt's instruction projects on warmth above "
        "1.5 at blocks.1.resid_pre in an extra pass "
        "- ablate warmth at blocks.2.resid_post, positions all, where the token projects on warmth below -1 at "
        "blocks.1.resid_pre "
        '- system prompt "Be warm, in as few words as you can." - mode hook'
    )
    # A broken line is set in, so that the next item is told from it.
    assert all(line.startswith(("- ", "  ")) for line in shown[shown.index(next(x for x in shown if x[0] == "-")) :])


def test_monitors_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "timed.yaml").write_text(TIMED, "utf-8")
    print_plan(plan_recipe(tmp_path / "timed.yaml", (), Catalog.discover()))
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("monitors")
    assert [re.split(r" {2,}", line.strip()) for line in lines[start + 1 : start + 4]] == [
        ["name", "direction", "warns", "sites", "positions"],
        ["harm", "warmth", "above 3", "where its direction is", "generated"],
        ["heat", "warmth", "below -0.25", "blocks.1.resid_pre, blocks.2.resid_post", "all"],
    ]


def search(positions: str, site: str = "blocks.*.resid_pre", model: str = "tiny-random:llama") -> dict[str, Any]:
    read = {"estimator": "mean_difference", "positive": "w.train", "negative": "c.train"}
    split = {"train": 4, "validation": 2, "test": 2}
    return {
        "name": "searched",
        "model": {"source": model},
        "data": {one: {"inline": [f"{one}{at}" for at in range(8)], "split": split} for one in "wc"},
        "directions": {"many": {**read, "site": site, "positions": positions}},
        "search": {
            "found": {
                "over": "many",
                "preset": {"arditi2024": {"harmful": "w.validation", "harmless": "c.validation", "tokens": ["x"]}},
            }
        },
        "conditions": {"done": [{"ablate": {"direction": "found"}}]},
        "evaluate": [
            {"refusal_rate": {"data": "w.test", "substrings": [f"phrase {at}" for at in range(60)]}},
        ],
    }


def printed(raw: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(raw), "utf-8")
    print_plan(plan_recipe(path, (), Catalog.discover()))
    return " ".join(capsys.readouterr().out.split())


def test_of_a_long_list_the_first_few_are_printed_and_how_many_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = printed(search("[-3:][*]"), tmp_path, capsys)
    assert 'substrings=["phrase 0", "phrase 1", "phrase 2", … 60 in all]' in text and "phrase 3" not in text
    raw = search("[-3:][*]")
    raw["evaluate"][0]["refusal_rate"]["substrings"] = ["a", "b", "c", "d"]
    assert 'substrings=["a", "b", "c", "d"]' in printed(raw, tmp_path, capsys)


@pytest.mark.parametrize(("positions", "number"), [("[-3:][*]", "9"), ("post_instruction[*]", "about 15")])
def test_a_search_says_among_how_many_it_chooses(
    positions: str, number: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = printed(search(positions), tmp_path, capsys)
    assert "name over candidates aim" in text
    assert "3 layers" in text and f"found many {number} minimise" in text
