"""From records to what is shown: one block per evaluator and data set, controls beside their conditions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from steerkit.artifacts.reading import ConditionEntry, EvaluatorEntry, RecordEntry, Results
from steerkit.report.absent import absent_word, common_word, is_judge
from steerkit.report.numbers import NOT_MEASURED, NumberFormat, choose_format

RANK: Final = "rank"
"""The option that says how many of a direction's vectors are used, the first ones."""


@dataclass(frozen=True)
class Control:
    """What random directions of the same norm give in place of a condition's own.

    Args:
        planned: how many random directions there were.
        values: the measured ones.
        absent: what is said where none was.
    """

    planned: int
    values: tuple[float, ...]
    absent: str = NOT_MEASURED

    @property
    def mean(self) -> float | None:
        """Mean over the random directions, or None where none was measured."""
        return fmean(self.values) if self.values else None

    @property
    def low(self) -> float | None:
        """The lowest of them."""
        return min(self.values, default=None)

    @property
    def high(self) -> float | None:
        """The highest of them."""
        return max(self.values, default=None)

    def contains(self, value: float) -> bool:
        """Whether ``value`` is within the range of the random directions."""
        return self.low is not None and self.high is not None and self.low <= value <= self.high


@dataclass(frozen=True)
class Row:
    """A condition under one evaluator on one data set; ``record`` is None where there is none.

    ``absent`` is what is said in place of a value that isn't there.
    """

    condition: ConditionEntry
    record: RecordEntry | None
    control: Control | None = None
    absent: str = NOT_MEASURED

    @property
    def value(self) -> float | None:
        """The measured value, or None."""
        return self.record.value if self.record else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval, or None. Without a value there is none."""
        record = self.record
        if record is None or record.value is None or record.ci_low is None or record.ci_high is None:
            return None
        return record.ci_low, record.ci_high

    @property
    def at_its_end(self) -> bool:
        """Whether the interval is one point, as that of a bootstrap is where nearly every draw gives one value.

        An AUROC of 1 is the usual case: all pairs are in order, and so they are in every draw.
        """
        whole = self.record is not None and self.record.aggregate == "whole"
        return whole and self.interval is not None and self.interval[0] == self.interval[1]


@dataclass(frozen=True)
class Sweep:
    """The conditions of one sweep in the order of the swept number.

    Args:
        name: of the family.
        option: the option that is swept.
        points: ``(number, row)``.
        through_baseline: whether the number 0 is the baseline itself, so that curves pass through it.
    """

    name: str
    option: str
    points: tuple[tuple[float, Row], ...]
    through_baseline: bool

    @property
    def has_control(self) -> bool:
        """Whether any of its points has a measured control."""
        return any(row.control is not None and row.control.values for _, row in self.points)


@dataclass(frozen=True)
class Block:
    """Everything that one evaluator gave on one data set.

    ``derived_from`` names the evaluator whose value this one is a function of, such as perplexity of
    cross-entropy: it holds no news, so it gets a table and neither sentences nor figures.
    """

    evaluator: EvaluatorEntry
    data: str
    derived_from: str | None
    baseline: Row | None
    rows: tuple[Row, ...]
    sweeps: tuple[Sweep, ...]
    format: NumberFormat

    @property
    def name(self) -> str:
        """``evaluator on data``."""
        return f"{self.evaluator.name} on {self.data}"

    @property
    def unit(self) -> str:
        """As axes and headings print it; percentages need no further word."""
        return "" if self.format.percent else self.evaluator.unit

    @property
    def all_rows(self) -> tuple[Row, ...]:
        """Baseline first, then the interventions in the order of the recipe."""
        return (self.baseline, *self.rows) if self.baseline else self.rows

    @property
    def measured(self) -> bool:
        """Whether there is any value at all."""
        return any(row.value is not None for row in self.all_rows)

    @property
    def absent(self) -> str:
        """What is said of the values that aren't there, in one word for all of them."""
        return common_word(row.absent for row in self.all_rows if row.value is None)

    def absent_change(self, row: Row) -> str:
        """What is said where a row has no change: the word of the value that lacks, its own or the baseline's."""
        base = self.baseline
        return base.absent if row.value is not None and base is not None and base.value is None else row.absent

    @property
    def n(self) -> tuple[int, int] | None:
        """Fewest and most examples behind a value."""
        counts = [row.record.n for row in self.all_rows if row.record and row.value is not None]
        return (min(counts), max(counts)) if counts else None


