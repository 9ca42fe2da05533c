"""Estimator ``difference_subspace``: the directions that many differences between two classes have in common."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Final

from pydantic import Field

from steerkit.api.hookspecs import EstimatorNeeds, EstimatorSpec, Lack, Options, hookimpl
from steerkit.errors import agreeing, counted
from steerkit.types import Example

STEERKIT_CONTRACT = 2

POSITIONS: Final = "positions"
"""What ``over`` says where each token is a difference of its own; any other text is the name of a field."""


class DifferenceSubspaceOptions(Options):
    """Options of ``difference_subspace``."""

    over: str = Field(
        default=POSITIONS,
        min_length=1,
        description="What a difference is taken for each of: `positions`, the tokens that the direction's positions "
        "name; or the name of a field, whose values part the examples into categories, such as topics.",
    )
    rank: int = Field(
        default=1,
        ge=1,
        strict=True,
        description="How many directions are kept, those that make up most of the differences first.",
    )


def category_of(example: Example, field: str) -> str | None:
    """The category of an example as a text, or None where it has none."""
    value = example.label if field == "label" and example.label is not None else example.fields.get(field)
    return None if value is None else str(value)


def _lacks(options: DifferenceSubspaceOptions, classes: Mapping[str, Sequence[Example]]) -> Lack | None:
    """That examples have no such field, or fewer categories than directions are wanted."""
    if options.over == POSITIONS:
        return None
    examples = classes["positive"]
    found = [category_of(example, options.over) for example in examples]
    without = found.count(None)
    if without:
        fields = list(dict.fromkeys(name for example in examples for name in example.fields))
        near = difflib.get_close_matches(options.over, [POSITIONS, *fields], n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        there = f" Available: {', '.join([POSITIONS, *fields])}." if fields else ""
        what = (
            f"{without} of {counted(len(examples), 'positive example')} {agreeing(without, 'has', 'have')} no field "
            f"{options.over!r}"
        )
        return Lack(f"{what}.{hint}{there}", "over")
    kinds = len(set(found))
    if kinds < options.rank:
        what = (
            f"the positive examples have {counted(kinds, 'value')} of {options.over!r}, so there {agreeing(kinds)} "
            f"{counted(kinds, 'difference')}"
        )
        return Lack(f"{what}, which span no more directions than that: write rank: {kinds} at most", "rank")
    return None


@hookimpl
def steerkit_estimators() -> list[EstimatorSpec]:
    """Provide ``difference_subspace``."""
    return [
        EstimatorSpec(
            name="difference_subspace",
            summary="Leading singular vectors of the class differences over positions or categories.",
            implementation="steerkit_estimators._difference_subspace:DifferenceSubspace",
            options=DifferenceSubspaceOptions,
            needs=lambda options: EstimatorNeeds(
                statistics="rows", rank=options.rank, per_position=options.over == POSITIONS
            ),
            lacks=_lacks,
        )
    ]
