"""Random texts of so many tokens, to stand behind prompts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from steerkit.errors import DataError, counted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TRIES: Final = 2000
"""Draws for one token. Pieces of characters and what melts into the token before it are drawn again."""


def random_text(tokenizer: PreTrainedTokenizerBase, behind: Sequence[str], tokens: int, draw: random.Random) -> str:
    """A text of tokens that are drawn one after the other, each alike likely, from the vocabulary without special
    tokens; drawn again is what would be other tokens once it is read as text, or can't be printed.

    Args:
        tokenizer: the model's.
        behind: texts that it will stand right behind: of these none melts into it.
        tokens: how many.
        draw: what draws.

    Raises:
        DataError: where no text could be drawn.
    """
    special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    ids = [one for one in range(len(tokenizer)) if one not in special]
    before = [_encode(tokenizer, one) for one in behind]
    whole = _decode(tokenizer, before[0])
    found: list[int] = []
    text = ""
    for _ in range(tokens):
        for _ in range(TRIES):
            drawn = [*found, draw.choice(ids)]
            longer = _decode(tokenizer, [*before[0], *drawn])
            new = longer[len(whole) :]
            if not longer.startswith(whole + text) or not _is_text(new[len(text) :]):
                continue
            # Only the first token can melt into what stands before the text.
            beside = list(zip(behind, before, strict=True))[: None if not found else 1]
            if all(_encode(tokenizer, one + new) == [*its, *drawn] for one, its in beside):
                found, text = drawn, new
                break
        else:
            raise DataError(
                f"No random text of {counted(tokens, 'token')} could be drawn: the tokenizer reads no such text as "
                f"the tokens it "
                "is of. Set random: 0."
            )
    return text


def _is_text(piece: str) -> bool:
    return bool(piece.strip()) and piece.isprintable() and "\ufffd" not in piece


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))
