"""What lies beyond its random directions leads the first paragraph, whatever else was measured."""

from __future__ import annotations

from typing import Any

from steerkit.artifacts.reading import Results
from steerkit.report.short import make_short
from steerkit.report.tables import make_blocks
from tests.report.study import DATA, proportion, study


def finding(results: dict[str, Any]) -> list[str]:
    read = Results.model_validate(results)
    return ["".join(one) for one in make_short(read, make_blocks(read), [], {}).finding]


def unmoved(measures: int = 1) -> dict[str, Any]:
    """A study none of whose rates moves; scores on the same prompts do, beyond their random directions, if ablated."""
    results = study()
    results["evaluators"] = [results["evaluators"][0]]
    names = [one["name"] for one in results["conditions"]]
    results["records"] = [proportion(name, data, 0, before=0) for name in names for data in DATA]
    for at in range(measures):
        results["evaluators"].append({"name": f"score_{at}", "unit": "log-odds"})
        for name in names:
            change = {"baseline": 0.0, "ablated": -0.5}.get(name, 0.05)
            change = {"random-1": -0.1, "random-2": 0.1}.get(name.partition("/")[2], change)
            moved = {"difference": change, "difference_ci_low": change - 0.01, "difference_ci_high": change + 0.01}
            results["records"].append(
                {"condition": name, "evaluator": f"score_{at}", "data": DATA[0], "value": -6 + change, "n": 32,
                 "ci_low": -6.2 + change, "ci_high": -5.8 + change, "unit": "log-odds", "aggregate": "mean",
                 **({} if name == "baseline" else moved)}
            )  # fmt: skip
    return results


def test_an_effect_is_not_left_to_the_tables_where_rates_show_none() -> None:
    first, second, *rest = finding(unmoved())[1:]
    assert first.startswith(f"score_0 on {DATA[0]}") and "Beyond both random directions: −6.50 log-odds" in first
    assert "under ablated" in first.partition("Beyond")[2].partition(". ")[0]
    assert second.startswith(f"refused on {DATA[0]}") and "No change shown" in second
    # It is told, so it isn't counted among the others.
    assert "One more measure is in the tables." in rest


def test_of_many_a_few_are_told_and_some_named() -> None:
    told = finding(unmoved(9))
    assert [one.partition(" on ")[0] for one in told[1:6]] == ["score_0", "score_1", "score_2", "refused", "refused"]
    named = " (under ablated), ".join(f"score_{at} on {DATA[0]}" for at in range(3, 7))
    where = "Seven more measures are in the tables; beyond random directions there: "
    assert f"{where}{named} (under ablated) and 2 more." in told


def test_an_effect_within_its_controls_or_without_a_change_takes_no_place() -> None:
    results = unmoved()
    for one in results["records"]:
        if one["evaluator"] == "score_0" and one["condition"] == "ablated/random-1":
            one["value"] = -7.0
    assert finding(results)[1].startswith("refused on")
    results = unmoved()
    for one in results["records"]:
        if one["evaluator"] == "score_0" and one["condition"] == "ablated":
            one.update(difference_ci_low=-1.1, difference_ci_high=0.1)
    assert finding(results)[1].startswith("refused on")


def test_among_what_is_told_the_effect_leads() -> None:
    results = study()
    results["records"] = [
        one for one in results["records"] if not (one["evaluator"] == "refused" and one["data"] == DATA[0])
    ] + [proportion(one["name"], DATA[0], 30, before=30) for one in results["conditions"]]
    told = [one.partition(" (")[0] for one in finding(results) if one.startswith("refused on")]
    assert told == [f"refused on {DATA[1]}", f"refused on {DATA[0]}"]
