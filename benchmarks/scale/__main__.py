"""Memory and speed against the number of parameters, from 31 million to 72 billion.

python -m benchmarks.scale [--quick] [--json PATH]

Simulated from shapes for the thirteen models of the paper in bfloat16, and for random models in float32 that are
measured here too, each in a process of its own on one pinned thread. Results go to ``benchmarks/results/scale.json``, a
figure beside it, and the table to ``docs/scale.md``. ``--quick`` measures the two smallest and keeps nothing.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measure import RESULTS, machine
from benchmarks.scale.models import MEASURED, PAPER
from benchmarks.scale.page import draw, write_page
from benchmarks.scale.points import Point, measure
from benchmarks.scale.simulate import GPUS, Machine, Simulated, simulate

GPU_RESULTS = ("overhead-cuda-random-llama-8b", "overhead-cuda-random-llama-8b-compiled")


def study(quick: bool) -> dict[str, Any]:
    """Everything, as JSON values."""
    subjects = MEASURED[:2] if quick else MEASURED
    small = []
    for sized in subjects:
        print(f"measuring {sized.name}")
        small.append(_compared(sized.name, simulate(sized, "float32"), measure(sized)))
    paper = []
    for sized in () if quick else PAPER:
        print(f"simulating {sized.name}")
        found = simulate(sized, "bfloat16")
        gpus = {one.name: _speeds(found, one) for one in GPUS}
        paper.append({"name": sized.name, **asdict(found), "at_best": gpus})
    return {
        "machine": machine(),
        "gpus": [asdict(one) for one in GPUS],
        "small": small,
        "paper": paper,
        "gpu": gpu_points(),
    }


def _compared(name: str, found: Simulated, point: Point) -> dict[str, Any]:
    best = _speeds(found, point.machine)
    ratios = {
        "weights": point.weights / found.weights,
        "peak": point.peak / (found.cache + found.work),
        "step": point.step_seconds / best["step_seconds"],
        "prefill": point.prefill_seconds / best["prefill_seconds"],
    }
    told = {"at_best": best, "measured": asdict(point), "measured_over_simulated": ratios}
    return {"name": name, **asdict(found), **told}


def _speeds(found: Simulated, one: Machine) -> dict[str, float]:
    return {"step_seconds": found.step_seconds(one), "prefill_seconds": found.prefill_seconds(one)}


def gpu_points() -> list[dict[str, Any]]:
    """Plain calls of the 8B-shaped model in the kept results of ``benchmarks.overhead``; none where there are none."""
    found = []
    for name in GPU_RESULTS:
        path = RESULTS / f"{name}.json"
        if not path.exists():
            continue
        kept = json.loads(path.read_text())
        for one in kept["studies"]:
            for part in one["parts"]:
                calls = "compiled" if name.endswith("compiled") else "eager"
                where = {"gpu": one["machine"]["gpu"], "calls": calls, "phase": part["phase"], "batch": part["batch"]}
                found.append(
                    {**where, "seconds": part["reference_against_itself"]["ratios"]["wall"]["reference_seconds"]}
                )
    return found


def main() -> None:
    """Measure, simulate, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two small models; nothing is kept")
    parser.add_argument("--json", type=Path, help="where results go")
    given = parser.parse_args()
    found = study(given.quick)
    path = given.json or RESULTS / "scale.json"
    if given.quick and given.json is None:
        for one in found["small"]:
            ratios = ", ".join(f"{key} {value:.2f}" for key, value in one["measured_over_simulated"].items())
            print(f"{one['name']}: measured over simulated: {ratios}")
        return
    path.write_text(json.dumps(found, indent=1) + "\n")
    draw(found, path.with_suffix(".svg"))
    if given.json is None:
        write_page(found)
    print(path)


if __name__ == "__main__":
    main()
