"""How much of an intervention's change each generated token gets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from numbers import Real
from typing import Final

from steerkit.errors import ScheduleError, nearest

_SCHEDULE = re.compile(r"(?P<kind>[a-z_]+)(?:\((?P<inner>[^()]*)\))?")
_SCHEDULE_VALUES: Final = {"constant": 0, "linear": 3, "exponential": 1}


@dataclass(frozen=True)
class Schedule:
    """A factor on what an intervention changes, along the generated tokens. The prompt's tokens have the first one.

    ``constant`` is 1 throughout; ``linear(1, 0, 64)`` goes from 1 to 0 over 64 generated tokens and stays there;
    ``exponential(0.97)`` is multiplied by 0.97 from each generated token to the next; a list of numbers holds one
    factor per generated token, the last of which stays.

    Args:
        kind: ``constant``, ``linear``, ``exponential`` or ``list``.
        values: ``(start, stop, tokens)`` of ``linear``, ``(rate,)`` of ``exponential``, the factors of ``list``.
    """

    kind: str = "constant"
    values: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.kind != "list" and self.kind not in _SCHEDULE_VALUES:
            raise ScheduleError(f"Unknown schedule {self.kind!r}. {nearest(self.kind, [*_SCHEDULE_VALUES, 'list'])}")
        if self.kind == "list" and not self.values:
            raise ScheduleError(
                "A schedule's list holds one or more finite numbers, a factor for each generated token, as in "
                "[1, 0.5, 0.25]. For 1 throughout, leave the schedule out."
            )
        wanted = _SCHEDULE_VALUES.get(self.kind, len(self.values))
        if self.kind == "list" and not all(isfinite(value) for value in self.values):
            raise ScheduleError(f"{list(self.values)}: the factors of a schedule are finite numbers.")
        if len(self.values) != wanted or not all(isfinite(value) for value in self.values):
            raise ScheduleError(
                f"A schedule {self.kind!r} takes {wanted} finite numbers, not {list(self.values)}: "
                "write 'linear(1, 0, 64)', 'exponential(0.97)' or a list such as [1, 0.5, 0.25]."
            )
        if self.kind == "linear" and (self.values[2] < 1 or self.values[2] != int(self.values[2])):
            raise ScheduleError(f"A linear schedule runs over a whole number of tokens, not {self.values[2]}.")
        if self.kind == "exponential" and not 0 < self.values[0] <= 1:
            raise ScheduleError(f"An exponential schedule decays by a rate between 0 and 1, not {self.values[0]}.")

    @property
    def is_constant(self) -> bool:
        """Whether it is 1 at every token."""
        return self.kind == "constant"

    def factor(self, generated: int) -> float:
        """The factor at a generated token, counted from 0; negative numbers are the prompt's tokens."""
        place = max(generated, 0)
        if self.kind == "linear":
            start, stop, tokens = self.values
            return start + (stop - start) * min(place, tokens) / tokens
        if self.kind == "exponential":
            return float(self.values[0] ** place)
        return self.values[min(place, len(self.values) - 1)] if self.kind == "list" else 1.0

    @property
    def settled(self) -> int | None:
        """From which generated token on the factor stays, counted from 0; None where it never does."""
        if self.kind == "exponential":
            return 0 if self.values[0] == 1 else None
        return int(self.values[2]) if self.kind == "linear" else max(len(self.values) - 1, 0)

    @classmethod
    def parse(cls, value: Schedule | str | Sequence[float] | None) -> Schedule:
        """Read ``"linear(1, 0, 64)"``, ``"exponential(0.97)"``, ``[1, 0.5]`` or its text, or None (constant)."""
        if isinstance(value, Schedule):
            return value
        if value is None:
            return cls()
        if isinstance(value, (list, tuple)):
            if any(isinstance(item, bool) or not isinstance(item, Real) for item in value):
                raise ScheduleError(f"{value!r}: a list of factors holds numbers only.")
            return cls("list", tuple(float(item) for item in value))
        text = str(value).replace(" ", "")
        if text.startswith("[") and text.endswith("]"):
            text = f"list({text[1:-1]})"
        match = _SCHEDULE.fullmatch(text)
        try:
            inner = match["inner"] if match else None
            values = tuple(float(item) for item in inner.split(",")) if inner else ()
        except ValueError:
            match = None
        if match is None:
            raise ScheduleError(
                f"{value!r} is not a schedule. Write 'linear(1, 0, 64)', 'exponential(0.97)' or a list [1, 0.5]."
            )
        return cls(match["kind"], values)

    def __str__(self) -> str:
        # All digits, so that the text reads back as the same schedule.
        numbers = ", ".join(repr(float(value)).removesuffix(".0") for value in self.values)
        return f"[{numbers}]" if self.kind == "list" else f"{self.kind}({numbers})" if numbers else self.kind
