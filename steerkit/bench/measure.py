"""Ratios that mean something on a shared machine: interleaved in one process, with the same case against itself.

A case is timed right beside the reference, a pair at a time; who goes first alternates, and the cases take turns
round by round, so that a slow minute falls on all of them. A/A, the reference against itself, shows how far from 1
a ratio gets when nothing differs.
"""

from __future__ import annotations

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Final, Literal

from steerkit.errors import SteerkitError

Clock = Literal["cpu", "wall"]
CLOCKS: Final[tuple[Clock, ...]] = ("cpu", "wall")
SAME: Final = "reference against itself"
RESAMPLES: Final = 2000

Subject = Callable[[], AbstractContextManager[Callable[[], object]]]
"""Makes what is timed ready, untimed, and cleans up after it: a context that gives the call to time."""


class MeasurementError(SteerkitError):
    """A measurement that failed. Nothing is recorded for it, least of all a 0."""


@dataclass(frozen=True)
class Clocks:
    """Where times come from; tests bring their own.

    Args:
        cpu: seconds of the process, all threads.
        wall: seconds.
        synchronise: waits until the device has done what it was asked.
    """

    cpu: Callable[[], float] = time.process_time
    wall: Callable[[], float] = time.perf_counter
    synchronise: Callable[[], object] = lambda: None


REAL: Final = Clocks()


@dataclass(frozen=True)
class Sample:
    """Seconds that one timed call took, by both clocks."""

    cpu: float
    wall: float

    def of(self, clock: Clock) -> float:
        """By one of them."""
        return self.cpu if clock == "cpu" else self.wall


@dataclass(frozen=True)
class Pairs:
    """A case's samples and those of the reference beside them, pair by pair."""

    case: str
    reference: tuple[Sample, ...]
    own: tuple[Sample, ...]


@dataclass(frozen=True)
class Ratio:
    """A case's time over the reference's, pair by pair.

    Args:
        case: its name.
        clock: ``cpu`` (of the process, all threads) or ``wall``.
        ratio: median over pairs.
        low: lower end of the bootstrap 95 % interval of the median.
        high: upper end.
        least: smallest ratio of any pair.
        most: largest.
        seconds: median time of the case itself.
        reference_seconds: median time of the reference.
        extra_seconds: median over pairs of the difference.
        n: number of pairs.
    """

    case: str
    clock: Clock
    ratio: float
    low: float
    high: float
    least: float
    most: float
    seconds: float
    reference_seconds: float
    extra_seconds: float
    n: int


def time_once(subject: Subject, name: str, clocks: Clocks = REAL) -> Sample:
    """Make a subject ready and time its call, without garbage collection in between.

    Raises:
        MeasurementError: where it fails, or a clock stands still; names the case.
    """
    try:
        with subject() as call, _no_collection():
            clocks.synchronise()
            wall, cpu = clocks.wall(), clocks.cpu()
            call()
            clocks.synchronise()
            sample = Sample(clocks.cpu() - cpu, clocks.wall() - wall)
    except Exception as error:
        raise MeasurementError(
            f"Case {name!r} failed: {type(error).__name__}: {error}. Nothing is recorded for it."
        ) from error
    if not all(0 < sample.of(clock) < math.inf for clock in CLOCKS):
        raise MeasurementError(f"Case {name!r} took {sample.cpu} s of CPU time and {sample.wall} s: no clock ran.")
    return sample


