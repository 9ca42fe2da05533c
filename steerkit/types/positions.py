"""Which tokens are read or edited."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from steerkit.errors import PositionError, nearest

TURNS: Final = ("system", "user", "assistant", "tool")
"""Roles of a conversation's turns; as positions they are the turns' own text."""

PREFIX: Final = "answer_prefix"
"""The role of the tokens with which a recipe or an example lets the assistant's answer begin."""

ROLES: Final = ("all", "prompt", "generated", "last", "instruction", "post_instruction", "completion", PREFIX, *TURNS)
FROM_TOKEN: Final = "from_token"
EACH: Final = "[*]"
_POSITIONS = re.compile(r"(?P<role>[a-z_]*)(?:\[(?P<first>[^\]]*)\])?(?:\[(?P<second>[^\]]*)\])?")
_FROM_TOKEN = re.compile(r"from_token\((?:#(?P<id>\d+)|(?P<text>.+))\)", re.DOTALL)


@dataclass(frozen=True)
class Positions:
    """Which tokens are read or edited: a role, or a choice among a role's tokens. Never padding.

    ``role`` is ``all``, ``prompt``, ``generated``, ``instruction`` (the last user turn's own text),
    ``post_instruction`` (what the chat template puts behind it), ``answer_prefix`` (the words that an answer is made to
    begin with, the last ones of the prompt), ``completion`` (text behind the prompt that is given, or generated),
    a turn's role (``system``, ``user``, ``assistant``, ``tool``: the own text of all its turns; ``user[-1]``: of the
    last one), or ``""`` for explicit positions, which count within the prompt (within the whole row where nobody
    knows where the prompt ends). ``completion[:8]`` are tokens of the completion, ``user[-1][:8]`` of the last user
    turn. ``last`` is read as ``prompt[-1]``; the first n generated tokens are ``generated[:n]``.
    ``from_token(</think>)`` are the tokens behind the first place in the row, prompt included, where the text
    ``</think>`` is complete; ``from_token(#151668)`` those behind the first token with that id.

    ``[*]`` behind positions takes each of their tokens by itself: ``post_instruction[*]`` or ``[-6:][*]`` are the
    positions among which a search chooses one.

    Args:
        role: a name from ``ROLES``, ``from_token``, or ``""``.
        indices: places within the role's tokens; negative ones count from their end. Empty: all of them.
        span: ``(start, stop)`` within the role's tokens as in a Python slice; excludes ``indices``.
        after: for ``from_token`` only: the text, or the id of one token.
        turn: for turns' roles only: which turn of that role, negative ones from the last; None: all of them.
        each: whether each token stands for itself, for a search to choose among.
    """

    role: str = "all"
    indices: tuple[int, ...] = ()
    span: tuple[int | None, int | None] | None = None
    after: str | int | None = None
    turn: int | None = None
    each: bool = False

    def __post_init__(self) -> None:
        if self.turn is not None and self.role not in TURNS:
            raise PositionError(f"{self.role!r} has no turns; {', '.join(TURNS)} have, as in 'user[-1]'.")
        if self.role in TURNS and self.turn is None and (self.indices or self.span is not None):
            raise PositionError(f"Tokens are chosen in one turn: write '{self.role}[-1][:8]'.")
        if (self.role == FROM_TOKEN) != (self.after is not None) or self.after == "":
            raise PositionError("from_token needs a text or a token id: 'from_token(</think>)', 'from_token(#7)'.")
        if self.each and self.role in (FROM_TOKEN, "generated", "completion", "all"):
            raise PositionError(
                f"'{replace(self, each=False)}' has as many tokens as a text happens to have; each by itself, [*], are "
                "those that every prompt has: post_instruction[*], [-5:][*]."
            )
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
        whole = str(value).strip()
        if whole.endswith(EACH) and whole != EACH:
            return replace(cls._parse_text(whole.removesuffix(EACH)), each=True)
        after = _FROM_TOKEN.fullmatch(whole)
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
        role, turn, inner = match["role"], None, match["first"]
        try:
            if role in TURNS and inner is not None:
                turn, inner = int(inner), match["second"]
            elif match["second"] is not None:
                raise PositionError(f"{value!r}: two brackets are for turns: 'user[-1][:8]'.")
            if inner is None:
                return cls(role, turn=turn)
            if ":" in inner:
                start, stop = inner.split(":")
                span = (int(start) if start else None, int(stop) if stop else None)
                return cls(role, span=span, turn=turn)
            return cls(role, tuple(int(item) for item in inner.split(",")), turn=turn)
        except ValueError:
            which = " (the first bracket names one turn)" if role in TURNS else ""
            raise PositionError(
                f"{value!r}: between the brackets go whole numbers or a range such as 0:5{which}."
            ) from None

    @property
    def most(self) -> int | None:
        """How many tokens they are at most, of any text; None where the text decides."""
        if self.each:
            return 1
        if self.indices:
            return len(set(self.indices))
        if self.span is None:
            return None
        start, stop = self.span
        if stop is None:
            return -start if start is not None and start < 0 else None
        low = 0 if start is None else start
        return max(stop - low, 0) if (low < 0) == (stop < 0) else None

    def __repr__(self) -> str:
        return f"{type(self).__name__}.parse({str(self)!r})"

    def __str__(self) -> str:
        if self.each:
            one = str(replace(self, each=False))
            return f"{one if self.role or one.startswith('[') else f'[{one}]'}{EACH}"
        if self.role == FROM_TOKEN:
            return f"from_token({f'#{self.after}' if isinstance(self.after, int) else self.after})"
        role = self.role if self.turn is None else f"{self.role}[{self.turn}]"
        if self.indices:
            inner = ",".join(str(index) for index in self.indices)
            return inner if not self.role and len(self.indices) == 1 else f"{role}[{inner}]"
        if self.span is not None:
            return f"{role}[{':'.join('' if end is None else str(end) for end in self.span)}]"
        return role
