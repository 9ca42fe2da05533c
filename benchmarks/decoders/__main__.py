"""The table of decoders: every causal model type of transformers, tiny and random, through discovery, the self-test
and the suite of adapters.

python -m benchmarks.decoders [type ...] [--jobs 2] [--check] [--quick]
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from benchmarks.decoders.page import write_page
from benchmarks.decoders.row import SEEDS, STATUSES, Row
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
    far.say(f"{counted(len(names), 'type')}, about {4 if not asked.quick else 0.3:g} s each on a core")
    found: dict[str, Row] = {}
    for row in rows(names, asked.jobs, quick=asked.quick):
        found[row.type] = row
        print(f"{row.type:28} {row.status:10} {row.cause or '; '.join(row.absent)}", flush=True)
        far(len(found), len(names))
    for status in STATUSES:
        print(f"{status}: {sum(row.status == status for row in found.values())}")
    print(f"every promise of the suite: {sum(bool(row.seeds) and not row.broken for row in found.values())}")
    if asked.check:
        differ = changes(read_table(), found.values())
        print(*differ, sep="\n")
        sys.exit(bool(differ))
    if not asked.quick:
        kept = {**read_table(), **found}
        write_table(kept.values())
        write_page(kept.values())


def rows(names: Iterable[str], jobs: int, quick: bool = False) -> Iterator[Row]:
    """Rows as they are found, by several processes. A process that dies costs its type the row, and no other type."""
    names = list(names)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_alone) as pool:
        waiting = {pool.submit(_row, name, quick): name for name in names}
        died: list[str] = []
        for task in as_completed(waiting):
            try:
                yield task.result()
            except BrokenProcessPool:
                died.append(waiting[task])
    for name in died:
        with ProcessPoolExecutor(1, mp_context=context, initializer=_alone) as pool:
            try:
                yield pool.submit(_row, name, quick).result()
            except BrokenProcessPool:
                yield Row(name, "not run", "the process died", "The process that ran it was ended by the system.")


def _alone() -> None:
    """One thread for each process, and no lines of libraries between the rows."""
    import warnings

    import torch
    from transformers.utils import logging

    torch.set_num_threads(1)
    logging.set_verbosity_error()
    warnings.simplefilter("ignore")


def _row(name: str, quick: bool) -> Row:
    from benchmarks.decoders.row import measure

    return measure(name, SEEDS[:1], suite=False) if quick else measure(name)


if __name__ == "__main__":
    main()
