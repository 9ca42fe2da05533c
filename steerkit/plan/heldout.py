"""What is found or compared with in prompts that numbers in the report come from, and so isn't held out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from steerkit.api.hookspecs import Options
from steerkit.api.tokens import FoundTokens
from steerkit.plan.suffixes import PlannedSuffixes
from steerkit.plan.types import PlannedEvaluation, PlannedFilter, PlannedSearch, PlannedSeparation, PlannedTokens
from steerkit.recipe.data import DataRef
from steerkit.recipe.rows import prompt_of
from steerkit.types import Example

TEST: Final = "test"


def looked_at(
    evaluations: Sequence[PlannedEvaluation],
    searches: Iterable[PlannedSearch],
    filters: Iterable[PlannedFilter],
    tokens: Mapping[str, PlannedTokens],
    examples: Callable[[DataRef], Sequence[Example]],
    beside: Iterable[DataRef] = (),
) -> list[str]:
    """Sentences about evaluators that find refusal tokens, or what they compare with, in prompts that are reported on.

    Of test prompts these are all that any number comes from. Of others, for an evaluator they are the prompts that it
    is itself measured on; for a search or a filter, by which directions come about, all that are measured.

    Args:
        evaluations: what is measured, with the data.
        searches: what chooses directions.
        filters: what chooses prompts.
        tokens: where refusal tokens are found, by how options ask for them.
        examples: gives those of a split.
        beside: what numbers come from that no evaluator gives. See ``also_reported``.
    """
    prompts = {ref: frozenset(map(prompt_of, examples(ref))) for one in evaluations for ref in one.data}
    reported = frozenset[str]().union(*prompts.values(), *(map(prompt_of, examples(ref)) for ref in beside))
    told: list[str] = []

    def tell(who: str, seen: Iterable[tuple[str, DataRef]], measured: Iterable[DataRef]) -> None:
        there = {prompt for ref in measured for prompt in prompts[ref]}
        for what, ref in seen:
            known = reported if ref.part == TEST else there
            if any(prompt_of(one) in known for one in examples(ref)):
                told.append(f"{who} {what} {ref}, which numbers in the report come from: not held out.")

    for one in evaluations:
        tell(one.name, _seen(one.options, one.references, tokens), one.data)
    for search in searches:
        for score in search.scores:
            tell(f"Search {search.name!r}", _seen(score.options, score.references, tokens), prompts)
    for item in filters:
        tell(f"The filter of {item.data[0].dataset}", _seen(item.options, (), tokens), prompts)
    return list(dict.fromkeys(told))


def also_reported(separations: Iterable[PlannedSeparation], suffixes: Iterable[PlannedSuffixes]) -> Iterator[DataRef]:
    """The data from which numbers come beside those of evaluators: classes told apart, and studies of suffixes."""
    for one in separations:
        yield from one.seen
    for study in suffixes:
        yield study.prompts
        if study.reference is not None:
            yield study.reference


def _seen(
    options: Options, references: Iterable[tuple[str, DataRef]], tokens: Mapping[str, PlannedTokens]
) -> Iterator[tuple[str, DataRef]]:
    """What an evaluator does with other data than it scores, and with which."""
    for name in type(options).model_fields:
        wanted = getattr(options, name)
        found = tokens.get(wanted.model_dump_json()) if isinstance(wanted, FoundTokens) else None
        for ref in (None, None) if found is None else (found.found_in, found.against):
            if ref is not None:
                yield "goes by refusal tokens that are found in", ref
    for ref in dict.fromkeys(ref for _, ref in references):
        yield "compares with activations of", ref
