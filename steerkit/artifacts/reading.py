"""Reads a finished run's directory: what a report says of a run comes from here, and a run that goes on asks here
whether it is finished."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from steerkit.artifacts.direction_entries import DirectionEntry, SeparationEntry
from steerkit.artifacts.entry import Entry, Number
from steerkit.artifacts.files import shown_path
from steerkit.artifacts.magnitudes import require_measurable
from steerkit.artifacts.provenance import Provenance
from steerkit.artifacts.results import (
    SCHEMA_VERSION,
    ConditionEntry,
    CosineEntry,
    EvaluatorEntry,
    InterventionEntry,
    ModelEntry,
    RecordEntry,
    Results,
    Timings,
)
from steerkit.artifacts.samples import Sample
from steerkit.artifacts.unchosen import search_of, unchosen
from steerkit.errors import ArtifactError, counted
from steerkit.types.json_text import RepeatedKeyError, read_json

__all__ = [
    "ConditionEntry",
    "CosineEntry",
    "DirectionEntry",
    "EvaluatorEntry",
    "InterventionEntry",
    "ModelEntry",
    "Number",
    "RecordEntry",
    "Results",
    "Run",
    "Sample",
    "SeparationEntry",
    "load_run",
]

SAMPLES: Final = "samples.jsonl"
DIRECTIONS: Final = "directions.safetensors"

ModelT = TypeVar("ModelT", bound=BaseModel)


class Run(Entry):
    """A run directory, read.

    Args:
        path: the directory.
        results: ``results.json``.
        samples: the lines of ``samples.jsonl``; empty where there is no such file.
        provenance: ``provenance.json`` as it stands; empty where there is no such file.
        timings: ``timings.json`` as it stands; empty where there is no such file.
        recipe: the text of ``recipe.yaml``, or None.
        lost: names of files that a finished run has and the directory lacks.
    """

    path: Path
    results: Results
    samples: tuple[Sample, ...] = ()
    provenance: Mapping[str, Any] = {}
    timings: Mapping[str, Any] = {}
    recipe: str | None = None
    lost: tuple[str, ...] = ()

    @property
    def has_samples(self) -> bool:
        """Whether ``samples.jsonl`` is there."""
        return SAMPLES not in self.lost

    @cached_property
    def origin(self) -> Provenance:
        """``provenance.json`` by its schema; what it lacks is None or empty."""
        return _validate(Provenance, self.provenance, str(self.path / "provenance.json"))

    @cached_property
    def times(self) -> Timings:
        """``timings.json`` by its schema."""
        return _validate(Timings, self.timings, str(self.path / "timings.json"))

    @property
    def title(self) -> str:
        """The report's title: the recipe's, else the run's name."""
        return self.results.title or self.results.name

    @cached_property
    def conditions(self) -> Mapping[str, ConditionEntry]:
        """Conditions by name, in the order of the recipe."""
        return {condition.name: condition for condition in self.results.conditions}


def load_run(path: Path | str) -> Run:
    """Read a run directory.

    Raises:
        ArtifactError: the directory or ``results.json`` is missing, a file is damaged, or another
            version of steerkit wrote it.
    """
    root = Path(path)
    if not os.path.isdir(root):  # False of what no path can be
        raise ArtifactError(
            f"{shown_path(root)} is not a directory. Give the run directory that `steerkit run` printed."
        )
    results_path = root / "results.json"
    if not results_path.is_file():
        for table in unchosen(root):
            raise ArtifactError(
                f"The run in {root} has no results: of what search {search_of(table)} scored nothing keeps to its "
                f"bounds. {table.name} holds the scores, and `steerkit select {table}` says what removed them. Loosen "
                "a bound in the recipe and run it again; what was scored is kept."
            )
        raise ArtifactError(
            f"{root} has no results.json: it is not a run directory, or the run did not finish. "
            "Run the recipe again with the same --out, and the run goes on where it stopped."
        )
    raw = _read_mapping(results_path)
    _check_version(raw, results_path)
    results = _validate(Results, raw, str(results_path))
    _check_names(results, results_path)
    recipe = root / "recipe.yaml"
    run = Run(
        path=root,
        results=results,
        samples=_read_samples(root / SAMPLES, results.samples),
        provenance=_read_optional(root / "provenance.json"),
        timings=_read_optional(root / "timings.json"),
        recipe=_read_text(recipe) if recipe.is_file() else None,
        lost=tuple(name for name in _parts_of(results) if not (root / name).is_file()),
    )
    _ = run.origin, run.times  # a damaged file is told of here, not in the middle of a page
    return run


