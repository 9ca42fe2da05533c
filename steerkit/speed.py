"""How fast a model is on this machine, as it was measured, and how long work will take by it.

``steerkit bench MODEL`` measures and keeps it in the cache; ``steerkit check`` and runs look it up. No torch.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final

from steerkit.bundled import cache_folder
from steerkit.errors import counted
from steerkit.progress import Observer, Stage

FOLDER: Final = "speeds"


@dataclass(frozen=True)
class Speed:
    """What a model takes on a machine; a pass takes ``pass_seconds``, and more by its tokens.

    Args:
        model: as recipes name it; the whole path of a folder or file.
        device: ``cpu`` or ``cuda``.
        dtype: of the weights, such as ``float32``.
        threads: of the process that it was measured in.
        load_seconds: to load the model and test its sites.
        pass_seconds: of a pass, whatever it holds.
        read_seconds: of each token of a prompt on top of it.
        write_seconds: of each row in a pass that writes a token.
        measured: the day, as ``2026-11-26``.
    """

    model: str
    device: str
    dtype: str
    threads: int
    load_seconds: float
    pass_seconds: float
    read_seconds: float
    write_seconds: float
    measured: str

    def seconds(self, passes: int, read: int, written: int) -> float:
        """What work takes, the loading of the model included.

        Args:
            passes: forward passes.
            read: tokens of prompts.
            written: tokens that are generated.
        """
        return self.load_seconds + passes * self.pass_seconds + read * self.read_seconds + written * self.write_seconds

    @property
    def told(self) -> str:
        """In tokens per second, for people."""
        read = 256 / (self.pass_seconds + 256 * self.read_seconds)
        one, eight = (rows / (self.pass_seconds + rows * self.write_seconds) for rows in (1, 8))
        return (
            f"{counted(read, 'token', form=',.0f')} per second are read, {one:,.1f} written by one row and "
            f"{eight:,.1f} by eight ({self.device}, {self.dtype}, {counted(self.threads, 'thread')}, {self.measured})"
        )


def name_of(model: str) -> str:
    """What a model is called here: a path is a whole one, wherever it is written."""
    path = Path(model).expanduser()
    return str(path.resolve()) if path.exists() else model


def _machine() -> str:
    return f"{platform.node()}/{platform.machine()}/{os.cpu_count()}"


def keep(speed: Speed) -> Path:
    """Keep a speed in the cache, in place of an older one of the same model, device and dtype on this machine.

    Raises:
        OSError: where the cache can't be written.
    """
    from steerkit.artifacts.files import write_whole

    key = sha256("\n".join((_machine(), speed.model, speed.device, speed.dtype)).encode()).hexdigest()[:24]
    path = cache_folder() / FOLDER / f"{key}.json"
    write_whole(path, (json.dumps({"machine": _machine(), **asdict(speed)}, indent=1) + "\n").encode())
    return path


def known_speed(model: str, device: str = "auto", dtype: str = "auto") -> Speed | None:
    """What was measured last of a model on this machine; None where nothing was, or nothing can be read."""
    found = []
    for path in (cache_folder() / FOLDER).glob("*.json"):
        try:
            told = json.loads(path.read_text("utf-8"))
            machine, speed = told.pop("machine"), Speed(**told)
            numbers = (speed.load_seconds, speed.pass_seconds, speed.read_seconds, speed.write_seconds)
            sound = all(isinstance(one, (int, float)) and 0 <= one < 1e9 for one in numbers) and sum(numbers) > 0
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue
        same = machine == _machine() and speed.model == name_of(model)
        if sound and same and device.split(":")[0] in ("auto", speed.device) and dtype in ("auto", speed.dtype):
            found.append((str(speed.measured), path.stat().st_mtime, speed))
    return max(found, key=lambda one: one[:2])[2] if found else None


def in_words(seconds: float) -> str:
    """About how long that is: for what is estimated. What was measured is told to the second, by the report."""
    minutes = round(seconds / 60)
    if seconds < 50:
        return f"about {max(round(seconds), 1)} s"
    if minutes < 90:
        return f"about {counted(max(minutes, 1), 'minute')}"
    return f"about {seconds / 3600:.1f} hours"


def left_in_words(seconds: float) -> str:
    """How much of an estimated time is left."""
    return f"{in_words(seconds)} left" if seconds > 0 else "longer than estimated"


@dataclass(eq=False)
class Left:
    """An observer that tells another one how much of an estimated time is left, and notes how far off that was.

    Args:
        observer: who is told: of all that an observer is told of, and, where it has a ``left``, of the seconds.
        estimated: how long all will take; None where nobody knows.
        clock: seconds.
    """

    observer: Observer
    estimated: float | None
    clock: Callable[[], float] = time.monotonic
    whole: bool = True
    shown: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.began = self.clock()

    def step(self, what: str) -> None:
        """Pass it on. What is kept already isn't done again, so that the estimate is of more than is done."""
        if isinstance(what, Stage) and what.kind == "kept":
            self.whole = False
        self.observer.step(what)
        self._tell()

    def progress(self, done: int, of: int) -> None:
        """Pass it on."""
        self.observer.progress(done, of)
        self._tell()

    def _tell(self) -> None:
        if self.estimated is None:
            return
        gone = self.clock() - self.began
        left = max(self.estimated - gone, 0.0)
        self.shown.append((gone, left))
        told = getattr(self.observer, "left", None)
        if told is not None:
            told(left)

    def off(self) -> dict[str, float] | None:
        """How far off both were, now that all is done; None without an estimate, or of a part of the work."""
        if self.estimated is None or not self.whole:
            return None
        taken = self.clock() - self.began
        misses = [abs(left - (taken - gone)) for gone, left in self.shown]
        return {
            "estimated_seconds": round(self.estimated, 3),
            "taken_seconds": round(taken, 3),
            "taken_over_estimated": round(taken / self.estimated, 4),
            "left_off_by_seconds": round(sum(misses) / len(misses), 3) if misses else 0.0,
        }
