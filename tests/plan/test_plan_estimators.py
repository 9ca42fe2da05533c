"""Estimators of a recipe: further directions are known by name, and one that can't say its needs is a problem."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import steerkit_architectures.llama
import steerkit_evaluators.cross_entropy
import steerkit_formats.steerkit
import steerkit_interventions.add
from steerkit.api.estimator import Estimate, EstimationRequest, Estimator
from steerkit.api.hookspecs import EstimatorNeeds, EstimatorSpec, NoOptions, hookimpl
from steerkit.catalog import Catalog
from steerkit.errors import RecipeError
from steerkit.plan import make_plan
from steerkit.recipe import Draft, draft_recipe


class Both(Estimator[NoOptions]):
    """The mean difference, and it turned around."""

    def estimate(self, request: EstimationRequest) -> Estimate:
        found = {
            site: (classes["positive"].mean - classes["negative"].mean)[None]
            for site, classes in request.statistics.items()
        }
        return Estimate(
            found, extra={"back": {site: -vectors for site, vectors in found.items()}}, diagnostics={"n": 2.0}
        )


@pytest.fixture
def catalog() -> Iterator[Catalog]:
    home, plugin = ModuleType("both_home"), ModuleType("both_plugin")
    home.Both = Both  # type: ignore[attr-defined]
    sys.modules["both_home"] = home

    @hookimpl
    def steerkit_estimators() -> list[EstimatorSpec]:
        return [
            EstimatorSpec("both", "B.", "both_home:Both", needs=lambda options: EstimatorNeeds(outputs=("back",))),
            EstimatorSpec("failing", "F.", "both_home:Both", needs=lambda options: 1 / 0),  # type: ignore[arg-type, return-value]
        ]

    plugin.STEERKIT_CONTRACT = 2  # type: ignore[attr-defined]
    plugin.steerkit_estimators = steerkit_estimators  # type: ignore[attr-defined]
    yield Catalog.from_modules(
        plugin,
        steerkit_architectures.llama,
        steerkit_evaluators.cross_entropy,
        steerkit_formats.steerkit,
        steerkit_interventions.add,
    )
    del sys.modules["both_home"]


def recipe(folder: Path, direction: str, estimator: str = "both") -> Draft:
    raw = {
        "name": "further",
        "model": {"source": "tiny-random:llama", "chat_template": "none"},
        "data": {
            "warm": {"inline": ["sun", "fire"]},
            "cold": {"inline": ["ice", "snow"]},
            "probe": {"inline": ["day"]},
        },
        "directions": {
            "d": {"estimator": estimator, "positive": "warm", "negative": "cold", "site": "blocks.1.resid_pre"}
        },
        "conditions": {"c": [{"add": {"direction": direction}}]},
        "evaluate": [{"cross_entropy": {"data": ["probe"]}}],
        "control": False,
    }
    (folder / "recipe.yaml").write_text(json.dumps(raw))
    return draft_recipe(folder / "recipe.yaml", ())


def test_a_condition_may_use_what_an_estimator_gives_beside_its_direction(tmp_path: Path, catalog: Catalog) -> None:
    from steerkit import stages

    plan = make_plan(recipe(tmp_path, "d.back"), catalog)
    assert plan.directions[0].further == ("d.back",)
    assert not any("not used" in note for note in plan.notes)
    live = stages.load(plan)
    use = stages.model_use(plan, live)
    graph = stages.make_graph(plan, use)
    (task,) = graph.estimates
    assert graph.directions == {"d": task.key, "d.back": task.key}
    # The condition waits for the task that gives its direction, and takes that one of the two.
    assert all(scored.inputs["direction d.back"] == task.key for scored in graph.groups[1].scores.values())
    content = stages.carry_out([task], {}, stages.Bench(use, live))[task.key]
    main, back = (stages.read_direction(content, name) for name in ("d", "d.back"))
    assert back.vectors.equal(-main.vectors)
    assert back.provenance["diagnostics"] == main.provenance["diagnostics"] == {"n": 2.0}


@pytest.mark.parametrize(
    ("direction", "estimator", "said"),
    [
        ("d.front", "both", r"unknown direction 'd\.front'. Available: d, d\.back"),
        ("d", "failing", "failed to say what it needs: ZeroDivisionError"),
    ],
)
def test_what_cant_be_is_a_problem_of_the_recipe(
    tmp_path: Path, catalog: Catalog, direction: str, estimator: str, said: str
) -> None:
    with pytest.raises(RecipeError, match=said):
        make_plan(recipe(tmp_path, direction, estimator), catalog)
