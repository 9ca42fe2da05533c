"""What happens at each place of a forward pass while a condition is lowered, and what becomes of each update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

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


@dataclass(frozen=True, eq=False)
class Fate:
    """What became of an update.

    Args:
        edit: as defined.
        became: in words.
        where: the module, or empty.
        why: the reason, where a reader might have expected something else.
        flops: per token.
        moved: bytes per token that are read and written.
    """

    edit: Edit
    became: str
    where: str = ""
    why: str = ""
    flops: int = 0
    moved: int = 0


@dataclass
class Record:
    """What becomes of each edit, while a condition is lowered."""

    edits: Sequence[Edit]
    wanted: bool = True
    fates: dict[int, Fate] = field(default_factory=dict)

    def note(self, edit: Edit, became: str, where: str = "", why: str = "", flops: int = 0, moved: int = 0) -> None:
        """Write down what became of an edit, or of all that it is made of; costs are counted once."""
        if not self.wanted:
            return
        for place in edit.sources:
            self.fates[place] = Fate(self.edits[place], became, where, why, flops, moved)
            flops = moved = 0
            if len(edit.sources) > 1:
                why = "one update with the others there"
