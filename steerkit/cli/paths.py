"""Paths as options give them."""

from __future__ import annotations

from pathlib import Path

import typer


def named(text: str) -> Path:
    """A path that is named; an empty text would be the folder that one is in."""
    if not str(text).strip():
        raise typer.BadParameter("an empty text names no folder and no file. Name one, or leave the option out.")
    return Path(text)
