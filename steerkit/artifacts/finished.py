"""Whether a directory that says that it is finished really is: every file of it there, and readable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from steerkit.artifacts.provenance import Provenance
from steerkit.artifacts.reading import DIRECTIONS, load_run, read_lines, read_parsed
from steerkit.artifacts.results import Results
from steerkit.errors import ArtifactError, SteerkitError
from steerkit.selection.written import PLAN, table_name

_UNREADABLE: Final = (OSError, ValueError, RecursionError)


def holds(path: Path, provenance: Provenance, recipe: str) -> bool:
    """Whether a directory is of this very run, under the same titles.

    Args:
        path: the directory.
        provenance: of the run.
        recipe: its resolved recipe, as ``recipe.yaml`` has it.
    """
    try:
        found = Provenance.model_validate(json.loads((path / "provenance.json").read_text("utf-8")))
        written = (path / "recipe.yaml").read_text("utf-8")
    except _UNREADABLE:
        return False
    return found.run_hash == provenance.run_hash and written == recipe


def fault_of(path: Path, recipe: str) -> str | None:
    """What keeps a run's directory from being read as a finished one of this recipe, in a sentence; None where nothing
    does.

    Args:
        path: the directory.
        recipe: the resolved recipe, as ``recipe.yaml`` has it.
    """
    try:
        run = load_run(path)
        results = run.results
        if run.lost:
            return f"{path / run.lost[0]} is missing."
        if run.recipe != recipe:
            return f"{path / 'recipe.yaml'} is another one."
        for name in (PLAN, *(table_name(one.name) for one in results.searches)):
            read_parsed(path / name)
        for one in results.completions:
            read_lines(path / f"completions-{one.data}.jsonl")
        lacking = {one.name for one in results.directions} - _names_in(path / DIRECTIONS, results)
    except SteerkitError as error:
        return str(error)
    return f"{path / DIRECTIONS} lacks {', '.join(sorted(lacking))}." if lacking else None


def _names_in(file: Path, results: Results) -> set[str]:
    """The directions of a file, which a run without directions doesn't write."""
    from steerkit.api.direction_bytes import directions_from_bytes

    if not results.directions:
        return set()
    try:
        return set(directions_from_bytes(file.read_bytes(), str(file)))
    except OSError as error:
        raise ArtifactError(f"{file} can't be read: {error.strerror}.") from None
