"""A completion's reasoning part, between a model's thinking tags. Imports no torch, so that specs can use it."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import AfterValidator, Field

TAGS: Final = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<|channel>thought", "<channel|>"),
    ("[THINK]", "[/THINK]"),
)
"""Of Qwen, DeepSeek and those that follow them; of Gemma 4; of Magistral."""


def _can_be_found(tags: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    for opening, closing in tags:
        if not opening.strip() or not closing.strip() or opening == closing:
            raise ValueError("a pair is the text that opens a reasoning part and another one that closes it.")
    return tags


Tags = Annotated[
    tuple[tuple[str, str], ...],
    AfterValidator(_can_be_found),
    Field(
        description="Pairs of texts between which a model reasons. Behind an opening one that nothing closes all is "
        "reasoning; so is all before a closing one that nothing opened, since chat templates may open it. A tag that "
        "the tokenizer counts among its special tokens isn't in a completion's text, so it can't be found there."
    ),
]


def split(text: str, tags: tuple[tuple[str, str], ...]) -> tuple[str, str]:
    """What a completion says apart from its reasoning, and the reasoning; parts are joined by line breaks."""
    said, thought = text, list[str]()
    for opening, closing in tags:
        parts = []
        while opening in said:
            before, _, behind = said.partition(opening)
            inside, _, said = behind.partition(closing)
            parts.append(before)
            thought.append(inside)
        said = "\n".join([*parts, said]) if parts else said
        if closing in said:
            before, _, said = said.rpartition(closing)
            thought.append(before)
    return said, "\n".join(part for part in thought if part.strip())
