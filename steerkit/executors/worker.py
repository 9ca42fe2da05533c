"""What a worker is, wherever it runs: it says what machine it is, and carries out one job after the other."""

from __future__ import annotations

import pickle
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from steerkit.errors import PluginError
from steerkit.executors.base import Call, Unit
from steerkit.executors.crossing import Failure, packed
from steerkit.executors.local import run_unit
from steerkit.executors.machine import Hello, Machine, machine
from steerkit.executors.plugins import require_same_plugins
from steerkit.stages import Bench

_OFTEN: Final = 0.2
"""Seconds between two words on progress."""


@dataclass(frozen=True)
class Ready:
    """A worker has begun: what it is."""

    machine: Machine


@dataclass(frozen=True)
class Said:
    """What a worker's observer was told: that something began, or how far it is."""

    step: str | None = None
    done: int = 0
    of: int = 0


@dataclass(frozen=True)
class Warned:
    """What a worker would have warned a user of."""

    text: str


@dataclass(frozen=True)
class Answered:
    """What became of the job that was sent last.

    Args:
        value: of a unit its outputs and which of them are passing; of a call what its function gave.
        failure: what was raised, or None.
        seconds: how long it took.
    """

    value: Any
    failure: Failure | None
    seconds: float


@dataclass(frozen=True)
class Gone:
    """A worker has ended that nobody told to: why, in words."""

    why: str


Message: TypeAlias = Ready | Said | Warned | Answered | Gone


@dataclass(frozen=True)
class Sent:
    """A job on its way to a worker.

    Args:
        job: the call, or the unit without its inputs.
        keys: of the inputs.
        fresh: those that this worker hasn't had.
    """

    job: Unit | Call
    keys: tuple[str, ...] = ()
    fresh: Mapping[str, bytes] | None = None


class Worker:
    """Carries out what it is sent, and keeps the model and all inputs for what comes next.

    Args:
        tell: told of progress, while a job runs.
    """

    def __init__(self, tell: Callable[[Message], None]) -> None:
        self._bench = Bench(observer=_Teller(tell))
        self._inputs: dict[str, bytes] = {}

        def warn(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
            if issubclass(category, UserWarning):  # others are for developers
                tell(Warned(str(message)))

        warnings.showwarning = warn  # the process is a worker and nothing else

    def begin(self, hello: Hello) -> Ready:
        """Become what is asked for; says what that is."""
        import numpy  # noqa: F401  # so that its threads can be told
        import torch
        from threadpoolctl import threadpool_limits

        if hello.threads is not None:
            torch.set_num_threads(hello.threads)
        if hello.numpy_threads is not None:
            threadpool_limits(hello.numpy_threads, "blas")
        return Ready(machine(hello.device))

    def carry(self, read: Callable[[], Sent]) -> Answered:
        """Carry a job out.

        Args:
            read: gives it; may raise, as where a plugin isn't there.
        """
        began = time.perf_counter()
        value, failure = None, None
        try:
            value = self._value(_read(read))
        except Exception as error:
            failure = packed(error)
        except SystemExit as error:  # of a plugin that takes the process for its own
            failure = packed(RuntimeError(f"It asked the process to exit ({error.code})."))
        return Answered(value, failure, time.perf_counter() - began)

    def _value(self, sent: Sent) -> Any:
        self._inputs.update(sent.fresh or {})
        if isinstance(sent.job, Call):
            value = sent.job.function(*sent.job.arguments)
            pickle.dumps(value)  # so that one that can't be sent is an error of the call
            return value
        require_same_plugins(sent.job.tasks)
        done = run_unit(Unit(sent.job.tasks, {key: self._inputs[key] for key in sent.keys}), self._bench)
        return done.outputs, done.passing


def _read(read: Callable[[], Sent]) -> Sent:
    try:
        return read()
    except (ImportError, AttributeError) as error:
        raise PluginError(
            f"A worker can't read its task: {error}. What plugins make has to be something of a module that every "
            "machine has: install their packages there."
        ) from error


class _Teller:
    """An observer that tells another process, of progress not too often."""

    def __init__(self, tell: Callable[[Message], None]) -> None:
        self._tell, self._last = tell, 0.0

    def step(self, what: str) -> None:
        """Tell."""
        self._tell(Said(str(what)))

    def progress(self, done: int, of: int) -> None:
        """Tell, unless something was told just now."""
        now = time.monotonic()
        if done >= of or now - self._last >= _OFTEN:
            self._last = now
            self._tell(Said(None, done, of))
