"""What it takes to put a condition on a model and take it off again."""

from __future__ import annotations

import statistics
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from steerkit.bench.conditions import Case, steered
from steerkit.bench.measure import REAL, Clock, Clocks, Sample, frozen, time_once

if TYPE_CHECKING:
    from steerkit.session.model import LiveModel

TIMES: Final = 5
"""A collection of garbage goes before each sample, and what follows it at once finds the processor's caches cold."""


@dataclass(frozen=True)
class Attaching:
    """Attach and detach.

    Args:
        case: what is attached.
        mode: how.
        seconds: median.
        steps: the same in decode steps of the unsteered model at batch 1; None where those were not measured.
        samples: every one, of ``TIMES`` times.
    """

    case: str
    mode: str
    seconds: float
    steps: float | None
    samples: tuple[Sample, ...]


def attaching(
    live: LiveModel,
    condition: Case,
    mode: str,
    repeats: int,
    *,
    clock: Clock,
    step_seconds: float | None,
    clocks: Clocks = REAL,
) -> Attaching:
    """Time attaching and detaching, ``TIMES`` a sample; the first sample, which fills caches, is thrown away.

    Raises:
        MeasurementError: where it fails.
    """

    def on_and_off() -> None:
        for _ in range(TIMES):
            with steered(live, condition, mode):
                pass

    name = f"attach and detach of {condition.case}, {mode}"
    with frozen():
        samples = tuple(time_once(lambda: nullcontext(on_and_off), name, clocks) for _ in range(repeats + 1))[1:]
    seconds = statistics.median(sample.of(clock) / TIMES for sample in samples)
    steps = None if step_seconds is None else seconds / step_seconds
    return Attaching(condition.case, mode, seconds, steps, samples)
