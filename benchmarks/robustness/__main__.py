"""Damaged inputs of every kind, and what became of them.

python -m benchmarks.robustness [--inputs 1000] [--seed 0] [--kinds recipes,models] [--json PATH] [--quick]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.measure import RESULTS, machine
from benchmarks.robustness.attempts import Tally, command
from benchmarks.robustness.kinds import KINDS
from benchmarks.robustness.whole import RECIPE, run_directory
from benchmarks.showing import Far

SHARES: Final = {"recipes": 1.0, "data": 1.0, "directions": 1.0, "models": 0.25, "runs": 0.1, "stops": 0.1}
"""Of the inputs asked for: a model is loaded and asked, a report is drawn, a recipe is run, all longer than a check."""
_CHECKS: Final = {"recipes": 1.0, "data": 0.7, "directions": 0.7, "models": 2.5, "runs": 35.0, "stops": 60.0}
"""About how long an input takes, where checking the whole recipe takes 1."""
_LOOK: Final = 20
"""Inputs of a look."""


def main(given: Sequence[str] | None = None) -> None:
    """Try them, print and keep the figures; fails where one input broke something."""
    asked = _arguments(given)
    sizes = {kind: max(1, round(asked.inputs * SHARES[kind])) for kind in asked.kinds}
    kept = json.loads(asked.json.read_text()) if asked.json is not None and asked.json.is_file() else {}
    figures = kept.get("kinds", {})
    Far("robustness").expect(_check_seconds() * sum(_CHECKS[kind] * size for kind, size in sizes.items()))
    for kind, size in sizes.items():
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            tally = KINDS[kind](size, asked.seed, Path(folder), Far(f"robustness, {kind}"))
        figures[kind] = {**tally.to_json(), "seconds": round(time.monotonic() - began, 1)}
        _show(tally, figures[kind])
        if asked.json is not None:
            record = {"machine": machine(), "kinds": {name: figures[name] for name in KINDS if name in figures}}
            asked.json.write_text(json.dumps(record, indent=1) + "\n")
    if asked.json is not None:
        print(asked.json)
    sys.exit(any(figures[kind]["faults"] for kind in sizes))


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, help="of each kind, 1000 by default; fewer of those that take long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS), metavar="A,B")
    parser.add_argument("--json", type=Path, help="where figures are kept")
    parser.add_argument("--quick", action="store_true", help=f"a look: {_LOOK} inputs of a kind, nothing kept")
    asked = parser.parse_args(given)
    asked.kinds = asked.kinds.split(",")
    unknown = [kind for kind in asked.kinds if kind not in KINDS]
    if unknown:
        parser.error(f"no kind {unknown[0]!r}; there are {', '.join(KINDS)}")
    if asked.inputs is not None and asked.inputs < 1:
        parser.error(f"--inputs takes a number of at least 1, not {asked.inputs}")
    asked.inputs = asked.inputs or (_LOOK if asked.quick else 1000)
    asked.json = asked.json or (None if asked.quick else RESULTS / "robustness.json")
    return asked


def _check_seconds() -> float:
    """How long checking the whole recipe takes, once all is imported that inputs need."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        run_directory(place)
        (place / "recipe.yaml").write_text(RECIPE, "utf-8")
        began = time.monotonic()
        command("check", place / "recipe.yaml")
        return time.monotonic() - began


def _show(tally: Tally, told: Mapping[str, Any]) -> None:
    print(
        f"{tally.kind}: {told['inputs']} inputs, {told['refused']} refused, {told['accepted']} accepted, "
        f"{len(told['faults'])} faults; the slowest took {told['slowest_seconds']} s, all {told['seconds']} s",
        flush=True,
    )
    for fault in tally.faults:
        print(f"  {fault}", flush=True)


if __name__ == "__main__":
    main()
