"""The one schema of ``results.json``, ``samples.jsonl`` and ``timings.json``: what is written, and what is read.

The runner builds these values and writes them, and the report reads them back, so that nothing is read that nobody
writes. What has a default may be missing in a file of an earlier version.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, SerializerFunctionWrapHandler, model_serializer

if TYPE_CHECKING:
    from steerkit.api.direction import Direction

SCHEMA_VERSION: Final = 1


def _finite_or_none(value: object) -> object:
    """An infinity or NaN that slipped into a file was not measured, whatever wrote it."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_finite_or_none)]
"""A measured number, or None where it was not measured."""


class Entry(BaseModel):
    """Base of all parts: frozen; keys of a later minor version are ignored when they are read."""

    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)


class ModelEntry(Entry):
    """The model that was steered."""

    source: str
    adapter: str | None = None
    n_layers: int | None = None
    d_model: int | None = None
    dtype: str | None = None


class DirectionEntry(Entry):
    """A direction: where it was read, from which prompts, and the norm of each of its vectors."""

    name: str
    site: str | None = None
    positions: str | None = None
    rank: int = 1
    norms: tuple[Number, ...] = ()
    estimator: str | None = None
    positive: str | None = None
    negative: str | None = None


class InterventionEntry(Entry):
    """One intervention of a condition, with every option resolved."""

    name: str
    direction: str | None = None
    options: Mapping[str, Any] = {}
    sites: tuple[str, ...] | None = None
    positions: str | None = None
    schedule: str | None = None
    gate: Mapping[str, Any] | None = None

    @model_serializer(mode="wrap")
    def _only_what_is_set(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Schedule and gate are written only where there are any."""
        found: dict[str, Any] = write(self)
        return {key: item for key, item in found.items() if key not in ("schedule", "gate") or item is not None}


class ConditionEntry(Entry):
    """A condition. A control names the condition whose directions it replaces (``of``)."""

    name: str
    kind: Literal["baseline", "intervention", "control"]
    of: str | None = None
    sweep: str | None = None
    swept: Mapping[str, float] = {}
    interventions: tuple[InterventionEntry, ...] = ()


class EvaluatorEntry(Entry):
    """An evaluator as the recipe names it, with the names of what is computed from its value."""

    name: str
    summary: str = ""
    aggregate: str = "mean"
    unit: str = ""
    options: Mapping[str, Any] = {}
    derived: tuple[str, ...] = ()


class RecordEntry(Entry):
    """One value: a condition, an evaluator, a data set. Null means not measured.

    ``difference`` is the condition minus the baseline on the same examples, paired, with its own interval.
    """

    condition: str
    evaluator: str
    data: str
    value: Number = None
    n: int = 0
    standard_error: Number = None
    ci_low: Number = None
    ci_high: Number = None
    difference: Number = None
    difference_ci_low: Number = None
    difference_ci_high: Number = None
    aggregate: str = "mean"
    unit: str = ""


class SeparationEntry(Entry):
    """How well two classes are told apart at one site."""

    direction: str
    layer: int
    site: str
    positions: str | None = None
    data: tuple[str, ...] = ()
    held_out: bool | None = None
    auroc: Number = None
    d_prime: Number = None
    norm: Number = None
    n_positive: int | None = None
    n_negative: int | None = None

    @property
    def stream(self) -> str:
        """The curve that the entry belongs to. What leaves the last block is the ``resid_pre`` of no block."""
        block, _, stream = self.site.removeprefix("blocks.").partition(".")
        return "resid_pre" if stream == "resid_post" and block == str(self.layer - 1) else stream or self.site


class Results(Entry):
    """The whole of ``results.json``."""

    schema_version: int = SCHEMA_VERSION
    name: str
    title: str | None = None
    description: str | None = None
    seed: int | None = None
    model: ModelEntry
    data: Mapping[str, int] = {}
    directions: tuple[DirectionEntry, ...] = ()
    conditions: tuple[ConditionEntry, ...] = ()
    evaluators: tuple[EvaluatorEntry, ...] = ()
    records: tuple[RecordEntry, ...] = ()
    separation: tuple[SeparationEntry, ...] = ()
    notes: tuple[str, ...] = ()


class Sample(Entry):
    """One completion, with the scores of that one example. Null means not measured."""

    prompt: str
    data: str = ""
    condition: str
    completion: str | None = None
    scores: Mapping[str, Number] = {}


class Timings(Entry):
    """The whole of ``timings.json``: wall time in seconds of what was carried out, over all tries."""

    seconds: Mapping[str, Number] = {}


def describe_direction(direction: Direction) -> DirectionEntry:
    """A direction as ``results.json`` lists it."""
    source = direction.provenance
    return DirectionEntry(
        name=direction.name,
        site=str(direction.site),
        positions=str(direction.positions),
        rank=direction.rank,
        norms=tuple(float(norm) for norm in direction.vectors.double().norm(dim=1)),
        estimator=source.get("estimator"),
        positive=source.get("positive"),
        negative=source.get("negative"),
    )


def sample_rows(
    condition: str,
    data: str,
    prompts: Sequence[str],
    completions: Sequence[str],
    scores: Mapping[str, Sequence[float]],
) -> list[Sample]:
    """One line per prompt: what the model wrote, where it wrote anything, and how each evaluator scored it.

    Args:
        condition: name of the condition.
        data: the split.
        prompts: its texts.
        completions: of its first texts; may be fewer than the prompts.
        scores: ``{evaluator: one value per prompt}``.
    """
    rows = []
    for index, prompt in enumerate(prompts):
        written = completions[index] if index < len(completions) else None
        values = {name: column[index] for name, column in scores.items()}
        if written is None and not values:
            continue
        rows.append(Sample(prompt=prompt, data=data, condition=condition, completion=written, scores=values))
    return rows
