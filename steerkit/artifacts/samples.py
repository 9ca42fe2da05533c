"""The schema of ``samples.jsonl``, and its rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from steerkit.artifacts.entry import Entry, Number
from steerkit.types import Example


class Sample(Entry):
    """One completion, with the scores of that one example. Null means not measured.

    ``example`` is what the example holds beside its prompt: messages, answer_prefix, completion, label, id, fields,
    pair. The completion is what was written, without the answer_prefix that it was made to begin with.
    ``readings`` are those of each monitor along prompt and completion.
    """

    _rare: ClassVar[tuple[str, ...]] = ("example", "readings")
    prompt: str
    data: str = ""
    condition: str
    completion: str | None = None
    scores: Mapping[str, Number] = {}
    example: Mapping[str, Any] = {}
    readings: Mapping[str, Any] = {}

    @property
    def about(self) -> str:
        """What the example holds beside its prompt, on one line."""
        named = {key: value for key, value in self.example.items() if key in ("id", "label")}
        named |= {"answer prefix": self.example["answer_prefix"]} if "answer_prefix" in self.example else {}
        named |= {"given completion": self.example["completion"]} if "completion" in self.example else {}
        shown = {**named, **self.example.get("fields", {})}
        texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in shown.items()}
        return " · ".join(f"{key}: {text}" for key, text in texts.items())


def sample_rows(
    condition: str,
    data: str,
    examples: Sequence[Example],
    completions: Sequence[str],
    scores: Mapping[str, Sequence[float]],
    readings: Sequence[Mapping[str, Any]] = (),
) -> list[Sample]:
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
    rows = []
    for index, example in enumerate(examples):
        written = completions[index] if index < len(completions) else None
        values = {name: column[index] for name, column in scores.items()}
        if written is None and not values:
            continue
        plain = example.to_json()
        beside = {key: value for key, value in plain.items() if key != "prompt"} if isinstance(plain, dict) else {}
        rows.append(
            Sample(
                prompt=example.text,
                data=data,
                condition=condition,
                completion=written,
                scores=values,
                example=beside,
                readings=dict(readings[index]) if index < len(readings) else {},
            )
        )
    return rows
