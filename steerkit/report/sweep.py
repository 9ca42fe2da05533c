"""A sweep as it is compared: conditions down, models (or whatever else is swept) across, a table for each measure.

Over seeds a cell is the mean of what they gave, with the lowest and the highest. A run that failed leaves gaps that say
so, and takes nothing from the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Final

from steerkit.api.frames import frame_or_rows
from steerkit.artifacts.reading import Run, load_run
from steerkit.artifacts.results import ConditionEntry, EvaluatorEntry
from steerkit.artifacts.sweeps import Sweep, SweepMember, load_sweep, settings_label, value_text
from steerkit.errors import ArtifactError, SteerkitError, counted
from steerkit.report.compare import Difference, made_with
from steerkit.report.findings import verdict
from steerkit.report.frames import ReadRun, Rows, numbers_of
from steerkit.report.headline import opened
from steerkit.report.heat import change_of
from steerkit.report.numbers import NOT_MEASURED, NumberFormat, choose_format
from steerkit.report.tables import Block, Row, make_blocks

SEED: Final = "seed"
FAILED: Final = "failed"
NOT_RUN: Final = "not run yet"
OVER: Final = "over_"


@dataclass(frozen=True)
class Column:
    """What stands across: runs that differ in nothing that is swept but their seed.

    Args:
        label: for its heading.
        settings: what they have in common of what is swept.
        places: of its members in the sweep, in order.
    """

    label: str
    settings: Mapping[str, Any]
    places: tuple[int, ...]


@dataclass(frozen=True)
class Cell:
    """A condition in one column under one measure.

    Args:
        value: the value; the mean over seeds where there are several.
        low, high: its 95 % interval; of several seeds the lowest and the highest value.
        change: from the own baseline on the same examples; the mean over seeds.
        change_low, change_high: as ``low`` and ``high``.
        deviation: standard deviation between seeds, where there are several.
        measured: how many runs have a value.
        planned: how many runs were to have one.
        within: in how many of them random directions of the same norm give such values too.
        controlled: how many runs compare with random directions.
        absent: what is said where there is no value.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    change: float | None = None
    change_low: float | None = None
    change_high: float | None = None
    deviation: float | None = None
    measured: int = 0
    planned: int = 1
    within: int = 0
    controlled: int = 0
    absent: str = NOT_MEASURED


@dataclass(frozen=True)
class SweepTable:
    """One evaluator on one data set.

    Args:
        evaluator: it.
        data: the data set's name.
        rows: each condition with a cell for each column, the baseline first.
        format: of the numbers.
        opened: whether it is read first.
        examples: which examples the runs saw, in words.
        n: fewest and most examples behind a value, or None.
    """

    evaluator: EvaluatorEntry
    data: str
    rows: tuple[tuple[ConditionEntry, tuple[Cell, ...]], ...]
    format: NumberFormat
    opened: bool
    examples: str
    n: tuple[int, int] | None

    @property
    def name(self) -> str:
        """``evaluator on data``."""
        return f"{self.evaluator.name} on {self.data}"

    @property
    def unit(self) -> str:
        """As headings print it; percentages need no further word."""
        return "" if self.format.percent else self.evaluator.unit

    @property
    def reach(self) -> float:
        """The largest change of all, which is the deepest colour."""
        changes = [abs(cell.change) for _, cells in self.rows for cell in cells if cell.change is not None]
        return max(changes, default=0.0)


