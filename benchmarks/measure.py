"""Ratios that mean something on a shared machine: interleaved in one process, with the same case against itself.

Every round runs each case once, in an order that turns from round to round, so that a slow minute
falls on all of them. The first case is the reference; its second copy (A/A) shows how far from 1 a
ratio gets when nothing differs.
"""

from __future__ import annotations

import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
SAME = "reference against itself"


@dataclass(frozen=True)
class Ratio:
    """A case's time over the reference's, round by round.

    Args:
        case: its name.
        clock: ``cpu`` (of the process, all threads) or ``wall``.
        ratio: median over rounds.
        low: lower end of the bootstrap 95 % interval of the median.
        high: upper end.
        least: smallest ratio of any round.
        most: largest.
        seconds: median time of the case itself.
        reference_seconds: median time of the reference.
        n: number of rounds.
    """

    case: str
    clock: str
    ratio: float
    low: float
    high: float
    least: float
    most: float
    seconds: float
    reference_seconds: float
    n: int


def pin(threads: int = 1) -> None:
    """One thread on one core, where the system lets us choose."""
    import torch

    torch.set_num_threads(threads)
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, set(allowed[-threads:]))


def compare(cases: Mapping[str, Callable[[], object]], rounds: int = 15, warm_up: int = 2) -> tuple[list[Ratio], Any]:
    """Time cases against the first one.

    Returns:
        a ratio per case and clock (the first case stands for A/A), and all raw samples.
    """
    names = list(cases)
    runs = {**cases, SAME: cases[names[0]]}
    order = list(runs)
    samples: dict[str, dict[str, list[float]]] = {name: {"cpu": [], "wall": []} for name in runs}
    for number in range(warm_up + rounds):
        order = order[1:] + order[:1] if number % 2 else order[::-1]
        for name in order:
            wall, cpu = time.perf_counter(), time.process_time()
            runs[name]()
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            if number >= warm_up:
                samples[name]["cpu"].append(cpu)
                samples[name]["wall"].append(wall)
    reference = samples[names[0]]
    found = [
        _ratio(name, clock, samples[name][clock], reference[clock])
        for name in [*names[1:], SAME]
        for clock in ("cpu", "wall")
    ]
    return found, samples


def _ratio(case: str, clock: str, own: list[float], reference: list[float]) -> Ratio:
    pairs = [mine / theirs for mine, theirs in zip(own, reference, strict=True)]
    chooser = random.Random(0)
    medians = sorted(statistics.median(chooser.choices(pairs, k=len(pairs))) for _ in range(2000))
    return Ratio(
        case,
        clock,
        statistics.median(pairs),
        medians[50],
        medians[1949],
        min(pairs),
        max(pairs),
        statistics.median(own),
        statistics.median(reference),
        len(pairs),
    )


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import torch
    import transformers

    model = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].split(":", 1)[1].strip() if lines else ""
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "cpu": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
    }


def save(name: str, ratios: list[Ratio], samples: Any, **more: Any) -> Path:
    """Write ``results/<name>.json`` with every raw sample."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    record = {"machine": machine(), "ratios": [asdict(ratio) for ratio in ratios], **more, "samples": samples}
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path


def show(ratios: list[Ratio]) -> None:
    """Print the ratios as a table."""
    print(f"{'case':<44} {'clock':<5} {'ratio':>6}  95 % interval   min-max        seconds")
    for one in ratios:
        spread = f"{one.low:.3f}-{one.high:.3f}    {one.least:.3f}-{one.most:.3f}"
        print(f"{one.case:<44} {one.clock:<5} {one.ratio:6.3f}  {spread}    {one.seconds:.4f}")
