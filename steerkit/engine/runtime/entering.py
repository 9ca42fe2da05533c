"""What does something in a ``with`` statement only, and says so where somebody leaves the ``with`` out."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Any, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
ResultT = TypeVar("ResultT")


class Entering(AbstractContextManager[T], Generic[T]):
    """A context that was asked for. Entered once; or put before a function as a decorator, for each of its calls.

    Args:
        make: makes the context that is entered.
        called: what was called, as its user wrote it.
    """

    def __init__(self, make: Callable[[], AbstractContextManager[T]], called: str) -> None:
        self._used = True  # until it is whole: what raises here was told
        self._make, self._called = make, called
        self._inner = make()
        self._used = False

    def __enter__(self) -> T:
        self._used = True
        return self._inner.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return self._inner.__exit__(kind, error, traceback)

    def __call__(self, function: Callable[P, ResultT]) -> Callable[P, ResultT]:
        """The function, run inside."""
        self._used = True

        @functools.wraps(function)
        def inside(*args: P.args, **kwargs: P.kwargs) -> ResultT:
            with self._make():
                return function(*args, **kwargs)

        return inside

    def __repr__(self) -> str:
        return f"<{self._called}(...)>" if self._used else f"<{self._advice}>"

    @property
    def _advice(self) -> str:
        return f"{self._called}(...) alone does nothing: write `with {self._called}(...):` and what is run under it"

    def __del__(self) -> None:
        if not self._used and not sys.is_finalizing():
            warnings.warn(f"{self._advice}.", UserWarning, stacklevel=2)


def entered(function: Callable[P, Iterator[T]]) -> Callable[P, Entering[T]]:
    """As ``contextmanager``, for a method of a live model; what is never entered warns."""
    managed = contextmanager(function)

    @functools.wraps(function)
    def asked(*args: P.args, **kwargs: P.kwargs) -> Entering[Any]:
        return Entering(lambda: managed(*args, **kwargs), f"model.{function.__name__}")

    return asked