@contextmanager
def _no_collection() -> Iterator[None]:
    """A collection that happens to fall into one of the two would be a cost of neither."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def frozen() -> Iterator[None]:
    """What is there already is left out of the collections between samples, which would take longer than those."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def measure_pairs(
    reference: Subject,
    cases: Mapping[str, Subject],
    repeats: int,
    *,
    warm_up: int = 1,
    clocks: Clocks = REAL,
    progress: Callable[[int, int], object] = lambda done, of: None,
) -> dict[str, Pairs]:
    """Time every case beside the reference, and the reference beside itself (``SAME``).

    Args:
        reference: what cases are compared with.
        cases: by name.
        repeats: pairs of each case.
        warm_up: rounds that are thrown away.
        clocks: where times come from.
        progress: told how many rounds are done, of how many.

    Raises:
        MeasurementError: where any of them fails.
    """
    runs = {**cases, SAME: reference}
    taken: dict[str, list[tuple[Sample, Sample]]] = {name: [] for name in runs}
    names = list(runs)
    with frozen():
        for number in range(warm_up + repeats):
            progress(number, warm_up + repeats)
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                # By the case's own place, so that each of them goes first in every other round.
                if (number + names.index(name)) % 2:
                    own, beside = time_once(runs[name], name, clocks), time_once(reference, "reference", clocks)
                else:
                    beside, own = time_once(reference, "reference", clocks), time_once(runs[name], name, clocks)
                if number >= warm_up:
                    taken[name].append((beside, own))
    progress(warm_up + repeats, warm_up + repeats)
    return {
        name: Pairs(name, tuple(beside for beside, _ in both), tuple(own for _, own in both))
        for name, both in taken.items()
    }


def ratio_of(pairs: Pairs, clock: Clock, calls: int = 1) -> Ratio:
    """Ratios of a case's pairs by one clock.

    Args:
        pairs: the samples.
        clock: which one.
        calls: how many calls a sample holds; the seconds are per call.
    """
    reference = [sample.of(clock) / calls for sample in pairs.reference]
    return _ratio(pairs.case, clock, [sample.of(clock) / calls for sample in pairs.own], reference)


def bootstrap_median(values: Sequence[float], resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of the median, from resampling with replacement. The same values give the same interval."""
    chooser = random.Random(seed)
    medians = sorted(statistics.median(chooser.choices(values, k=len(values))) for _ in range(resamples))
    return medians[int(resamples * 0.025)], medians[int(resamples * 0.975) - 1]


def compare(
    cases: Mapping[str, Callable[[], object]],
    rounds: int = 15,
    warm_up: int = 2,
    clocks: Clocks = REAL,
    progress: Callable[[int, int], object] = lambda done, of: None,
) -> tuple[list[Ratio], dict[str, dict[str, list[float]]]]:
    """Time plain calls against the first of them, which every case of a round shares.

    For few cases that take long; ``measure_pairs`` puts a reference beside each. ``progress`` is told how many calls
    are done, of how many.

    Returns:
        a ratio per case and clock (``SAME`` stands for A/A), and all raw samples.
    """
    runs = {**cases, SAME: cases[next(iter(cases))]}
    order = list(runs)
    samples: dict[str, dict[str, list[float]]] = {name: {"cpu": [], "wall": []} for name in runs}
    with frozen():
        for number in range(warm_up + rounds):
            order = order[1:] + order[:1] if number % 2 else order[::-1]
            for place, name in enumerate(order):
                progress(number * len(order) + place, (warm_up + rounds) * len(order))
                sample = time_once(lambda name=name: nullcontext(runs[name]), name, clocks)  # type: ignore[misc]
                if number >= warm_up:
                    for clock in CLOCKS:
                        samples[name][clock].append(sample.of(clock))
    progress((warm_up + rounds) * len(order), (warm_up + rounds) * len(order))
    reference = samples[next(iter(cases))]
    found = [_ratio(name, clock, samples[name][clock], reference[clock]) for name in list(runs)[1:] for clock in CLOCKS]
    return found, samples


def _ratio(case: str, clock: Clock, own: list[float], reference: list[float]) -> Ratio:
    ratios = [mine / theirs for mine, theirs in zip(own, reference, strict=True)]
    extra = [mine - theirs for mine, theirs in zip(own, reference, strict=True)]
    low, high = bootstrap_median(ratios)
    return Ratio(
        case,
        clock,
        statistics.median(ratios),
        low,
        high,
        min(ratios),
        max(ratios),
        statistics.median(own),
        statistics.median(reference),
        statistics.median(extra),
        len(ratios),
    )


def samples_as_json(pairs: Pairs) -> dict[str, Any]:
    """Every raw sample: seconds of the whole timed call, by clock."""
    return {
        clock: {
            "reference": [sample.of(clock) for sample in pairs.reference],
            "case": [sample.of(clock) for sample in pairs.own],
        }
        for clock in CLOCKS
    }
