"""Searches of a run that ended without a choice: their tables are there, and nothing that follows from a choice."""

from __future__ import annotations

import json
from pathlib import Path

from steerkit.selection.written import TABLE


def unchosen(folder: Path) -> list[Path]:
    """Tables of a run directory of whose candidates none is feasible, by name; what can't be read isn't one."""
    return [path for path in sorted(folder.glob(f"{TABLE}*.json")) if _all_removed(path)]


def search_of(table: Path) -> str:
    """The search whose candidates a table holds."""
    return table.stem.removeprefix(TABLE)


def _all_removed(path: Path) -> bool:
    try:
        rows = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return (
        isinstance(rows, list) and bool(rows) and all(isinstance(row, dict) and row.get("removed_by") for row in rows)
    )
