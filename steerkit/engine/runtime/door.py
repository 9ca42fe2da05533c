"""Looks at each pass of a model that begins while anything steers the model, whoever runs it.

A pass of a request of ours has its turn and its program. Any other is somebody's own call of the transformers model:
it gets what the blocks of its context say, waits for its turn, and is refused where only another context's block could
say what it gets. A graph of torch.compile doesn't ask.
"""

from __future__ import annotations

import sys
import threading
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from steerkit.engine.hooking.recompute import Bound, GoingBack, checkpointed
from steerkit.engine.runtime.copies import unwatch_copies, watch_copies
from steerkit.engine.runtime.nesting import INTERRUPTED, Running
from steerkit.engine.runtime.turns import Ticket
from steerkit.engine.sites.taps import submodule
from steerkit.errors import AttachError

if TYPE_CHECKING:
    from steerkit.engine.runtime.steering import Steering


class Door:
    """Hooks of a base model: one before all others, one behind it.

    Args:
        steering: one of the model's.
    """

    def __init__(self, steering: Steering) -> None:
        self._steering, self._shared = steering, steering.shared
        self._base = submodule(steering.model, steering.layout.base)
        self._bound: Bound | None = None
        self.ticket: Ticket | None = None
        self.is_on = False

    def attach(self) -> None:
        """Put it there, once: before all hooks that are there now, and behind them."""
        base: Any = self._base
        if self._shared.keys is None:
            self._shared.keys = RemovableHandle(base._forward_pre_hooks).id, RemovableHandle(base._forward_hooks).id
        before, behind = self._shared.keys
        base._forward_pre_hooks[before] = self._enter
        base._forward_pre_hooks.move_to_end(before, last=False)
        base._forward_pre_hooks_with_kwargs[before] = True
        base._forward_hooks[behind] = self._leave
        base._forward_hooks.move_to_end(behind)
        base._forward_hooks_always_called[behind] = True
        watch_copies(self._steering.model, self._base)
        self.is_on = True

    def detach(self) -> None:
        """Take the door off the model."""
        self.is_on, base = False, self._base
        unwatch_copies(self._steering.model, base)
        if self._shared.nest.innermost() is None:
            # An interrupt skips the hooks behind a pass, so what was bound for it may be bound still.
            self._release()
        if self._shared.keys is None:
            return
        for hooks, flags, key in (
            (base._forward_pre_hooks, base._forward_pre_hooks_with_kwargs, self._shared.keys[0]),
            (base._forward_hooks, base._forward_hooks_always_called, self._shared.keys[1]),
        ):
            hooks.pop(key, None)
            flags.pop(key, None)

    @cached_property
    def _checkpointed(self) -> list[nn.Module]:
        return checkpointed(self._base)

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.compiler.is_compiling():
            return
        shared, call = self._shared, sys._getframe(1)
        inside, holder = shared.nest.innermost(), shared.turns.holder
        if inside is not None:
            asked = shared.asked is not inside.served
        else:
            asked = holder is not None and holder.thread == threading.get_ident() and not holder.bare
        if asked:
            running = Running(call, shared.asked, shared.now, inside)
            shared.nest.begin(running)
            self._set_aside(running)
        else:
            running = self._admit(call, inside, module, args, kwargs)
        if inside is None:
            self._release()
        if self._bound is None and torch.is_grad_enabled() and self._checkpointed:
            running.binds = True
            self._bound = Bound(self._checkpointed, self._remember)

    def _admit(
        self, call: FrameType, inside: Running | None, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Running:
        """Give somebody's own pass its turn, or a place inside of the pass that has it, and what its context says."""
        shared = self._shared
        here = shared.here()
        if not here:
            shared.require_condition()
        ticket = shared.turns.take(call, bare=True) if inside is None else None
        if ticket is not None:
            shared.begins_anew()
            # While it waited, the door may have been taken off; who comes in must also go out.
            self.ticket = ticket
            if shared.door is not self:
                if shared.door is not None:
                    shared.door.detach()
                shared.door = self
            self.attach()
        running = Running(call, shared.asked, shared.now, inside)
        shared.nest.begin(running)
        owner = here[-1].owner if here else None
        running.state = state = (owner or self._steering).become(tuple(block.group for block in here))
        self._set_aside(running)
        if state.attachment is not None:
            # Nobody described it, whatever is known of a pass around it.
            state.attachment.cursor.set_frame(None)
            if state.attachment.begins is not None:
                # This pass has the list of hooks that were there when it began: before it waited, if it did.
                state.attachment.begins(module, args, kwargs)
        return running

    def _set_aside(self, running: Running) -> None:
        attachment = running.state.attachment
        if running.inside is not None and attachment is not None:
            running.sets_aside(attachment.cursor)

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if torch.compiler.is_compiling():
            return
        shared, call = self._shared, sys._getframe(1)
        ended = shared.nest.ended(call)
        if not ended:
            return
        if shared.now.attachment is not None:
            shared.now.attachment.cursor.after_forward()
        for running in ended:
            running.puts_back()
            if running.binds:
                self._release()
        inside = ended[-1].inside
        if inside is not None and ended[-1].served is inside.served:
            # Behind a pass of a request, that request says when it is over.
            self._steering.put_back(inside.state)
        elif inside is None:
            self._release()
            self._give()
        if len(ended) > 1 and ended[-1].call is call:
            raise AttachError(INTERRUPTED)

    def _give(self) -> None:
        ticket, self.ticket = self.ticket, None
        if ticket is not None and ticket is self._shared.turns.holder:
            try:
                self._steering.rest()
            finally:
                self._shared.turns.give(ticket)

    def _release(self) -> None:
        if self._bound is not None:
            self._bound.release()
            self._bound = None

    def _remember(self, given: tuple[Any, ...]) -> GoingBack:
        state = self._shared.now
        if state.attachment is None:
            return lambda given: self._steering.again(state, None)
        standing = state.attachment.cursor.standing
        place = next((place for place, one in enumerate(given) if one is standing.resid_pre), None)

        def going_back(given: tuple[Any, ...]) -> AbstractContextManager[None]:
            # What is computed again may begin at a copy, which gets the gradient.
            here = standing if place is None else replace(standing, resid_pre=given[place])
            return self._steering.again(state, here)

        return going_back
