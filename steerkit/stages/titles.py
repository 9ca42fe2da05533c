"""What a run's conditions and its parts are called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from steerkit.errors import counted
from steerkit.plan import PlannedGroup

BASELINE: Final = "baseline"


def condition_names(group: PlannedGroup) -> tuple[str, ...]:
    """What records call a group's conditions: the condition, then its controls."""
    if group.condition is None:
        return (BASELINE,)
    name = group.condition.name
    return (name, *(f"{name}/random-{number}" for number in range(1, group.controls + 1)))


def group_title(names: Sequence[str]) -> str:
    """What the part of a run is called that runs a condition and its controls."""
    beside = len(names) - 1
    return f"condition {names[0]}" + (f" and {counted(beside, 'control')}" if beside else "")
