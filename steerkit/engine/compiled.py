"""Hooks that torch.compile sees.

A compiled graph holds the hooks that were there when it was traced, and by default nothing looks at them again
(``torch._dynamo.config.skip_nnmodule_hook_guards``): a hook that comes later is ignored, one that is gone goes on.
What every graph does look at is whether a module that it calls has a ``forward`` of its own, since people patch
it, and then at that function's code. So for as long as it has a hook of ours, a module gets a ``forward`` of its own,
which is its class's with a code object of its own. Graphs from before no longer fit, and are traced anew at the next
call; once the hook and that ``forward`` are gone, the old graphs fit again and those with the hook don't.

Nothing is slower for it: it is the same bytecode, called in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import FunctionType, MethodType
from typing import Any

from torch import nn

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
        """Mark them."""
        self._state.active = True
        for module in self.modules:
            now = vars(module).get("forward")
            if _state(now) is not self._state:
                self._state.hidden[module] = now
                vars(module)["forward"] = self._mark(module, now)

    def clear(self) -> None:
        """Have them as they were."""
        self._state.active = False
        for module in self.modules:
            now = found = vars(module).get("forward")
            while (state := _state(found)) is not None and not state.active:
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
                self._copies[function] = self._owned(_copy(function))
            return MethodType(self._copies[function], module)

        # Somebody else's forward, such as one that is compiled by itself: called, since it can't be copied.
        def forward(*args: Any, **kwargs: Any) -> Any:
            return now(*args, **kwargs)

        return self._owned(_copy(forward))

    def _owned(self, function: FunctionType) -> FunctionType:
        vars(function)[_STATE] = self._state
        return function


def _state(forward: Any) -> _State | None:
    state = getattr(forward, _STATE, None)
    return state if isinstance(state, _State) else None


def _copy(function: FunctionType) -> FunctionType:
    """A function that does the same and whose code is another object."""
    code = function.__code__.replace()
    copy = FunctionType(code, function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    vars(copy).update(vars(function))
    return copy
