"""Keys and values of a common beginning, for all the rows that begin with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import Cache


def new_cache() -> Cache:
    """An empty cache that keeps all keys and values of every layer, those of sliding ones too."""
    from transformers import DynamicCache

    return DynamicCache()


def keys_and_values(layer: Any) -> tuple[Tensor, Tensor]:
    """What a layer of a cache holds. Raises ``AttributeError`` for one that holds something else."""
    keys, values = layer.keys, layer.values
    if not isinstance(keys, Tensor) or not isinstance(values, Tensor):
        raise AttributeError("a layer of the cache holds no keys and values")
    return keys, values


def cache_for_rows(caches: Sequence[Cache], row_of: Sequence[int]) -> Cache:
    """A cache of many rows, to be written on, from some that hold a few rows each.

    Args:
        caches: of as many layers.
        row_of: for each row its place among the rows of all ``caches``, one cache after the other.
    """
    found = new_cache()
    for layer, held in enumerate(zip(*(cache.layers for cache in caches), strict=True)):
        keys, values = zip(*map(keys_and_values, held), strict=True)
        found.update(for_rows(keys, row_of), for_rows(values, row_of), layer)
    return found


def for_rows(values: Sequence[Tensor], row_of: Sequence[int]) -> Tensor:
    """Rows of some values ``[n, *]``, one after the other, picked and repeated; one for all is not copied."""
    if len(values) == 1 and values[0].shape[0] == 1:
        return values[0].expand(len(row_of), *values[0].shape[1:])
    joined = torch.cat(list(values)) if len(values) > 1 else values[0]
    return joined[torch.tensor(list(row_of), device=joined.device)]
