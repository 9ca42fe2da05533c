"""Paths as options give them."""

from __future__ import annotations

from pathlib import Path

import typer


def named(text: str) -> Path:
    """A path that is named; an empty text would be the folder that one is in."""
    return _path(text, "Name one, or leave the option out.")


def required(text: str) -> Path:
    """As ``named``, for a path that can't be left out."""
    return _path(text, "Name one.")


def _path(text: str, advice: str) -> Path:
    if not str(text).strip():
        raise typer.BadParameter(f"an empty text names no folder and no file. {advice}")
    if any("\ud800" <= letter <= "\udfff" for letter in str(text)):
        raise typer.BadParameter("the name is no UTF-8 text, and can't be noted in files that are. Name another one.")
    return Path(text)
