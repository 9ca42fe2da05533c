"""The first table: what each condition moves, for how many prompts that holds, and what the prompts had foretold."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final

from steerkit.artifacts.reading import ConditionEntry, DirectionEntry, RecordEntry, Results
from steerkit.errors import counted
from steerkit.report.headline import read_first
from steerkit.report.numbers import NOT_MEASURED, NumberFormat
from steerkit.report.tables import Block, Row

MOST_ROWS: Final = 40
MOST_APART: Final = 2.0**23
"""A d′ beyond it was divided by what rounding left of a variance of 0."""
_TWO: Final = NumberFormat(decimals=2)
_SHARE: Final = NumberFormat(decimals=0, percent=True)


@dataclass(frozen=True)
class GlanceRow:
    """One condition under one evaluator on one data set.

    ``span`` is how many rows its condition has; 0 but for the first of them.
    """

    block: Block
    row: Row
    span: int

    @property
    def change(self) -> str | None:
        """The paired change, or None; of proportions in percentage points (pp)."""
        difference = None if self.row.record is None else self.row.record.difference
        if difference is None:
            return None
        text = f"{'+' if difference > 0 else ''}{self.block.format.number(difference)}"
        return text.replace("%", "pp") if self.block.format.percent else text

    @property
    def absent(self) -> str:
        """What is said where there is no change: that of the value that lacks, its own or the baseline's."""
        return self.block.absent_change(self.row)

    @property
    def interval(self) -> str | None:
        """The 95 % interval of the change, or None."""
        record = self.row.record
        if record is None:
            return None
        text = self.block.format.interval(record.difference_ci_low, record.difference_ci_high)
        return text.replace("%", "pp") if text is not None and self.block.format.percent else text


@dataclass(frozen=True)
class Group:
    """Conditions along the same directions.

    Args:
        foretold: for each direction its name and what its training prompts foretell; empty where none is used.
        rows: of the conditions, in the order of the recipe.
    """

    foretold: tuple[tuple[str, str], ...]
    rows: tuple[GlanceRow, ...]


@dataclass(frozen=True)
class Glance:
    """The table, and how many rows it leaves to the other ones."""

    groups: tuple[Group, ...]
    left_out: int


def make_glance(results: Results, blocks: Sequence[Block]) -> Glance:
    """The rows of every condition; of a sweep those of its lowest and its highest value.

    Where that is too long for a first table, every condition keeps the rows of the measures that are read first.
    """
    own = [block for block in blocks if block.derived_from is None]
    inner = inner_names(own)
    everything = sum(row.condition.name not in inner for block in own for row in block.rows)
    told = own if everything <= MOST_ROWS else read_first(own)
    entries = {entry.name: entry for entry in results.directions}
    groups: dict[tuple[tuple[str, str], ...], list[GlanceRow]] = {}
    total, shown = 0, 0
    for condition in results.conditions:
        if condition.kind != "intervention":
            continue
        total += sum(row.condition.name == condition.name for block in own for row in block.rows)
        rows = [(block, row) for block in told for row in block.rows if row.condition.name == condition.name]
        if condition.name in inner or (shown and shown + len(rows) > MOST_ROWS):
            continue
        shown += len(rows)
        before = tuple((name, _foretold(entries.get(name), condition)) for name in directions_of(condition))
        made = [GlanceRow(block, row, len(rows) if at == 0 else 0) for at, (block, row) in enumerate(rows)]
        groups.setdefault(before, []).extend(made)
    found = tuple(Group(before, tuple(rows)) for before, rows in groups.items() if rows)
    return Glance(found, total - shown)


def inner_names(blocks: Sequence[Block]) -> set[str]:
    """Conditions between the lowest and the highest value of their sweep."""
    sweeps = [sweep for block in blocks for sweep in block.sweeps]
    return {row.condition.name for sweep in sweeps for _, row in sweep.points[1:-1]}


def directions_of(condition: ConditionEntry) -> tuple[str, ...]:
    """The directions that a condition's interventions use, each once."""
    texts = [item.direction for item in condition.interventions if item.direction]
    return tuple(dict.fromkeys(name.strip() for text in texts for name in text.split(",")))


def _foretold(entry: DirectionEntry | None, condition: ConditionEntry) -> str:
    if entry is None:
        return NOT_MEASURED
    acted = {site for item in condition.interventions for site in item.sites or ()}
    return foretold(entry, acted if len(acted & entry.predictors.keys()) == 1 else ())


def foretold(entry: DirectionEntry, sites: Collection[str] = ()) -> str:
    """What a direction's training prompts foretell, in words: ``differences agree 0.61, d′ 3.40``.

    Args:
        entry: the direction.
        sites: those that are told; all of them if none is given, as the lowest and the highest value.
    """
    known = [one for site, one in entry.predictors.items() if not sites or site in sites]
    if not known:
        if entry.classes:
            return f"{NOT_MEASURED}, since its classes are no two sides"
        return NOT_MEASURED if entry.positive else f"{NOT_MEASURED}, since it comes without prompts"
    agreement = _range([one.agreement for one in known])
    apart = [spread(one.d_prime) for one in known]
    lacking = apart.count(None)
    why = "where the prompts of a class don’t vary or there is one of them"
    told = f"{_range(apart)} (not computed at {lacking} of these, {why})" if lacking else _range(apart)
    told = told if lacking < len(apart) else f"not computed, since {why.removeprefix('where ')}"
    over = f" over {counted(len(known), 'site')}" if len(known) > 1 else ""
    pairs = " of pairs" if known[0].paired else ""
    if not lacking:
        return f"differences{pairs} agree {agreement}, d′ {told}{over and f',{over}'}"
    return f"differences{pairs} agree {agreement}{over}, d′ {told}"


def spread(d_prime: float | None) -> float | None:
    """A d′, or None where it is of classes that vary by rounding alone."""
    return None if d_prime is None or abs(d_prime) > MOST_APART else d_prime


def _range(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return NOT_MEASURED
    low, high = _TWO.number(min(known)), _TWO.number(max(known))
    return low if low == high else f"{low} to {high}"


def other_way(record: RecordEntry | None, *, plain: bool = False) -> str:
    """The share of examples on which an effect goes the other way: ``12 %``; empty where there is no mean effect.

    Args:
        record: a condition's.
        plain: in ASCII, for a terminal.
    """
    if record is None or record.against is None:
        return ""
    shown = replace(_SHARE, decimals=1) if 0 < record.against < 0.01 else _SHARE
    return (shown.plain() if plain else shown).number(record.against)
