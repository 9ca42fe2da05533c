"""Who waits for a turn that can't come: a hook waits for another thread, which waits for the pass that the hook is of.

The holder's own thread knows nothing of it, so those who wait look. That it joins them is seen at once. For what else
threads wait with (a future, a queue, an event) nobody can tell whom it is for, so there a wait that has not moved for a
minute counts. A wait with a limit of its own ends by itself: a hook that polls (``event.wait(0.1)`` in a loop, or that
sleeps) is at work, however long it takes, and nobody can tell that what it polls for won't come.
"""

from __future__ import annotations

import sys
import threading
import time
from types import FrameType
from typing import Final

from steerkit.errors import AttachError

PATIENCE: Final = 60.0
"""Seconds for which the holder of a turn may stand at one and the same wait without a limit while others want it."""
_FILE: Final = threading.__file__
_LONGEST_CHAIN: Final = 16

STUCK: Final = (
    "This pass would wait for ever. The model is inside of a pass of another thread, and a hook of that pass waits for "
    "this thread to end. Start the thread in the hook and wait for it when the pass is over, or run the inner pass in "
    "the hook's own thread."
)
STOOD: Final = (
    "This pass has waited for {seconds:.0f} seconds for one of another thread, in which a hook waits for something "
    "(a future, a queue, an event): for this thread, perhaps, and then for ever. Wait for it when the pass is over, or "
    "run the inner pass in the hook's own thread."
)


class Watch:
    """Looks again and again whether the holder of a turn waits for this thread."""

    def __init__(self) -> None:
        # What the holder waits for is kept, so that no later wait has its address. It holds no tensors.
        self._seen: tuple[int, object] | None = None
        self._since = 0.0

    def look(self, holder: int) -> None:
        """Look once.

        Args:
            holder: the thread that holds the turn.

        Raises:
            AttachError: where it waits for this one, or has stood at one wait for ``PATIENCE`` seconds.
        """
        frames, me = sys._current_frames(), threading.get_ident()
        # This call's own frame among them would be a circle, which keeps what all threads' frames hold until the next
        # garbage collection: tensors of passes that are over.
        frames.pop(me, None)
        if _joins(frames, holder, me):
            raise AttachError(STUCK)
        awaited = _awaited(frames.get(holder))
        known = self._seen
        if awaited is None or known is None or known[0] != holder or known[1] is not awaited:
            self._seen, self._since = None if awaited is None else (holder, awaited), time.monotonic()
        elif time.monotonic() - self._since > PATIENCE:
            raise AttachError(STOOD.format(seconds=PATIENCE))


def _awaited(top: FrameType | None) -> object | None:
    """What the innermost call of a thread waits for without a limit: the lock that this one wait has made, or the
    thread that it joins; None where it waits for nothing of the kind, or only for a while."""
    if top is None or top.f_code.co_filename != _FILE:
        return None
    known = top.f_locals
    if known.get("timeout", -1) not in (-1, None):
        return None
    awaited: object = known.get("waiter") if top.f_code.co_name == "wait" else _joining(top)
    return awaited


def _joins(frames: dict[int, FrameType], thread: int, me: int) -> bool:
    """Whether a thread joins another, or one that joins another in turn. Only frames that stand still are read."""
    for _ in range(_LONGEST_CHAIN):
        joined = _joined(frames.get(thread))
        if joined is None or joined == me:
            return joined is not None
        thread = joined
    return False


def _joined(top: FrameType | None) -> int | None:
    """The thread that the innermost call of a thread waits for without a limit."""
    thread = None if top is None else _joining(top)
    return None if thread is None else thread.ident


def _joining(top: FrameType) -> threading.Thread | None:
    if top.f_code.co_filename != _FILE or top.f_code.co_name not in ("_wait_for_tstate_lock", "join"):
        return None
    known = top.f_locals
    if known.get("timeout", -1) not in (-1, None):
        return None
    thread = known.get("self")
    return thread if isinstance(thread, threading.Thread) else None
