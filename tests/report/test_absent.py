"""A value that a judge didn't give is called not judged wherever values are shown, and what wasn't measured isn't."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from steerkit.artifacts.reading import RecordEntry, Results
from steerkit.baking.card import _effects
from steerkit.report import load_run, write_report
from steerkit.report.absent import absent_score, absent_word, common_word, done
from steerkit.report.agreement import make_agreements
from steerkit.report.findings import make_findings
from steerkit.report.gaps import missing
from steerkit.report.heat import make_heats
from steerkit.report.heat_plots import draw_heat
from steerkit.report.short import make_short
from steerkit.report.tables import make_blocks
from steerkit.report.tradeoff import make_tradeoff
from steerkit.report.tradeoff_plots import draw_tradeoff
from tests.report.conftest import add, base, condition, record, write_run
from tests.report.study import DATA, intervention, study
from tests.report.test_agreement import entry, sample

GONE: dict[str, Any] = {"value": None, "n": 0, "not_computed": 32, "difference": None, "ci_low": None, "ci_high": None}
HALF: dict[str, Any] = {**GONE, "n": 20, "not_computed": 12}


def without(results: dict[str, Any], *conditions: str, judge: bool = True, gone: dict[str, Any] = GONE) -> Results:
    """The results with the first evaluator's values of these conditions taken away."""
    evaluator = results["evaluators"][0]
    if judge:
        evaluator["role"] = "judge"
    for one in results["records"]:
        if one["evaluator"] == evaluator["name"] and one["condition"] in conditions:
            one.update(gone)
    return Results.model_validate(results)


def test_the_word_is_decided_by_who_gives_the_value_and_by_what_there_is() -> None:
    one = RecordEntry(condition="c", evaluator="e", data="d", n=0, not_computed=3)
    some = one.model_copy(update={"n": 2})
    odd = one.model_copy(update={"not_computed": 0})
    assert absent_word([one], True) == "not judged" and absent_word([some, None], True) == "not all judged"
    assert absent_word([one], False) == absent_word([odd], True) == absent_word([None], True) == "not measured"
    assert (absent_score(True), absent_score(False)) == ("not judged", "not measured")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["not judged", "not judged"], "not judged"),
        (["not judged", "not all judged"], "not all judged"),
        (["not judged", "not measured"], "not measured"),
        ([], "not measured"),
    ],
)
def test_several_absences_have_one_word(words: list[str], expected: str) -> None:
    assert common_word(words) == expected
    assert done(expected) == expected.split()[-1]


@pytest.mark.parametrize(("judge", "word"), [(True, "not judged"), (False, "not measured")])
def test_a_picture_without_points_says_why(judge: bool, word: str) -> None:
    results = study()
    tradeoff = make_tradeoff(without(results, *(one["name"] for one in results["conditions"]), judge=judge))
    assert tradeoff is not None and not tradeoff.drawn
    assert [text.get_text() for text in draw_tradeoff(tradeoff).axes[0].texts] == [word]


def heat_results() -> dict[str, Any]:
    results = study()
    conditions = [results["conditions"][0]]
    records = [one for one in results["records"] if one["condition"] == "baseline"]
    for layer in (3, 4):
        for times in (1.0, 2.0):
            name = f"at-{layer}-{times:g}"
            done = [intervention("add", "refusal", [f"blocks.{layer}.resid_pre"], coefficient=times)]
            conditions.append({"name": name, "kind": "intervention", "interventions": done})
            records.append({**records[0], "condition": name, "difference": 0.1 * times})
    return {**results, "conditions": conditions, "records": records, "searches": [], "tradeoff": None}


@pytest.mark.parametrize(("judge", "word"), [(True, "not judged"), (False, "not measured")])
def test_grey_cells_of_a_heat_map_are_explained(judge: bool, word: str) -> None:
    results = without(heat_results(), "at-3-1", judge=judge)
    (heat,) = make_heats(results, make_blocks(results), ())
    assert heat.absent == word
    assert word in [text.get_text() for text in draw_heat(heat).legends[0].get_texts()]
    whole = without(heat_results(), judge=judge)
    (heat,) = make_heats(whole, make_blocks(whole), ())
    assert heat.absent == "", "every cell has a number"


def test_a_cell_that_no_condition_is_for_was_not_measured() -> None:
    results = heat_results()
    results["conditions"] = [one for one in results["conditions"] if one["name"] != "at-4-2"]
    found = without(results, "at-3-1")
    (heat,) = make_heats(found, make_blocks(found), ())
    assert heat.absent == "not judged or not measured"


def test_a_sweep_and_its_controls_say_what_was_not_judged() -> None:
    results = base()
    drawn = [f"dose[coefficient=8]/random-{number}" for number in (1, 2)]
    blocks = make_blocks(without(results, "dose[coefficient=-8]", "warmer/random-1", *drawn))
    texts = {one.subject: one.text for one in make_findings(blocks)[0].findings}
    assert "One point of the sweep was not judged." in texts["dose"]
    assert "The 4 judged of five random directions" in texts["warmer"]
    gone = [f"dose[coefficient={c}]/random-{number}" for c in (-8, -4, 4, 8) for number in range(1, 6)]
    blocks = make_blocks(without(base(), *gone))
    texts = {one.subject: one.text for one in make_findings(blocks)[0].findings}
    assert "No control was judged" in texts["dose"]


