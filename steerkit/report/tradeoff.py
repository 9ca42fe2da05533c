"""One rate against another for every condition: what happens where it should, against where it shouldn't."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from steerkit.artifacts.reading import ConditionEntry, EvaluatorEntry, RecordEntry, Results
from steerkit.intervals import CONFIDENCE, normal_quantile, wilson
from steerkit.report.absent import absent_word, common_word, is_judge
from steerkit.report.numbers import NOT_MEASURED, NumberFormat, choose_format


@dataclass(frozen=True)
class Pooled:
    """A value over all examples of one or several data sets; without a value it was not measured on all of them.

    Args:
        value: mean over the examples, each data set by its number of examples.
        low: lower end of the 95 % interval, or None.
        high: upper end, or None.
        n: how many examples.
        absent: what is said where there is no value.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    absent: str = NOT_MEASURED


@dataclass(frozen=True)
class Point:
    """A condition, with what its random directions give as ``(should not, should)``."""

    condition: ConditionEntry
    should: Pooled
    should_not: Pooled
    controls: tuple[tuple[float, float], ...] = ()

    @property
    def measured(self) -> bool:
        """Whether both values are there."""
        return self.should.value is not None and self.should_not.value is not None


@dataclass(frozen=True)
class Tradeoff:
    """What one figure shows: the baseline first, then the conditions in the order of the recipe."""

    evaluator: EvaluatorEntry
    should: tuple[str, ...]
    should_not: tuple[str, ...]
    points: tuple[Point, ...]
    format: NumberFormat

    @property
    def drawn(self) -> tuple[Point, ...]:
        """The points that were measured on both sides, in the order of their numbers in the figure."""
        return tuple(point for point in self.points if point.measured)

    @property
    def absent(self) -> str:
        """What is said of the sides that have no value, in one word for all of them."""
        sides = [side for point in self.points for side in (point.should, point.should_not)]
        return common_word(side.absent for side in sides if side.value is None)

    @property
    def controlled(self) -> bool:
        """Whether any random direction was measured on all of these data sets, and so has a point."""
        return any(point.controls for point in self.drawn)

    @property
    def unit(self) -> str:
        """Of the axes."""
        return "%" if self.format.percent else self.evaluator.unit

    def says(self, sides: Sequence[str]) -> str:
        """``refused on lookalikes.test and harmless.test``."""
        return f"{self.evaluator.name} on {' and '.join(sides)}"


def make_tradeoff(results: Results) -> Tradeoff | None:
    """The trade-off that the recipe asks for, or None."""
    entry = results.tradeoff
    if entry is None:
        return None
    evaluator = next((one for one in results.evaluators if one.name == entry.evaluator), None)
    evaluator = evaluator or EvaluatorEntry(name=entry.evaluator)
    records = {(one.condition, one.data): one for one in results.records if one.evaluator == entry.evaluator}

    def at(condition: str, sides: Sequence[str]) -> Pooled:
        found = [records.get((condition, data)) for data in sides]
        return replace(pool(found), absent=absent_word(found, is_judge(evaluator)))

    points = []
    for condition in results.conditions:
        if condition.kind == "control":
            continue
        beside = [one.name for one in results.conditions if one.kind == "control" and one.of == condition.name]
        pairs = [(at(name, entry.should_not).value, at(name, entry.should).value) for name in beside]
        controls = tuple((x, y) for x, y in pairs if x is not None and y is not None)
        points.append(
            Point(condition, at(condition.name, entry.should), at(condition.name, entry.should_not), controls)
        )
    points.sort(key=lambda point: point.condition.kind != "baseline")
    sides = [side for point in points for side in (point.should, point.should_not)]
    widths = [(side.high - side.low) / 2 if side.high is not None and side.low is not None else None for side in sides]
    percent = evaluator.aggregate == "proportion"
    shown = choose_format([side.value for side in sides], widths, percent=percent)
    return Tradeoff(evaluator, entry.should, entry.should_not, tuple(points), shown)


def pool(records: Sequence[RecordEntry | None]) -> Pooled:
    """Values of one condition on several data sets as one, over all of their examples.

    Rates are pooled by their counts, with Wilson's interval; means by their numbers of examples, with the standard
    error of a mean of strata and the normal distribution. A single one stays as it is.

    Args:
        records: one for each data set; None where there is none, and then there is no value of all of them.
    """
    known = [one for one in records if one is not None and one.value is not None and one.n > 0]
    if len(known) < len(records) or not known:
        return Pooled(None)
    if len(known) == 1:
        return Pooled(known[0].value, known[0].ci_low, known[0].ci_high, known[0].n)
    n = sum(one.n for one in known)
    value = math.fsum(one.n * one.value for one in known if one.value is not None) / n
    if all(one.aggregate == "proportion" for one in known):
        return Pooled(value, *wilson(round(value * n), n, CONFIDENCE), n)
    errors = [one.standard_error for one in known]
    if any(one.aggregate != "mean" for one in known) or None in errors:
        return Pooled(value, None, None, n)
    error = math.sqrt(math.fsum((one.n * (one.standard_error or 0.0)) ** 2 for one in known)) / n
    half = normal_quantile(0.5 + CONFIDENCE / 2) * error
    return Pooled(value, value - half, value + half, n)
