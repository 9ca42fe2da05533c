"""What a plan costs: the passes of its looks, added up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final

from steerkit.plan.looks import Lengths, PlannedGroup
from steerkit.plan.planned.monitors import PlannedMonitor
from steerkit.plan.tokens import Reading, TokenCounter
from steerkit.plan.turns import reads_behind
from steerkit.plan.types import (
    Cost,
    PlannedDirection,
    PlannedEvaluation,
    PlannedFilter,
    PlannedSearch,
    PlannedSeparation,
    PlannedTokens,
)
from steerkit.recipe.data import DataRef, Splits
from steerkit.sharing import Pass, completing, greedy_tokens
from steerkit.templates import opened
from steerkit.types import SitePattern


class Part(Enum):
    """What passes are for. The values are what a reader is shown."""

    TOKENS = "refusal tokens"
    FILTERS = "filters"
    COMPLETIONS = "completions as data"
    DIRECTIONS = "directions"
    SEPARATION = "separation by layer"
    SEARCH = "search"
    THRESHOLDS = "thresholds of monitors"
    SUFFIXES = "studies of suffixes"
    BASELINE = "baseline"
    CONDITIONS = "conditions"
    CONTROLS = "random controls"
    PREPASSES = "prepasses of gates"


@dataclass
class Meter:
    """Adds up passes.

    Args:
        data: the plan's examples.
        counter: counts their tokens.
        budget: most tokens of a batch.
        prompted: counts them under a system prompt of a condition's own.
        written: by data set, how long completions are that only the run will write.
    """

    data: Mapping[str, Splits]
    counter: TokenCounter
    budget: int
    prompted: Callable[[str], TokenCounter] | None = None
    written: Mapping[str, int] = field(default_factory=dict)
    prompt_tokens: int = 0
    generated_tokens: int = 0
    parts: dict[Part, int] = field(default_factory=dict)
    counted: dict[tuple[DataRef, Reading, str | None], list[int]] = field(default_factory=dict)
    fullest: set[tuple[int, int, bool]] = field(default_factory=set)
    """Of each pass, rows and columns of its fullest batch, and whether logits are given at every token."""
    longest: set[tuple[int, int]] = field(default_factory=set)
    """Of each pass, tokens of its longest text, and of what is generated behind it."""

    def lengths(self, ref: DataRef, how: Reading = "prompt", system_prompt: str | None = None) -> list[int]:
        """Tokens of each example of a split, as a prompt with a condition's system prompt, or by itself."""
        key = (ref, how, system_prompt)
        if key not in self.counted:
            counter = self.counter
            if system_prompt is not None and self.prompted is not None:
                counter = self.prompted(system_prompt)
            behind = 0 if how == "prompt" else self.written.get(ref.dataset, 0)
            rows = self.data[ref.dataset][ref.split]
            self.counted[key] = [n + behind for n in counter.count(rows, "prompt" if behind else how)]
        return self.counted[key]

    def texts(self, ref: DataRef, system_prompt: str | None = None) -> list[int]:
        """Tokens of what is read along. A condition's system prompt stands before prompts that an answer follows."""
        plain = self.lengths(ref, "text")
        if system_prompt is None:
            return plain
        own, rows = self.lengths(ref, "text", system_prompt), self.data[ref.dataset][ref.split]
        return [plain[at] if opened(one).completion is None else own[at] for at, one in enumerate(rows)]

    def add(self, part: Part, run: Pass, *, members: int = 1, apart: bool = False, prepass: bool = False) -> None:
        """A pass that conditions make side by side, or each ``apart``; with ``prepass`` an unsteered one before each
        of its prompts.

        What a condition takes alone is the condition's, and what its controls add is theirs.
        """
        self.longest.add((max(run.lengths, default=0), run.new_tokens))
        self.fullest.add(self._fullest(run, members))
        alone = run.calls_of(1, self.budget)
        together = members * alone if apart else run.calls_of(members, self.budget)
        self._count(part, alone)
        self._count(part if part is Part.SEARCH else Part.CONTROLS, together - alone)
        if prepass:
            batches = members * run.batches(self.budget) if apart else run.batches_of(members, self.budget)
            self._count(Part.PREPASSES, batches)
        self.prompt_tokens += members * sum(run.lengths) * (1 + prepass)
        self.generated_tokens += members * len(run.lengths) * run.new_tokens

    def _fullest(self, run: Pass, members: int) -> tuple[int, int, bool]:
        """The fullest batch of a pass, at most."""
        columns = max(1, max(run.lengths, default=1) + run.new_tokens)
        rows = max(1, min(members * len(run.lengths), self.budget // columns))
        return rows, columns, run.kind in ("along", "baseline along")

    def _count(self, part: Part, calls: int) -> None:
        if calls:
            self.parts[part] = self.parts.get(part, 0) + calls

    def cost(self) -> Cost:
        """The sum."""
        parts = tuple((part.value, self.parts[part]) for part in Part if part in self.parts)
        total = sum(self.parts.values())
        counter = self.counter
        basis = f"{counter.basis}; completions that are data count at full length" if self.written else counter.basis
        tokens = (self.prompt_tokens, self.generated_tokens)
        return Cost(total, *tokens, counter.estimated, basis, parts, self._batches())

    def _batches(self) -> tuple[tuple[int, int, bool], ...]:
        """The batch of most tokens and the one of the longest rows, without logits at every token and with."""
        found: list[tuple[int, int, bool]] = []
        for everywhere in (False, True):
            kind = [one for one in self.fullest if one[2] is everywhere]
            if kind:
                found += [max(kind, key=lambda one: (one[0] * one[1], one[1])), max(kind, key=lambda one: one[1])]
        return tuple(dict.fromkeys(found))


def meter_directions(
    meter: Meter, directions: Iterable[PlannedDirection], separations: Iterable[PlannedSeparation]
) -> None:
    """Captures for directions, and for their separation at every layer."""
    for direction in directions:
        for _, ref in direction.classes:
            meter.add(Part.DIRECTIONS, Pass(tuple(meter.lengths(ref, _reading(direction)))))
    for separation in separations:
        item = separation.direction
        for ref in (*(ref for _, ref in item.classes), *separation.seen):
            meter.add(Part.SEPARATION, Pass(tuple(meter.lengths(ref, _reading(item)))))


def meter_tokens(meter: Meter, tokens: Iterable[PlannedTokens]) -> None:
    """What the unsteered model says where tokens of refusals are found, and the first token of other answers."""
    for one in tokens:
        meter.add(Part.TOKENS, completing(tuple(meter.lengths(one.found_in)), one.needs.max_new_tokens))
        if one.against is not None:
            meter.add(Part.TOKENS, completing(tuple(meter.lengths(one.against)), 1))


def meter_filters(meter: Meter, filters: Iterable[PlannedFilter]) -> None:
    """What the unsteered model gives for examples that are filtered by it."""
    for one in filters:
        tokens = greedy_tokens(one.needs)
        for ref in one.data:
            prompts = tuple(meter.lengths(ref))
            meter.add(Part.FILTERS, completing(prompts, tokens) if tokens else Pass(prompts, kind="next token"))


def meter_monitors(meter: Meter, monitors: Iterable[PlannedMonitor]) -> None:
    """Readings by which thresholds are set."""
    for monitor in monitors:
        if monitor.calibration is not None:
            meter.add(Part.THRESHOLDS, Pass(tuple(meter.lengths(monitor.calibration.data))))


_LAYERS: Final = 32
_POSITIONS: Final = 5
"""What a search is taken to go over where only the model tells."""


def meter_searches(
    meter: Meter, searches: Iterable[PlannedSearch], directions: Sequence[PlannedDirection], n_layers: int | None
) -> None:
    """Every candidate scored by everything: bounds that remove some of them early make it less."""
    by_name = {item.name: item for item in directions}
    for search in searches:
        candidates = sum(candidates_of(by_name[name], n_layers)[0] for name in search.over)
        for score in search.scores:
            prompts, tokens = tuple(meter.lengths(score.data)), score.needs.max_new_tokens
            run = completing(prompts, tokens) if tokens else Pass(prompts, kind="next token")
            times = len(search.coefficients) if search.coefficients and score.varies else 1
            meter.add(Part.SEARCH, run, members=candidates * times, apart=True)
            for _, ref in score.references * len(search.over):
                meter.add(Part.SEARCH, Pass(tuple(meter.lengths(ref))))


def meter_references(meter: Meter, evaluations: Iterable[PlannedEvaluation]) -> None:
    """Other examples that evaluators look at, once for each of them and its data."""
    for item in evaluations:
        for _, ref in item.references * len(item.data):
            meter.add(Part.BASELINE, Pass(tuple(meter.lengths(ref))))


def candidates_of(direction: PlannedDirection, n_layers: int | None) -> tuple[int, bool]:
    """How many sites times positions a direction has, and whether that is known before the model is loaded."""
    site, positions = direction.site, direction.positions
    sites, sure = 1, True
    if isinstance(site, SitePattern):
        sure = n_layers is not None
        sites = len(site.sites(n_layers)) if n_layers is not None else _LAYERS
    if positions is None or not positions.each:
        return sites, sure
    if positions.indices:
        return sites * len(positions.indices), sure
    first, last = positions.span or (None, None)
    counted = first is not None and first < 0 and last is None
    return sites * (-first if counted and first is not None else _POSITIONS), sure and counted


def _reading(direction: PlannedDirection) -> Reading:
    """What of an example a direction is read from."""
    return "whole" if direction.positions is not None and reads_behind(direction.positions) else "prompt"


def meter_groups(meter: Meter, groups: Sequence[PlannedGroup], known: Sequence[object] = ()) -> None:
    """The looks of the baseline, and of every condition with its controls, but those that are ``known`` already."""
    taken: list[object] = [*known]
    for group in groups:
        condition = group.condition
        part = Part.BASELINE if condition is None else Part.CONDITIONS
        prepass = condition is not None and condition.has_prepass
        lengths = _lengths_under(meter, group.system_prompt)
        for look in group.looks:
            members = group.members(look)
            # Conditions that differ by their names alone are one, and who takes a look is told by how many they are.
            key = (None if condition is None else condition.nameless, members, replace(look, controlled=True))
            if key not in taken:
                taken.append(key)
                for run in look.passes(lengths):
                    apart = group.apart or run.alone
                    meter.add(part, run, members=members, apart=apart, prepass=prepass and run.kind != "baseline along")


def _lengths_under(meter: Meter, system_prompt: str | None) -> Lengths:
    """Lengths under a condition."""

    def lengths(ref: DataRef, how: Reading) -> Sequence[int]:
        return meter.texts(ref, system_prompt) if how == "text" else meter.lengths(ref, how, system_prompt)

    return lengths
