"""Looks at each pass of a model that begins while anything steers the model, whoever runs it.

A pass of a request of ours has its turn and its program. Any other is somebody's own call of the transformers model:
it gets what the blocks of its context say, waits for its turn, and is refused where only another context's block could
say what it gets. A graph of torch.compile doesn't ask.
"""

from __future__ import annotations

import sys
import threading
from contextlib import AbstractContextManager
from functools import cached_property
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from steerkit.engine.hooking.recompute import Bound, checkpointed
from steerkit.engine.runtime.turns import Ticket
from steerkit.engine.sites.taps import submodule

if TYPE_CHECKING:
    from collections.abc import Callable

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
        self.is_on = True

    def detach(self) -> None:
        """Take it off."""
        self.is_on, base = False, self._base
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
        holder = self._shared.turns.holder
        if holder is None or holder.thread != threading.get_ident() or holder.bare:
            self._admit(sys._getframe(1), module, args, kwargs)
        self._release()
        if torch.is_grad_enabled() and self._checkpointed and self._shared.now.attachment is not None:
            self._bound = Bound(self._checkpointed, self._remember)

    def _admit(self, call: FrameType, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Give somebody's own pass its turn and what its context says."""
        shared = self._shared
        here = shared.here()
        if not here:
            shared.require_condition()
        ticket = shared.turns.take(call, bare=True)
        if ticket is not None:
            shared.served.clear()
            # While it waited, the door may have been taken off; who comes in must also go out.
            self.ticket = ticket
            if shared.door is not self:
                if shared.door is not None:
                    shared.door.detach()
                shared.door = self
            self.attach()
        owner = here[-1].owner if here else None
        state = (owner or self._steering).become(tuple(block.group for block in here))
        if state.attachment is not None and state.attachment.begins is not None:
            # This pass has the list of hooks that were there when it began: before it waited, if it did.
            state.attachment.begins(module, args, kwargs)

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if torch.compiler.is_compiling() or not self._shared.turns.mine:
            return
        if self._shared.now.attachment is not None:
            self._shared.now.attachment.cursor.after_forward()
        self._release()
        ticket = self.ticket
        if ticket is not None and ticket.frame is not sys._getframe(1) and not ticket.stale:
            # A pass inside of the one that took the turn, which goes on. (Behind one that failed it is stale.)
            return
        self.ticket = None
        if ticket is not None and ticket is self._shared.turns.holder:
            try:
                self._steering.rest()
            finally:
                self._shared.turns.give(ticket)

    def _release(self) -> None:
        if self._bound is not None:
            self._bound.release()
            self._bound = None

    def _remember(self) -> Callable[[], AbstractContextManager[None]]:
        state = self._shared.now
        current = None if state.attachment is None else state.attachment.cursor.now
        return lambda: self._steering.again(state, current)
