"""Profiles of a recipe that nobody asked for, and what to do where one that is inherited doesn't fit."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from steerkit.catalog import Catalog
from steerkit.errors import Problem, RecipeError, agreeing
from steerkit.plan.build import plan_recipe
from steerkit.plan.places import Look
from steerkit.plan.plan import Plan
from steerkit.recipe.document import read_document
from steerkit.recipe.layers import PROFILES


def plan_profiles(
    source: str | os.PathLike[str],
    overrides: Iterable[str],
    catalog: Catalog,
    plan: Plan,
    look: Look | None = None,
) -> tuple[dict[str, Plan], list[str]]:
    """Plans of a recipe's profiles, and sentences about inherited ones that don't fit it.

    A profile that nobody asked for, and that a file gives which the recipe extends, makes no recipe invalid; nor does
    one whose data have to be obtained first. What the recipe's own file says of a profile is otherwise checked as the
    rest of it is.

    Args:
        source: as of ``plan_recipe``, like ``overrides`` and ``catalog``.
        overrides: settings.
        catalog: plugins.
        plan: of the recipe without a profile.
        look: as of ``make_plan``.

    Raises:
        RecipeError: for a profile that the recipe's own file writes.
    """
    own, plans, notes = _own_profiles(plan.source), {}, []
    for name in plan.profiles:
        try:
            plans[name] = plan_recipe(source, overrides, catalog, name, look)
        except RecipeError as error:
            if all(one.to_obtain for one in error.problems):
                notes.append(_to_obtain(name, error.problems))
                continue
            if name in own:
                raise
            told = "; ".join(
                f"{one.where}: {one.message}".removeprefix(": ").removesuffix(".") for one in error.problems
            )
            notes.append(f"Profile {name!r} doesn't fit this recipe. {told}.")
    return plans, notes


def _to_obtain(name: str, problems: Sequence[Problem]) -> str:
    """That a profile goes on data that have to be obtained first, with where the first of them come from."""
    first, *others = problems
    more = f" So {agreeing(len(others))} {', '.join(one.where for one in others)}." if others else ""
    return f"Profile {name!r} was not checked: its data have to be obtained first. {first.where}: {first.message}{more}"


def _own_profiles(source: Path | None) -> frozenset[str]:
    """The profiles that a recipe's own file writes."""
    value = None if source is None else read_document(source.read_text("utf-8-sig")).value
    written = value.get(PROFILES) if isinstance(value, dict) else None
    return frozenset(map(str, written)) if isinstance(written, dict) else frozenset()
