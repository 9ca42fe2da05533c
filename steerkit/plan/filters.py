"""Section ``filter``: examples that the unsteered model treats as they are meant, and nothing else, take part."""

from __future__ import annotations

from steerkit.errors import nearest
from steerkit.plan.searches import SearchResolver
from steerkit.plan.types import PlannedFilter
from steerkit.recipe.data import DataRef
from steerkit.recipe.draft import FILTER_KEYS, OPTIONS
from steerkit.recipe.schema import FilterRecipe


class FilterResolver(SearchResolver):
    """Resolves filters."""

    def filter(self, name: str, written: FilterRecipe) -> PlannedFilter | None:
        """One filter, or None where it has problems."""
        path, before = ("filter", name), len(self.problems)
        spec = self.spec("evaluator", written.plugin, *path)
        options = self.options(spec, written.options, *path, OPTIONS, beside=(*FILTER_KEYS, OPTIONS)) if spec else None
        needs = self.needs(spec, options, path) if spec is not None and options is not None else None
        if options is not None:
            self.answer_tokens(options, path)
        if spec is not None and spec.values:
            self.complain(f"{spec.name} gives several values; a filter takes an evaluator of one", *path)
        if needs is not None and (needs.monitors or needs.baseline or needs.calls or needs.references):
            what = "readings of monitors" if needs.monitors else "what changes from the baseline"
            what = "answers from outside" if needs.calls else what
            what = "how like other examples these are" if needs.references else what
            self.complain(f"{written.plugin} scores {what}, and a filter looks at the unsteered model alone", *path)
        if name not in self.recipe.data:
            if not self.draft.lost("data", name):
                self.complain(f"unknown data set {name!r}. {nearest(name, self.recipe.data, 'data set')}", *path)
            return None
        if (section := self.recipe.data[name].completions) is not None:
            self.complain(f"{name!r} holds what the model says to prompts of {section.of}: filter those", *path)
        self.check_room(written.at_least, written.at_most, path)
        refs = self.filtered_parts(name, written)
        if not refs and not self.draft.lost_within("data", name):
            has = ", ".join(self.data[name])
            self.complain(f"{name} has none of the parts {', '.join(written.parts)}; it has {has}", *path, "parts")
        if len(self.problems) > before or spec is None or options is None or needs is None:
            return None
        return PlannedFilter(refs, spec, options, needs, written.at_least, written.at_most)

    def filtered_parts(self, name: str, written: FilterRecipe) -> tuple[DataRef, ...]:
        """The parts of a data set that are filtered, both sides of pairs left out: a pair is one example."""
        return tuple(DataRef(name, part) for part in written.parts if part in self.data.get(name, {}))
