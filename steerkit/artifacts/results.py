"""From scores to the records of ``results.json`` and the lines of ``samples.jsonl``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from steerkit.api.direction import Direction

SCHEMA_VERSION = 1


def describe_direction(direction: Direction) -> dict[str, Any]:
    """A direction as ``results.json`` lists it."""
    source = direction.provenance
    return {
        "name": direction.name,
        "site": str(direction.site),
        "positions": str(direction.positions),
        "rank": direction.rank,
        "norms": [float(norm) for norm in direction.vectors.double().norm(dim=1)],
        "estimator": source.get("estimator"),
        "positive": source.get("positive"),
        "negative": source.get("negative"),
    }


def sample_rows(
    condition: str,
    data: str,
    prompts: Sequence[str],
    completions: Sequence[str],
    scores: Mapping[str, Sequence[float]],
    readings: Sequence[Mapping[str, Any]] = (),
) -> list[dict[str, Any]]:
    """One line per prompt: what the model wrote, where it wrote anything, and how each evaluator scored it.

    Args:
        condition: name of the condition.
        data: the split.
        prompts: its texts.
        completions: of its first texts; may be fewer than the prompts.
        scores: ``{evaluator: one value per prompt}``.
        readings: what monitors read of its first texts, as JSON values; none where there are no monitors.
    """
    rows = []
    for index, prompt in enumerate(prompts):
        written = completions[index] if index < len(completions) else None
        values = {name: column[index] for name, column in scores.items()}
        if written is None and not values:
            continue
        row = {"prompt": prompt, "data": data, "condition": condition, "completion": written, "scores": values}
        rows.append(row | ({"readings": dict(readings[index])} if index < len(readings) else {}))
    return rows
