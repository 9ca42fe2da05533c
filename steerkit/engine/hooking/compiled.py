"""Hooks that torch.compile sees.

A compiled graph holds the hooks that were there when it was traced, and by default nothing looks at them again
(``torch._dynamo.config.skip_nnmodule_hook_guards``): a hook that comes later is ignored, one that is gone goes on.
What every graph does look at is whether a module that it calls has a ``forward`` of its own, since people patch
it, and then at that function's code. So for as long as it has a hook of ours, a module has a ``forward`` of its own:
its class's, with a code object of its own. Graphs from before no longer fit, and the next call is traced anew; once
the hook and that ``forward`` are gone, the old graphs fit again and those with the hook don't.

Nothing is slower for it: it is the same bytecode, called in the same way.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import FunctionType, MethodType
from typing import Any, Final, TypeAlias

from torch import nn
from torch.utils.hooks import RemovableHandle

MOST_DEAD: Final = 4
"""Of the graphs of one function; torch.compile makes 8 unless told otherwise."""

Hook: TypeAlias = tuple[nn.Module, str, Callable[..., Any]]
"""A module, a side, and a hook (with keyword arguments, on the input side).

``input`` and ``output`` hooks run before those of others; ``seen`` looks at the input behind all others.
"""


class Hooks:
    """Hooks that go on together and come off together, on compiled modules too.

    Taking off never relies on how far putting on came, and both may be repeated. A hook has one key for good: a call
    of a module that goes on meanwhile has a list of hooks by key, and finds them as they were once they are on again.

    Args:
        hooks: in the order in which they run.
    """

    def __init__(self, hooks: Sequence[Hook]) -> None:
        self._hooks = [(module, side, hook, RemovableHandle(_NO_HOOKS).id) for module, side, hook in hooks]
        self._marks = Marks(module for module, _, _ in hooks)

    def attach(self) -> None:
        """Put the hooks on, once."""
        self.detach()
        self._marks.set()
        # Before anybody else's, so that who observes a value sees what the model goes on with.
        for module, side, hook, key in reversed(self._hooks):
            if side != "seen":
                register_hook(module, side, hook, key)
        for module, side, hook, key in self._hooks:
            if side == "seen":
                register_hook(module, side, hook, key)

    def detach(self) -> None:
        """Take them off."""
        for module, side, _, key in self._hooks:
            if side == "output":
                module._forward_hooks.pop(key, None)
            else:
                module._forward_pre_hooks.pop(key, None)
                module._forward_pre_hooks_with_kwargs.pop(key, None)
        self._marks.clear()


def register_hook(module: nn.Module, side: str, hook: Callable[..., Any], key: int) -> None:
    """Put a hook on under a key of its own, as modules do under a new one."""
    # Torch declares a dictionary and makes an ordered one.
    hooks: Any = module._forward_hooks if side == "output" else module._forward_pre_hooks
    if side != "output":
        module._forward_pre_hooks_with_kwargs[key] = True
    hooks[key] = hook
    if side != "seen":
        hooks.move_to_end(key, last=False)


_NO_HOOKS: OrderedDict[int, Any] = OrderedDict()
_STATE = "_steerkit_state"


@dataclass(eq=False)
class _State:
    """Whose marks they are: whether they count, and what they hide. Knows no mark, so that marks die at once."""

    active: bool = False
    hidden: dict[nn.Module, Any] = field(default_factory=dict)


class Marks:
    """Modules that differ, for torch.compile, from what they were.

    Setting and clearing may be repeated and interrupted. Marks of several owners on one module may go in any order.

    Args:
        modules: what has hooks.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.modules = list(dict.fromkeys(modules))
        self._state = _State()
        self._copies: dict[Any, FunctionType] = {}

    def set(self) -> None:
        """Mark the modules as hooked, for compiled graphs to see."""
        _drop_dead_graphs()
        self._state.active = True
        for module in self.modules:
            now = vars(module).get("forward")
            if _state_of_mark(now) is not self._state:
                self._state.hidden[module] = now
                vars(module)["forward"] = self._mark(module, now)

    def clear(self) -> None:
        """Have them as they were."""
        self._state.active = False
        for module in self.modules:
            now = found = vars(module).get("forward")
            while (state := _state_of_mark(found)) is not None and not state.active:
                found = state.hidden[module]
            if found is None:
                vars(module).pop("forward", None)
            elif found is not now:
                vars(module)["forward"] = found

    def _mark(self, module: nn.Module, now: Any) -> Callable[..., Any]:
        function = type(module).forward if now is None else getattr(now, "__func__", None)
        own = now is None or getattr(now, "__self__", None) is module
        if own and isinstance(function, FunctionType):
            if function not in self._copies:
                self._copies[function] = self._owned(_copy_of_forward(function))
            return MethodType(self._copies[function], module)

        # Somebody else's forward, such as one that is compiled by itself: called, since it can't be copied.
        def forward(*args: Any, **kwargs: Any) -> Any:
            return now(*args, **kwargs)

        return self._owned(_copy_of_forward(forward))

    def _owned(self, function: FunctionType) -> FunctionType:
        vars(function)[_STATE] = self._state
        return function


def _drop_dead_graphs() -> None:
    """Let go of graphs that belonged to marks that are gone, before torch.compile counts them as too many.

    At ``recompile_limit`` graphs of one function it would go on without compiling, or raise where there must be one
    graph. A function's graphs are dropped together, so those that are wanted are made again.
    """
    frames: Any = sys.modules.get("torch._dynamo.convert_frame")
    graphs = sys.modules.get("torch._dynamo.eval_frame")
    entries_of, reset = getattr(graphs, "_debug_get_cache_entry_list", None), getattr(graphs, "reset_code", None)
    tracker = getattr(frames, "input_codes", None)
    if tracker is None or entries_of is None or reset is None:
        return  # private parts that another version of torch has elsewhere
    for code in [code for known in tracker.seen if (code := known()) is not None]:
        managers = [type(entry.guard_manager).__name__ for entry in entries_of(code)]
        if managers.count("DeletedGuardManagerWrapper") >= MOST_DEAD:
            with frames.compile_lock:
                reset(code)


def _state_of_mark(forward: Any) -> _State | None:
    state = getattr(forward, _STATE, None)
    return state if isinstance(state, _State) else None


def _copy_of_forward(function: Callable[..., Any]) -> FunctionType:
    """A function that does the same and whose code is another object."""
    assert isinstance(function, FunctionType)
    code = function.__code__.replace()
    copy = FunctionType(code, function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    vars(copy).update(vars(function))
    return copy
