"""What a user passes as prompts: texts, conversations and examples, which are rendered, or token ids, as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import torch
from torch import Tensor

from steerkit.engine.prompts.chat import Rendered
from steerkit.errors import DataError, agreeing, counted
from steerkit.types import Example, as_examples

if TYPE_CHECKING:
    from steerkit.engine.prompts.chat import ChatFormat
    from steerkit.types import ExampleLike

Prompt: TypeAlias = "ExampleLike | Rendered | Tensor | np.ndarray[Any, Any] | Sequence[int] | Mapping[str, Any]"
"""A text, a list of messages or an example; something rendered; or token ids ``[pos]``, as a tokenizer gives them."""

Prompts: TypeAlias = "Prompt | Sequence[Prompt]"
"""One prompt or several; a tensor ``[n, pos]`` or a tokenizer's output is several."""

_IDS: Final = "input_ids"
_BESIDE_IDS: Final = ("attention_mask", "token_type_ids", "special_tokens_mask", "offset_mapping", "length")


def read_prompts(
    values: object, chat: Callable[[], ChatFormat], *, vocabulary: int, completion: bool = False
) -> list[Rendered]:
    """Prompts as the model reads them.

    Args:
        values: see ``Prompts``. Token ids are read as they are: no template, no special token, no turns.
        chat: gives the format that renders; not asked where only token ids come.
        vocabulary: how many tokens the model knows.
        completion: whether completions follow their prompts.

    Raises:
        DataError: for what is none of these, with what to pass; nothing is ever turned into text.
    """
    if isinstance(values, Rendered):
        return [values]
    rows = token_rows(values)
    if rows is not None:
        return [_of_ids(row, vocabulary) for row in rows]
    if isinstance(values, (list, tuple)) and any(_is_encoded(item) for item in values):
        return [
            _of_encoded(item, vocabulary, place)
            if _is_encoded(item)
            else chat().render(Example.of(item), completion=completion)
            for place, item in enumerate(values)
        ]
    return [chat().render(example, completion=completion) for example in as_examples(values)]


def _is_encoded(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return bool(value) and _are_ids(value)
    return isinstance(value, (Rendered, Tensor, np.ndarray)) or (isinstance(value, Mapping) and _IDS in value)


def encoded_rows(values: object) -> list[list[int]] | None:
    """As ``token_rows``; also of a list each of whose items is one prompt's token ids, in whatever form."""
    if isinstance(values, (list, tuple)) and values and all(map(_is_encoded, values)):
        found = [token_rows(item) for item in values if not isinstance(item, Rendered)]
        if all(rows is not None and len(rows) == 1 for rows in found) and len(found) == len(values):
            return [row for rows in found for row in rows or ()]
    return token_rows(values)


def _of_encoded(value: object, vocabulary: int, place: int) -> Rendered:
    """One of several prompts that is rendered already."""
    if isinstance(value, Rendered):
        return value
    rows = token_rows(value) or []
    if len(rows) != 1:
        raise DataError(
            f"Prompt {place + 1}: one prompt's token ids are wanted here, and there {agreeing(len(rows))} "
            f"{counted(len(rows), 'row')}."
        )
    return _of_ids(rows[0], vocabulary)


def token_rows(values: object) -> list[list[int]] | None:
    """Rows of token ids without padding, where that is what values plainly are, else None.

    Raises:
        DataError: for a tensor of another kind, or a tokenizer's output with more in it than token ids.
    """
    if isinstance(values, np.ndarray) and values.dtype.kind not in "OUS":
        values = torch.from_numpy(np.ascontiguousarray(values))
    if isinstance(values, Tensor):
        if values.ndim not in (1, 2) or values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
            raise DataError(
                f"A tensor of prompts holds token ids, whole numbers [n, pos]; this one is {values.dtype} "
                f"{list(values.shape)}."
            )
        return [list(map(int, row)) for row in (values if values.ndim == 2 else values[None]).tolist()]
    if isinstance(values, Mapping):
        return None if _IDS not in values else _of_encoding(values)
    if isinstance(values, (list, tuple)) and values:
        if _are_ids(values):
            return [list(map(int, values))]
        if all(isinstance(row, (list, tuple)) and row and _are_ids(row) for row in values):
            return [list(map(int, row)) for row in values]
    return None


def _of_encoding(encoding: Mapping[str, Any]) -> list[list[int]]:
    unknown = [str(key) for key in encoding if key not in (_IDS, *_BESIDE_IDS)]
    if unknown:
        raise DataError(
            f"A tokenizer's output is read as its token ids, and this one holds {', '.join(unknown)} as well. "
            "Pass the prompts' texts, or input_ids and attention_mask alone."
        )
    ids = encoding[_IDS]
    rows = token_rows(_as_given(ids))
    if rows is None:
        raise DataError(
            f"input_ids hold token ids, whole numbers, for each prompt, and this {type(ids).__name__} holds others."
        )
    mask = encoding.get("attention_mask")
    if mask is None:
        return rows
    kept = token_rows(mask.long() if isinstance(mask, Tensor) else _as_given(mask))
    if kept is None or [len(row) for row in kept] != [len(row) for row in rows]:
        raise DataError("attention_mask and input_ids differ in shape; pass both as the tokenizer gave them.")
    return [
        [token for token, real in zip(row, reals, strict=True) if real] for row, reals in zip(rows, kept, strict=True)
    ]


def _as_given(values: Any) -> Any:
    return values if isinstance(values, (Tensor, np.ndarray)) else list(values)


def _are_ids(values: Sequence[object]) -> bool:
    return all(isinstance(item, Integral) and not isinstance(item, bool) for item in values)


def _of_ids(row: Sequence[int], vocabulary: int) -> Rendered:
    odd = next((token for token in row if not 0 <= token < vocabulary), None)
    if odd is not None:
        raise DataError(f"Token id {odd} is none of the model's {vocabulary}. Encode prompts with its own tokenizer.")
    return Rendered(tuple(row))
