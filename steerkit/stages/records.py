"""From scores to what readers read, and to the plain values that stage files hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from steerkit.api.evaluator import Evaluator, Score
from steerkit.api.hookspecs import Value
from steerkit.catalog import implementation
from steerkit.plan import Plan, PlannedEvaluation, PlannedIntervention
from steerkit.plan.types import options_as_json
from steerkit.stages.condition import BASELINE, Condition
from steerkit.stages.measure import evaluated_examples, facts_of, monitor_sites
from steerkit.stages.values import readings_as_json, readings_of_json, records_of, remarks_on

if TYPE_CHECKING:
    from steerkit.api.direction import Direction
    from steerkit.engine.measuring.jobs import Cause, ConditionScores
    from steerkit.session.model import LiveModel


def pack_group(results: Sequence[ConditionScores]) -> list[dict[str, Any]]:
    """The scores of conditions that were run together, as JSON."""
    return [_pack(result) for result in results]


def _pack(result: ConditionScores) -> dict[str, Any]:
    scores = [
        {"evaluator": name, "data": data, "values": [[score.value, score.weight] for score in values]}
        for (name, data), values in result.scores.items()
    ]
    return {
        "scores": scores,
        "completions": {data: list(texts) for data, texts in result.completions.items()},
        "readings": {
            data: [{name: readings_as_json(one) for name, one in row.items()} for row in rows]
            for data, rows in result.readings.items()
        },
        "activity": [
            {"data": data, "pass": kind, "when": when, "cause": cause, "edited": tokens}
            for (data, kind), counts in result.activity.items()
            for (when, cause), tokens in counts.items()
        ],
        "notes": list(result.notes),
    }


def unpack_group(packed: Sequence[Mapping[str, Any]]) -> list[ConditionScores]:
    """Scores from JSON, where null stands for a value that isn't finite."""
    return [_unpack(one) for one in packed]


def _unpack(packed: Mapping[str, Any]) -> ConditionScores:
    from steerkit.engine.measuring.evaluate import ConditionScores

    scores = {
        (item["evaluator"], item["data"]): tuple(Score(_number(value), weight) for value, weight in item["values"])
        for item in packed["scores"]
    }
    readings = {
        data: [{name: readings_of_json(one) for name, one in row.items()} for row in rows]
        for data, rows in packed.get("readings", {}).items()
    }
    activity: dict[tuple[str, str], dict[tuple[str, Cause], int]] = {}
    for item in packed.get("activity", ()):
        activity.setdefault((item["data"], item["pass"]), {})[(item["when"], item["cause"])] = item["edited"]
    completions = {data: tuple(texts) for data, texts in packed["completions"].items()}
    return ConditionScores(scores, completions, readings, activity, tuple(packed.get("notes", ())))


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def describe_condition(condition: Condition, live: LiveModel) -> dict[str, Any]:
    """A condition as ``results.json`` lists it, with the sites that it really acts on."""
    planned = condition.planned
    interventions: Sequence[PlannedIntervention] = planned.interventions if planned is not None else ()
    listed = [
        {
            "name": item.spec.name,
            "direction": item.direction_text,
            "options": options_as_json(item.options),
            "sites": [str(site) for site in built.sites_on(live.layout)],
            "positions": str(item.positions),
            **item.when(built.gate.site if built.gate is not None else None),
        }
        for item, built in zip(interventions, condition.placements, strict=True)
    ]
    control = condition.kind == "control"
    return {
        "name": condition.name,
        "kind": condition.kind,
        "of": condition.of,
        "sweep": None if planned is None or control else planned.sweep,
        "swept": {} if planned is None or control else dict(planned.swept),
        "interventions": listed,
        **({} if planned is None else planned.how()),
    }


