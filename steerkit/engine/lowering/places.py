"""What happens at each place of a forward pass while a condition is lowered, and what becomes of each update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from steerkit.api.intervention import Gate
from steerkit.engine.lowering.edits import Edit
from steerkit.types import Site


@dataclass(frozen=True, eq=False)
class Probe:
    """Where the value that a gate compares is read.

    Args:
        gate: the gate.
        rows: for which it is read there; empty for all.
    """

    gate: Gate
    rows: tuple[int, ...] = ()


Item: TypeAlias = Edit | Probe
"""Of one row."""
Places: TypeAlias = dict[Site, list[Item]]
"""What happens at each place of a row's forward pass, in forward order."""


Outcome: TypeAlias = Literal["kept", "folded", "dropped", "hook", "interpreted"]
"""What an update can become. What is ``kept`` has been refused by folding, and becomes a hook."""


@dataclass(frozen=True, eq=False)
class Fate:
    """What became of an update.

    Args:
        edit: as defined.
        became: what it became.
        where: the module, or empty.
        side: of a hook, ``input`` or ``output``.
        why: the reason in words, where a reader might have expected something else.
        follows: whether it is one update with another one, which bears the cost.
        flops: per token.
        moved: bytes per token that are read and written.
    """

    edit: Edit
    became: Outcome
    where: str = ""
    side: str = ""
    why: str = ""
    follows: bool = False
    flops: int = 0
    moved: int = 0


@dataclass
class Record:
    """What becomes of each edit, while a condition is lowered."""

    edits: Sequence[Edit]
    wanted: bool = True
    fates: dict[int, Fate] = field(default_factory=dict)

    def note(
        self,
        edit: Edit,
        became: Outcome,
        where: str = "",
        why: str = "",
        flops: int = 0,
        moved: int = 0,
        side: str = "",
    ) -> None:
        """Write down what became of an edit, or of all that it is made of; costs are counted once."""
        if not self.wanted:
            return
        for place in edit.sources:
            follows = place != edit.sources[0]
            self.fates[place] = Fate(self.edits[place], became, where, side, why, follows, flops, moved)
            flops = moved = 0
            if len(edit.sources) > 1:
                why = "one update with the others there"
