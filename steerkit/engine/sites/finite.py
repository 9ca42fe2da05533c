"""Which parameters of a model aren't finite: the first thing to look for where a model isn't what it should be."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Final

import torch
from torch import nn

from steerkit.engine.parallel.shards import share_of

_SHOWN: Final = 5


def not_finite(model: nn.Module) -> tuple[str, ...]:
    """What is wrong with parameters and buffers that hold NaN or infinite values, by name, in the order of the model.

    Buffers are looked at as well: some multiply what a block gives.
    """
    found = []
    for name, given in chain(model.named_parameters(), model.named_buffers()):
        value = share_of(given)
        if not value.is_floating_point() or value.is_meta:
            continue
        with torch.no_grad():
            # A sum tells at a glance that all are finite; one that isn't may have overflowed.
            if bool(torch.isfinite(value.sum(dtype=torch.float64))):
                continue
            broken = int((~torch.isfinite(value)).sum())
        if broken:
            found.append(f"{name} ({broken:,} of {value.numel():,})")
    return tuple(found)


def told(model_type: str, broken: Sequence[str]) -> str:
    """What a user is told of a model with such parameters."""
    shown = ", ".join(broken[:_SHOWN]) + (", and others" if broken[_SHOWN:] else "")
    return (
        f"The weights of this {model_type!r} model hold NaN or infinite values: {shown}. Whatever it computes would be "
        "wrong, so it is refused. Copy or download its weights anew; where they are larger than float16 can hold, load "
        "them with dtype float32 or bfloat16."
    )
