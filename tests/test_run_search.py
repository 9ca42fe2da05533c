"""Recipes that search and filter, from YAML to results, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from steerkit.api.direction_bytes import directions_from_bytes
from steerkit.artifacts.directions import load_directions
from steerkit.catalog import Catalog
from steerkit.errors import DataError, NoCandidateError, RecipeError
from steerkit.plan import plan_recipe
from steerkit.progress import Observer
from steerkit.report import summary, write_report
from steerkit.run import run_recipe
from steerkit.selection import ARDITI_2024, read_table, select

RECIPE = """\
model: {source: "tiny-random:llama"}
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
    preset: {arditi2024: {harmful: warm.validation, harmless: cold.validation, tokens: [x]}}
    subject_to: {kl: {at_most: 5}, induce: {at_least: -100}}
    exhaustive: true
conditions:
  added: [ {add: {direction: warmth}} ]
evaluate:
  - refusal_score: {data: warm.test, tokens: [x]}
control: {random_directions: 2}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "small.yaml").write_text(RECIPE, "utf-8")
    return tmp_path / "small.yaml"


def run(recipe: Path, *overrides: str, out: str = "runs", observer: Observer | None = None) -> Path:
    return run_recipe(recipe, overrides=overrides, out=recipe.parent / out, observer=observer)


def results(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "results.json").read_text("utf-8"))
    return found


class Steps(Observer):
    def __init__(self) -> None:
        self.steps: list[str] = []

    def step(self, what: str) -> None:
        self.steps.append(str(what))

    def progress(self, done: int, of: int) -> None:
        pass


def test_a_search_gives_the_direction_that_its_table_says(recipe: Path) -> None:
    path = run(recipe)
    (search,) = results(path)["searches"]
    places = [(row["position"], row["layer"]) for row in search["candidates"]]
    # At the first block the template's tokens are the same in every prompt, so there are no directions.
    assert places == [(position, layer) for position in (-3, -2, -1) for layer in (1, 2)]
    # The rule on the written table, by the command's own functions, takes the same one.
    table = path / "candidates-warmth.json"
    rule = type(ARDITI_2024)("refusal_score", (), ARDITI_2024.layers)
    winner = select(read_table(table, rule), rule, 3).winner
    chosen = search["candidates"][search["chosen"]]
    assert winner is not None
    assert (winner.position, winner.layer) == (chosen["position"], chosen["layer"])
    directions = load_directions(path / "directions.safetensors")
    taken, candidate = directions["warmth"], directions[f"candidates@{chosen['position']}"].at(chosen["site"])
    assert taken.vectors.equal(candidate.vectors)
    assert str(taken.positions) == str(chosen["position"])
    assert taken.provenance["search"]["scores"] == pytest.approx(chosen["scores"])
    entry = next(one for one in results(path)["directions"] if one["name"] == "warmth")
    assert (entry["positive"], entry["negative"]) == ("warm.train", "cold.train"), "as of a direction that is given"
    write_report(path)
    assert "What was chosen" in (path / "report.html").read_text("utf-8")
    summary(path)


def test_a_pruned_search_takes_the_same_and_leaves_out_what_it_need_not_score(recipe: Path) -> None:
    whole = results(run(recipe))["searches"][0]
    bound = sorted(row["scores"]["kl_div_score"] for row in whole["candidates"])[1] + 1e-6
    override = f"search.warmth.subject_to.kl.at_most={bound}"
    full = results(run(recipe, override))["searches"][0]
    pruned = results(run(recipe, override, "search.warmth.exhaustive=false"))["searches"][0]
    for key in ("chosen", "near_ties", "feasible"):
        assert full[key] == pruned[key]
    assert pruned["removed_by"]["kl"] == full["removed_by"]["kl"] > 0
    removed = [row for row in pruned["candidates"] if row["removed_by"]]
    assert removed
    assert all("refusal_score" not in row["scores"] for row in removed)
    alive = [row for row in pruned["candidates"] if not row["removed_by"]]
    by_place = {(row["position"], row["layer"]): row["scores"] for row in full["candidates"]}
    for row in alive:
        assert row["scores"] == pytest.approx(by_place[row["position"], row["layer"]], abs=1e-5)


