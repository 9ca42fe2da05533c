"""Clocks and the arithmetic of ratios. Standard library only: it runs in every library's environment."""

from __future__ import annotations

import gc
import os
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

Run = Callable[[], object]
# A case is entered before its clock starts: it attaches, and gives a short run to warm up with and the one to time.
Case = Callable[[], AbstractContextManager[tuple[Run, Run]]]


def pin() -> None:
    """One thread on one core, where the system lets us choose."""
    import torch

    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def bootstrap(values: Sequence[float], draws: int = 2000) -> tuple[float, float]:
    """95 % interval of the median."""
    chooser = random.Random(0)
    medians = sorted(statistics.median(chooser.choices(values, k=len(values))) for _ in range(draws))
    return medians[int(0.025 * draws)], medians[int(0.975 * draws) - 1]


def ratios(own: Sequence[float], reference: Sequence[float]) -> dict[str, float]:
    """Median over rounds of own time by the reference's, its interval, and the median of the difference in seconds."""
    pairs = [mine / theirs for mine, theirs in zip(own, reference, strict=True)]
    low, high = bootstrap(pairs)
    return {
        "ratio": statistics.median(pairs),
        "ratio_low": low,
        "ratio_high": high,
        "ratio_min": min(pairs),
        "ratio_max": max(pairs),
        "extra_s": statistics.median(mine - theirs for mine, theirs in zip(own, reference, strict=True)),
        "seconds": statistics.median(own),
        "n": len(pairs),
    }


def difference(found: Any, wanted: Any) -> float:
    """Largest absolute difference, in units of the wanted values' size (those below 10 count as 10).

    Raises:
        ValueError: where shapes differ or something is not finite.
    """
    if tuple(found.shape) != tuple(wanted.shape):
        raise ValueError(f"shape {tuple(found.shape)}, wanted {tuple(wanted.shape)}")
    found, wanted = found.detach().double(), wanted.detach().double()
    worst = float((found - wanted).abs().max())
    if worst != worst or worst == float("inf"):
        raise ValueError("NaN or infinite")
    return worst / max(1.0, float(wanted.abs().max()) / 10)


def interleave(cases: Mapping[str, Case], repeats: int, warm_up: int = 1) -> dict[str, dict[str, list[float]]]:
    """Time cases round by round, in an order that turns, so that a slow minute falls on all of them.

    Returns:
        by case, seconds of every round: ``cpu``, ``wall``, and ``attach`` (wall, entering and leaving).
    """
    order = list(cases)
    samples: dict[str, dict[str, list[float]]] = {name: {"cpu": [], "wall": [], "attach": []} for name in cases}
    for number in range(warm_up + repeats):
        order = order[1:] + order[:1] if number % 2 else order[::-1]
        for name in order:
            gc.collect()
            began = time.perf_counter()
            with cases[name]() as (short, run):
                attach = time.perf_counter() - began
                short()
                wall, cpu = time.perf_counter(), time.process_time()
                run()
                cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
                began = time.perf_counter()
            attach += time.perf_counter() - began
            if number >= warm_up:
                for clock, seconds in (("cpu", cpu), ("wall", wall), ("attach", attach)):
                    samples[name][clock].append(seconds)
    return samples
