"""Tables of two coordinates as heat maps: a search's scores by layer, and conditions by layer and coefficient."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from steerkit.artifacts.reading import ConditionEntry, Results
from steerkit.artifacts.results import CandidateEntry
from steerkit.report.numbers import NOT_MEASURED, setting
from steerkit.report.search import SearchView, says
from steerkit.report.tables import Block, Row

LEAST: Final = 2
"""Rows or columns; of fewer on one side, the other side needs three."""

Cell = tuple[int, int]
"""Row and column."""


@dataclass(frozen=True)
class Grid:
    """One table of numbers by row and column.

    Args:
        title: what the numbers are.
        values: ``{(row, column): number}`` of what was measured.
        reference: the number that means no effect, in the middle of the colours; None where there is none.
        unit: of the numbers.
        percent: whether they are proportions.
        absent: words for the cells that have no number.
    """

    title: str
    values: Mapping[Cell, float]
    reference: float | None = None
    unit: str = ""
    percent: bool = False
    absent: frozenset[str] = frozenset({NOT_MEASURED})


@dataclass(frozen=True)
class Heat:
    """What one figure shows: grids over the same rows and columns.

    Args:
        name: of the search, or of what is done.
        kind: ``search`` or ``conditions``.
        rows: labels, from the top.
        columns: layers.
        grids: tables, one below the other.
        chosen: the cell that was chosen, on prompts that no number of the report is of, or None.
        removed: cells that a bound removed.
        row_name: what rows are.
        chosen_on: the data whose scores decided what was chosen.
    """

    name: str
    kind: str
    rows: tuple[str, ...]
    columns: tuple[int, ...]
    grids: tuple[Grid, ...]
    chosen: Cell | None = None
    removed: frozenset[Cell] = frozenset()
    row_name: str = ""
    chosen_on: tuple[str, ...] = ()

    @property
    def absent(self) -> str:
        """What is said of cells without a number, empty where every cell has one."""
        cells = len(self.rows) * len(self.columns)
        return " or ".join(sorted({word for grid in self.grids if len(grid.values) < cells for word in grid.absent}))


def make_heats(results: Results, blocks: Sequence[Block], searches: Sequence[SearchView]) -> tuple[Heat, ...]:
    """Every table of a run that two coordinates span."""
    found = [one for view in searches if (one := _of_search(view)) is not None]
    return (*found, *_of_conditions(results, blocks))


# Searches


def coefficient_of(one: CandidateEntry) -> float | None:
    """A candidate's coefficient, where candidates differ in that."""
    value = getattr(one, "coefficient", None)
    return None if value is None else float(value)


def _of_search(view: SearchView) -> Heat | None:
    entry = view.entry
    keys = list(dict.fromkeys(_row_of(view, one) for one in entry.candidates))
    columns = tuple(sorted({one.layer for one in entry.candidates}))
    if not _spans(len(keys), len(columns)):
        return None
    row_at, column_at = {key: at for at, key in enumerate(keys)}, {layer: at for at, layer in enumerate(columns)}
    places = [(row_at[_row_of(view, one)], column_at[one.layer]) for one in entry.candidates]
    names = sorted(entry.scores, key=lambda name: name != entry.objective)
    grids = []
    for name in names:
        values = {
            place: value
            for place, one in zip(places, entry.candidates, strict=True)
            if (value := one.scores.get(name)) is not None
        }
        if values:
            grids.append(Grid(f"{name}: {says(entry.scores[name])}", values, entry.baseline.get(name)))
    if not grids:
        return None
    chosen = None if entry.chosen is None else places[entry.chosen]
    removed = frozenset(
        place for place, one in zip(places, entry.candidates, strict=True) if one.removed_by is not None
    )
    seen = tuple(dict.fromkeys(str(score.get("data")) for score in entry.scores.values()))
    rows = "position × coefficient" if any(coefficient_of(one) is not None for one in entry.candidates) else ""
    return Heat(entry.name, "search", tuple(keys), columns, tuple(grids), chosen, removed, rows, seen)


