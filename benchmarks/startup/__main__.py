"""Wall time of the commands that need no model, in fresh processes, interleaved with bare Python.

python -m benchmarks.startup [--rounds 15] [--quick]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.measure import compare, save, show
from benchmarks.showing import Far


def process(*words: str) -> None:
    """Run a fresh Python."""
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="a look: 2 rounds, nothing kept")
    asked = parser.parse_args()
    rounds, far = 2 if asked.quick else asked.rounds, Far("startup")
    recipe = str(Path(__file__).parents[2] / "recipes" / "quickstart.yaml")
    began = time.perf_counter()
    process("-m", "steerkit", "check", recipe)
    # A round is a check, a list of plugins that takes about as long, and three short processes.
    far.expect((time.perf_counter() - began) * 2.5 * (rounds + 2))
    ratios, samples = compare(
        {
            "bare python": lambda: process("-c", "pass"),
            "import steerkit": lambda: process("-c", "import steerkit"),
            "steerkit plugins": lambda: process("-m", "steerkit", "plugins"),
            "steerkit check quickstart": lambda: process("-m", "steerkit", "check", recipe),
        },
        rounds,
        progress=Far("startup"),
    )
    wall = [ratio for ratio in ratios if ratio.clock == "wall"]
    show(wall)
    if not asked.quick:
        print(save("startup-cpu", wall, samples))


if __name__ == "__main__":
    main()
