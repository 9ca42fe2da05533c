"""Runs that are stopped at drawn moments: killed, interrupted, or on a disk that becomes full.

    python -m benchmarks.robustness.stopping RECIPE FOLDER TIMES SEED

The command ``steerkit run`` in processes one after the other, each of which goes on where the one before was stopped;
after some of them, one that runs to the end. On standard output a line of JSON for each stop: how it was stopped, and
what is wrong with what came of it, if anything.

Processes are forked off one that has imported what runs a model, so that each costs what it computes; who forks must
have no threads, so this is a process of its own. A moment is named by how often the process has been about to change
something below its folder.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

How: TypeAlias = Literal["killed", "interrupted", "full"]

HOWS: Final[Sequence[How]] = ("killed", "interrupted", "full")
TOGETHER: Final = 4
"""Stops of one run, before it goes on to its end."""
_CHANGES: Final = frozenset({"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"})
_CODES: Final = {"killed": (-signal.SIGKILL,), "interrupted": (130,), "full": (1, 2)}
_SENTENCES: Final = {"killed": "", "interrupted": "Interrupted.", "full": ""}
_TIMES: Final = frozenset({"timings.json", "run.log", "report.html"})
"""What says when and how long, which is no part of a run's results."""


class Stop:
    """Stops the process when it is about to change something below a folder for the ``at``-th time; 0 for never.

    Args:
        folder: which one.
        how: what happens then. A disk that is full stays so.
        at: when.
    """

    def __init__(self, folder: Path, how: How, at: int) -> None:
        self.folder, self.how, self.at, self.count = str(folder), how, at, 0
        sys.addaudithook(self._see)

    def _see(self, event: str, args: tuple[Any, ...]) -> None:
        if event not in _CHANGES or not str(args[0]).startswith(self.folder):
            return
        if event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        self.count += 1
        if not self.at or self.count < self.at:
            return
        if self.how == "full" and event in ("open", "os.mkdir"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(args[0]))
        if self.count == self.at and self.how != "full":
            os.kill(os.getpid(), signal.SIGKILL if self.how == "killed" else signal.SIGINT)


def run(recipe: Path, out: Path, how: How = "killed", at: int = 0) -> tuple[int, int, str]:
    """The command in a process of its own: its exit code, how many changes it made, and what it said on stderr."""
    reads, writes = os.pipe()
    said = out.with_name("said.txt")
    child = os.fork()
    if not child:
        _child(recipe, out, Stop(out, how, at), said, writes)
    os.close(writes)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reads) as told:
        changes = int(told.read() or 0)
    return os.waitstatus_to_exitcode(status), changes, said.read_text("utf-8", "replace")


def _child(recipe: Path, out: Path, stop: Stop, said: Path, writes: int) -> None:
    """Never comes back."""
    from steerkit.cli.main import main

    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (as long as the process lives)
    sys.stderr = said.open("w")
    code: Any = 1
    try:
        main(["run", str(recipe), "--out", str(out), "--threads", "1"])
    except SystemExit as leaving:
        code = leaving.code
    except BaseException:
        import traceback

        traceback.print_exc()
    os.write(writes, str(stop.count).encode())
    sys.stderr.flush()
    os._exit(int(code or 0))


def main(recipe: Path, folder: Path, times: int, seed: int) -> None:
    """All of it, with a line for each stop."""
    import steerkit
    import steerkit.report
    import steerkit.run

    steerkit.load_model("tiny-random:llama").generate("x", max_new_tokens=1)
    draw, whole, stopped = random.Random(seed), folder / "whole", folder / "stopped"
    code, changes, said = run(recipe, whole)
    if code:
        raise SystemExit(f"The run that nothing stops ends with {code}: {said}")
    wanted, left = _contents(whole), times
    while left:
        together = min(TOGETHER, left)
        for number in range(together):
            how, began = draw.choice(HOWS), time.monotonic()
            # So few that hardly any of them reaches the end.
            code, _, said = run(recipe, stopped, how, draw.randint(1, changes // TOGETHER))
            fault, seconds = _fault(how, code, said), time.monotonic() - began
            if number == together - 1:
                fault = fault or _end(recipe, stopped, wanted)
            print(json.dumps({"how": how, "fault": fault, "seconds": round(seconds, 2)}), flush=True)
        left -= together
        shutil.rmtree(stopped)


def _end(recipe: Path, out: Path, wanted: dict[str, bytes]) -> str:
    """Let a run go on to its end. What is wrong with what it comes to; empty where nothing is."""
    code, _, said = run(recipe, out)
    return f"goes on and ends with {code}: {said[-300:]}" if code else _difference(wanted, _contents(out))


def _fault(how: How, code: int, said: str) -> str:
    """What is wrong with how a process ended; empty where nothing is, also where it was at its end before."""
    if "Traceback" in said:
        return f"exit code {code} with a traceback: {said[-300:]}"
    if code and (code not in _CODES[how] or _SENTENCES[how] not in said or (how != "killed" and not said.strip())):
        return f"exit code {code}: {said[-300:]}"
    return ""


def _contents(out: Path) -> dict[str, bytes]:
    """Every file of the runs in a folder, but those of times."""
    files = [path for path in out.glob("2*/**/*") if path.is_file() and path.name not in _TIMES]
    return {"/".join(path.relative_to(out).parts[1:]): path.read_bytes() for path in files if path.name != ".lock"}


def _difference(wanted: dict[str, bytes], found: dict[str, bytes]) -> str:
    other = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
    return f"other than undisturbed: {', '.join(other[:5])}" if other else ""


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
