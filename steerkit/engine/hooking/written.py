"""Whether somebody wrote into a tensor: also by way of `.data`, which torch doesn't count."""

from __future__ import annotations

from typing import Final, TypeAlias

import torch
from torch import Tensor

State: TypeAlias = tuple[object, ...]
"""Where a tensor's numbers lie, and sums of their bits."""

_WORDS: Final = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_STRIDE: Final = 4093
"""Words of 64 bits that are summed up together lie so far apart. A prime, so that what changes places is seen too."""


@torch.no_grad()
def state_of_tensor(value: Tensor) -> State:
    """What tells a tensor from what it is once somebody has written into it. Reads all of it, and copies little.

    Args:
        value: ``[*]``, of any dtype with at most 64 bits.
    """
    flat = value.detach().reshape(-1)
    if flat.storage_offset() * flat.element_size() % 8:
        flat = flat.clone()
    whole = flat.numel() * flat.element_size() // (8 * _STRIDE) * _STRIDE
    summed = whole * 8 // flat.element_size()
    # Whole words: those of a narrower dtype would be converted one by one, which takes ten times as long.
    sums = _sums(flat[:summed].view(torch.int64).view(-1, _STRIDE))
    return value.data_ptr(), sums, flat[summed:].view(_WORDS[flat.element_size()]).clone()


def _sums(words: Tensor) -> Tensor:
    """``[n, stride]`` to ``[stride]``."""
    # NumPy goes along the rows, as they lie in memory; torch sums up column by column, which takes twice as long.
    return torch.from_numpy(words.numpy().sum(0)) if words.device.type == "cpu" else words.sum(0)


def states_equal(one: State, other: State) -> bool:
    """Whether nobody wrote between two looks."""
    return len(one) == len(other) and all(
        torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a == b
        for a, b in zip(one, other, strict=True)
    )
