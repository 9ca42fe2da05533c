"""A data set of others: their examples side by side, each with a label, perhaps with a text behind the user's turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from steerkit.errors import nearest
from steerkit.recipe.rows import describe_shared, prompt_of
from steerkit.recipe.schema import DatasetRecipe
from steerkit.types import Example, Message

Splits: TypeAlias = Mapping[str, tuple[Example, ...]]
"""``{split: examples}``; the sides of a data set of pairs are splits of their own, such as ``train.positive``."""

Fault: TypeAlias = tuple[str, tuple[str, ...]]
"""A message, and the keys below ``of`` that it is about."""


def joined(
    dataset: DatasetRecipe, loaded: Mapping[str, Splits], later: Sequence[str], said: Sequence[str] = ()
) -> tuple[Splits, list[Fault]]:
    """The parts that all of the others have, each with the examples of all of them, as they were before any filter.

    Args:
        dataset: with ``of``.
        loaded: the data sets before it.
        later: names of it and of those behind it.
        said: names of those that hold what the model says, which are written while a recipe runs.

    Returns:
        the parts, and what is wrong.
    """
    assert dataset.of is not None
    unknown = {label: name for label, name in dataset.of.items() if name not in loaded}
    if unknown:
        return {}, [(_unknown(name, loaded, later, said), (label,)) for label, name in unknown.items()]
    others = {label: loaded[name] for label, name in dataset.of.items()}
    first, *rest = others.values()
    parts = [part for part in first if all(part in one for one in rest)]
    if not parts:
        held = "; ".join(f"{name} has {', '.join(loaded[name])}" for name in dict.fromkeys(dataset.of.values()))
        return {}, [(f"these data sets have no part in common: {held}", ())]
    first_pair = _first_pairs(others)
    found = {
        part: tuple(
            _example(one, label, dataset.suffix, first_pair[label])
            for label, splits in others.items()
            for one in splits[part]
            # One that couldn't be read has no examples, and what all of them hold isn't known then.
            if all(other[part] for other in others.values())
        )
        for part in parts
    }
    return found, _twice(found)


def _first_pairs(others: Mapping[str, Splits]) -> dict[str, int]:
    """By label, what is added to the numbers of its pairs: two data sets count theirs from 0, and these are others."""
    found, number = {}, 0
    for label, splits in others.items():
        found[label] = number
        number += max((one.pair + 1 for rows in splits.values() for one in rows if one.pair is not None), default=0)
    return found


def _unknown(name: str, loaded: Mapping[str, Splits], later: Sequence[str], said: Sequence[str]) -> str:
    if name in said:
        return (
            f"{name!r} holds what the model says, which only a run writes: name the data set of its prompts, and let "
            "`completions` be of this one"
        )
    if name in later:
        return f"{name!r} doesn't stand before this data set; put it there"
    return f"{name!r} is no data set. {nearest(name, loaded, 'data set')}"


def _twice(parts: Splits) -> list[Fault]:
    """Prompts that two of the data sets share, which would have two labels."""
    for part, examples in parts.items():
        seen: dict[str, Example] = {}
        shared = [one for one in examples if seen.setdefault(prompt_of(one), one).label != one.label]
        if shared:
            return [(f"its part {part} holds prompts with two labels: they {describe_shared(shared)}", ())]
    return []


def _example(example: Example, label: str, suffix: str | None, first_pair: int) -> Example:
    if example.pair is not None:
        example = replace(example, pair=first_pair + example.pair)
    return replace(example if suffix is None else with_suffix(example, suffix), label=label)


def with_suffix(example: Example, suffix: str) -> Example:
    """An example with a text right behind the last turn of the user; without one, behind its last turn."""
    turns = list(example.messages)
    last = max((at for at, turn in enumerate(turns) if turn.role == "user"), default=len(turns) - 1)
    turns[last] = Message(turns[last].role, turns[last].content + suffix)
    return replace(example, messages=tuple(turns))
