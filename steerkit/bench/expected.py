"""About how long a study takes, told before it begins: from a few plain calls, and how often it makes such ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from steerkit.bench.attaching import TIMES
from steerkit.bench.conditions import ATTACHED_CASES, measured
from steerkit.bench.workloads import CHECKED_STEPS, Phase, Workload, calls_for

if TYPE_CHECKING:
    from steerkit.bench.study import Settings

PROCESS_SECONDS: Final = 6.0
"""In which a fresh process imports torch and transformers, before it loads a model."""
ATTACH_SECONDS: Final = 0.005
"""To put a condition on a model and take it off, of a small one; in a large one what else there is takes longer."""
LITERALLY: Final = 4
"""Plain calls that one takes which is interpreted as it is defined."""


@dataclass(frozen=True)
class PlainCall:
    """Seconds of the plain model in one phase at one batch size.

    Args:
        ready: until its calls can be timed, such as the prompts into the cache.
        call: of one of them.
    """

    ready: float
    call: float


def plain_call(work: Workload, clock: Callable[[], float] = time.perf_counter) -> PlainCall:
    """Time one call, behind one that warms up."""
    with work.ready() as call:
        call()
    began = clock()
    with work.ready() as call:
        ready = clock()
        call()
        return PlainCall(ready - began, clock() - ready)


def expected_seconds(
    settings: Settings, plain: Mapping[tuple[Phase, int], PlainCall], loading: float, *, processes: bool
) -> float:
    """What the whole study takes: checks, pairs, and the processes in which memory and cold starts are measured.

    Args:
        settings: what is measured.
        plain: by phase and batch.
        loading: seconds in which the model was loaded.
        processes: whether memory is measured, each case in a process of its own.
    """
    cases, runs = len(settings.cases), len(measured(settings.cases, settings.modes))
    seconds = 0.0
    for (phase, _), one in plain.items():
        checked = one.ready + CHECKED_STEPS * one.call if phase == "decode" else one.call
        seconds += (cases * (LITERALLY + 1) + 2 * runs) * checked
        sample = one.ready + calls_for(one.call, settings.sample_seconds) * one.call
        # A case and the reference beside it, for each case and mode and for the reference itself; a round warms up.
        seconds += (1 + settings.repeats) * (runs + 1) * 2 * sample
    attached = len(measured([case for case in ATTACHED_CASES if case in settings.cases], settings.modes))
    seconds += attached * (max(3, settings.repeats) + 1) * TIMES * ATTACH_SECONDS
    process = PROCESS_SECONDS + loading
    if processes:
        seconds += (runs + 1) * (process + 3 * max((one.call for one in plain.values()), default=0.0))
    if settings.cold_start:
        seconds += 2 * (cold_starts(settings) + 1) * process
    return seconds


def cold_starts(settings: Settings) -> int:
    """Pairs of fresh processes."""
    return max(5, settings.repeats // 2)
