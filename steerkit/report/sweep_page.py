"""What a sweep's directory gets once its runs are there: ``report.html``, and the numbers of it for other programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from steerkit.artifacts.files import remove_halves, write_whole
from steerkit.artifacts.rundir import plain
from steerkit.artifacts.sweeps import SweepMember, value_text
from steerkit.errors import ArtifactError
from steerkit.report.compare_page import render_beside
from steerkit.report.sweep import SEED, Cell, Column, ReadSweep, SweepTable, read_sweep
from steerkit.report.terminal import REPORT

TEMPLATE: Final = "sweep.html.j2"
COMPARISON: Final = "comparison.json"
ROWS: Final = "comparison.csv"
COMPARISON_VERSION: Final = 1
_DEEPEST: Final = 60
"""Percent of its colour that the largest change has: the numbers on it stay readable in a light page and a dark one."""


def write_sweep_report(folder: Path | str) -> Path:
    """Write ``report.html``, ``comparison.json`` and ``comparison.csv`` of a sweep, each whole or not at all.

    Returns:
        the path of the page.

    Raises:
        ArtifactError: where the directory is no sweep, or can't be written to.
    """
    found = read_sweep(folder)
    remove_halves(found.path, deep=False)
    files = {
        COMPARISON: json.dumps(plain(comparison_of(found)), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        ROWS: rows_as_csv(found),
        REPORT: render_sweep(found),
    }
    try:
        for name, text in files.items():
            write_whole(found.path / name, text.encode())
    except OSError as error:
        raise ArtifactError(
            f"Can't write the comparison into {found.path}: {error.strerror}. Free some space or check its "
            f"permissions, then run `steerkit report {found.path}`; the runs are kept."
        ) from None
    return found.path / REPORT


def render_sweep(found: ReadSweep) -> str:
    """The whole page."""
    sides: dict[bool, list[SweepTable]] = {True: [], False: []}
    for one in found.tables:
        sides[one.opened].append(one)
    page = render_beside(
        TEMPLATE,
        found=found,
        sweep=found.sweep,
        opened=sides[True],
        folded=sides[False],
        finished=len(found.runs),
        fixed={key: values[0] for key, values in found.sweep.over.items() if len(values) == 1},
        member=lambda place: found.sweep.members[place],
        called=lambda one: _called(found, one),
        heat=_heat,
        spread=_spread,
        changed=_changed,
        value_text=value_text,
        SEED=SEED,
        REPORT=REPORT,
    )
    return page if page.endswith("\n") else page + "\n"


def _called(found: ReadSweep, one: SweepMember) -> str:
    """What a run is called within its column: its seed, where that tells it from others."""
    return f"seed {value_text(one.settings[SEED])}" if found.folded else "report"


def _heat(table: SweepTable, cell: Cell) -> tuple[str, int] | None:
    """The colour of a cell and how deep it is, in percent: by its change, against the largest of the table."""
    if not cell.change:
        return None
    share = cell.change / table.reach
    return "above" if share > 0 else "below", round(_DEEPEST * abs(share) ** 0.8)


def _spread(table: SweepTable, low: float | None, high: float | None) -> str:
    return table.format.interval(low, high) or ""


def _changed(table: SweepTable, cell: Cell) -> str:
    """A change with its sign, and its interval or spread; of rates in percentage points."""
    assert cell.change is not None
    form = replace(table.format, percent=False)
    factor = 100.0 if table.format.percent else 1.0
    unit = " pp" if table.format.percent else ""
    sign = "+" if cell.change > 0 else ""
    text = f"{sign}{form.number(cell.change * factor)}{unit}"
    if cell.change_low is None or cell.change_high is None:
        return text
    return f"{text} ({form.interval(cell.change_low * factor, cell.change_high * factor)})"


# For other programs


def comparison_of(found: ReadSweep) -> dict[str, Any]:
    """``comparison.json``: every table by column and condition, what failed, and where the runs are."""
    return {
        "schema_version": COMPARISON_VERSION,
        "name": found.sweep.name,
        "title": found.sweep.title,
        "recipe": found.sweep.recipe,
        "over": dict(found.sweep.over),
        "columns": [_column(found, one) for one in found.columns],
        "tables": [
            {
                "evaluator": one.evaluator.name,
                "data": one.data,
                "unit": one.evaluator.unit,
                "aggregate": one.evaluator.aggregate,
                "examples": one.examples,
                "spread": "seeds" if found.folded else "95 % interval",
                "cells": [
                    _as_json(condition.name, column, cell)
                    for condition, cells in one.rows
                    for column, cell in zip(found.columns, cells, strict=True)
                ],
            }
            for one in found.tables
        ],
        "failed": [
            {"settings": dict(found.sweep.members[place].settings), "error": why} for place, why in found.failed.items()
        ],
        "made_with": {one.key: dict(one.values) for one in found.made_with},
    }


def _column(found: ReadSweep, one: Column) -> dict[str, Any]:
    members = [found.sweep.members[place] for place in one.places]
    runs = [{"settings": dict(member.settings), "state": member.state, "run": member.run} for member in members]
    return {"label": one.label, "settings": dict(one.settings), "runs": runs}


def _as_json(condition: str, column: Column, cell: Cell) -> Mapping[str, Any]:
    return {
        "condition": condition,
        "column": column.label,
        "value": cell.value,
        "low": cell.low,
        "high": cell.high,
        "deviation": cell.deviation,
        "change": cell.change,
        "change_low": cell.change_low,
        "change_high": cell.change_high,
        "runs": cell.planned,
        "measured": cell.measured,
        "within_random": cell.within,
        "compared_with_random": cell.controlled,
        "absent": None if cell.measured else cell.absent,
    }


def rows_as_csv(found: ReadSweep) -> str:
    """``comparison.csv``: the rows of every run, empty where something was not measured."""
    rows = found.rows()
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(rows[0] if rows else ["run"])
    for row in rows:
        writer.writerow(["" if value is None else _field(value) for value in plain(row).values()])
    return file.getvalue()


def _field(value: Any) -> Any:
    return value if isinstance(value, (str, int, float)) and not isinstance(value, bool) else value_text(value)
