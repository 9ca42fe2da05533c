"""Which positions the examples of a data set can have, told before a model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from steerkit.errors import agreeing, counted
from steerkit.recipe.data import DataRef
from steerkit.recipe.rows import quote
from steerkit.types import FROM_TOKEN, PREFIX, TURNS, Example, Positions

BEHIND_PROMPT: Final = ("generated", "completion")
"""Roles of tokens that stand behind every prompt."""
BEHIND_INSTRUCTION: Final = "post_instruction"
"""The role of what a chat template puts behind the user's last turn."""
_OF_THE_USER: Final = ("instruction", BEHIND_INSTRUCTION)
OF_TURNS: Final = (*_OF_THE_USER, *TURNS, PREFIX)
"""Roles of tokens that are found by the turns of a conversation."""


def reads_behind(positions: Positions) -> bool:
    """Whether positions may name tokens behind the prompt, so that completions have to be read."""
    return positions.role in ("all", FROM_TOKEN, *BEHIND_PROMPT)


def within_prompt(positions: Positions) -> bool:
    """Whether positions name tokens of the prompt only."""
    return not reads_behind(positions)


def lacking(
    positions: Positions, ref: DataRef, examples: Sequence[Example], shown: Callable[[Example], list[tuple[str, bool]]]
) -> str | None:
    """What examples lack that positions name, as a sentence; None where they lack nothing.

    Args:
        positions: turns of a conversation; other roles lack nothing.
        ref: what the examples are called.
        examples: of a split.
        shown: tells each turn's role, and whether the chat template shows it.
    """
    role, turn = ("user", -1) if positions.role in _OF_THE_USER else (positions.role, positions.turn)
    if role == PREFIX:
        return _told("no answer_prefix", ref, examples, [one for one in examples if one.answer_prefix is None])
    if role not in TURNS:
        return None
    absent, hidden = [], []
    for example in examples:
        said = [visible for speaker, visible in shown(example) if speaker == role]
        meant = said if turn is None else said[turn : turn + 1 or None]
        absent += [] if meant else [example]
        hidden += [example] if meant and not any(meant) else []
    return _told(f"no such turn of the {role}'s", ref, examples, absent) or _told(
        f"a turn of the {role}'s that the chat template doesn't show", ref, examples, hidden
    )


def without_completion(ref: DataRef, examples: Sequence[Example]) -> str | None:
    """That examples have no completion to be read, as a sentence; None where all have one."""
    return _told("no completion", ref, examples, [example for example in examples if example.completion is None])


def closed(ref: DataRef, examples: Sequence[Example]) -> str | None:
    """That conversations end with the assistant's turn, as a sentence; None where an answer can follow all."""
    return _told("no answer to give", ref, examples, [example for example in examples if example.is_closed])


def unrendered(ref: DataRef, examples: Sequence[Example]) -> str | None:
    """That conversations can't be read without a chat template, as a sentence; None where all are single texts."""
    talks = [one for one in examples if len(one.messages) > 1 or one.messages[0].role != "user"]
    return _told("a conversation of several turns", ref, examples, talks)


def _told(what: str, ref: DataRef, examples: Sequence[Example], short: Sequence[Example]) -> str | None:
    if not short:
        return None
    return (
        f"{len(short)} of {counted(len(examples), 'example')} of {ref} {agreeing(len(short), 'has', 'have')} {what}, "
        f"the first one {quote(short[0].text)}"
    )
