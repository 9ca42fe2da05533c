"""Examples that the unsteered model treats the wrong way are left out, and counted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from steerkit.artifacts.results import FilterEntry
from steerkit.errors import DataError, counted
from steerkit.plan import DataRef, Plan, PlannedFilter
from steerkit.stages.graph import Grapher
from steerkit.stages.model import plugin
from steerkit.stages.packing import from_bytes
from steerkit.stages.tasks import ModelUse, ScoresTask, Task
from steerkit.stages.titles import BASELINE
from steerkit.types import Example


def filter_tasks(plan: Plan, model: ModelUse) -> dict[DataRef, Task]:
    """The tasks that score examples which are filtered, under the baseline."""
    grapher = Grapher(plan, model)
    found = {}
    for one in plan.filters:
        for ref in one.data:
            payload = ScoresTask(
                model,
                grapher.use(None, 0, BASELINE),
                plan.examples(ref),
                plugin(one.spec),
                one.options,
                one.needs,
                name=one.spec.name,
                data=str(ref),
            )
            found[ref] = grapher.task(payload, {}, "filter", f"filter of {ref}")
    return found


def filtered(plan: Plan, tasks: Mapping[DataRef, Task], outputs: Mapping[str, bytes]) -> tuple[Plan, list[FilterEntry]]:
    """A plan with the examples that its filters keep, and how many they were.

    Raises:
        DataError: where nothing is left of a split.
    """
    data = {name: dict(splits) for name, splits in plan.data.items()}
    entries = []
    for one in plan.filters:
        for ref in one.data:
            scores = _scores(outputs[tasks[ref].key])
            kept = _kept(one, ref, plan.examples(ref), scores)
            data[ref.dataset][ref.split] = kept
            entries.append(FilterEntry(data=str(ref), keep=str(one), before=len(scores), kept=len(kept)))
    return replace(plan, data=data), entries


def _scores(content: bytes) -> list[float]:
    (member,) = from_bytes(content)
    (packed,) = member["values"].values()
    return [math.nan if value is None else value for value, _ in packed]


def _kept(one: PlannedFilter, ref: DataRef, examples: tuple[Example, ...], scores: list[float]) -> tuple[Example, ...]:
    kept = tuple(example for example, score in zip(examples, scores, strict=True) if one.keeps(score))
    if not kept:
        known = [score for score in scores if not math.isnan(score)]
        spread = (
            f"its scores lie between {min(known):.3g} and {max(known):.3g}" if known else "none of them has a score"
        )
        raise DataError(
            f"The filter keeps none of the {counted(len(scores), 'example')} of {ref}, which asks for {one}; "
            f"{spread}. The model "
            "may not show this behaviour; look at its completions, or change the filter."
        )
    return kept
