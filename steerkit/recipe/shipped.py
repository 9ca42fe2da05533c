"""The recipes that ship: found by name, from the wheel or from a checkout."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from steerkit.api.files import pipe_fault
from steerkit.errors import Problem, RecipeError, SteerkitError, nearest
from steerkit.recipe.paths import readable_path
from steerkit.shipped import shipped_folder

_SHOWN: Final = 60


def shipped_recipes() -> dict[str, Path]:
    """Every shipped recipe by name (``quickstart``, ``families/qwen``)."""
    folder = shipped_folder()
    if folder is None:
        return {}
    files = sorted(path for path in folder.rglob("*.yaml") if "data" not in path.relative_to(folder).parts)
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in files}


def find_recipe(recipe: str | os.PathLike[str]) -> Path:
    """Return the file that a path, or the name of a shipped recipe, means.

    A file that exists comes first. Raises ``RecipeError`` with the nearest shipped names.
    """
    text = os.fspath(recipe)
    if not text.strip():
        raise RecipeError([Problem("an empty text names none. Give its path, or the name of a shipped one")])
    try:
        path = readable_path(text)
    except SteerkitError as error:
        raise RecipeError([Problem(str(error))], text[:_SHOWN]) from error
    if path.is_file():
        return path
    if (fault := pipe_fault(path)) is not None:
        raise RecipeError([Problem(fault)], text[:_SHOWN])
    shipped = shipped_recipes()
    if text in shipped:
        return shipped[text]
    if path.is_dir():
        inside = sorted(item.name for item in path.glob("*.y*ml"))
        listed = f" It holds {', '.join(inside)}." if inside else ""
        raise RecipeError([Problem(f"a folder, not a recipe file.{listed}")], text)
    names = {name: name for name in shipped} | {name.rpartition("/")[2]: name for name in shipped}
    if text in names:
        return shipped[names[text]]
    wanted = path.stem if path.suffix in (".yaml", ".yml") else text
    near = nearest(wanted, shipped, "shipped recipe")
    raise RecipeError([Problem(f"no such file, and no shipped recipe of that name. {near}")], text)
