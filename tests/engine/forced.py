"""A model that writes what a test wants it to write."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import LogitsProcessorList

from steerkit.session.model import LiveModel


class Forced(LogitsProcessorList):
    """Has the model write given tokens, row by row; the last one of a row again and again.

    Args:
        rows: token ids.
        columns: of the batch of prompts.
    """

    def __init__(self, rows: Sequence[Sequence[int]], columns: int) -> None:
        super().__init__([self.force])  # type: ignore[list-item]
        self.rows, self.columns = rows, columns

    def force(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Of every row's scores the given token alone is finite."""
        forced = torch.full_like(scores, -torch.inf)
        for place in range(len(scores)):
            row = self.rows[place * len(self.rows) // len(scores)]
            forced[place, row[min(ids.shape[1] - self.columns, len(row) - 1)]] = 0.0
        return forced


def forced(live: LiveModel, prompts: Sequence[str], rows: Sequence[str | Sequence[int]]) -> Forced:
    """What has it write these texts, or tokens, behind prompts of one length."""
    ids = [live.chat.tokenizer.encode(one, add_special_tokens=False) if isinstance(one, str) else one for one in rows]
    (columns,) = {len(live.chat.render(prompt).token_ids) for prompt in prompts}
    return Forced(ids, columns)
