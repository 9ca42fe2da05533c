"""A table that a run wrote is chosen from by the run's own rule, and a run without a choice says where it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer

from steerkit.cli import main as cli
from steerkit.errors import NoCandidateError
from steerkit.run import run_recipe
from steerkit.selection import PRESETS, Bound, LayerBound, Rule, rule_as_json
from steerkit.selection.written import rule_from_json
from tests.small_run import results_of

RECIPE = """
name: own
model: {source: "tiny-random:llama", dtype: float32}
data:
  warm: {inline: [sun one, sun two, sun three, sun four, sun five, sun six], split: {train: 4, validation: 2}}
  cold: {inline: [ice one, ice two, ice three, ice four, ice five, ice six], split: {train: 4, validation: 2}}
directions:
  found:
    {estimator: mean_difference, positive: warm.train, negative: cold.train, site: "blocks.*.resid_post",
     positions: "post_instruction[-2:][*]"}
search:
  warmth:
    over: found
    scores:
      warmer: {refusal_score: {data: cold.validation, under: [add], tokens: [x]}}
      colder: {refusal_score: {data: warm.validation, under: [ablate], tokens: [x]}}
      kl:     {kl_divergence: {data: cold.validation, under: [ablate]}}
    maximise: warmer
    subject_to: {cold: {score: colder, at_least: -100}, near: {score: kl, at_most: 5, at_least: -5}}
    layers_below: 0.9
    exhaustive: true
conditions:
  added: [{add: {direction: warmth}}]
evaluate:
  - refusal_score: {data: cold.validation, tokens: [x]}
control: {random_directions: 0}
report: {separation: false}
"""


def write(folder: Path, text: str = RECIPE) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def command(*arguments: object) -> int:
    with pytest.raises((SystemExit, typer.Exit)) as left:
        cli.main([str(one) for one in arguments])
    return int(getattr(left.value, "code", None) or getattr(left.value, "exit_code", 0) or 0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    return run_recipe(write(folder), out=folder / "runs")


def test_a_table_of_scores_of_its_own_is_chosen_from_as_the_run_did(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (search,) = results_of(run)["searches"]
    rows: list[dict[str, Any]] = search["candidates"]
    assert command("select", run / "candidates-warmth.json", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    places = [rows[at] for at in (search["chosen"], *search["near_ties"])]
    assert [(one["position"], one["layer"]) for one in (told, *told["near_ties"])] == [
        (one["position"], one["layer"]) for one in places
    ]
    assert told["feasible"] == search["feasible"] and told["removed_by"] == search["removed_by"]
    assert told["removed_by"]["layer"] == 2, "0.9 of three layers are two of them"
    assert command("select", run / "candidates-warmth.json") == 0
    assert "kl" in capsys.readouterr().out


def test_a_rule_is_read_back_as_it_was() -> None:
    strict = Rule("a", (Bound("b", "c", at_least=0.1, strict=True), Bound("d", "e", at_most=-1e-9)), LayerBound(0.8))
    for rule in (strict, Rule("a", maximise=True, plus=("f",)), *PRESETS.values()):
        assert rule_from_json(json.loads(json.dumps(rule_as_json(rule)))) == rule


def test_a_preset_goes_before_the_runs_rule_and_a_table_alone_says_what_it_lacks(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = run / "candidates-warmth.json"
    assert command("select", table, "--preset", "arditi2024") == 2
    assert "row 1: there is no 'refusal_score', and the rule is about" in capsys.readouterr().err
    shutil.copy(table, tmp_path / table.name)
    assert command("select", tmp_path / table.name) == 2
    assert "How many layers does the model have? Say it with --layers N" in capsys.readouterr().err
    assert command("select", tmp_path / table.name, "--layers", 3) == 2
    told = capsys.readouterr().err
    assert "it has warmer, colder, kl." in told and "keep a run's table beside its plan.json" in told
    (tmp_path / "plan.json").write_text('{"search": [{"name": "warmth", "rule": {}}]}')
    assert command("select", tmp_path / table.name) == 2
    assert "can't be read (KeyError)" in capsys.readouterr().err


def test_a_run_without_a_choice_says_so_whoever_asks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write(tmp_path, RECIPE.replace("at_most: 5, at_least: -5", "at_most: -3"))
    with pytest.raises(NoCandidateError) as caught:
        run_recipe(recipe, out=tmp_path / "runs")
    (folder,) = (one for one in (tmp_path / "runs").iterdir() if one.name[0] != ".")
    table = folder / "candidates-warmth.json"
    assert "by near, which asks for kl ≤ -3" in str(caught.value) and f"What each scored is in {table}" in str(
        caught.value
    )
    for asked in (["report", folder], ["bake", folder, "--condition", "added", "--out", tmp_path / "baked"]):
        assert command(*asked) == 2
        told = " ".join(capsys.readouterr().err.split())
        assert "of what search warmth scored nothing keeps to its bounds" in told and "goes on" not in told, asked
    assert command("select", table) == 3
    assert "None of 6 candidates is feasible. Removed were 2 by layer" in capsys.readouterr().err
    table.write_text("[{}]")
    assert command("report", folder) == 2
    assert "the run did not finish" in capsys.readouterr().err
