"""Section ``report``, as far as it names evaluators and directions."""

from __future__ import annotations

from collections.abc import Sequence

from steerkit.errors import nearest
from steerkit.plan.planned.conditions import PlannedCondition
from steerkit.plan.together import RecipeResolver
from steerkit.plan.types import PlannedEvaluation
from steerkit.recipe.data import DataRef


class ReportResolver(RecipeResolver):
    """Checks what a report is asked to set side by side."""

    def check_report(self, conditions: Sequence[PlannedCondition], evaluations: Sequence[PlannedEvaluation]) -> None:
        """The report's trade-off is of an evaluator and data that it is run on, and its reference a direction."""
        self.check_tradeoff(conditions, evaluations)
        reference = self.recipe.report.compared_with
        if reference is None:
            return
        known = [*self.recipe.directions, *self.recipe.search, *self.further]
        lost = self.draft.lost("directions", reference) or self.draft.lost("search", reference)
        each = reference in self.recipe.directions and self.recipe.directions[reference].positions.endswith("[*]")
        if each:
            message = f"direction {reference!r} has one for each position: name a search that chooses one"
            self.complain(message, "report", "compared_with")
        elif reference not in known and not lost:
            message = f"unknown direction {reference!r}. {nearest(reference, known, 'direction')}"
            self.complain(message, "report", "compared_with")

    def check_tradeoff(self, conditions: Sequence[PlannedCondition], evaluations: Sequence[PlannedEvaluation]) -> None:
        """Both sides are data that the evaluator is run on, and none of them is on both."""
        written, path = self.recipe.report.tradeoff, ("report", "tradeoff")
        if written is None:
            return
        # Of an evaluator of several values each has a record of its own, and the evaluator has none.
        by_name = {label: item for item in evaluations for label in (item.values or (item.name,))}
        found = by_name.get(written.evaluator)
        if found is None:
            if not self.draft.lost_within("evaluate"):
                known = nearest(written.evaluator, by_name, "evaluator")
                self.complain(f"unknown evaluator {written.evaluator!r}. {known}", *path, "evaluator")
            return
        there = [str(ref) for ref in found.data]
        seen: list[str] = []
        for key, texts in written.sides.items():
            for text in texts:
                ref = self.ref(text, *path, key)
                if ref is not None and str(ref) not in there:
                    message = f"{found.name} isn't run on {ref}, only on {', '.join(there)}; add it to its data"
                    self.complain(message, *path, key)
                elif str(ref) in seen:
                    self.complain(f"{ref} stands here twice; each data set is on one side", *path, key)
                seen.append(str(ref))
            value = found.values.get(written.evaluator)
            if value is not None and value.aggregate == "whole" and len(texts) > 1:
                message = f"{written.evaluator} is a value of all examples of a data set together, so it has none of"
                self.complain(f"{message} {' and '.join(texts)}: name one, or a data set `of` them", *path, key)
            if not texts:
                self.complain("expected one data reference at least", *path, key)
        if any(one.n_controls(self.recipe.control.random_directions) for one in conditions):
            self.note_uncontrolled(written.evaluator, found, [ref for ref in found.data if str(ref) in seen])

    def note_uncontrolled(self, name: str, evaluation: PlannedEvaluation, shown: Sequence[DataRef]) -> None:
        """Note that a trade-off has no controls, where they are left out on a part of its data only."""
        lacking = [str(ref) for ref in shown if ref in evaluation.uncontrolled]
        if 0 < len(lacking) < len(shown):
            self.notes.append(
                f"The trade-off of {name} shows no random controls: {evaluation.name} leaves them out on "
                f"{' and '.join(lacking)}."
            )
