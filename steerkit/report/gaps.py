"""What was not measured, said in words, so that no absence passes for a result."""

from __future__ import annotations

from collections.abc import Sequence

from steerkit.report.numbers import NOT_MEASURED
from steerkit.report.read import Run
from steerkit.report.separation import Separation
from steerkit.report.tables import Block, unscored


def missing(run: Run, blocks: Sequence[Block], separations: Sequence[Separation]) -> tuple[str, ...]:
    """The runner's notes, then a sentence for every null and gap that the files hold."""
    found = list(run.results.notes)
    said = " ".join(found).lower()
    for block in blocks:
        found += _block_gaps(block, "control" in said)
    found += [f"{name} left no record." for name in unscored(run.results)]
    for separation in separations:
        gaps = [entry.site for entry in separation.entries if entry.auroc is None or entry.d_prime is None]
        if gaps:
            found.append(f"Separation, {separation.title}: {_some(gaps)} {_were(gaps)} not fully measured.")
    if not separations and "separation" not in said:
        found.append("Separation of the classes by layer was not measured.")
    if not any(sample.completion is not None for sample in run.samples):
        found.append("There are no completions in this run.")
    return tuple(dict.fromkeys(found))


def _block_gaps(block: Block, control_explained: bool) -> list[str]:
    name = block.name
    found = []
    absent = [row.condition.name for row in block.all_rows if row.value is None]
    if absent:
        found.append(f"{name}: {_some(absent)} {_were(absent)} {NOT_MEASURED}.")
    lone = [row.condition.name for row in block.all_rows if row.value is not None and row.interval is None]
    if lone:
        found.append(f"{name}: there is no interval for {_some(lone)}.")
    # A system prompt by itself has no direction that another one could stand for.
    bare = [
        row.condition.name
        for row in block.rows
        if row.value is not None and row.control is None and not row.condition.prompt_only
    ]
    if bare and not control_explained:
        found.append(f"{name}: no control was run for {_some(bare)}.")
    short = [r.condition.name for r in block.rows if r.control and len(r.control.values) < r.control.planned]
    if short:
        found.append(f"{name}: not every random direction was measured for {_some(short)}.")
    return found


def _some(names: Sequence[str]) -> str:
    if len(names) <= 4:
        return ", ".join(names)
    return f"{', '.join(names[:3])} and {len(names) - 3} more"


def _were(names: Sequence[str]) -> str:
    return "was" if len(names) == 1 else "were"
