"""Results for people who go on in Python: rows of plain values, and frames of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steerkit.api.frames import frame_or_rows
from steerkit.artifacts.provenance import DataFacts
from steerkit.artifacts.reading import ConditionEntry, RecordEntry, Results, Run, load_run
from steerkit.errors import SteerkitError, counted
from steerkit.report.tables import Control

if TYPE_CHECKING:
    from steerkit.api.direction import Direction

Rows = list[dict[str, Any]]

NUMBERS: Final = frozenset(
    {
        *("value", "ci_low", "ci_high", "standard_error", "difference", "difference_ci_low", "difference_ci_high"),
        *("against", "unmoved", "control_mean", "control_low", "control_high"),
    }
)
"""Columns of rows that are numbers where they are anything."""


def read_run(path: str | Path) -> ReadRun:
    """Read the directory of a finished run.

    Args:
        path: the directory that ``steerkit run`` printed and ``run_recipe`` returned.

    Raises:
        ArtifactError: where it is no finished run, is damaged, or was written by another version.
    """
    if not isinstance(path, (str, Path)):
        raise SteerkitError(f"A run is named by the path of its directory, not by a {type(path).__name__}.")
    return ReadRun(load_run(path))


@dataclass(frozen=True, eq=False)
class ReadRun:
    """A finished run: its measurements, completions and directions.

    Args:
        run: everything that the directory holds, as the report reads it.
    """

    run: Run

    def __repr__(self) -> str:
        results = self.results
        measures = len({(one.evaluator, one.data) for one in results.records})
        conditions = sum(one.kind != "control" for one in results.conditions)
        directions = ", ".join(one.name for one in results.directions) or "none"
        return (
            f"<steerkit run {results.name} of {results.model.source}: {counted(conditions, 'condition')}, "
            f"{counted(measures, 'measure')}, {counted(len(self.run.samples), 'sample')}, directions {directions}; "
            f"{self.path}>"
        )

    def _repr_html_(self) -> str:
        from steerkit.report.shown import results_as_html

        model = self.results.model.source
        return results_as_html(self.run.title, self.results, f"{model}, seed {self.results.seed}", str(self.path))

    @property
    def path(self) -> Path:
        """The directory."""
        return self.run.path

    @property
    def results(self) -> Results:
        """``results.json`` by its schema."""
        return self.run.results

    @property
    def recipe(self) -> str | None:
        """The resolved recipe, as text."""
        return self.run.recipe

    @property
    def provenance(self) -> Mapping[str, Any]:
        """``provenance.json`` as it stands."""
        return self.run.provenance

    def rows(self) -> Rows:
        """What was measured: a row for each condition, evaluator and data set, controls among them.

        Numbers are as in ``results.json``; None where something was not measured. ``difference`` is the condition minus
        the baseline on the same examples. ``control_mean``, ``control_low`` and ``control_high`` are those of the
        condition's random controls, and ``data_sha256`` is the hash of the examples.
        """
        results = self.results
        conditions = self.run.conditions
        options = dict.fromkeys(option for one in results.conditions for option in one.swept)
        beside = _controls(results)
        return [
            self._row(record, conditions[record.condition], options, beside.get(_place(record)))
            for record in results.records
        ]

    def _row(
        self, record: RecordEntry, condition: ConditionEntry, options: Mapping[str, None], control: Control | None
    ) -> dict[str, Any]:
        known = self.run.origin.data.get(record.data, DataFacts())
        return {
            "run": self.path.name,
            "condition": condition.name,
            "kind": condition.kind,
            "of": condition.of,
            "sweep": condition.sweep,
            **{f"swept_{option}": condition.swept.get(option) for option in options},
            "evaluator": record.evaluator,
            "data": record.data,
            "value": record.value,
            "ci_low": record.ci_low,
            "ci_high": record.ci_high,
            "standard_error": record.standard_error,
            "n": record.n,
            "not_computed": record.not_computed,
            "difference": record.difference,
            "difference_ci_low": record.difference_ci_low,
            "difference_ci_high": record.difference_ci_high,
            "against": record.against,
            "unmoved": record.unmoved,
            "controls": 0 if control is None else control.planned,
            "control_mean": None if control is None else control.mean,
            "control_low": None if control is None else control.low,
            "control_high": None if control is None else control.high,
            "aggregate": record.aggregate,
            "unit": record.unit,
            "data_sha256": known.sha256,
        }

    def sample_rows(self) -> Rows:
        """Every prompt and completion: a row for each, with a column ``score_<evaluator>`` for each score.

        What an example holds beside its prompt (``id``, ``label``, ``messages``, its fields) stands in ``example``.
        """
        names = dict.fromkeys(name for sample in self.run.samples for name in sample.scores)
        monitors = any(sample.readings for sample in self.run.samples)
        return [
            {
                "run": self.path.name,
                "condition": sample.condition,
                "data": sample.data,
                "prompt": sample.prompt,
                "completion": sample.completion,
                **{f"score_{name}": sample.scores.get(name) for name in names},
                "example": dict(sample.example),
                **({"readings": dict(sample.readings)} if monitors else {}),
            }
            for sample in self.run.samples
        ]

    def frame(self) -> Any:
        """``rows()`` as a ``pandas.DataFrame``; where pandas isn't installed, the rows themselves."""
        rows = self.rows()
        return frame_or_rows(rows, numbers_of(rows))

    def samples(self) -> Any:
        """``sample_rows()`` as a ``pandas.DataFrame``; where pandas isn't installed, the rows themselves."""
        rows = self.sample_rows()
        return frame_or_rows(rows, numbers_of(rows))

    @cached_property
    def directions(self) -> dict[str, Direction]:
        """The run's directions by name; none where it has none.

        Raises:
            ArtifactError: where the file is missing or damaged.
        """
        from steerkit.artifacts.directions import load_directions

        return load_directions(self.path / "directions.safetensors") if self.results.directions else {}


def numbers_of(rows: Rows) -> list[str]:
    """The columns of rows that hold numbers, or None where there is none."""
    return [name for name in (rows[0] if rows else ()) if name in NUMBERS or name.startswith(("score_", "swept_"))]


def _controls(results: Results) -> dict[tuple[str, str, str], Control]:
    """The random controls of each condition, by condition, evaluator and data set."""
    owners = {one.name: one.of for one in results.conditions if one.kind == "control" and one.of is not None}
    found: dict[tuple[str, str, str], list[RecordEntry]] = {}
    for record in results.records:
        if record.condition in owners:
            found.setdefault((owners[record.condition], record.evaluator, record.data), []).append(record)
    return {
        place: Control(len(records), tuple(one.value for one in records if one.value is not None))
        for place, records in found.items()
    }


def _place(record: RecordEntry) -> tuple[str, str, str]:
    return record.condition, record.evaluator, record.data
