"""Where what ships beside the code lies: recipes, with their data, and adapters of small models."""

from __future__ import annotations

from pathlib import Path


def shipped_folder() -> Path | None:
    """The folder of shipped recipes: package data of the wheel, ``recipes/`` of a checkout, or None."""
    package = Path(__file__).resolve().parent
    for folder in (package / "_shipped" / "recipes", package.parent / "recipes"):
        if folder.is_dir():
            return folder
    return None
