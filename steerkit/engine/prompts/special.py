"""Special tokens in what people say: told from those that a chat template puts there, and read as asked."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from steerkit.engine.prompts.encoding import ANCHORS, Span, continued_token_ids, encode, overlap, second_begin
from steerkit.errors import DataError, ModelError, nearest
from steerkit.types import Example
from steerkit.types.special_tokens import IN_TEXT, InText, SpecialTexts, texts_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def special_names(tokenizer: PreTrainedTokenizerBase) -> frozenset[str]:
    """The texts of a tokenizer's special tokens."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    return frozenset({*map(str, tokenizer.all_special_tokens), *(str(one) for one in added if one.special)})


class SpecialTokens:
    """Encodes texts in which special tokens are written out.

    Args:
        tokenizer: the model's.
        how: what becomes of them.

    Raises:
        ModelError: for a ``how`` that isn't there.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, how: InText) -> None:
        if how not in IN_TEXT:
            raise ModelError(f"Unknown special_tokens_in_text {how!r}. {nearest(how, IN_TEXT)}")
        self.tokenizer, self.how = tokenizer, how

    @cached_property
    def _texts(self) -> SpecialTexts:
        return SpecialTexts(special_names(self.tokenizer))

    def escapes(self, texts: Sequence[str]) -> bool:
        """Whether texts hold special tokens that are to be read as ordinary text.

        Raises:
            DataError: where special tokens are an error.
        """
        if self.how == "allow":
            return False
        found = next((names[0] for text in texts if (names := self._texts.within(text))), None)
        if found is not None and self.how == "error":
            text = next(text for text in texts if found in text)
            raise DataError(
                f"A text holds {found!r}, which is a special token of the model's: {text[:60]!r}. Take it out, or set "
                "special_tokens_in_text to escape (read as ordinary text) or allow (read as that token)."
            )
        return found is not None

    def escapes_in(self, example: Example) -> bool:
        """The same for whatever is said in an example."""
        return self.how != "allow" and self.escapes([*texts_of(example)])

    def encode(
        self, text: str, parts: Sequence[Span | None], *, special: bool
    ) -> tuple[tuple[int, ...], list[Span | None]]:
        """As ``encoding.encode``; within the parts special tokens are written out in ordinary tokens."""
        tokenizer = self.tokenizer
        if not tokenizer.is_fast:
            raise ModelError(
                "This tokenizer doesn't tell which characters a token is of, so special tokens in a text can't be read "
                "as text. Take them out, or set special_tokens_in_text to allow."
            )
        encoded = tokenizer(
            text, return_offsets_mapping=True, add_special_tokens=special, truncation=False, verbose=False
        )
        extra = second_begin(tokenizer, text, encoded["input_ids"]) if special else 0
        pairs = zip(encoded["input_ids"][extra:], encoded["offset_mapping"][extra:], strict=True)
        found: list[tuple[int, Span]] = []
        for token, (start, stop) in pairs:
            said = text[start:stop]
            name = said.strip()
            at = start + said.find(name)
            # What the template puts there may reach into a turn by the white space that it swallows.
            inside = any(part is not None and part[0] <= at and at + len(name) <= part[1] for part in parts)
            if inside and name in self._texts.names:
                found += [(ordinary, (start, stop)) for ordinary in self._ordinary(said)]
            else:
                found.append((token, (start, stop)))
        offsets = [offset for _, offset in found]
        spans = [None if part is None else overlap(part, offsets) for part in parts]
        return tuple(token for token, _ in found), spans

    def behind(self, ids: tuple[int, ...], text: str, more: str, *, special: bool) -> tuple[int, ...]:
        """As ``encoding.continued_token_ids``; special tokens in what follows are written out in ordinary tokens."""
        if self._texts.within(more):
            return (*ids, *self._ordinary(more))
        return continued_token_ids(self.tokenizer, ids, text, more, special=special)

    def _ordinary(self, text: str) -> tuple[int, ...]:
        """A text in ordinary tokens alone, as it is cut where no word begins."""
        for anchor in (*ANCHORS, ""):
            alone, both = (
                tuple(self.tokenizer(one, add_special_tokens=False, split_special_tokens=True)["input_ids"])
                for one in (anchor, anchor + text)
            )
            if both[: len(alone)] == alone:
                break
        found = both[len(alone) :]
        kept = set(map(str, self.tokenizer.convert_ids_to_tokens(list(found)))) & self._texts.names
        if kept:
            raise ModelError(
                f"The tokenizer has no ordinary tokens for {min(kept)!r}. Take it out of the text, or set "
                "special_tokens_in_text to allow."
            )
        return found


def encode_example(
    special_tokens: SpecialTokens, escaped: bool, text: str, parts: Sequence[Span | None], *, special: bool
) -> tuple[tuple[int, ...], list[Span | None]]:
    """Token ids of a rendered text and the tokens of its parts, whether or not special tokens in these are escaped."""
    if escaped:
        return special_tokens.encode(text, parts, special=special)
    return encode(special_tokens.tokenizer, text, parts, special=special)
