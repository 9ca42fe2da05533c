"""How far a benchmark is, and about how long the rest takes: on standard error, a line at a time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

from steerkit.speed import in_words

EVERY = 5.0
"""Seconds between two lines."""


class Far:
    """Told how much is done, of how much.

    Args:
        name: the benchmark's.
        clock: seconds.
        out: where lines go.
    """

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic, out: TextIO | None = None) -> None:
        self.name, self._clock, self._out = name, clock, out
        self._began = self._said = clock()

    def expect(self, seconds: float) -> None:
        """Say how long all will take."""
        self.say(f"{in_words(seconds)} in all")

    def say(self, what: str) -> None:
        """A line."""
        print(f"{self.name}: {what}", file=self._out or sys.stderr, flush=True)

    def __call__(self, done: int, of: int) -> None:
        """A line once in a while, and with the last one."""
        now = self._clock()
        if done and (done == of or now - self._said >= EVERY):
            left = (now - self._began) / done * (of - done)
            self._said = now
            self.say(f"{done} of {of}" + (f", {in_words(left)} left" if done < of else ", done"))
