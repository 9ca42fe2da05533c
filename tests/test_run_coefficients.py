"""Searches over coefficients and over estimators, from YAML to results, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from steerkit.api.direction import Direction
from steerkit.artifacts.directions import load_directions
from steerkit.catalog import Catalog
from steerkit.errors import RecipeError
from steerkit.plan import plan_recipe
from steerkit.report import summary, write_report
from steerkit.run import execute
from steerkit.selection import ARDITI_2024, read_table, select
from steerkit.session import add, load_model
from steerkit_architectures import llama
from steerkit_estimators import logistic_probe, mean_difference
from steerkit_evaluators import activation_cosine, kl_divergence, refusal_score
from steerkit_evaluators._refusal_score import RefusalScore
from steerkit_evaluators.refusal_score import RefusalScoreOptions
from steerkit_interventions import ablate
from steerkit_interventions import add as add_plugin

CATALOG = Catalog.from_modules(
    llama, mean_difference, logistic_probe, activation_cosine, kl_divergence, refusal_score, ablate, add_plugin
)
RECIPE = """\
model: {source: "tiny-random:llama", dtype: float32}
data:
  warm: {inline: [w1, w2, w3, w4, w5, w6, w7, w8], split: {train: 4, validation: 2, test: 2}}
  cold: {inline: [c1, c2, c3, c4, c5, c6, c7, c8], split: {train: 4, validation: 2, test: 2}}
directions:
  candidates: {estimator: mean_difference, positive: warm.train, negative: cold.train, site: blocks.*.resid_pre}
search:
  warmth:
    over: candidates
    scores:
      warmer: {refusal_score: {data: cold.validation, under: [add], tokens: [x]}}
      kl: {kl_divergence: {data: cold.validation, under: [ablate]}}
    maximise: warmer
    subject_to: {kl: {score: kl, at_most: 5}}
    coefficients: [0.5, -4, 3]
conditions:
  added: [ {add: {direction: warmth, coefficient: chosen}} ]
  once: [ {add: {direction: warmth, coefficient: 1.0}} ]
evaluate:
  - refusal_score: {data: warm.test, tokens: [x]}
control: {random_directions: 1}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "small.yaml").write_text(RECIPE, "utf-8")
    return tmp_path / "small.yaml"


def run(recipe: Path, *overrides: str) -> Path:
    return execute(plan_recipe(recipe, overrides, CATALOG), recipe.parent / "runs")


def results(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "results.json").read_text("utf-8"))
    return found


