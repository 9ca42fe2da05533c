"""What is remembered of sequences while they grow, by the cache that holds their keys and values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MethodType
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from steerkit.engine.sequence.positions import FAR
from steerkit.errors import PositionError, agreeing, counted
from steerkit.types import Positions

if TYPE_CHECKING:
    from steerkit.api.intervention import Gate


@dataclass
class Sequences:
    """What is known of the rows of one batch.

    Args:
        tokens: ``[rows, columns]``, padding included, or None where nobody asked.
        found: per ``from_token`` positions the first column that is meant, ``[rows]``, and how many were looked at.
        projections: per gate that prompts decide, ``[rows, columns]``; NaN where its site didn't see the column.
        decided: per gate whether it is open, ``[rows]``, and the ends of the prompts that decided it; None where an
            extra pass did.
        columns: how many were read, with those of the pass that runs.
    """

    tokens: Tensor | None = None
    found: dict[Positions, tuple[Tensor, int]] = field(default_factory=dict)
    projections: dict[Gate, Tensor] = field(default_factory=dict)
    decided: dict[Gate, tuple[Tensor, Tensor | None]] = field(default_factory=dict)
    columns: int = 0

    def cut(self, columns: int) -> None:
        """Forget what lies behind: a cache may have been cropped."""
        if self.tokens is not None and self.tokens.shape[1] > columns:
            self.tokens = self.tokens[:, :columns]
            for positions, (first, seen) in self.found.items():
                self.found[positions] = (torch.where(first > columns, FAR, first), min(seen, columns))
        for gate, values in self.projections.items():
            self.projections[gate] = values[:, :columns]
        for gate, (_, ends) in list(self.decided.items()):
            if ends is not None and bool((ends > columns).any()):
                del self.decided[gate]

    def add_tokens(self, ids: Tensor, start: int) -> None:
        """Take in the tokens of a pass, ``[rows, length]``, that begin at a column."""
        if not start:
            self.tokens = ids
            return
        if self.tokens is None or self.tokens.shape[1] < start:
            raise PositionError(
                "from_token needs the whole sequence, and its beginning was read before the steering, or into a cache "
                "that the model made itself: pass past_key_values=DynamicCache(config=model.config) from the start."
            )
        if ids.shape[0] % self.tokens.shape[0]:
            raise PositionError(
                f"{counted(ids.shape[0], 'row')} {agreeing(ids.shape[0], 'goes', 'go')} on where "
                f"{self.tokens.shape[0]} "
                f"{agreeing(self.tokens.shape[0], 'was', 'were')} read."
            )
        times = ids.shape[0] // self.tokens.shape[0]
        self.tokens = torch.cat([self.tokens.repeat_interleave(times, 0), ids], 1)
        if times > 1:
            self.found = {key: (one.repeat_interleave(times), seen) for key, (one, seen) in self.found.items()}

    def add_projections(self, gate: Gate, rows: Tensor, values: Tensor, start: int, length: int) -> None:
        """Take in what a gate's site saw in a pass.

        Args:
            gate: the gate.
            rows: ``[rows]``, which ones it is read for now.
            values: ``[rows, pos]``, of the last columns of the pass.
            start: first column of the pass.
            length: number of its columns.
        """
        missing = values.new_full((values.shape[0], length - values.shape[1]), torch.nan)
        now = torch.cat([missing, values], 1)
        before = self.projections.get(gate, values.new_zeros(values.shape[0], 0))
        # Another row of this pass may have been read already, or nothing of what came before.
        known = before[:, start : start + length]
        if known.shape[1] == length:
            now = torch.where(rows.to(now.device)[:, None], now, known)
        gap = values.new_full((values.shape[0], max(start - before.shape[1], 0)), torch.nan)
        self.projections[gate] = torch.cat([before[:, :start], gap, now], 1)

    def reorder(self, order: Tensor) -> None:
        """Rows change places, as beams do."""
        order = order.cpu()
        self.tokens = None if self.tokens is None else self.tokens[order]
        self.found = {key: (columns[order], seen) for key, (columns, seen) in self.found.items()}
        self.projections = {gate: values[order.to(values.device)] for gate, values in self.projections.items()}
        self.decided = {
            gate: (is_open[order.to(is_open.device)], None if ends is None else ends[order])
            for gate, (is_open, ends) in self.decided.items()
        }


Memory: TypeAlias = WeakKeyDictionary[Any, Sequences]

_FOLLOWED: WeakKeyDictionary[Any, Memory] = WeakKeyDictionary()


CACHES: Final = ("past_key_values", "cache_params", "state")
"""Under which names models are given what they keep of earlier tokens."""


def cache_among(arguments: Mapping[str, Any]) -> Any:
    """What a pass is given of earlier tokens, among its keyword arguments; None where it begins."""
    return next((value for name in CACHES if (value := arguments.get(name)) is not None), None)


def columns_read(cache: Any, memory: Memory) -> int:
    """How many columns a cache was made of. One that holds states alone doesn't count: then it is remembered.

    Raises:
        PositionError: where nobody knows.
    """
    if cache is None:
        return 0
    try:
        return int(cache.get_seq_length())
    except (ValueError, AttributeError):
        pass
    try:
        known = memory.get(cache)
    except TypeError:  # a plain list, which nobody can be told to remember
        known = None
    if known is not None:
        return known.columns
    if _is_empty(cache):
        return 0
    raise PositionError(
        "This cache holds states that don't tell how many tokens they were made of, and it was begun before the "
        "steering, or by the model itself. Give whole sequences without it, or pass a new one from the start."
    )


def _is_empty(cache: Any) -> bool:
    """Whether nothing was read into it yet. What caches of states say of themselves isn't true for all of them."""
    layers = getattr(cache, "layers", None)
    return layers is not None and not any(_holds_tensor(value) for layer in layers for value in vars(layer).values())


def _holds_tensor(value: object) -> bool:
    if isinstance(value, (list, tuple, dict)):
        return any(map(_holds_tensor, value.values() if isinstance(value, dict) else value))
    return isinstance(value, Tensor)


def follow_cache(cache: Any, memory: Memory) -> None:
    """Have a cache tell when beams change places: what is remembered of rows moves with their keys and values."""
    if hasattr(cache, "reorder_cache"):
        _FOLLOWED[cache] = memory
        # Bound, so that a copy of the cache has a method of the copy.
        vars(cache)["reorder_cache"] = MethodType(_reorder_cache, cache)


def leave_caches(caches: Iterable[Any]) -> None:
    """Take off caches what ``follow`` put on them."""
    for cache in list(caches):
        if _FOLLOWED.pop(cache, None) is not None:
            vars(cache).pop("reorder_cache", None)


def _reorder_cache(cache: Any, beam_idx: Tensor) -> Any:
    memory = _FOLLOWED.get(cache)
    if memory is not None and cache in memory:
        memory[cache].reorder(beam_idx)
    return type(cache).reorder_cache(cache, beam_idx)
