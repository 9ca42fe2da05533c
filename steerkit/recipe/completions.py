"""Data sets of what the model itself says: their prompts, with the place held of completions that a run will write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from steerkit.errors import DataError, Problem, nearest
from steerkit.recipe.data import DataRef, Splits, parse_ref
from steerkit.recipe.draft import Draft
from steerkit.recipe.schema import DatasetRecipe
from steerkit.types import Example

UNSTEERED: Final = "baseline"
"""What the condition of unsteered completions is called in the examples' fields."""

CONDITION: Final = "condition"
"""The field that says under which condition a completion was written."""


def with_completions(draft: Draft, loaded: Mapping[str, Splits]) -> tuple[dict[str, Splits], list[Problem]]:
    """All data sets of a recipe in its order: those that were read, and completions of their prompts.

    Completions have the splits of what they are of, and its examples with label, id, pair and other fields. A
    stand-in holds the place of each completion, another one in each data set, so that whoever compares examples sees
    that two completions of one prompt may differ.

    Args:
        draft: the recipe.
        loaded: the data sets that are read from somewhere.

    Returns:
        ``{data set: {split: examples}}`` and every problem. Completions of what there isn't have no splits.
    """
    found: dict[str, Splits] = {}
    problems: list[Problem] = []
    for name, dataset in draft.recipe.data.items():
        if dataset.completions is None:
            found[name] = loaded[name]
            continue
        found[name] = {}
        if draft.lost("data", name, "completions", "of") or draft.lost("data", name, "completions"):
            continue
        try:
            refs = prompts_of(draft, name, loaded)
        except DataError as error:
            if not draft.lost("data", dataset.completions.of.partition(".")[0]):
                problems.append(Problem(str(error), *draft.place("data", name, "completions", "of")))
            continue
        condition = dataset.completions.condition or UNSTEERED
        found[name] = {
            ref.split: tuple(_placed(began(one, dataset), name, condition) for one in loaded[ref.dataset][ref.split])
            for ref in refs
        }
    return found, problems


def prompts_of(draft: Draft, name: str, loaded: Mapping[str, Splits]) -> tuple[DataRef, ...]:
    """The parts of data sets whose prompts a data set of completions completes: one part, or all of a data set.

    Raises:
        DataError: where there is no such data set or part, or none that holds prompts of its own.
    """
    section = draft.recipe.data[name].completions
    assert section is not None
    dataset = section.of.partition(".")[0]
    if dataset in draft.recipe.data and draft.recipe.data[dataset].completions is not None:
        raise DataError(f"{dataset!r} holds completions itself: name the data set whose prompts they are.")
    if section.of in loaded:
        return tuple(DataRef(section.of, split) for split in loaded[section.of])
    if dataset not in loaded:
        raise DataError(f"{dataset!r} is not a data set. {nearest(dataset, loaded, 'data set')}")
    return (parse_ref(section.of, loaded),)


def began(example: Example, dataset: DatasetRecipe) -> Example:
    """A prompt whose answer begins as a data set of completions says, where it says anything of it."""
    prefix = dataset.answer_prefix
    return example if not isinstance(prefix, str) else replace(example, answer_prefix=prefix)


def _placed(example: Example, name: str, condition: str) -> Example:
    fields = {**example.fields, CONDITION: condition}
    return replace(example, completion=f"(what the model says: {name})", fields=fields)
