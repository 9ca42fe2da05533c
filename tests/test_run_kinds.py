"""Recipes of other kinds than the small one, to the end: pairs of completions, a direction at several sites."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from steerkit.artifacts.directions import load_directions
from steerkit.report import write_report
from steerkit.run import run_recipe
from steerkit.types import Site
from tests.conftest import tiny_live
from tests.small_run import RECIPE

PAIRED = """
name: paired
seed: 3
model: {source: "tiny-random:llama", dtype: float32, chat_template_arguments: {tone: dry}}
data:
  caa:
    file: caa.jsonl
    field: question
    label: topic
    id: name
    pairs: {of: completions, positive: matching, negative: other}
    split: {train: 5, test: 3}
directions:
  truth:
    estimator: mean_difference
    positive: caa.train.positive
    negative: caa.train.negative
    site: blocks.1.resid_pre
    positions: "completion"
conditions:
  more: [ {add: {direction: truth, coefficient: 2.0, positions: "user[-1]"}} ]
evaluate:
  - cross_entropy: {data: [caa.test.positive, caa.test.negative]}
  - refusal_rate: {data: caa.test.positive, max_new_tokens: 3}
control: {random_directions: 1}
"""


def write_pairs(folder: Path) -> list[dict[str, Any]]:
    """The rows that PAIRED reads."""
    answers = [("yes", "no"), ("surely", "never"), ("so it is", "not so")]
    rows = [
        {
            "question": f"Is {n} even?",
            "matching": f" {answers[n % 3][0]} {n}",
            "other": f" {answers[n % 3][1]} {n}",
            "topic": "odd" if n % 2 else "even",
            "name": f"row-{n}",
            "more": {"n": n},
        }
        for n in range(8)
    ]
    (folder / "caa.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return rows


def test_pairs_of_completions_run_and_reach_samples_and_the_report(tmp_path: Path) -> None:
    rows = write_pairs(tmp_path)
    (tmp_path / "paired.yaml").write_text(PAIRED, "utf-8")
    path = run_recipe(tmp_path / "paired.yaml", out=tmp_path / "runs")
    results = json.loads((path / "results.json").read_text("utf-8"))
    values = {(one["condition"], one["evaluator"], one["data"]): one["value"] for one in results["records"]}
    # The loss is that of the completion's own tokens behind its prompt, by literal code.
    live, by_name = tiny_live("llama"), {row["name"]: row for row in rows}
    samples = [json.loads(line) for line in (path / "samples.jsonl").read_text("utf-8").splitlines()]
    for side, key in (("positive", "matching"), ("negative", "other")):
        total = count = 0.0
        mine = [one for one in samples if one["data"] == f"caa.test.{side}" and one["condition"] == "baseline"]
        assert len(mine) == 3
        for sample in mine:
            about = sample["example"]
            row = by_name[about["id"]]
            assert (about["label"], about["completion"], about["fields"]) == (
                row["topic"],
                row[key],
                {"more": row["more"]},
            )
            assert sample["prompt"] == row["question"]
            loss, tokens = _loss(live, row["question"], row[key])
            total, count = total + loss, count + tokens
        assert values[("baseline", "cross_entropy", f"caa.test.{side}")] == pytest.approx(total / count, rel=1e-5)
    (direction,) = load_directions(path / "directions.safetensors").values()
    assert str(direction.positions) == "completion"
    html = write_report(path).read_text("utf-8")
    assert "label: odd" in html or "label: even" in html


def _loss(live: Any, prompt: str, completion: str) -> tuple[float, int]:
    """Sum of negative log-probabilities of a completion's tokens, and how many there are."""
    import torch

    ids = live.chat.render(prompt).token_ids
    own = tuple(live.tokenizer.encode(completion, add_special_tokens=False))
    with torch.no_grad():
        logits = live.model(torch.tensor([[*ids, *own]])).logits[0].double().log_softmax(-1)
    return -sum(float(logits[len(ids) - 1 + at, token]) for at, token in enumerate(own)), len(own)


DEEP = RECIPE.replace("site: blocks.1.resid_pre", "site: 'blocks.*.resid_pre'").replace("name: small", "name: deep")
DEEP = DEEP.replace("ablate: {direction: warmth}", "ablate: {direction: warmth, at: blocks.1.resid_pre}").replace(
    "  dose:",
    """\
  asked: {system_prompt: Be warm.}
  folded: {mode: fold, system_prompt: Be warm., interventions: [add: {direction: warmth, coefficient: 3.0}]}
  dose:""",
)


def test_a_direction_at_several_sites_and_prompted_conditions_run_to_the_end(tmp_path: Path) -> None:
    path = tmp_path / "deep.yaml"
    path.write_text(DEEP)
    run = run_recipe(path, out=tmp_path / "runs")
    results = json.loads((run / "results.json").read_text())
    (direction,) = results["directions"]
    # The token that is read is the same in every prompt before the first block: no direction there, and it is said.
    assert direction["site"] == "blocks.1.resid_pre … blocks.2.resid_pre (2 sites)"
    assert list(direction["norms_by_site"]) == ["blocks.1.resid_pre", "blocks.2.resid_pre"]
    assert any("has no vectors at blocks.0.resid_pre" in note for note in results["notes"])
    conditions = {item["name"]: item for item in results["conditions"]}
    assert conditions["asked"]["system_prompt"] == "Be warm." and conditions["asked"]["interventions"] == []
    assert conditions["folded"]["mode"] == "fold" and "folded/random-2" in conditions
    assert "asked/random-1" not in conditions
    assert conditions["warmer"]["interventions"][0]["sites"] == ["blocks.1.resid_pre", "blocks.2.resid_pre"]
    named = {record["condition"] for record in results["records"] if record["value"] is not None}
    assert named == conditions.keys()
    moved = {r["condition"]: r["value"] for r in results["records"] if r["evaluator"] == "kl_divergence"}
    assert moved["asked"] > 0 and moved["folded"] != moved["warmer"]
    report = write_report(run).read_text("utf-8")
    assert "system prompt “Be warm.”" in report and "mode fold" in report and "(2 sites)" in report
    assert load_directions(run / "directions.safetensors")["warmth"].sites[0] == Site("resid_pre", 1)
    assert "no control was run for asked" not in report
