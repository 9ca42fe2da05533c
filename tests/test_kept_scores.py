"""What of an evaluator's scores is kept, and for whom."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steerkit.api.evaluator import Outputs, Score
from steerkit.api.hookspecs import Needs
from steerkit.engine.measuring import asking
from steerkit.engine.measuring.jobs import Job, Member, Steered
from steerkit.errors import PluginError, TryAgainError
from steerkit.run import run_recipe

HEAD = """
name: kept
seed: 7
model: {source: "tiny-random:llama", dtype: float32}
data:
  w: {inline: [sun one, sun two, sun three]}
  c: {inline: [snow one, snow two, snow three]}
  a: {inline: [ice one, ice two, ice three, ice four]}
"""
TAIL = """
directions:
  warmth: {estimator: mean_difference, positive: w, negative: c, site: blocks.1.resid_pre}
conditions: {warmer: [{add: {direction: warmth, coefficient: 3.0}}]}
control: {random_directions: 0}
evaluate:
"""
TWIN = "  b: {inline: [ice one, ice two, ice three, ice four]}\n"
LONG = '  - refusal_rate: {name: long, data: a, max_new_tokens: 12, substrings: ["e", "1", "q"]}\n'
SHORT = '  - refusal_rate: {name: short, data: [a, b], max_new_tokens: 1, substrings: ["e", "1", "q"]}\n'


def records(text: str, folder: Path, store: Path) -> dict[tuple[str, str, str], Any]:
    folder.mkdir()
    (folder / "recipe.yaml").write_text(text)
    run = run_recipe(folder / "recipe.yaml", out=folder / "runs", store=store)
    found = json.loads((run / "results.json").read_text())["records"]
    return {(one["condition"], one["evaluator"], one["data"]): one for one in found}


def test_equal_examples_under_two_names_are_scored_each_from_its_own_outputs(tmp_path: Path) -> None:
    """One evaluator wants 12 tokens of one, another a single token of both."""
    alone = records(HEAD + TAIL + LONG, tmp_path / "alone", tmp_path / "one")
    beside = records(HEAD + TWIN + TAIL + LONG + SHORT, tmp_path / "beside", tmp_path / "two")
    after = records(HEAD + TAIL + LONG, tmp_path / "after", tmp_path / "two")
    assert any(one["value"] for one in alone.values())
    for key, one in alone.items():
        assert one["value"] == beside[key]["value"] == after[key]["value"]
    assert len(beside) == 6


def test_an_outage_of_a_judge_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import steerkit_evaluators._refusal_rate as written
    import steerkit_evaluators.refusal_rate as declared

    calls: list[int] = []
    reachable = False

    def ask(self: object, questions: list[str]) -> list[str]:
        calls.append(len(questions))
        if not reachable:
            raise TryAgainError("down")
        return ["yes"] * len(questions)

    def score(self: object, outputs: Outputs) -> list[Score]:
        assert outputs.answers is not None
        return [Score(float("nan") if one[0] is None else 1.0) for one in outputs.answers]

    def questions(self: object, outputs: Outputs) -> list[list[str]]:
        return [[text] for text in outputs.texts]

    # The catalog holds the function itself, so its code is what can be replaced.
    monkeypatch.setitem(declared._needs.__globals__, "_ASKS", Needs(max_new_tokens=2, calls=50))
    monkeypatch.setattr(declared._needs, "__code__", (lambda options: _ASKS).__code__)  # type: ignore[name-defined]  # noqa: F821
    monkeypatch.setattr(written.RefusalRate, "questions", questions)
    monkeypatch.setattr(written.RefusalRate, "ask", ask)
    monkeypatch.setattr(written.RefusalRate, "score", score)
    monkeypatch.setattr(asking, "TRIES", 1)
    from steerkit.stages import carry

    monkeypatch.setattr(carry, "cache_folder", lambda: tmp_path / "cache")
    text = HEAD + TAIL + "  - refusal_rate: {name: judged, data: a}\n"
    lost = records(text, tmp_path / "down", tmp_path / "store")
    assert [one["value"] for one in lost.values()] == [None, None]
    reachable = True
    calls.clear()
    found = records(text, tmp_path / "up", tmp_path / "store")
    assert [one["value"] for one in found.values()] == [1.0, 1.0]
    assert calls
    calls.clear()
    assert [one["value"] for one in records(text, tmp_path / "again", tmp_path / "store").values()] == [1.0, 1.0]
    assert not calls


class Gives:
    """Stands in for an evaluator that gives one score."""

    def __init__(self, score: Any) -> None:
        self.given = score

    def score(self, outputs: Outputs) -> list[Any]:
        return [self.given]


def taken(score: Any) -> Score:
    member = Member(Steered())
    member.take(Job("it", Gives(score), Needs(), "a"), [0], Outputs(["text"]))  # type: ignore[arg-type]
    return member.scores[("it", "a")][0]


def test_numbers_of_numpy_become_plain_ones() -> None:
    found = taken(Score(np.float32(0.5), np.float64(2.0)))  # type: ignore[arg-type]
    assert (type(found.value), found.value, type(found.weight), found.weight) == (float, 0.5, float, 2.0)


@pytest.mark.parametrize("score", [Score("0.5"), Score(None), Score(1.0, float("nan")), Score(1.0, -1.0)])  # type: ignore[arg-type]
def test_what_is_no_number_is_named(score: Score) -> None:
    with pytest.raises(PluginError, match="Evaluator 'it' gave its score on a"):
        taken(score)
