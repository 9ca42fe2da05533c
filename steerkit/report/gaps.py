"""What was not measured, said in words, so that no absence passes for a result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from steerkit.artifacts.reading import SAMPLES, Run, SeparationEntry
from steerkit.report.absent import done
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
        by_reason: dict[str, list[str]] = {}
        for entry in separation.entries:
            told = bool(entry.reason) and (entry.reason or "").lower() in said
            if (entry.auroc is None or entry.d_prime is None) and not told:
                by_reason.setdefault(_why_not(entry), []).append(entry.site)
        found += [
            f"Separation, {separation.title}: {_some(gaps)} {_were(gaps)} not fully measured{reason}"
            for reason, gaps in by_reason.items()
        ]
    if not separations and "separation" not in said:
        found.append("Separation of the classes by layer was not measured.")
    found += lost_parts(run, (SAMPLES,))
    if run.has_samples and not any(sample.completion is not None for sample in run.samples):
        found.append("There are no completions in this run.")
    return tuple(dict.fromkeys(found))


def lost_parts(run: Run, among: Sequence[str] | None = None) -> list[str]:
    """A sentence for each file that a finished run has and this directory lacks, with what can't be shown for it.

    Args:
        run: the run.
        among: the files that are asked about; None for all.
    """
    lost = [name for name in run.lost if among is None or name in among]
    return [f"{name} is missing from the run directory: {_LACKS[name]}" for name in lost]


_LACKS: Final = {
    SAMPLES: "completions and the scores of single examples can't be shown.",
    "directions.safetensors": "the report describes directions from results.json, and none of them can be used again.",
    "provenance.json": "what the run was made with can't be shown.",
    "timings.json": "how long the run took can't be shown.",
    "recipe.yaml": "the recipe can't be shown.",
}


def _block_gaps(block: Block, control_explained: bool) -> list[str]:
    name = block.name
    found = []
    absent: dict[str, list[str]] = {}
    for row in block.all_rows:
        if row.value is None:
            absent.setdefault(row.absent, []).append(row.condition.name)
    found += [f"{name}: {_some(names)} {_were(names)} {word}." for word, names in absent.items()]
    pointed = [row.condition.name for row in block.all_rows if row.at_its_end]
    if pointed:
        found.append(
            f"{name}: the interval of {_some(pointed)} is a single point, because nearly every draw of these examples "
            "gives one value (every draw does where an AUROC of 1 has all pairs in order). It doesn't say how much "
            "other examples would differ."
        )
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
    short: dict[str, list[str]] = {}
    for row in block.rows:
        if row.control is not None and len(row.control.values) < row.control.planned:
            short.setdefault(done(row.control.absent), []).append(row.condition.name)
    found += [f"{name}: not every random direction was {word} for {_some(names)}." for word, names in short.items()]
    return found


def _why_not(entry: SeparationEntry) -> str:
    """Why a site has no AUROC or no d′, as the end of a sentence."""
    if entry.reason:
        return f": {entry.reason}" if entry.reason.endswith(".") else f": {entry.reason}."
    if entry.auroc is None:
        return "."
    sizes = [size for size in (entry.n_positive, entry.n_negative) if size is not None]
    if min(sizes, default=0) == 1:
        return ": d\u2032 needs two prompts of each class."
    return ": d\u2032 needs projections that differ within a class." if len(sizes) == 2 else "."


def _some(names: Sequence[str]) -> str:
    if len(names) <= 4:
        return ", ".join(names)
    return f"{', '.join(names[:3])} and {len(names) - 3} more"


def _were(names: Sequence[str]) -> str:
    return "was" if len(names) == 1 else "were"
