"""Data sets of what the model says: under which condition, in which order they can be written, and what they cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from steerkit.catalog import Catalog
from steerkit.errors import DataError, nearest
from steerkit.plan.cost import Meter, Part
from steerkit.plan.filters import FilterResolver
from steerkit.plan.looks import Look
from steerkit.plan.names import KeyPart
from steerkit.plan.planned.conditions import PlannedCondition
from steerkit.plan.turns import unrendered
from steerkit.plan.types import PlannedCompletions, PlannedDirection, PlannedSearch
from steerkit.recipe.completions import UNSTEERED, prompts_of
from steerkit.recipe.data import DataRef
from steerkit.recipe.draft import Draft
from steerkit.recipe.schema import CompletionsRecipe
from steerkit.sharing import completing
from steerkit.types import PREFIX, TURNS, Positions


class CompletionsResolver(FilterResolver):
    """Resolves data sets of completions."""

    def __init__(self, draft: Draft, catalog: Catalog) -> None:
        super().__init__(draft, catalog)
        self.completed: dict[DataRef, None] = {}

    def completions(
        self,
        template: str,
        conditions: Sequence[PlannedCondition],
        directions: Sequence[PlannedDirection],
        searches: Sequence[PlannedSearch],
    ) -> tuple[PlannedCompletions, ...]:
        """All of them, in an order in which each finds what its condition needs."""
        sections = {name: one.completions for name, one in self.recipe.data.items() if one.completions is not None}
        found = {
            name: one
            for name, section in sections.items()
            if (one := self.completions_of(name, section, template, conditions)) is not None
        }
        needs = {
            name: tuple(other for other in data_behind(one.condition, directions, searches) if other in found)
            for name, one in found.items()
        }
        return tuple(found[name] for name in self.in_order(needs))

    def completions_of(
        self, name: str, written: CompletionsRecipe, template: str, conditions: Sequence[PlannedCondition]
    ) -> PlannedCompletions | None:
        """One data set of completions, or None where it has problems."""
        path = ("data", name, "completions")
        condition = self.condition_named(written.condition, conditions, (*path, "condition"))
        if not self.data[name]:
            return None
        try:
            refs = prompts_of(self.draft, name, self.data)
        except DataError:
            return None  # told where the data are read
        self.completed.update(dict.fromkeys(refs))
        for ref in refs:
            self.check_open(ref, *path, "of")
            fault = unrendered(ref, self.examples(ref)) if template == "none" else None
            if fault is not None:
                self.complain(f"{fault}: that needs a chat template, and model.chat_template is none", *path, "of")
            for item in () if condition is None else condition.interventions:
                named = [item.positions, *([item.gate.positions] if item.gate is not None else [])]
                for positions in (one for one in named if one.role in (*TURNS, PREFIX)):
                    self.check_turns(Positions.parse(positions), ref, *path, "of")
        if condition is None and written.condition not in (None, UNSTEERED):
            return None
        prefix = self.recipe.data[name].answer_prefix
        return PlannedCompletions(name, refs, condition, written.max_new_tokens, prefix)

    def condition_named(
        self, name: str | None, conditions: Sequence[PlannedCondition], path: tuple[KeyPart, ...]
    ) -> PlannedCondition | None:
        """The condition of that name; None for the baseline, and where there is none."""
        known = {one.name: one for one in conditions}
        if name is None or name in known or name == UNSTEERED:
            return None if name is None else known.get(name)
        members = [one.name for one in conditions if one.sweep == name]
        if members:
            self.complain(f"{name!r} has a sweep; name one of its members: {', '.join(members)}", *path)
        elif name not in self.recipe.conditions and not self.draft.lost("conditions", name):
            self.complain(f"unknown condition {name!r}. {nearest(name, [UNSTEERED, *known], 'condition')}", *path)
        return None

    def in_order(self, needs: Mapping[str, Sequence[str]]) -> list[str]:
        """Names of data sets, each behind those that it needs; a circle is a problem of every data set in it."""
        ordered: list[str] = []
        left = dict(needs)
        while ready := [name for name, others in left.items() if all(other in ordered for other in others)]:
            ordered += ready
            left = {name: others for name, others in left.items() if name not in ready}
        for name in left:
            if name in _reached(name, left):
                through = [other for other in left[name] if other == name or name in _reached(other, left)]
                self.complain(
                    f"the condition of {name!r} uses a direction that is made from {', '.join(through)}, and what is "
                    "said under it can't be there before it. Name another condition, or make the direction from other "
                    "data",
                    *("data", name, "completions", "condition"),
                )
        return ordered


def _reached(name: str, needs: Mapping[str, Sequence[str]]) -> set[str]:
    found: set[str] = set()
    asked = list(needs.get(name, ()))
    while asked:
        one = asked.pop()
        if one not in found:
            found.add(one)
            asked += needs.get(one, ())
    return found


def makers_of(
    names: Iterable[str], directions: Sequence[PlannedDirection], searches: Sequence[PlannedSearch]
) -> tuple[list[PlannedDirection], list[PlannedSearch]]:
    """The directions and searches, in their order, that give the directions of some names."""
    wanted = set(names)
    chosen = [one for one in searches if one.name in wanted]
    wanted |= {name for one in chosen for name in one.over}
    return [one for one in directions if wanted & {one.name, *one.further}], chosen


def data_behind(
    condition: PlannedCondition | None, directions: Sequence[PlannedDirection], searches: Sequence[PlannedSearch]
) -> tuple[str, ...]:
    """Names of the data sets that a condition's directions come from."""
    if condition is None:
        return ()
    made, chosen = makers_of(condition.directions, directions, searches)
    refs = [ref for one in made for _, ref in one.classes]
    scores = [score for one in chosen for score in one.scores]
    refs += [ref for score in scores for ref in (score.data, *(other for _, other in score.references))]
    return tuple(dict.fromkeys(ref.dataset for ref in refs))


def meter_completions(meter: Meter, planned: Sequence[PlannedCompletions]) -> list[object]:
    """What writing completions costs.

    Returns:
        the looks that are taken by it, which nobody pays for again.
    """
    taken: list[object] = []
    for one in planned:
        condition = one.condition
        prompt = None if condition is None else condition.system_prompt
        for ref in (DataRef(one.name, ref.split) if one.prefix is not None else ref for ref in one.of):
            known = (
                None if condition is None else condition.nameless,
                1,
                Look("completions", ref, new_tokens=one.new_tokens),
            )
            if known not in taken:
                taken.append(known)
                run = completing(meter.lengths(ref, "prompt", prompt), one.new_tokens)
                apart = condition is not None and condition.has_prepass
                meter.add(Part.COMPLETIONS, run, prepass=apart)
    return taken