def test_each_coefficient_is_a_candidate_and_the_chosen_one_steers(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run(recipe)
    found = results(path)
    (search,) = found["searches"]
    rows = search["candidates"]
    assert [(row["layer"], row["coefficient"]) for row in rows] == [
        (1, 0.5),
        (1, -4),
        (1, 3),
        (2, 0.5),
        (2, -4),
        (2, 3),
    ]
    # Every candidate scores what adding it that often gives, by itself.
    live = load_model("tiny-random:llama", dtype="float32")
    scorer = RefusalScore(RefusalScoreOptions(tokens=("x",)), live.vocabulary)
    held = load_directions(path / "directions.safetensors")["candidates"]
    prompts = [str(example.text) for example in plan_recipe(recipe, (), CATALOG).data["cold"]["validation"]]
    for row in rows:
        with live.steer(add(held.at(row["site"]), coefficient=row["coefficient"]), mode="hook"):
            expected = [mean_score(scorer, live, text) for text in prompts]
        assert row["scores"]["warmer"] == pytest.approx(sum(expected) / 2, abs=1e-4)
    # What doesn't depend on the coefficient is one score.
    assert len({row["scores"]["kl"] for row in rows if row["layer"] == 1}) == 1
    best = max(rows, key=lambda row: row["scores"]["warmer"])
    chosen = rows[search["chosen"]]
    assert chosen == best
    # The direction keeps it, and the condition adds it that often.
    taken = load_directions(path / "directions.safetensors")["warmth"]
    assert taken.provenance["search"]["coefficient"] == chosen["coefficient"]
    options = {one["name"]: one["interventions"][0]["options"] for one in found["conditions"] if one["interventions"]}
    assert options["added"]["coefficient"] == options["added/random-1"]["coefficient"] == chosen["coefficient"]
    assert options["once"]["coefficient"] == 1.0
    assert_shown(path, chosen["coefficient"], capsys)


def mean_score(scorer: RefusalScore, live: Any, text: str) -> float:
    from steerkit.api.evaluator import Outputs
    from steerkit.engine.reading.passes import next_token_logits

    (score,) = scorer.score(Outputs([text], next_token_logits(live, live.rendered([text]))))
    return float(score.value)


def assert_shown(path: Path, coefficient: float, capsys: pytest.CaptureFixture[str]) -> None:
    table = json.loads((path / "candidates-warmth.json").read_text("utf-8"))
    assert {row["coefficient"] for row in table} == {0.5, -4, 3}
    write_report(path)
    text = (path / "report.html").read_text("utf-8")
    shown = f"{coefficient:g}".replace("-", "−")
    assert f"coefficient {shown} has the highest warmer" in " ".join(text.split())
    summary(path)
    assert f"coefficient {shown} has the highest warmer" in " ".join(capsys.readouterr().out.split())


def test_pruned_and_exhaustive_agree_and_a_table_can_be_chosen_from(recipe: Path) -> None:
    preset = (
        "search={warmth: {over: candidates, exhaustive: true, coefficients: [3, 0.5], preset: {arditi2024: "
        "{harmful: warm.validation, harmless: cold.validation, tokens: [x]}}, "
        "subject_to: {kl: {at_most: 5}, induce: {at_least: -100}}}}"
    )
    whole = run(recipe, preset)
    pruned = run(recipe, preset.replace("exhaustive: true", "exhaustive: false"))
    one, other = results(whole)["searches"][0], results(pruned)["searches"][0]
    assert one["chosen"] == other["chosen"]
    chosen = one["candidates"][one["chosen"]]
    # Ablation knows no coefficient: the candidates of one direction tie exactly, and the first coefficient is taken.
    assert chosen["coefficient"] == 3
    # The other coefficient of the winner can't be told from it.
    ties = [one["candidates"][place] for place in one["near_ties"]]
    assert (chosen["site"], 0.5) in [(tie["site"], tie["coefficient"]) for tie in ties]
    loose = type(ARDITI_2024)("refusal_score", (), ARDITI_2024.layers)
    winner = select(read_table(whole / "candidates-warmth.json", loose), loose, 3).winner
    assert winner is not None
    assert (winner.layer, winner.coefficient) == (chosen["layer"], 3)


def test_estimators_are_candidates_beside_each_other(recipe: Path) -> None:
    probe = (
        "directions.probed={estimator: logistic_probe, positive: warm.train, negative: cold.train, "
        "site: blocks.*.resid_pre}"
    )
    path = run(recipe, probe, "search.warmth.over=[candidates, probed]", "search.warmth.coefficients=[2]")
    (search,) = results(path)["searches"]
    rows = search["candidates"]
    assert {row["over"] for row in rows} == {"candidates", "probed"}
    best = max(rows, key=lambda row: row["scores"]["warmer"] if row["removed_by"] is None else -1e9)
    chosen = rows[search["chosen"]]
    assert chosen == best
    directions = load_directions(path / "directions.safetensors")
    taken: Direction = directions["warmth"]
    assert taken.vectors.equal(directions[chosen["over"]].at(chosen["site"]).vectors)
    assert taken.provenance["search"]["over"] == chosen["over"]


@pytest.mark.parametrize(
    ("override", "where", "message"),
    [
        ("search.warmth.coefficients=[]", "search.warmth.coefficients", "at least one coefficient"),
        ("search.warmth.coefficients=[1, 1]", "search.warmth.coefficients", "each of them once"),
        ("search.warmth.coefficients=null", "conditions.added.0.add.coefficient", "no search chooses a coefficient"),
        (
            "search.warmth.scores.warmer.refusal_score.under=[ablate]",
            "search.warmth.coefficients",
            "candidates don't differ in coefficients",
        ),
        (
            "search.warmth.scores.warmer.refusal_score.under=[{add: {coefficient: 2}}]",
            "search.warmth.scores.warmer.refusal_score.under.0.add.coefficient",
            "leave this one out",
        ),
        (
            "search.warmth.scores.warmer.refusal_score.under=[{add: {coefficient: chosen}}]",
            "search.warmth.scores.warmer.refusal_score.under.0.add.coefficient",
            "a candidate is what is chosen",
        ),
        ("search.warmth.maximise=[warmer, warmer]", "search.warmth.maximise", "twice"),
        ("search.warmth.maximise=[warmer, warm]", "search.warmth.maximise.1", "unknown score 'warm'"),
    ],
)
def test_what_can_not_be_meant_is_told_before_anything_runs(
    recipe: Path, override: str, where: str, message: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        plan_recipe(recipe, [override], CATALOG)
    found = [(one.where, one.message) for one in caught.value.problems]
    assert any(at.removeprefix("--set ") == where and message in told for at, told in found), found


def test_a_condition_that_says_nothing_is_noted_and_coefficients_count_in_the_cost(recipe: Path) -> None:
    plan = plan_recipe(recipe, ["conditions.added=[{add: {direction: warmth}}]"], CATALOG)
    assert any("write coefficient: chosen" in note for note in plan.notes)
    parts = dict(plan.cost.parts)
    # Three layers: added three times each, ablated once each.
    assert parts["search"] == 3 * 3 + 3
    assert plan.report.resolved["search"]["warmth"]["coefficients"] == [0.5, -4.0, 3.0]
