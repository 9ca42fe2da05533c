"""What is wrong within a preset is told at the key that was written, with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from steerkit.catalog import Catalog
from steerkit.errors import Problem, RecipeError
from steerkit.plan import Plan, plan_recipe
from steerkit.recipe.presets import expand_preset
from steerkit_architectures import llama
from steerkit_estimators import mean_difference
from steerkit_evaluators import activation_cosine, kl_divergence, refusal_score
from steerkit_interventions import ablate, add

CATALOG = Catalog.from_modules(llama, mean_difference, activation_cosine, kl_divergence, refusal_score, ablate, add)
RECIPE = """\
model: {source: "tiny-random:llama"}
data:
  warm: {inline: [w1, w2, w3, w4, w5, w6], split: {train: 2, validation: 2, test: 2}}
  cold: {inline: [c1, c2, c3, c4, c5, c6], split: {train: 2, validation: 2, test: 2}}
directions:
  candidates: {estimator: mean_difference, positive: warm.train, negative: cold.train, site: blocks.*.resid_pre}
search:
  warmth:
    over: candidates
    preset:
      PRESET:
        harmful: warm.validation
        harmless: cold.validation
        MORE
conditions:
  ablated: [ablate: {direction: warmth}]
evaluate:
  - refusal_score: {data: warm.test}
