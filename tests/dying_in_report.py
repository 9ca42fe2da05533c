"""Runs a recipe, report and all, in processes that are killed at once or in the report, and once to the end.

    python -m tests.dying_in_report RECIPE OUT

Prints as JSON the exit codes of all processes and, of the run directories, what was there before the last one and is
other than it was. Between them the store is removed: only what the directory holds can be used. See ``tests.dying``,
also on why this is a process of its own: who forks must have no threads.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import traceback
from pathlib import Path

from tests.dying import Changes

AT_ONCE = range(1, 9)
IN_THE_REPORT = (1, 2, 3, 9)


def run(recipe: Path, out: Path, at: int, *, in_report: bool) -> int:
    """Killed at the ``at``-th change of all, or of the report; at 0 never. Gives the exit code."""
    child = os.fork()
    if not child:
        try:
            from steerkit.catalog import Catalog
            from steerkit.plan import plan_recipe
            from steerkit.report import write_report
            from steerkit.run import execute

            def report(path: Path) -> None:
                if in_report:
                    Changes(path, at)
                write_report(path)

            if not in_report:
                Changes(out, at)
            execute(plan_recipe(recipe, (), Catalog.discover()), out, threads=1, report=report)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def contents(out: Path) -> dict[str, bytes]:
    """What was measured."""
    files = (path for path in out.glob("2*/*") if path.is_file() and path.name not in ("run.log", "report.html"))
    return {str(path): path.read_bytes() for path in files}


def main(recipe: Path, out: Path) -> None:
    """All of it."""
    import steerkit
    import steerkit.run

    steerkit.load_model("tiny-random:llama").generate("x", max_new_tokens=1)
    codes = [run(recipe, out, at, in_report=False) for at in AT_ONCE]
    codes += [run(recipe, out, at, in_report=True) for at in IN_THE_REPORT]
    before = contents(out)
    shutil.rmtree(out / ".store")
    codes.append(run(recipe, out, 0, in_report=False))
    after = contents(out)
    other = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    sys.stdout.write(json.dumps({"codes": codes, "other": other, "files": len(before)}))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
