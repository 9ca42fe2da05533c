"""Blocks that are computed again for gradients (gradient checkpointing): under the pass that they belong to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, Final, TypeAlias

from torch import nn

FUNCTION: Final = "_gradient_checkpointing_func"
"""Where transformers keeps what a module runs its blocks with."""

GoingBack: TypeAlias = Callable[[tuple[Any, ...]], AbstractContextManager[None]]
"""Goes back to a pass for the body of a ``with``, in which a block is computed again from given arguments."""
Remember: TypeAlias = Callable[[tuple[Any, ...]], GoingBack]
"""Takes note of the running pass, and of a block's arguments in it."""


def checkpointed(base: nn.Module) -> list[nn.Module]:
    """Modules that could run blocks so that they are computed again."""
    return [module for module in base.modules() if hasattr(module, "gradient_checkpointing")]


class Bound:
    """Modules whose blocks, where they are computed again, go back to the pass that they were first computed in.

    Args:
        modules: of ``checkpointed``.
        remember: of the pass that is about to run.
    """

    def __init__(self, modules: Iterable[nn.Module], remember: Remember) -> None:
        self._undo: list[tuple[nn.Module, Any]] = []
        for module in modules:
            function = vars(module).get(FUNCTION)
            if function is not None and module.training and getattr(module, "gradient_checkpointing", False):
                self._undo.append((module, function))
                vars(module)[FUNCTION] = _bound_checkpoint(function, remember)

    def release(self) -> None:
        """Have the modules as they were. May be repeated."""
        for module, function in self._undo:
            vars(module)[FUNCTION] = function
        self._undo = []


def _bound_checkpoint(checkpoint: Callable[..., Any], remember: Remember) -> Callable[..., Any]:
    def run(block: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return checkpoint(_Again(block, remember(args)), *args, **kwargs)

    return run


class _Again:
    """A block that is run once, and perhaps again, from whatever thread."""

    def __init__(self, block: Callable[..., Any], going_back: GoingBack) -> None:
        self._block, self._going_back, self._ran = block, going_back, False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self._ran:
            self._ran = True
            return self._block(*args, **kwargs)
        with self._going_back(args):
            return self._block(*args, **kwargs)
