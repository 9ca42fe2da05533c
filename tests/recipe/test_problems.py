"""What the members of a union say, in one sentence."""

from __future__ import annotations

from typing import Annotated

import pytest
from pydantic import AfterValidator, BaseModel, StrictBool, StrictFloat, StrictInt, StrictStr

from steerkit.recipe.problems import find_faults


def _spelled_out(text: str) -> str:
    raise ValueError(f'expected a number, spelled out, not "{text}"')


class Words(BaseModel):
    """A whole number or its name."""

    it: StrictInt | Annotated[StrictStr, AfterValidator(_spelled_out)]


class Numbers(BaseModel):
    """Numbers of either kind."""

    it: StrictInt | StrictFloat | StrictBool


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Words, 'expected a whole number or a number, spelled out, not "x"'),
        (Numbers, 'expected a number or true or false, not "x"'),
    ],
)
def test_a_whole_number_is_left_out_where_any_number_may_stand(model: type[BaseModel], said: str) -> None:
    _, (fault,) = find_faults(model, {"it": "x"})
    assert fault.message == said
