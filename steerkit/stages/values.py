"""From the scores of examples to the values of ``results.json``, each with its interval and its difference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import compress
from typing import TYPE_CHECKING, Any, cast

from steerkit.api.evaluator import Evaluator, Score
from steerkit.api.hookspecs import Value
from steerkit.artifacts.results import RecordEntry
from steerkit.catalog import implementation
from steerkit.errors import agreeing
from steerkit.plan import DataRef, Plan, PlannedEvaluation
from steerkit.sharing import greedy_tokens
from steerkit.stages.packing import kinds_of
from steerkit.types import Example

if TYPE_CHECKING:
    from steerkit.engine.measuring.jobs import ConditionScores
    from steerkit.engine.measuring.per_example import Spread
    from steerkit.engine.measuring.scores import Summary
    from steerkit.stages.condition import Condition


def records_of(
    plan: Plan,
    planned: PlannedEvaluation,
    ref: DataRef,
    condition: str,
    found: ConditionScores,
    plain: ConditionScores | None,
) -> tuple[list[RecordEntry], list[str]]:
    """The records of one evaluator on one data set under one condition, and what a reader must know of them.

    Args:
        plan: the plan.
        planned: the evaluator.
        ref: the split.
        condition: its name.
        found: what it gave.
        plain: what the baseline gave; None for the baseline itself.
    """
    from steerkit.engine.measuring.per_example import spread_of
    from steerkit.engine.measuring.scores import Summary, derived, paired_difference, summarise

    data, kind = str(ref), cast("type[Evaluator]", implementation(planned.spec))
    values = planned.values or {planned.name: Value(kind.unit, kind.aggregate)}
    rows: dict[str, tuple[Summary, Value, Summary]] = {}
    spreads: dict[str, Spread | None] = {}
    for label, value in values.items():
        if value.aggregate == "whole":
            continue
        scores = found.scores[(label, data)]
        counted = [not value.partial or score.weight > 0 for score in scores]
        scores = tuple(compress(scores, counted))
        moved = Summary(None, 0)
        if plain is not None:
            before = tuple(compress(plain.scores[(label, data)], counted))
            moved = paired_difference(scores, before, value.aggregate)
            spreads[label] = spread_of(scores, before)
        # That there are no such examples is told by the values of the whole, with what there is instead.
        told = summarise(scores, value.aggregate) if scores or not value.partial else Summary(None, 0)
        if planned.spec.role == "judge":
            told, moved = _judged(told, len(scores)), _judged(moved, len(scores))
        rows[label] = (told, value, moved if scores else Summary(None, 0))
    if any(value.aggregate == "whole" for value in values.values()):
        rows |= _whole(plan, planned, kind, ref, found, plain)
    if planned.name in rows:
        summary, value, _ = rows[planned.name]
        for name, function in kind.derived.items():
            label = planned.spec.label(name, planned.name)
            rows[label] = (derived(summary, function), Value("", value.aggregate), Summary(None, 0))
    records = [_record(condition, label, data, *row, spreads.get(label)) for label, row in rows.items()]
    notes = [note for label, (one, _, moved) in rows.items() for note in _notes(label, data, condition, one, moved)]
    if any(value.aggregate == "whole" and rows[label][0].value is not None for label, value in values.items()):
        said = kind.remarks(planned.options, plan.examples(ref), _by_example(planned, data, found))
        notes += [f"{planned.name} on {data} under {condition}: {remark}" for remark in said]
    return records, notes


def _judged(told: Summary, examples: int) -> Summary:
    """A judge's summary, in which examples without a verdict are called that."""
    if not told.not_computed:
        return told
    were = agreeing(told.not_computed, "was", "were")
    return replace(told, note=f"{told.not_computed} of {examples} {were} not judged, so there is no value.")


def _notes(label: str, data: str, condition: str, summary: Summary, moved: Summary) -> list[str]:
    where = f"{label} on {data} under {condition}"
    told = [f"{where}: {summary.note}"] if summary.note else []
    # What is so of the value is so of its difference, and is said once.
    if moved.note and moved.note != summary.note:
        told.append(f"{where}, difference to the baseline: {moved.note}")
    return told


def _record(
    condition: str, label: str, data: str, summary: Summary, value: Value, moved: Summary, spread: Spread | None
) -> RecordEntry:
    return RecordEntry(
        condition=condition,
        evaluator=label,
        data=data,
        value=summary.value,
        n=summary.n,
        standard_error=summary.standard_error,
        ci_low=summary.ci_low,
        ci_high=summary.ci_high,
        difference=moved.value,
        difference_ci_low=moved.ci_low,
        difference_ci_high=moved.ci_high,
        not_computed=summary.not_computed,
        aggregate=value.aggregate,
        unit=value.unit,
        against=None if spread is None else spread.against,
        unmoved=None if spread is None else spread.unmoved,
    )


