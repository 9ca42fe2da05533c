"""Calls under ``torch.compile`` with a static cache, and cases on sites that were prepared for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch

from steerkit.bench.conditions import Case, steered
from steerkit.bench.workloads import MOST_STEPS, Call
from steerkit.engine.hooking.prepared import Prepared

if TYPE_CHECKING:
    from steerkit.session.model import LiveModel

ROOM = 16
"""Columns of a static cache beside the prompt and the steps of a sample."""


class Compiled:
    """A compiled call for each case, and each case as it is put on a compiled model.

    Every case has a function of its own: all share what torch keeps with one code object, which is bounded.

    Args:
        live: the model.
    """

    def __init__(self, live: LiveModel) -> None:
        self._live = live
        self._calls: dict[str, Call] = {}
        self._prepared: dict[int, Prepared] = {}

    def call(self, name: str) -> Call:
        """The call of a case, the same one each time."""
        if name not in self._calls:
            how = "reduce-overhead" if self._live.device.type == "cuda" else None
            function = _own_function(self._live.hf_model)
            self._calls[name] = torch.compile(function, fullgraph=True, dynamic=False, mode=how)
        return self._calls[name]

    @contextmanager
    def steered(self, condition: Case, mode: str) -> Iterator[None]:
        """Run the body under a condition: parameters swapped, or prepared sites filled.

        The places of a case are prepared once and come back as they were, so that its graph is compiled once.
        """
        if mode == "fold" and condition.rows is None:
            with steered(self._live, condition, mode):
                yield
            return
        listed = condition.shared if condition.rows is None else [one for row in condition.rows for one in row]
        live, rows = self._live, 1 if condition.rows is None else len(condition.rows)
        if id(condition) not in self._prepared:
            self._prepared[id(condition)] = Prepared(live.hf_model, live.layout, list(listed), 0, rows)
        with live.steering.prepare(self._prepared[id(condition)]), steered(live, condition, "hook"):
            yield


def _own_function(model: Call) -> Call:
    """A function that calls the model, with a code object that no other one has."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return model(*args, **kwargs)

    return FunctionType(call.__code__.replace(), call.__globals__, "call", None, call.__closure__)


def static_cache(live: LiveModel, length: int) -> Callable[[], Any]:
    """Gives an empty static cache with room for a prompt and the steps behind it.

    It is the same one each time, since a CUDA graph holds on to its addresses.
    """
    from transformers import StaticCache

    cache: Any = StaticCache(config=live.hf_model.config, max_cache_len=length + MOST_STEPS + ROOM)

    def empty() -> Any:
        cache.reset()
        return cache

    return empty
