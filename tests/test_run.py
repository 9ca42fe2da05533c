"""The main path on a tiny model: files, records, controls, and equal bytes for equal runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from steerkit import stages
from steerkit.artifacts.directions import load_directions
from steerkit.errors import RecipeError, SteerkitError
from steerkit.report import load_run, write_report
from steerkit.run import execute, run_recipe
from tests.conftest import tiny_live
from tests.small_run import RECIPE, STABLE, carried, results_of


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE)
    return path


def test_a_recipe_ends_in_a_whole_run_directory(recipe: Path, tmp_path: Path) -> None:
    run = run_recipe(recipe, out=tmp_path / "runs")
    names = {path.name for path in run.iterdir()}
    assert names == {
        "recipe.yaml",
        "plan.json",
        "directions.safetensors",
        "results.json",
        "samples.jsonl",
        "timings.json",
        "provenance.json",
        "run.log",
    }
    log = (run / "run.log").read_text()
    assert "condition baseline" in log and log.splitlines()[0].endswith(str(run))
    assert "condition warmer and 2 controls" in log
    results = results_of(run)
    conditions = {item["name"]: item for item in results["conditions"]}
    expected = ["baseline", "warmer", "warmer/random-1", "warmer/random-2", "without"]
    expected += ["without/random-1", "without/random-2", "dose[coefficient=-2]", "dose[coefficient=2]"]
    assert list(conditions) == expected
    assert conditions["warmer/random-1"]["of"] == "warmer"
    assert conditions["without"]["interventions"][0]["sites"][0] == "embed"
    jobs = [("refusal_score", "warm.test"), ("refusal_score", "cold.test"), ("kl_divergence", "cold.test")]
    jobs += [("refusal_rate", "cold.test"), ("cross_entropy", "text"), ("perplexity", "text")]
    found = [(item["condition"], item["evaluator"], item["data"]) for item in results["records"]]
    assert sorted(found) == sorted((name, *job) for name in conditions for job in jobs)
    for record in results["records"]:
        assert record["ci_low"] <= record["value"] <= record["ci_high"], record
    assert len(results["separation"]) == tiny_live("llama").layout.n_layers + 1
    assert all(row["held_out"] and row["n_positive"] == 4 for row in results["separation"])
    page = write_report(run)
    assert "warmer" in page.read_text()
    assert load_run(run).results.name == "small"


def test_records_are_what_the_python_interface_gives(recipe: Path, tmp_path: Path) -> None:
    """The runner against the same measurement made by hand."""
    import torch

    from steerkit.engine.reading.passes import next_token_logits
    from steerkit.session import add

    run = run_recipe(recipe, out=tmp_path)
    live = tiny_live("llama")
    direction = load_directions(run / "directions.safetensors")["warmth"]
    prompts = json.loads((run / "plan.json").read_text())["data"]
    assert prompts["cold.test"] == 4
    texts = [
        row["prompt"]
        for row in map(json.loads, (run / "samples.jsonl").read_text().splitlines())
        if row["condition"] == "warmer" and row["data"] == "cold.test"
    ]
    baseline = next_token_logits(live, texts).double().softmax(-1)
    with live.steer(add(direction, coefficient=3.0)):
        steered = next_token_logits(live, texts).double().softmax(-1)
    expected = (baseline * ((baseline + 1e-6).log() - (steered + 1e-6).log())).sum(-1).mean()
    (record,) = (
        item
        for item in results_of(run)["records"]
        if item["condition"] == "warmer" and item["evaluator"] == "kl_divergence"
    )
    assert record["value"] == pytest.approx(float(expected), rel=1e-4)
    assert torch.isfinite(expected) and expected > 0.01


def test_controls_have_the_directions_norm_and_are_seeded(recipe: Path, tmp_path: Path) -> None:
    run = run_recipe(recipe, out=tmp_path)
    direction = load_directions(run / "directions.safetensors")["warmth"]
    one, again, other = (stages.random_like(direction, 7, number) for number in (1, 1, 2))
    assert one.vectors.equal(again.vectors) and not one.vectors.equal(other.vectors)
    assert float(one.vectors.norm()) == pytest.approx(float(direction.vectors.norm()), rel=1e-6)


def test_what_is_written_is_what_is_read(recipe: Path, tmp_path: Path) -> None:
    """One schema: whatever the report can read of a run, the runner has written, and the other way round."""
    run = run_recipe(recipe, out=tmp_path)
    results, provenance = results_of(run), json.loads((run / "provenance.json").read_text())
    loaded = load_run(run)

    def check(model: Any, written: Any, where: str) -> None:
        rare = set(getattr(type(model), "_rare", ()))
        assert set(type(model).model_fields) - rare == set(written) - rare, where
        for name in set(written) - rare:
            value = getattr(model, name)
            if isinstance(value, BaseModel):
                check(value, written[name], f"{where}.{name}")
            elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
                for entry, item in zip(value, written[name], strict=True):
                    check(entry, item, f"{where}.{name}")

    check(loaded.results, results, "results")
    check(loaded.origin, provenance, "provenance")
    for sample, line in zip(loaded.samples, (run / "samples.jsonl").read_text().splitlines(), strict=True):
        check(sample, json.loads(line), "samples")
    assert loaded.times.seconds and set(json.loads((run / "timings.json").read_text())) == {"seconds"}


def test_a_report_shows_the_commits_of_the_recipe_and_of_steerkit(recipe: Path, tmp_path: Path) -> None:
    import subprocess

    names = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org")
    for words in (["init", "-q"], [*names, "commit", "-q", "--allow-empty", "-m", "Begin"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True, capture_output=True)
    run = run_recipe(recipe, out=tmp_path / "runs", overrides=["conditions={}", "control=false"])
    git = load_run(run).origin.git
    assert git.recipe is not None and git.recipe.dirty
    page = write_report(run).read_text()
    assert "Commit of the recipe" in page and f"{git.recipe.commit[:12]} with uncommitted changes" in page
    assert git.steerkit is None or f"{git.steerkit.commit[:12]}" in page


def test_equal_runs_are_equal_to_the_byte(recipe: Path, tmp_path: Path) -> None:
    first, second = (run_recipe(recipe, out=tmp_path / name) for name in ("a", "b"))
    for name in STABLE:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    # The page says how long the run took, which is all that may differ.
    (second / "timings.json").write_bytes((first / "timings.json").read_bytes())
    assert write_report(first).read_bytes() == write_report(second).read_bytes()


def test_another_seed_gives_another_directory_and_other_controls(recipe: Path, tmp_path: Path) -> None:
    first = run_recipe(recipe, out=tmp_path)
    second = run_recipe(recipe, out=tmp_path, overrides=["seed=8"])
    assert first.name.rsplit("-", 1)[1] != second.name.rsplit("-", 1)[1]


def test_a_recipe_runs_with_plugins_that_are_not_installed(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing behind the plan asks for what is installed."""
    from steerkit.catalog import Catalog
    from steerkit.plan import plan_recipe
    from steerkit.session import plugins

    expected = run_recipe(recipe, out=tmp_path / "installed")
    found = plan_recipe(recipe, (), Catalog.discover())

    def refuse(*args: Any, **kwargs: Any) -> Catalog:
        raise AssertionError("what is installed doesn't count")

    monkeypatch.setattr(Catalog, "discover", refuse)
    plugins.installed.cache_clear()
    try:
        run = execute(found, tmp_path / "runs")
    finally:
        plugins.installed.cache_clear()
    assert (run / "results.json").read_bytes() == (expected / "results.json").read_bytes()


