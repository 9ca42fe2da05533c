"""Controls beside their conditions, sweeps in order, blocks in the order of the recipe."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from steerkit.artifacts.reading import Results
from steerkit.report.tables import make_blocks, unscored


def blocks_of(results: dict[str, Any]) -> Any:
    return make_blocks(Results.model_validate(results))


def test_controls_are_summarised_beside_their_condition(results: dict[str, Any]) -> None:
    (block,) = blocks_of(results)
    drawn = [r["value"] for r in results["records"] if r["condition"].startswith("warmer/random-")]
    control = next(row.control for row in block.rows if row.condition.name == "warmer")
    assert len(drawn) == 5 == control.planned
    assert (control.mean, control.low, control.high) == (fmean(drawn), min(drawn), max(drawn))
    assert control.contains(control.low) and not control.contains(control.high + 1e-9)
    assert block.baseline.control is None
    assert [row.condition.kind for row in block.all_rows] == ["baseline"] + 6 * ["intervention"]


def test_a_control_that_was_not_measured_is_not_a_zero(results: dict[str, Any]) -> None:
    for record in results["records"]:
        if record["condition"].startswith("warmer/random-"):
            record["value"] = None
    (block,) = blocks_of(results)
    control = block.rows[0].control
    assert (control.planned, control.values, control.mean, control.low) == (5, (), None, None)


def test_a_sweep_is_in_order_and_passes_through_the_baseline(results: dict[str, Any], make: Any) -> None:
    results["conditions"].reverse()
    (block,) = blocks_of(results)
    (sweep,) = block.sweeps
    assert [x for x, _ in sweep.points] == [-8.0, -4.0, 4.0, 8.0]
    assert sweep.option == "coefficient" and sweep.through_baseline and sweep.has_control


def test_zero_is_not_the_baseline_beside_another_intervention(results: dict[str, Any]) -> None:
    for condition in results["conditions"]:
        if condition["sweep"]:
            condition["interventions"] = [*condition["interventions"], {"name": "ablate", "direction": "warmth"}]
    (block,) = blocks_of(results)
    assert not block.sweeps[0].through_baseline


def test_derived_values_follow_what_they_come_from(make: Any) -> None:
    blocks = blocks_of(make.odd())
    found = [(block.name, block.derived_from) for block in blocks]
    assert found == [
        ("choice_logit_difference on probe.test", None),
        ("refusal_rate on requests.test", None),
        ("cross_entropy on one.text", None),
        ("perplexity on one.text", "cross_entropy"),
    ]
    assert unscored(Results.model_validate(make.odd())) == ("never_ran",)


def test_derived_values_stay_beside_what_they_come_from(make: Any) -> None:
    results = make.odd()
    last = results["evaluators"].pop(1)
    results["evaluators"].append(last)
    names = [block.evaluator.name for block in blocks_of(results)]
    assert names == ["choice_logit_difference", "cross_entropy", "perplexity", "refusal_rate"]


def test_one_block_per_data_set(results: dict[str, Any]) -> None:
    results["records"] += [{**record, "data": "other.test"} for record in results["records"]]
    assert [block.data for block in blocks_of(results)] == ["probe.test", "other.test"]


def test_what_a_judge_did_not_judge_is_called_that(results: dict[str, Any]) -> None:
    results["evaluators"][0]["role"] = "judge"
    for record in results["records"]:
        if record["condition"] in ("warmer", "cooler") or record["condition"].startswith("warmer/random-"):
            read = 10 if record["condition"] == "cooler" else 0
            record.update(value=None, n=read, not_computed=16 - read)
    (block,) = blocks_of(results)
    rows = {row.condition.name: row for row in block.rows}
    assert (rows["warmer"].absent, rows["warmer"].control.absent) == ("not judged", "not judged")
    assert rows["cooler"].absent == "not all judged"
    results["evaluators"][0]["role"] = None
    (block,) = blocks_of(results)
    assert {row.absent for row in block.all_rows} == {"not measured"}
