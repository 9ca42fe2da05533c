"""Runs a recipe in processes that are killed while they work, and once to the end beside them.

    python -m tests.dying RECIPE FOLDER KILLS ENDS SEED [PROFILE]

First whole, in FOLDER/whole. Then in FOLDER/killed: KILLS processes one after the other, each of which goes on where
the one before was killed, and one that runs to the end. Then ENDS processes for which everything is kept already, and
which are killed among the last things that a run does. All moments are drawn by SEED. Written to FOLDER/codes.json is a
list of the processes' exit codes, as ``os.waitstatus_to_exitcode`` has them.

All that a killed run leaves is on disk, so a moment is named by how often the process has been about to change
something below its folder: between two such moments the disk is the same. Processes are forked off one that has
imported what runs a model, so that each costs what it computes.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import traceback
from pathlib import Path
from typing import Any, Final

CHANGES: Final = frozenset({"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"})
LAST: Final = 12
"""How many of a run's changes count as its end: samples, times, results, and giving up what marks it as unfinished."""


class Changes:
    """Counts how often the process is about to change something below a folder, and kills it at the ``at``-th time."""

    def __init__(self, folder: Path, at: int) -> None:
        self.folder, self.at, self.count = str(folder), at, 0
        sys.addaudithook(self.see)

    def see(self, event: str, args: tuple[Any, ...]) -> None:
        if event not in CHANGES or not str(args[0]).startswith(self.folder):
            return
        if event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        self.count += 1
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def run(recipe: Path, profile: str | None, out: Path, at: int = 0) -> tuple[int, int]:
    """Run a recipe in a process of its own: its exit code, and how many changes it made; 0 where it was killed."""
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        changes = Changes(out, at)
        try:
            from steerkit.run import run_recipe

            run_recipe(recipe, profile=profile, out=out, threads=1)
            os.write(writes, str(changes.count).encode())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os.close(writes)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reads) as said:
        return os.waitstatus_to_exitcode(status), int(said.read() or 0)


def main(recipe: Path, folder: Path, kills: int, ends: int, seed: int, profile: str | None = None) -> list[int]:
    """All of it; gives the exit codes."""
    import steerkit
    import steerkit.run

    steerkit.load_model("tiny-random:llama").generate("x", max_new_tokens=1)
    drawn, killed = random.Random(seed), folder / "killed"
    code, changes = run(recipe, profile, folder / "whole")
    codes = [code]
    # So few that none of them reaches the end.
    codes += [run(recipe, profile, killed, drawn.randint(1, changes // (kills + 1)))[0] for _ in range(kills)]
    codes.append(run(recipe, profile, killed)[0])
    if ends:
        code, changes = run(recipe, profile, killed)
        codes.append(code)
        codes += [run(recipe, profile, killed, changes - place)[0] for place in drawn.sample(range(LAST), ends)]
        codes.append(run(recipe, profile, killed)[0])
    return codes


if __name__ == "__main__":
    numbers = map(int, sys.argv[3:6])
    chosen = sys.argv[6] if sys.argv[6:] else None
    recipe, folder = map(Path, sys.argv[1:3])
    codes = main(recipe, folder, next(numbers), next(numbers), next(numbers), chosen)
    (folder / "codes.json").write_text(json.dumps(codes))
