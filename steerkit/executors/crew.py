"""Workers of whatever kind: who has which job and which inputs, and what becomes of a job whose worker dies."""

from __future__ import annotations

import warnings
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from steerkit.errors import ExecutorError, counted
from steerkit.executors.base import Call, Done, Finished, Unit
from steerkit.executors.crossing import unpacked
from steerkit.executors.machine import Hello, difference
from steerkit.executors.worker import Answered, Gone, Message, Ready, Said, Sent, Warned
from steerkit.progress import SILENT, Observer

TRIES: Final = 3
"""How many workers a job may cost before it is given up."""


class Line(Protocol):
    """How workers are started and spoken with. Each has a place, counted from 0; a place has one worker at a time."""

    size: int

    def where(self, place: int) -> str:
        """What a place is called in messages."""
        ...

    def start(self, place: int, hello: Hello) -> None:
        """Start a worker there."""
        ...

    def send(self, place: int, sent: Sent) -> None:
        """Send a job to the worker there. One that is gone is told of by ``receive``."""
        ...

    def receive(self) -> tuple[int, Message]:
        """Wait for what any worker says next; nothing of one that was replaced."""
        ...

    def close(self) -> None:
        """End all of them at once."""
        ...


@dataclass
class _Held:
    """A job, and how many workers it has cost."""

    job: Unit | Call
    deaths: list[str] = field(default_factory=list)


class Crew:
    """Workers that share a line. See ``Workers``.

    Args:
        line: how they are started and spoken with.
        hello: what each is told first.
        observer: told what they do.
        note: told of workers that died.
    """

    def __init__(
        self, line: Line, hello: Hello, observer: Observer = SILENT, note: Callable[[str], None] = lambda said: None
    ) -> None:
        self._line, self._hello, self._observer, self._note = line, hello, observer, note
        self._waiting: deque[_Held] = deque()
        self._over: deque[Finished] = deque()
        self._busy: dict[int, _Held] = {}
        self._had: dict[int, set[str]] = {}  # inputs by place; a place that isn't here has no worker
        self._parts: dict[int, tuple[int, int]] = {}
        self._deaths: Counter[int] = Counter()

    @property
    def size(self) -> int:
        """How many there are."""
        return self._line.size

    def hand(self, job: Unit | Call) -> None:
        """Take a job. A worker is started where none is idle, so that no more are than have something to do."""
        self._waiting.append(_Held(job))
        self._fill()

    def finished(self) -> Finished:
        """Wait for a job that is finished, or is given up."""
        if not self._busy and not self._over:
            raise RuntimeError("No job was handed in.")
        while not self._over:
            place, message = self._line.receive()
            if isinstance(message, Answered):
                return self._answered(place, message)
            if isinstance(message, Gone):
                given_up = self._gone(place, message.why)
                if given_up is not None:
                    return given_up
            elif isinstance(message, Ready):
                self._require_same(place, message)
            elif isinstance(message, Warned):
                warnings.warn(message.text, UserWarning, stacklevel=2)
            else:
                self._said(place, message)
        return self._over.popleft()

    def close(self) -> None:
        """End all of them at once."""
        self._waiting.clear()
        self._busy.clear()
        self._line.close()

    def _fill(self) -> None:
        """Give what waits to whoever is idle. A job that can't be sent is over."""
        while self._waiting and (place := self._idle()) is not None:
            if place not in self._had:
                self._line.start(place, self._hello)
                self._had[place] = set()
            held = self._waiting.popleft()
            sent = self._sent(place, held.job)
            try:
                self._line.send(place, sent)
            except ExecutorError as error:
                self._over.append(Finished(held.job, error=error))
                continue
            self._had[place].update(sent.keys)
            self._busy[place] = held

    def _idle(self) -> int | None:
        """A place without a job: one with a worker, else one of which no worker has died, else any."""
        idle = [place for place in range(self.size) if place not in self._busy]
        return min(idle, key=lambda place: (place not in self._had, self._deaths[place]), default=None)

    def _sent(self, place: int, job: Unit | Call) -> Sent:
        if isinstance(job, Call):
            return Sent(job)
        fresh = {key: content for key, content in job.inputs.items() if key not in self._had[place]}
        return Sent(Unit(job.tasks, {}), tuple(job.inputs), fresh)

    def _answered(self, place: int, message: Answered) -> Finished:
        job = self._busy.pop(place).job
        self._parts.pop(place, None)
        self._fill()
        if message.failure is not None:
            return Finished(job, error=unpacked(message.failure), seconds=message.seconds)
        value = message.value
        if isinstance(job, Unit):
            outputs, passing = value
            value = Done(job, outputs, message.seconds, passing)
        return Finished(job, value, seconds=message.seconds)

    def _gone(self, place: int, why: str) -> Finished | None:
        """A worker has died: its job goes to another one, or is given up."""
        self._had.pop(place, None)
        self._deaths[place] += 1
        self._parts.pop(place, None)
        held = self._busy.pop(place, None)
        if held is None:
            return None
        held.deaths.append(why)
        name = _name(held.job)
        if len(held.deaths) >= TRIES:
            self._fill()
            return Finished(held.job, error=ExecutorError(_given_up(name, held.deaths)))
        self._note(f"{self._line.where(place)} ended ({why}) while it carried out {name}: that is begun again")
        self._waiting.appendleft(held)
        self._fill()
        return None

    def _require_same(self, place: int, ready: Ready) -> None:
        told = difference(self._hello.machine, ready.machine)
        if told:
            raise ExecutorError(
                f"{self._line.where(place)} would give other bytes: {told}. Make it the same there, or leave it out."
            )

    def _said(self, place: int, message: Said) -> None:
        """Pass progress on: of all that workers are doing, together."""
        if message.step is not None:
            self._parts.pop(place, None)
            self._observer.step(message.step)
            return
        self._parts[place] = message.done, message.of
        self._observer.progress(*map(sum, zip(*self._parts.values(), strict=True)))


def _name(job: Unit | Call) -> str:
    return job.name if isinstance(job, Call) else job.tasks[0].title


def _given_up(name: str, deaths: list[str]) -> str:
    return (
        f"{name}: given up after {counted(len(deaths), 'worker')} died of it ({deaths[-1]}). Where memory ran out, "
        "take fewer workers or a smaller model.batch_tokens; what is finished is kept."
    )


class CrewExecutor:
    """Workers as an executor of a run's units: what a unit raises, ``done`` raises.

    Args:
        workers: who carries them out.
    """

    def __init__(self, workers: Crew) -> None:
        self._workers = workers
        self.width = workers.size

    def submit(self, unit: Unit) -> None:
        """Hand it to a worker."""
        self._workers.hand(unit)

    def done(self) -> Done:
        """Wait for one."""
        finished = self._workers.finished()
        if finished.error is not None:
            raise finished.error
        done: Done = finished.value
        return done

    def close(self) -> None:
        """End the workers."""
        self._workers.close()