def test_no_feasible_candidate_keeps_what_was_scored(recipe: Path) -> None:
    tight = "search.warmth.subject_to.kl.at_most=-1"
    with pytest.raises(NoCandidateError, match="by kl, which asks for kl_div_score ≤ -1") as caught:
        run(recipe, tight)
    assert caught.value.exit_code == 3
    (folder,) = [path for path in (recipe.parent / "runs").iterdir() if path.name[0].isdigit()]
    assert len(json.loads((folder / "candidates-warmth.json").read_text("utf-8"))) == 6
    again = Steps()
    with pytest.raises(NoCandidateError):
        run(recipe, tight, observer=again)
    assert "search warmth over candidates" not in again.steps


def test_another_bound_scores_again_only_what_depends_on_it(recipe: Path) -> None:
    run(recipe)
    again = Steps()
    run(recipe, "report.title=Another", observer=again)
    assert not any(step.startswith(("search", "choice", "direction", "condition")) for step in again.steps)
    run(recipe, "conditions.more=[{add: {direction: warmth, coefficient: 2}}]", observer=(more := Steps()))
    assert [step for step in more.steps if step.startswith(("search", "choice", "condition"))] == [
        "condition more and 2 controls"
    ]


def test_a_filter_keeps_whom_the_model_treats_as_meant(recipe: Path) -> None:
    path = run(recipe, "filter={cold: {refusal_score: {tokens: [x], at_most: -7.0}}}")
    entries = {entry["data"]: entry for entry in results(path)["filters"]}
    assert set(entries) == {"cold.train", "cold.validation"}
    assert all(0 < entry["kept"] <= entry["before"] for entry in entries.values())
    assert entries["cold.train"]["kept"] < 4
    plain = load_directions(run(recipe) / "directions.safetensors")["candidates@-1"]
    kept = load_directions(path / "directions.safetensors")["candidates@-1"]
    assert kept.provenance["n_negative"] == entries["cold.train"]["kept"]
    assert plain.provenance["n_negative"] == 4


def test_a_filter_that_keeps_nothing_says_what_there_was(recipe: Path) -> None:
    with pytest.raises(DataError, match=r"keeps none of the 4 examples of cold\.train, .* its scores lie between"):
        run(recipe, "filter={cold: {refusal_score: {tokens: [x], at_most: -50}}}")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("search.warmth.over=candidate", "unknown direction 'candidate'. Did you mean 'candidates'?"),
        ("search.warmth.over=[]", "expected the name of a direction, or a list of names"),
        ("search.warmth.over=[candidates, candidates]", "one direction stands here twice"),
        ("search.warmth.minimise=refusal", "unknown score 'refusal'. Did you mean 'refusal_score'?"),
        ("search.warmth.maximise=refusal_score", "expected one of minimise and maximise, not both"),
        ("search.warmth.subject_to.kl.score=kl", "unknown score 'kl'"),
        ("search.warmth.subject_to.kl.at_mos=1", "Did you mean 'at_most' or 'at_least'?"),
        ("search.warmth.preset={arditi: {}}", "unknown preset 'arditi'. Did you mean 'arditi2024'?"),
        ("search.warmth.preset={arditi2024: {harmful: warm.validation}}", "arditi2024 needs harmless"),
        ("search.warmth.preset={arditi2024: {harmful: a, harmless: b, token: [x]}}", "Did you mean 'tokens'?"),
        ("search.warmth.layers_below=1.5", "expected a number of at most 1"),
        (
            "search.warmth.scores.more={refusal_score: {data: warm.validation, under: [ablate]}}",
            "neither bounds 'more'",
        ),
        ("search.warmth.scores.refusal_score.refusal_score.under=[{ablate: {direction: d}}]", "leave direction out"),
        ("search.warmth.scores.refusal_score.refusal_score.under=[ablat]", "Did you mean 'ablate'?"),
        ("search={}", "no search chooses one of them"),
        ("conditions.added=[{add: {direction: candidates}}]", "name a search that chooses one"),
        ("conditions.added=[{add: {direction: warmt}}]", "Did you mean 'warmth'?"),
        ("filter={warn: {refusal_score: {at_least: 0}}}", "unknown data set 'warn'. Did you mean 'warm'?"),
        ("filter={warm: {refusal_score: {}}}", "expected a number as at_least or as at_most"),
        ("filter={warm: {kl_divergence: {at_most: 0}}}", "looks at the unsteered model alone"),
        ("filter={warm: {refusal_score: {at_least: 0, parts: [all]}}}", "has none of the parts all"),
        ("directions.candidates.positions='all[*]'", "each by itself"),
        ("conditions.added=[{add: {direction: warmth, positions: 'post_instruction[*]'}}]", "leave out [*]"),
        ("monitors={m: {direction: warmth, above: 0, positions: '[-2:][*]'}}", "leave out [*]"),
        ("search.warmth.subject_to.nan={score: kl_div_score, at_most: 1}", "can't be called 'nan'"),
        ("extends=quickstart", "it can't be set"),
        ("profiles={a: {}}", "it can't be set"),
    ],
)
def test_what_can_not_be_searched_is_told_before_anything_runs(recipe: Path, override: str, message: str) -> None:
    overrides = [override]
    if override.startswith("search.warmth.scores"):
        # Scores are written out where they are changed.
        text = RECIPE.replace("    preset:", "    scores:\n" + SCORES + "    unused:").replace("    unused:", "    # ")
        text = text.replace("exhaustive: true", "exhaustive: true\n    minimise: refusal_score")
        text = text.replace("kl: {at_most", "kl: {score: kl_div_score, at_most")
        text = text.replace("induce: {at_least", "induce: {score: steering_score, at_least")
        recipe.write_text(text, "utf-8")
    with pytest.raises(RecipeError) as caught:
        plan_recipe(recipe, overrides, Catalog.discover())
    assert message in str(caught.value), str(caught.value)


