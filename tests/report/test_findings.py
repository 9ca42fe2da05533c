"""Sentences say what the numbers say: each with its interval and its control."""

from __future__ import annotations

from typing import Any

import pytest

from steerkit.artifacts.reading import Results
from steerkit.report.findings import make_findings
from steerkit.report.tables import make_blocks


@pytest.fixture
def small(results: dict[str, Any], make: Any) -> Any:
    """``small(value, control=[...])``: one condition ``warmer`` beside a baseline of 1 ± 0.25."""

    def build(value: float | None, control: list[float | None], **more: Any) -> Any:
        warmer = make.condition("warmer", interventions=[make.add(4.0)])
        stand_ins = make.controls(warmer, len(control))
        records = [make.record("baseline", 1.0, half=0.25), make.record("warmer", value, **{"half": 0.25, **more})]
        records += [make.record(c["name"], v) for c, v in zip(stand_ins, control, strict=True)]
        results.update(conditions=[make.condition("baseline", "baseline"), warmer, *stand_ins], records=records)
        (found,) = make_findings(make_blocks(Results.model_validate(results)))
        return found

    return build


def test_outside_the_controls_range(small: Any) -> None:
    found = small(3.0, [0.5, 1.5])
    assert found.baseline == "Without steering (baseline): 1.00 nats (95\u00a0% interval 0.75 to 1.25), 16 examples."
    (finding,) = found.findings
    assert finding.subject == "warmer"
    assert finding.text == (
        "moves it from 1.00 to 3.00 nats (95\u00a0% interval 2.75 to 3.25); the baseline’s interval is apart from it. "
        "Two random directions of the same norm give values between 0.50 and 1.50 nats (mean 1.00); it lies outside "
        "their range."
    )
    assert (finding.verdict, finding.label) == ("beyond", "outside control range")


@pytest.mark.parametrize("value", [0.5, 1.2, 1.5])
def test_inside_the_controls_range_makes_no_claim(small: Any, value: float) -> None:
    (finding,) = small(value, [0.5, 1.5]).findings
    assert finding.verdict == "within"
    assert "it lies inside their range, so its effect here is not told apart from a random direction’s" in finding.text


@pytest.mark.parametrize(("value", "overlap"), [(1.5, True), (1.51, False), (0.5, True), (0.49, False)])
def test_overlap_of_the_intervals(small: Any, value: float, overlap: bool) -> None:
    (finding,) = small(value, [9.0, 9.5]).findings
    assert ("this interval and the baseline’s overlap" in finding.text) is overlap
    assert ("the baseline’s interval is apart from it" in finding.text) is not overlap


def test_no_change_is_called_none(small: Any) -> None:
    (finding,) = small(1.0, [0.5, 1.5]).findings
    assert finding.text.startswith("leaves it at 1.00 nats (95\u00a0% interval")


def test_without_control(small: Any) -> None:
    (finding,) = small(3.0, []).findings
    assert finding.verdict == "no control"
    assert finding.text.endswith(
        "No control was run, so the numbers do not say whether any other direction of that norm would do the same."
    )


def test_control_not_measured_or_in_part(small: Any) -> None:
    (finding,) = small(3.0, [None, None]).findings
    assert finding.text.endswith("Its control was not measured.") and finding.verdict == "no control"
    (finding,) = small(3.0, [None, 0.5, 1.5]).findings
    assert "The 2 measured of three random directions of the same norm give values between 0.50" in finding.text


def test_one_random_direction_has_no_range(small: Any) -> None:
    (finding,) = small(3.0, [0.5]).findings
    assert "One random direction of the same norm gives 0.50 nats: a single one has no range" in finding.text
    assert finding.verdict == "no control"


def test_not_measured(small: Any) -> None:
    (finding,) = small(None, [0.5, 1.5]).findings
    assert (finding.text, finding.verdict) == ("was not measured.", "not measured")


def test_random_directions_that_agree(small: Any) -> None:
    (finding,) = small(3.0, [0.5, 0.5]).findings
    assert finding.text.endswith("Two random directions of the same norm all give 0.50 nats; it does not.")
    (finding,) = small(0.5, [0.5, 0.5]).findings
    assert "all give 0.50 nats; so does it, so its effect here is not told apart" in finding.text


