"""Paths as options give them."""

from __future__ import annotations

from pathlib import Path

import typer


def named(text: str) -> Path:
    """A path that is named; an empty text would be the folder that one is in."""
    if not str(text).strip():
        raise typer.BadParameter("an empty text names no folder and no file. Name one, or leave the option out.")
    if any("\ud800" <= letter <= "\udfff" for letter in str(text)):
        raise typer.BadParameter("the name is no UTF-8 text, and can't be noted in files that are. Name another one.")
    return Path(text)