def make_blocks(results: Results) -> tuple[Block, ...]:
    """One block per evaluator and data set that has records, in the order of the recipe."""
    evaluators = {entry.name: entry for entry in results.evaluators}
    parents: dict[str, str] = {}
    order: list[str] = []
    for entry in results.evaluators:
        # A derived name carries its evaluator's where the recipe renames the evaluator.
        derived = [name for label in entry.derived for name in (label, f"{entry.name}.{label}")]
        parents.update(dict.fromkeys(derived, entry.name))
        order += [entry.name, *derived]
    keys = list(dict.fromkeys((record.evaluator, record.data) for record in results.records))
    keys.sort(key=lambda key: order.index(key[0]) if key[0] in order else len(order))
    return tuple(_make_block(results, evaluators.get(name), name, data, parents.get(name)) for name, data in keys)


def unscored(results: Results) -> tuple[str, ...]:
    """Evaluators that the recipe names and that left no record at all."""
    scored = {record.evaluator for record in results.records}
    return tuple(entry.name for entry in results.evaluators if entry.name not in scored)


def _make_block(results: Results, entry: EvaluatorEntry | None, name: str, data: str, parent: str | None) -> Block:
    records = {r.condition: r for r in results.records if r.evaluator == name and r.data == data}
    first = next(iter(records.values()))
    evaluator = entry or EvaluatorEntry(name=name, aggregate=first.aggregate, unit=first.unit)
    judge = is_judge(evaluator)
    rows = [_make_row(one, records, results, judge) for one in results.conditions if one.kind != "control"]
    baseline = next((row for row in rows if row.condition.kind == "baseline"), None)
    # A comparison of runs has several baselines; a run has one.
    others = tuple(row for row in rows if row is not baseline)
    derived_from = None if entry is not None else parent
    return Block(evaluator, data, derived_from, baseline, others, _make_sweeps(others), _make_format(records.values()))


def _make_row(condition: ConditionEntry, records: dict[str, RecordEntry], results: Results, judge: bool) -> Row:
    own = [other.name for other in results.conditions if other.kind == "control" and other.of == condition.name]
    names = [name for name in own if name in records]  # a recipe may leave its controls out of some measures
    beside = [records[name] for name in names]
    values = tuple(one.value for one in beside if one.value is not None)
    control = Control(len(names), values, absent_word(beside, judge)) if names else None
    record = records.get(condition.name)
    return Row(condition, record, control, absent_word([record], judge))


def _make_format(records: Iterable[RecordEntry]) -> NumberFormat:
    entries: Sequence[RecordEntry] = [record for record in records if record.value is not None]
    widths = [(r.ci_high - r.ci_low) / 2 if r.ci_low is not None and r.ci_high is not None else None for r in entries]
    percent = bool(entries) and all(record.aggregate == "proportion" for record in entries)
    return choose_format([record.value for record in entries], widths, percent=percent)


def _make_sweeps(rows: Sequence[Row]) -> tuple[Sweep, ...]:
    names = dict.fromkeys(row.condition.sweep for row in rows if row.condition.sweep is not None)
    sweeps = []
    for name in names:
        members = [row for row in rows if row.condition.sweep == name and len(row.condition.swept) == 1]
        options = {option for row in members for option in row.condition.swept}
        if len(options) != 1:
            continue
        option = options.pop()
        points = sorted(((row.condition.swept[option], row) for row in members), key=lambda point: point[0])
        sweeps.append(Sweep(name, option, tuple(points), _zero_is_baseline(option, members)))
    return tuple(sweeps)


def _zero_is_baseline(option: str, members: Sequence[Row]) -> bool:
    """A coefficient of 0 does nothing, as no vectors do, unless there is also an intervention without that option."""
    interventions = [item for row in members for item in row.condition.interventions]
    zero = option in ("coefficient", RANK)
    return zero and bool(interventions) and all(option in item.options for item in interventions)
