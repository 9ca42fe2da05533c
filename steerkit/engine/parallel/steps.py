"""Steps that all processes take together, each of which ends well in all of them or in none.

The first process says what the next step is, and every process carries it out. Whether it did is told when the step
ends. What every process raises is the work's own error, and the next step may follow. What only some raise leaves the
others waiting for them in the middle of a pass: then whoever finds out leaves one sentence for all, and ends, whereby
the connections break on which the others wait.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

from steerkit.engine.parallel.group import Launched, Notes, connected, current, seconds_to_wait, store_of, wait_for
from steerkit.errors import ParallelError, SteerkitError, agreeing, listed

if TYPE_CHECKING:
    from types import FrameType

T = TypeVar("T")
END: Final = "end"
PATIENCE: Final = 5.0
"""Seconds in which processes that raise the same do so."""
_FAILED: Final = "failed"
_SMALL: Final = 2**20
"""Bytes up to which what a step is about is left as a note."""


class ToldToEnd(BaseException):
    """Somebody ended this process, as torchrun does where another one is gone."""


class Steps:
    """The steps of one process, in step with those of the others.

    Args:
        launched: which process it is.
        speak: says why all of them end, in a process whose first one can't.
    """

    def __init__(self, launched: Launched, speak: Callable[[str], None]) -> None:
        self.rank, self.world = launched.rank, launched.world
        self._store, self._speak = store_of(launched), speak
        self._number, self._failing, self._speaker = 0, False, 0

    @property
    def speaks(self) -> bool:
        """Whether this process says why all of them end: where the first one, which would, is gone."""
        return self.rank == self._speaker

    # What comes next

    def lead(self, name: str, content: Any = None) -> None:
        """Say what the next step is; in the first process."""
        data = pickle.dumps(content)
        group = current()
        apart = group is not None and len(data) > _SMALL
        self._number += 1
        self._store.set(f"step/{self._number}", pickle.dumps((name, None if apart else data)))
        if group is not None and apart:
            group.tell(data)

    def follow(self) -> tuple[str, Any]:
        """Wait for the next step, and what it is about; in the others."""
        self._number += 1
        name, data = pickle.loads(wait_for(self._store, f"step/{self._number}"))
        group = current()
        if data is None and group is not None:
            data = group.tell(None)
        return name, pickle.loads(data)

    # How it ended

    def together(self, run: Callable[[], T]) -> T:
        """Carry out the step, and have it end as it ends in the others.

        Raises:
            ParallelError: where it failed in some process and not in all: every process is to end.
            Exception: its own, where every process raised one.
        """
        with self._heard():
            try:
                value = run()
                self._report("")
                reports = self._reports(seconds_to_wait())
            except (Exception, ToldToEnd) as error:
                self._failing = True
                self._end_unless_all_failed(error)
                if isinstance(error, ToldToEnd):
                    raise KeyboardInterrupt from None  # no other process is the reason
                self._failing = False
                raise
            failed = [rank for rank, said in enumerate(reports) if said]
            if failed or None in reports:
                self._failing = True
                self._all_end(self._sentence_of(failed, reports) if failed else self._of_missing(reports, None))
            return value

    def _report(self, said: str) -> None:
        self._store.set(f"report/{self._number}/{self.rank}", said)

    def _reports(self, seconds: float) -> list[str | None]:
        """What each process says of the step, as soon as all have, or one sentence is there for all of them."""
        keys = [f"report/{self._number}/{rank}" for rank in range(self.world)]
        until, pause = time.monotonic() + seconds, 0.001
        while not all(there := [self._store.check([key]) for key in keys]) and time.monotonic() < until:
            if self._store.check([_FAILED]):
                break
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
        return [self._store.get(key).decode() if here else None for key, here in zip(keys, there, strict=True)]

    def _end_unless_all_failed(self, error: BaseException) -> None:
        """Returns where every process raised something in this step; else all of them end."""
        said = _in_words(error)
        self._report(said)
        if self._store.check([_FAILED]):
            self._all_end("")
        reports = self._reports(PATIENCE)
        if all(reports):
            return
        mine = isinstance(error, ToldToEnd) or _is_broken_connection(error)
        gone = [rank for rank, one in enumerate(reports) if one is None]
        if isinstance(error, ToldToEnd) and not gone:
            return
        self._all_end(self._of_missing(reports, error) if mine and gone else self._failed_here(said))

    def _failed_here(self, said: str) -> str:
        return f"Process {self.rank} of {self.world} failed, and the others end with it. {said}"

    def _sentence_of(self, failed: Sequence[int], reports: Sequence[str | None]) -> str:
        first = failed[0]
        return f"Process {first} of {self.world} failed where others didn't, and all of them end. {reports[first]}"

    def _of_missing(self, reports: Sequence[str | None], error: BaseException | None) -> str:
        gone = [str(rank) for rank, one in enumerate(reports) if one is None]
        self._speaker = next((rank for rank, one in enumerate(reports) if one is not None), self.rank)
        who = f"{'Process' if len(gone) == 1 else 'Processes'} {listed(gone)} of {self.world}"
        slow = error is None or "timed out" in str(error).lower() or "timeout" in str(error).lower()
        if slow:
            seconds = f"{seconds_to_wait():g}"
            return f"{who} {agreeing(len(gone), 'has', 'have')} not answered for {seconds} seconds, so all of them end."
        return (
            f"{who} {agreeing(len(gone), 'is', 'are')} gone (killed, perhaps since memory ran out), and the others end "
            "with it. What was done is kept: the same command goes on from there."
        )

    def _all_end(self, sentence: str) -> NoReturn:
        """Leave a sentence for all, unless one is there, and raise what is there."""
        with suppress(RuntimeError):
            self._store.compare_set(_FAILED, "", sentence)
            sentence = self._store.get(_FAILED).decode()
        raise ParallelError(sentence)

    # Who ends this process

    @contextmanager
    def _heard(self) -> Iterator[None]:
        """Run the body with an end from outside as an error in it, so that the reason can be told."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, self._on_end)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _on_end(self, number: int, frame: FrameType | None) -> None:
        if not self._failing:
            self._failing = True
            raise ToldToEnd

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Run the body while somebody else looks whether all are to end: a pass on GPUs may wait for ever."""
        over = threading.Event()
        store = connected()
        watch = threading.Thread(target=self._watch, args=(store, over), daemon=True, name="steerkit-parallel")
        watch.start()
        try:
            yield
        finally:
            over.set()
            watch.join(2 * _LOOK)

    def _watch(self, store: Notes, over: threading.Event) -> None:
        with suppress(RuntimeError):  # who served the notes is gone, and with it all that could be told
            while not over.wait(_LOOK):
                if not store.check([_FAILED]):
                    continue
                if not over.wait(2 * PATIENCE):
                    if self.speaks:
                        self._speak(store.get(_FAILED).decode())
                    leave()
                return


_LOOK: Final = 1.0
"""Seconds between two looks at whether all are to end."""


def leave() -> NoReturn:
    """End this process at once: its connections break, and nobody waits for it."""
    with suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(1)


def _in_words(error: BaseException) -> str:
    if isinstance(error, SteerkitError):
        return str(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _is_broken_connection(error: BaseException) -> bool:
    """Whether it is what torch says where another process is gone, or doesn't come."""
    told = str(error).lower()
    words = ("connection closed", "connection reset", "broken pipe", "timed out", "timeout", "connection refused")
    return isinstance(error, RuntimeError) and any(word in told for word in words)
