"""Passes inside of passes: what somebody's hook runs while another pass goes on leaves that one as it was.

Each pass inside of another notes what stood when it began, and puts that back when it ends. An interrupt skips the
hooks behind a pass; one that ended so is found by its call, which is over, and the pass around it isn't trusted.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Final

from steerkit.engine.runtime.turns import has_ended
from steerkit.engine.sequence.cursor import Cursor, Standing
from steerkit.engine.sequence.tally import Tally, count_again, count_nothing

if TYPE_CHECKING:
    from steerkit.engine.runtime.blocks import Served, State

INTERRUPTED: Final = (
    "A pass that a hook ran inside of this one was interrupted, and what came behind that hook ran under what was "
    "meant for the inner pass. Run this pass again, and let the hook pass the interrupt on."
)


@dataclass(eq=False)
class Running:
    """A pass that runs, or a block that is computed again for gradients.

    Args:
        call: of the module, or what computes again: while it goes on, so does the pass.
        served: the innermost request when it began, or None.
        state: what is on the model for it.
        inside: of which it began, or None.
        again: whether it is a block that is computed again.
        binds: whether blocks were bound to the running pass for it, and not for one around it.
    """

    call: FrameType
    served: Served | None
    state: State
    inside: Running | None = None
    again: bool = False
    binds: bool = False

    def __post_init__(self) -> None:
        self.thread = threading.get_ident()
        self._cursor: Cursor | None = None
        self._stood: Standing | None = None
        self._tally: Tally | None = None

    def sets_aside(self, cursor: Cursor) -> None:
        """Keep what its cursor stands at for a pass around it."""
        self._cursor, self._stood, self._tally = cursor, cursor.set_aside(), count_nothing()

    def puts_back(self) -> None:
        """Have the cursor stand there again."""
        if self._cursor is not None and self._stood is not None:
            self._cursor.stand(self._stood)
            count_again(self._tally)


@contextmanager
def uncounted(inside: Running | None) -> Iterator[None]:
    """Run the body, a request inside of a pass, with nobody counting the tokens that it edits."""
    if inside is None:
        yield
        return
    tally = count_nothing()
    try:
        yield
    finally:
        count_again(tally)


class Nest:
    """The passes that run, outer ones first: all of the thread that holds the turn, or of autograd's on its behalf."""

    def __init__(self) -> None:
        self._running: list[Running] = []

    def innermost(self) -> Running | None:
        """The pass of this thread that goes on, inside of which another would begin now."""
        me = threading.get_ident()
        for running in reversed(self._running):
            if running.thread != me:
                break
            if not has_ended(running.call):
                return running
        return None

    def begin(self, running: Running) -> None:
        """A pass begins inside of those that run."""
        self._running.append(running)

    def ended(self, call: FrameType) -> list[Running]:
        """Take off what ends with a call, inner ones first: its own pass, and those inside whose calls are over."""
        found: list[Running] = []
        while self._running and self._running[-1].thread == threading.get_ident():
            last = self._running[-1]
            if last.call is not call and not has_ended(last.call):
                break
            found.append(self._running.pop())
            if last.call is call:
                break
        return found

    def drop(self, running: Running) -> None:
        """Take one off, with all inside of it. May be repeated."""
        if running in self._running:
            del self._running[self._running.index(running) :]

    def clear(self) -> None:
        """Nothing runs: who says so has just got the turn."""
        self._running.clear()
