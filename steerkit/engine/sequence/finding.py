"""Where a token or a text appears in a row of token ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from steerkit.engine.sequence.positions import FAR
from steerkit.errors import PositionError
from steerkit.types import Positions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Finder = Callable[[Positions, Sequence[int], int], int]
"""From ``from_token`` positions, a row's token ids and how many of them were looked at, to the first column that is
meant, or ``FAR``."""


def finder(tokenizer: PreTrainedTokenizerBase | None) -> Finder:
    """A search for what ``from_token`` positions name.

    A text is looked for in what the tokens decode to, since how it is cut into tokens depends on what stands around it.
    """

    def find(positions: Positions, ids: Sequence[int], seen: int) -> int:
        """How many tokens it takes until it is complete, or ``FAR``; the first ``seen`` ones don't hold it."""
        after = positions.after
        if isinstance(after, int):
            return next((place + 1 for place in range(seen, len(ids)) if ids[place] == after), FAR)
        if tokenizer is None or after is None:
            raise PositionError(
                f"Positions '{positions}' name a text, and this model came without a tokenizer. Pass one: "
                "steerkit.wrap(model, tokenizer), or name a token id: 'from_token(#7)'."
            )
        if after not in _text_of_tokens(tokenizer, ids):
            return FAR
        return next(n for n in range(seen + 1, len(ids) + 1) if after in _text_of_tokens(tokenizer, ids[:n]))

    return find


def _text_of_tokens(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
