from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.types.json_text import RepeatedKeyError, read_json

VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@given(VALUES)
def test_what_says_everything_once_is_read_as_ever(value: Any) -> None:
    assert read_json(json.dumps(value)) == value
    assert read_json(json.dumps(value).encode()) == value


@pytest.mark.parametrize("around", ["{}", '{{"a": {}}}', '[1, {{"b": [[{}]]}}]'])
def test_a_key_that_is_there_twice_is_told_at_any_depth(around: str) -> None:
    text = around.format('{"text": "one", "x": 1, "text": "two"}')
    with pytest.raises(RepeatedKeyError, match=r"""^the key 'text' is there twice: "one" and "two"$"""):
        read_json(text)
    json.loads(text)


def test_long_values_are_shown_in_part() -> None:
    with pytest.raises(RepeatedKeyError) as caught:
        read_json(json.dumps({"k": "x" * 200})[:-1] + ', "k": 0}')
    assert len(str(caught.value)) < 100