def _parts_of(results: Results) -> tuple[str, ...]:
    """The files that a finished run has beside its results."""
    directions = (DIRECTIONS,) if results.directions else ()
    return (SAMPLES, *directions, "provenance.json", "timings.json", "recipe.yaml")


def _check_version(raw: Mapping[str, Any], path: Path) -> None:
    version = raw.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ArtifactError(
            f"{path}: schema_version is {version!r}, and this steerkit reads {SCHEMA_VERSION}. "
            "Use the version of steerkit that provenance.json names, or run the recipe again with this one."
        )


def _check_names(results: Results, path: Path) -> None:
    """Names that refer to nothing would drop silently out of tables, so they are errors."""
    names = [condition.name for condition in results.conditions]
    known = set(names)
    problems = [f"condition {name!r} is there twice" for name in sorted({n for n in names if names.count(n) > 1})]
    problems += [
        f"control {condition.name!r} belongs to {condition.of!r}, which is no condition"
        for condition in results.conditions
        if condition.kind == "control" and condition.of not in known
    ]
    lost = sorted({record.condition for record in results.records} - known)
    problems += [f"a record names the condition {name!r}, which is not listed" for name in lost]
    seen: set[tuple[str, str, str]] = set()
    for record in results.records:
        key = (record.condition, record.evaluator, record.data)
        if key in seen:
            problems.append(f"two records for {record.condition!r}, {record.evaluator!r} on {record.data!r}")
        seen.add(key)
    if problems:
        raise ArtifactError(f"{path} contradicts itself: {'; '.join(problems)}. Run the recipe again.")


def _read_samples(path: Path, expected: int | None) -> tuple[Sample, ...]:
    """The samples of a file, of which its results say how many there are; earlier ones don't."""
    if not path.is_file():
        return ()
    samples = tuple(_validate(Sample, value, where) for where, value in read_lines(path))
    if expected is not None and len(samples) != expected:
        raise ArtifactError(
            f"{path} is damaged: it holds {counted(len(samples), 'sample')}, and the run wrote {expected}. {_AGAIN}"
        )
    return samples


def read_lines(path: Path) -> list[tuple[str, Any]]:
    """What a file holds that has a JSON value in each line, each with its place in words.

    Raises:
        ArtifactError: where it can't be read.
    """
    lines = enumerate(_read_text(path).split("\n"), start=1)
    places = [(f"{path}, line {number}", line) for number, line in lines if line.strip()]
    return [(where, _parse(line, where)) for where, line in places]


def read_parsed(path: Path) -> Any:
    """What a JSON file of a run holds.

    Raises:
        ArtifactError: where it can't be read.
    """
    return _parse(_read_text(path), str(path))


def _read_optional(path: Path) -> Mapping[str, Any]:
    return _read_mapping(path) if path.is_file() else {}


def _read_mapping(path: Path) -> Mapping[str, Any]:
    value = read_parsed(path)
    if not isinstance(value, dict):
        raise ArtifactError(f"{path} is damaged: expected a JSON object, found {type(value).__name__}. {_AGAIN}")
    return value


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path} is damaged: byte {error.start} is not UTF-8. {_AGAIN}") from None
    except OSError as error:
        raise ArtifactError(f"{path} can't be read: {error.strerror}. Check its permissions.") from None


_AGAIN: Final = "Run the recipe again."


def _parse(text: str, where: str) -> Any:
    try:
        value = read_json(text)
    except RepeatedKeyError as error:
        raise ArtifactError(f"{where} is damaged: {error}. {_AGAIN}") from None
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{where} is damaged: {error}. {_AGAIN}") from None
    require_measurable(value, where, _AGAIN)
    return value


def _validate(model: type[ModelT], raw: Any, where: str) -> ModelT:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise ArtifactError(f"{where} is damaged: {_explain(error.errors())}. {_AGAIN}") from None


def _explain(errors: Sequence[Any]) -> str:
    shown = [f"{'.'.join(str(part) for part in item['loc']) or 'value'}: {item['msg']}" for item in errors[:3]]
    more = f" (and {len(errors) - 3} more)" if len(errors) > 3 else ""
    return "; ".join(shown) + more
