"""What steering costs: the study of ``steerkit bench`` on the launch-bound tiny Llama and on the embedded model.

python -m benchmarks.overhead [--model NAME ...] [--device cpu] [--json PATH] [--cases A,B] [--repeats 15] [--quick]

Without ``--model``, both. Results go to ``benchmarks/results/overhead-<device>-<model>.json``, each with a page and
figures beside it; with ``--json``, all into one file.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from benchmarks.measure import RESULTS
from steerkit.bench.bars import EMBEDDED
from steerkit.bench.front import REPEATS, Asked, measure
from steerkit.bench.study import Study
from steerkit.errors import SteerkitError


def place(study: Study) -> Path:
    """Where a study's results are kept."""
    parts = [study.device.partition(":")[0], study.settings.model, *(["compiled"] if study.settings.compiled else [])]
    return RESULTS / f"overhead-{re.sub(r'[^A-Za-z0-9.]+', '-', '-'.join(parts))}.json"


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", help="tiny, or what load_model takes; may be repeated")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--json", type=Path)
    for name in ("cases", "modes", "phases", "batches"):
        parser.add_argument(f"--{name}", metavar="A,B")
    parser.add_argument("--repeats", type=int, help=f"pairs of each case, {REPEATS} by default")
    parser.add_argument("--quick", action="store_true", help="a look, not a measurement")
    parser.add_argument("--compiled", action="store_true", help="torch.compile and a static cache")
    parser.add_argument("--no-memory", action="store_false", dest="memory")
    parser.add_argument("--cold-start", action="store_true")
    given = vars(parser.parse_args())
    models, path = given.pop("model") or ["tiny", EMBEDDED], given.pop("json")
    try:
        measure(models, Asked(**given), lambda study: path or (None if given["quick"] else place(study)))
    except SteerkitError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
