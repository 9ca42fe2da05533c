"""What workers are asked to do in tests: functions of a module, which another process imports."""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from steerkit.errors import Problem, RecipeError, TryAgainError, UnsupportedModelError


def process() -> int:
    return os.getpid()


def noisy(value: str) -> str:
    sys.stdout.write("printed by a library\n")
    sys.stdout.flush()
    os.write(1, b"written past Python\n")
    return value


def warned() -> None:
    warnings.warn("Seen in a worker.", UserWarning, stacklevel=1)


def refused() -> None:
    raise UnsupportedModelError("Not this one.", "odd", cause="a cause", layer=3)


def impolite() -> None:
    raise TryAgainError("Later.", 2.5, ["yes", None])


def unfinished() -> None:
    raise RecipeError([Problem("no such key", "model.sourse", 3)], "r.yaml")


def broken() -> None:
    _ = {}["absent"]


def local_value() -> Any:
    return lambda: None


def dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dies_once(mark: Path) -> int:
    """The process is killed unless one was killed of it before."""
    if not mark.exists():
        mark.write_text(str(os.getpid()))
        dies()
    return os.getpid()


def exits() -> None:
    sys.exit(4)


def sleeps(mark: Path) -> None:
    mark.write_text(str(os.getpid()))
    time.sleep(600)


def begin_and_wait(mark: Path) -> None:
    """What a process that is killed is doing: it has a worker that sleeps."""
    from steerkit.executors.base import Call
    from steerkit.executors.chosen import named

    workers = named("processes", 1).open_workers("cpu", 1)
    workers.hand(Call("sleeping", sleeps, (mark,)))
    workers.finished()
