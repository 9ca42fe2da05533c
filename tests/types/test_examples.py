"""What is an example, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from steerkit.errors import DataError
from steerkit.types import Example, Message, as_examples, same_value

TALK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]


def test_a_text_is_one_user_turn() -> None:
    assert Example.of("Hello") == Example((Message("user", "Hello"),))
    assert Example.of("Hello").is_plain and Example.of("Hello").text == "Hello"


def test_a_conversation_keeps_its_turns() -> None:
    example = Example.of(TALK)
    assert [(message.role, message.content) for message in example.messages] == [
        ("system", "Be brief."),
        ("user", "Hello"),
    ]
    assert example.text == "Hello" and not example.is_plain


def test_one_prompt_or_several() -> None:
    assert as_examples("Hello") == [Example.of("Hello")]
    assert as_examples(TALK) == [Example.of(TALK)]
    assert as_examples(["Hello", TALK, Example.of("x")]) == [Example.of("Hello"), Example.of(TALK), Example.of("x")]
    assert as_examples([]) == []


@pytest.mark.parametrize(
    "value",
    [None, b"text", 7, {"text": "x"}, {"role": "user", "content": "x"}, {1, 2}, [None], [b"x"], [["x"]], [7], [[]]],
)
def test_nothing_else_becomes_text(value: Any) -> None:
    with pytest.raises(DataError, match=r"text|messages"):
        as_examples(value)


@pytest.mark.parametrize(
    ("message", "part"),
    [
        ({"role": "robot", "content": "x"}, "role 'robot'"),
        ({"role": "user", "content": None}, "text is wanted"),
        ({"role": "user", "content": [{"type": "text", "text": "x"}]}, "text is wanted"),
        ({"role": "user"}, "list of messages"),
    ],
)
def test_a_message_has_a_known_role_and_text(message: dict[str, Any], part: str) -> None:
    with pytest.raises(DataError, match=part):
        Example.of([message])


@pytest.mark.parametrize(
    ("value", "wanted", "same"),
    [
        (1, 1, True),
        (1.0, 1, True),
        ("1", 1, True),
        ("1.0", 1, False),
        ("true", True, True),
        ("null", None, True),
        (True, 1, False),
        (1, True, False),
        (1, "1", False),
        ("a", "a", True),
        ("a", "b", False),
        (None, 1, False),
    ],
)
def test_a_value_of_a_table_of_text_is_compared_as_written(value: object, wanted: object, same: bool) -> None:
    assert same_value(value, wanted) is same
