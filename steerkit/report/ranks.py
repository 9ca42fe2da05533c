"""Behaviour against the number of directions removed: what sweeps over ``rank`` say of how a behaviour is carried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steerkit.report.findings import value_with_interval
from steerkit.report.numbers import NO_BREAK, count, sentence_case
from steerkit.report.tables import RANK, Block, Row, Sweep


@dataclass(frozen=True)
class RankView:
    """One evaluator on one data set, over the number of directions that are removed.

    Args:
        block: what the evaluator gave.
        sweeps: over ``rank``, each with two measured points at least, the baseline among them.
    """

    block: Block
    sweeps: tuple[Sweep, ...]

    @property
    def title(self) -> str:
        """As the figure and its heading say."""
        return f"{self.block.name} against the number of directions removed"

    @property
    def ranks(self) -> tuple[int, ...]:
        """The numbers at which anything was measured, 0 for the baseline."""
        found = {int(rank) for sweep in self.sweeps for rank, _ in self.points(sweep)}
        return tuple(sorted(found))

    def points(self, sweep: Sweep) -> tuple[tuple[float, Row], ...]:
        """A sweep's measured points, from the baseline on."""
        start = [(0.0, self.block.baseline)] if self.block.baseline is not None and sweep.through_baseline else []
        return tuple((rank, row) for rank, row in [*start, *sweep.points] if row.value is not None)

    @property
    def sentences(self) -> tuple[tuple[str, str], ...]:
        """Of each sweep its name, and what it says of how the behaviour is carried."""
        return tuple((sweep.name, _sentence(self.block, sweep)) for sweep in self.sweeps)


def make_ranks(blocks: Sequence[Block]) -> tuple[RankView, ...]:
    """The blocks that hold a sweep over ``rank`` from the baseline on, in order."""
    views = []
    for block in blocks:
        sweeps = tuple(sweep for sweep in block.sweeps if is_rank_curve(sweep))
        if block.derived_from is None and sweeps and block.baseline is not None and block.baseline.value is not None:
            views.append(RankView(block, sweeps))
    return tuple(views)


def is_rank_curve(sweep: Sweep) -> bool:
    """Whether a sweep is over the number of directions and has anything to draw beside the baseline."""
    return sweep.option == RANK and sweep.through_baseline and any(row.value is not None for _, row in sweep.points)


def _sentence(block: Block, sweep: Sweep) -> str:
    """Values with their intervals, the control's, and the share of the whole change that the first direction makes."""
    assert block.baseline is not None and block.baseline.value is not None
    measured = [(int(rank), row) for rank, row in sweep.points if row.value is not None]
    (first, few), (last, most) = measured[0], measured[-1]
    start = block.format.number(block.baseline.value)
    text = f"{sentence_case(count(first, 'direction'))} removed: from {start} to {value_with_interval(block, few)}"
    if last != first:
        text += f"; {last} removed: {value_with_interval(block, most)}"
    text += f".{_random(block, last, most)}"
    return text + (_share(block, (first, few), (last, most)) if last != first else "")


def _random(block: Block, last: int, row: Row) -> str:
    control = row.control
    if control is None or control.low is None or control.high is None:
        return " No random directions were removed beside it."
    spread = block.format.interval(control.low, control.high)
    return f" {last} random ones, {count(len(control.values), 'draw')}: {spread}."


def _share(block: Block, few: tuple[int, Row], most: tuple[int, Row]) -> str:
    """How much of the change the first directions make; nothing where the whole may be none."""
    record = most[1].record
    assert record is not None
    low, high = record.difference_ci_low, record.difference_ci_high
    if low is None or high is None or low <= 0 <= high:
        return f" The change that {most[0]} make is not told from none, so there is none to be parted among them."
    assert block.baseline is not None and block.baseline.value is not None
    assert few[1].value is not None and most[1].value is not None
    whole, part = most[1].value - block.baseline.value, few[1].value - block.baseline.value
    which = "The first one makes" if few[0] == 1 else f"The first {few[0]} make"
    return f" {which} {100 * part / whole:.0f}{NO_BREAK}% of the change that all {most[0]} make."