def _row_of(view: SearchView, one: CandidateEntry) -> str:
    times = coefficient_of(one)
    if times is None:
        return view.label(one)
    # A figure has room for short labels: of "…, coefficient 0.5" the middle would be lost.
    return f"{view.label(one.model_copy(update={'coefficient': None}))} × {setting(times)}"


def _spans(rows: int, columns: int) -> bool:
    return min(rows, columns) >= LEAST or (min(rows, columns) == 1 and max(rows, columns) > LEAST)


# Conditions


_LAYER: Final = re.compile(r"blocks\.(\d+)\.\w+")


def _of_conditions(results: Results, blocks: Sequence[Block]) -> list[Heat]:
    """Conditions that do the same at one site each, with coefficients: the change that each makes, by layer."""
    places: dict[tuple[str, str, str, str], dict[str, tuple[int, float]]] = {}
    for condition in results.conditions:
        if condition.kind == "intervention" and (where := _place(condition)) is not None:
            places.setdefault(where[0], {})[condition.name] = where[1]
    heats = []
    for (plugin, direction, stream, _), members in places.items():
        layers = tuple(sorted({layer for layer, _ in members.values()}))
        times = tuple(sorted({number for _, number in members.values()}, reverse=True))
        if len(layers) < LEAST or not _spans(len(times), len(layers)):
            continue
        at = {name: (times.index(number), layers.index(layer)) for name, (layer, number) in members.items()}
        grids = [grid for block in blocks if block.derived_from is None if (grid := _grid(block, at)) is not None]
        if grids:
            name = f"{plugin} {direction} at {stream}"
            rows = tuple(setting(number) for number in times)
            heats.append(Heat(name, "conditions", rows, layers, tuple(grids), row_name="coefficient"))
    return heats


def _place(condition: ConditionEntry) -> tuple[tuple[str, str, str, str], tuple[int, float]] | None:
    """What a condition does and where, if it is one intervention at one site of a block with a coefficient."""
    if len(condition.interventions) != 1 or condition.system_prompt is not None:
        return None
    (item,) = condition.interventions
    coefficient: Any = item.options.get("coefficient")
    site = item.sites[0] if item.sites is not None and len(item.sites) == 1 else ""
    found = _LAYER.fullmatch(site)
    if found is None or not isinstance(coefficient, (int, float)) or isinstance(coefficient, bool):
        return None
    rest = {key: value for key, value in item.options.items() if key not in ("coefficient", "at")}
    same = repr((sorted(rest.items()), item.positions, item.schedule, item.gate, condition.mode))
    return (item.name, item.direction or "", site.rpartition(".")[2], same), (int(found[1]), float(coefficient))


def _grid(block: Block, at: Mapping[str, Cell]) -> Grid | None:
    rows = {row.condition.name: row for row in block.rows}
    values = {cell: found for name, cell in at.items() if (found := change_of(block, rows.get(name))) is not None}
    if not values:
        return None
    title = f"{block.name}: change from the baseline"
    lacking = [rows.get(name) for name, cell in at.items() if cell not in values]
    absent = {NOT_MEASURED if row is None else block.absent_change(row) for row in lacking}
    # A layer and a coefficient that no condition has together have no row either.
    absent |= {NOT_MEASURED} if len(set(at.values())) < _cells(at) else set()
    return Grid(title, values, 0.0, block.unit, block.format.percent, frozenset(absent))


def _cells(at: Mapping[str, Cell]) -> int:
    """How many cells the table has."""
    return (1 + max(row for row, _ in at.values())) * (1 + max(column for _, column in at.values()))


def change_of(block: Block, row: Row | None) -> float | None:
    """What a condition changes: paired where that is known, else the difference of the values."""
    if row is None or row.value is None:
        return None
    if row.record is not None and row.record.difference is not None:
        return row.record.difference
    before = block.baseline.value if block.baseline is not None else None
    return None if before is None else row.value - before
