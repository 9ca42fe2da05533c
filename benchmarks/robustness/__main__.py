"""Damaged inputs of every kind, and what became of them.

python -m benchmarks.robustness [--inputs 1000] [--seed 0] [--kinds recipes,models] [--json PATH] [--quick]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.measure import RESULTS, machine
from benchmarks.robustness.kinds import KINDS
from benchmarks.robustness.whole import run_directory
from benchmarks.showing import Far

SHARES = {"recipes": 1.0, "data": 1.0, "directions": 1.0, "models": 0.25, "runs": 0.1}
"""Of the inputs asked for: a model is loaded and asked, and a report is drawn, which takes longer than a check."""
QUICK = 20
SECONDS = 0.5
"""Of an input of a kind of which no figures are kept."""


def expected(sizes: Mapping[str, int], figures: Mapping[str, Any]) -> float:
    """Seconds that so many inputs of each kind take, as they took when the figures were made that are kept."""
    took: dict[str, float] = {kind: one["seconds"] / one["inputs"] for kind, one in figures.items()}
    return sum(number * took.get(kind, SECONDS) for kind, number in sizes.items())


def main() -> None:
    """Try them, print and keep the figures; fails where one input broke something."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=1000, help="of each kind; fewer of those that take long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--json", type=Path, default=RESULTS / "robustness.json")
    parser.add_argument("--quick", action="store_true", help=f"a look: --inputs {QUICK}, nothing kept")
    asked = parser.parse_args()
    kinds = asked.kinds.split(",")
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        parser.error(f"no kind {unknown[0]!r}; there are {', '.join(KINDS)}")
    kept = json.loads(asked.json.read_text()) if asked.json.is_file() else {}
    figures = kept.get("kinds", {})
    inputs = QUICK if asked.quick else asked.inputs
    sizes = {kind: max(1, round(inputs * SHARES[kind])) for kind in kinds}
    Far("robustness").expect(expected(sizes, figures))
    with tempfile.TemporaryDirectory() as folder:  # so that no input is taken to be slow for what is imported with it
        run_directory(Path(folder))
    for kind in kinds:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            tally = KINDS[kind](sizes[kind], asked.seed, Path(folder), Far(f"robustness, {kind}"))
        figures[kind] = {**tally.to_json(), "seconds": round(time.monotonic() - began, 1)}
        told = figures[kind]
        print(
            f"{tally.kind}: {told['inputs']} inputs, {told['refused']} refused, {told['accepted']} accepted, "
            f"{len(told['faults'])} faults; the slowest took {told['slowest_seconds']} s, all {told['seconds']} s",
            flush=True,
        )
        for fault in tally.faults:
            print(f"  {fault}", flush=True)
        if asked.quick:
            continue
        record = {"machine": machine(), "kinds": {name: figures[name] for name in KINDS if name in figures}}
        asked.json.write_text(json.dumps(record, indent=1) + "\n")
    if not asked.quick:
        print(asked.json)
    sys.exit(any(figures[kind]["faults"] for kind in kinds))


if __name__ == "__main__":
    main()
