"""A row of data: a conversation, perhaps a completion to be read, a label, and its other fields."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast

from steerkit.errors import DataError, nearest
from steerkit.types.positions import TURNS

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
Label: TypeAlias = str | int | float | bool
"""What a row is labelled with, as JSON has it."""


def require_whole(text: str, what: str) -> None:
    """Raise ``DataError`` for a text with half a character, as ``"\\ud83d"`` is one in Python; ``what`` holds it."""
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise DataError(f"{what} holds half of a surrogate pair, which no tokenizer reads.")


@dataclass(frozen=True)
class Message:
    """One turn of a conversation.

    Args:
        role: ``system``, ``user``, ``assistant`` or ``tool``.
        content: its text.
    """

    role: Role
    content: str

    def __post_init__(self) -> None:
        if self.role not in TURNS:
            raise DataError(f"A message has role {self.role!r}. {nearest(str(self.role), TURNS, 'role')}")
        if not isinstance(self.content, str):
            raise DataError(
                f"The content of the {self.role}'s message is {type(self.content).__name__}, and text is wanted: "
                '{"role": "user", "content": "..."}.'
            )
        require_whole(self.content, f"The {self.role}'s message")

    @classmethod
    def of(cls, value: object) -> Message:
        """A message, or a mapping ``{role, content}`` as chat data has it."""
        if isinstance(value, Message):
            return value
        if not isinstance(value, Mapping) or "role" not in value or "content" not in value:
            raise DataError(
                f"A conversation is a list of messages {{'role': ..., 'content': ...}}, and it holds {_shown(value)}."
            )
        return cls(cast(Role, value["role"]), value["content"])


@dataclass(frozen=True)
class Example:
    """A row of data.

    Args:
        messages: the conversation, at least one turn. A plain text is one user turn.
        completion: text that follows the prompt and is read, not generated; None where there is none.
        label: what the row is labelled with, or None.
        id: what the data call it, or None.
        fields: its other fields, as JSON values; they reach evaluators, samples and reports.
        pair: the number of the pair that it is one side of, or None. Pairs are never separated by a split.
        answer_prefix: how the assistant's answer begins, word for word: it stands behind what the chat template puts
            before an answer, is read as part of the prompt, and what the model writes, or a completion, follows it.
            None, or an empty text, for none.
    """

    messages: tuple[Message, ...]
    completion: str | None = None
    label: Label | None = None
    id: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict, hash=False)
    pair: int | None = None
    answer_prefix: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.messages, (list, tuple)):
            raise DataError(
                f"An example's messages are a list, not a {type(self.messages).__name__}. "
                "Example.of(text) takes a text."
            )
        object.__setattr__(self, "messages", tuple(Message.of(message) for message in self.messages))
        if not self.messages:
            raise DataError("An example needs a conversation of at least one message, or a text.")
        if self.completion is not None and not isinstance(self.completion, str):
            raise DataError(f"A completion is text, not {type(self.completion).__name__}.")
        if self.answer_prefix is not None and not isinstance(self.answer_prefix, str):
            raise DataError(f"An answer_prefix is text, not {type(self.answer_prefix).__name__}.")
        require_whole(self.completion or "", "A completion")
        require_whole(self.answer_prefix or "", "An answer_prefix")
        object.__setattr__(self, "answer_prefix", self.answer_prefix or None)

    @classmethod
    def of(cls, value: object) -> Example:
        """Read a text, a list of messages, or an example.

        Raises:
            DataError: for anything else, with what to pass; nothing is ever turned into text.
        """
        if isinstance(value, Example):
            return value
        if isinstance(value, str):
            return cls((Message("user", value),))
        if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)) and value:
            return cls(tuple(Message.of(message) for message in value))
        raise DataError(
            "A prompt is a text, a list of messages {'role': ..., 'content': ...}, or an Example, not "
            f"{_shown(value)}."
        )

    @property
    def text(self) -> str:
        """What a reader takes it by: the last user turn's text, or the last turn's where no user speaks."""
        users = [message.content for message in self.messages if message.role == "user"]
        return users[-1] if users else self.messages[-1].content

    @property
    def is_plain(self) -> bool:
        """Whether it is one user turn and nothing else, as a plain text is."""
        return len(self.messages) == 1 and self.messages[0].role == "user" and self.completion is None

    @property
    def is_closed(self) -> bool:
        """Whether it ends with a turn of the assistant's, so that there is no answer to write or to predict."""
        return self.messages[-1].role == "assistant"

    def to_json(self) -> str | dict[str, Any]:
        """As JSON values: a text where it is nothing else, otherwise what there is of it."""
        about = {
            "answer_prefix": self.answer_prefix,
            "completion": self.completion,
            "label": self.label,
            "id": self.id,
            "fields": dict(self.fields) or None,
            "pair": self.pair,
        }
        about = {key: value for key, value in about.items() if value is not None}
        if len(self.messages) == 1 and self.messages[0].role == "user":
            return {"prompt": self.text, **about} if about else self.text
        return {"messages": [{"role": item.role, "content": item.content} for item in self.messages], **about}


ExampleLike: TypeAlias = str | Sequence[Mapping[str, str] | Message] | Example
"""What stands for an example where a user passes one."""


def as_examples(values: object) -> list[Example]:
    """Several prompts as examples; one text, one conversation or one example is a list of one.

    Raises:
        DataError: for what is no prompt, and names its place.
    """
    if isinstance(values, (str, Example)) or _is_conversation(values):
        return [Example.of(values)]
    if isinstance(values, (bytes, bytearray, Mapping)) or not isinstance(values, Sequence):
        raise DataError(
            "Prompts are a text, a list of texts, of conversations (lists of messages) or of Examples, not "
            f"{_shown(values)}."
        )
    examples = []
    for place, value in enumerate(values, 1):
        try:
            examples.append(Example.of(value))
        except DataError as error:
            raise DataError(f"Prompt {place}: {error}") from None
    return examples


def same_value(value: object, wanted: object) -> bool:
    """Whether a field or a label has a wanted value.

    A table that knows text alone (CSV) has numbers, true and false as text: they are compared as JSON writes them.
    True is not 1.
    """
    if isinstance(value, str) and not isinstance(wanted, str):
        return value == json.dumps(wanted)
    return isinstance(value, bool) == isinstance(wanted, bool) and bool(value == wanted)


def _is_conversation(value: object) -> bool:
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence) or not value:
        return False
    return all(isinstance(item, Message) or (isinstance(item, Mapping) and "role" in item) for item in value)


def _shown(value: object) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else f'{text[:57]}...'}"