def test_a_flat_sweep_is_called_flat(results: dict[str, Any]) -> None:
    for record in results["records"]:
        record.update(value=1.0, ci_low=0.5, ci_high=1.5)
    (found,) = make_findings(make_blocks(Results.model_validate(results)))
    assert "at 8; it is the same at every point." in found.findings[-1].text


def test_one_example_has_no_interval(small: Any) -> None:
    (finding,) = small(3.0, [0.5, 1.5], half=None, n=1).findings
    assert "to 3.00 nats (one example, so no interval). Two random" in finding.text


def test_sweep(results: dict[str, Any]) -> None:
    (found,) = make_findings(make_blocks(Results.model_validate(results)))
    assert [finding.subject for finding in found.findings] == ["warmer", "cooler", "dose"]
    dose = found.findings[-1]
    assert dose.text.startswith(
        "over coefficient −8 to 8: −4.45 nats (95\u00a0% interval −4.79 to −4.11) at −8, "
        "2.04 nats (95\u00a0% interval 1.70 to 2.38) at 8; it rises at each of the four steps. "
        "Over the whole sweep, random directions of the same norm give values between "
    )
    assert dose.text.endswith("the direction lies outside their range at 4 of 4 points.")
    assert (dose.verdict, dose.label) == ("beyond", "outside control range")


def test_sweep_that_turns_with_a_gap(results: dict[str, Any]) -> None:
    values = {"dose[coefficient=-8]": 5.0, "dose[coefficient=-4]": None}
    for record in results["records"]:
        if record["condition"] in values:
            value = values[record["condition"]]
            record.update(value=value, ci_low=value, ci_high=value)
    (found,) = make_findings(make_blocks(Results.model_validate(results)))
    assert "it does not move one way throughout. One point of the sweep was not measured." in found.findings[-1].text


def test_many_conditions_leave_the_rest_to_the_table(make: Any) -> None:
    found = make_findings(make_blocks(Results.model_validate(make.odd())))
    assert [len(one.findings) for one in found] == [8, 8, 8]
    assert [one.left_out for one in found] == [40, 40, 40]


def test_a_paired_difference_goes_before_the_overlap_of_two_intervals(small: Any) -> None:
    paired = {"difference": 1.25, "difference_ci_low": 1.0, "difference_ci_high": 1.5}
    (finding,) = small(2.25, [0.5, 1.5], **paired).findings
    assert "on the same examples it changes by +1.25 (95\u00a0% interval 1.00 to 1.50). Two" in finding.text
    (finding,) = small(2.25, [0.5, 1.5], **{**paired, "difference_ci_low": -0.5}).findings
    assert "an interval that includes no change" in finding.text


def test_a_system_prompt_has_no_direction_to_be_missed(results: Any, make: Any) -> None:
    asked = {**make.condition("asked"), "system_prompt": "Be warm."}
    results["conditions"] = [make.condition("baseline", "baseline"), asked]
    results["records"] = [make.record("baseline", 1.0), make.record("asked", 3.0)]
    (found,) = make_findings(make_blocks(Results.model_validate(results)))[0].findings
    assert found.text.endswith("A system prompt has no direction that a random one could stand for.")
    assert "No control was run" not in found.text


@pytest.mark.parametrize(("low", "label"), [(-1.0, "no change shown"), (1.0, "outside control range")])
def test_a_sweep_that_may_change_nothing_is_not_tagged_as_an_effect(
    results: Any, make: Any, low: float, label: str
) -> None:
    dose = [one for one in results["conditions"] if one["sweep"] or one["kind"] == "baseline"]
    beside = [other for one in dose if one["sweep"] for other in make.controls(one, 2)]
    results["conditions"] = [*dose, *beside]
    moved = {"difference": 2.0, "difference_ci_low": low, "difference_ci_high": 5.0}
    results["records"] = [make.record(one["name"], 3.0, **(moved if one["sweep"] else {})) for one in dose]
    results["records"] += [make.record(one["name"], 0.1) for one in beside]
    (found,) = make_findings(make_blocks(Results.model_validate(results)))[0].findings
    assert found.label == label
