"""A search that looks at activations and at no token, from YAML to results, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from steerkit.catalog import Catalog
from steerkit.errors import RecipeError
from steerkit.plan import plan_recipe
from steerkit.progress import SILENT, Observer
from steerkit.report import write_report
from steerkit.run import execute
from steerkit.selection import COSMIC, Rule, read_table, select
from steerkit_architectures import llama
from steerkit_estimators import mean_difference
from steerkit_evaluators import activation_cosine, kl_divergence, refusal_score
from steerkit_interventions import ablate, add

CATALOG = Catalog.from_modules(llama, mean_difference, activation_cosine, kl_divergence, refusal_score, ablate, add)
RECIPE = """\
model: {source: "tiny-random:llama", dtype: float32}
data:
  warm: {inline: [w1, w2, w3, w4, w5, w6, w7, w8], split: {train: 4, validation: 2, test: 2}}
  cold: {inline: [c1, c2, c3, c4, c5, c6, c7, c8], split: {train: 4, validation: 2, test: 2}}
directions:
  candidates:
    {estimator: mean_difference, positive: warm.train, negative: cold.train, site: blocks.*.resid_pre,
     positions: "[-3:][*]"}
search:
  warmth:
    over: candidates
    preset: {cosmic: {harmful: warm.validation, harmless: cold.validation, classes: [warm.train, cold.train]}}
    subject_to: {kl: {at_most: 5}}
    exhaustive: true
conditions:
  added: [ {add: {direction: warmth}} ]
evaluate:
  - activation_cosine: {data: [warm.test, cold.test], like: cold.train, classes: [warm.train, cold.train]}
control: {random_directions: 1}
"""


class Steps(Observer):
    def __init__(self) -> None:
        self.steps: list[str] = []

    def step(self, what: str) -> None:
        self.steps.append(str(what))

    def progress(self, done: int, of: int) -> None:
        pass


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "small.yaml").write_text(RECIPE, "utf-8")
    return tmp_path / "small.yaml"


def run(recipe: Path, *overrides: str, observer: Observer = SILENT) -> Path:
    return execute(plan_recipe(recipe, overrides, CATALOG), recipe.parent / "runs", observer)


def results(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "results.json").read_text("utf-8"))
    return found


def test_the_largest_sum_wins_pruned_as_exhaustive(recipe: Path) -> None:
    path = run(recipe)
    found = results(path)
    (search,) = found["searches"]
    alive = [row for row in search["candidates"] if row["removed_by"] is None]
    assert {row["layer"] for row in alive} == {1}  # int(0.8 · 3) is the first that can't win
    best = max(alive, key=lambda row: row["scores"]["comply_score"] + row["scores"]["refuse_score"])
    chosen = search["candidates"][search["chosen"]]
    assert chosen == best
    assert search["objective"] == "comply_score + refuse_score"
    assert set(search["baseline"]) == {"comply_score", "refuse_score", "kl_div_score"}
    write_report(path)
    assert "highest comply_score + refuse_score" in " ".join((path / "report.html").read_text("utf-8").split())
    # The table, by the rule itself, without the bound that this recipe loosens.
    rule = Rule(COSMIC.objective, (), COSMIC.layers, maximise=True, plus=COSMIC.plus)
    winner = select(read_table(path / "candidates-warmth.json", rule), rule, 3).winner
    assert winner is not None
    assert (winner.position, winner.layer) == (chosen["position"], chosen["layer"])
    # A bound that removes some of them leaves them unscored, and takes the same.
    bound = f"search.warmth.subject_to.kl.at_most={chosen['scores']['kl_div_score'] + 1e-6}"
    full = results(run(recipe, bound))["searches"][0]
    pruned = results(run(recipe, bound, "search.warmth.exhaustive=false"))["searches"][0]
    assert full["chosen"] == pruned["chosen"] == search["chosen"]
    removed = [row for row in pruned["candidates"] if row["removed_by"]]
    assert removed
    assert all("comply_score" not in row["scores"] for row in removed)


def test_it_is_an_evaluator_of_conditions_too_and_its_references_are_part_of_its_key(recipe: Path) -> None:
    path = run(recipe)
    records = {
        (record["condition"], record["data"]): record["value"]
        for record in results(path)["records"]
        if record["evaluator"] == "activation_cosine"
    }
    assert {name for name, _ in records} == {"baseline", "added", "added/random-1"}
    assert all(-1 <= value <= 1 for value in records.values())
    assert records["baseline", "cold.test"] != records["added", "cold.test"]
    again = Steps()
    run(recipe, "report.title=Another", observer=again)
    assert not any(step.startswith("condition") for step in again.steps)
    other = Steps()
    changed = run(recipe, "data.cold.inline=[c1, c2, c3, d4, c5, c6, c7, c8]", observer=other)
    assert any(step.startswith("condition") for step in other.steps)
    assert changed != path


@pytest.mark.parametrize(
    ("override", "where", "message"),
    [
        ("evaluate.0.activation_cosine.like=cool.train", "evaluate.0.activation_cosine.like", "Did you mean 'cold"),
        (
            "evaluate.0.activation_cosine.classes=[warm.train, cold.trian]",
            "evaluate.0.activation_cosine.classes.1",
            "Did you mean",
        ),
        ("filter={warm: {activation_cosine: {like: cold.train, classes: [warm.train, cold.train], at_least: 0}}}",
         "filter.warm.activation_cosine", "looks at the unsteered model alone"),
    ],
)  # fmt: skip
def test_what_it_refers_to_is_found_before_anything_runs(recipe: Path, override: str, where: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        plan_recipe(recipe, [override], CATALOG)
    (problem,) = caught.value.problems
    assert problem.where.removeprefix("--set ") == where
    assert message in problem.message


def test_data_that_is_only_compared_with_is_used_and_costs(recipe: Path) -> None:
    text = RECIPE.replace("like: cold.train", "like: calm").replace(
        "directions:", "  calm: {inline: [a1, a2]}\ndirections:", 1
    )
    recipe.write_text(text, "utf-8")
    plan = plan_recipe(recipe, (), CATALOG)
    assert not any("calm" in note and "not used" in note for note in plan.notes)
    # Two scores of the search read two data sets each, the evaluator three for each of its two.
    (search,) = plan.searches
    parts = dict(plan.cost.parts)
    assert parts["search"] == 3 * 3 * 3 + sum(len(score.references) for score in search.scores)
    assert parts["baseline"] == 2 + 2 * 3
