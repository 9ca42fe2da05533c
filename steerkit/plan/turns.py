"""Which positions the examples of a data set can have, told before any of them is rendered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from steerkit.recipe.data import DataRef
from steerkit.recipe.rows import quote
from steerkit.types import FROM_TOKEN, TURNS, Example, Positions

_BEHIND: Final = ("generated", "completion")
_OF_THE_USER: Final = ("instruction", "post_instruction")


def reads_behind(positions: Positions) -> bool:
    """Whether positions may name tokens behind the prompt, so that completions have to be read."""
    return positions.role in ("all", FROM_TOKEN, *_BEHIND)


def within_prompt(positions: Positions) -> bool:
    """Whether positions name tokens of the prompt only."""
    return not reads_behind(positions)


def lacking(positions: Positions, ref: DataRef, examples: Sequence[Example], system_prompt: str | None) -> str | None:
    """What examples lack that positions name, as a sentence; None where they lack nothing.

    Args:
        positions: turns of a conversation; other roles lack nothing.
        ref: what the examples are called.
        examples: of a split.
        system_prompt: of the model, which conversations without a system message get.
    """
    role, turn = ("user", -1) if positions.role in _OF_THE_USER else (positions.role, positions.turn)
    if role not in TURNS:
        return None
    short = [example for example in examples if not _has(example, role, turn, system_prompt)]
    return _told(f"no such turn of the {role}'s", ref, examples, short)


def without_completion(ref: DataRef, examples: Sequence[Example]) -> str | None:
    """That examples have no completion to be read, as a sentence; None where all have one."""
    return _told("no completion", ref, examples, [example for example in examples if example.completion is None])


def closed(ref: DataRef, examples: Sequence[Example]) -> str | None:
    """That conversations end with the assistant's turn, as a sentence; None where an answer can follow all."""
    return _told("no answer to give", ref, examples, [example for example in examples if example.is_closed])


def _has(example: Example, role: str, turn: int | None, system_prompt: str | None) -> bool:
    said = sum(message.role == role for message in example.messages)
    if role == "system" and not said and system_prompt is not None:
        said = 1
    return said > 0 if turn is None else -said <= turn < said


def _told(what: str, ref: DataRef, examples: Sequence[Example], short: Sequence[Example]) -> str | None:
    if not short:
        return None
    return f"{len(short)} of {len(examples)} examples of {ref} have {what}, the first one {quote(short[0].text)}"
