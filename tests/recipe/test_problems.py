"""What the members of a union say, in one sentence."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import AfterValidator, BaseModel, Field, StrictBool, StrictFloat, StrictInt, StrictStr
from pydantic_core import PydanticCustomError

from steerkit.recipe.problems import EXPECTED, find_faults


def _spelled_out(text: str) -> str:
    parts = {"wanted": "a number, spelled out", "given": f'"{text}"'}
    raise PydanticCustomError(EXPECTED, "expected {wanted}, not {given}", parts)


def _in_its_own_words(text: str) -> str:
    raise ValueError(f"expected, not to say hoped for: a number, spelled out, not {text}")


class Words(BaseModel):
    """A whole number or its name."""

    it: StrictInt | Annotated[StrictStr, AfterValidator(_spelled_out)]


class Free(BaseModel):
    """A whole number, or what says in words of its own what it wants."""

    it: StrictInt | Annotated[StrictStr, AfterValidator(_in_its_own_words)]


class Bounded(BaseModel):
    """A number within bounds, or a word."""

    it: Annotated[StrictInt, Field(ge=1)] | Literal["all"]


class Numbers(BaseModel):
    """Numbers of either kind."""

    it: StrictInt | StrictFloat | StrictBool


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Free, 'expected a whole number, not "x"; expected, not to say hoped for: a number, spelled out, not x'),
        (Bounded, "expected a whole number or 'all', not \"x\""),
        (Words, 'expected a whole number or a number, spelled out, not "x"'),
        (Numbers, 'expected a number or true or false, not "x"'),
    ],
)
def test_a_whole_number_is_left_out_where_any_number_may_stand(model: type[BaseModel], said: str) -> None:
    _, (fault,) = find_faults(model, {"it": "x"})
    assert fault.message == said
