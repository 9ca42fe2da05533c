"""Texts that hold what a model's tokenizer has a special token for, which reads it as that token."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal, TypeAlias

from steerkit.errors import agreeing, counted
from steerkit.types.examples import Example

InText: TypeAlias = Literal["allow", "escape", "error"]
"""What becomes of a special token's text within what somebody says: it is read as that token; as any text, in ordinary
tokens; or not at all."""
IN_TEXT: Final[tuple[InText, ...]] = ("allow", "escape", "error")

_TOLD: Final = 3
"""How many of the tokens a note names."""


class SpecialTexts:
    """Finds special tokens in texts.

    Args:
        names: the tokens as text. White space is none that anybody would miss.
    """

    def __init__(self, names: Collection[str]) -> None:
        self.names = frozenset(name for name in names if name.strip())
        longest_first = sorted(self.names, key=lambda name: (-len(name), name))
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def within(self, text: str) -> list[str]:
        """Those that a text holds, in its order."""
        return self._pattern.findall(text)

    def of_example(self, example: Example) -> list[str]:
        """Those that an example's turns, its completion and its answer's first words hold."""
        return [name for text in texts_of(example) for name in self.within(text)]


def texts_of(example: Example) -> Iterator[str]:
    """What is said in an example."""
    yield from (message.content for message in example.messages)
    yield from (text for text in (example.answer_prefix, example.completion) if text is not None)


def special_notes(data: Mapping[str, Iterable[Sequence[Example]]], names: Collection[str], how: InText) -> list[str]:
    """A sentence on each data set in whose examples there are special tokens; none where they are an error.

    Args:
        data: the parts of each data set.
        names: the tokens as text.
        how: what becomes of them.
    """
    texts, notes = SpecialTexts(names), []
    for name, parts in data.items():
        found = [texts.of_example(example) for part in parts for example in part]
        held = Counter(token for tokens in found for token in tokens)
        if not held or how == "error":
            continue
        n = sum(map(bool, found))
        told = [f"{token} {counted(times, 'time')}" for token, times in held.most_common(_TOLD)]
        more = [f"{len(held) - _TOLD} more"] if len(held) > _TOLD else []
        read = (
            "read as ordinary text"
            if how == "escape"
            else "which the model reads as real ones, as if the chat template had put them there; "
            "model.special_tokens_in_text: escape has them read as text, and error refuses them"
        )
        notes.append(
            f"Data set {name!r}: {n} of {counted(len(found), 'example')} {agreeing(n, 'holds', 'hold')} "
            f"{counted(held.total(), 'special token')} of the model's as text ({', '.join([*told, *more])}), {read}."
        )
    return notes
