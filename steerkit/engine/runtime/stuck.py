"""Who waits for a turn that can't come: a hook waits for another thread, which waits for the pass that the hook is of.

The holder's own thread knows nothing of it, so those who wait look. That it joins them is seen at once. For what else
threads wait with (a future, a queue, an event) nobody can tell whom it is for, so there a wait that has not moved for a
minute counts.
"""

from __future__ import annotations

import sys
import threading
import time
from types import FrameType
from typing import Final

from steerkit.errors import AttachError

PATIENCE: Final = 60.0
"""Seconds for which the holder of a turn may stand at one and the same wait of its own while others want the turn."""
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
        self._seen: tuple[int, int, int] | None = None
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
        top = frames.get(holder)
        seen = None if top is None or top.f_code.co_filename != _FILE else (holder, id(top), top.f_lasti)
        if seen is None or seen != self._seen:
            self._seen, self._since = seen, time.monotonic()
        elif time.monotonic() - self._since > PATIENCE:
            raise AttachError(STOOD.format(seconds=PATIENCE))


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
    if top is None or top.f_code.co_filename != _FILE or top.f_code.co_name not in ("_wait_for_tstate_lock", "join"):
        return None
    known = top.f_locals
    if known.get("timeout", -1) not in (-1, None):
        return None
    thread = known.get("self")
    return thread.ident if isinstance(thread, threading.Thread) else None
