"""Directions of several vectors, and sweeps over how many of them are used: planned and refused."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from steerkit.catalog import Catalog
from steerkit.errors import RecipeError
from steerkit.plan import Plan, plan_recipe

RECIPE = """\
name: subspaces
seed: 3
model: {source: "somebody/unknown"}
data:
  warm: {inline: [{text: w1, topic: sea}, {text: w2, topic: sky}, {text: w3, topic: sea}], split: {train: 3}}
  cold: {inline: [{text: c1, topic: sea}, {text: c2, topic: sky}, {text: c3, topic: sea}], split: {train: 3}}
  probe: {inline: [p1, p2, p3], split: {test: 3}}
directions:
  topics:
    estimator: difference_subspace
    positive: warm.train
    negative: cold.train
    site: "blocks.[0.6].resid_pre"
    options: {over: topic, rank: 2}
conditions:
  removed:
    interventions: [{ablate: {direction: topics}}]
    sweep: {rank: [1, 2]}
evaluate:
  - refusal_score: {data: probe.test, tokens: [x]}
control: {random_directions: 2}
"""
MODULES = (
    "steerkit_architectures.llama",
    "steerkit_estimators.difference_subspace",
    "steerkit_interventions.ablate",
    "steerkit_evaluators.refusal_score",
)


def planned(folder: Path, text: str, *overrides: str) -> Plan:
    path = folder / "recipe.yaml"
    path.write_text(text, "utf-8")
    return plan_recipe(path, overrides, Catalog.from_modules(*map(import_module, MODULES)))


def test_a_sweep_over_ranks_is_planned_with_its_controls(tmp_path: Path) -> None:
    plan = planned(tmp_path, RECIPE)
    assert [item.name for item in plan.conditions] == ["removed[rank=1]", "removed[rank=2]"]
    assert [item.interventions[0].options.model_dump()["rank"] for item in plan.conditions] == [1, 2]
    assert [group.controls for group in plan.groups] == [0, 2, 2]


@pytest.mark.parametrize(
    ("before", "after", "where", "message"),
    [
        ("[1, 2]", "[1, 3]", "conditions.removed.sweep.rank", "rank 3 of direction 'topics', which has 2 vectors"),
        ("over: topic,", "over: topics,", "directions.topics.options.over", "Did you mean 'topic'?"),
        ("rank: 2}", "rank: 3}", "directions.topics.options.rank", "2 values of 'topic'"),
    ],
)
def test_what_the_examples_or_the_direction_lack_is_told(
    tmp_path: Path, before: str, after: str, where: str, message: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        planned(tmp_path, RECIPE.replace(before, after))
    found = [problem for problem in caught.value.problems if problem.where == where]
    assert len(found) == len(caught.value.problems) == 1, caught.value.problems
    assert message in found[0].message
