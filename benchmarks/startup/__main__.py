"""Wall time of the commands that need no model, in fresh processes, interleaved with bare Python.

python -m benchmarks.startup [--rounds 15]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.measure import compare, save, show


def process(*words: str) -> None:
    """Run a fresh Python."""
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    asked = parser.parse_args()
    recipe = str(Path(__file__).parents[2] / "recipes" / "quickstart.yaml")
    ratios, samples = compare(
        {
            "bare python": lambda: process("-c", "pass"),
            "import steerkit": lambda: process("-c", "import steerkit"),
            "steerkit plugins": lambda: process("-m", "steerkit", "plugins"),
            "steerkit check quickstart": lambda: process("-m", "steerkit", "check", recipe),
        },
        asked.rounds,
    )
    wall = [ratio for ratio in ratios if ratio.clock == "wall"]
    show(wall)
    print(save("startup-cpu", wall, samples))


if __name__ == "__main__":
    main()
