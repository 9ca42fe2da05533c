"""Keys and values of a common beginning, for all the rows that begin with it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache as once
from typing import TYPE_CHECKING, Any, Final

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
    found.layer_class_to_replicate = roomy_layer()
    for layer, held in enumerate(zip(*(cache.layers for cache in caches), strict=True)):
        keys, values = zip(*map(keys_and_values, held), strict=True)
        found.update(for_rows(keys, row_of), for_rows(values, row_of), layer)
    return found


def keep_rows(cache: Cache, rows: Sequence[int]) -> None:
    """Have a cache hold some of its rows only."""
    for layer in cache.layers:
        held: Any = layer
        chosen = torch.tensor(list(rows), device=held.keys.device)
        held.keys, held.values = held.keys[chosen], held.values[chosen]


_ROOM: Final = 64
"""Columns that there is room for beyond those that are held, at least."""


@once
def roomy_layer() -> type[Any]:
    """A layer of a cache that holds what transformers' own does, without copying all of it at each new token."""
    from transformers.cache_utils import DynamicLayer

    class RoomyLayer(DynamicLayer):
        """Keys and values are the first columns of tensors that have room for more."""

        rooms: tuple[Tensor, Tensor] | None = None

        def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
            """Take in the next columns ``[rows, heads, pos, width]``; gives all of them."""
            held = (self.keys, self.values) if self.get_seq_length() else None
            if held is None or torch.is_grad_enabled():  # what gradients go through isn't written over
                return super().update(key_states, value_states, *args, **kwargs)
            news = (key_states, value_states)
            start, end = held[0].shape[-2], held[0].shape[-2] + key_states.shape[-2]
            rooms = self.rooms
            if rooms is None or not all(_begins(one, room, end) for one, room in zip(held, rooms, strict=True)):
                rooms = self.rooms = _room_for(held[0], end), _room_for(held[1], end)
                for one, room in zip(held, rooms, strict=True):
                    room[..., :start, :] = one
            for new, room in zip(news, rooms, strict=True):
                room[..., start:end, :] = new
            self.keys, self.values = rooms[0][..., :end, :], rooms[1][..., :end, :]
            return self.keys, self.values

    return RoomyLayer


def _begins(held: Tensor, room: Tensor, end: int) -> bool:
    """Whether what is held are a room's first columns, and it has as many as are wanted. Who crops, picks or reorders
    what is held puts other tensors in its place."""
    same = held.data_ptr() == room.data_ptr() and held.stride() == room.stride()
    return same and held.shape[:-2] == room.shape[:-2] and end <= room.shape[-2]


def _room_for(held: Tensor, end: int) -> Tensor:
    *rows, _, width = held.shape
    return held.new_empty(*rows, end + max(_ROOM, end // 2), width)


def for_rows(values: Sequence[Tensor], row_of: Sequence[int]) -> Tensor:
    """Rows of some values ``[n, *]``, one after the other, picked and repeated; one for all is not copied."""
    if len(values) == 1 and values[0].shape[0] == 1:
        return values[0].expand(len(row_of), *values[0].shape[1:])
    joined = torch.cat(list(values)) if len(values) > 1 else values[0]
    return joined[torch.tensor(list(row_of), device=joined.device)]
