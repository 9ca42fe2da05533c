"""What a run tells its report: shares that go the other way, predictors, cosines, the trade-off; and what it costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from steerkit.artifacts.directions import load_directions
from steerkit.catalog import Catalog
from steerkit.errors import RecipeError
from steerkit.plan import plan_recipe
from steerkit.report import write_report
from steerkit.run import run_recipe
from steerkit.stages import cosines
from steerkit.stages.tasks import SeparationTask

RECIPE = """\
name: beside
model: {source: "tiny-random:llama"}
data:
  warm: {inline: [w1, w2, w3, w4, w5, w6, w7, w8], split: {train: 4, validation: 2, test: 2}}
  cold: {inline: [c1, c2, c3, c4, c5, c6, c7, c8], split: {train: 4, validation: 2, test: 2}}
directions:
  candidates:
    {estimator: mean_difference, positive: warm.train, negative: cold.train, site: blocks.*.resid_pre,
     positions: "[-3:][*]"}
  felt: {estimator: mean_difference, positive: warm.train, negative: cold.train, site: blocks.*.resid_pre,
    positions: "instruction[-1]"}
  early: {estimator: mean_difference, positive: warm.train, negative: cold.train, site: blocks.1.resid_pre}
  late: {estimator: mean_difference, positive: warm.train, negative: cold.train, site: blocks.1.resid_post}
search:
  warmth:
    over: candidates
    preset: {arditi2024: {harmful: warm.validation, harmless: cold.validation, tokens: [x]}}
    subject_to: {kl: {at_most: 5}, induce: {at_least: -100}}
    layers_below: 1.0
conditions:
  added: [ {add: {direction: warmth, coefficient: 4}} ]
  felt: [ {add: {direction: felt, sites: [blocks.1.resid_pre]}} ]
  both: [ {add: {direction: early}}, {add: {direction: late}} ]
evaluate:
  - refusal_score: {data: [warm.test, cold.test], tokens: [x]}
  - kl_divergence: {data: cold.test}
control: {random_directions: 2}
report:
  tradeoff: {evaluator: refusal_score, should: warm.test, should_not: [cold.test]}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    (folder / "small.yaml").write_text(RECIPE, "utf-8")
    return folder


@pytest.fixture(scope="module")
def ran(folder: Path) -> tuple[Path, list[Any]]:
    """A run, and the separations that were carried out in it."""
    from steerkit.stages import carry

    done: list[Any] = []
    original = carry._separation

    def counted(payload: SeparationTask, bench: Any) -> bytes:
        done.append(payload)
        return original(payload, bench)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(carry, "_separation", counted)
        path = run_recipe(folder / "small.yaml", out=folder / "runs")
    return path, done


@pytest.fixture(scope="module")
def results(ran: tuple[Path, list[Any]]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ran[0] / "results.json").read_text("utf-8"))
    return found


def test_the_share_that_goes_the_other_way_is_that_of_the_samples(
    ran: tuple[Path, list[Any]], results: dict[str, Any]
) -> None:
    samples = [json.loads(line) for line in (ran[0] / "samples.jsonl").read_text("utf-8").splitlines()]
    checked = 0
    for record in results["records"]:
        if record["condition"] == "baseline":
            assert "against" not in record and "unmoved" not in record
            continue
        name, data = record["evaluator"], record["data"]
        by = {
            where: [one["scores"][name] for one in samples if one["condition"] == where and one["data"] == data]
            for where in ("baseline", record["condition"])
        }
        moved = [after - before for before, after in zip(*by.values(), strict=False)]
        if moved and "against" in record:
            checked += 1
            assert record["against"] == sum(one * sum(moved) < 0 for one in moved) / len(moved)
    assert checked >= 6


def test_every_direction_says_what_its_prompts_foretell(results: dict[str, Any]) -> None:
    by_name = {entry["name"]: entry for entry in results["directions"]}
    assert set(by_name["warmth"]["predictors"]) == {by_name["warmth"]["site"]}, "of what was chosen, at its site"
    assert set(by_name["felt"]["predictors"]) == set(by_name["felt"]["norms_by_site"])
    for entry in by_name.values():
        for one in entry["predictors"].values():
            assert 0 < one["agreement"] <= 1 and one["d_prime"] > 0 and one["paired"] is False


