"""Estimators of a recipe: further directions are known by name, and one that can't say its needs is a problem."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

import steerkit_architectures.llama
import steerkit_evaluators.cross_entropy
import steerkit_formats.steerkit
import steerkit_interventions.add
from steerkit.api.estimator import Estimate, EstimationRequest, Estimator
from steerkit.api.hookspecs import EstimatorNeeds, EstimatorSpec, EvaluatorSpec, Needs, NoOptions, hookimpl
from steerkit.artifacts.directions import load_directions
from steerkit.catalog import Catalog
from steerkit.errors import RecipeError
from steerkit.plan import make_plan
from steerkit.progress import SILENT
from steerkit.recipe import Draft, draft_recipe
from steerkit.report import write_report
from steerkit.run import execute
from steerkit.stages.preview import stand_in
from tests.conftest import tiny_live
from tests.small_run import results_of

SITE = {"site": "blocks.1.resid_pre"}
CLASSES = {"positive": "warm", "negative": "cold"}
LABELS = {"classes": {"warm": "warm", "cold": "cold", "day": "probe"}}
LABELS_APART = {"classes": {"warm": "warm", "cold": "cold", "night": "night"}}


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


class Labelled(Estimator[NoOptions]):
    """How far each class lies from the mean of all."""

    def estimate(self, request: EstimationRequest) -> Estimate:
        (site,) = request.sites
        means = {label: one.mean for label, one in request.statistics[site].items()}
        centre = sum(means.values()) / len(means)
        extra = {label: {site: (mean - centre)[None]} for label, mean in means.items()}
        return Estimate({site: torch.stack([one[site][0] for one in extra.values()])[:-1]}, extra=extra)


@pytest.fixture
def catalog() -> Iterator[Catalog]:
    home, plugin = ModuleType("both_home"), ModuleType("both_plugin")
    home.Both, home.Labelled = Both, Labelled  # type: ignore[attr-defined]
    sys.modules["both_home"] = home

    @hookimpl
    def steerkit_estimators() -> list[EstimatorSpec]:
        labelled = EstimatorNeeds(classes="labels", outputs="labels")
        own = EstimatorNeeds(sites=("blocks.1-1.resid_mid",), positions="instruction", outputs=("back",))
        return [
            EstimatorSpec("labelled", "L.", "both_home:Labelled", needs=lambda options: labelled),
            EstimatorSpec("own", "O.", "both_home:Both", needs=lambda options: own),
            EstimatorSpec("pairs", "P.", "both_home:Both", needs=lambda options: EstimatorNeeds(classes="pairs")),
            EstimatorSpec("both", "B.", "both_home:Both", needs=lambda options: EstimatorNeeds(outputs=("back",))),
            EstimatorSpec("failing", "F.", "both_home:Both", needs=lambda options: 1 / 0),  # type: ignore[arg-type, return-value]
        ]

    @hookimpl
    def unserved() -> list[EvaluatorSpec]:
        needs = {"apart": Needs(sequence_logits=True, samples=2, max_new_tokens=3), "nothing": Needs()}
        return [EvaluatorSpec(name, "E.", "both_home:Both", needs=lambda _, it=it: it) for name, it in needs.items()]

    plugin.steerkit_evaluators = unserved  # type: ignore[attr-defined]
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


def recipe(folder: Path, direction: str, estimator: str = "both", **given: object) -> Draft:
    raw = {
        "name": "further",
        "model": {"source": "tiny-random:llama", "chat_template": "none"},
        "data": {
            "warm": {"inline": ["sun", "fire"]},
            "cold": {"inline": ["ice", "snow"]},
            **({"night": {"inline": ["moon", "star"]}} if "classes" in given or "clases" in given else {}),
            "probe": {"inline": ["day"]},
        },
        "directions": {"d": {"estimator": estimator, **(given or {**CLASSES, **SITE})}},
        "conditions": {"c": [{"add": {"direction": direction}}]},
        "evaluate": [{"cross_entropy": {"data": ["probe"]}}],
        "control": False,
    }
    (folder / "recipe.yaml").write_text(json.dumps(raw))
    return draft_recipe(folder / "recipe.yaml", ())


def test_a_condition_may_use_what_an_estimator_gives_beside_its_direction(tmp_path: Path, catalog: Catalog) -> None:
    plan = make_plan(recipe(tmp_path, "d.back"), catalog)
    assert plan.directions[0].further == ("d.back",)
    assert not any("not used" in note for note in plan.notes)
    found = load_directions(execute(plan, tmp_path / "runs", SILENT) / "directions.safetensors")
    assert list(found) == ["d", "d.back"]
    assert found["d.back"].vectors.equal(-found["d"].vectors)
    assert found["d.back"].provenance["diagnostics"] == {"n": 2.0}
    assert found["d.back"].provenance["positive"] == found["d"].provenance["positive"]


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


def test_an_estimator_of_labels_gets_as_many_classes_as_a_recipe_names(tmp_path: Path, catalog: Catalog) -> None:
    plan = make_plan(recipe(tmp_path, "d.night", "labelled", **LABELS_APART, **SITE), catalog)
    assert plan.to_json()["directions"][0]["classes"] == LABELS_APART["classes"]
    run = execute(plan, tmp_path / "runs", SILENT)
    found = load_directions(run / "directions.safetensors")
    assert list(found) == ["d", "d.warm", "d.cold", "d.night"] and found["d"].rank == 2
    assert found["d.night"].provenance["classes"] == LABELS_APART["classes"]
    assert {found["d"].provenance[f"n_{label}"] for label in LABELS_APART["classes"]} == {2}
    (entry, *_) = results_of(run)["directions"]
    assert entry["classes"] == LABELS_APART["classes"] and entry["positive"] is None
    assert any("labelled classes" in note for note in results_of(run)["notes"])
    assert "labelled: warm, cold, night" in write_report(run).read_text("utf-8").replace("<wbr>", "")


def test_an_estimator_with_sites_of_its_own_needs_none(tmp_path: Path, catalog: Catalog) -> None:
    plan = make_plan(recipe(tmp_path, "d", "own", **CLASSES), catalog)
    assert any("chooses its own sites for direction 'd': blocks.1-1.resid_mid" in note for note in plan.notes)
    found = load_directions(execute(plan, tmp_path / "runs", SILENT) / "directions.safetensors")["d"]
    assert (str(found.site), str(found.positions)) == ("blocks.1.resid_mid", "instruction")
    assert stand_in(plan.directions[0], plan, tiny_live("llama")).site == found.site
    told = make_plan(recipe(tmp_path, "d", "own", **CLASSES, positions="-2"), catalog).notes
    assert any("reads direction 'd' at its own positions: instruction" in note for note in told)


@pytest.mark.parametrize(
    ("estimator", "given", "said"),
    [
        ("both", CLASSES, r"directions\.d: expected site as well"),
        ("both", {**LABELS, **SITE}, r"directions\.d\.classes: both takes two classes: write positive and negative"),
        ("labelled", {**LABELS, **CLASSES, **SITE}, "take the place of positive and negative; remove positive and"),
        ("labelled", {"classes": {"warm": "warm"}, **SITE}, "expected two classes or more"),
        ("labelled", {"classes": {"a": "warm", "b": "warm"}, **SITE}, "a and b are both warm; name other prompts here"),
        (
            "labelled",
            {"classes": {"a": "warm", "b": "cool"}, **SITE},
            r"directions\.d\.classes\.b: .*Did you mean 'cold'",
        ),
        ("labelled", {"clases": {"a": "warm", "b": "cold"}, **SITE}, r"1 problem\n.*Did you mean 'classes'"),
        ("labelled", {"classes": 3, **SITE}, r"1 problem\n.*expected a mapping"),
        ("pairs", {"positive": "warm", "negative": "probe", **SITE}, "there are 2 positive and 1 negative examples"),
        ("own", {**CLASSES, "positions": "post_instruction[*]"}, "reads at positions of its own, instruction"),
    ],
)
def test_classes_and_sites_that_cannot_be_are_told(
    tmp_path: Path, catalog: Catalog, estimator: str, given: dict[str, object], said: str
) -> None:
    with pytest.raises(RecipeError, match=said):
        make_plan(recipe(tmp_path, "d", estimator, **given), catalog)


@pytest.mark.parametrize(
    ("evaluator", "said"), [("apart", "come from different passes"), ("nothing", "no output at all")]
)
def test_an_evaluator_that_no_pass_serves_is_told(tmp_path: Path, catalog: Catalog, evaluator: str, said: str) -> None:
    draft = recipe(tmp_path, "d")
    written = (tmp_path / "recipe.yaml").read_text().replace("cross_entropy", evaluator)
    (tmp_path / "recipe.yaml").write_text(written)
    assert draft.source is not None
    with pytest.raises(RecipeError, match=rf"evaluate\.0\.{evaluator}: {evaluator} needs .*{said}"):
        make_plan(draft_recipe(draft.source, ()), catalog)
