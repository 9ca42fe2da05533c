"""Options that are one number for all of a direction's vectors, or a list with one for each. Imports no torch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from steerkit.errors import AttachError, counted

if TYPE_CHECKING:
    from steerkit.api.direction import Direction


def read_numbers(value: Any, noun: str) -> float | tuple[float, ...]:
    """A number, or the numbers of a list, as floats.

    Raises:
        ValueError: one message, where pydantic would give one for each member of the union.
    """
    items = list(value) if isinstance(value, (list, tuple)) else [value]
    if not items or any(isinstance(item, bool) or not isinstance(item, (int, float)) for item in items):
        raise ValueError(
            f"{value!r} is not a {noun}: write a number such as 4.0, or a list with one number per vector."
        )
    try:
        numbers = tuple(float(item) for item in items)
    except OverflowError as error:
        raise ValueError(f"A {noun} is beyond what a float holds: write a number such as 4.0.") from error
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError(f"{value!r} is not finite: write a number such as 4.0.")
    return numbers if isinstance(value, (list, tuple)) else numbers[0]


def one_per_vector(given: float | tuple[float, ...], direction: Direction, plugin: str, noun: str) -> tuple[float, ...]:
    """As many numbers as the direction has vectors.

    Raises:
        AttachError: where a list doesn't have one for each vector.
    """
    numbers = (given,) * direction.rank if isinstance(given, float) else given
    if len(numbers) != direction.rank:
        raise AttachError(
            f"{plugin}: {counted(len(numbers), noun)} for direction {direction.name!r} of rank "
            f"{direction.rank}. Give one number for all of its vectors, or {direction.rank}."
        )
    return numbers