def _whole(
    plan: Plan,
    planned: PlannedEvaluation,
    kind: type[Evaluator],
    ref: DataRef,
    found: ConditionScores,
    plain: ConditionScores | None,
) -> dict[str, tuple[Summary, Value, Summary]]:
    """Values of all examples together, in the order of the spec."""
    from steerkit.engine.measuring.scores import Summary
    from steerkit.engine.measuring.whole import not_finite, whole_difference, whole_value

    data, examples = str(ref), plan.examples(ref)
    own, n = _by_example(planned, data, found), len(examples)
    other = None if plain is None else _by_example(planned, data, plain)
    missing = not_finite(own)
    lack = planned.spec.lacks(planned.options, examples)
    why = "" if lack is None else lack.what
    rows = {}
    for name, value in planned.spec.values.items():
        if value.aggregate != "whole":
            continue
        compute = partial(_compute, kind, planned.options, examples, own, name)
        moved = Summary(None, 0)
        if other is not None:
            against = partial(_compute, kind, planned.options, examples, other, name)
            lost = not_finite(own, other)
            moved = whole_difference(compute, against, n, bootstrap=value.bootstrap, missing=lost, why=why)
        summary = whole_value(compute, n, bootstrap=value.bootstrap, missing=missing, why=why)
        rows[planned.spec.label(name, planned.name)] = (summary, value, moved)
    return rows


def _compute(
    kind: type[Evaluator],
    options: Any,
    examples: Sequence[Example],
    scores: Sequence[Mapping[str, Score]],
    name: str,
    places: Sequence[int],
) -> float:
    values = kind.whole(options, [examples[place] for place in places], [scores[place] for place in places])
    return float(values.get(name, math.nan))


def _by_example(planned: PlannedEvaluation, data: str, found: ConditionScores) -> list[dict[str, Score]]:
    """What the evaluator gave for each example, by its own names."""
    labels = planned.labels or {planned.spec.name: planned.name}
    columns = {name: found.scores[(label, data)] for name, label in labels.items()}
    count = max((len(column) for column in columns.values()), default=0)
    return [{name: column[place] for name, column in columns.items()} for place in range(count)]


def settled(condition: Condition, found: ConditionScores, plain: ConditionScores, plan: Plan) -> ConditionScores:
    """Scores that are the baseline's own where nothing was edited that an evaluator looked at.

    Rows that were edited nowhere differ from the baseline's by what other batches round, which is no effect.
    """
    from steerkit.engine.sequence.when import When

    whens = {str(When(one.positions, one.schedule, one.gate)) for one in condition.placements}
    if not whens or condition.system_prompt is not None:
        return found
    scores = dict(found.scores)
    for planned in plan.evaluations:
        if greedy_tokens(planned.needs) or planned.needs.samples:
            continue  # what was written is what it is
        for data in map(str, planned.data):
            looked_at = [found.activity.get((data, kind), {}) for kind in kinds_of(planned.needs)]
            if looked_at and all(
                {when for when, _ in edited} >= whens and not any(edited.values()) for edited in looked_at
            ):
                labels = planned.values or (planned.name,)
                own = {(label, data) for label in labels} & scores.keys() & plain.scores.keys()
                scores |= {key: plain.scores[key] for key in own}
    return replace(found, scores=scores)


def remarks_on(condition: Condition, found: ConditionScores, plan: Plan) -> list[str]:
    """What a reader must know of a condition: that it does nothing, or didn't act where it was looked at."""
    from steerkit.engine.sequence.when import When

    whens = [When(one.positions, one.schedule, one.gate) for one in condition.placements]
    notes = [f"Condition {condition.name}: {note}" for note in found.notes] if condition.kind != "control" else []
    reached: dict[tuple[str, str], dict[str, int]] = {}
    behind = {str(when) for when in whens if when.only_behind}
    for (data, kind), counts in found.activity.items():
        for (when, cause), tokens in counts.items():
            # Where nothing follows the prompts there is no token for such a gate to decide about.
            idle_gate = cause == "gate" and when in behind and not _reads_behind(plan, data, kind)
            why: str = "nothing behind" if idle_gate else cause
            reached.setdefault((when, why), {})[f"{_PASSES.get(kind, kind)} on {data}"] = tokens
    for (when, why), by_place in reached.items():
        idle = [place for place, tokens in by_place.items() if not tokens]
        if idle and condition.kind != "control":
            notes.append(f"Condition {condition.name}: '{when}' edited no token of {', '.join(idle)}{_WHY[why]}.")
    return notes


def _reads_behind(plan: Plan, data: str, kind: str) -> bool:
    """Whether passes of a kind over a data set hold tokens behind its prompts, generated or given."""
    if kind in ("completions", "samples"):
        return True
    if kind == "next token":
        return False
    looks = [look for group in plan.groups for look in group.looks if str(look.data) == data]
    written = any(look.new_tokens for look in looks if look.kind == _LOOKS.get(kind, kind))
    return written or any(one.completion is not None for look in looks for one in plan.examples(look.data))


_LOOKS: Mapping[str, str] = {"reading": "readings"}
_PASSES: Mapping[str, str] = {
    "completions": "completions",
    "samples": "samples",
    "next token": "next-token logits",
    "reading": "readings",
    "along": "logits along texts",
}


_WHY: Mapping[str, str] = {
    "nothing behind": ": it edits tokens behind the prompt only, and there are none there, so its gate decided nothing",
    "gate": ": its gate was never open at a token that it may edit",
    "text": ": its text never came",
    "positions": ": there are none at its positions",
}
