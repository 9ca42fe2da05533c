"""Passes of one model take turns: whoever runs one holds the turn, and others wait for it in the order of asking.

A turn is held for as long as a pass, or what a request puts on the model, lasts; a ``with steer`` block holds none
while its body runs. An interrupt may fall anywhere: everything here may be repeated, and what a thread that is gone
left behind is found by those who wait.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
import threading
from collections import deque
from collections.abc import Iterator
from types import FrameType
from typing import Final

from steerkit.engine.runtime.stuck import Watch

LOOK_AGAIN: Final = 0.05
"""Seconds after which those who wait look whether the holder is still there."""
_SUSPENDS: Final = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


class Ticket:
    """A place in the queue.

    Args:
        thread: whose it is.
        frame: of the call that it is for. Once that has ended nothing else may give it back, after an interrupt.
        bare: whether it is for somebody's own call of the transformers model.
    """

    __slots__ = ("bare", "frame", "thread", "woken")

    def __init__(self, thread: int, frame: FrameType, bare: bool) -> None:
        self.thread, self.frame, self.bare = thread, frame, bare
        self.woken = threading.Lock()
        self.woken.acquire()

    @property
    def stale(self) -> bool:
        """Whether the call that it is for has ended."""
        return has_ended(self.frame)


class Turns:
    """The queue of those who want to run a pass of a model; who stands first holds the turn."""

    def __init__(self) -> None:
        # Every step is one call into C on a deque, so that no interrupt finds it half done.
        self._queue: deque[Ticket] = deque()

    @property
    def holder(self) -> Ticket | None:
        """Who holds the turn."""
        try:
            return self._queue[0]
        except IndexError:
            return None

    @property
    def mine(self) -> bool:
        """Whether this thread holds it."""
        holder = self.holder
        return holder is not None and holder.thread == threading.get_ident()

    def take(self, frame: FrameType, *, bare: bool = False) -> Ticket | None:
        """Wait for the turn; None where this thread holds it already. ``give`` takes what comes back.

        Raises:
            AttachError: where the turn can't come, because who holds it waits for this thread.
        """
        me = threading.get_ident()
        holder = self.holder
        if holder is not None and holder.thread == me:
            if not holder.stale:
                return None
            self.give(holder)
        ticket, watch = Ticket(me, frame, bare), Watch()
        try:
            self._queue.append(ticket)
            while (holder := self.holder) is not ticket:
                if holder is not None and holder.stale:
                    self.give(holder)
                elif not ticket.woken.acquire(timeout=LOOK_AGAIN):
                    if ticket not in self._queue:
                        self._queue.append(ticket)
                    elif holder is not None:
                        watch.look(holder.thread)
        except BaseException:
            self.give(ticket)
            raise
        return ticket

    def give(self, ticket: Ticket | None) -> None:
        """Let the next one have the turn. May be repeated."""
        if ticket is None:
            return
        try:
            self._queue.remove(ticket)
        except ValueError:
            return
        following = self.holder
        if following is not None and following.woken.locked():
            # Somebody else may wake it meanwhile.
            with contextlib.suppress(RuntimeError):
                following.woken.release()

    @contextlib.contextmanager
    def taken(self) -> Iterator[bool]:
        """Run the body with the turn. Yields whether this thread did not hold it before."""
        ticket = None
        try:
            ticket = self.take(running_call())
            yield ticket is not None
        finally:
            # Twice, since an interrupt may fall into the first one, at its very call; it does no harm.
            try:
                self.give(ticket)
            finally:
                self.give(ticket)


def has_ended(call: FrameType) -> bool:
    """Whether a call, of any thread and not of a generator, is over.

    Only the frame itself is asked: its thread goes on meanwhile, and a walk along a running thread's frames meets
    memory that is none. A frame that runs, or that waits for what it called, refuses to be cleared.
    """
    try:
        call.clear()
    except RuntimeError:
        return False
    return True


def running_call() -> FrameType:
    """The call that runs the body of the ``with`` statements: the nearest one that isn't a generator's."""
    frame = sys._getframe(1)
    while frame.f_back is not None and (
        frame.f_code.co_flags & _SUSPENDS or frame.f_code.co_filename == contextlib.__file__
    ):
        frame = frame.f_back
    return frame
