"""From the outputs of tasks to what readers read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from steerkit.api.evaluator import Evaluator, Score
from steerkit.api.hookspecs import Value
from steerkit.artifacts.direction_entries import SeparationEntry, describe_direction
from steerkit.artifacts.results import (
    CompletionsEntry,
    ConditionEntry,
    EvaluatorEntry,
    FilterEntry,
    InterventionEntry,
    ModelEntry,
    MonitorEntry,
    PublishedEntry,
    RecordEntry,
    Results,
    SearchEntry,
    SuffixesEntry,
    TokensEntry,
    TradeoffEntry,
)
from steerkit.artifacts.samples import Sample, sample_rows
from steerkit.catalog import implementation
from steerkit.errors import agreeing, counted
from steerkit.plan import Plan, PlannedEvaluation, PlannedIntervention, PlannedMonitor
from steerkit.plan.listed import options_as_json
from steerkit.plan.looks import completion_length
from steerkit.stages.condition import Condition, monitor_sites
from steerkit.stages.cosines import cosines_of, too_many_to_compare
from steerkit.stages.graph import Graph
from steerkit.stages.model import facts_of
from steerkit.stages.packing import from_bytes, unpack_scores
from steerkit.stages.saved import LOST
from steerkit.stages.task_groups import GroupTasks
from steerkit.stages.titles import BASELINE
from steerkit.stages.values import records_of, remarks_on, settled
from steerkit.types import Example
from steerkit.types.special_tokens import prompt_notes, special_notes, system_prompts

if TYPE_CHECKING:
    from steerkit.api.direction import Direction
    from steerkit.engine.measuring.jobs import Cause, ConditionScores
    from steerkit.session.model import LiveModel


def read_scores(plan: Plan, graph: Graph, outputs: Mapping[str, bytes], live: LiveModel) -> dict[str, ConditionScores]:
    """What every condition gave, by name, from the outputs of the tasks."""
    return {
        name: scores
        for group in graph.groups
        for name, scores in zip(group.names, _group_scores(plan, group, outputs, live), strict=True)
    }


def _group_scores(
    plan: Plan, group: GroupTasks, outputs: Mapping[str, bytes], live: LiveModel
) -> Iterator[ConditionScores]:
    from steerkit.engine.measuring.jobs import ConditionScores

    scored = {place: from_bytes(outputs[task.key]) for place, task in group.scores.items()}
    written, edited = _completions(plan, group, outputs, live)
    shown = {} if group.readings is None else {_shown(plan): from_bytes(outputs[group.readings.key])}
    for place in range(len(group.names)):
        scores: dict[tuple[str, str], tuple[Score, ...]] = {}
        activity: dict[tuple[str, str], dict[tuple[str, Cause], int]] = {}
        asking: dict[tuple[str, str], tuple[str, ...]] = {}
        idle = False
        for (name, ref), members in scored.items():
            if place >= len(members):
                continue  # controls aren't measured by it
            own, data, planned = members[place], str(ref), _named(plan, name)
            labels = planned.labels or {"": name}
            for value, packed in own["values"].items():
                scores[(labels.get(value, name), data)] = unpack_scores(packed)
            _add_activity(activity, data, own["activity"])
            asking[name, data] = tuple(own["asking"])
            idle = idle or own["idle"]
        for data, counts in edited.items():
            _add_activity(activity, data, counts[place] if place < len(counts) else [])
        completions = {data: rows[place] for data, rows in written.items() if place < len(rows)}
        yield ConditionScores(scores, completions, shown if place == 0 else {}, activity, asking, idle=idle)


def _completions(
    plan: Plan, group: GroupTasks, outputs: Mapping[str, bytes], live: LiveModel
) -> tuple[dict[str, list[tuple[str, ...]]], dict[str, list[Any]]]:
    """Completions of each condition as texts, by split, and how many tokens were edited while they were written."""
    written: dict[str, list[tuple[str, ...]]] = {}
    edited: dict[str, list[Any]] = {}
    for ref, task in group.completions.items():
        # The baseline's are as long as anybody compares with; what is shown is as long as everybody's.
        length = completion_length(plan.evaluations, ref)
        members = from_bytes(outputs[task.key]) if length else []
        written[str(ref)] = [tuple(live.decode(row[:length]) for row in one["ids"]) for one in members]
        edited[str(ref)] = [one["activity"] for one in members]
    if group.samples is not None:
        (one,) = from_bytes(outputs[group.samples.key])
        written[_shown(plan)] = [tuple(live.decode(row) for row in one["ids"])]
        edited[_shown(plan)] = [one["activity"]]
    return written, edited


def _shown(plan: Plan) -> str:
    assert plan.samples is not None  # whoever asks has completions for the reader
    return str(plan.samples.data)


def _add_activity(activity: dict[tuple[str, str], dict[tuple[str, Cause], int]], data: str, packed: Any) -> None:
    for kind, when, cause, tokens in packed:
        activity.setdefault((data, kind), {})[(when, cause)] = tokens


def _named(plan: Plan, name: str) -> PlannedEvaluation:
    return next(item for item in plan.evaluations if item.name == name)


def describe_condition(condition: Condition, live: LiveModel) -> ConditionEntry:
    """A condition as ``results.json`` lists it, with the sites that it really acts on."""
    planned = condition.planned
    interventions: Sequence[PlannedIntervention] = planned.interventions if planned is not None else ()
    listed = [
        InterventionEntry(
            name=item.spec.name,
            direction=item.direction_text,
            options=options_as_json(built.intervention.options if item.chosen else item.options),
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


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What the parts of a run gave, from which its results are made.

    Args:
        directions: all of them, chosen ones too, by name.
        conditions: the baseline, the conditions and their controls.
        scores: by name of the condition.
        separation: how well each layer tells classes apart.
        searches: what candidates scored, and which was chosen.
        filters: how many examples were kept.
        tokens: first tokens of refusals that were known or found.
        completions: what the model said where that is data.
        suffixes: studies of texts behind the user's turn.
    """

    directions: Mapping[str, Direction]
    conditions: Sequence[Condition]
    scores: Mapping[str, ConditionScores]
    separation: Sequence[SeparationEntry]
    searches: Sequence[SearchEntry]
    filters: Sequence[FilterEntry]
    tokens: Sequence[TokensEntry]
    completions: Sequence[CompletionsEntry]
    suffixes: Sequence[SuffixesEntry]


