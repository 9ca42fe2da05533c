"""Passes that are looked at: in eval mode, without gradients, without what torch.compile made of them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run the body without dropout and gradients; every module's mode is put back."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


_LOCK = threading.Lock()
_eager = 0
_stance: Any = None


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run the body's passes without what torch.compile made of them, and compile nothing.

    For passes with hooks that are there once. What other threads run meanwhile is slower, and the same.
    """
    global _eager, _stance
    set_stance = getattr(torch.compiler, "set_stance", None)
    if set_stance is None or "torch._dynamo" not in sys.modules:
        yield
        return
    entered = False
    try:
        with _LOCK:
            # Counted, since contexts of two threads don't close in the order in which they opened.
            _eager, entered = _eager + 1, True
            if _eager == 1:
                _stance = set_stance("force_eager")
        yield
    finally:
        with _LOCK:
            _eager -= entered
            if entered and _eager == 0:
                _stance.__exit__(None, None, None)
