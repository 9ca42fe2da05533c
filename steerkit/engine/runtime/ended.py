"""Where rows of a batch end that no end token ends: a stop string, or a criterion of the caller's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_APART = ("assistant_model", "prompt_lookup_num_tokens", "custom_generate")
"""With these, criteria see other rows than come out, or tokens that are taken back."""


class Ended:
    """Stopping criteria as one that notes where each row was done first, since what follows there is padding.

    Args:
        criteria: of the caller's.
        columns: of the prompts.
    """

    def __init__(self, criteria: Sequence[Callable[..., Any]], columns: int) -> None:
        self._criteria, self._columns = criteria, columns
        self._at: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Whether each row is done, ``[rows]``."""
        done = torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)
        for criterion in self._criteria:
            done = done | criterion(input_ids, scores, **kwargs)
        at = torch.zeros_like(done, dtype=torch.long) if self._at is None else self._at
        self._at = torch.where((at == 0) & done, input_ids.shape[1] - self._columns, at)
        return done

    def lengths(self, rows: int) -> list[int | None]:
        """How many new tokens each row has; None for one that none of the criteria ended."""
        return [None] * rows if self._at is None else [at or None for at in self._at.tolist()]


def watched(settings: Mapping[str, Any], columns: int) -> tuple[dict[str, Any], Ended | None]:
    """Settings of ``generate`` under which it is noted where criteria end rows, and who notes it; None where none can
    be asked.

    Args:
        settings: of transformers' ``generate``.
        columns: of the prompts.
    """
    criteria = list(settings.get("stopping_criteria") or ())
    stops, tokenizer = settings.get("stop_strings"), settings.get("tokenizer")
    if settings.get("num_beams", 1) != 1 or any(settings.get(name) for name in _APART):
        return dict(settings), None
    found = dict(settings)
    if stops is not None and tokenizer is not None:
        from transformers import StopStringCriteria

        criteria.append(StopStringCriteria(tokenizer=tokenizer, stop_strings=stops))
        del found["stop_strings"], found["tokenizer"]
    if not criteria:
        return found, None
    ended = Ended(criteria, columns)
    return {**found, "stopping_criteria": [ended]}, ended


def may_be_padded(settings: Mapping[str, Any], own: Any) -> bool:
    """Whether something that nobody notes may end a row before others.

    Args:
        settings: of transformers' ``generate``, as it is called.
        own: the generation config in force, or None.
    """
    told = settings.get("stop_strings") or getattr(own, "stop_strings", None)
    return bool(told or settings.get("stopping_criteria"))
