"""What a plan costs: the passes of its looks, added up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from steerkit.plan.looks import PlannedGroup
from steerkit.plan.tokens import TokenCounter
from steerkit.plan.types import Cost, PlannedDirection, PlannedSeparation
from steerkit.recipe.data import DataRef, Splits
from steerkit.sharing import Pass


class Part(Enum):
    """What passes are for. The values are what a reader is shown."""

    DIRECTIONS = "directions"
    SEPARATION = "separation by layer"
    BASELINE = "baseline"
    CONDITIONS = "conditions"
    CONTROLS = "random controls"
    PREPASSES = "prepasses of gates"


@dataclass
class Meter:
    """Adds up passes.

    Args:
        data: the plan's texts.
        counter: counts their tokens.
        budget: most tokens of a batch.
    """

    data: Mapping[str, Splits]
    counter: TokenCounter
    budget: int
    prompt_tokens: int = 0
    generated_tokens: int = 0
    parts: dict[Part, int] = field(default_factory=dict)
    _lengths: dict[tuple[DataRef, bool], list[int]] = field(default_factory=dict)

    def lengths(self, ref: DataRef, raw: bool = False) -> list[int]:
        """Tokens of each text of a split."""
        key = (ref, raw)
        if key not in self._lengths:
            count = self.counter.texts if raw else self.counter.prompts
            self._lengths[key] = count(self.data[ref.dataset][ref.split])
        return self._lengths[key]

    def add(self, part: Part, run: Pass, *, members: int = 1, prepass: bool = False) -> None:
        """A pass that conditions make side by side; with ``prepass`` an unsteered one before each of its prompts.

        What a condition takes alone is the condition's, and what its controls add is theirs.
        """
        alone, together = run.calls_of(1, self.budget), run.calls_of(members, self.budget)
        self._count(part, alone)
        self._count(Part.CONTROLS, together - alone)
        if prepass:
            self._count(Part.PREPASSES, run.batches_of(members, self.budget))
        self.prompt_tokens += members * sum(run.lengths) * (1 + prepass)
        self.generated_tokens += members * len(run.lengths) * run.new_tokens

    def _count(self, part: Part, calls: int) -> None:
        if calls:
            self.parts[part] = self.parts.get(part, 0) + calls

    def cost(self) -> Cost:
        """The sum."""
        parts = tuple((part.value, self.parts[part]) for part in Part if part in self.parts)
        total = sum(self.parts.values())
        counter = self.counter
        return Cost(total, self.prompt_tokens, self.generated_tokens, counter.estimated, counter.basis, parts)


def meter_directions(
    meter: Meter, directions: Iterable[PlannedDirection], separations: Iterable[PlannedSeparation]
) -> None:
    """Captures for directions, and for their separation at every layer."""
    for direction in directions:
        for ref in (direction.positive, direction.negative):
            if ref is not None:
                meter.add(Part.DIRECTIONS, Pass(tuple(meter.lengths(ref))))
    for separation in separations:
        for ref in (separation.direction.positive, separation.direction.negative, *separation.seen):
            if ref is not None:
                meter.add(Part.SEPARATION, Pass(tuple(meter.lengths(ref))))


def meter_groups(meter: Meter, groups: Sequence[PlannedGroup]) -> None:
    """The looks of the baseline, and of every condition with its controls."""
    taken: list[object] = []
    for group in groups:
        condition = group.condition
        part = Part.BASELINE if condition is None else Part.CONDITIONS
        prepass = condition is not None and condition.has_prepass
        for look in group.looks:
            run, members = look.runs(meter.lengths), group.members(look)
            # Conditions that differ by their names alone are one.
            known = (None if condition is None else condition.nameless, members, look)
            if run is not None and known not in taken:
                taken.append(known)
                meter.add(part, run, members=members, prepass=prepass)