SCORES = """\
      refusal_score: {refusal_score: {data: warm.validation, under: [ablate], tokens: [x]}}
      steering_score: {refusal_score: {data: cold.validation, under: [add], tokens: [x]}}
      kl_div_score: {kl_divergence: {data: cold.validation, under: [ablate]}}
"""


GATED = """\
  warmth:
    over: candidates
    scores:
      aim: {refusal_score: {data: warm.validation, tokens: [x], under: [{add: {gate: {direction: other, above: 0}}}]}}
    minimise: aim
"""


def test_a_candidate_is_scored_without_a_gate(recipe: Path) -> None:
    head, tail = RECIPE.split("  warmth:\n")[0], RECIPE.split("conditions:")[1]
    recipe.write_text(f"{head}{GATED}conditions:{tail}", "utf-8")
    with pytest.raises(RecipeError) as caught:
        plan_recipe(recipe, (), Catalog.discover())
    (problem,) = caught.value.problems
    assert problem.where == "search.warmth.scores.aim.refusal_score.under.0.add.gate"
    assert problem.message == "a candidate is scored without a gate; remove it"


def test_a_candidate_without_a_score_takes_no_part_and_ends_nothing(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from steerkit.api.evaluator import Outputs, Score
    from steerkit_evaluators._refusal_score import RefusalScore

    own, seen = RefusalScore.score, []

    def score(self: RefusalScore, outputs: Outputs) -> list[Score]:
        seen.append(None)
        broken = len(seen) in (2, 3)  # behind the unsteered ones: the first candidate
        return [Score(float("nan")) if broken else one for one in own(self, outputs)]

    monkeypatch.setattr(RefusalScore, "score", score)
    found = results(run(recipe))["searches"][0]
    assert found["removed_by"]["nan"] == 1
    assert found["chosen"] is not None


def test_rows_and_totals_count_a_removal_alike(recipe: Path) -> None:
    tight = ["search.warmth.subject_to.kl.at_most=0.1", "search.warmth.subject_to.induce.at_least=-7.1"]
    (whole,) = results(run(recipe, *tight, "search.warmth.layers_below=1.0"))["searches"]
    listed = [row["removed_by"] for row in whole["candidates"]]
    assert {name: listed.count(name) for name in whole["removed_by"]} == whole["removed_by"]
    assert sum(whole["removed_by"].values()) > 0


def test_select_reads_a_pruned_run_s_table_as_the_run_did(recipe: Path) -> None:
    path = run(recipe, "search.warmth.exhaustive=false", "search.warmth.subject_to.kl.at_most=0.1")
    (search,) = results(path)["searches"]
    chosen = select(read_table(path / "candidates-warmth.json", ARDITI_2024), ARDITI_2024, 3)
    assert chosen.removed_by["nan"] == 0
    assert chosen.removed_by["layer"] == search["removed_by"]["layer"]


def test_the_code_of_what_searches_and_filters_is_in_the_provenance(recipe: Path) -> None:
    path = run(recipe, "filter={cold: {refusal_score: {tokens: [x], at_most: 0}}}")
    plugins = json.loads((path / "provenance.json").read_text("utf-8"))["plugins"]
    assert {one["name"] for one in plugins} >= {"ablate", "kl_divergence", "refusal_score"}
    assert all(one["sha256"] for one in plugins)


def test_candidates_that_are_scored_on_what_they_were_estimated_from_are_noted(recipe: Path) -> None:
    recipe.write_text(RECIPE.replace("harmful: warm.validation", "harmful: warm.train"), "utf-8")
    notes = plan_recipe(recipe, (), Catalog.discover()).notes
    assert any("warm.train is measured on, and directions are estimated from it" in note for note in notes)


def test_what_is_measured_by_what_chose_is_noted(recipe: Path) -> None:
    plan = plan_recipe(recipe, ["evaluate.0.refusal_score.data=warm.validation"], Catalog.discover())
    assert any("by which search 'warmth' chooses: not held out" in note for note in plan.notes)


def test_estimates_at_each_position_are_those_at_one(recipe: Path) -> None:
    path = run(recipe)
    many = load_directions(path / "directions.safetensors")
    one = run(recipe, "search={}", "directions.candidates.positions=-2", "conditions={}", out="other")
    alone = directions_from_bytes((one / "directions.safetensors").read_bytes())["candidates"]
    for site, vectors in alone.items():
        assert vectors.equal(many["candidates@-2"].by_site[site])


@pytest.mark.parametrize("exhaustive", ["true", "false"])
def test_a_run_and_the_rule_remove_an_infinite_score_alike(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, exhaustive: str
) -> None:
    """The best score that there could be is none, at the first place in the order, also where it is outside a bound."""
    from steerkit.api.evaluator import Outputs, Score
    from steerkit.engine.searching.search import CandidateSearch
    from steerkit_evaluators._kl_divergence import KlDivergence

    own, seen = KlDivergence.score, []

    def score(self: KlDivergence, outputs: Outputs) -> list[Score]:
        seen.append(None)
        return [Score(float("inf")) if len(seen) <= 2 else one for one in own(self, outputs)]

    found, run_search = [], CandidateSearch.run

    def kept(self: CandidateSearch, choices: Any) -> Any:
        found.append((choices, run_search(self, choices)))
        return found[-1][1]

    monkeypatch.setattr(KlDivergence, "score", score)
    monkeypatch.setattr(CandidateSearch, "run", kept)
    path = run(recipe, f"search.warmth.exhaustive={exhaustive}", "search.warmth.subject_to.kl.at_most=100")
    (search,) = results(path)["searches"]
    ((choices, searched),) = found
    endless = [choice.site.layer for choice, one in zip(choices, searched.scored, strict=True) if one.failed == "nan"]
    assert search["removed_by"]["nan"] == len(endless) > 0 and search["removed_by"]["kl"] == 0
    assert select(read_table(path / "candidates-warmth.json", ARDITI_2024), ARDITI_2024, 3).removed_by["nan"] == len(
        endless
    )


def test_a_search_that_aims_at_what_no_candidate_changes_is_noted(recipe: Path) -> None:
    unsteered = SCORES.replace("under: [ablate], tokens: [x]", "tokens: [x]", 1)
    preset = RECIPE[RECIPE.index("    preset:") : RECIPE.index("conditions:")]
    bounds = "a: {score: steering_score, at_least: -9}, b: {score: kl_div_score, at_most: 9}"
    rest = f"    minimise: refusal_score\n    subject_to: {{{bounds}}}\n"
    for scores, noted in ((SCORES, 0), (unsteered, 1)):
        recipe.write_text(RECIPE.replace(preset, f"    scores:\n{scores}{rest}"), "utf-8")
        notes = plan_recipe(recipe, (), Catalog.discover()).notes
        assert sum("is scored under no intervention" in note for note in notes) == noted
