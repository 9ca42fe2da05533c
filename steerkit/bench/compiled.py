"""Calls under ``torch.compile`` with a static cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from steerkit.bench.workloads import MOST_STEPS, Call

if TYPE_CHECKING:
    from steerkit.engine.live import LiveModel


class CompiledCalls:
    """A compiled call for each case, each made on the model as it is when it runs first.

    torch keeps what it compiled with the code object of the function, and does not look at hooks when it decides
    whether that still fits. So each case has a function of its own: what was compiled for one is never run for another.

    Args:
        live: the model.
    """

    def __init__(self, live: LiveModel) -> None:
        self._live = live
        self._made: dict[str, Call] = {}

    def of(self, name: str) -> Call:
        """The call of a case, the same one each time."""
        if name not in self._made:
            scope: dict[str, Any] = {"model": self._live.hf_model}
            exec("def call(*args, **kwargs):\n    return model(*args, **kwargs)", scope)
            on_gpu = self._live.device.type == "cuda"
            self._made[name] = torch.compile(
                scope["call"], fullgraph=True, dynamic=False, mode="reduce-overhead" if on_gpu else None
            )
        return self._made[name]


def static_cache(live: LiveModel, length: int) -> Callable[[], Any]:
    """Gives an empty static cache with room for a prompt and the steps behind it: the same one, since a CUDA graph
    holds on to its addresses."""
    from transformers import StaticCache

    cache: Any = StaticCache(config=live.hf_model.config, max_cache_len=length + MOST_STEPS + 8)

    def empty() -> Any:
        cache.reset()
        return cache

    return empty
