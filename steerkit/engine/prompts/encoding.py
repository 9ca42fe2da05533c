"""Text to token ids, and from the characters of a part of it to the tokens that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span: TypeAlias = tuple[int, int]

ANCHORS: Final = ("\n", ".", "a", " a")
"""Texts that a completion may be put behind to see how it is cut where no word begins."""


def encode(
    tokenizer: PreTrainedTokenizerBase, text: str, parts: Sequence[Span | None] = (), *, special: bool
) -> tuple[tuple[int, ...], list[Span | None]]:
    """Token ids of a text, and the tokens ``[start, stop)`` of some of its parts, given in characters.

    A token that holds some of a part's text and some of what is around it counts as the part's.

    Args:
        tokenizer: the model's.
        text: what is read.
        parts: characters ``[start, stop)``; None for a part that isn't there.
        special: whether the tokenizer adds its special tokens. A text that begins with its begin token already gets
            no second one.
    """
    if all(part is None for part in parts):
        return token_ids(tokenizer, text, special=special), [None] * len(parts)
    if not tokenizer.is_fast:
        ids = token_ids(tokenizer, text, special=special)
        return ids, [None if part is None else _span_by_prefixes(tokenizer, text, ids, part, special) for part in parts]
    encoded = tokenizer(text, return_offsets_mapping=True, **_arguments(special))
    extra = second_begin(tokenizer, text, encoded["input_ids"]) if special else 0
    offsets = encoded["offset_mapping"][extra:]
    return tuple(encoded["input_ids"][extra:]), [None if part is None else overlap(part, offsets) for part in parts]


def token_ids(tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool) -> tuple[int, ...]:
    """Token ids of a text. See ``encode``."""
    ids = tokenizer(text, **_arguments(special))["input_ids"]
    return tuple(ids[second_begin(tokenizer, text, ids) :] if special else ids)


def continued_token_ids(
    tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], text: str, completion: str, *, special: bool
) -> tuple[int, ...]:
    """Token ids of a prompt with a completion behind it, which begin with the prompt's own.

    Where prompt and completion, read as one text, begin with the prompt's tokens, those are the tokens. Where a token
    of theirs would reach over the boundary, a model that completes the prompt could never write it: the completion is
    then cut into tokens by itself, as it is where no word begins.

    Args:
        tokenizer: the model's.
        prompt: the prompt's tokens.
        text: the prompt's text.
        completion: what follows it.
        special: as of ``encode``.
    """
    before = tuple(prompt)
    joined = token_ids(tokenizer, text + completion, special=special)
    if joined[: len(before)] == before:
        return joined
    for anchor in ANCHORS:
        alone = token_ids(tokenizer, anchor, special=False)
        both = token_ids(tokenizer, anchor + completion, special=False)
        if both[: len(alone)] == alone:
            return (*before, *both[len(alone) :])
    return (*before, *token_ids(tokenizer, completion, special=False))


def _arguments(special: bool) -> dict[str, Any]:
    return {"add_special_tokens": special, "truncation": False, "verbose": False}


def second_begin(tokenizer: PreTrainedTokenizerBase, text: str, ids: Sequence[int]) -> int:
    """How many begin tokens the tokenizer put before one that the text has itself: 0 or 1."""
    begin = tokenizer.bos_token_id
    if begin is None or list(ids[:2]) != [begin, begin]:
        return 0
    return int(len(tokenizer(text, **_arguments(False))["input_ids"]) < len(ids))


def overlap(characters: Span, offsets: Sequence[Span]) -> Span:
    """The tokens ``[start, stop)`` that hold any of the characters ``[first, end)``.

    A token of no width is either one that the tokenizer adds (at 0), or white space whose offsets were
    trimmed to its end.
    """
    first, end = characters
    inside = [
        index
        for index, (start, stop) in enumerate(offsets)
        if (start < end and stop > first if start < stop else first < stop <= end)
    ]
    if inside:
        return inside[0], inside[-1] + 1
    place = next((index for index, (start, stop) in enumerate(offsets) if start >= end and stop > start), len(offsets))
    return place, place


def _span_by_prefixes(
    tokenizer: PreTrainedTokenizerBase, text: str, ids: Sequence[int], part: Span, special: bool
) -> Span:
    """The same for a tokenizer without offsets, from the tokens of the texts that end where the part does.

    Where they disagree with the whole text's, a token reaches over the boundary: it holds some of the part's text.
    """
    start, stop = (token_ids(tokenizer, text[:end], special=special) for end in part)
    first, last = _agreement(ids, start), _agreement(ids, stop)
    return first, max(first, last + (last < len(stop)))


def _agreement(ids: Sequence[int], prefix: Sequence[int]) -> int:
    pairs = enumerate(zip(prefix, ids, strict=False))
    return next((index for index, (one, other) in pairs if one != other), min(len(prefix), len(ids)))
