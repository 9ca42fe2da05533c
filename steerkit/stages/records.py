"""From the outputs of tasks to what readers read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from steerkit.api.evaluator import Evaluator, Score
from steerkit.artifacts.results import (
    ConditionEntry,
    EvaluatorEntry,
    InterventionEntry,
    ModelEntry,
    RecordEntry,
    Results,
    Sample,
    SeparationEntry,
    describe_direction,
    sample_rows,
)
from steerkit.catalog import implementation
from steerkit.plan import Plan, PlannedEvaluation, PlannedIntervention
from steerkit.plan.looks import completion_length
from steerkit.plan.types import options_as_json
from steerkit.stages.carry import from_bytes, unpack_scores
from steerkit.stages.condition import Condition
from steerkit.stages.graph import BASELINE, Graph
from steerkit.stages.model import facts_of
from steerkit.types import Example

if TYPE_CHECKING:
    from steerkit.api.direction import Direction
    from steerkit.session.model import LiveModel


@dataclass(frozen=True)
class ConditionScores:
    """What one condition gave.

    Args:
        scores: ``{(evaluator, split): one score per text}``.
        completions: ``{split: completions of its first texts}``.
    """

    scores: Mapping[tuple[str, str], tuple[Score, ...]]
    completions: Mapping[str, tuple[str, ...]]


def read_scores(plan: Plan, graph: Graph, outputs: Mapping[str, bytes], live: LiveModel) -> dict[str, ConditionScores]:
    """What every condition gave, by name, from the outputs of the tasks."""
    found: dict[str, ConditionScores] = {}
    for group in graph.groups:
        scored = {
            (name, str(data)): [unpack_scores(packed) for packed in from_bytes(outputs[task.key])]
            for (name, data), task in group.scores.items()
        }
        written: dict[str, list[tuple[str, ...]]] = {}
        for data, task in group.completions.items():
            # The baseline's are as long as anybody compares with; what is shown is as long as everybody's.
            length = completion_length(plan.evaluations, data)
            members = from_bytes(outputs[task.key]) if length else []
            written[str(data)] = [tuple(live.decode(row[:length]) for row in rows) for rows in members]
        if group.samples is not None and plan.samples is not None:
            (rows,) = from_bytes(outputs[group.samples.key])
            written[str(plan.samples.data)] = [tuple(live.decode(row) for row in rows)]
        for place, name in enumerate(group.names):
            scores = {key: members[place] for key, members in scored.items()}
            completions = {data: rows[place] for data, rows in written.items() if place < len(rows)}
            found[name] = ConditionScores(scores, completions)
    return found


def describe_condition(condition: Condition, live: LiveModel) -> ConditionEntry:
    """A condition as ``results.json`` lists it, with the sites that it really acts on."""
    planned = condition.planned
    interventions: Sequence[PlannedIntervention] = planned.interventions if planned is not None else ()
    listed = [
        InterventionEntry(
            name=item.spec.name,
            direction=item.direction_text,
            options=options_as_json(item.options),
            sites=tuple(str(site) for site in built.sites_on(live.layout)),
            positions=str(item.positions),
            **item.when(built.gate.site if built.gate is not None else None),
        )
        for item, built in zip(interventions, condition.placements, strict=True)
    ]
    own = planned if condition.kind == "intervention" else None
    return ConditionEntry(
        name=condition.name,
        kind=condition.kind,
        of=condition.of,
        sweep=None if own is None else own.sweep,
        swept={} if own is None else dict(own.swept),
        interventions=tuple(listed),
        **({} if planned is None else planned.how()),
    )


def collect(
    plan: Plan,
    live: LiveModel,
    directions: Mapping[str, Direction],
    conditions: Sequence[Condition],
    scores: Mapping[str, ConditionScores],
    separation: Sequence[SeparationEntry],
) -> tuple[Results, list[Sample]]:
    """The contents of ``results.json`` and ``samples.jsonl``."""
    kinds = {planned.name: planned for planned in plan.evaluations}
    records: list[RecordEntry] = []
    notes: list[str] = []
    samples: list[Sample] = []
    for condition in conditions:
        found = scores[condition.name]
        for (name, data), values in found.scores.items():
            plain = None if condition.kind == "baseline" else scores[BASELINE].scores[(name, data)]
            rows, remarks = _records(condition.name, kinds[name], data, values, plain)
            records += rows
            notes += remarks
        if condition.kind != "control":
            samples += _samples(plan, condition.name, found)
    facts = facts_of(live)
    results = Results(
        name=plan.report.name,
        title=plan.report.title,
        description=plan.report.description,
        seed=plan.seed,
        model=ModelEntry(**{key: facts[key] for key in ModelEntry.model_fields}),
        data={f"{name}.{split}": len(rows) for name, by in plan.data.items() for split, rows in by.items()},
        directions=tuple(describe_direction(direction) for direction in directions.values()),
        conditions=tuple(describe_condition(condition, live) for condition in conditions),
        evaluators=tuple(_describe_evaluator(planned) for planned in plan.evaluations),
        records=tuple(records),
        separation=tuple(separation),
        notes=(*_unmeasured(plan, separation), *_left_out(directions), *dict.fromkeys(notes)),
    )
    return results, samples


def read_separations(graph: Graph, outputs: Mapping[str, bytes]) -> list[SeparationEntry]:
    """The rows of ``separation`` in ``results.json``."""
    return [
        SeparationEntry(
            direction=planned.direction.name,
            positions=str(planned.direction.positions),
            held_out=planned.held_out,
            data=tuple(str(ref) for ref in planned.seen),
            **row,
        )
        for planned, task in graph.separations
        for row in from_bytes(outputs[task.key])
    ]


def _records(
    condition: str, planned: PlannedEvaluation, data: str, values: Sequence[Score], plain: Sequence[Score] | None
) -> tuple[list[RecordEntry], list[str]]:
    from steerkit.engine.measuring.scores import Summary, derived, paired_difference, summarise

    kind = cast("type[Evaluator]", implementation(planned.spec))
    summary = summarise(values, kind.aggregate)
    moved = Summary(None, 0) if plain is None else paired_difference(values, plain, kind.aggregate)
    summaries = {planned.name: (summary, kind.unit, moved)}
    for name, function in kind.derived.items():
        label = name if planned.name == planned.spec.name else f"{planned.name}.{name}"
        summaries[label] = (derived(summary, function), "", Summary(None, 0))
    rows, notes = [], []
    for name, (one, unit, change) in summaries.items():
        rows.append(
            RecordEntry(
                condition=condition,
                evaluator=name,
                data=data,
                value=one.value,
                n=one.n,
                standard_error=one.standard_error,
                ci_low=one.ci_low,
                ci_high=one.ci_high,
                difference=change.value,
                difference_ci_low=change.ci_low,
                difference_ci_high=change.ci_high,
                aggregate=kind.aggregate,
                unit=unit,
            )
        )
        if one.note:
            notes.append(f"{name} on {data} under {condition}: {one.note}")
    return rows, notes


def _samples(plan: Plan, condition: str, found: ConditionScores) -> list[Sample]:
    rows = []
    for data, examples in evaluated_examples(plan).items():
        columns = {
            name: [score.value for score in values] for (name, where), values in found.scores.items() if where == data
        }
        rows += sample_rows(condition, data, examples, found.completions.get(data, ()), columns)
    return rows


def evaluated_examples(plan: Plan) -> dict[str, tuple[Example, ...]]:
    """The examples of every split that outputs are looked at on, under the name that records use."""
    return {str(look.data): plan.examples(look.data) for group in plan.groups for look in group.looks}


def _describe_evaluator(planned: PlannedEvaluation) -> EvaluatorEntry:
    kind = cast("type[Evaluator]", implementation(planned.spec))
    return EvaluatorEntry(
        name=planned.name,
        summary=planned.spec.summary,
        aggregate=kind.aggregate,
        unit=kind.unit,
        options=options_as_json(planned.options),
        derived=tuple(kind.derived),
    )


def _left_out(directions: Mapping[str, Direction]) -> list[str]:
    """Sites of a pattern at which a direction has no vectors."""
    return [
        f"Direction {name} has no vectors at {', '.join(left_out)}: {next(iter(left_out.values()))}"
        for name, direction in directions.items()
        if (left_out := direction.provenance.get("left_out"))
    ]


def _unmeasured(plan: Plan, separation: Sequence[SeparationEntry]) -> list[str]:
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
    if not plan.separated:
        notes.append("Separation by layer is switched off.")
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in separation:
        if row.auroc is None:
            reasons.setdefault((row.direction, row.reason), []).append(row.site)
    for (name, reason), sites in reasons.items():
        notes.append(f"No separation of {name} at {', '.join(sites)}: {reason}")
    files = [planned.name for planned in plan.directions if planned.file is not None]
    if files:
        notes.append(f"No separation by layer for {', '.join(files)}: a direction from a file has no prompts here.")
    return notes