"""
LINE = 14  # of MORE


def plan(folder: Path, preset: str = "arditi2024", more: str = "", text: str = RECIPE) -> Plan:
    path = folder / "small.yaml"
    path.write_text(text.replace("PRESET", preset).replace("MORE", more or "# nothing more"), "utf-8")
    return plan_recipe(path, (), CATALOG)


def problems(folder: Path, preset: str, more: str, text: str = RECIPE) -> list[Problem]:
    with pytest.raises(RecipeError) as caught:
        plan(folder, preset, more, text)
    return list(caught.value.problems)


@pytest.mark.parametrize(
    ("preset", "more", "key", "message"),
    [
        ("arditi2024", "token: [x]", "token", "arditi2024 takes no 'token'. Did you mean 'tokens'?"),
        ("cosmic", "shares: 0.2", "shares", "Did you mean 'share'"),
        ("arditi2024", "coeficients: [1]", "coeficients", "Did you mean 'coefficients'?"),
        # What only the evaluator, the data or the schema can tell.
        ("arditi2024", "tokens: 5", "tokens", "expected"),
        ("arditi2024", "tokens: [x, [y]]", "tokens.1", "expected"),
        ("cosmic", "share: 2", "share", "at most 1"),
        ("cosmic", "positions: lest", "positions", "lest"),
        ("cosmic", "classes: [warm.train, cool.train]", "classes.1", "Did you mean 'cold.train'"),
        ("arditi2024", "coefficients: [1, 0]", "coefficients", "leave 0 out"),
        ("arditi2024", "coefficients: [1, one]", "coefficients.1", "expected a number"),
    ],
)
def test_a_mistake_stands_at_its_own_key(tmp_path: Path, preset: str, more: str, key: str, message: str) -> None:
    (problem,) = problems(tmp_path, preset, more)
    assert problem.where == f"search.warmth.preset.{preset}.{key}"
    assert problem.line == LINE
    assert message in problem.message


@pytest.mark.parametrize("preset", ["arditi2024", "cosmic"])
def test_data_that_there_isn_t_is_told_once_where_the_preset_names_it(tmp_path: Path, preset: str) -> None:
    """Several scores look at one class; its key was written once."""
    text = RECIPE.replace("cold.validation", "cold.validatoin")
    (problem,) = problems(tmp_path, preset, "", text)
    assert (problem.where, problem.line) == (f"search.warmth.preset.{preset}.harmless", 13)
    assert "Did you mean" in problem.message


def test_every_wrong_key_is_told_and_a_missing_one_only_where_none_means_it(tmp_path: Path) -> None:
    text = RECIPE.replace("harmless:", "harmles:")
    found = problems(tmp_path, "arditi2024", "token: [x]", text)
    assert [(one.where.rpartition(".")[2], one.line) for one in found] == [("harmles", 13), ("token", 14)]
    (missing,) = problems(tmp_path, "arditi2024", "", RECIPE.replace("        harmless: cold.validation\n", ""))
    assert (missing.where, missing.line) == ("search.warmth.preset.arditi2024", 11)
    assert "needs harmless" in missing.message


def test_of_two_presets_both_are_named_with_the_cure(tmp_path: Path) -> None:
    """A recipe that is laid over one with another preset has both."""
    (tmp_path / "base.yaml").write_text(RECIPE.replace("PRESET", "cosmic").replace("MORE", ""), "utf-8")
    other = "arditi2024: {harmful: warm.validation, harmless: cold.validation}"
    own = f"extends: base.yaml\nsearch: {{warmth: {{preset: {{LESS{other}}}}}}}"
    (problem,) = problems(tmp_path, "", "", own.replace("LESS", ""))
    assert "not cosmic and arditi2024" in problem.message and "null takes one away" in problem.message
    assert plan(tmp_path, text=own.replace("LESS", "cosmic: null, ")).searches


def test_an_unknown_preset_stands_at_its_name(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, "arditi", "")
    assert (problem.where, problem.line) == ("search.warmth.preset.arditi", 11)
    assert "Did you mean 'arditi2024'?" in problem.message


def test_what_stands_beside_a_preset_keeps_its_own_place(tmp_path: Path) -> None:
    text = RECIPE.replace("conditions:", "    subject_to: {kl: {at_mots: 1}}\nconditions:")
    (problem,) = problems(tmp_path, "arditi2024", "", text)
    assert (problem.where, problem.line) == ("search.warmth.subject_to.kl.at_mots", 15)


def test_a_preset_of_another_file_is_told_in_that_file(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(RECIPE.replace("PRESET", "cosmic").replace("MORE", "share: 2"), "utf-8")
    (tmp_path / "own.yaml").write_text("extends: base.yaml\n", "utf-8")
    with pytest.raises(RecipeError) as caught:
        plan_recipe(tmp_path / "own.yaml", (), CATALOG)
    (problem,) = caught.value.problems
    assert problem.where == "search.warmth.preset.cosmic.share"
    assert (Path(problem.file).name, problem.line) == ("base.yaml", LINE)


def test_cosmic_is_a_search_that_a_recipe_could_write_out(tmp_path: Path) -> None:
    (search,) = plan(tmp_path, "cosmic", "share: 0.2").searches
    assert search.rule.maximise
    assert search.rule.aims == ("comply_score", "refuse_score")
    assert search.rule.says()["kl"] == "kl_div_score ≤ 0.1"
    comply, refuse, kl = search.scores
    assert [str(one.data) for one in search.scores] == ["warm.validation", "cold.validation", "cold.validation"]
    assert [one.under[0].spec.name for one in search.scores] == ["ablate", "add", "ablate"]
    assert comply.options.model_dump() == {
        "like": "cold.validation",
        "classes": ("warm.validation", "cold.validation"),
        "share": 0.2,
        "stream": "resid_post",
        "positions": "-1",
        "combine": "mean",
    }
    assert refuse.options.model_dump()["like"] == "warm.validation"
    assert kl.references == ()
    assert [(name, str(ref)) for name, ref in comply.references] == [
        ("cold.validation", "cold.validation"),
        ("warm.validation", "warm.validation"),
    ]


def test_presets_pass_coefficients_on(tmp_path: Path) -> None:
    (search,) = plan(tmp_path, "arditi2024", "coefficients: [0.5, 2]").searches
    assert search.coefficients == (0.5, 2.0)
    assert [one.varies for one in search.scores] == [False, True, False]


def test_a_preset_alone_is_told_what_it_needs() -> None:
    (problem,) = expand_preset("cosmic").problems
    assert problem[0] == ("cosmic",)
    assert "needs harmful and harmless" in problem[1]
    assert expand_preset(3).problems[0][0] == ()
