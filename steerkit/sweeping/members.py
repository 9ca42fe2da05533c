"""Every run of a sweep, planned before any begins: what is wrong with one is told with what is wrong with all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Final

from steerkit.artifacts.sweeps import settings_label
from steerkit.errors import Problem, RecipeError, SteerkitError, counted
from steerkit.plan import plan_recipe
from steerkit.plan.duration import duration
from steerkit.sweeping.axes import Axis, Point

if TYPE_CHECKING:
    from steerkit.catalog import Catalog
    from steerkit.plan import Plan, PlannedLoading
    from steerkit.plan.places import Look

NAMED: Final = 3
"""Runs that are named where a problem, or a note, is of some of them; of more, how many there are is said."""


@dataclass(frozen=True)
class Member:
    """A run of a sweep as it was planned. Of its plan no data are kept, of which a sweep would hold many copies.

    Args:
        point: its settings.
        hash: of the plan.
        name: the recipe's.
        title: of its report.
        loading: the model, and how it is loaded.
        passes: forward passes, at most.
        read: tokens of prompts, at most.
        written: tokens that are generated, at most.
        seconds: how long it takes at most; None where the model's speed isn't known on this machine.
        notes: of the plan.
    """

    point: Point
    hash: str
    name: str
    title: str
    loading: PlannedLoading
    passes: int
    read: int
    written: int
    seconds: float | None
    notes: tuple[str, ...] = ()

    @cached_property
    def label(self) -> str:
        """Its settings in a line."""
        return settings_label(self.point.settings)


def plan_members(
    recipe: str,
    axes: Sequence[Axis],
    points: Sequence[Point],
    overrides: Sequence[str],
    profile: str | None,
    catalog: Catalog,
    look: Look | None = None,
) -> list[Member]:
    """Plan every run.

    Raises:
        RecipeError: with every problem of every run, each told once, with the runs that have it.
    """
    members: list[Member] = []
    problems: dict[Problem, list[int]] = {}
    for place, point in enumerate(points):
        try:
            members.append(_member(point, plan_recipe(recipe, (*overrides, *point.overrides), catalog, profile, look)))
        except RecipeError as error:
            for one in error.problems:
                problems.setdefault(_said(one, axes), []).append(place)
        except SteerkitError as error:
            problems.setdefault(Problem(str(error)), []).append(place)
    if problems:
        told = [_where(one, places, axes, points) for one, places in problems.items()]
        raise RecipeError(told, f"{recipe}, {counted(len(points), 'run')}")
    _require_distinct(recipe, members)
    return members


def notes_of(members: Sequence[Member], axes: Sequence[Axis]) -> list[str]:
    """The notes of all plans, each once, with the runs that have it where not all do."""
    found: dict[str, list[int]] = {}
    for place, one in enumerate(members):
        for note in one.notes:
            found.setdefault(note, []).append(place)
    points = [one.point for one in members]
    return [note + _of(places, axes, points) for note, places in found.items()]


def _member(point: Point, plan: Plan) -> Member:
    expected, cost = duration(plan), plan.cost
    return Member(
        point,
        plan.hash,
        plan.report.name,
        plan.report.title or plan.report.name,
        plan.loading,
        cost.forward_passes,
        cost.prompt_tokens,
        cost.generated_tokens,
        None if expected is None else expected.seconds,
        plan.notes,
    )


def _require_distinct(recipe: str, members: Sequence[Member]) -> None:
    """Two runs that are the same under other names would be one."""
    first: dict[str, Member] = {}
    problems = []
    for one in members:
        other = first.setdefault(one.hash, one)
        if other is not one:
            problems.append(Problem(f"is the same run as {other.label}: leave one of them out", one.label))
    if problems:
        raise RecipeError(problems, f"{recipe}, {counted(len(members), 'run')}")


def _said(problem: Problem, axes: Sequence[Axis]) -> Problem:
    """A problem of a value that was swept, in the words of the command that swept it."""
    key = problem.where.removeprefix("--set ").partition("=")[0]
    if problem.where.startswith("--set ") and any(key == axis.key for axis in axes):
        return replace(problem, where=f"--over {key}")
    return problem


def _where(problem: Problem, places: Sequence[int], axes: Sequence[Axis], points: Sequence[Point]) -> Problem:
    """A problem with the runs that have it, where not all do."""
    return replace(problem, message=problem.message + _of(places, axes, points))


def _of(places: Sequence[int], axes: Sequence[Axis], points: Sequence[Point]) -> str:
    """Some runs in words: by the one value that they have in common, else by their settings; nothing for all."""
    if len(places) == len(points):
        return ""
    some = set(places)
    for axis in axes:
        for value in axis.values:
            if some == {at for at, point in enumerate(points) if point.settings[axis.key] == value}:
                return f" ({settings_label({axis.key: value})})"
    named = "; ".join(settings_label(points[at].settings) for at in places[:NAMED])
    more = f"; and {counted(len(places) - NAMED, 'more run')}" if len(places) > NAMED else ""
    return f" ({named}{more})"
