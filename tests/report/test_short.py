"""The first page says what the numbers say, of any run, and no more."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from steerkit.artifacts.reading import Results
from steerkit.report import load_run, write_report
from steerkit.report.agreement import Compared, Pair
from steerkit.report.search import make_searches
from steerkit.report.short import Short, make_short
from steerkit.report.tables import make_blocks
from steerkit.report.terminal import print_summary
from tests.report.study import study

NB = "\u00a0"


def short(results: dict[str, Any], agreements: Any = None) -> Short:
    parsed = Results.model_validate(results)
    return make_short(parsed, make_blocks(parsed), make_searches(parsed), agreements or {})


def text(results: dict[str, Any]) -> str:
    return " ".join("".join(sentence) for sentence in short(results).finding)


def test_the_paragraph_of_a_study() -> None:
    finding = ["".join(sentence) for sentence in short(study()).finding]
    assert finding[0] == (
        "smollm2-135m-refusal under three conditions, compared with the model untouched (baseline); in brackets are "
        f"95{NB}% intervals."
    )
    assert finding[1] == (
        "Direction refusal was chosen among 150 candidates at blocks.18.resid_pre, position −2; one other one is "
        "within one paired standard error of it, so these prompts don’t tell which of them is best."
    )
    assert finding[2] == (
        f"refused on harmful.test (n{NB}={NB}32): 93.8{NB}% (79.9 to 98.3{NB}%) without steering. Beyond both random "
        f"directions: 6.2{NB}% (1.7 to 20.1{NB}%) under ablated (on 3{NB}% of the prompts it goes the other way). "
        "No change shown: added and prompted."
    )
    # One data set of those where it should and one of those where it shouldn't, by the recipe's trade-off.
    assert finding[3].startswith(f"refused on harmless.test (n{NB}={NB}32): ")
    assert f"Without control: 75.0{NB}% (57.9 to 86.7{NB}%) under prompted" in finding[3]
    assert finding[4] == (
        "One more measure is in the tables; beyond random directions there: refused on lookalikes.test (under added)."
    )
    assert finding[-1] == (
        "Side effect kl_divergence on harmless.test: 0.40 nats (0.30 to 0.50) under ablated, at most 2.10 nats (2.00 "
        "to 2.20) under added."
    )


def test_what_it_does_not_show() -> None:
    limits = short(study()).limits
    assert limits[0] == "No judge read the completions: refused goes by rules."
    assert limits[1] == (
        "Beyond both random directions is a comparison, not a test: one more would be beyond the others with "
        "probability 2 in 3."
    )
    assert "other models" in limits[-1] and not any("Few prompts" in one for one in limits)


def test_few_prompts_are_told_with_what_they_leave_open() -> None:
    results = study()
    for record in results["records"]:
        record["n"] = 16
    (few,) = [one for one in short(results).limits if one.startswith("Few prompts")]
    # 0.83 ** 16 = 0.05
    assert few == (
        f"Few prompts: refused on harmful.test has 16 examples; what none of 16 shows may still come up in 17{NB}% of "
        "such prompts."
    )


@pytest.fixture
def one(results: dict[str, Any], make: SimpleNamespace) -> Any:
    """``one(value, control, **record)``: the sentence of one condition beside a baseline of 1 ± 0.25."""

    def build(value: float | None, control: list[float], **more: Any) -> str:
        warmer = make.condition("warmer", interventions=[make.add(4.0)])
        beside = make.controls(warmer, len(control))
        records = [make.record("baseline", 1.0, half=0.25), make.record("warmer", value, half=0.25, **more)]
        records += [make.record(c["name"], v) for c, v in zip(beside, control, strict=True)]
        results.update(conditions=[make.condition("baseline", "baseline"), warmer, *beside], records=records)
        return "".join(short(results).finding[1])

    return build


SHOWN = {"difference": 2.0, "difference_ci_low": 1.0, "difference_ci_high": 3.0}
GIVEN = "3.00 nats (2.75 to 3.25) under warmer"
NOT_SHOWN = {"difference": 2.0, "difference_ci_low": -1.0, "difference_ci_high": 5.0}


@pytest.mark.parametrize(
    ("value", "control", "more", "says"),
    [
        (3.0, [0.5, 1.5], SHOWN, f"Beyond both random directions: {GIVEN}."),
        (3.0, [0.5, 1.5, 1.2], SHOWN, f"Beyond all three random directions: {GIVEN}."),
        (3.0, [0.5, 1.5], {**SHOWN, "against": 0.25}, f"{GIVEN} (on 25{NB}% of the prompts it goes the other way)."),
        (3.0, [0.5, 1.5], {**SHOWN, "against": 0.0}, f"Beyond both random directions: {GIVEN}."),
        (3.0, [0.5, 1.5], NOT_SHOWN, "No change shown: warmer."),
        (3.0, [0.5, 3.5], SHOWN, f"No further than random directions of the same norm: {GIVEN}."),
        (3.0, [0.5], SHOWN, f"With no range of random directions beside it: {GIVEN}."),
        (3.0, [], SHOWN, f"With no range of random directions beside it: {GIVEN}."),
        (3.0, [0.5, 1.5], {}, f"With no interval of the change: {GIVEN}."),
        (None, [0.5, 1.5], {}, "without steering. Not measured: warmer."),
    ],
)
def test_a_claim_is_what_interval_and_control_allow(
    one: Any, value: float | None, control: list[float], more: dict[str, Any], says: str
) -> None:
    said = one(value, control, **more)
    assert said.endswith(says), said
    # Only what is beyond the control and has an interval of the change without 0 counts as an effect.
    effect = bool(more) and more.get("difference_ci_low", -1) > 0 and len(control) > 1 and max(control) < 3
    assert ("Beyond" in said) == (effect and value is not None)


def test_of_a_sweep_the_ends_are_told(results: dict[str, Any]) -> None:
    (said,) = ["".join(one) for one in short(results).finding if one[0].startswith("choice_logit")]
    assert "under dose[coefficient=-8]" in said and "under dose[coefficient=8]" in said
    assert "dose[coefficient=4]" not in said
    assert "The conditions within sweeps are in the tables." in text(results)


def test_conditions_that_give_the_same_are_told_together() -> None:
    results = study()
    for record in results["records"]:
        if record["data"] == "harmful.test" and record["condition"] == "added":
            like = next(r for r in results["records"] if r["condition"] == "ablated" and r["data"] == "harmful.test")
            record.update({key: value for key, value in like.items() if key != "condition"})
    assert f"6.2{NB}% (1.7 to 20.1{NB}%) under ablated and added (on 3{NB}% of" in text(results)


def test_without_a_trade_off_the_first_data_sets_are_told() -> None:
    results = study()
    results["tradeoff"] = None
    leads = [lead for lead, _ in short(results).finding]
    assert leads[2:5] == ["refused on harmful.test", "refused on harmless.test", "refused on lookalikes.test"]


def test_side_effects_that_go_down_and_several_ways_to_measure_one() -> None:
    results = study()
    for entry in results["evaluators"][1:]:
        entry["summary"] = "How repetitive completions are."
    results["evaluators"].append({**results["evaluators"][1], "name": "distinct"})
    results["records"] += [{**r, "evaluator": "distinct"} for r in results["records"] if r["unit"] == "nats"]
    for record in results["records"]:
        if record["evaluator"] == "kl_divergence":
            record.update(value=3 - record["value"], ci_low=3 - record["ci_high"], ci_high=3 - record["ci_low"])
    sides = ["".join(one) for one in short(results).finding if one[0].startswith("Side effect")]
    assert sides == [
        "Side effect kl_divergence on harmless.test: 3.00 without steering, 2.60 nats (2.50 to 2.70) under ablated, "
        "down to 0.90 nats (0.80 to 1.00) under added."
    ]


def test_a_monitor_reads_no_completions() -> None:
    results = study()
    rates = [one for one in results["records"] if one["evaluator"] == "refused"]
    # One whose evaluator may write and doesn't here, and one whose evaluator never writes.
    for name, options in (("crossed", {"max_new_tokens": 0}), ("next_word", {})):
        results["evaluators"].append({"name": name, "aggregate": "proportion", "unit": "fraction", "options": options})
        results["records"] += [{**one, "evaluator": name} for one in rates]
    assert short(results).limits[0] == "No judge read the completions: refused goes by rules."


def test_runs_without_this_or_that() -> None:
    none = study()
    none.update(records=[], evaluators=[], searches=[], tradeoff=None)
    assert text(none) == "smollm2-135m-refusal: two directions, and nothing was evaluated."
    assert short(none).limits == ("Nothing was measured, so nothing can be said of what a direction does.",)
    bare = study()
    bare["conditions"] = bare["conditions"][:1]
    bare["records"] = [record for record in bare["records"] if record["condition"] == "baseline"]
    said = text(bare)
    assert "was measured as it is: no condition was run" in said and "under" not in said.partition("n = 32")[2][:40]
    assert "Side effect kl_divergence on harmless.test: not measured." in said
    assert not any("random" in limit for limit in short(bare).limits)
    alone = study()
    alone["conditions"] = alone["conditions"][1:]
    alone["records"] = [record for record in alone["records"] if record["condition"] != "baseline"]
    said = text(alone)
    assert (
        "without a baseline to compare with" in said and f"refused on harmful.test (n{NB}={NB}32): no baseline" in said
    )
    assert "no baseline to compare with." in said.rpartition("Side effect")[2]


def test_a_search_that_found_none_and_one_without_near_ties() -> None:
    results = study()
    results["searches"][0].update(chosen=None, near_ties=[])
    assert "Direction refusal could not be chosen: none of 150 candidates kept to every bound." in text(results)
    results = study()
    results["searches"][0]["near_ties"] = []
    assert "no other one is within one paired standard error of it." in text(results)


def test_a_choice_on_what_is_measured_is_told() -> None:
    results = study()
    assert not any("flatters" in limit for limit in short(results).limits)
    results["searches"][0]["scores"]["bypass"]["data"] = "harmful.test"
    (said,) = [limit for limit in short(results).limits if "flatters" in limit]
    assert said == "refusal was chosen on harmful.test, and is measured there too, which flatters it."


def test_a_judge_speaks_first_and_what_is_no_verdict_not_at_all() -> None:
    results = study()
    judge = {"name": "judged", "aggregate": "proportion", "unit": "fraction", "role": "judge"}
    unparsed = {**judge, "name": "unparsed", "compared": False}
    results["evaluators"] += [judge, unparsed]
    results["records"] += [
        {**record, "evaluator": name}
        for record in results["records"] if record["evaluator"] == "refused" for name in ("judged", "unparsed")
    ]  # fmt: skip
    leads = [lead for lead, _ in short(results).finding]
    assert leads[2] == "judged on harmful.test" and not any("unparsed" in lead for lead in leads)
    assert "".join(short(results).finding[4]) == (
        "Four more measures are in the tables; beyond random directions there: judged on lookalikes.test (under "
        "added), "
        "refused on harmful.test (under ablated), refused on harmless.test (under added) and refused on "
        "lookalikes.test "
        "(under added)."
    )
    assert not any("judge" in limit for limit in short(results).limits)


def test_without_side_effects_and_controls_it_says_so() -> None:
    results = study()
    results["records"] = [
        one for one in results["records"] if one["evaluator"] == "refused" and "/" not in one["condition"]
    ]  # fmt: skip
    results["evaluators"] = results["evaluators"][:1]
    results["conditions"] = [one for one in results["conditions"] if one["kind"] != "control"]
    assert text(results).endswith("No side effect was measured.")
    assert "No random directions were run" in short(results).limits[1] and "Beyond" not in text(results)


def test_where_evaluators_disagree() -> None:
    def compared(name: str, n: int, first: int, second: int, kappa: float | None) -> Compared:
        return Compared(name, n, first, second, kappa, ())

    pairs = {
        "a.test": [
            Pair("one", "two", "a.test", (compared("baseline", 20, 1, 0, 0.8), compared("added", 20, 2, 4, 0.25))),
            Pair("one", "label", "a.test", (compared("baseline", 20, 0, 0, None),)),
        ]
    }
    assert short(study(), pairs).disagreements == (
        "one and two on a.test: they differ on 7 of 40 examples under the baseline and one condition, most of them "
        "under added: 6 of 20 (κ 0.25).",
        "one and label on a.test: alike on all 20 examples under baseline.",
    )
    pairs["b.test"] = [Pair("one", "two", "b.test", (compared("baseline", 10, 0, 1, 0.6),))]
    assert short(study(), pairs).disagreements[0] == (
        "one and two on a.test and b.test: they differ on 7 of 40 and 1 of 10 examples under the baseline and one "
        "condition, most of them under added on a.test: 6 of 20 (κ 0.25)."
    )


def looked_at(results: dict[str, Any], *data: str, name: str = "degenerate") -> dict[str, Any]:
    """A study whose completions on some data sets were also asked whether they repeat themselves."""
    results["evaluators"].append(
        {"name": name, "aggregate": "proportion", "unit": "fraction", "role": "side effect", "compared": False}
    )
    results["records"] += [
        {**one, "evaluator": name}
        for one in results["records"]
        if one["evaluator"] == "refused" and one["data"] in data
    ]
    return results


def test_rates_of_completions_that_may_be_babble_say_so() -> None:
    rates = {one["data"] for one in study()["records"] if one["evaluator"] == "refused"}
    said = "Degeneration of completions was not measured{}: a model that babbles doesn’t refuse either."
    assert said.format("") in text(study())
    assert said.format(" on harmless.test and lookalikes.test") in text(looked_at(study(), "harmful.test"))
    for name in ("degenerate", "babble.degenerate"):
        assert "babbles" not in text(looked_at(study(), *rates, name=name))
    bare = study()
    bare["records"] = [one for one in bare["records"] if one["evaluator"] != "refused"]
    assert "babbles" not in text(bare), "no rate is told"
    for monitored in ({"max_new_tokens": 0}, {}):  # a rate of what stands in prompts
        crossed = study()
        crossed["evaluators"][0]["options"] = monitored
        assert "babbles" not in text(crossed), "nothing was written"


def without_controls(results: dict[str, Any], evaluator: str) -> dict[str, Any]:
    """The same, in which one measure is taken of no random direction."""
    results["records"] = [
        one for one in results["records"] if one["evaluator"] != evaluator or "/random-" not in one["condition"]
    ]  # fmt: skip
    return results


def test_a_measure_without_controls_takes_none_from_its_conditions() -> None:
    limits = short(without_controls(study(), "kl_divergence")).limits
    assert not any("Some conditions" in one or "No random" in one for one in limits)
    assert limits[1].startswith("Beyond both random directions is a comparison")
    assert limits[2] == "Some measures were not taken of random directions: kl_divergence on harmless.test."
    assert not any("Some measures" in one for one in short(study()).limits)
    limits = short(without_controls(study(), "refused")).limits
    assert limits[2] == (
        "Some measures were not taken of random directions: refused on harmful.test, refused on harmless.test, refused "
        "on lookalikes.test."
    )


def test_a_condition_without_controls_is_told_apart_from_a_measure_without_them() -> None:
    results = study()
    results["conditions"] = [one for one in results["conditions"] if one.get("of") != "added"]
    results["records"] = [one for one in results["records"] if not one["condition"].startswith("added/")]
    limits = short(results).limits
    assert limits[2] == "Some conditions have no random directions beside them."
    assert not any("Some measures" in one for one in limits)
    limits = short(without_controls(without_controls(study(), "kl_divergence"), "refused")).limits
    assert limits[1].startswith("No random directions were run") and not any("Some m" in one for one in limits)


def test_conditions_that_were_not_judged_are_told_as_such(build: Any) -> None:
    results = study()
    results["evaluators"][0]["role"] = "judge"
    for one in results["records"]:
        if one["condition"].startswith("added") and one["evaluator"] == "refused":
            one.update(value=None, n=0, not_computed=32, difference=None, ci_low=None, ci_high=None)
    assert "Not judged: added." in text(results) and "Not measured" not in text(results)
    path = build(results, samples=[])
    page = write_report(path).read_text("utf-8").partition('<section id="missing">')[0]
    assert "was not judged." in page and '<span class="none">not judged</span>' in page
    file = io.StringIO()
    print_summary(load_run(path), Console(file=file, width=100))
    assert file.getvalue().count("not judged") >= 6, "of the condition and of its control, on three data sets"
