"""The nouns that every room shares: sites, positions, schedules. Imports no torch.

A site says where in the network, positions say at which tokens, a schedule how much at each.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from numbers import Real
from typing import TYPE_CHECKING, Final, TypeAlias

from steerkit.errors import PositionError, ScheduleError, SiteError, nearest

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    ResidualStream: TypeAlias = Float[Tensor, "batch pos d_model"]
    Vectors: TypeAlias = Float[Tensor, "rank d_model"]
    TokenIds: TypeAlias = Int[Tensor, "batch pos"]
    TokenMask: TypeAlias = Bool[Tensor, "batch pos"]

EMBED: Final = "embed"
RESID_PRE: Final = "resid_pre"
ATTN_OUT: Final = "attn_out"
RESID_MID: Final = "resid_mid"
MLP_OUT: Final = "mlp_out"
RESID_POST: Final = "resid_post"
HEAD_OUT: Final = "head_out"

STREAMS: Final = (EMBED, RESID_PRE, ATTN_OUT, RESID_MID, MLP_OUT, RESID_POST, HEAD_OUT)
"""The streams that architectures have in common. An adapter may declare further writers, named ``*_out``."""

_STREAM = re.compile(r"[a-z][a-z0-9_]*_out|" + "|".join(STREAMS))
_SITE = re.compile(r"blocks\.(-?\d+)\.([a-z0-9_]+)")


@dataclass(frozen=True, order=True)
class Site:
    """A stream at a layer. Text form ``blocks.14.resid_pre``, or ``embed``, which has no layer.

    Args:
        stream: a name from ``STREAMS``, or an adapter's own writer (``per_layer_out``).
        layer: the block, counted from 0; -1 for ``embed``.
    """

    stream: str
    layer: int = -1

    def __post_init__(self) -> None:
        if not _STREAM.fullmatch(self.stream):
            raise SiteError(f"Unknown stream {self.stream!r}. {nearest(self.stream, STREAMS, 'stream')}")
        if self.stream == EMBED and self.layer != -1:
            raise SiteError(f"'embed' at layer {self.layer}: the embedding has no layer; write 'embed'.")
        if self.stream != EMBED and self.layer < 0:
            raise SiteError(f"{self.stream!r} needs a layer, counted from 0, as in 'blocks.14.resid_pre'.")

    @classmethod
    def parse(cls, text: str | Site) -> Site:
        """Read the text form. Raises ``SiteError`` with the form that was expected."""
        if isinstance(text, Site):
            return text
        if text == EMBED:
            return cls(EMBED)
        match = _SITE.fullmatch(str(text).strip())
        if match is None:
            raise SiteError(f"{text!r} is not a site. Write 'blocks.<layer>.<stream>', as in 'blocks.14.resid_pre'.")
        return cls(match.group(2), int(match.group(1)))

    def __str__(self) -> str:
        return EMBED if self.stream == EMBED else f"blocks.{self.layer}.{self.stream}"


def as_sites(sites: Sequence[Site | str] | Site | str) -> list[Site]:
    """One site or several, in either form, as a list."""
    if isinstance(sites, (Site, str)):
        return [Site.parse(sites)]
    return [Site.parse(site) for site in sites]


ROLES: Final = ("all", "prompt", "generated", "last", "instruction", "post_instruction")
FROM_TOKEN: Final = "from_token"
_POSITIONS = re.compile(r"(?P<role>[a-z_]*)(?:\[(?P<inner>[^\]]*)\])?")
_FROM_TOKEN = re.compile(r"from_token\((?:#(?P<id>\d+)|(?P<text>.+))\)", re.DOTALL)


@dataclass(frozen=True)
class Positions:
    """Which tokens are read or edited: a role, or a choice among a role's tokens. Never padding.

    ``role`` is ``all``, ``prompt``, ``generated``, ``instruction``, ``post_instruction``, or ``""``
    for explicit positions, which count within the prompt (within the whole row where nobody knows
    where the prompt ends). ``last`` is read as ``prompt[-1]``; the first n generated tokens are ``generated[:n]``.
    ``from_token(</think>)`` are the tokens behind the first place in the row, prompt included, where the text
    ``</think>`` is complete; ``from_token(#151668)`` those behind the first token with that id.

    Args:
        role: a name from ``ROLES``, ``from_token``, or ``""``.
        indices: places within the role's tokens; negative ones count from their end. Empty: all of them.
        span: ``(start, stop)`` within the role's tokens as in a Python slice; excludes ``indices``.
        after: for ``from_token`` only: the text, or the id of one token.
    """

    role: str = "all"
    indices: tuple[int, ...] = ()
    span: tuple[int | None, int | None] | None = None
    after: str | int | None = None

    def __post_init__(self) -> None:
        if (self.role == FROM_TOKEN) != (self.after is not None) or self.after == "":
            raise PositionError("from_token needs a text or a token id: 'from_token(</think>)', 'from_token(#7)'.")
        if self.role == FROM_TOKEN:
            if self.indices or self.span is not None:
                raise PositionError("from_token are all tokens behind one place; nothing can be chosen among them.")
            return
        if self.role == "last":
            if self.indices or self.span is not None:
                raise PositionError("'last' is one token, so there is nothing to choose in it; write 'prompt[...]'.")
            object.__setattr__(self, "role", "prompt")
            object.__setattr__(self, "indices", (-1,))
        if self.role not in (*ROLES, ""):
            raise PositionError(f"Unknown positions {self.role!r}. {nearest(self.role, ROLES, 'role')}")
        if self.indices and self.span is not None:
            raise PositionError("Positions take indices or a span, not both.")
        if not self.role and not self.indices and self.span is None:
            raise PositionError("Explicit positions need at least one index, as in -1 or [-3, -1].")

    @classmethod
    def parse(cls, value: Positions | str | int | list[int] | tuple[int, ...]) -> Positions:
        """Read ``"all"``, ``"instruction[-1]"``, ``"generated[:8]"``, ``-1``, ``[-3, -1]`` or ``"-5:"``."""
        if isinstance(value, Positions):
            return value
        if isinstance(value, bool):
            raise PositionError(f"{value!r} is not a position. Write a role such as 'all', or an index such as -1.")
        if isinstance(value, int):
            return cls("", (value,))
        if isinstance(value, (list, tuple)):
            if not all(isinstance(item, int) and not isinstance(item, bool) for item in value):
                raise PositionError(f"{value!r}: a list of positions holds whole numbers only.")
            return cls("", tuple(value))
        return cls._parse_text(value)

    @classmethod
    def _parse_text(cls, value: str) -> Positions:
        after = _FROM_TOKEN.fullmatch(str(value).strip())
        if after is not None:
            return cls(FROM_TOKEN, after=int(after["id"]) if after["id"] is not None else after["text"])
        text = str(value).replace(" ", "")
        if re.fullmatch(r"-?\d+", text) or re.fullmatch(r"-?\d*:-?\d*", text):
            text = f"[{text}]"
        match = _POSITIONS.fullmatch(text)
        if match is None or not text:
            raise PositionError(
                f"{value!r} are not positions. Write a role ({', '.join(ROLES)}), a place in one "
                "('instruction[-1]', 'generated[:8]'), 'from_token(</think>)', or indices (-1, [-3, -1])."
            )
        role, inner = match.group("role"), match.group("inner")
        if inner is None:
            return cls(role)
        try:
            if ":" in inner:
                start, stop = inner.split(":")
                return cls(role, (), (int(start) if start else None, int(stop) if stop else None))
            return cls(role, tuple(int(item) for item in inner.split(",")))
        except ValueError:
            raise PositionError(f"{value!r}: between the brackets go whole numbers or a range such as 0:5.") from None

    def __str__(self) -> str:
        if self.role == FROM_TOKEN:
            return f"from_token({f'#{self.after}' if isinstance(self.after, int) else self.after})"
        if self.indices:
            inner = ",".join(str(index) for index in self.indices)
            return inner if not self.role and len(self.indices) == 1 else f"{self.role}[{inner}]"
        if self.span is not None:
            return f"{self.role}[{':'.join('' if end is None else str(end) for end in self.span)}]"
        return self.role


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
        wanted = _SCHEDULE_VALUES.get(self.kind, max(1, len(self.values)))
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
