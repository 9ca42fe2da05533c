"""Texts on which monitors will read nothing, as far as a plan knows: said before a run, and in its report."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from steerkit.plan.planned.monitors import PlannedMonitor
from steerkit.plan.planned.reporting import PlannedSamples
from steerkit.plan.turns import BEHIND_PROMPT, lacking
from steerkit.plan.types import PlannedEvaluation
from steerkit.recipe.data import DataRef
from steerkit.sharing import greedy_tokens
from steerkit.types import Example

Examples = Callable[[DataRef], Sequence[Example]]
Shown = Callable[[Example], list[tuple[str, bool]]]


def without_readings(
    monitors: Sequence[PlannedMonitor],
    evaluations: Sequence[PlannedEvaluation],
    samples: PlannedSamples | None,
    examples: Examples,
    shown: Shown,
) -> list[str]:
    """Sentences about monitors and texts that don't have what the monitors read.

    Args:
        monitors: the plan's.
        evaluations: the evaluators, of which some score readings.
        samples: what a reader is shown, along which all monitors read; None where nothing is.
        examples: gives the texts of a split.
        shown: tells each turn's role, and whether the chat template shows it.
    """
    notes = []
    for monitor in monitors:
        scoring = [one for one in evaluations if one.needs.monitors is True or monitor.name in _named(one)]
        if monitor.positions.role in BEHIND_PROMPT:
            notes += [_behind(monitor, one) for one in scoring if one.data and not greedy_tokens(one.needs)]
            continue
        read = [*(ref for one in scoring for ref in one.data), *([] if samples is None else [samples.data])]
        for ref in dict.fromkeys(read):
            few = samples is not None and all(ref not in one.data for one in scoring)
            rows = examples(ref)[: samples.n] if few and samples is not None else examples(ref)
            fault = lacking(monitor.positions, ref, rows, shown) if rows else None
            if fault is not None:
                reads = f"Monitor {monitor.name!r} reads '{monitor.positions}'"
                notes.append(f"{reads}, and {fault}: it has no reading on these.")
    return notes


def _named(item: PlannedEvaluation) -> Sequence[str]:
    return () if isinstance(item.needs.monitors, bool) else item.needs.monitors


def _behind(monitor: PlannedMonitor, item: PlannedEvaluation) -> str:
    data = ", ".join(map(str, item.data))
    advice = "score completions (max_new_tokens), or read positions that prompts have, such as all or user[-1]"
    return (
        f"Monitor {monitor.name!r} reads '{monitor.positions}', tokens behind a prompt, and "
        f"{item.name} has prompts and conversations read alone, so it has no reading on {data}: {advice}; "
        "of conversations that end with an answer, assistant[-1]."
    )
