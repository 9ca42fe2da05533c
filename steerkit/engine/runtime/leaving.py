"""Completions of a batch whose rows leave it once they have ended, so that the rest is written faster.

What a token becomes follows from its own row; a row less beside it changes what float products round, and nothing else.
Rows leave where a common beginning was read apart, and decoding is plain and greedy: then nothing is remembered of them
from pass to pass but their keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from steerkit.engine.lowering.edits import Steer
from steerkit.engine.runtime.ending import Ending, Listener, Written, until_end
from steerkit.engine.runtime.generation import GREEDY, end_ids, write_tokens

if TYPE_CHECKING:
    from transformers import Cache

    from steerkit.engine.prompts.batches import Batch
    from steerkit.engine.runtime.runtime import Runtime

SHARE: Final = 8
"""Rows leave once one in so many has ended."""
SPARED: Final = 128
"""They leave where that spares so many tokens: to go on with a batch is about as much work as a few passes."""
EVERY: Final = 4
"""It is looked at every so many tokens: to look, a device is waited for."""

_PLAIN: Final = (
    frozenset(GREEDY)
    | {"eos_token_id", "pad_token_id", "bos_token_id", "max_length", "max_new_tokens", "use_cache"}
    | {"min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"}
    | {"output_attentions", "output_hidden_states", "transformers_version", "_from_model_config"}
)
"""Settings of a checkpoint's own that change nothing where decoding begins anew behind what is written: those that
plain greedy decoding sets or doesn't look at, and token ids."""


def may_leave(live: Runtime) -> bool:
    """Whether no setting of the checkpoint's own counts from where decoding began, as a least number of new tokens
    does. (A text that is looked for, and a gate that prompts decide, are remembered of a row too; batches that hold
    such rows have no beginning read apart.)"""
    own: Any = live.model.generation_config
    return live.rows_leave and (own is None or set(own.to_diff_dict()) <= _PLAIN)


class Leaving:
    """Has ``generate`` stop where enough rows have ended; as one of its stopping criteria.

    Args:
        ends: end tokens.
        max_new_tokens: most new tokens that it writes.
        device: where tokens are.
    """

    def __init__(self, ends: frozenset[int], max_new_tokens: int, device: torch.device) -> None:
        self.ends, self.left = torch.tensor(sorted(ends), dtype=torch.long, device=device), max_new_tokens
        self.ended: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Whether each row is done, ``[rows]``: all, or none beside those that ``generate`` knows of."""
        now = torch.isin(input_ids[:, -1], self.ends)
        self.ended = now if self.ended is None else self.ended | now
        self.left -= 1
        if self.left % EVERY:
            return torch.zeros_like(now)
        rows, ended = int(self.ended.numel()), int(self.ended.sum())
        return torch.full_like(now, ended * SHARE >= rows and ended * self.left >= SPARED)


def complete_leaving(
    live: Runtime,
    batch: Batch,
    cache: Cache,
    *,
    max_new_tokens: int,
    steer: Sequence[Steer] | None,
    listener: Listener | None = None,
) -> list[Written]:
    """New tokens of every row, greedy, up to and without the end token, and why each ends.

    Args:
        live: the model.
        batch: prompts, padded on the left, whose common beginning lies apart.
        cache: keys and values of that beginning, for every row. It is written on.
        max_new_tokens: most new tokens.
        steer: a condition for each text that was batched.
        listener: is told of every token.
    """
    ends, left, device = end_ids(live.model, {}), max_new_tokens, batch.input_ids.device
    rows = list(range(len(batch.order)))
    written: list[list[int]] = [[] for _ in rows]
    ending = None if listener is None else Ending(ends, left, batch.input_ids.shape[1], listener=listener)
    while rows and left:
        leaving = Leaving(ends, left, device)
        settings = {**GREEDY, "past_key_values": cache, "stopping_criteria": [leaving]}
        if ending is not None:
            ending.goes_on(tuple(rows), batch.input_ids.shape[1])
            settings["stopping_criteria"].append(ending)
        with live.running(batch, steer=steer):
            tokens = write_tokens(live.model, batch, max_new_tokens=left, pad_id=live.pad_id, settings=settings)
        for row, new in zip(rows, tokens.tolist(), strict=True):
            written[row] += new
        if listener is not None and listener.closed:
            break
        left -= tokens.shape[1]
        assert leaving.ended is not None  # a token at least was written
        going_on = [place for place, ended in enumerate(leaving.ended.tolist()) if not ended]
        rows = [rows[place] for place in going_on]
        if rows and left:
            cache.batch_select_indices(torch.tensor(going_on, device=device))
            batch = _behind(batch, tokens, going_on)
    return [until_end(row, ends, max_new_tokens) for row in written]


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