def collect(
    plan: Plan,
    live: LiveModel,
    directions: Mapping[str, Direction],
    conditions: Sequence[Condition],
    scores: Mapping[str, ConditionScores],
    separation: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The contents of ``results.json`` and ``samples.jsonl``."""
    from steerkit.artifacts.results import SCHEMA_VERSION, describe_direction

    records: list[dict[str, Any]] = []
    notes: list[str] = []
    samples: list[dict[str, Any]] = []
    for condition in conditions:
        found = scores[condition.name]
        for planned in plan.evaluations:
            for ref in planned.data:
                plain = None if condition.kind == "baseline" else scores[BASELINE]
                rows, remarks = records_of(plan, planned, str(ref), condition.name, found, plain)
                records += rows
                notes += remarks
        notes += remarks_on(condition, found)
        if condition.kind != "control":
            samples += _samples(plan, condition.name, found)
    facts = facts_of(live)
    results = {
        "schema_version": SCHEMA_VERSION,
        "name": plan.recipe.name,
        "title": plan.recipe.report.title,
        "description": plan.recipe.description,
        "seed": plan.recipe.seed,
        "model": {key: facts[key] for key in ("source", "adapter", "n_layers", "d_model", "dtype")},
        "data": {f"{name}.{split}": len(rows) for name, by in plan.data.items() for split, rows in by.items()},
        "directions": [describe_direction(direction) for direction in directions.values()],
        "conditions": [describe_condition(condition, live) for condition in conditions],
        "evaluators": [entry for planned in plan.evaluations for entry in _describe_evaluator(planned)],
        **({"monitors": _describe_monitors(plan, directions, live)} if plan.monitors else {}),
        "records": records,
        "separation": list(separation),
        "notes": [*_unmeasured(plan, separation), *_left_out(directions), *dict.fromkeys(notes)],
    }
    return results, samples


def _samples(plan: Plan, condition: str, found: ConditionScores) -> list[dict[str, Any]]:
    from steerkit.artifacts.results import sample_rows

    rows = []
    for data, examples in evaluated_examples(plan).items():
        columns = {
            name: [score.value for score in values] for (name, where), values in found.scores.items() if where == data
        }
        read = [{name: readings_as_json(one) for name, one in row.items()} for row in found.readings.get(data, ())]
        rows += sample_rows(condition, data, examples, found.completions.get(data, ()), columns, read)
    return rows


def _describe_evaluator(planned: PlannedEvaluation) -> list[dict[str, Any]]:
    """An entry for each value that isn't derived from another one."""
    kind = cast("type[Evaluator]", implementation(planned.spec))
    values = planned.values or {planned.name: Value(kind.unit, kind.aggregate)}
    return [
        {
            "name": label,
            "summary": planned.spec.summary,
            "aggregate": value.aggregate,
            "unit": value.unit,
            "options": options_as_json(planned.options),
            "derived": list(kind.derived) if label == planned.name else [],
        }
        for label, value in values.items()
    ]


def _describe_monitors(plan: Plan, directions: Mapping[str, Direction], live: LiveModel) -> list[dict[str, Any]]:
    """The monitors, with the sites at which they really read."""
    return [
        replace(item, sites=monitor_sites(item, direction, live.layout.n_layers)).to_json(direction.sites)
        for item, direction in ((item, directions[item.direction]) for item in plan.monitors)
    ]


def _left_out(directions: Mapping[str, Direction]) -> list[str]:
    """Sites of a pattern at which a direction has no vectors."""
    return [
        f"Direction {name} has no vectors at {', '.join(left_out)}: {next(iter(left_out.values()))}"
        for name, direction in directions.items()
        if (left_out := direction.provenance.get("left_out"))
    ]


def _unmeasured(plan: Plan, separation: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a reader might look for and not find, and why."""
    notes = []
    if not plan.random_directions:
        notes.append("Random controls are switched off, so nothing here tells what the direction adds over any other.")
    if plan.samples is not None and plan.samples.data in {ref for item in plan.evaluations for ref in item.data}:
        lengths = [item.needs.max_new_tokens for item in plan.evaluations if plan.samples.data in item.data]
        if 0 < max(lengths) < plan.samples.max_new_tokens:
            notes.append(
                f"Completions of {plan.samples.data} are shown at the {max(lengths)} tokens that are scored, "
                f"not at the {plan.samples.max_new_tokens} that report.samples asks for."
            )
    quiet = [planned.name for planned in plan.conditions if not planned.control]
    if plan.random_directions and quiet:
        notes.append(f"No random controls for {', '.join(quiet)}: the recipe switches them off.")
    if not plan.recipe.report.separation:
        notes.append("Separation by layer is switched off.")
    alike = [f"{row['site']} ({row['direction']})" for row in separation if row["norm"] is None]
    if alike:
        places = ", ".join(alike)
        notes.append(f"No separation at {places}: there the token is the same in every prompt, so the classes are too.")
    files = [planned.name for planned in plan.directions if planned.file is not None]
    if files:
        notes.append(f"No separation by layer for {', '.join(files)}: a direction from a file has no prompts here.")
    return notes
