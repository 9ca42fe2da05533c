"""What the benchmarks share: the comparison of ``steerkit.bench``, and how a study of this folder is kept and shown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from steerkit.bench.machine import machine, pin
from steerkit.bench.measure import SAME, Ratio, compare

__all__ = ["RESULTS", "SAME", "Ratio", "compare", "machine", "pin", "save", "show"]

RESULTS = Path(__file__).parent / "results"


def save(name: str, ratios: Sequence[Ratio], samples: Any, **more: Any) -> Path:
    """Write ``results/<name>.json`` with every raw sample."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    record = {"machine": machine(), "ratios": [asdict(ratio) for ratio in ratios], **more, "samples": samples}
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path


def show(ratios: Sequence[Ratio]) -> None:
    """Print the ratios as a table."""
    print(f"{'case':<44} {'clock':<5} {'ratio':>6}  95 % interval   min-max        seconds")
    for one in ratios:
        spread = f"{one.low:.3f}-{one.high:.3f}    {one.least:.3f}-{one.most:.3f}"
        print(f"{one.case:<44} {one.clock:<5} {one.ratio:6.3f}  {spread}    {one.seconds:.4f}")
