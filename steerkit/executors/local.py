"""The executor in this process, and what a process of any other executor runs."""

from __future__ import annotations

import time
from collections import deque

from steerkit.executors.base import Done, Unit
from steerkit.stages.carry import Bench, carry_out
from steerkit.stages.packing import is_lasting


class LocalExecutor:
    """Carries units out one after the other, with a model that is loaded already.

    Args:
        bench: the model, and who is told of passes.
    """

    width = 1

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._waiting: deque[Unit] = deque()

    def submit(self, unit: Unit) -> None:
        """Take a unit; it runs when it is asked for."""
        self._waiting.append(unit)

    def done(self) -> Done:
        """Carry out the unit that has waited longest."""
        return run_unit(self._waiting.popleft(), self._bench)

    def close(self) -> None:
        """Forget what waits."""
        self._waiting.clear()


_BENCH = Bench()


def run_unit(unit: Unit, bench: Bench | None = None) -> Done:
    """Carry out a unit; without a bench with this process's own, which keeps the model for its next units.

    A worker process needs no more than this function: it can be named, and takes and gives what survives pickling.
    """
    began = time.perf_counter()
    outputs = carry_out(unit.tasks, unit.inputs, _BENCH if bench is None else bench)
    passing = frozenset(task.key for task in unit.tasks if not is_lasting(task, outputs[task.key]))
    return Done(unit, outputs, time.perf_counter() - began, passing)
