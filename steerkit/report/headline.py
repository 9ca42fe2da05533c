"""Which of a run's many measures a reader meets first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from steerkit.artifacts.results import TradeoffEntry
from steerkit.report.limits import is_verdict, reads_completions
from steerkit.report.tables import Block

FEW: Final = 8
"""So many measures are all shown at once."""


def behaviours(blocks: Sequence[Block]) -> list[Block]:
    """What was to be moved: verdicts on what was said come first, those of a judge before those of rules."""
    own = [block for block in blocks if block.derived_from is None]
    found = [block for block in own if block.evaluator.role != "side effect" and block.evaluator.compared is not False]
    return sorted(found, key=lambda block: (not is_verdict(block), block.evaluator.role != "judge"))


def headline(blocks: Sequence[Block]) -> tuple[Block, ...]:
    """One measure for each data set, in the order in which these first come.

    Where completions are judged, of those data sets alone. A measure without any value gives way to one that has some.
    """
    found = behaviours(blocks)
    spoken = [block for block in found if is_verdict(block) and (_judged(block) or reads_completions(block))]
    if not any(block.measured for block in spoken):
        # Nothing was judged: what else was measured speaks, if anything was.
        silent = unjudged(blocks) if any(block.measured for block in found) else ()
        spoken = [block for block in spoken if block not in silent]
        found = [block for block in found if block not in silent]
    first: dict[str, Block] = {}
    for block in spoken or found:
        if block.data not in first or (block.measured and not first[block.data].measured):
            first[block.data] = block
    return tuple(first.values())


def unjudged(blocks: Sequence[Block]) -> tuple[Block, ...]:
    """What a judge was asked and gave no verdict on at all."""
    return tuple(b for b in blocks if b.derived_from is None and _judged(b) and not b.measured)


def read_first(blocks: Sequence[Block]) -> tuple[Block, ...]:
    """The headline; of a run that looks at side effects alone the first of these."""
    return headline(blocks) or tuple(block for block in blocks if block.derived_from is None)[:FEW]


def told_first(blocks: Sequence[Block], tradeoff: TradeoffEntry | None, most: int) -> tuple[Block, ...]:
    """Those of the headline that a paragraph has room for.

    Args:
        blocks: of the run.
        tradeoff: what the recipe says should be moved and what shouldn't: one data set of each says most.
        most: how many are told at most.
    """
    found = headline(blocks)
    if tradeoff is not None:
        sides = [next((b for b in found if b.data in side), None) for side in (tradeoff.should, tradeoff.should_not)]
        if all(sides):
            return tuple(block for block in sides if block is not None)
    return found[:most]


def opened(blocks: Sequence[Block]) -> tuple[Block, ...]:
    """What stands open on a page: everything of a small run, what is read first of a large one."""
    own = [block for block in blocks if block.derived_from is None]
    return tuple(blocks) if len(own) <= FEW else read_first(blocks)


def _judged(block: Block) -> bool:
    return block.evaluator.role == "judge"