@dataclass(frozen=True, eq=False)
class ReadSweep:
    """A sweep's directory: its runs side by side, and what became of those that aren't there.

    Args:
        path: the directory.
        sweep: ``sweep.json`` by its schema.
        runs: the finished runs by their places among the members, without their completions.
        unread: why a run that finished can't be read, by place.
    """

    path: Path
    sweep: Sweep
    runs: Mapping[int, Run]
    unread: Mapping[int, str]

    def __repr__(self) -> str:
        return f"<steerkit sweep {self.sweep.name} over {', '.join(self.sweep.over)}: {self.told}; {self.path}>"

    @property
    def told(self) -> str:
        """How far it is, in a few words."""
        words = [counted(len(self.sweep.members), "run")]
        words += ["all finished"] if len(self.runs) == len(self.sweep.members) else [f"{len(self.runs)} finished"]
        words += [f"{len(self.failed)} failed"] if self.failed else []
        words += [f"{self.left} not run yet"] if self.left else []
        return ", ".join(words)

    def _repr_html_(self) -> str:
        from steerkit.api.showing import card, line, listed
        from steerkit.report.sweep_terminal import cell_text

        parts = [line(repr(self)[1:-1])]
        for one in self.tables:
            if one.opened:
                rows = [[name.name, *(cell_text(one, cell) for cell in cells)] for name, cells in one.rows]
                parts += [line(one.name), listed(["condition", *(column.label for column in self.columns)], rows)]
        failed = [line(f"failed: {self.labels(places)}: {why}") for places, why in self.failures]
        return card(self.sweep.title, *parts, *failed)

    @property
    def folded(self) -> bool:
        """Whether there are several seeds, of which a cell has the mean."""
        return len(self.sweep.over.get(SEED, ())) > 1

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """What stands across, in the order of the sweep."""
        keys = [key for key, values in self.sweep.over.items() if key != SEED and len(values) > 1]
        found: dict[str, list[int]] = {}
        for place, one in enumerate(self.sweep.members):
            found.setdefault(settings_label({key: one.settings[key] for key in keys}), []).append(place)
        columns = []
        for places in found.values():
            first = self.sweep.members[places[0]]
            settings = {key: first.settings[key] for key in keys}
            columns.append(Column(_heading(settings, first), settings, tuple(places)))
        return tuple(columns)

    @cached_property
    def failed(self) -> Mapping[int, str]:
        """Why each run failed, or can't be read, by its place among the members."""
        found = {at: one.error or "" for at, one in enumerate(self.sweep.members) if one.state == FAILED}
        return dict(sorted({**found, **self.unread}.items()))

    @property
    def failures(self) -> tuple[tuple[tuple[int, ...], str], ...]:
        """Places of the runs that failed with the same words, and these."""
        by_words: dict[str, list[int]] = {}
        for place, why in self.failed.items():
            by_words.setdefault(why, []).append(place)
        return tuple((tuple(places), why) for why, places in by_words.items())

    @property
    def left(self) -> int:
        """How many runs are yet to be done."""
        return len(self.sweep.members) - len(self.runs) - len(self.failed)

    def labels(self, places: Iterable[int]) -> str:
        """Settings of some runs in a line."""
        return "; ".join(self.sweep.members[place].label for place in places)

    @cached_property
    def tables(self) -> tuple[SweepTable, ...]:
        """A table for each measure that any run has, in the order of the recipe."""
        return _tables(self)

    @cached_property
    def made_with(self) -> tuple[Difference, ...]:
        """What differs between the runs beside their recipes: versions, code, machine."""
        runs = {self.sweep.members[place].label: run for place, run in self.runs.items()}
        swept_model = any(key.split(".")[0] == "model" for key in self.sweep.over)
        return tuple(one for one in made_with(runs) if not (swept_model and one.key.startswith("model.")))

    def rows(self) -> Rows:
        """What was measured: a row for each run, condition, evaluator and data set, as ``read_run(...).rows()``.

        Before them stand ``over_<setting>`` for each setting that is swept. A run that failed has no row.
        """
        found: Rows = []
        for place, run in self.runs.items():
            settings = {f"{OVER}{key}": value for key, value in self.sweep.members[place].settings.items()}
            found += [{**settings, **row} for row in ReadRun(run).rows()]
        names = dict.fromkeys(name for row in found for name in row)
        return [{name: row.get(name) for name in names} for row in found]

    def frame(self) -> Any:
        """``rows()`` as a ``pandas.DataFrame``; where pandas isn't installed, the rows themselves."""
        rows = self.rows()
        return frame_or_rows(rows, numbers_of(rows))


def read_sweep(path: str | Path) -> ReadSweep:
    """Read the directory of a sweep, also of one that isn't finished: what isn't there says so.

    Args:
        path: the directory that ``steerkit sweep`` printed.

    Raises:
        ArtifactError: where it is no sweep, or its list of runs is damaged.
    """
    if not isinstance(path, (str, Path)):
        raise SteerkitError(f"A sweep is named by the path of its directory, not by a {type(path).__name__}.")
    folder = Path(path)
    sweep = load_sweep(folder)
    runs: dict[int, Run] = {}
    unread: dict[int, str] = {}
    for place, one in enumerate(sweep.members):
        if one.state == "finished" and one.run is not None:
            try:
                # Completions are most of a run, and nothing here shows them.
                runs[place] = load_run(folder / one.run).model_copy(update={"samples": ()})
            except ArtifactError as error:
                unread[place] = str(error)
    return ReadSweep(folder, sweep, runs, unread)


# Tables


def _heading(settings: Mapping[str, Any], first: SweepMember) -> str:
    """A column in a few words: its model by its name, other settings with the last part of theirs."""
    if not settings:
        return first.model
    last = [key.rpartition(".")[2] for key in settings]
    words = []
    for key, value in settings.items():
        short = key.rpartition(".")[2]
        called = short if last.count(short) == 1 else key
        words.append(value_text(value) if key == "model.source" else f"{called}={value_text(value)}")
    return ", ".join(words)