def collect(plan: Plan, live: LiveModel, found: Collected) -> tuple[Results, list[Sample]]:
    """The contents of ``results.json`` and ``samples.jsonl``."""
    records, notes, samples = _measured(plan, found.conditions, found.scores)
    facts, directions = facts_of(live), found.directions
    results = Results(
        name=plan.report.name,
        title=plan.report.title,
        description=plan.report.description,
        seed=plan.seed,
        model=ModelEntry(**{key: facts[key] for key in ModelEntry.model_fields if key in facts}),
        data={f"{name}.{split}": len(rows) for name, by in plan.data.items() for split, rows in by.items()},
        directions=tuple(describe_direction(directions[name]) for name in _reported(plan)),
        conditions=tuple(describe_condition(condition, live) for condition in found.conditions),
        evaluators=tuple(entry for planned in plan.evaluations for entry in _describe_evaluator(planned)),
        records=tuple(records),
        separation=tuple(found.separation),
        notes=(
            *_unmeasured(plan, found.separation),
            *live.behaviours.notes,
            *plan.unread,
            *_left_out({name: directions[name] for name in _reported(plan, chosen=False)}),
            *_lost({planned.name: directions[planned.name] for planned in plan.directions if planned.file}),
            *too_many_to_compare(_reported(plan), plan.report.compared_with),
            *dict.fromkeys(notes),
        ),
        samples=len(samples),
        monitors=tuple(_describe_monitor(item, directions[item.direction], live) for item in plan.monitors),
        searches=tuple(found.searches),
        filters=tuple(found.filters),
        tokens=tuple(found.tokens),
        completions=tuple(found.completions),
        suffixes=tuple(found.suffixes),
        published=tuple(PublishedEntry(**one.model_dump(exclude={"model"})) for one in plan.report.published),
        tradeoff=_tradeoff(plan),
        not_held_out=plan.not_held_out,
        special_tokens=_special_tokens(plan, live),
        cosines=tuple(cosines_of(directions, _reported(plan), plan.report.compared_with)),
    )
    return results, samples


def _special_tokens(plan: Plan, live: LiveModel) -> tuple[str, ...]:
    """What of the prompts is read as special tokens; raw text is taken as it is meant."""
    from steerkit.engine.prompts.special import special_names

    if plan.loading.chat_template == "none":
        return ()
    said = {one.name for one in plan.completions}
    data = {name: splits.values() for name, splits in plan.data.items() if name not in said}
    prompts = system_prompts(
        plan.loading.system_prompt, {one.sweep or one.name: one.system_prompt for one in plan.conditions}
    )
    names, how = special_names(live.chat.tokenizer), plan.loading.special_tokens_in_text
    return (*special_notes(data, names, how), *prompt_notes(prompts, names, how))


def _measured(
    plan: Plan, conditions: Sequence[Condition], scores: Mapping[str, ConditionScores]
) -> tuple[list[RecordEntry], list[str], list[Sample]]:
    """The records of all conditions, what a reader must know of them, and completions."""
    records: list[RecordEntry] = []
    notes: list[str] = []
    samples: list[Sample] = []
    for condition in conditions:
        found = settled(condition, scores[condition.name], scores[BASELINE], plan)
        for planned in plan.evaluations:
            for ref in planned.data:
                if condition.kind == "control" and ref in planned.uncontrolled:
                    continue
                plain = None if condition.kind == "baseline" else scores[BASELINE]
                rows, remarks = records_of(plan, planned, ref, condition.name, found, plain)
                records += rows
                notes += remarks
        notes += remarks_on(condition, found, plan)
        if condition.kind != "control":
            samples += _samples(plan, condition.name, found)
    return records, notes, samples


