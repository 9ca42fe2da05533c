"""An evaluator that a recipe calls otherwise than its plugin still lends its unit to scores of that plugin."""

from __future__ import annotations

from pathlib import Path

from steerkit.report import load_run
from steerkit.report.search import make_searches
from steerkit.run import run_recipe
from tests.small_run import results_of

RECIPE = """\
model: {source: "tiny-random:llama", dtype: float32}
data:
  warm: {inline: [sun one, sun two, sun three], split: {train: 2, validation: 1}}
  cold: {inline: [ice one, ice two, ice three], split: {train: 2, validation: 1}}
  probe: {inline: [alpha beta, gamma delta]}
directions:
  one: {estimator: mean_difference, positive: warm.train, negative: cold.train, site: "blocks.*.resid_pre"}
search:
  way:
    over: one
    scores:
      gone: {refusal_score: {data: warm.validation, under: [ablate], tokens: [5]}}
      cost: {kl_divergence: {data: cold.validation, under: [ablate]}}
    minimise: gone
    subject_to: {cost: {score: cost, at_most: 1000}}
conditions: {without: [{ablate: {direction: way}}]}
control: {random_directions: 0}
evaluate:
  - refusal_score: {name: refuses, data: probe, tokens: [5]}
  - kl_divergence: {name: refusal_score, data: probe}
report: {separation: false}
"""


def test_scores_have_the_units_of_their_plugins(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(RECIPE, "utf-8")
    run = run_recipe(tmp_path / "small.yaml", out=tmp_path / "runs")
    said = {one["name"]: one.get("plugin") for one in results_of(run)["evaluators"]}
    assert said == {"refuses": "refusal_score", "refusal_score": "kl_divergence"}
    results = load_run(run).results
    (view,) = make_searches(results)
    units = {one.name: one.unit for one in results.evaluators}
    assert units["refuses"] != units["refusal_score"]
    assert {panel.name: panel.unit for panel in view.panels} == {
        "gone": units["refuses"],
        "cost": units["refusal_score"],
    }


def test_an_evaluator_that_is_called_as_its_plugin_says_nothing_of_it(tmp_path: Path) -> None:
    text = RECIPE.replace("name: refuses, ", "").replace("name: refusal_score, ", "")
    (tmp_path / "small.yaml").write_text(text, "utf-8")
    results = results_of(run_recipe(tmp_path / "small.yaml", out=tmp_path / "runs"))
    assert not any("plugin" in one for one in results["evaluators"])
