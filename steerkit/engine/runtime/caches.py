"""Keys and values of a common beginning, for all the rows that begin with it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
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


def cache_for_rows(caches: Sequence[Cache], row_of: Sequence[int], columns: int = 0) -> Cache:
    """A cache of many rows, to be written on, from some that hold a few rows each.

    Args:
        caches: of as many layers.
        row_of: for each row its place among the rows of all ``caches``, one cache after the other.
        columns: for how many columns there is to be room, where it is written on token by token; 0 where it isn't.
    """
    found = new_cache()
    if columns:
        found.layer_class_to_replicate = roomy_layer(columns)
    for layer, held in enumerate(zip(*(cache.layers for cache in caches), strict=True)):
        keys, values = zip(*map(keys_and_values, held), strict=True)
        found.update(for_rows(keys, row_of), for_rows(values, row_of), layer)
    return found


@lru_cache(maxsize=64)
def roomy_layer(columns: int) -> type[Any]:
    """A layer of a cache that holds what transformers' own does, with room for so many columns in all, so that a new
    token doesn't copy all that came before. A class for each number, since caches make their layers without arguments.
    """
    from transformers.cache_utils import DynamicLayer

    class RoomyLayer(DynamicLayer):
        """Keys and values are the first columns of tensors that have room for more."""

        rooms: tuple[Tensor, Tensor] | None = None

        def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
            """Take in the next columns ``[rows, heads, pos, width]``; gives all of them."""
            start = self.get_seq_length()
            end = start + key_states.shape[-2]
            if not start or end > columns or torch.is_grad_enabled():
                self.rooms = None  # what gradients go through isn't written over
                return super().update(key_states, value_states, *args, **kwargs)
            held, rooms = keys_and_values(self), self.rooms
            if rooms is None or not all(map(_begins, held, rooms)):
                rooms = self.rooms = _room_for(held[0], columns), _room_for(held[1], columns)
            for new, room in zip((key_states, value_states), rooms, strict=True):
                room[..., start:end, :] = new
            self.keys, self.values = rooms[0][..., :end, :], rooms[1][..., :end, :]
            return self.keys, self.values

        def batch_select_indices(self, indices: Tensor) -> None:
            """Keep some rows."""
            super().batch_select_indices(indices)
            self.rooms = None

    return RoomyLayer


def _begins(held: Tensor, room: Tensor) -> bool:
    """Whether what is held are a room's first columns: who picks or reorders it puts other tensors in its place."""
    same = held.data_ptr() == room.data_ptr() and held.stride() == room.stride()
    return same and held.shape[:-2] == room.shape[:-2]


def _room_for(held: Tensor, columns: int) -> Tensor:
    *rows, start, width = held.shape
    room = held.new_empty(*rows, columns, width)
    room[..., :start, :] = held
    return room


def for_rows(values: Sequence[Tensor], row_of: Sequence[int]) -> Tensor:
    """Rows of some values ``[n, *]``, one after the other, picked and repeated; one for all is not copied."""
    if len(values) == 1 and values[0].shape[0] == 1:
        return values[0].expand(len(row_of), *values[0].shape[1:])
    joined = torch.cat(list(values)) if len(values) > 1 else values[0]
    return joined[torch.tensor(list(row_of), device=joined.device)]
