"""The interface of an executor: units of tasks go in, outputs by key come back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

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


@dataclass(frozen=True)
class Call:
    """A function with its arguments, such as one that runs a whole recipe. All of it survives pickling.

    Args:
        name: as messages call it, as in ``"seed=2"``.
        function: of a module that can be imported where it runs.
        arguments: its arguments, in order.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Finished:
    """What became of a job that workers were handed.

    Args:
        job: the very object that was handed in.
        value: a ``Done`` of a unit; of a call what its function gave.
        error: what it raised, with its type and words; None where it raised nothing.
        seconds: how long it took where it ran.
    """

    job: Unit | Call
    value: Any = None
    error: Exception | None = None
    seconds: float = 0.0


class Workers(Protocol):
    """Processes that carry jobs out, each one at a time, on this machine or on others.

    A worker that is killed costs its job a try and nothing else: the job runs again elsewhere. What a job raises is in
    its ``Finished`` and stops no other one.
    """

    @property
    def size(self) -> int:
        """How many there are, at least one."""
        ...

    def hand(self, job: Unit | Call) -> None:
        """Take a job. Returns at once; jobs beyond ``size`` wait for their turn.

        Raises:
            ExecutorError: where no worker can be started.
        """
        ...

    def finished(self) -> Finished:
        """Wait for a job that was handed in and not yet given back, whichever is finished first.

        Raises:
            ExecutorError: where workers can't be had or differ from this process.
        """
        ...

    def close(self) -> None:
        """End all of them at once, whatever they are doing. Nothing is handed in afterwards."""
        ...