def _tradeoff(plan: Plan) -> TradeoffEntry | None:
    written = plan.report.tradeoff
    return None if written is None else TradeoffEntry(**asdict(written))


def _reported(plan: Plan, *, chosen: bool = True) -> list[str]:
    """The directions that results describe, those that were chosen too: candidates stand with their search."""
    estimated = (one for one in plan.directions if one.positions is None or not one.positions.each)
    names = [name for one in estimated for name in (one.name, *one.further)]
    return [*names, *(one.name for one in plan.searches)] if chosen else names


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


def _samples(plan: Plan, condition: str, found: ConditionScores) -> list[Sample]:
    rows = []
    # Of an example that such a value isn't of there is nothing to tell: it wasn't measured.
    partial = {label for item in plan.evaluations for label, value in item.values.items() if value.partial}
    for data, examples in evaluated_examples(plan).items():
        columns = {
            name: [math.nan if name in partial and not score.weight else score.value for score in values]
            for (name, where), values in found.scores.items()
            if where == data
        }
        read: Sequence[Any] = found.readings.get(data, ())
        rows += sample_rows(condition, data, examples, found.completions.get(data, ()), columns, read)
    return rows


def evaluated_examples(plan: Plan) -> dict[str, tuple[Example, ...]]:
    """The examples of every split that outputs are looked at on, under the name that records use."""
    return {str(look.data): plan.examples(look.data) for group in plan.groups for look in group.looks}


def _describe_evaluator(planned: PlannedEvaluation) -> list[EvaluatorEntry]:
    """An entry for each value that isn't derived from another one."""
    kind = cast("type[Evaluator]", implementation(planned.spec))
    values = planned.values or {planned.name: Value(kind.unit, kind.aggregate)}
    return [
        EvaluatorEntry(
            name=label,
            summary=planned.spec.summary,
            aggregate=value.aggregate,
            unit=value.unit,
            options=options_as_json(planned.options),
            derived=tuple(kind.derived) if label == planned.name else (),
            compared=None if value.verdict else False,
            role=None if planned.spec.role == "behaviour" else planned.spec.role,
            # Of a plugin with several values each has a name of its own.
            plugin=None if planned.spec.values or planned.name == planned.spec.name else planned.spec.name,
        )
        for label, value in values.items()
    ]


def _describe_monitor(planned: PlannedMonitor, direction: Direction, live: LiveModel) -> MonitorEntry:
    """A monitor, with the sites at which it really reads."""
    sites = monitor_sites(planned, direction, live.layout.n_layers)
    return MonitorEntry(**replace(planned, sites=sites).to_json(direction.sites))


def _left_out(directions: Mapping[str, Direction]) -> list[str]:
    """Sites of a pattern at which a direction has no vectors."""
    return [
        f"Direction {name} has no vectors at {', '.join(left_out)}: {next(iter(left_out.values()))}"
        for name, direction in directions.items()
        if (left_out := direction.provenance.get("left_out"))
    ]


def _lost(saved: Mapping[str, Direction]) -> list[str]:
    """What files of directions don't say, or say and nobody keeps."""
    return [
        f"Direction {name}, as its file was read: {' '.join(lost)}"
        for name, direction in saved.items()
        if (lost := direction.provenance.get(LOST))
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
                f"Completions of {plan.samples.data} are shown at the {counted(max(lengths), 'token')} that "
                f"{agreeing(max(lengths))} scored, "
                f"not at the {plan.samples.max_new_tokens} that report.samples asks for."
            )
    quiet = [planned.name for planned in plan.conditions if not planned.control]
    if plan.random_directions and quiet:
        notes.append(f"No random controls for {', '.join(quiet)}: the recipe switches them off.")
    for planned in plan.evaluations if plan.random_directions else ():
        if planned.uncontrolled:
            where = " and ".join(map(str, planned.uncontrolled))
            notes.append(f"No random controls for {planned.name} on {where}: the recipe leaves them out.")
    if not plan.separated:
        notes.append("Separation by layer is switched off.")
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in separation:
        if row.auroc is None:
            reasons.setdefault((row.direction, row.reason), []).append(row.site)
    for (name, reason), sites in reasons.items():
        notes.append(f"No separation of {name} at {', '.join(sites)}: {reason}")
    for name in dict.fromkeys(row.direction for row in separation):
        noisy = [row.site for row in separation if row.direction == name and row.only_rounding]
        if noisy:
            notes.append(
                f"Separation of {name} at {', '.join(noisy)}: the projections differ by no more than float32 rounds, "
                "so AUROC and d′ there tell noise apart."
            )
    labelled = [planned.name for planned in plan.directions if planned.labelled]
    if labelled:
        notes.append(f"No separation by layer for {', '.join(labelled)}: labelled classes aren't two sides.")
    files = [planned.name for planned in plan.directions if planned.file is not None]
    if files:
        notes.append(f"No separation by layer for {', '.join(files)}: a direction from a file has no prompts here.")
    return notes
