"""The one operation that edits: opaque to compilers, in place, and known to a graph by an address alone.

It is an operation of torch's own library, so that a traced model keeps a call where its layers had one, whatever is
loaded later; what it does is ``bank.Place.edit_``. Layers of one kind trace to one graph, since no layer's number is an
argument: a place is found by where its key lies.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from steerkit_vllm.bank import Bank, Place

NAMESPACE: Final = "steerkit_vllm"
_PLACES: dict[int, tuple[Place, Bank]] = {}

_library = torch.library.Library(NAMESPACE, "DEF")
_library.define("edit_(Tensor(a!) x, Tensor? base, Tensor key) -> ()")


def register(bank: Bank) -> None:
    """Make a bank's places known to the operation."""
    for place in bank.places.values():
        _PLACES[place.key.data_ptr()] = place, bank


def unregister(bank: Bank) -> None:
    """Forget a bank's places."""
    for place in bank.places.values():
        _PLACES.pop(place.key.data_ptr(), None)


def _edit(x: Tensor, base: Tensor | None, key: Tensor) -> None:
    # A key that nobody knows ends the pass: it would go on unsteered.
    place, bank = _PLACES[key.data_ptr()]
    place.runs += 1
    if place.is_active or x.device.type != "cpu":
        place.edit_(x, base, bank.weights[: len(x)])


def _edit_shape(x: Tensor, base: Tensor | None, key: Tensor) -> None:
    """What a tracer needs to know: nothing comes out."""


_library.impl("edit_", _edit, "CompositeExplicitAutograd")
torch.library.register_fake(f"{NAMESPACE}::edit_", _edit_shape, lib=_library)

edit_: Any = torch.ops.steerkit_vllm.edit_.default
