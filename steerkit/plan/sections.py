"""The sections of a recipe that are resolved one by one, as one value, of which a plan and its cost are made."""

from __future__ import annotations

from dataclasses import dataclass

from steerkit.plan.planned.conditions import PlannedCondition
from steerkit.plan.planned.monitors import PlannedMonitor
from steerkit.plan.planned.reporting import PlannedSamples
from steerkit.plan.suffixes import PlannedSuffixes
from steerkit.plan.types import (
    PlannedCompletions,
    PlannedDirection,
    PlannedEvaluation,
    PlannedFilter,
    PlannedSearch,
)


@dataclass(frozen=True)
class Sections:
    """Resolved sections. ``Plan`` has fields of the same names and says what each holds."""

    directions: tuple[PlannedDirection, ...]
    conditions: tuple[PlannedCondition, ...]
    evaluations: tuple[PlannedEvaluation, ...]
    samples: PlannedSamples | None
    monitors: tuple[PlannedMonitor, ...]
    searches: tuple[PlannedSearch, ...]
    filters: tuple[PlannedFilter, ...]
    completions: tuple[PlannedCompletions, ...]
    suffixes: tuple[PlannedSuffixes, ...]