Measured = Mapping[int, Block]
"""One measure by run."""


def _tables(found: ReadSweep) -> tuple[SweepTable, ...]:
    by_run = {place: make_blocks(run.results) for place, run in found.runs.items()}
    first = {block.name for blocks in by_run.values() for block in opened(blocks)}
    measures: dict[str, dict[int, Block]] = {}
    for place, blocks in by_run.items():
        for block in blocks:
            measures.setdefault(block.name, {})[place] = block
    return tuple(_table(found, blocks, name in first) for name, blocks in measures.items())


def _table(found: ReadSweep, blocks: Measured, is_opened: bool) -> SweepTable:
    rows = {place: {row.condition.name: row for row in block.all_rows} for place, block in blocks.items()}
    conditions = {name: row.condition for by_name in rows.values() for name, row in by_name.items()}
    ordered = sorted(conditions.values(), key=lambda one: one.kind != "baseline")
    cells = tuple((one, tuple(_cell(found, blocks, rows, one, column) for column in found.columns)) for one in ordered)
    first = next(iter(blocks.values()))
    records = [
        row.record for by_name in rows.values() for row in by_name.values() if row.record and row.value is not None
    ]
    every = [cell for _, listed in cells for cell in listed]
    widths = [(one.high - one.low) / 2 if one.low is not None and one.high is not None else None for one in every]
    percent = bool(records) and all(record.aggregate == "proportion" for record in records)
    counts = [record.n for record in records]
    return SweepTable(
        first.evaluator,
        first.data,
        cells,
        choose_format([one.value for one in every], widths, percent=percent),
        is_opened,
        _examples(found, blocks, first.data),
        (min(counts), max(counts)) if counts else None,
    )


def _cell(
    found: ReadSweep, blocks: Measured, rows: Mapping[int, Mapping[str, Row]], condition: ConditionEntry, column: Column
) -> Cell:
    there = [(blocks[place], rows[place].get(condition.name)) for place in column.places if place in blocks]
    measured = [(block, row) for block, row in there if row is not None and row.value is not None]
    planned = len(column.places)
    if not measured:
        return Cell(planned=planned, absent=_absent(found, column, [row for _, row in there]))
    values = [row.value for _, row in measured if row.value is not None]
    changes = [change for block, row in measured if (change := change_of(block, row)) is not None]
    changes = [] if condition.kind == "baseline" else changes
    verdicts = [verdict(row) for _, row in measured]
    cell = Cell(
        fmean(values),
        change=fmean(changes) if changes else None,
        measured=len(values),
        planned=planned,
        within=verdicts.count("within"),
        controlled=verdicts.count("within") + verdicts.count("beyond"),
    )
    if found.folded:
        return cell if len(values) < 2 else _spread(cell, values, changes)
    (_, row), *_ = measured
    low, high = row.interval or (None, None)
    cell = replace(cell, low=low, high=high)
    if row.record is None or not changes:
        return cell
    return replace(cell, change_low=row.record.difference_ci_low, change_high=row.record.difference_ci_high)


def _spread(cell: Cell, values: Sequence[float], changes: Sequence[float]) -> Cell:
    """A cell with how far apart seeds are."""
    cell = replace(cell, low=min(values), high=max(values), deviation=stdev(values))
    return replace(cell, change_low=min(changes), change_high=max(changes)) if len(changes) > 1 else cell


def _absent(found: ReadSweep, column: Column, rows: Sequence[Row | None]) -> str:
    """Why a column has no value for a condition: what its runs say, or that they aren't there."""
    said = [row.absent for row in rows if row is not None]
    if said:
        return said[0]
    states = {found.sweep.members[place].state for place in column.places}
    if any(place in found.runs for place in column.places):
        return NOT_MEASURED
    return FAILED if FAILED in states or states == {"finished"} else NOT_RUN


def _examples(found: ReadSweep, blocks: Measured, data: str) -> str:
    """Which examples the runs saw, by their hashes: a table of numbers on different prompts has to say so."""
    hashes: dict[int, str | None] = {}
    for place in blocks:
        facts = found.runs[place].origin.data.get(data)
        hashes[place] = None if facts is None else facts.sha256
    if None in hashes.values():
        return "examples that the models themselves gave"
    if len(hashes) < 2:
        return ""
    if len(set(hashes.values())) == 1:
        return "the same examples in all runs"
    by_seed: dict[str, set[str | None]] = {}
    for place, digest in hashes.items():
        by_seed.setdefault(value_text(found.sweep.members[place].settings.get(SEED)), set()).add(digest)
    if found.folded and all(len(one) == 1 for one in by_seed.values()):
        return "other examples with each seed, the same in all columns"
    return "not the same examples in all runs"
