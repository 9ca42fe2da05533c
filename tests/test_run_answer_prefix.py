"""A recipe whose answers are made to begin with given words, against the same made by hand."""

from __future__ import annotations

import json
from pathlib import Path

from steerkit.report import write_report
from steerkit.run import run_recipe
from steerkit.types import Example, Message
from tests.conftest import tiny_live

RECIPE = """\
name: begun
model: {source: "tiny-random:llama", dtype: float32, answer_prefix: "Sure, "}
data:
  asked: {inline: [sun one, sun two], split: {test: 2}}
  free: {inline: [ice one, ice two], answer_prefix: ""}
  said: {completions: {of: asked, max_new_tokens: 4}}
conditions:
  prompted: {system_prompt: Speak of the sea.}
evaluate:
  - refusal_rate: {data: [asked.test, free], max_new_tokens: 4, substrings: [sure]}
  - refusal_score: {data: asked.test, tokens: [x]}
report:
  samples: {data: asked.test, n: 2, max_new_tokens: 4}
"""


def test_what_is_written_follows_the_words_and_is_scored_and_shown_without_them(tmp_path: Path) -> None:
    (tmp_path / "begun.yaml").write_text(RECIPE, "utf-8")
    run, live = run_recipe(tmp_path / "begun.yaml", out=tmp_path / "runs"), tiny_live("llama")
    lines = [json.loads(line) for line in (run / "samples.jsonl").read_text("utf-8").splitlines()]
    for prefix, data in (("Sure, ", "asked.test"), (None, "free")):
        shown = [line for line in lines if line["data"] == data and line["condition"] == "baseline"]
        examples = [Example((Message("user", one["prompt"]),), answer_prefix=prefix) for one in shown]
        written = [live.decode(ids) for ids in live.complete(examples, max_new_tokens=4)]
        assert [line["completion"] for line in shown] == written
        assert [line.get("example", {}).get("answer_prefix") for line in shown] == [prefix] * 2
        assert all(line["scores"]["refusal_rate"] == 0 for line in shown), "the words aren't the model's own"
    said = [json.loads(line) for line in (run / "completions-said.jsonl").read_text("utf-8").splitlines()]
    assert {one["answer_prefix"] for one in said} == {"Sure, "}
    begun = live.chat.render(Example((Message("user", said[0]["prompt"]),), answer_prefix="Sure, "))
    (ids,) = live.complete([begun], max_new_tokens=4)
    assert said[0]["completion"] == live.chat.tokenizer.decode(ids, skip_special_tokens=True)
    assert "answer prefix: Sure," in write_report(run).read_text("utf-8")
