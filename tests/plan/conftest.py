"""A small recipe, and what tests of plans do with recipes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from steerkit.catalog import Catalog
from steerkit.errors import RecipeError
from steerkit.plan import Plan, plan_recipe

RECIPE = """\
name: plan
seed: 3
model: {source: "tiny-random:llama"}
data:
  warm: {inline: [w1, w2, w3, w4, w5, w6], split: {train: 4, test: 2}}
  cold: {inline: [c1, c2, c3, c4, c5, c6], split: {train: 4, test: 2}}
  probe: {inline: [p1, p2, p3], split: {test: 3}}
directions:
  warmth: {estimator: mean_difference, positive: warm.train, negative: cold.train, site: blocks.1.resid_pre}
conditions:
  warmer:
    - add: {direction: warmth, coefficient: 4.0}
  dose:
    interventions: [ {add: {direction: warmth}} ]
    sweep: {coefficient: [-8, 0.5]}
  alone:
    interventions: [ {ablate: {direction: warmth, sites: [embed, blocks.0.attn_out], positions: "generated[:2]"}} ]
    control: false
evaluate:
  - refusal_score: {data: [probe.test, warm.test], tokens: [x]}
report: {samples: {data: probe.test, n: 2, max_new_tokens: 7}}
"""

UNSEEN = (
    "Condition alone edits generated tokens only, and refusal_score reads what follows prompts or given texts, so it "
    "can't differ from the baseline there."
)
"""What a plan of it says."""

Planner = Callable[..., Plan]
Problems = Callable[..., list[tuple[int | None, str, str]]]


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.discover()


@pytest.fixture
def plan(tmp_path: Path, catalog: Catalog) -> Planner:
    def make(text: str = RECIPE, *overrides: str) -> Plan:
        path = tmp_path / "plan.yaml"
        path.write_text(text, "utf-8")
        return plan_recipe(path, overrides, catalog)

    return make


@pytest.fixture
def problems(plan: Planner) -> Problems:
    def make(text: str = RECIPE, *overrides: str) -> list[tuple[int | None, str, str]]:
        with pytest.raises(RecipeError) as caught:
            plan(text, *overrides)
        assert "Nothing was run." in str(caught.value)
        return [(item.line, item.where, item.message) for item in caught.value.problems]

    return make
