"""The nouns that every room shares: sites and positions. Imports no torch.

A site says where in the network, positions say at which tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from steerkit.errors import PositionError, SiteError, nearest

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
_POSITIONS = re.compile(r"(?P<role>[a-z_]*)(?:\[(?P<inner>[^\]]*)\])?")


@dataclass(frozen=True)
class Positions:
    """Which tokens are read or edited: a role, or a choice among a role's tokens. Never padding.

    ``role`` is ``all``, ``prompt``, ``generated``, ``instruction``, ``post_instruction``, or ``""``
    for explicit positions, which count within the prompt (within the whole row where nobody knows
    where the prompt ends). ``last`` is read as ``prompt[-1]``.

    Args:
        role: a name from ``ROLES`` or ``""``.
        indices: places within the role's tokens; negative ones count from their end. Empty: all of them.
        span: ``(start, stop)`` within the role's tokens as in a Python slice; excludes ``indices``.
    """

    role: str = "all"
    indices: tuple[int, ...] = ()
    span: tuple[int | None, int | None] | None = None

    def __post_init__(self) -> None:
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
        text = str(value).replace(" ", "")
        if re.fullmatch(r"-?\d+", text) or re.fullmatch(r"-?\d*:-?\d*", text):
            text = f"[{text}]"
        match = _POSITIONS.fullmatch(text)
        if match is None or not text:
            raise PositionError(
                f"{value!r} are not positions. Write a role ({', '.join(ROLES)}), a place in one "
                "('instruction[-1]', 'generated[:8]'), or indices (-1, [-3, -1])."
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
        if self.indices:
            inner = ",".join(str(index) for index in self.indices)
            return inner if not self.role and len(self.indices) == 1 else f"{self.role}[{inner}]"
        if self.span is not None:
            return f"{self.role}[{':'.join('' if end is None else str(end) for end in self.span)}]"
        return self.role