def test_what_is_missing_is_listed_by_the_word_for_it(tmp_path: Path) -> None:
    results = base()
    results["records"] += [
        record("warmer", None, data="other", n=16, not_computed=16),
        record("baseline", 1.0, data="other"),
    ]
    without(results, "cooler", "warmer/random-1")
    for one in results["records"]:
        if (one["condition"], one["data"]) == ("cooler", "probe.test"):
            one["not_computed"] = 0
    run = load_run(write_run(tmp_path / "run", results))
    found = missing(run, make_blocks(run.results), ())
    assert "choice_logit_difference on probe.test: cooler was not measured." in found
    assert "choice_logit_difference on other: warmer was not all judged." in found
    assert "choice_logit_difference on probe.test: not every random direction was judged for warmer." in found


def judged_run(tmp_path: Path, records: list[dict[str, Any]], samples: list[dict[str, Any]]) -> Path:
    listed = [{"name": "baseline", "kind": "baseline"}, condition("warmer", interventions=[add(1.0)])]
    results = {
        "schema_version": 1, "name": "r", "model": {"source": "m"}, "conditions": listed,
        "evaluators": [entry("judged", role="judge"), entry("refused")], "records": records,
    }  # fmt: skip
    return write_run(tmp_path / "run", results, samples=samples)


def told(where: str, missing: int, n: int) -> dict[str, Any]:
    known = {"condition": where, "data": "d", "aggregate": "proportion"}
    return {**known, "evaluator": "judged", "value": None if missing else 0.5, "n": n, "not_computed": missing}


def test_verdicts_are_compared_where_there_are_any_and_told_missing_elsewhere(tmp_path: Path) -> None:
    samples = [sample(at, "baseline", {"judged": 1 if at else None, "refused": at % 2}) for at in range(5)]
    samples += [sample(at, "warmer", {"judged": None, "refused": 1}) for at in range(5)]
    folder = judged_run(tmp_path, [told("baseline", 1, 4), told("warmer", 5, 0)], samples)
    run = load_run(folder)
    ((pair,),) = make_agreements(run).values()
    assert [(row.condition, row.n, row.lacking, row.absent) for row in pair.rows] == [
        ("baseline", 4, 1, "not all judged"),
        ("warmer", 0, 5, "not judged"),
    ]
    page = write_report(folder).read_text("utf-8")
    section = page[page.index('<section id="agreement">') :].partition("</section>")[0]
    assert '<td class="num" colspan="5"><span class="none">not judged</span></td>' in section
    assert '<small class="none">1 not judged</small>' in section
    (sentence,) = make_short(run.results, make_blocks(run.results), [], make_agreements(run)).disagreements
    assert sentence.startswith("judged and refused on d: they differ on 2 of 4 examples under baseline (")


def test_verdicts_that_nobody_gave_are_no_agreement(tmp_path: Path) -> None:
    samples = [sample(at, one, {"judged": None, "refused": 1}) for one in ("baseline", "warmer") for at in range(3)]
    run = load_run(judged_run(tmp_path, [told("baseline", 3, 0), told("warmer", 3, 0)], samples))
    agreements = make_agreements(run)
    assert [row.absent for row in agreements["d"][0].rows] == ["not judged", "not judged"]
    short = make_short(run.results, make_blocks(run.results), [], agreements)
    assert short.disagreements == (), "they don't disagree"
    assert ("judged on d", ": not judged without steering. Not judged: warmer.") in short.finding


@pytest.mark.parametrize(("judge", "word"), [(True, "not judged"), (False, "not measured")])
def test_the_card_of_a_checkpoint_says_what_was_not_judged(judge: bool, word: str) -> None:
    results = without(study(), "added", "added/random-1", "added/random-2", judge=judge)
    loading = SimpleNamespace(system_prompt=None, chat_template="default")
    asked: Any = SimpleNamespace(
        run=SimpleNamespace(results=results),
        condition=SimpleNamespace(name="added"),
        plan=SimpleNamespace(loading=loading),
    )
    table = next(iter(_effects(asked))).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table if line.startswith("| refused")]
    assert [row[1] for row in rows] == list(DATA)
    assert all(row[4:] == [word, word, word] for row in rows) and word not in rows[0][3]


def test_the_card_says_where_the_baseline_was_not_judged() -> None:
    results = without(study(), "baseline", gone=HALF)
    loading = SimpleNamespace(system_prompt=None, chat_template="default")
    changed = results.model_copy(
        update={"records": tuple(one.model_copy(update={"difference": None}) for one in results.records)}
    )
    asked: Any = SimpleNamespace(
        run=SimpleNamespace(results=changed),
        condition=SimpleNamespace(name="added"),
        plan=SimpleNamespace(loading=loading),
    )
    (line, *_) = [one for one in next(iter(_effects(asked))).splitlines() if one.startswith("| refused")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[3] == "not all judged" and cells[5] == "not all judged" and "not" not in cells[4]
