"""The interface of an executor: units of tasks go in, outputs by key come back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from steerkit.stages.tasks import Task


@dataclass(frozen=True)
class Unit:
    """Tasks that are carried out in one go, with all that they need. It survives pickling.

    Args:
        tasks: one, or several that share a pass.
        inputs: the outputs that they need, by key.
    """

    tasks: tuple[Task, ...]
    inputs: Mapping[str, bytes]


@dataclass(frozen=True)
class Done:
    """What became of a unit.

    Args:
        unit: the unit.
        outputs: by key, one for each of its tasks.
        seconds: how long it took where it ran.
        passing: keys of outputs that may be others another time, as where a judge could not be reached: this run has
            them, and no store keeps them.
    """

    unit: Unit
    outputs: Mapping[str, bytes]
    seconds: float
    passing: frozenset[str] = frozenset()


class Executor(Protocol):
    """Carries units out, on one machine or on many.

    Equal units give equal bytes, wherever they run. What a unit raises, ``done`` raises; the others that were handed
    in may then be dropped.
    """

    @property
    def width(self) -> int:
        """How many units it takes at a time, at least one."""
        ...

    def submit(self, unit: Unit) -> None:
        """Take a unit whose inputs are there. Returns at once or when it is done, as the executor likes."""
        ...

    def done(self) -> Done:
        """Wait for a unit that was handed in and not yet given back, whichever is finished first."""
        ...

    def close(self) -> None:
        """Give up what it holds. Nothing is handed in afterwards."""
        ...
