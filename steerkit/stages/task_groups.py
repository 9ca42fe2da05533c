"""The tasks of a run by what they are there for: a group of conditions, a search, all of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from steerkit.plan import DataRef, PlannedGroup, PlannedSearch, PlannedSeparation
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


@dataclass(frozen=True)
class Graph:
    """The tasks of a run.

    Args:
        given: outputs that no task makes: saved directions, by key.
        directions: key of each direction, in the order of the recipe.
        estimates: the tasks that estimate directions.
        searches: the tasks of each search.
        separations: what is told apart, each with its task.
        groups: the baseline and the conditions, each with its controls.
        thresholds: by monitor, the task that sets its threshold.
    """

    given: Mapping[str, bytes]
    directions: Mapping[str, str]
    estimates: tuple[Task, ...]
    separations: tuple[tuple[PlannedSeparation, Task], ...]
    groups: tuple[GroupTasks, ...]
    searches: tuple[SearchTasks, ...] = ()
    thresholds: Mapping[str, Task] = field(default_factory=dict)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """All of them, in the order in which they are best carried out."""
        measured = (task for group in self.groups for task in group.tasks)
        searched = (task for search in self.searches for task in (*search.scored.values(), search.chosen))
        return (
            *self.estimates,
            *searched,
            *self.thresholds.values(),
            *(task for _, task in self.separations),
            *measured,
        )

    @property
    def wanted(self) -> tuple[Task, ...]:
        """Those whose outputs results are made of. The others are there for them."""
        found = [task for _, task in self.separations]
        for group in self.groups:
            found += [*group.completions.values(), *group.scores.values()]
            found += [task for task in (group.samples, group.readings) if task is not None]
        return tuple(found)
