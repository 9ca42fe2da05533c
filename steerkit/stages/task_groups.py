"""The tasks of a run by what they are there for: a group of conditions, a search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from steerkit.plan import DataRef, PlannedGroup, PlannedSearch
from steerkit.stages.tasks import Task


@dataclass(frozen=True)
class GroupTasks:
    """The tasks of a group by what they give.

    Args:
        planned: the group.
        names: its conditions, the controls last.
        completions: ``{split: task}``, of what evaluators score or compare with.
        samples: the task that writes completions for the reader alone, or None.
        readings: the task that reads along completions that the reader sees, or None.
        scores: ``{(evaluator, split): task}``, in the order of the looks.
        references: ``{split: task}``.
    """

    planned: PlannedGroup
    names: tuple[str, ...]
    completions: Mapping[DataRef, Task]
    samples: Task | None
    scores: Mapping[tuple[str, DataRef], Task]
    references: Mapping[DataRef, Task]
    readings: Task | None = None

    @property
    def tasks(self) -> tuple[Task, ...]:
        """All of them, inputs before what needs them."""
        shown = [task for task in (self.samples, self.readings) if task is not None]
        return (*self.references.values(), *self.completions.values(), *self.scores.values(), *shown)


@dataclass(frozen=True)
class SearchTasks:
    """The tasks of a search.

    Args:
        planned: the search.
        scored: ``{direction: the task that scores its candidates}``.
        chosen: the task that chooses.
    """

    planned: PlannedSearch
    scored: Mapping[str, Task]
    chosen: Task