def test_a_condition_is_run_with_its_own_controls_and_nothing_else(recipe: Path) -> None:
    from steerkit.catalog import Catalog
    from steerkit.plan import plan_recipe

    found = plan_recipe(recipe, (), Catalog.discover())
    names = [group.condition.name if group.condition else "" for group in found.groups]
    assert names == ["", "warmer", "without", "dose[coefficient=-2]", "dose[coefficient=2]"]
    assert [group.controls for group in found.groups] == [0, 2, 2, 0, 0]


def test_a_direction_file_must_hold_the_direction(recipe: Path, tmp_path: Path) -> None:
    import torch

    from steerkit.api.direction import Direction
    from steerkit.artifacts.directions import save_directions
    from steerkit.types import Site

    two = [Direction(torch.ones(1, 32), Site("resid_pre", 1), name=name) for name in ("cold", "formal")]
    save_directions(tmp_path / "two.safetensors", two)
    saved = tmp_path / "saved.yaml"
    classes = "{estimator: mean_difference, positive: warm.train, negative: cold.train, site: blocks.1.resid_pre}"
    saved.write_text(RECIPE.replace(classes, "{file: two.safetensors}"))
    with pytest.raises(RecipeError, match="holds cold, formal"):  # before anything is loaded
        run_recipe(saved, out=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_bad_recipe_runs_nothing(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="Nothing was run"):
        run_recipe(recipe, out=tmp_path / "runs", overrides=["model.dtype=float23"])
    assert not (tmp_path / "runs").exists()


def test_a_direction_from_a_file_gives_the_same_records(recipe: Path, tmp_path: Path) -> None:
    run = run_recipe(recipe, out=tmp_path / "runs")
    saved = tmp_path / "saved.yaml"
    saved.write_text(
        RECIPE.replace(
            "{estimator: mean_difference, positive: warm.train, negative: cold.train, site: blocks.1.resid_pre}",
            f"{{file: {run / 'directions.safetensors'}}}",
        )
    )
    other = run_recipe(saved, out=tmp_path / "runs")
    assert results_of(other)["records"] == results_of(run)["records"]
    assert any("from a file" in note for note in results_of(other)["notes"])


def test_a_recipe_may_measure_the_model_alone(tmp_path: Path) -> None:
    path = tmp_path / "alone.yaml"
    path.write_text(
        'model: {source: "tiny-random:llama"}\n'
        "data: {a: {inline: [one, two, three]}}\n"
        "evaluate: [{refusal_score: {data: a}}]\n"
    )
    run = run_recipe(path, out=tmp_path / "runs")
    (record,) = results_of(run)["records"]
    assert record["condition"] == "baseline" and record["n"] == 3
    assert not (run / "directions.safetensors").exists()
    write_report(run)


def test_a_recipe_with_one_prompt_per_class_says_what_it_cannot_know(tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text(
        'model: {source: "tiny-random:llama"}\n'
        "data: {a: {inline: [one]}, b: {inline: [two]}, c: {inline: [three]}}\n"
        "directions:\n"
        "  d: {estimator: mean_difference, positive: a, negative: b, site: blocks.0.resid_post}\n"
        "conditions: {c: [{add: {direction: d}}]}\n"
        "evaluate: [{refusal_score: {data: c}}]\n"
    )
    run = run_recipe(path, out=tmp_path / "runs")
    results = results_of(run)
    assert all(record["standard_error"] is None and record["ci_low"] is None for record in results["records"])
    assert all(row["d_prime"] is None and not row["held_out"] for row in results["separation"])
    write_report(run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('conditions.warmer.0.add.sites=["blocks.1.head_out[99]"]', "Condition warmer: .*heads"),
        ("conditions.warmer.0.add.coefficient=[1, 2]", "Condition warmer"),
        ("conditions.warmer.0.add.positions=-500", "Condition warmer: .*has only"),
    ],
)
def test_an_impossible_condition_is_found_before_anything_is_measured(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, message: str
) -> None:
    done = carried(monkeypatch)
    with pytest.raises(SteerkitError, match=message):
        run_recipe(recipe, out=tmp_path, overrides=[change])
    assert {task.kind for task in done} == {"direction"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"out": ""}, "an empty text is none"),
        ({"store": ""}, "an empty text is none"),
        ({"overrides": "seed=1"}, r"overrides is a list of settings: write \['seed=1'\]"),
        ({"threads": "two"}, "A run takes 1 to 1024 threads, not 'two'"),
        ({"ot": "x"}, "run_recipe has no argument 'ot'. Did you mean 'out'"),
    ],
)
def test_words_that_are_none_say_what_to_write(recipe: Path, words: dict[str, Any], said: str) -> None:
    with pytest.raises(SteerkitError, match=said):
        run_recipe(recipe, **{"out": recipe.parent / "runs", **words})
    assert not (recipe.parent / "runs").exists()
