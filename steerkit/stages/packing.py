"""Outputs of tasks as bytes, and what is read from them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from steerkit.artifacts.rundir import plain as as_json
from steerkit.stages.tasks import ScoresTask, Task

if TYPE_CHECKING:
    from steerkit.api.direction import Direction
    from steerkit.api.hookspecs import Needs
    from steerkit.engine.measuring.jobs import Activity, ConditionScores
    from steerkit.plan import PlannedDirection


def read_direction(content: bytes, name: str) -> Direction:
    """A direction that a task gave: its main one, or one of the further ones."""
    from steerkit.api.direction_bytes import directions_from_bytes

    return directions_from_bytes(content)[name]


def read_estimates(planned: PlannedDirection, content: bytes) -> list[Direction]:
    """All directions of one task: the recipe's own and its further ones, or one for each of several positions."""
    from steerkit.api.direction_bytes import directions_from_bytes

    found = directions_from_bytes(content)
    if planned.positions is not None and planned.positions.each:
        return list(found.values())
    return [found[name] for name in (planned.name, *planned.further)]


def to_bytes(value: Any) -> bytes:
    """A value as JSON, the same bytes for equal values. What isn't finite was not measured and becomes null."""
    return json.dumps(as_json(value), ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode()


def from_bytes(content: bytes) -> Any:
    """A value from JSON."""
    return json.loads(content)


def pack_scores(member: ConditionScores, job: str, payload: ScoresTask, labels: Mapping[str, str]) -> dict[str, Any]:
    """What one evaluator gave under one condition, as plain values, by its own names ("" where it has one value)."""
    data = next((where for _, where in member.scores), payload.data)
    named = {name: member.scores[(label, data)] for name, label in labels.items()} or {"": member.scores[(job, data)]}
    kinds = kinds_of(payload.needs)
    activity = {place: counts for place, counts in member.activity.items() if place[1] in kinds}
    return {
        "values": {name: [[score.value, score.weight] for score in scores] for name, scores in named.items()},
        "activity": pack_activity(activity),
        "asking": [note for (name, _), notes in member.asking.items() if name == job for note in notes],
        "unanswered": any(name == job for name, _ in member.unanswered),
        "idle": member.idle,
    }


def is_lasting(task: Task, content: bytes) -> bool:
    """Whether an output would be the same another time. Not where whoever answers questions could not be reached."""
    return not isinstance(task.payload, ScoresTask) or not any(one["unanswered"] for one in from_bytes(content))


def kinds_of(needs: Needs) -> set[str]:
    """The kinds of passes that an evaluator looks at, beside greedy completions."""
    asked = {
        "next token": needs.next_token_logits,
        "samples": needs.samples,
        "reading": needs.activations or needs.monitors,
        "along": needs.sequence_logits,
    }
    return {kind for kind, wanted in asked.items() if wanted}


def pack_activity(activity: Activity) -> list[list[Any]]:
    """How many tokens were edited, as plain values. By kinds of passes: what the data are called is the reader's."""
    return [
        [kind, when, cause, tokens]
        for (_, kind), counts in activity.items()
        for (when, cause), tokens in counts.items()
    ]


def unpack_scores(packed: Sequence[Sequence[Any]]) -> tuple[Any, ...]:
    """Scores from plain values, where null stands for a value that isn't finite."""
    from steerkit.api.evaluator import Score

    return tuple(Score(float("nan") if value is None else value, weight) for value, weight in packed)
