"""Whether a directory that says that it is finished really is: every file of it there, and readable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final, TypeVar

from pydantic import BaseModel

from steerkit.artifacts.provenance import Provenance
from steerkit.artifacts.results import SCHEMA_VERSION, Results
from steerkit.artifacts.samples import Sample
from steerkit.errors import SteerkitError
from steerkit.selection.written import PLAN, table_name

ModelT = TypeVar("ModelT", bound=BaseModel)

_UNREADABLE: Final = (OSError, ValueError, RecursionError)


def holds(path: Path, provenance: Provenance, recipe: str) -> bool:
    """Whether a directory is of this very run, under the same titles.

    Args:
        path: the directory.
        provenance: of the run.
        recipe: its resolved recipe, as ``recipe.yaml`` has it.
    """
    try:
        found = _read(Provenance, path / "provenance.json")
        written = (path / "recipe.yaml").read_text("utf-8")
    except _UNREADABLE:
        return False
    return found.run_hash == provenance.run_hash and written == recipe


def fault_of(path: Path, recipe: str) -> str | None:
    """What keeps a run's directory from being read as a finished one of this recipe, in words; None where nothing does.

    Times don't count.

    Args:
        path: the directory.
        recipe: the resolved recipe, as ``recipe.yaml`` has it.
    """
    file = path / "results.json"
    try:
        results = _read(Results, file)
        if results.schema_version != SCHEMA_VERSION:
            return f"{file} is of schema version {results.schema_version}"
        for file in _json_files(path, results):
            json.loads(file.read_text("utf-8"))
        file = path / "provenance.json"
        _read(Provenance, file)
        for file in (path / "samples.jsonl", *(path / f"completions-{one.data}.jsonl" for one in results.completions)):
            lines = [line for line in file.read_text("utf-8").split("\n") if line]
            rows = [json.loads(line) for line in lines]
            if file.name == "samples.jsonl":
                [Sample.model_validate(row) for row in rows]
        file = path / "directions.safetensors"
        lacking = {one.name for one in results.directions} - _names_in(file, results)
        if lacking:
            return f"{file} lacks {', '.join(sorted(lacking))}"
        file = path / "recipe.yaml"
        if file.read_text("utf-8") != recipe:
            return f"{file} is another one"
    except _UNREADABLE:
        return f"{file} can't be read"
    except SteerkitError as error:
        return str(error)
    return None


def _json_files(path: Path, results: Results) -> list[Path]:
    return [path / PLAN, *(path / table_name(one.name) for one in results.searches)]


def _names_in(file: Path, results: Results) -> set[str]:
    """The directions of a file, which a run without directions doesn't write."""
    from steerkit.api.direction_bytes import directions_from_bytes

    return set(directions_from_bytes(file.read_bytes(), str(file))) if results.directions else set()


def _read(model: type[ModelT], file: Path) -> ModelT:
    return model.model_validate(json.loads(file.read_text("utf-8")))
