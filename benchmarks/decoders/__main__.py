"""The table of decoders: every causal model type of transformers, tiny and random, through discovery, the self-test
and the suite of adapters.

python -m benchmarks.decoders [type ...] [--jobs 2] [--check] [--quick]
"""

from __future__ import annotations

import argparse
import sys

from benchmarks.decoders.page import write_page
from benchmarks.decoders.processes import rows
from benchmarks.decoders.row import STATUSES, Row
from benchmarks.decoders.table import NAMES, changes, read_table, write_table
from benchmarks.showing import Far
from steerkit.errors import counted


def main() -> None:
    """Measure, say how it went, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", nargs="*", metavar="type", help="renew these rows alone")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--check", action="store_true", help="keep nothing; fail where a row differs from the kept one")
    parser.add_argument("--quick", action="store_true", help="a look: one seed, without the suite, nothing kept")
    asked = parser.parse_args()
    if unknown := sorted(set(asked.types) - set(NAMES)):
        parser.error(f"no such type: {', '.join(unknown)}")
    names, far = tuple(asked.types) or NAMES, Far("decoders")
    far.say(f"{counted(len(names), 'type')}, about {0.3 if asked.quick else 2:g} s each on a core")
    keep, kept, found = not (asked.check or asked.quick), read_table(), dict[str, Row]()
    for row in rows(names, asked.jobs, quick=asked.quick):
        found[row.type] = row
        if keep:
            # At once, so that one that is stopped keeps what it found.
            write_table({**kept, **found}.values())
        print(f"{row.type:28} {row.status:10} {row.cause or '; '.join(row.absent)}", flush=True)
        far(len(found), len(names))
    for status in STATUSES:
        print(f"{status}: {sum(row.status == status for row in found.values())}")
    print(f"every promise of the suite: {sum(row.keeps_all for row in found.values())}")
    if asked.check:
        differ = changes(kept, found.values())
        print(*differ, sep="\n")
        sys.exit(bool(differ))
    if keep:
        write_page(read_table().values())


if __name__ == "__main__":
    main()
