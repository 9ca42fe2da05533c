"""What ``steerkit check`` prints of a plan."""

from __future__ import annotations

import json
from pathlib import Path

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
