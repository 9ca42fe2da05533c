"""Sampled tokens that depend on a row's own key and logits alone, never on rows beside it or on earlier draws.

A token is drawn by inverting the distribution at a number between 0 and 1 that is the hash of the row's key and the
step. So no state goes from step to step, a row keeps its tokens in any company, and equal runs give equal bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from steerkit.errors import DataError


def uniform(key: str, step: int) -> float:
    """A number in [0, 1) that follows from a key and a step."""
    return int.from_bytes(sha256(f"{key}/{step}".encode()).digest()[:7], "big") / 2.0**56


def pick(logits: Tensor, at: Sequence[float], temperature: float, top_p: float) -> Tensor:
    """One token per row.

    Args:
        logits: ``[rows, vocab]``.
        at: for each row where the distribution is inverted, in [0, 1).
        temperature: divides the logits.
        top_p: the tokens that take part are the likeliest ones that together reach this share (nucleus sampling,
            Holtzman et al., 2020, arXiv 1904.09751).

    Returns:
        ``[rows]``, token ids.
    """
    probabilities = (logits.double() / temperature).softmax(-1)
    if top_p < 1:
        ordered, places = probabilities.sort(dim=-1, descending=True, stable=True)
        # A token takes part where those before it haven't reached the share: the first always does.
        left_out = ordered.cumsum(-1) - ordered >= top_p
        probabilities = probabilities.masked_fill(left_out.scatter(-1, places, left_out), 0.0)
    # Along ids, not along ranks: two tokens of equal weight then never change places.
    sums = probabilities.cumsum(-1)
    wanted = torch.tensor(list(at), dtype=torch.float64, device=sums.device)[:, None] * sums[:, -1:]
    picked: Tensor = (sums <= wanted).sum(-1)
    last = probabilities.shape[-1] - 1 - (probabilities > 0).int().flip(-1).argmax(-1)
    return torch.minimum(picked, last)


class KeyedSampling:
    """A logits processor under which greedy decoding draws samples.

    Args:
        keys: of each row.
        prompt_columns: columns of the prompts, from which steps are counted.
        temperature: above 0.
        top_p: above 0, at most 1.
    """

    def __init__(self, keys: Sequence[str], prompt_columns: int, temperature: float, top_p: float) -> None:
        if not (temperature > 0 and 0 < top_p <= 1):
            raise DataError(f"Samples need a temperature above 0 and a top_p in (0, 1], not {temperature}, {top_p}.")
        self.keys, self.prompt_columns = tuple(keys), prompt_columns
        self.temperature, self.top_p = temperature, top_p

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Leave each row the one token that is drawn: ``[rows, vocab]`` with one 0 and else −∞."""
        step = input_ids.shape[1] - self.prompt_columns
        chosen = pick(scores, [uniform(key, step) for key in self.keys], self.temperature, self.top_p)
        only = torch.full_like(scores, -torch.inf)
        return only.scatter(-1, chosen[:, None].to(scores.device), 0.0)


def sampling_settings(keys: Sequence[str], prompt_columns: int, temperature: float, top_p: float) -> dict[str, Any]:
    """Settings of ``generate_batch`` for samples by key."""
    from transformers import LogitsProcessorList

    processor: Any = KeyedSampling(keys, prompt_columns, temperature, top_p)
    return {"logits_processor": LogitsProcessorList([processor])}
