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
        n = sum(map(bool, found))
        if n and how != "error":
            who = f"{n} of {counted(len(found), 'example')} {agreeing(n, 'holds', 'hold')}"
            notes.append(f"Data set {name!r}: {who} {_held([token for tokens in found for token in tokens], how)}")
    return notes


def system_prompts(model: str | None, conditions: Mapping[str, str | None]) -> dict[str, str]:
    """Every system prompt that a recipe gives, by what a sentence calls it.

    Args:
        model: the model's.
        conditions: those of conditions, by their names.
    """
    own = {f"The system prompt of condition {name!r}": text for name, text in conditions.items()}
    return {who: text for who, text in {"The model's system prompt": model, **own}.items() if text is not None}


def prompt_notes(prompts: Mapping[str, str], names: Collection[str], how: InText) -> list[str]:
    """A sentence on each system prompt that holds special tokens; none where they are an error.

    Args:
        prompts: by what a sentence calls them.
        names: the tokens as text.
        how: what becomes of them.
    """
    texts = SpecialTexts(names)
    held = {who: texts.within(text) for who, text in prompts.items()}
    return [f"{who} holds {_held(found, how)}" for who, found in held.items() if found and how != "error"]


def _held(found: Sequence[str], how: InText) -> str:
    """How many tokens there are, which, and what becomes of them."""
    held = Counter(found)
    told = [f"{token} {counted(times, 'time')}" for token, times in held.most_common(_TOLD)]
    more = [f"{len(held) - _TOLD} more"] if len(held) > _TOLD else []
    read = (
        "read as ordinary text"
        if how == "escape"
        else "which the model reads as real ones, as if the chat template had put them there; "
        "model.special_tokens_in_text: escape has them read as text, and error refuses them"
    )
    return f"{counted(held.total(), 'special token')} of the model's as text ({', '.join([*told, *more])}), {read}."
