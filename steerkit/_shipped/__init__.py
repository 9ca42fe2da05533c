"""What the wheel carries besides code: the shipped recipes with their prompt sets.

Their source is the top-level ``recipes/`` folder; the build copies it to ``recipes`` beside this file.
"""

from __future__ import annotations

from pathlib import Path


def recipes_folder() -> Path:
    """The folder of the shipped recipes: in an installed wheel the copy here, in a checkout the source itself."""
    packaged = Path(__file__).parent / "recipes"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "recipes"
