"""From scores to the records of ``results.json`` and the lines of ``samples.jsonl``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from steerkit.api.direction import Direction
from steerkit.types import Example

SCHEMA_VERSION = 1


def describe_direction(direction: Direction) -> dict[str, Any]:
    """A direction as ``results.json`` lists it; of one at several sites ``norms`` are by site."""
    source = direction.provenance
    ranks = [len(vectors) for _, vectors in direction.items()]
    norms = {str(site): [float(norm) for norm in vectors.double().norm(dim=1)] for site, vectors in direction.items()}
    return {
        "name": direction.name,
        "site": direction.describe(),
        "positions": str(direction.positions),
        "rank": max(ranks),
        "norms": norms[str(direction.site)] if direction.is_single else [],
        **({} if direction.is_single else {"norms_by_site": norms}),
        "estimator": source.get("estimator"),
        "positive": source.get("positive"),
        "negative": source.get("negative"),
    }


def sample_rows(
    condition: str,
    data: str,
    examples: Sequence[Example],
    completions: Sequence[str],
    scores: Mapping[str, Sequence[float]],
    readings: Sequence[Mapping[str, Any]] = (),
) -> list[dict[str, Any]]:
    """One line per example: what the model wrote, where it wrote anything, and how each evaluator scored it.

    What an example holds beside its prompt stands under ``example``: its conversation where it is more than one user
    turn, its completion, label, name and other fields.

    Args:
        condition: name of the condition.
        data: the split.
        examples: its examples.
        completions: of its first examples; may be fewer than these.
        scores: ``{evaluator: one value per example}``.
        readings: what monitors read of its first examples, as JSON values; none where there are no monitors.
    """
    rows: list[dict[str, Any]] = []
    for index, example in enumerate(examples):
        written = completions[index] if index < len(completions) else None
        values = {name: column[index] for name, column in scores.items()}
        if written is None and not values:
            continue
        row = {"prompt": example.text, "data": data, "condition": condition, "completion": written, "scores": values}
        plain = example.to_json()
        if isinstance(plain, dict):
            row["example"] = {key: value for key, value in plain.items() if key != "prompt"}
        rows.append(row | ({"readings": dict(readings[index])} if index < len(readings) else {}))
    return rows
