"""When an update acts: at which tokens, how much, under what condition."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from steerkit.api.intervention import Gate
from steerkit.types import Positions, Schedule

_ALL: Final = Positions("all")


@dataclass(frozen=True)
class When:
    """At which tokens an update acts, and how much.

    Args:
        positions: at which tokens.
        schedule: a factor along the generated ones.
        gate: what must hold of the stream, compared by identity; None: nothing.
    """

    positions: Positions = _ALL
    schedule: Schedule = Schedule()
    gate: Gate | None = None
    _hash: int = field(init=False, repr=False, compare=False, default=0)

    def __post_init__(self) -> None:
        # Every edit is looked up by its circumstances, so they are hashed once.
        object.__setattr__(self, "_hash", hash((self.positions, self.schedule, id(self.gate))))

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def always(self) -> bool:
        """Whether it acts at every token alike, so that nothing need be known of the tokens."""
        return self.selects and self.positions == _ALL

    @property
    def selects(self) -> bool:
        """Whether it only chooses tokens: no factor, and what the stream holds plays no part."""
        return self.gate is None and self.schedule.is_constant

    @property
    def generated_only(self) -> bool:
        """Whether a prompt's own gate keeps it off that prompt."""
        return self.gate is not None and self.gate.at == "prompt" and not self.gate.prepass

    @property
    def only_behind(self) -> bool:
        """Whether it acts at tokens behind the prompt only, so that a pass over a prompt by itself has none for it."""
        return self.generated_only or self.positions.role in ("generated", "completion")

    def __str__(self) -> str:
        parts = [str(self.positions)]
        parts += [] if self.schedule.is_constant else [f"× {self.schedule}"]
        parts += [] if self.gate is None else [f"if {self.gate}"]
        return " ".join(parts)


ALWAYS = When()
