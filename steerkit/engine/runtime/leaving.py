"""Completions of a batch whose rows leave it once they have ended, so that the rest is written faster.

What a token becomes follows from its own row; a row less beside it changes what float products round, and nothing else.
Rows leave where nothing is remembered of them from pass to pass but their keys and values: a gate, or a text that is
looked for, keeps more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from steerkit.engine.lowering.edits import Steer
from steerkit.engine.runtime.blocks import Group
from steerkit.engine.runtime.caches import keep_rows
from steerkit.engine.runtime.generation import GREEDY, end_ids, until_end, write_tokens
from steerkit.types import FROM_TOKEN

if TYPE_CHECKING:
    from transformers import Cache

    from steerkit.api.intervention import Placement
    from steerkit.engine.prompts.batches import Batch
    from steerkit.engine.runtime.runtime import Runtime

SHARE: Final = 8
"""Rows leave once one in so many has ended,"""
SPARED: Final = 128
"""and that spares so many tokens: a batch that goes on is about as much work as a few passes."""


def may_leave(live: Runtime, batch: Batch, steer: Sequence[Steer] | None) -> bool:
    """Whether nothing is remembered of a row but its keys and values."""
    groups = [block.group for block in live.steering.shared.here()]
    groups.append(Group.of_rows(None if steer is None else [steer[index] for index in batch.order]))
    return not any(_is_remembered(placement) for group in groups for placement in _placements(group))


def _placements(group: Group) -> Iterable[Placement]:
    return (*group.interventions, *(placement for row in group.rows or () for placement in row))


def _is_remembered(placement: Placement) -> bool:
    return placement.gate is not None or placement.positions.role == FROM_TOKEN


class Leaving:
    """Has ``generate`` stop where enough rows have ended; as one of its stopping criteria.

    Args:
        ends: end tokens.
        max_new_tokens: most new tokens that it writes.
    """

    def __init__(self, ends: frozenset[int], max_new_tokens: int) -> None:
        self.ends, self.left = torch.tensor(sorted(ends)), max_new_tokens
        self.ended: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Whether each row is done, ``[rows]``: all, or none beside those that ``generate`` knows of."""
        now = torch.isin(input_ids[:, -1], self.ends.to(input_ids.device))
        self.ended = now if self.ended is None else self.ended | now
        self.left -= 1
        rows, ended = int(self.ended.numel()), int(self.ended.sum())
        enough = ended * SHARE >= rows and ended * self.left >= SPARED
        return torch.full_like(now, enough)


def complete_leaving(
    live: Runtime, batch: Batch, cache: Cache, *, max_new_tokens: int, steer: Sequence[Steer] | None
) -> list[list[int]]:
    """New tokens of every row, greedy, up to and without the end token.

    Args:
        live: the model.
        batch: prompts, padded on the left, whose common beginning lies apart.
        cache: keys and values of that beginning, for every row. It is written on.
        max_new_tokens: most new tokens.
        steer: a condition for each text that was batched. See ``may_leave``.
    """
    ends, left = end_ids(live.model, {}), max_new_tokens
    rows = list(range(len(batch.order)))
    written: list[list[int]] = [[] for _ in rows]
    while rows and left:
        leaving = Leaving(ends, left)
        settings = {**GREEDY, "past_key_values": cache, "stopping_criteria": [leaving]}
        with live.running(batch, steer=steer):
            tokens = write_tokens(live.model, batch, max_new_tokens=left, pad_id=live.pad_id, settings=settings)
        for row, new in zip(rows, tokens.tolist(), strict=True):
            written[row] += new
        left -= tokens.shape[1]
        assert leaving.ended is not None  # a token at least was written
        going_on = [place for place, ended in enumerate(leaving.ended.tolist()) if not ended]
        rows = [rows[place] for place in going_on]
        if rows and left:
            keep_rows(cache, going_on)
            batch = _behind(batch, tokens, going_on)
    return [until_end(row, ends, live.pad_id) for row in written]


def _behind(batch: Batch, tokens: Tensor, rows: Sequence[int]) -> Batch:
    """Some rows of a batch with the tokens that were written behind them."""
    ids, mask = torch.cat([batch.input_ids, tokens], 1), batch.attention_mask
    return replace(
        batch,
        order=tuple(batch.order[row] for row in rows),
        input_ids=ids[list(rows)],
        attention_mask=torch.cat([mask, torch.ones_like(tokens, dtype=torch.bool)], 1)[list(rows)],
        frame=batch.frame.select(tuple(rows)),
    )