def test_cosines_are_those_of_the_directions_file(ran: tuple[Path, list[Any]], results: dict[str, Any]) -> None:
    saved = load_directions(ran[0] / "directions.safetensors")
    felt, early, late = (saved[name] for name in ("felt", "early", "late"))
    found = {(one["first"], one["second"], one["site"], one.get("other")): one for one in results["cosines"]}
    apart = found["early", "late", "blocks.1.resid_pre", "blocks.1.resid_post"]
    assert apart["cosine"] == pytest.approx(cosines.cosine(early.vectors, late.vectors))
    beside = found["felt", "early", "blocks.1.resid_pre", None]
    assert beside["cosine"] == pytest.approx(cosines.cosine(felt.at("blocks.1.resid_pre").vectors, early.vectors))
    by_layer = [one for one in results["cosines"] if (one["first"], one["second"]) == ("felt", "warmth")]
    assert len(by_layer) >= 2 and sum("standing_for" in one for one in by_layer) == len(by_layer) - 1


def test_classes_are_told_apart_once_for_directions_of_one_data_positions_and_estimator(
    ran: tuple[Path, list[Any]], results: dict[str, Any]
) -> None:
    _, done = ran
    assert [str(one.positions) for one in done] == ["instruction[-1]", "-1"], "early and late share theirs"
    rows: dict[str, list[Any]] = {}
    for entry in results["separation"]:
        rows.setdefault(entry["direction"], []).append({**entry, "direction": ""})
    assert set(rows) == {"felt", "early", "late"} and rows["early"] == rows["late"]


def test_roles_and_the_tradeoff_are_in_results(results: dict[str, Any]) -> None:
    roles = {entry["name"]: entry.get("role") for entry in results["evaluators"]}
    assert roles == {"refusal_score": None, "kl_divergence": "side effect"}
    assert results["tradeoff"] == {
        "evaluator": "refusal_score", "should": ["warm.test"], "should_not": ["cold.test"],
    }  # fmt: skip


def test_its_report_is_written(ran: tuple[Path, list[Any]]) -> None:
    assert write_report(ran[0]).is_file()


@pytest.mark.parametrize(
    ("was", "written", "key", "message"),
    [
        ("evaluator: refusal_score", "evaluator: refusal_scor", "report.tradeoff.evaluator", "Did you mean 'refusal_s"),
        ("should: warm.test", "should: warm.tests", "report.tradeoff.should", "tests"),
        (
            "should: warm.test",
            "should: warm.validation",
            "report.tradeoff.should",
            "run on warm.validation, only",
        ),
        ("should_not: [cold.test]", "should_not: [warm.test]", "report.tradeoff.should_not", "stands here twice"),
        ("should_not: [cold.test]", "should_not: []", "report.tradeoff.should_not", "one data reference at least"),
        ("report:\n", "report:\n  compared_with: wramth\n", "report.compared_with", "Did you mean 'warmth'"),
        ("report:\n", "report:\n  compared_with: candidates\n", "report.compared_with", "one for each position"),
    ],
)
def test_a_check_tells_what_a_report_cannot_show(
    tmp_path: Path, was: str, written: str, key: str, message: str
) -> None:
    assert was in RECIPE
    (tmp_path / "small.yaml").write_text(RECIPE.replace(was, written), "utf-8")
    with pytest.raises(RecipeError) as error:
        plan_recipe(tmp_path / "small.yaml", (), Catalog.discover())
    (problem,) = error.value.problems
    assert problem.where.startswith(key) and message in str(problem)


def test_a_recipe_without_them_is_written_as_ever(folder: Path) -> None:
    plain = RECIPE[: RECIPE.index("report:")]
    (folder / "plain.yaml").write_text(plain, "utf-8")
    plan = plan_recipe(folder / "plain.yaml", (), Catalog.discover())
    assert "tradeoff" not in plan.report.recipe and "compared_with" not in plan.report.recipe
    kept = plan_recipe(folder / "small.yaml", (), Catalog.discover())
    assert "should_not" in kept.report.recipe
